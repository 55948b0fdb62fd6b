"""How the same command, started several times, shares the runs of one grid.

A command passes by a run that another holds, and comes back to it when the rest is done: then it finds the run
finished, takes it over where the other died, or waits.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import BaseFileLock
from omegaconf import DictConfig

from anomaly_seg import locks
from anomaly_seg.errors import InputError
from anomaly_seg.results.run_files import RESULT
from anomaly_seg.training import journal

POLL_SECONDS = 1.0
"""How often a command that has nothing else to do looks at the runs that others hold."""

LOCAL_LAUNCHERS = {"basic", "joblib"}
"""Launchers whose jobs run on the command's machine, so that the command itself may come back to a run."""


def is_shared(config: DictConfig) -> bool:
    """Whether a sweep shares its runs: a grid, not a search, that replaces none (else each command would, in turn)."""
    launcher = config.hydra.runtime.choices["hydra/launcher"]
    return "n_trials" not in config.hydra.sweeper and launcher in LOCAL_LAUNCHERS and not config.overwrite


def run_lock(folder: Path) -> BaseFileLock:
    """The lock of a run's folder; see `locks.lock_for`."""
    return locks.lock_for(folder.parent / f".{folder.name}.lock")


def disk_time(folder: Path) -> float:
    """Time in seconds by the clock that dates the folder's files: on a shared disk it is not this machine's."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as file:
        return os.fstat(file.fileno()).st_mtime


def shared_since() -> float | None:
    """When this command's sweep began, by `disk_time`, if other commands may share its runs; else None."""
    start = journal.start_line()
    return start["shared_since"] if start else None


def finished_elsewhere(run: str, folder: Path) -> bool:
    """Whether another command has finished a run of this sweep since the sweep began."""
    since, result = shared_since(), folder / RESULT
    if since is None or not result.is_file() or result.stat().st_mtime < since:
        return False
    return not any(line["status"] == "done" and line["run"] == run for line in journal.read())  # by this command


def as_they_come_free(folders: Sequence[Path]) -> Iterator[tuple[int, locks.Held]]:
    """Index of each run with its lock, taken, as soon as no other process holds it.

    Args:
        folders: of runs that others hold.

    Raises:
        InputError: a lock that the disk no longer gives.
    """
    waiting = {index: run_lock(folder) for index, folder in enumerate(folders)}
    said = False
    while waiting:
        left = len(waiting)
        for index, lock in list(waiting.items()):
            try:
                held = locks.try_take(lock)
            except OSError as error:
                raise InputError(f"{folders[index]}: its lock cannot be taken ({error}); set output_dir") from error
            if held is not None:
                del waiting[index]
                yield index, held
        if len(waiting) < left:
            continue
        if not said:
            runs = ", ".join(f"{folders[index]}{locks.holder(lock)}" for index, lock in waiting.items())
            print(f"waiting for runs that other processes are at: {runs}", file=sys.stderr, flush=True)
        said = True
        time.sleep(POLL_SECONDS)


def progress(lines: Sequence[Mapping[str, Any]], total: int | None, seconds: float) -> str:
    """The live line of a sweep.

    Args:
        lines: of the journal; `status` is "done", "failed", or "held" for a run that was passed by.
        total: runs of the sweep; None: unknown.
        seconds: since its start.
    """
    done, failed = (sum(line["status"] == status for line in lines) for status in ("done", "failed"))
    settled = {line["run"] for line in lines if line["status"] in ("done", "failed")}
    held = sum(line["status"] == "held" and line["run"] not in settled for line in lines)
    elsewhere = sum(line.get("elsewhere", False) for line in lines)
    left = (total or done + failed + held) - done - failed
    minutes = seconds / 60 / max(1, done + failed) * (left - held)  # nobody knows before the first has ended
    parts = [
        f"{done} done" + f" ({elsewhere} by another command)" * bool(elsewhere),
        f"{failed} failed",
        f"{left} left of {total or done + failed + held}",
        *[f"{held} held by another command"] * bool(held),
        *[f"about {minutes:.0f} min left"] * (left > held and done + failed > 0),
    ]
    return f"sweep: {', '.join(parts)}"
