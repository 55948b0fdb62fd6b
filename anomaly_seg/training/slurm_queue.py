"""What SLURM's queue says of jobs, and what their runs' files say once they have left it.

A job that `squeue` no longer shows has ended. How it ended SLURM does not know well: COMPLETED says nothing of a run,
its result file does.
"""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from anomaly_seg.results import run_files
from anomaly_seg.training import journal

ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
"""States from which no job comes back by itself."""
REMEDIES = {
    "OUT_OF_MEMORY": "raise hydra.launcher.mem_gb, or lower batch_size",
    "TIMEOUT": "raise hydra.launcher.timeout_min or signal_delay_s",
}


@dataclass(frozen=True)
class State:
    """State of a job in SLURM's words, and why it waits."""

    name: str
    reason: str = ""

    @property
    def ended(self) -> bool:
        return self.name in ENDED


@dataclass(frozen=True)
class Job:
    """A job in the queue.

    Attributes:
        id: SLURM's, as 12_3.
        run: the run's place below the output folder.
        folder: the run's.
        log: the job's, which is there once the job has begun.
    """

    id: str
    run: str
    folder: Path
    log: Path


def states() -> dict[str, State] | None:
    """The state of each of the user's jobs that have not ended, or not long ago; None where SLURM does not answer."""
    command = ["squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i %T %r"]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        print(f"slurm: no answer ({answer.stderr.strip()}); asking again", file=sys.stderr, flush=True)
        return None
    return read_states(answer.stdout)


def read_states(text: str) -> dict[str, State]:
    """Jobs by id, from lines of id, state and reason.

    >>> read_states("12_0 RUNNING None\\n12_1 PENDING (Resources)\\n")["12_1"]
    State(name='PENDING', reason='Resources')
    """
    rows = [line.split(maxsplit=2) for line in text.splitlines() if line.strip()]
    return {row[0]: State(row[1], row[2].strip("()") if len(row) > 2 else "") for row in rows}


def watch(jobs: Sequence[Job], poll_s: float, live_line: Callable[[], None]) -> None:
    """Wait until every job's run is settled; those that say nothing themselves get a line in the journal.

    Args:
        jobs: in the queue.
        poll_s: seconds between two looks, at most; they begin with one.
        live_line: is called whenever runs have been settled.
    """
    open_jobs, missed, delay, said = {job.id: job for job in jobs}, set[str](), min(1.0, poll_s), ""
    while open_jobs:
        time.sleep(delay)
        delay = min(poll_s, 1.5 * delay)
        now = states()
        if now is None:
            continue
        told = {line["run"] for line in journal.read() if line["status"] in ("done", "failed")}
        settled = [job for job in open_jobs.values() if _settle(job, now.get(job.id), told, missed)]
        for job in settled:
            del open_jobs[job.id]
        if settled:
            live_line()
        line = _line([now[job] for job in open_jobs if job in now and not now[job].ended])
        if open_jobs and line != said:
            print(line, file=sys.stderr, flush=True)
        said = line


def _settle(job: Job, state: State | None, told: set[str], missed: set[str]) -> bool:
    """Whether the run is settled. A job that ended without a word gets one more look: its files may be on the way."""
    if job.run in told:
        return True
    if state is not None and not state.ended:
        missed.discard(job.id)
        return False
    if run_files.finished(job.folder):
        journal.append({"run": job.run, "status": "done", "folder": str(job.folder)})
        return True
    if job.id not in missed:
        missed.add(job.id)
        return False
    _fail(job, "gone from the queue" if state is None else state.name)
    return True


def _fail(job: Job, how: str) -> None:
    """A line for a run whose job ended without one: killed, cancelled, or on a node that does not see the journal."""
    failure = job.folder / run_files.FAILURE
    begun = job.log.is_file()
    if begun and failure.is_file():
        error, trace = failure.read_text(encoding="utf-8").strip().splitlines()[-1], str(failure)
    else:
        remedy = REMEDIES.get(how, "the same command queues it again")
        error, trace = f"job {job.id} ended without a result ({how}): {remedy}", str(job.log) if begun else ""
    journal.append({"run": job.run, "status": "failed", "error": error, "trace": trace, "input": False})
    print(f"{job.folder}: {error}", file=sys.stderr, flush=True)


def _line(now: Sequence[State]) -> str:
    """How many jobs run, and how many wait for what."""
    waiting = Counter(state.reason for state in now if state.name == "PENDING")
    parts = [f"{len(now) - waiting.total()} running", *[f"{n} waiting ({why})" for why, n in sorted(waiting.items())]]
    return f"slurm: {', '.join(parts)}"


def cancel(jobs: Sequence[Job]) -> None:
    """Cancel those that have not ended, or say how to."""
    now: Mapping[str, State] = states() or {job.id: State("UNKNOWN") for job in jobs}
    ids = [job.id for job in jobs if job.id in now and not now[job.id].ended]
    if not ids:
        return
    done = subprocess.run(["scancel", *ids], capture_output=True, text=True)
    if done.returncode:
        print(f"slurm: {len(ids)} jobs still run ({done.stderr.strip()}): scancel {' '.join(ids)}", file=sys.stderr)
    else:
        print(f"slurm: {len(ids)} jobs cancelled", file=sys.stderr, flush=True)
