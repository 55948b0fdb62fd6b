"""One run from settings to files: what it leaves, what it refuses, and that it does the same twice."""

import csv
import os
import pickle
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from support.tiny_runs import tiny_settings

from anomaly_seg import atomic
from anomaly_seg.errors import InputError
from anomaly_seg.results import run_files
from anomaly_seg.settings import Settings
from anomaly_seg.training.module import SegmentationModule, make_loss
from anomaly_seg.training.run import CHECKPOINT, run

FILES = {"config.yaml", "scores.csv", "pixels.csv", "result.json", "metrics.csv", CHECKPOINT, "pictures"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A finished run of two epochs; tests that change anything work on a copy."""
    return run(tiny_settings(tmp_path_factory.mktemp("finished"), "epochs=2"))


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, in the place where `configure("epochs=2")` looks for it."""
    place = tmp_path / "runs" / finished.relative_to(finished.parents[5])
    shutil.copytree(finished, place)
    return place


def interrupt(folder: Path) -> Path:
    """Make a finished run one that was killed after its last epoch, before it was scored."""
    for name in FILES - {"config.yaml", "metrics.csv", CHECKPOINT, "pictures"}:
        (folder / name).unlink()
    shutil.rmtree(folder / "pictures")
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / CHECKPOINT, weights_only=True)["state_dict"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def changed(settings: Settings, changes: Any) -> Settings:
    """The same settings but for what the changes name."""
    merged = OmegaConf.to_container(OmegaConf.merge(settings.model_dump(), changes))
    return Settings.of(merged)  # type: ignore[arg-type]


class TestWhatARunLeaves:
    def test_its_files(self, finished: Path) -> None:
        assert {p.name for p in finished.iterdir()} == FILES
        assert finished.parts[-6:] == ("train", "synthetic", "one_stage", "D9", "fold0", "seed0")

    def test_the_result_is_valid_and_agrees_with_the_scores(self, finished: Path) -> None:
        result, scores, pixels = (
            run_files.read_result(finished),
            run_files.read_scores(finished),
            run_files.read_pixels(finished),
        )
        assert (result.counts.train_images, result.counts.test_images) == (8, 4) == (8, len(scores.image))
        assert result.counts.test_defective == scores.label.sum() > 0
        assert result.readout == "F" and set(result.readouts) == set(scores.readouts) >= {
            "f1",
            "f2",
            "f3",
            "C",
            "F",
            "F0",
            "F5",
        }
        assert np.array_equal(scores.score, scores.readouts["F"])
        assert np.array_equal(scores.readouts["F3"], scores.readouts["F"])
        assert result.sigma == pytest.approx(100 * 128 * 64 / (1408 * 512))
        assert set(result.thresholds) == {"paper", "best_f"}
        assert (result.thresholds["paper"].oracle, result.thresholds["best_f"].oracle) == (False, True)
        assert result.pixel == pixels.measures()
        assert pixels.tp[0] + pixels.fp[0] + pixels.fn[0] + pixels.tn[0] == 4 * 128 * 64
        assert (result.training.steps, result.training.epochs) == (16, 2)
        assert result.training.train_seconds > 0 and result.environment.hardware["threads"] == 1

    def test_the_settings_are_plain_and_resolved(self, finished: Path) -> None:
        record = yaml.safe_load((finished / "config.yaml").read_text())
        assert record["epochs"] == 2 and record["data"]["reader"]["height"] == 128
        assert "${" not in (finished / "config.yaml").read_text()
        assert Settings.of(record).digest() == run_files.read_result(finished).config_digest

    def test_the_checkpoint_holds_tensors_and_plain_values(self, finished: Path) -> None:
        checkpoint = torch.load(finished / CHECKPOINT, weights_only=True)
        assert (checkpoint["epoch"], checkpoint["global_step"]) == (1, 16)
        assert checkpoint["last_loss"] == run_files.read_result(finished).training.final_loss
        assert not list(finished.glob(f"{atomic.PREFIX}*"))

    def test_pictures_of_the_defective_and_the_false_alarms(self, finished: Path) -> None:
        result, scores = run_files.read_result(finished), run_files.read_scores(finished)
        lowest = min(at.value for at in result.thresholds.values())
        shown = [
            i.replace("/", "__")
            for i, y, s in zip(scores.image, scores.label, scores.score, strict=True)
            if y or s > lowest
        ]
        assert sorted(p.stem for p in (finished / "pictures").iterdir()) == sorted(shown)

    def test_metrics_by_epoch(self, finished: Path) -> None:
        rows = list(csv.DictReader((finished / "metrics.csv").open()))
        assert [(row["epoch"], row["step"]) for row in rows] == [("0", "7"), ("1", "15")]
        assert float(rows[-1]["loss"]) == pytest.approx(run_files.read_result(finished).training.final_loss)

    def test_nothing_is_said_that_does_not_matter(
        self,
        configure: Callable,
        finished: Path,
        tmp_path: Path,
        capfd: pytest.CaptureFixture,
        recwarn: pytest.WarningsRecorder,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (tmp_path / "srun").touch(mode=0o755)  # Lightning warns that SLURM is there and not used
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        warnings.simplefilter("default")
        # The cache is warm: making it has a bar of its own. And the run learns, or it would say so.
        run(configure("epochs=2", "model=unet", "optimizer.lr=0.01"))
        assert capfd.readouterr() == ("", "")
        assert [str(w.message) for w in recwarn] == []


class TestTheSameAgain:
    def test_a_finished_run_is_left_alone(self, configure: Callable, copied: Path, capsys, monkeypatch) -> None:
        before = {p: p.stat().st_mtime_ns for p in copied.rglob("*")}
        monkeypatch.setattr("anomaly_seg.training.run.make_module", lambda *args: pytest.fail("made a network"))
        assert run(configure("epochs=2")) == copied
        assert "finished before with the same settings" in capsys.readouterr().err
        assert {p: p.stat().st_mtime_ns for p in copied.rglob("*")} == before

    def test_nothing_is_replaced_before_the_new_run_can_start(self, configure: Callable, copied: Path) -> None:
        before = {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()}
        for mistake in ("optimizer.name=adamm", "data.reader.height=1", "sampler.kind=typo"):
            with pytest.raises(InputError):
                run(configure("epochs=2", "overwrite=true", mistake))
            assert {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()} == before

    def test_a_result_without_its_settings_is_taken_for_no_other_run(self, configure: Callable, copied: Path) -> None:
        (copied / "config.yaml").unlink()
        assert run(configure("epochs=2")) == copied
        with pytest.raises(InputError, match=r"with other settings, and its config\.yaml is gone"):
            run(configure("epochs=2", "optimizer.lr=0.5"))

    def test_what_changes_no_result_is_no_other_setting(self, configure: Callable, copied: Path) -> None:
        assert (
            run(configure("epochs=2", "threads=2", "pictures=false", "logger=tensorboard", "data.workers=3")) == copied
        )

    @pytest.mark.parametrize(
        ("override", "says"),
        [
            ("epochs=3", r"epochs: 2 -> 3"),
            ("optimizer.lr=0.01", r"optimizer\.lr: 0\.001 -> 0\.01"),
            ("model.network.multiplications=2", r"model\.network\.multiplications: 3 -> 2"),
            ("sampler=uniform", r"sampler\.kind: alternating -> uniform"),
        ],
    )
    @pytest.mark.parametrize("state", ["finished", "interrupted"])
    def test_other_settings_in_its_place_are_refused(
        self, configure: Callable, copied: Path, override: str, says: str, state: str
    ) -> None:
        if state == "interrupted":
            interrupt(copied)
        with pytest.raises(InputError, match=rf"seed0 holds a run with other settings \({says}\).*overwrite=true"):
            run(configure(*(["epochs=2"] if not override.startswith("epochs") else []), override))
        assert yaml.safe_load((copied / "config.yaml").read_text())["epochs"] == 2

    def test_overwrite_replaces(self, configure: Callable, copied: Path) -> None:
        (copied / "left over.txt").touch()
        run(configure("epochs=1", "overwrite=true"))
        assert {p.name for p in copied.iterdir()} == FILES
        assert run_files.read_result(copied).training.epochs == 1

    def test_a_kill_while_a_run_is_replaced_leaves_the_settings_of_what_is_left(
        self, configure: Callable, copied: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = (copied / "config.yaml").read_text()

        def killed(*_: object) -> None:
            assert {p.name for p in copied.iterdir()} == {"config.yaml"}
            raise KeyboardInterrupt

        monkeypatch.setattr(run_files, "write_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            run(configure("epochs=1", "overwrite=true"))
        assert (copied / "config.yaml").read_text() == before

    def test_overwrite_spares_what_is_no_run(self, configure: Callable, tmp_path: Path) -> None:
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "thesis.txt").touch()
        with pytest.raises(InputError, match="no run's; overwrite=true leaves it alone"):
            run(configure("run_name=.", "overwrite=true"))
        assert (tmp_path / "runs" / "thesis.txt").exists()

    def test_a_run_that_never_finished_an_epoch_can_be_mended(self, configure: Callable, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"optimizer\.name=adamw"):
            run(configure("optimizer.name=adamw"))
        folder = run(configure())
        assert yaml.safe_load((folder / "config.yaml").read_text())["optimizer"]["name"] == "adam"

    @pytest.mark.parametrize("text", ["", "a: [", "\x00"])
    def test_a_damaged_record_is_named(self, configure: Callable, copied: Path, text: str) -> None:
        (copied / "config.yaml").write_text(text)
        with pytest.raises(InputError, match=r"config\.yaml: cannot be read, or damaged; .*overwrite=true"):
            run(configure("epochs=2"))

    def test_two_runs_of_one_seed_are_bit_identical(self, finished: Path, configure: Callable) -> None:
        again = run(configure("epochs=2"))
        assert again != finished and same(weights(again), weights(finished))
        assert (again / "scores.csv").read_bytes() == (finished / "scores.csv").read_bytes()
        other = run(configure("epochs=2", "seed=1"))
        assert not same(weights(other), weights(finished))


class TestRefusals:
    @pytest.fixture(scope="class")
    def usual(self, tmp_path_factory: pytest.TempPathFactory) -> Settings:
        return tiny_settings(tmp_path_factory.mktemp("refused"))

    @pytest.mark.parametrize(
        ("override", "says"),
        [
            ("seed=-1", "seed=-1: use a whole number from 0"),
            ("trainer.precision=16-mixed trainer.gradient_clip_val=1", "set optimizer.fused=false"),
            ("trainer.precision=64-true", "trainer.precision=64-true: choose 32-true, bf16-mixed, 16-mixed, auto"),
            ("trainer.devices=2", r"batch_size=1 with trainer\.devices=2: the images of each step are split"),
            ("trainer.devices=auto", "trainer.devices=auto: use the number of devices, 1 or more, or the list"),
            ("trainer.devices=0", "trainer.devices=0: use the number of devices"),
            ("trainer.devices=[1,1]", r"trainer\.devices=\[1, 1\]: use the number of devices"),
            ("trainer.compile=fast", "trainer.compile=fast: choose false, true or default, reduce-overhead"),
            ("seed=4294967296", "seed=4294967296"),
            ("seed=x", "seed=x"),
            ("epochs=0", "epochs=0: use a whole number, 1 or more"),
            ("data.cache_dir=2024_11", "data.cache_dir=202411: give a path, in quotes"),
            ("epochs=1.5", r"epochs=1\.5"),
            ("dilation=4", "dilation=4: use 0"),
            ("dilation=-1", "dilation=-1"),
            ("fold=3", r"fold=3: data\.folds=3, so choose 0 to 2"),
            ("fold=-1", "fold=-1"),
            ("fold=x", "fold=x: use a whole number"),
            ("overwrite='no'", "overwrite=no: use true or false"),  # text, as on Hydra's command line without quotes
            ("pictures='off'", "pictures=off: use true or false"),
            ("scale.height=abc", r"scale\.height=abc: use a whole number, 1 or more"),
            ("data.folds=2.5", r"data\.folds=2\.5: use a whole number, 1 or more"),
            ("data.split_seed=abc", r"data\.split_seed=abc: use a whole number, 0 or more"),
            ("scale.width_multiplier=abc", r"scale\.width_multiplier=abc: use a number above 0"),
            ("optimizer.lr=abc", r"optimizer\.lr=abc: use a number above 0"),
            ("batch_size=0", "batch_size=0: use a whole number, 1 or more"),
            ("batch_size=two", "batch_size=two: use a whole number, 1 or more"),
            ("batch_size=null", "batch_size=null"),
            ("batch_size=2.5", r"batch_size=2\.5"),
            ("threads=-1", "threads=-1: use a whole number, 0 or more"),
            ("data.workers=-1", r"data\.workers=-1: use a whole number, 0 or more"),
            ("data.mask_threshold=0", r"data\.mask_threshold=0: use a whole number from 1 \(any value above 0\) to"),
            ("data.mask_threshold=256", r"data\.mask_threshold=256: use a whole number from 1"),
            ("data.mask_threshold=127.5", r"data\.mask_threshold=127.5: use a whole number from 1"),
            ("model.positive_weight=0", r"model\.positive_weight=0: use a number above 0"),
            ("model.positive_weight=-2", r"model\.positive_weight=-2"),
            ("model.positive_weight=inf", r"model\.positive_weight=inf"),
            ("model.positive_weight=high", r"model\.positive_weight=high"),
            ("model.paper_sigma=-5", r"model\.paper_sigma=-5: use null, a number, 0 or more"),
            ("model.paper_sigma=abc", r"model\.paper_sigma=abc"),
            ("augment=heavy", "augment=heavy"),
            ("scale.width=65", "128x65.*nearest good size is 128x64"),
            ("model.network.norm=layer", r"model\.network\.norm=layer"),
            ("model.network.head_bias=low", r"head_bias=low"),
            ("model.average=1.0", r"model\.average=1\.0: use 0 \(off\) or a decay below 1"),
            ("model.average=-0.1", r"model\.average=-0\.1"),
            ("model.average=2", r"model\.average=2"),
            ("model.norm_momentum=0", r"model\.norm_momentum=0: use a number above 0, up to 1"),
            ("model.norm_momentum=-0.1", r"model\.norm_momentum=-0\.1"),
            ("model.norm_momentum=1.5", r"model\.norm_momentum=1\.5"),
            ("logger.kind=paper", r"logger\.kind=paper: choose csv"),
            ("optimizer.lr=-1", r"optimizer\.lr=-1: use a number above 0"),
        ],
    )
    def test_a_value_out_of_range_is_named(self, usual: Settings, override: str, says: str) -> None:
        with pytest.raises(InputError, match=says):
            run(changed(usual, OmegaConf.from_dotlist(override.split())))

    @pytest.mark.parametrize(
        ("lengths", "says"),
        [
            ([0.3], r"epochs=1 times the lengths \[0\.3\] of model\.phases make no whole epoch"),
            ([], r"lengths \[\]"),
            (["long"], "give each phase a number above 0"),
            ([None], "give each phase a number above 0"),
            ([float("nan")], "give each phase a number above 0"),
        ],
    )
    def test_phases_that_train_nothing_are_named(self, usual: Settings, lengths: list, says: str) -> None:
        phases = [{"name": "all", "length": length, "train": [], "weights": {"f1": 1.0}} for length in lengths]
        with pytest.raises(InputError, match=says):
            run(changed(usual, {"model": {"phases": phases}}))

    def test_a_missing_loss_is_named(self, usual: Settings) -> None:
        phases = [{"name": "all", "length": 1.0, "train": [], "weights": {"f9": 1.0}}]
        with pytest.raises(InputError, match="loss on 'f9': OneStage has f1, f2, f3"):
            run(changed(usual, {"model": {"phases": phases}}))


class _Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(os.environ["HOSTILE_MARK"]),)


class TestCheckpoint:
    def test_of_another_network_is_refused(self, configure: Callable, copied: Path, tmp_path: Path) -> None:
        interrupt(copied)
        other = run(configure("epochs=2", "model=unet", "experiment_name=other", f"output_dir={tmp_path}/elsewhere"))
        shutil.copy(other / CHECKPOINT, copied / CHECKPOINT)
        with pytest.raises(InputError, match=r"checkpoint\.ckpt: checkpoint of another network .*delete the file"):
            run(configure("epochs=2"))

    @pytest.mark.parametrize("legacy", [True, False])
    def test_hostile_pickles_are_not_run(
        self, configure: Callable, copied: Path, tmp_path: Path, monkeypatch, legacy: bool
    ) -> None:
        mark = tmp_path / "was run"
        monkeypatch.setenv("HOSTILE_MARK", str(mark))
        interrupt(copied)
        if legacy:
            (copied / CHECKPOINT).write_bytes(pickle.dumps(_Hostile()))
        else:
            torch.save({"state_dict": _Hostile()}, copied / CHECKPOINT)
        with pytest.raises(InputError, match=r"checkpoint\.ckpt: damaged, or not a checkpoint .*delete the file"):
            run(configure("epochs=2"))
        assert not mark.exists()

    @pytest.mark.parametrize("content", [b"", b"not a zip", "half", "weights only"])
    def test_damaged_files_are_refused(self, configure: Callable, copied: Path, content: bytes | str) -> None:
        path = interrupt(copied) / CHECKPOINT
        if content == "half":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        elif content == "weights only":
            torch.save({"state_dict": weights(copied)}, path)
        else:
            path.write_bytes(content)
        with pytest.raises(InputError, match=r"checkpoint\.ckpt: damaged, or not a checkpoint"):
            run(configure("epochs=2"))

    def test_another_number_of_threads_is_told(
        self, configure: Callable, copied: Path, capsys: pytest.CaptureFixture
    ) -> None:
        path = interrupt(copied) / CHECKPOINT
        checkpoint = torch.load(path, weights_only=True)
        assert checkpoint["threads"] == 1
        torch.save(checkpoint | {"threads": 7}, path)
        run(configure("epochs=2"))
        assert "began with 7 CPU threads and goes on with 1" in capsys.readouterr().err

    def test_checkpoints_of_older_versions_do_not_know_their_threads(
        self, configure: Callable, copied: Path, capsys: pytest.CaptureFixture
    ) -> None:
        path = interrupt(copied) / CHECKPOINT
        checkpoint = torch.load(path, weights_only=True)
        del checkpoint["threads"]
        torch.save(checkpoint, path)
        run(configure("epochs=2"))
        assert "threads" not in capsys.readouterr().err

    def test_a_run_killed_while_scoring_is_scored(self, configure: Callable, copied: Path, finished: Path) -> None:
        interrupt(copied)
        stamp = (copied / CHECKPOINT).stat().st_mtime_ns
        run(configure("epochs=2"))
        assert (copied / CHECKPOINT).stat().st_mtime_ns == stamp  # nothing was trained
        assert (copied / "scores.csv").read_bytes() == (finished / "scores.csv").read_bytes()
        ours, theirs = (run_files.read_result(folder).training for folder in (copied, finished))
        assert (ours.steps, ours.epochs, ours.final_loss) == (theirs.steps, theirs.epochs, theirs.final_loss)
        assert ours.train_seconds == pytest.approx(
            theirs.train_seconds, abs=0.5
        )  # those of the training, not of the rest
        assert len(list(csv.DictReader((copied / "metrics.csv").open()))) == 2


class TestNoRoom:
    """Writing fails at each place in turn; tests may run as root, to whom no folder is read-only."""

    @pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", CHECKPOINT, "scores.csv", "result.json"])
    def test_a_full_disk_is_named(self, configure: Callable, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        replace = os.replace

        def full(source: Any, target: Any) -> None:
            if Path(target).name == name:
                raise OSError(28, "No space left on device")
            replace(source, target)

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(InputError, match=rf"{name}: cannot be written \(No space left on device\).*"):
            run(configure())
        monkeypatch.undo()
        folder = run(configure())  # with room again it goes on
        assert {p.name for p in folder.iterdir()} | {
            "metrics.csv"
        } == FILES  # the epoch whose row found no room is over

    def test_a_place_that_is_no_folder_is_named(self, configure: Callable, tmp_path: Path) -> None:
        (tmp_path / "runs").touch()
        with pytest.raises(InputError, match=r"runs/train.*cannot be written"):
            run(configure())


def signal_at_step_10(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process sends this signal to itself in the middle of a training."""
    step = SegmentationModule.training_step

    def stop(self: SegmentationModule, *args: Any) -> Any:
        if self.global_step == 10:
            os.kill(os.getpid(), number)
        return step(self, *args)

    monkeypatch.setattr(SegmentationModule, "training_step", stop)


def test_an_interrupted_run_says_so_and_hears_the_next_interrupt(
    configure: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal_at_step_10(signal.SIGINT, monkeypatch)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts deaf to it
    try:
        with pytest.raises(KeyboardInterrupt):
            run(configure("epochs=2"))
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, handler)
    monkeypatch.undo()
    assert run_files.read_result(run(configure("epochs=2"))).training.steps == 16


def test_a_run_that_is_asked_to_end_is_interrupted(configure: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    signal_at_step_10(signal.SIGTERM, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(configure("epochs=2"))


def test_an_exit_by_another_s_handler_stays_an_exit(configure: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    signal_at_step_10(signal.SIGUSR2, monkeypatch)  # as submitit's does where SLURM's time is up
    handler = signal.signal(signal.SIGUSR2, lambda *_: sys.exit(-1))
    try:
        with pytest.raises(SystemExit) as raised:
            run(configure("epochs=2"))
    finally:
        signal.signal(signal.SIGUSR2, handler)
    assert raised.value.code == -1


def test_the_settings_for_a_gpu_are_all_understood(configure: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: asked.append(options) or function)
    make_loss.cache_clear()
    folder = run(configure("trainer=gpu", "trainer.enable_progress_bar=false"))
    make_loss.cache_clear()
    assert [options["mode"] for options in asked] == ["reduce-overhead"]
    chosen = yaml.safe_load((folder / "config.yaml").read_text())["trainer"]
    assert chosen["benchmark"] is True and chosen["precision"] in ("bf16-mixed", "32-true")


def test_a_debug_run_goes_through_everything_in_two_steps(configure: Callable, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["trainer=debug", "trainer.enable_progress_bar=false", "output_dir=debug", "epochs=5"]
    for _ in range(2):  # it replaces itself
        folder = run(configure(*words))
        assert folder.parts[0] == "debug" and {p.name for p in folder.iterdir()} == FILES
        assert run_files.read_result(folder).training.steps == 2
    both = run_files.read_result(run(configure(*words, "model=seg_dec")))
    assert both.training.steps == 2 and both.readout == "decision"


@pytest.mark.parametrize("word", ["2", "0.5"])
def test_names_that_look_like_numbers_are_names(word: str, tmp_path: Path, cache: Path) -> None:
    folder = run(tiny_settings(tmp_path, f"variant={word}", f"experiment_name={word}", f"data.name={word}"))
    about = run_files.read_result(folder).run
    assert {about.variant, about.experiment, about.data} == {word}
    assert run(tiny_settings(tmp_path, f"variant='{word}'", f"experiment_name={word}", f"data.name={word}")) == folder


def test_no_variant_and_no_name(tmp_path: Path, cache: Path) -> None:
    assert run_files.read_result(run(tiny_settings(tmp_path, "variant=null"))).run.variant == ""
    with pytest.raises(InputError, match=r"experiment_name=null: give a name"):
        run(tiny_settings(tmp_path, "experiment_name=null"))
