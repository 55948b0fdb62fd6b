"""Sweeps on a real SLURM of one node: equal to local ones, whatever happens to their jobs."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from support.one_node_slurm import Slurm, wait_for
from support.padded_network import SECONDS, STEPS
from support.paths import ROOT, TESTS

EPOCHS, STEPS_PER_EPOCH = 6, 8
SECONDS_A_COMMAND = 280
SMALL = [
    "scale=demo", "scale.height=64", "scale.width=64", "scale.width_multiplier=0.0625", "data.reader.groups=6",
    "data.reader.views=2", "data.reader.defective_fraction=0.5", "dilation=5", f"epochs={EPOCHS}", "threads=1",
    "pictures=false", "trainer.enable_progress_bar=false", "trainer.accelerator=cpu", "fold=0", "model=unet",
    "variant=lr${optimizer.lr}", "-m",
]  # fmt: skip
ON_SLURM = [
    "hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1", "hydra.launcher.poll_s=1",
]  # fmt: skip
PADDED = ["model.network._target_=support.padded_network.PaddedUNet"]
GRID = "optimizer.lr=0.001,0.002,0.003,1e30"
"""Of which the last makes the loss infinite."""


@dataclass
class Commands:
    """`anomaly-seg train` with words for a tiny sweep, on this cluster."""

    cluster: Slurm
    shared: Path

    def start(self, output: str, *words: str, pad: float = 0.0) -> subprocess.Popen:
        """The command, its screen in `<output>.txt`."""
        environment = os.environ | self.cluster.environment
        environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS)]), "OMP_NUM_THREADS": "1"}
        environment |= {SECONDS: str(pad), STEPS: str(self.shared / f"{output}.steps")}
        places = [f"output_dir={self.shared / output}", f"data.cache_dir={self.shared / 'cache'}"]
        command = [sys.executable, "-m", "anomaly_seg.cli", "train", *SMALL, *places, *words]
        with self.screen(output).open("w") as screen:
            return subprocess.Popen(command, env=environment, cwd=self.shared, stdout=screen, stderr=screen)

    def run(self, output: str, *words: str, pad: float = 0.0) -> tuple[int, str]:
        """Its exit code, and what it printed."""
        return self.start(output, *words, pad=pad).wait(SECONDS_A_COMMAND), self.said(output)

    def screen(self, output: str) -> Path:
        return self.shared / f"{output}.txt"

    def said(self, output: str) -> str:
        return self.screen(output).read_text()

    def folder(self, output: str, lr: str) -> Path:
        return self.shared / output / "train" / "synthetic" / f"unet-lr{lr}" / "D5" / "fold0" / "seed0"

    def job(self, output: str, lr: str) -> str:
        """The job that had the run last, by the link to its log."""
        return (self.folder(output, lr).parent / "seed0.slurm.log").resolve().parent.name

    def begun(self, output: str, *lrs: str) -> bool:
        """Whether each of these runs has ended an epoch."""
        return all((self.folder(output, lr) / "checkpoint.ckpt").exists() for lr in lrs)

    def tables(self, output: str, *lrs: str) -> dict[str, list[list[str]]]:
        paths = [self.folder(output, lr) / name for lr in lrs for name in ("scores.csv", "pixels.csv")]
        return {f"{path.parent.parts[-4]}/{path.name}": list(csv.reader(path.open())) for path in paths}


@pytest.fixture(scope="session")
def commands(cluster: Slurm, shared: Path) -> Commands:
    return Commands(cluster, shared)


@pytest.fixture(scope="session")
def timed_out(commands: Commands) -> Iterator[Future]:
    """Exit code of a sweep of one run whose job's time runs out; it goes on beside the other tests, mostly asleep."""
    with ThreadPoolExecutor() as threads:
        yield threads.submit(run_out_of_time, commands)


def run_out_of_time(commands: Commands) -> int:
    limits = ["hydra.launcher.timeout_min=10", "hydra.launcher.signal_delay_s=60", "overwrite=true"]
    process = commands.start("timed_out", *ON_SLURM, *PADDED, "optimizer.lr=0.003", *limits, pad=1.0)
    wait_for(lambda: commands.begun("timed_out", "0.003"))
    job = commands.job("timed_out", "0.003")
    soon = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 60))
    commands.cluster.ask("scontrol", "update", f"JobId={job}", f"EndTime={soon}")
    wait_for(lambda: commands.cluster.jobs()[job] == "PENDING")
    # SLURM lets a job that is queued again wait for two minutes.
    commands.cluster.ask("scontrol", "update", f"JobId={job}", "StartTime=now", "TimeLimit=10")
    return process.wait(SECONDS_A_COMMAND)


@pytest.fixture(scope="session")
def local(commands: Commands, timed_out: Future) -> tuple[int, str]:
    """The same grid on this machine, as the command runs without SLURM."""
    return commands.run("local", GRID)


def test_a_grid_with_a_failure_equals_the_local_one(commands: Commands, local: tuple[int, str]) -> None:
    (commands.cluster.private / "mine").touch()
    assert commands.cluster.ask("srun", "ls", str(commands.cluster.private)) == ""
    assert local[0] == 1
    code, said = commands.run("slurm", *ON_SLURM, GRID)
    assert code == 1
    good = ("0.001", "0.002", "0.003")
    assert len(commands.tables("local", *good)) == 6
    assert commands.tables("slurm", *good) == commands.tables("local", *good)
    local_failure, failure = (commands.folder(output, "1e+30") / "failure.txt" for output in ("local", "slurm"))
    assert "not finite" in failure.read_text() and failure.read_text() == local_failure.read_text()
    assert "3 done, 1 failed, 0 left of 4" in said and "Traceback" not in said
    summary = local[1].partition("failed: ")[2].replace("/local/", "/slurm/")
    assert said.endswith(f"failed: {summary}") and "failure.txt" in summary
    log = commands.folder("slurm", "1e+30").parent / "seed0.slurm.log"
    assert log.is_symlink() and "not finite" in log.read_text()
    assert not list((commands.shared / "slurm").glob(".journal-*"))


PAIR = [*ON_SLURM, *PADDED, "optimizer.lr=0.001,0.002"]


def test_ctrl_c_cancels_the_jobs(commands: Commands) -> None:
    before = set(commands.cluster.jobs())
    process = commands.start("pair", *PAIR, pad=1.0)
    wait_for(lambda: "slurm: 2 running" in commands.said("pair"))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    said = commands.said("pair")
    assert "slurm: 2 jobs cancelled" in said and "goes on from here" in said and "Traceback" not in said
    wait_for(lambda: not (set(commands.cluster.alive()) - before), 30)


def test_dead_jobs_are_said_and_made_up_for(commands: Commands, local: tuple[int, str]) -> None:
    killed = commands.start("pair", *PAIR, pad=1.0)
    wait_for(lambda: commands.begun("pair", "0.001", "0.002"))
    killed.kill()  # as where the machine of the command goes down: its jobs go on
    killed.wait()
    first, second = (commands.job("pair", lr) for lr in ("0.001", "0.002"))
    again = commands.start("pair", *PAIR, pad=1.0)
    wait_for(lambda: "slurm: 2 running" in commands.said("pair"))
    assert "2 jobs of an earlier command go on" in commands.said("pair")
    commands.cluster.ask("scancel", first)
    os.kill(trainer(second).pid, signal.SIGKILL)
    assert again.wait(60) == 1
    said = commands.said("pair")
    assert f"job {first} ended without a result (CANCELLED)" in said
    assert f"job {second} ended without a result (FAILED)" in said
    assert said.count("the same command queues it again") == 4 and "Traceback" not in said  # at once, and at the end
    assert not list((commands.shared / "pair").rglob("failure.txt"))
    code, said = commands.run("pair", *PAIR)
    assert (code, "slurm: 2 jobs queued" in said) == (0, True)
    assert commands.tables("pair", "0.001", "0.002") == commands.tables("local", "0.001", "0.002")


def trainer(job: str) -> psutil.Process:
    """The process of a job that trains."""
    array, _, task = job.partition("_")
    for process in psutil.process_iter():
        try:
            names = process.environ()
            own = (names.get("SLURM_ARRAY_JOB_ID"), names.get("SLURM_ARRAY_TASK_ID")) == (array, task)
            if own and "submitit.core._submit" in process.cmdline() and process.name() != "srun":
                return process
        except psutil.Error:
            continue
    raise AssertionError(f"no process of job {job}")


def test_a_finished_grid_queues_nothing(commands: Commands) -> None:
    before = commands.cluster.jobs().keys()
    results = {path: path.stat().st_mtime_ns for path in (commands.shared / "pair").rglob("result.json")}
    code, said = commands.run("pair", *PAIR)
    assert code == 0 and said.count("finished before with the same settings") == 2 and "queued" not in said
    assert commands.cluster.jobs().keys() <= before  # SLURM forgets old ones
    assert len(results) == 2 and all(path.stat().st_mtime_ns == then for path, then in results.items())


def test_a_time_out_queues_the_job_again_and_it_goes_on(
    commands: Commands, local: tuple[int, str], timed_out: Future
) -> None:
    assert timed_out.result(SECONDS_A_COMMAND) == 0, commands.said("timed_out")
    assert "1 done, 0 failed, 0 left of 1" in commands.said("timed_out")
    log = (commands.folder("timed_out", "0.003").parent / "seed0.slurm.log").read_text()
    starts = log.count("Starting with JobEnvironment")
    assert starts == 2 and "(19 remaining timeouts)" in log and "Traceback" not in log
    assert commands.tables("timed_out", "0.003") == {
        name.replace("slurm", "timed_out"): rows for name, rows in commands.tables("local", "0.003").items()
    }
    steps = (commands.shared / "timed_out.steps").stat().st_size
    assert EPOCHS * STEPS_PER_EPOCH <= steps <= (EPOCHS + 1) * STEPS_PER_EPOCH  # at most an epoch is lost


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("hydra.launcher.partition=nowhere", "SLURM does not take the jobs (invalid partition specified: nowhere; "),
        ("hydra.launcher.mem_gb=100000", "SLURM does not take the jobs ("),
    ],
)
def test_what_slurm_refuses_is_one_sentence(commands: Commands, word: str, says: str) -> None:
    code, said = commands.run("refused", *ON_SLURM, "optimizer.lr=0.001,0.002", word)
    assert code == 2 and said.startswith(f"anomaly-seg train: {says}") and said.count("\n") == 1
    assert "hydra.launcher.partition, account, qos, mem_gb" in said
