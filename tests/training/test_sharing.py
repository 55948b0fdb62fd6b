"""Several commands share one grid: each run is trained once, kills and held runs included."""

import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from support.sweeps import end, small, start, tables

from anomaly_seg.training import sharing
from anomaly_seg.training.compose import config_folder, register_resolvers

GRID = ["seed=0,1,2,3", "fold=0", "-m"]
RUNS = "train/synthetic/one_stage/D5/fold0"
STEPS = 16
"""Of each run."""


@dataclass(frozen=True)
class Command:
    """One command that has ended: its place, exit status, when it ended, its screen, and the runs that it trained."""

    place: Path
    status: int | None
    end: float
    screen: str
    fits: dict[str, float]
    """When each began."""


def trained(file: Path) -> dict[str, float]:
    """The seeds that were trained, in their order, and when each began."""
    lines = [line.split() for line in file.read_text().splitlines()]
    assert len({folder for _, folder in lines}) == len(lines)
    return {Path(folder).name: float(began) for began, folder in lines}


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> list[Command]:
    """One command with a grid of its own, and two that share another, all three on the same machine at once.

    A step sleeps so long that a run sleeps for four seconds, and longer than it computes on a machine as busy as this.
    """
    folder = tmp_path_factory.mktemp("sharing")
    end(start([*small(folder, "warm"), "seed=9", "fold=0", "-m"], folder, fits=folder / "fits"))
    computed = time.time() - trained(folder / "fits")["seed9"]
    pad = max(4, 1.2 * computed) / STEPS
    processes, ends = {}, {}
    for name, grid in {"alone": "calm", "first": "shared", "second": "shared"}.items():
        place = folder / name
        place.mkdir()
        processes[place] = start([*small(folder, grid), *GRID], place, pad=pad, fits=place / "fits")
    deadline = time.time() + 250
    while len(ends) < 3 and time.time() < deadline:
        time.sleep(0.05)
        ends |= {p: time.time() for p, process in processes.items() if process.exitcode is not None and p not in ends}
    return [
        Command(place, process.exitcode, ends[place], (place / "screen.txt").read_text(), trained(place / "fits"))
        for place, process in processes.items()
    ]


def test_two_commands_train_each_run_once(commands: list[Command]) -> None:
    alone, first, second = commands
    assert [command.status for command in commands] == [0, 0, 0]
    assert list(alone.fits) == ["seed0", "seed1", "seed2", "seed3"]
    assert sorted([*first.fits, *second.fits]) == list(alone.fits) and len(first.fits) == len(second.fits) == 2
    expected = tables(alone.place.parent / "calm")
    assert len(expected) == 8 and tables(alone.place.parent / "shared") == expected


def test_two_commands_take_half_the_time(commands: list[Command]) -> None:
    """From the first training to the end of the last command, so that the start of a program does not count."""
    alone, *pair = commands
    seconds = max(command.end for command in pair) - min(min(command.fits.values()) for command in pair)
    assert seconds <= 0.65 * (alone.end - min(alone.fits.values()))


def test_a_command_tells_what_others_did(commands: list[Command]) -> None:
    for command in commands[1:]:
        assert "4 done (2 by another command), 0 failed, 0 left of 4\n" in command.screen
        assert "anomaly-seg train: 4 finished, 2 runs by another command" in command.screen
        # Those of the other are compared once; "the other" may as well have finished a run before this one came by.
        assert command.screen.count("finished before with the same settings") == 2
    # At the start one of the two comes by the first run of the other. Later they may always meet finished ones.
    assert any("held by another command" in c.screen and "passed by for now" in c.screen for c in commands[1:])
    assert "another command" not in commands[0].screen and "another process" not in commands[0].screen


def kill(process: BaseProcess) -> None:
    os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()


def test_a_grid_is_whole_after_ten_kills_of_one_of_three(tmp_path: Path, commands: list[Command]) -> None:
    rng, kills, killed = random.Random(0), 0, tmp_path / "killed"
    words = [*small(tmp_path, "killed"), *GRID]
    workers = [start(words, tmp_path, pad=0.05) for _ in range(3)]
    while kills < 10:
        time.sleep(rng.uniform(0.2, 1.2))
        victim = workers.pop(rng.randrange(len(workers)))
        if victim.exitcode is not None:  # the grid is whole: begin another, so that ten kills hit a working one
            assert [end(worker) for worker in [victim, *workers]] == [0] * (1 + len(workers))
            assert tables(killed) == tables(commands[0].place.parent / "calm")
            shutil.rmtree(killed)
            workers = []
        else:
            kill(victim)
            kills += 1
        lasting = 3 if kills < 9 else 12 - kills - 1  # the last two are not replaced
        workers += [start(words, tmp_path, pad=0.05) for _ in range(lasting - len(workers))]
    assert [end(worker) for worker in workers] == [0] * len(workers) and workers
    assert tables(killed) == tables(commands[0].place.parent / "calm")


def test_a_held_run_is_waited_for_last_and_taken_over(tmp_path: Path) -> None:
    words, screen = [*small(tmp_path), "epochs=1", "seed=0,1", "fold=0", "-m"], tmp_path / "screen.txt"
    with sharing.run_lock(tmp_path / "runs" / RUNS / "seed0"):
        interrupted = start(words, tmp_path, fits=tmp_path / "fits")
        wait_for_text(screen, "waiting for runs that other processes are at: ")
        assert list(trained(tmp_path / "fits")) == ["seed1"]
        os.kill(interrupted.pid or 0, signal.SIGINT)
        assert end(interrupted) == 130
        assert "interrupted; the same command goes on from here" in screen.read_text()
        process = start(words, tmp_path, fits=tmp_path / "fits")
        wait_for_text(screen, "1 done, 0 failed, 1 left of 2, 1 held by another command\nwaiting", times=2)
    assert end(process) == 0  # the holder left without a result, as one that died
    assert list(trained(tmp_path / "fits")) == ["seed1", "seed0"]


def wait_for_text(file: Path, text: str, times: int = 1) -> None:
    deadline = time.monotonic() + 100
    while not (file.exists() and file.read_text().count(text) >= times):
        assert time.monotonic() < deadline, file.read_text()
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("words", "shared"),
    [
        ([], True),
        (["hydra/launcher=joblib"], True),
        (["overwrite=true"], False),  # else each command would replace the other's runs
        (["experiment=search"], False),
    ],
)
def test_which_sweeps_share_their_runs(words: list[str], shared: bool) -> None:
    register_resolvers()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        assert sharing.is_shared(compose("config", words, return_hydra_config=True)) is shared


def test_live_line_by_hand() -> None:
    journal = [
        {"run": "a", "status": "held"},
        {"run": "b", "status": "done", "elsewhere": False},
        {"run": "c", "status": "failed"},
    ]
    assert sharing.progress(journal[:1], 5, 240) == "sweep: 0 done, 0 failed, 5 left of 5, 1 held by another command"
    half = "sweep: 1 done, 1 failed, 3 left of 5, 1 held by another command, about 4 min left"
    assert sharing.progress(journal, 5, 240) == half  # two runs in four minutes, and two that nobody holds
    journal.append({"run": "a", "status": "done", "elsewhere": True})
    assert sharing.progress(journal, 3, 240) == "sweep: 2 done (1 by another command), 1 failed, 0 left of 3"
