"""A run belongs to the data it was made from: images, masks and folds that change in between are noticed."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.fake_runs import write_run
from support.helpers import PUBLISHED_ITEMS, box_mask, picture, write_image, write_kolektor
from support.tiny_runs import tiny_settings

from anomaly_seg.errors import InputError
from anomaly_seg.exporting.ensemble import read_members
from anomaly_seg.reporting.collect import collect_runs
from anomaly_seg.results import run_files
from anomaly_seg.settings import Settings
from anomaly_seg.training.run import run

ITEMS = PUBLISHED_ITEMS[::6]


class Study:
    """A folder of pictures, and runs on it."""

    def __init__(self, place: Path) -> None:
        self.data, self.runs = write_kolektor(place / "data", ITEMS), place / "runs"

    def train(self, *overrides: str) -> Path:
        return run(tiny_settings(self.runs, "data=kolektor", f"data.root={self.data}", "epochs=1", *overrides))

    def add_an_item(self) -> None:
        write_kolektor(self.data, ["kos20"])

    def redraw_a_mask(self) -> None:
        mask = np.zeros((26, 10), np.uint8)
        mask[1:3, 1:4] = 255
        write_image(self.data / "kos07" / "Part0_label.bmp", mask)


@pytest.fixture
def study(tmp_path: Path, cache: Path) -> Study:
    return Study(tmp_path)


def unscored(folder: Path) -> Path:
    """As if the run had been killed after its last epoch."""
    for name in (run_files.RESULT, run_files.SCORES, run_files.PIXELS):
        (folder / name).unlink()
    return folder


CHANGES: list[Any] = [Study.add_an_item, Study.redraw_a_mask]


@pytest.mark.parametrize("change", CHANGES)
def test_an_interrupted_run_does_not_go_on_with_other_data(study: Study, change: Any) -> None:
    folder = unscored(study.train())
    change(study)
    with pytest.raises(InputError, match=r"the data have changed since this run began.*overwrite=true"):
        study.train()
    assert not run_files.finished(folder)
    assert run_files.finished(study.train("overwrite=true"))


def test_an_interrupted_run_goes_on_where_the_same_data_were_moved(study: Study) -> None:
    folder = unscored(study.train())
    study.data = study.data.rename(study.data.with_name("elsewhere"))
    assert study.train() == folder and run_files.finished(folder)


@pytest.mark.parametrize("change", CHANGES)
def test_a_finished_run_on_other_data_is_not_taken_for_this_one(study: Study, change: Any) -> None:
    folder = study.train()
    kept = (folder / run_files.RESULT).read_bytes()
    change(study)
    with pytest.raises(InputError, match=r"holds a run on other data.*variant.*overwrite=true"):
        study.train()
    assert (folder / run_files.RESULT).read_bytes() == kept


def test_a_finished_run_is_found_finished(study: Study, capsys: pytest.CaptureFixture) -> None:
    folder = study.train()
    kept = (folder / run_files.RESULT).read_bytes()
    assert study.train() == folder
    assert "finished before with the same settings\n" in capsys.readouterr().err
    shutil.rmtree(study.data)
    assert study.train() == folder
    assert "finished before with the same settings (its data cannot be compared: " in capsys.readouterr().err
    assert (folder / run_files.RESULT).read_bytes() == kept


def test_a_threshold_of_masks_is_part_of_a_run_s_identity(study: Study) -> None:
    """At their defaults new keys are no part of the digests, which are those of versions without the key."""
    for name in ("kos01", "kos07"):
        path = study.data / name / "Part0_label.bmp"
        write_image(path, (box_mask() // 255) * np.uint8(200))
    folder = study.train()
    result, record = run_files.read_result(folder), yaml.safe_load((folder / "config.yaml").read_text())
    flat = Settings.of(record).relevant()
    later = ("data.mask_threshold", "model.start", "model.start_digest", "trainer.devices")
    for key in (*later, "model.encoder", "model.encoder_lr_factor", "model.network.encoder"):
        del flat[key]
    assert result.config_digest == hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:16]
    with pytest.raises(InputError, match=r"other settings \(data\.mask_threshold: 1 -> 128\)"):
        study.train("data.mask_threshold=128")
    sharp = run_files.read_result(study.train("data.mask_threshold=128", "variant=sharp"))
    assert sharp.data_digest != result.data_digest and sharp.config_digest != result.config_digest


def test_folds_of_different_data_are_not_pooled(study: Study) -> None:
    study.train("fold=0")
    study.redraw_a_mask()
    last = study.train("fold=1")
    with pytest.raises(InputError, match=r"nothing to report: Left out: .*different data.*overwrite=true"):
        collect_runs(study.runs)
    with pytest.raises(InputError, match=r"made from different data.*overwrite=true"):
        read_members(study.runs)
    study.train("fold=0", "overwrite=true")
    assert len(collect_runs(study.runs).runs) == len(read_members(study.runs)) == 2
    assert last.exists()


def test_an_image_is_pooled_once_where_runs_do_not_know_their_data(tmp_path: Path) -> None:
    first = write_run(tmp_path, [1.0, 200.0], [0, 1], fold=0)
    second = write_run(tmp_path, [1.0, 200.0], [0, 1], fold=1)
    text = (second / run_files.SCORES).read_text()
    (second / run_files.SCORES).write_text(text.replace("kos01/Part1", "kos00/Part1"))
    with pytest.raises(InputError, match=r"kos00/Part1.jpg: scored in two folds.*move one of them away"):
        collect_runs(tmp_path)
    assert first.exists()


def test_methods_on_different_data_are_called_not_comparable(tmp_path: Path) -> None:
    for model, digest in (("one_stage", "a" * 16), ("unet", "b" * 16), ("seg_dec", "")):
        folder = write_run(tmp_path, [1.0, 200.0], [0, 1], model=model, folds=1)
        run_files.write_result(folder, run_files.read_result(folder).model_copy(update={"data_digest": digest}))
    problems = [p for p in collect_runs(tmp_path).problems if p.startswith("Not comparable")]
    assert len(problems) == 1 and "U-Net" in problems[0] and "than " in problems[0] and "One-Stage" in problems[0]


def test_the_digest_knows_pixels_and_not_places(study: Study) -> None:
    before = run_files.read_result(study.train()).data_digest
    write_image(study.data / "kos01" / "Part1.jpg", picture("another"))
    after = run_files.read_result(study.train("variant=after")).data_digest
    assert before != after and len(before) == len(after) == 16


def test_copies_of_an_image_count_once_in_a_promise(study: Study) -> None:
    # Three more names for each of nine parts: nothing new is learnt from them.
    free = iter(sorted(set(PUBLISHED_ITEMS) - set(ITEMS)))
    for group in ITEMS:
        for _ in range(3):
            shutil.copytree(study.data / group, study.data / next(free))
    folder = study.train("data.split=grouped")
    scores, result = run_files.read_scores(folder), run_files.read_result(folder)
    parts = set(scores.representative)
    assert 1 < len(parts) < len(ITEMS) and len(set(scores.group)) == 4 * len(parts)
    # One view in two is defective, and a part counts once.
    assert result.counts.test_defective == 4 * len(parts)
    assert {promise.defective for promise in result.guarantees} == {len(parts)}


def test_results_of_older_versions_count_items(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [1.0, 200.0], [0, 1], fold=0)
    text = (folder / run_files.SCORES).read_text()
    assert ",group,representative," in text and ",kos00,kos00," in text
    text = text.replace(",group,representative,", ",group,").replace(",kos00,kos00,", ",kos00,")
    (folder / run_files.SCORES).write_text(text)
    assert run_files.read_scores(folder).representative == run_files.read_scores(folder).group == ["kos00", "kos00"]
