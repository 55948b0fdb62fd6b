"""The journal of a sweep: what its jobs, here or on other machines, have to say to the command that started them.

A folder with one file a line, because appends of two machines to one file on a network disk overwrite each other. It
lies below the output folder, which all of them see. A line that cannot be written or read is left out: what became of a
run stands in its own folder too, and no training ends because of its journal.
"""

import contextlib
import json
import os
import shutil
import socket
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from anomaly_seg import atomic

JOURNAL = "ANOMALY_SEG_JOURNAL"
"""Environment variable that names the folder; jobs inherit it."""
PREFIX = ".journal-"
DEAD_AFTER, STALE_AFTER = 86_400, 30 * 86_400
"""Seconds without a line after which a journal is swept away: where its process is gone from this machine, and else."""


def open_below(output_dir: Path) -> None:
    """Move on to a new journal below the output folder, and sweep away those that killed commands left there.

    Where none can be made, the one so far goes on.
    """
    with contextlib.suppress(OSError):
        prune(output_dir)
        folder = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-{socket.gethostname()}-", dir=output_dir)
        os.environ[JOURNAL] = str(Path(folder).absolute())


def prune(output_dir: Path) -> None:
    """Remove the journals whose commands are gone."""
    for folder in output_dir.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, ValueError):
            pid, _, rest = folder.name.removeprefix(PREFIX).partition("-")
            gone = rest.startswith(f"{socket.gethostname()}-") and not _alive(int(pid))
            if time.time() - folder.stat().st_mtime > (DEAD_AFTER if gone else STALE_AFTER):
                shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def append(line: dict[str, Any]) -> None:
    """Write a line, if there is a journal."""
    if JOURNAL in os.environ:
        with contextlib.suppress(OSError):
            folder = Path(os.environ[JOURNAL])
            if folder.is_dir():  # else the command that reads it is gone
                atomic.write(folder / f"{time.time_ns():020d}-{uuid.uuid4().hex}.json", json.dumps(line))


def read() -> list[dict[str, Any]]:
    """All lines so far, in the order of their writers' clocks."""
    lines = []
    for path in sorted(Path(os.environ[JOURNAL]).glob("*.json")) if JOURNAL in os.environ else []:
        with contextlib.suppress(OSError, ValueError):
            lines.append(json.loads(path.read_text(encoding="utf-8")))
    return lines


def start_line() -> dict[str, Any] | None:
    """What the journal says of the sweep; None for a single run."""
    return next((line for line in read() if line["status"] == "start"), None)
