"""Sweeps as jobs of SLURM, without one: what is queued, refused, and said of jobs that end. See tests/slurm."""

import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from support.tiny_runs import TINY, tiny_settings

from anomaly_seg.cli import main
from anomaly_seg.settings import CONFIG
from anomaly_seg.training import journal, slurm_queue
from anomaly_seg.training.compose import compose
from anomaly_seg.training.run_folder import start_run_folder
from anomaly_seg.training.slurm_job import job_settings
from anomaly_seg.training.slurm_queue import Job, State

SLURM = ["hydra/launcher=slurm", "hydra.launcher.poll_s=0.01"]
GRID = [*TINY, "fold=0,1", "-m"]


def program(folder: Path, name: str, script: str) -> None:
    """A program of this name at the front of the PATH."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH without programs, to which a test adds its own."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


@pytest.fixture
def fake_slurm(no_slurm: Path) -> Path:
    """Takes an array of jobs, keeps its script, and has an empty queue ever after."""
    taken = f'/bin/cp "$1" {no_slurm}/script; echo >> {no_slurm}/taken'
    program(no_slurm, "sbatch", f"{taken}; echo Submitted batch job 6$(/usr/bin/wc -l < {no_slurm}/taken)")
    for name in ("srun", "squeue", "scontrol", "scancel"):
        program(no_slurm, name, "exit 0")
    return no_slurm


def test_without_slurm_it_is_one_sentence(no_slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["train", *GRID, *SLURM, f"output_dir={tmp_path / 'runs'}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "anomaly-seg train: hydra/launcher: this machine has no sbatch, srun, squeue, scancel, scontrol"
    )
    assert said.count("\n") == 1


def test_without_the_extra_it_is_one_sentence(
    fake_slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["train", *GRID, *SLURM, f"output_dir={tmp_path / 'runs'}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("anomaly-seg train: needs the package 'submitit': pip install 'anomaly-seg[slurm]'")


def test_a_single_run_needs_the_switch_of_sweeps(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["train", *TINY, "hydra/launcher=slurm", f"output_dir={tmp_path}"]) == 2
    assert "queues the runs of a sweep: add -m" in capsys.readouterr().err


def test_jobs_that_vanish_are_failures_and_sbatch_gets_the_configuration(
    fake_slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["hydra/launcher=slurm_gpu", "hydra.launcher.poll_s=0.01", "hydra.launcher.partition=big"]
    words += ["hydra.launcher.array_parallelism=1"]
    words += ["+hydra.launcher.additional_parameters.nice=5", f"output_dir={tmp_path / 'runs'}"]
    assert main(["train", *GRID, *words]) == 1
    said = capsys.readouterr().err
    assert "slurm: 2 jobs queued as 61" in said and "0 done, 2 failed, 0 left of 2" in said
    for task in (0, 1):
        assert f"job 61_{task} ended without a result (gone from the queue): the same command queues it again" in said
    options = {line.removeprefix("#SBATCH ") for line in (fake_slurm / "script").read_text().splitlines()}
    assert {
        "--partition=big", "--nice=5", "--requeue", "--signal=USR2@120", "--time=240", "--gpus-per-node=1",
        "--mem=16GB", "--cpus-per-task=4", "--array=0-1%1", "--job-name=anomaly_seg", "--nodes=1",
    } <= options  # fmt: skip
    link = tmp_path / "runs/train/synthetic/one_stage/D9/fold1/seed0.slurm.log"
    assert os.readlink(link) == "../../../../.submitit/61_1/61_1_0_log.out"


def test_a_grid_beyond_an_array_s_size_becomes_several(
    fake_slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = [*TINY, "fold=0,1,2", "-m", *SLURM, "hydra.launcher.array_size=2", f"output_dir={tmp_path / 'runs'}"]
    assert main(["train", *words]) == 1
    said = capsys.readouterr().err
    assert "slurm: 2 jobs queued as 61" in said and "slurm: 1 jobs queued as 62" in said
    assert [said.count(f"job {job} ended without") for job in ("61_0", "61_1", "62")] == [2, 2, 2]


def test_what_submitit_refuses_is_a_sentence(fake_slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["train", *GRID, *SLURM, "hydra.launcher.mem_gb=lots", f"output_dir={tmp_path / 'runs'}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith('anomaly-seg train: hydra.launcher: Parameter "mem_gb"') and "Traceback" not in said


def test_unusable_settings_are_not_queued(fake_slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = [word for word in GRID if not word.startswith("epochs=")]
    assert main(["train", *words, *SLURM, "epochs=0", f"output_dir={tmp_path / 'runs'}"]) == 2
    said = capsys.readouterr().err
    assert said.count("epochs=0: use a whole number") == 4 and "queued" not in said


@pytest.fixture
def queued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setenv(journal.JOURNAL, str(tmp_path / "journal"))
    (tmp_path / "journal").mkdir()
    (tmp_path / "run").mkdir()
    return Job("3_1", "run", tmp_path / "run", tmp_path / "log.out")


def watched(job: Job, monkeypatch: pytest.MonkeyPatch, *answers: State | str | None) -> list[dict]:
    """The journal after a watch in which SLURM gives these answers: the job's state, "silent", or None for no job."""
    left = list(answers)

    def states() -> dict[str, State] | None:
        now = left.pop(0)
        return None if now == "silent" else {job.id: now} if isinstance(now, State) else {}

    monkeypatch.setattr(slurm_queue, "states", states)
    slurm_queue.watch([job], 0.001, lambda: None)
    assert left == []
    return journal.read()


RUNS, WAITS = State("RUNNING", "None"), State("PENDING", "Resources")


def test_a_job_is_looked_at_twice_before_it_is_given_up(queued: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = watched(queued, monkeypatch, WAITS, RUNS, None, WAITS, "silent", RUNS, State("OUT_OF_MEMORY"), None)
    assert (
        line["error"] == ("job 3_1 ended without a result (gone from the queue): the same command queues it again")
        and line["trace"] == ""
    )


def test_memory_and_time_have_remedies(queued: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    queued.log.touch()
    (line,) = watched(queued, monkeypatch, *[State("OUT_OF_MEMORY")] * 2)
    assert "(OUT_OF_MEMORY): raise hydra.launcher.mem_gb" in line["error"] and line["trace"] == str(queued.log)


def test_files_decide_and_not_slurm(queued: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    (queued.folder / "failure.txt").write_text("Traceback\nRuntimeError: of this run\n")
    queued.log.touch()
    (line,) = watched(queued, monkeypatch, *[State("COMPLETED")] * 2)
    assert line["error"] == "RuntimeError: of this run" and line["trace"] == str(queued.folder / "failure.txt")
    (queued.folder / "result.json").touch()
    assert watched(replace(queued, run="again"), monkeypatch, State("FAILED"))[-1]["status"] == "done"


def test_a_run_that_told_is_settled_while_its_job_still_ends(queued: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.append({"run": "run", "status": "failed"})
    assert len(watched(queued, monkeypatch, RUNS)) == 1


def test_jobs_that_cannot_be_cancelled_are_named(no_slurm: Path, queued: Job, capsys: pytest.CaptureFixture) -> None:
    program(no_slurm, "squeue", "echo 3_1 RUNNING None; echo 3_2 COMPLETED None")
    program(no_slurm, "scancel", "echo no access >&2; exit 1")
    other = Job("3_2", "other", queued.folder, queued.log)
    slurm_queue.cancel([queued, other])
    assert capsys.readouterr().err == "slurm: 1 jobs still run (no access): scancel 3_1\n"


def test_what_is_queued_again_replaces_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*TINY, f"output_dir={tmp_path}", "overwrite=true"]
    config, folder = compose(words), tiny_settings(tmp_path).folder
    assert job_settings(config, folder).overwrite
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert job_settings(config, folder).overwrite  # it was told to end before it had begun
    start_run_folder(folder, tiny_settings(tmp_path))
    assert (folder / CONFIG).exists() and not job_settings(config, folder).overwrite
    other = OmegaConf.merge(config, {"epochs": 7})
    assert job_settings(other, folder).overwrite  # what stands there is still the run that is to be replaced
