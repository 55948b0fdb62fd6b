"""The Python API: each verb from end to end on one tiny sweep, its errors, and that the command line adds nothing."""

import csv
import inspect
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.helpers import write_image
from support.tiny_runs import PROCESSES, TINY
from support.web_helpers import free_port, until

import anomaly_seg
from anomaly_seg.cli import VERBS, _parser, main
from anomaly_seg.errors import InputError
from anomaly_seg.exporting.export import Exported
from anomaly_seg.results import run_files
from anomaly_seg.training.sweep import Failure, Training

CHOICES: dict[str, Any] = {"data": "synthetic", "scale": "demo", "model": "unet", "dilation": 5, "epochs": 1}
FURTHER = [word for word in TINY if word.partition("=")[0] not in CHOICES]
FURTHER += ["data.folds=2", "data.reader.defective_fraction=0.5", "pictures=false"]
WORDS = [*FURTHER, *(f"{key}={value}" for key, value in CHOICES.items())]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api") / "the runs"


@pytest.fixture(scope="module")
def trained(runs: Path) -> Training:
    return anomaly_seg.train(*FURTHER, **CHOICES, fold=[0, 1], name="api", output_dir=runs)


@pytest.fixture(scope="module")
def exported(trained: Training) -> Exported:
    return anomaly_seg.export(trained.folders[0].parent.parent, licence="ours")


class TestTrain:
    def test_a_sequence_is_a_sweep_whose_folders_come_back(self, trained: Training, runs: Path) -> None:
        assert trained == Training(tuple(runs / f"api/synthetic/unet/D5/fold{fold}/seed0" for fold in (0, 1)), ())
        assert trained.exit_code == 0
        assert [run_files.read_result(folder).run.fold for folder in trained.folders] == [0, 1]

    def test_runs_finished_before_count_and_are_those_of_the_command_line(
        self, trained: Training, runs: Path, capsys: pytest.CaptureFixture
    ) -> None:
        written = [(folder / "result.json").stat().st_mtime_ns for folder in trained.folders]
        assert anomaly_seg.train(*FURTHER, **CHOICES, fold=range(2), name="api", output_dir=runs) == trained
        assert main(["train", *WORDS, "fold=0,1", "-m", "experiment_name=api", f"output_dir={runs}"]) == 0
        assert capsys.readouterr().err.count("finished before with the same settings") == 4
        assert [(folder / "result.json").stat().st_mtime_ns for folder in trained.folders] == written

    def test_a_sweep_goes_on_after_a_run_without_usable_settings(self, trained: Training, runs: Path) -> None:
        found = anomaly_seg.train(*FURTHER, **CHOICES, fold=[7, 1], name="api", output_dir=runs)
        assert found.folders == trained.folders[1:] and found.exit_code == 2
        (failure,) = found.failures
        assert (failure.run, failure.traceback) == ("api/synthetic/unet/D5/fold7/seed0", None)
        assert "fold=7" in failure.error and failure.unusable_input
        assert not (runs / failure.run).exists()  # a report would name it

    def test_an_error_of_another_kind_has_its_traceback_in_a_file(self, tmp_path: Path) -> None:
        found = anomaly_seg.train(*FURTHER, "optimizer.lr=1e30", **CHOICES, output_dir=tmp_path)
        (failure,) = found.failures
        assert (found.folders, found.exit_code, failure.unusable_input) == ((), 1, False)
        assert "not finite" in failure.error and failure.traceback is not None
        assert failure.traceback.read_text().startswith("Traceback")

    @pytest.mark.parametrize(("unusable", "code"), [([], 0), ([True, True], 2), ([True, False], 1), ([False], 1)])
    def test_exit_code(self, unusable: list[bool], code: int) -> None:
        assert Training((), tuple(Failure("run", "error", None, each) for each in unusable)).exit_code == code

    @pytest.mark.parametrize(
        ("keywords", "says"),
        [
            ({"dilation": 4}, "dilation=4: use 0 (as drawn) or an odd number"),
            ({"seed": -1}, "seed=-1: use a whole number from 0 to 4294967295"),
            ({"fold": 7}, "fold=7"),
            ({"epochs": 0}, "epochs=0: use a whole number, 1 or more"),
            ({"model": "nonsense"}, "Could not find 'model/nonsense'"),
            ({"data": "kolektor"}, "data.root"),
            ({"data": "kolektor", "root": "/no/where"}, "/no/where"),
            ({"output_dir": __file__}, "is a file: choose a folder"),
        ],
    )
    def test_a_wrong_value_is_the_error_that_the_command_line_prints(
        self, keywords: dict[str, Any], says: str, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        further = [word for word in FURTHER if not (word.startswith("data.reader") and "data" in keywords)]
        given = {**CHOICES, "output_dir": tmp_path} | keywords
        with pytest.raises(InputError) as raised:
            anomaly_seg.train(*further, **given)
        assert says in str(raised.value) and capsys.readouterr().err == ""
        keys = {"root": "data.root"}
        assert main(["train", *further, *(f"{keys.get(key, key)}={value}" for key, value in given.items())]) == 2
        assert capsys.readouterr().err == f"anomaly-seg train: {raised.value}\n"

    def test_no_value_at_all(self) -> None:
        with pytest.raises(InputError, match=r"fold=\[\]: give at least one value"):
            anomaly_seg.train(fold=[])

    @pytest.mark.parametrize("name", ["it's (new), [2] = ü", "2024_11", "null", "a\\'b\\"])
    def test_text_is_taken_as_it_is(self, name: str, capsys: pytest.CaptureFixture) -> None:
        anomaly_seg.train("--cfg", "job", "seed=3", name=name, root=Path(name), data="folder", seed=5, profile=True)
        config = yaml.safe_load(capsys.readouterr().out)
        assert (config["experiment_name"], config["data"]["root"]) == (name, name)
        assert (config["seed"], config["profile"]) == (5, True)  # the keyword wins


class TestCheck:
    def test_counts(self) -> None:
        found = anomaly_seg.check(*FURTHER, **CHOICES)
        assert "12 images of 6 " in found.text and (found.problems == 0) == ("No problems." in found.text)

    def test_of_a_sweep_the_first_run(self) -> None:
        text = anomaly_seg.check(*FURTHER, **(CHOICES | {"dilation": [13, 5]}), fold=[0, 1]).text
        assert "D = 13" in text and "D = 5" not in text

    def test_a_wrong_value(self) -> None:
        with pytest.raises(InputError, match="dilation=4: use 0"):
            anomaly_seg.check(dilation=4)


def test_report(trained: Training, runs: Path, tmp_path: Path) -> None:
    found = anomaly_seg.report(str(runs), tmp_path / "report")
    assert found.problems == [] and found.markdown == tmp_path / "report/report.md"
    overview = (tmp_path / "report/tables/overview.csv").read_text(encoding="utf-8")
    assert len(list(csv.DictReader(overview.splitlines()))) == 1  # two folds of one method
    with pytest.raises(InputError, match="missing"):
        anomaly_seg.report(runs / "missing")


class TestExport:
    def test_all_folds_become_one_model(self, exported: Exported, trained: Training) -> None:
        assert exported.files == (trained.folders[0].parent.parent / "model.onnx",)
        card = anomaly_seg.load(exported.files[0]).card
        assert card == exported.card and (card.members, card.data.folds, card.data.licence) == (2, [0, 1], "ours")

    @pytest.mark.parametrize(
        ("keywords", "says"),
        [
            ({"to": "onxx"}, "--to onxx: choose onnx, openvino, torch"),
            ({"threshold": "best"}, "--threshold best: choose held_out, paper, guarantee, or give a number"),
            ({"threshold": float("nan")}, "--threshold nan: choose held_out"),
            ({"threshold": "guarantee", "miss_rate": 2}, "miss rate 2: has to lie between 0 and 1"),
            ({"out": "model.bin"}, r"--out model.bin: a model for --to onnx is named \*.onnx"),
            ({"int8": True, "to": "torch"}, "--int8: choose --to onnx or openvino"),
        ],
    )
    def test_a_wrong_value(self, keywords: dict[str, Any], says: str, trained: Training) -> None:
        with pytest.raises(InputError, match=says):
            anomaly_seg.export(trained.folders[0], **keywords)


class TestPredict:
    @pytest.fixture
    def images(self, tmp_path: Path) -> Path:
        rng = np.random.default_rng(0)
        for name in ("a.png", "b.png"):
            write_image(tmp_path / "images" / name, rng.integers(0, 256, (128, 64), dtype=np.uint8))
        return tmp_path / "images"

    @pytest.mark.parametrize(("threshold", "good", "code"), [(-1.0, 0, 3), (1e9, 2, 0)])
    def test_counts_and_table(self, exported: Exported, images: Path, threshold: float, good: int, code: int) -> None:
        out = images.parent / "verdicts"  # the score, a sum of probabilities over 128 x 64 pixels, is 0 to 8192
        found = anomaly_seg.predict(exported.files[0], images, out=out, threshold=threshold, overlays=True)
        assert (found.good, found.defective, found.unreadable, found.exit_code) == (good, 2 - good, 0, code)
        assert found.table == out / "predictions.csv" and len(list(out.glob("overlays/*.jpg"))) == 2
        rows = {row["path"]: float(row["score"]) for row in csv.DictReader(found.table.open())}
        model = anomaly_seg.load(exported.files[0])
        assert rows == {str(path): pytest.approx(model(path).score) for path in sorted(images.iterdir())}

    def test_an_unreadable_file_outweighs_a_defective_one(self, exported: Exported, images: Path) -> None:
        (images / "c.png").write_bytes(b"rubbish")
        paths = [images / "a.png", str(images / "c.png")]
        found = anomaly_seg.predict(exported.files[0], paths, out=images.parent / "verdicts", threshold=-1)
        assert (found.good, found.defective, found.unreadable, found.exit_code) == (0, 1, 1, 4)

    @pytest.mark.parametrize(
        ("paths", "keywords", "says"),
        [
            ([], {}, "nothing to judge"),
            ("missing.png", {}, "missing.png"),
            ("missing", {"watch": True}, "missing: no such folder; --watch takes folders"),
            ("missing.png", {"threshold": float("inf")}, "--threshold inf: has to be a finite number"),
        ],
    )
    def test_a_wrong_value(self, paths: Any, keywords: dict[str, Any], says: str, exported: Exported) -> None:
        with pytest.raises(InputError, match=says):
            anomaly_seg.predict(exported.files[0], paths, **keywords)


def answer(address: str) -> int | None:
    """The status of an address; None while nobody listens."""
    try:
        with urllib.request.urlopen(address, timeout=60) as response:
            return int(response.status)
    except urllib.error.URLError:
        return None


@pytest.mark.parametrize(("verb", "place"), [(anomaly_seg.serve, "health"), (anomaly_seg.demo, "")])
def test_a_page_is_served_until_it_is_interrupted(verb: Callable, place: str, exported: Exported) -> None:
    port = free_port()
    process = PROCESSES.Process(target=verb, args=(exported.files[0],), kwargs={"port": port})
    process.start()
    try:
        until(lambda: answer(f"http://127.0.0.1:{port}/{place}") == 200 or process.exitcode is not None, 120)
        assert process.exitcode is None
        assert process.pid is not None
        os.kill(process.pid, signal.SIGINT)
        process.join(60)
        assert process.exitcode == 0
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("verb", "keywords", "says"),
    [
        (anomaly_seg.serve, {"port": 0}, "--port 0: give a number from 1 to 65535"),
        (anomaly_seg.serve, {"max_mb": -1}, "--max-mb -1: give a number of megabytes above 0"),
        (anomaly_seg.demo, {"max_mb": float("nan")}, "--max-mb nan"),
        (anomaly_seg.demo, {"samples": "missing"}, "--samples missing: no such folder"),
    ],
)
def test_a_page_with_a_wrong_value(verb: Callable, keywords: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        verb("model.onnx", **keywords)


@pytest.mark.parametrize("models", [[], ["a.onnx", "b.onnx", "c.onnx"]])
def test_a_demo_has_one_model_or_two(models: list[str]) -> None:
    with pytest.raises(InputError, match=f"{len(models)} models; give one, or two to compare"):
        anomaly_seg.demo(models)


def test_every_verb_has_its_function_and_every_keyword_its_sentence() -> None:
    assert set(anomaly_seg.__all__) == {*VERBS, "load"}
    assert all(callable(getattr(anomaly_seg, name)) for name in anomaly_seg.__all__)
    for verb in VERBS.keys() - {"check"}:  # which takes what train does, and says so
        function = getattr(anomaly_seg, verb)
        described = {line.strip().partition(":")[0] for line in inspect.getdoc(function).splitlines()}
        assert set(inspect.signature(function).parameters) <= described
    parameters = [list(inspect.signature(verb).parameters.values()) for verb in (anomaly_seg.train, anomaly_seg.check)]
    assert parameters[0] == parameters[1]


@pytest.mark.parametrize("line", ["report runs", "export run", "predict m.onnx a.png", "demo m.onnx", "serve m.onnx"])
def test_defaults_are_those_of_the_command_line(line: str) -> None:
    verb = line.split()[0]
    options = vars(_parser().parse_args(line.split()))
    for name, parameter in inspect.signature(getattr(anomaly_seg, verb)).parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            default = parameter.default
            assert options[name] == (Path(default) if name == "out" and default is not None else default), name
