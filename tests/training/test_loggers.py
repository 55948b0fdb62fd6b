"""What each logger keeps, read back from its own files."""

import csv
import json
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.tiny_runs import tiny_settings

from anomaly_seg.results import run_files
from anomaly_seg.training.loggers import CsvHistory, summary
from anomaly_seg.training.run import run

EPOCHS = 2


def losses(folder: Path) -> list[float]:
    """By epoch, from metrics.csv of the same run under the csv logger."""
    return [float(row["loss"]) for row in csv.DictReader((folder / "metrics.csv").open())]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The run under the csv logger."""
    return run(tiny_settings(tmp_path_factory.mktemp("reference"), f"epochs={EPOCHS}"))


class TestCsv:
    def test_a_row_an_epoch(self, reference: Path) -> None:
        assert len(losses(reference)) == EPOCHS
        assert losses(reference)[-1] == pytest.approx(run_files.read_result(reference).training.final_loss)

    def test_new_columns_and_repeated_steps(self, tmp_path: Path) -> None:
        history = CsvHistory(tmp_path / "metrics.csv", resumed=False)
        history.log_metrics({"loss": 1.0, "epoch": 0}, 7)
        history.log_metrics({"loss": 0.5, "epoch": 1, "loss/decision": 0.25}, 15)
        text = "step,loss,epoch,loss/decision\n7,1.0,0,\n15,0.5,1,0.25\n"
        assert (tmp_path / "metrics.csv").read_text() == text
        again = CsvHistory(tmp_path / "metrics.csv", resumed=True)
        again.log_metrics({"loss": 0.5, "epoch": 1, "loss/decision": 0.25}, 15)
        assert (tmp_path / "metrics.csv").read_text() == text
        fresh = CsvHistory(tmp_path / "metrics.csv", resumed=False)
        fresh.log_metrics({"loss": 2.0}, 7)
        assert (tmp_path / "metrics.csv").read_text() == "step,loss\n7,2.0\n"


def test_tensorboard_event_files(configure: Callable, reference: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run(configure(f"epochs={EPOCHS}", "logger=tensorboard"))
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [e.value for e in events.Scalars("loss")] == pytest.approx(losses(reference), rel=1e-6)
    expected = summary(run_files.read_result(folder))
    assert {"image/AP", "best_f_oracle/F1", "paper/FP", "pixel/IoU"} <= expected.keys() <= set(events.Tags()["scalars"])
    for name, value in expected.items():
        assert events.Scalars(name)[-1].value == pytest.approx(value, rel=1e-6)
    pictures = sorted(f"pictures/{p.stem}" for p in (folder / "pictures").iterdir())
    assert sorted(events.Tags()["images"]) == pictures and pictures
    image = events.Images(pictures[0])[0]
    assert (image.height, image.width) == (128 + 22, 5 * 64 + 4 * 2)


def records(path: Path) -> Iterator[bytes]:
    """Records of a W&B file: 7 bytes of header, then LevelDB's log format (wandb 0.31 brings no reader of its own).

    Blocks of 32 KiB hold chunks of checksum (4 bytes), length (2) and kind (1): 1 whole, 2 first, 3 middle, 4 last.
    """
    content, place, parts = path.read_bytes(), 7, b""
    while place + 7 < len(content):
        if 32768 - place % 32768 < 7:  # too short for a chunk's head: padding
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def read_back(path: Path) -> dict[str, Any]:
    """The run of one offline file, by kind of record."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, Any] = {"run": [], "config": {}, "history": [], "summary": {}, "exit": []}
    for data in records(path):
        record = Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["run"].append(record.run)
            found["config"] |= {group.key: json.loads(group.value_json) for group in record.run.config.update}
        elif kind == "config":
            found["config"] |= {group.key: json.loads(group.value_json) for group in record.config.update}
        elif kind == "history":
            found["history"].append(
                {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
            )
        elif kind == "summary":
            found["summary"] |= {
                i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in record.summary.update
            }
        elif kind == "exit":
            found["exit"].append(record.exit.exit_code)
    return found


def read_whole(path: Path) -> dict[str, Any]:
    """`read_back` once the run's exit is in: wandb's own process writes it a moment after `finish` has returned."""
    kept = read_back(path)
    for _ in range(300):
        if kept["exit"]:
            break
        time.sleep(0.1)
        kept = read_back(path)
    return kept


def test_wandb_keeps_one_offline_run_a_job(configure: Callable, reference: Path) -> None:
    wandb = pytest.importorskip("wandb")
    folders = [
        run(
            configure(
                f"epochs={EPOCHS}", "logger=wandb", "logger.mode=offline", "experiment_name=study", f"seed={seed}"
            )
        )
        for seed in (0, 1)
    ]
    assert wandb.run is None
    for seed, folder in enumerate(folders):
        files = list(folder.glob("wandb/offline-run-*/*.wandb"))
        assert len(files) == 1
        kept, result = read_whole(files[0]), run_files.read_result(folder)
        about = kept["run"][0]
        assert len({r.run_id for r in kept["run"]}) == 1 and kept["exit"] == [0]
        assert (about.project, about.run_group, about.job_type) == ("anomaly_seg", "study", "one_stage")
        assert about.display_name == f"study/synthetic/one_stage/D9/fold0/seed{seed}"
        assert set(about.tags) == {"synthetic", "demo", "D9", "fold0"}
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        assert {key: kept["config"][key] for key in settings} == settings
        history = [row["loss"] for row in kept["history"] if "loss" in row]
        assert len(history) == EPOCHS and history[-1] == pytest.approx(result.training.final_loss)
        if seed == 0:
            assert history == pytest.approx(losses(reference))
        for name, value in summary(result).items():
            assert kept["summary"][name] == pytest.approx(value), name
        last = {key: value for row in kept["history"] for key, value in row.items()}
        assert last["thresholds._type"] == "table-file"
        table = json.loads((files[0].parent / "files" / last["thresholds.path"]).read_text())
        rows = {row[0]: dict(zip(table["columns"], row, strict=True)) for row in table["data"]}
        assert rows.keys() == result.thresholds.keys()
        assert (rows["best_f"]["F1"], rows["best_f"]["oracle"]) == (result.thresholds["best_f"].f1, True)
        assert last["pictures.captions"] == sorted(p.stem for p in (folder / "pictures").iterdir())
        assert all((files[0].parent / "files" / name).exists() for name in last["pictures.filenames"])


def test_a_failed_run_lets_go_of_wandb_and_says_so(
    configure: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setattr("anomaly_seg.training.run.evaluate", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(configure("logger=wandb", "logger.mode=offline"))
    assert wandb.run is None  # or the next run of this process would write into this one's
    (file,) = tmp_path.rglob("*.wandb")
    assert read_whole(file)["exit"] == [1]
