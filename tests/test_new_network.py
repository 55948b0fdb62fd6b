"""A network of one's own, one Python file and one YAML, is complete in training, report, pictures, tiles and export.

    new_network.py           the network, somewhere on PYTHONPATH
    conf/model/minimal.yaml  its configuration
    PYTHONPATH=. anomaly-seg train 'hydra.searchpath=[conf]' model=minimal

Hydra looks for options in the folders of `hydra.searchpath`, besides those of the package. The run's record holds the
class by name, so `anomaly-seg export` needs the same PYTHONPATH, and no configuration folder.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from support.sealed_runs import write_run

from anomaly_seg import load, settings
from anomaly_seg.cli import main
from anomaly_seg.data.tiling import Stitcher, cut
from anomaly_seg.exporting.ensemble import read_members, read_network
from anomaly_seg.models.base import Network
from anomaly_seg.results.run_files import Scores, read_result, read_scores
from anomaly_seg.training.build import read_dataset

SOURCE = '''
import torch
from torch import Tensor, nn

from anomaly_seg.models.base import Network, Output


class Minimal(Network):
    """Two convolutions. All facts are the defaults."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        first, last = nn.Conv2d(1, channels, 5, padding=2), nn.Conv2d(channels, 1, 3, padding=1)
        self.layers = nn.Sequential(first, nn.ReLU(), last)

    def forward(self, image: Tensor) -> Output:
        return Output({"map": self.layers(image)})

    def maps(self, output: Output) -> dict[str, Tensor]:
        return {"map": torch.sigmoid(output.logits["map"])}


class Peak(Minimal):
    """The same, judged by the highest pixel; one of its two maps is for pictures."""

    title = "Highest pixel"
    readout = "peak"
    shown_maps = ("map",)
    meanings = {"peak": "the highest probability of a pixel", "map": "the sum of the map's pixels"}

    def maps(self, output: Output) -> dict[str, Tensor]:
        return super().maps(output) | {"inverse": torch.sigmoid(-output.logits["map"])}

    def scores(self, output: Output, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"map": super().scores(output, maps)["map"], "peak": maps["map"].amax(dim=(1, 2, 3))}


class Area(Minimal):
    """Judged by the number of pixels above one half: a sum over pixels, but of no map of the same name."""

    readout = "area"

    def scores(self, output: Output, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"area": (maps["map"] > 0.5).double().sum(dim=(1, 2, 3))}

    def tile_join(self, readout, maps):
        return "sum"
'''

YAML = """
name: {name}
network:
  _target_: new_network.{name_of_class}
paper_sigma: null
positive_weight: 1.0
average: 0.0
phases:
  - {{ name: segmentation, length: 1.0, train: [], weights: {{ map: 1.0 }} }}
"""

HEIGHT, WIDTH, SIDE, OVERLAP = 96, 112, 64, 16
SMALL = [
    "scale=demo", f"scale.height={SIDE}", f"scale.width={SIDE}", "data.fit=tile", f"data.tile_overlap={OVERLAP}",
    f"data.reader.height={HEIGHT}", f"data.reader.width={WIDTH}", "data.reader.groups=6", "data.reader.views=2",
    "data.folds=2", "epochs=1", "threads=1", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false",
]  # fmt: skip


class Study(NamedTuple):
    """Both networks' runs, the report on them, and of one run its images, network and scores."""

    folder: Path
    images: dict[str, np.ndarray]

    def run(self, model: str) -> Path:
        return self.folder / f"runs/train/synthetic/{model}/D9/fold0/seed0"

    def network(self, model: str) -> Network:
        return read_network(read_members(self.run(model))[0])

    def scores(self, model: str) -> Scores:
        return read_scores(self.run(model))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Study:
    folder = tmp_path_factory.mktemp("own_network")
    (folder / "new_network.py").write_text(SOURCE)
    (folder / "conf/model").mkdir(parents=True)
    for name, name_of_class in (("minimal", "Minimal"), ("peak", "Peak"), ("area", "Area")):
        (folder / f"conf/model/{name}.yaml").write_text(YAML.format(name=name, name_of_class=name_of_class))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        words = [f"hydra.searchpath=[{folder}/conf]", *SMALL, f"output_dir={folder}/runs"]
        assert main(["check", *words, "model=peak"]) == 0
        assert main(["train", *words, "model=minimal,peak", "-m"]) == 0
        assert main(["report", str(folder / "runs")]) == 0
        for model in ("minimal", "peak"):
            run = folder / f"runs/train/synthetic/{model}/D9/fold0/seed0"
            assert main(["export", str(run), "--threshold", "1", "--out", f"{folder}/{model}.onnx"]) == 0
        record = settings.read(run / settings.CONFIG)
        images = {r.name: r.image.pixels() for r in read_dataset(record).records}
        yield Study(folder, images)
    del sys.modules["new_network"]


def test_tiles_that_cannot_be_put_together_are_refused(study: Study, capsys: pytest.CaptureFixture) -> None:
    """Pixels above one half cannot be counted in a file that gives the map and each tile's score, overlaps included."""
    words = (f"hydra.searchpath=[{study.folder}/conf]", "model=area", f"scale.height={SIDE}", f"scale.width={SIDE}")
    words += (f"data.tile_overlap={OVERLAP}",)
    whole, tiled = (write_run(study.folder / fit, *words, f"data.fit={fit}") for fit in ("resize", "tile"))
    assert main(["export", str(whole), "--threshold", "1"]) == 0
    assert main(["export", str(tiled), "--threshold", "1"]) == 2
    assert "the score 'area' is a sum over pixels, but not of a map of that name" in capsys.readouterr().err


def tiles(network: Network, image: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """The stitched map (h, w) of `map`, and the highest pixel of each whole tile."""
    stitcher, peaks = Stitcher(HEIGHT, WIDTH, SIDE, SIDE, OVERLAP), []
    for tile in stitcher.grid.tiles:
        pixels = torch.from_numpy(cut(image, tile, SIDE, SIDE))[None, None] / 255
        with torch.no_grad():
            values = network.maps(network(pixels))["map"][0, 0].numpy()
        stitcher.add(tile, values)
        peaks.append(float(values.max()))
    return stitcher.result(), peaks


IMAGE_SCORE: dict[str, Callable[[np.ndarray, list[float]], float]] = {
    "minimal": lambda whole, peaks: float(whole.sum(dtype=np.float64)),
    "peak": lambda whole, peaks: max(peaks),
}


@pytest.mark.parametrize("model", IMAGE_SCORE)
def test_an_image_in_tiles_is_scored_as_the_network_says(study: Study, model: str) -> None:
    scores, network = study.scores(model), study.network(model)
    assert len(scores.image) == 6
    for name, score in zip(scores.image, scores.score, strict=True):
        assert score == pytest.approx(IMAGE_SCORE[model](*tiles(network, study.images[name])), rel=1e-5)


@pytest.mark.parametrize("model", IMAGE_SCORE)
def test_the_exported_file_gives_the_networks_scores_and_map(study: Study, model: str) -> None:
    sealed, network, scores = load(study.folder / f"{model}.onnx", threads=1), study.network(model), study.scores(model)
    assert sealed.card.maps == ["map", *(["inverse"] if model == "peak" else [])]
    assert (sealed.card.heat_map, sealed.card.pooled) == ("map", None if model == "peak" else "map")
    for name, score in zip(scores.image, scores.score, strict=True):
        prediction = sealed(study.images[name])
        assert prediction.score == pytest.approx(score, rel=1e-4)
        np.testing.assert_allclose(prediction.heat_map, tiles(network, study.images[name])[0], atol=1e-4)


@pytest.mark.parametrize("model", IMAGE_SCORE)
def test_pictures_show_the_maps_that_the_network_shows(study: Study, model: str) -> None:
    scores = study.scores(model)
    name = next(name for name, label in zip(scores.image, scores.label, strict=True) if label)
    strip = cv2.imread(str(study.run(model) / "pictures" / f"{name.replace('/', '__')}.png"))
    assert strip.shape == (HEIGHT + 22, 3 * WIDTH + 2 * 2, 3)  # input, mask and one map below their names
    whole, _ = tiles(study.network(model), study.images[name])
    shades = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_INFERNO).astype(int)
    drawn = strip[22:, -WIDTH:].reshape(-1, 1, 3).astype(int)
    nearest = np.abs(drawn - shades.reshape(1, 256, 3)).sum(axis=2).argmin(axis=1).reshape(HEIGHT, WIDTH)
    assert np.abs(nearest - whole * 255).max() <= 2


def test_the_report_speaks_of_both(study: Study) -> None:
    text = (study.folder / "runs/report.md").read_text(encoding="utf-8")
    html = (study.folder / "runs/report.html").read_text(encoding="utf-8")
    for page in (text, html):
        assert "Highest pixel" in page and "minimal" in page
        assert "the highest probability of a pixel" in page
    assert html.count('"panels":"image | mask | map"') == 2
    ablation = (study.folder / "runs/tables/ablation.csv").read_text(encoding="utf-8").splitlines()
    columns = [dict(zip(ablation[0].split(","), row.split(","), strict=True)) for row in ablation[1:]]
    assert [(row["method"], row["readout"]) for row in columns] == [
        ("minimal", "map"), ("Highest pixel", "peak"), ("Highest pixel", "map"),
    ]  # fmt: skip
    assert read_result(study.run("peak")).network.maps == ["map"]
