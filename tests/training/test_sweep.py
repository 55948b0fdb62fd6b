"""Sweeps: resume after kills, failing jobs, side by side, clean memory."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import psutil
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import open_dict
from support.sweeps import end, small, start, tables

from anomaly_seg.cli import main
from anomaly_seg.results.run_files import read_result
from anomaly_seg.training.compose import config_folder, register_resolvers
from anomaly_seg.training.sweep import count_jobs, job


def test_killed_at_random_moments_ends_like_an_undisturbed_sweep(tmp_path: Path):
    grid = ["model=one_stage,unet", "fold=0,1", "augment=light", "-m"]
    assert end(start([*small(tmp_path, "calm"), *grid], tmp_path)) == 0
    rng, kills = random.Random(0), 0
    while kills < 10:
        process = start([*small(tmp_path, "killed"), *grid], tmp_path)
        if end(process, rng.uniform(0.3, 3)) is not None:  # finished: start over, so that ten kills hit a working sweep
            subprocess.run(["rm", "-rf", str(tmp_path / "killed")], check=True)
            continue
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
    assert end(start([*small(tmp_path, "killed"), *grid], tmp_path)) == 0
    expected = tables(tmp_path / "calm")
    assert len(expected) == 8 and tables(tmp_path / "killed") == expected


def test_a_failing_job_stops_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture):
    # A step that large makes the second job's loss infinite.
    words = [*small(tmp_path), "optimizer.lr=0.001,1e30", "variant=lr${optimizer.lr}", "fold=0", "-m"]
    assert main(["train", *words]) == 1
    text = capsys.readouterr().err
    runs = tmp_path / "runs/train/synthetic"
    good, bad = runs / "one_stage-lr0.001/D5/fold0/seed0", runs / "one_stage-lr1e+30/D5/fold0/seed0"
    assert (good / "result.json").exists() and not (bad / "result.json").exists()
    trace = (bad / "failure.txt").read_text()
    assert "Traceback" in trace and "not finite" in trace and "/view" in trace  # the image is named
    assert f"failed: {bad.relative_to(tmp_path / 'runs')}" in text and str(bad / "failure.txt") in text
    assert "1 done, 1 failed, 0 left of 2" in text


FAILED = "Traceback (most recent call last):\nRuntimeError: of an earlier run\n"


def failed_before(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "failure.txt").write_text(FAILED, encoding="utf-8")
    return folder / "failure.txt"


@pytest.mark.parametrize("sweep", [False, True])
def test_a_refused_run_leaves_nothing_for_the_report(tmp_path: Path, sweep: bool, capsys: pytest.CaptureFixture):
    common = [word for word in small(tmp_path) if not word.startswith("data.reader")]
    words = [*common, "encoder=paper", "data=folder", f"data.root={tmp_path / 'nowhere'}", "data.name=mine", "fold=0"]
    run = tmp_path / "runs/train/mine/one_stage/D5/fold0/seed0"
    assert main(["train", *words, *["-m"] * sweep]) == 2
    assert "nowhere" in capsys.readouterr().err and not (run / "failure.txt").exists()
    old = failed_before(run)  # as earlier versions left it
    assert main(["train", *words, *["-m"] * sweep]) == 2
    assert not old.exists()


def test_only_the_run_that_owns_the_folder_removes_an_earlier_failure(tmp_path: Path):
    words = [*small(tmp_path), "epochs=1", "fold=0"]
    run = tmp_path / "runs/train/synthetic/one_stage/D5/fold0/seed0"
    old = failed_before(run)
    assert main(["train", *words]) == 0 and not old.exists()
    failed_before(run)
    assert main(["train", *words, "optimizer.lr=0.01"]) == 2  # refused: these settings do not own it
    assert old.read_text(encoding="utf-8") == FAILED
    assert main(["train", *words, "data.reader.seed=7"]) == 2
    assert old.exists()
    assert main(["train", *words]) == 0 and not old.exists()  # finished before


def test_rerun_trains_only_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture):
    words = [*small(tmp_path), "fold=0,1", "epochs=1", "-m"]
    assert main(["train", *words]) == 0
    runs = tmp_path / "runs/train/synthetic/one_stage/D5"
    before = (runs / "fold0/seed0/result.json").stat().st_mtime_ns
    (runs / "fold1/seed0/result.json").unlink()
    assert main(["train", *words]) == 0
    assert (runs / "fold0/seed0/result.json").stat().st_mtime_ns == before
    assert (runs / "fold1/seed0/result.json").exists()
    capsys.readouterr()
    assert main(["train", *words, "optimizer.lr=0.01"]) == 2  # other settings, same place
    assert capsys.readouterr().err.count("optimizer.lr: 0.001 -> 0.01") >= 2


def test_side_by_side_equals_one_after_another(tmp_path: Path):
    grid = ["fold=0,1", "-m"]
    assert main(["train", *small(tmp_path, "one"), *grid]) == 0
    assert main(["train", *small(tmp_path, "two"), *grid, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]) == 0
    assert len(tables(tmp_path / "one")) == 4 and tables(tmp_path / "two") == tables(tmp_path / "one")


def test_a_killed_worker_of_joblib_is_made_up_for_by_the_rerun(tmp_path: Path):
    grid = ["fold=0,1", "epochs=6", "-m"]
    side_by_side = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    # A program of its own: joblib's workers do not end where their parent was forked.
    command = [sys.executable, "-m", "anomaly_seg.cli", "train", *small(tmp_path, "killed"), *grid, *side_by_side]
    with (tmp_path / "screen.txt").open("a") as screen:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=screen, stderr=screen)
        deadline = time.time() + 100
        while not list((tmp_path / "killed").rglob("checkpoint.ckpt")) and time.time() < deadline:
            time.sleep(0.1)
        workers = [c for c in psutil.Process(process.pid).children(recursive=True) if "loky" in " ".join(c.cmdline())]
        workers[-1].kill()
        assert process.wait(100) != 0  # joblib gives up the sweep
        assert subprocess.run(command, cwd=tmp_path, stdout=screen, stderr=screen, timeout=200).returncode == 0
    assert main(["train", *small(tmp_path, "calm"), *grid]) == 0
    assert len(tables(tmp_path / "calm")) == 4 and tables(tmp_path / "killed") == tables(tmp_path / "calm")


def test_search_goes_on_in_its_storage(tmp_path: Path):
    words = [*small(tmp_path), "experiment=search", "epochs=1", "hydra.sweeper.n_trials=1"]
    for trials in (1, 2):
        assert end(start(words, tmp_path)) == 0
        storage = f"sqlite:///{tmp_path}/runs/search.db"
        (name,) = (summary.study_name for summary in optuna.get_all_study_summaries(storage))
        assert name.startswith("search-synthetic-") and name.endswith("-one_stage-demo-D5-fold0-1epochs")
        study = optuna.load_study(study_name=name, storage=storage)
        assert len(study.trials) == trials and all(t.state.name == "COMPLETE" for t in study.trials)
    found = [read_result(path) for path in (tmp_path / "runs").rglob("result.json")]
    assert len(found) == 2 and all(r.run.scored == "validation" for r in found)
    assert sorted(t.value for t in study.trials) == sorted(r.image.ap for r in found)


def test_interrupted_sweep_says_how_to_go_on(tmp_path: Path):
    process = start([*small(tmp_path), "fold=0,1,2", "epochs=200", "-m"], tmp_path)
    checkpoint = tmp_path / "runs/train/synthetic/one_stage/D5/fold0/seed0/checkpoint.ckpt"
    deadline = time.time() + 100
    while not checkpoint.exists() and time.time() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    assert end(process, 60) == 130
    screen = (tmp_path / "screen.txt").read_text()
    assert "interrupted; the same command goes on from here" in screen and "Traceback" not in screen
    assert checkpoint.exists() and not list(tmp_path.rglob("result.json"))


def test_twenty_jobs_leave_nothing_behind(tmp_path: Path):
    register_resolvers()
    process = psutil.Process()
    used = []
    for seed in range(20):
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            words = [*small(tmp_path), f"seed={seed}", "epochs=1", "logger=tensorboard"]
            config = compose("config", overrides=words)
        assert job(config) is not None
        used.append((process.memory_info().rss, process.num_fds(), threading.active_count()))
    memory, files, threads = zip(*used, strict=True)
    assert memory[-1] - memory[4] < 60e6  # the first jobs import and allocate what later ones use again
    assert files[-1] <= files[4] and threads[-1] <= threads[4]


@pytest.mark.parametrize(
    ("grid", "line", "jobs"),
    [
        ({"model": "a,b,c", "fold": "0,1,2"}, [], 9),
        ({"model": "a,b,c", "fold": "0,1,2"}, ["model=b"], 3),
        ({"model": "a,b,c"}, ["model=a,b", "fold=range(0,4)", "dilation=9"], 8),
        ({}, ["fold=0"], 1),
        ({"fold": "0,1,2"}, ["dilation=5", "dilation=9,5"], 6),
    ],
)
def test_jobs_of_a_grid(grid: dict[str, str], line: list[str], jobs: int):
    register_resolvers()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("config", return_hydra_config=True)
    with open_dict(config):
        config.hydra.sweeper.params = grid
        config.hydra.overrides.task = line
    assert count_jobs(config) == jobs


def test_jobs_of_a_glob():
    register_resolvers()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("config", return_hydra_config=True)
        with open_dict(config):
            config.hydra.overrides.task = ["model=glob(*, exclude=one_stage*)", "fold=0,1"]
        assert count_jobs(config) == 6  # encoder_decoder, seg_dec and unet


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("experiment=comparison change=nonsense fold=0,1", "Could not find 'change/nonsense'"),
        ("experiment=comparison fold=0,1 epochz=3", "Could not override 'epochz'"),
        ("epochz=3", "Could not override 'epochz'"),
        ("model=nonsense", "Could not find 'model/nonsense'"),
        ("epochs=[1", "no viable alternative at input '[1'"),
        ("experiment=comparison fold=0, epochs=3", "fold=0,"),
        ("experiment=search change=nonsense model.positive_weight=interval(1,2)", "Could not find 'change/nonsense'"),
    ],
)
def test_a_mistake_beside_swept_values_is_named(words: str, says: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["train", *words.split()]) == 2
    said = capsys.readouterr().err
    assert says in said and "--multirun" not in said and "Traceback" not in said


def test_an_interpolation_of_no_key_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["train", *small(tmp_path), "epochs=${nonsense}"]) == 2
    assert "Interpolation key 'nonsense' not found" in capsys.readouterr().err


def test_a_search_of_which_every_trial_fails_says_why(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = [*small(tmp_path), "experiment=search", "hydra.sweeper.n_trials=2", "epochs=0"]
    assert main(["train", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("epochs=0: use a whole number") == 4 and "Traceback" not in said  # each at once, and at the end
