"""Whole runs on tiles, on padded colour images, and beside results from before there was a choice."""

from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import yaml
from support.tiny_runs import tiny_settings

from anomaly_seg.errors import InputError
from anomaly_seg.results import run_files
from anomaly_seg.settings import Settings
from anomaly_seg.training.run import run

LARGE = [
    "data.reader.height=200", "data.reader.width=112", "data.reader.views=1", "data.reader.defective_fraction=0.5",
    "data.fit=tile", "data.tile_overlap=32",
]  # fmt: skip
"""Six pictures of 200x112 in tiles of 128x64: rows 0 and 80 (the multiple of 16 from 72 on), columns 0, 16 and 48."""


@pytest.fixture(scope="module")
def on_tiles(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    return run(tiny_settings(tmp_path_factory.mktemp("tiles"), *LARGE))


class TestTiles:
    def test_an_epoch_is_all_tiles_and_the_scores_are_of_images(self, on_tiles: Path) -> None:
        result, scores, pixels = (
            read(on_tiles) for read in (run_files.read_result, run_files.read_scores, run_files.read_pixels)
        )
        assert result.training.steps == 4 * 6
        assert result.counts.test_images == 2 == len(scores.image) == len(set(scores.image))
        assert pixels.tp[0] + pixels.fp[0] + pixels.fn[0] + pixels.tn[0] == 2 * 200 * 112
        assert result.sigma == pytest.approx(100 * 200 * 112 / (1408 * 512))

    def test_pictures_show_whole_images(self, on_tiles: Path) -> None:
        pictures = list((on_tiles / "pictures").iterdir())
        assert pictures
        for path in pictures:
            assert cv2.imread(str(path)).shape == (200 + 22, 5 * 112 + 4 * 2, 3)

    def test_seg_dec_validates_and_scores(self, configure: Callable) -> None:
        folder = run(configure(*LARGE, "model=seg_dec", "evaluate_on=validation", "trainer=debug"))
        scores = run_files.read_scores(folder)
        assert len(scores.image) == 2 and (scores.score >= 0).all() and (scores.score <= 1).all()
        assert set(scores.readouts) == {"decision", "mask"}

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["data.fit=tile"], r"data\.tile_overlap=64: use a whole number from 0 to 48 for tiles of 128x64"),
            (["data.fit=zoom"], r"data\.fit=zoom: choose resize or pad or tile"),
            (["data.channels=4"], r"data\.channels=4: use 1 \(grey\) or 3 \(colour\)"),
            (
                [*LARGE, "model=unet", "model.network.depth=5"],
                "tiles start on multiples of 16, but this network pools by 32; use a smaller depth",
            ),
        ],
    )
    def test_what_cannot_be_is_named(self, configure: Callable, words: list[str], says: str) -> None:
        with pytest.raises(InputError, match=says):
            run(configure(*words))


def test_padded_colour(configure: Callable) -> None:
    """Pictures of 128x40, repeated as colours, in a network of 128x64."""
    folder = run(configure("data.channels=3", "data.fit=pad", "data.reader.width=40", "augment=light"))
    assert run_files.read_pixels(folder).tn[-1] > 0
    for path in (folder / "pictures").iterdir():
        strip = cv2.imread(str(path))
        assert strip.shape == (128 + 22, 5 * 64 + 4 * 2, 3)
        assert (strip[22:, 39:64] == strip[22:, 39:40]).all() and not strip[22:, 66 + 40 : 66 + 64].any()


LATER = [
    ("data", "channels"), ("data", "fit"), ("data", "tile_overlap"), ("data", "mask_threshold"),
    ("model", "norm_momentum"), ("model", "flip_average"), ("model", "start"), ("model", "start_digest"),
]  # fmt: skip
"""Keys that the first runs did not have."""


class TestEarlierRuns:
    """Results from before these keys were there."""

    def test_stay_finished(self, configure: Callable, capsys: pytest.CaptureFixture) -> None:
        folder = run(configure())
        digest = run_files.read_result(folder).config_digest
        record = yaml.safe_load((folder / "config.yaml").read_text())
        for group, name in LATER:
            del record[group][name]
        assert Settings.of(record).digest() == digest
        (folder / "config.yaml").write_text(yaml.safe_dump(record))
        assert run(configure()) == folder and "finished before with the same settings" in capsys.readouterr().err
        with pytest.raises(InputError, match=r"other settings \(data\.fit: resize -> pad\)"):
            run(configure("data.fit=pad"))

    def test_the_licence_makes_no_difference(self, configure: Callable) -> None:
        base = configure("data.licence=a")
        assert base.differences(configure("data.licence=b")) == []
        assert base.differences(configure("data.fit=tile")) == ["data.fit: resize -> tile"]
