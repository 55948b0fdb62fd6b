"""Locks between processes, on one machine or on several that share a disk: the disk's own, or files with a heartbeat.

The disk's own lock (flock) ends with its process, whatever ends that. Where a disk has none, a file that names host,
process and claim stands for it; its time is renewed while the holder lives, so that a dead machine blocks nobody.
"""

import contextlib
import signal
import sys
import tempfile
import threading
from pathlib import Path

from filelock import AcquireReturnProxy as Held
from filelock import BaseFileLock, FileLock, LeaseCompromise, SoftFileLease, Timeout

LEASE_SECONDS = 120.0
"""A soft lock without a heartbeat for so long, by the clock of whoever waits, is taken over. Its holder renews it three
times as often, so that a busy disk or processor may miss two."""

_has_flock: dict[int, bool] = {}  # by device: a process asks each disk once


def lock_for(path: Path) -> BaseFileLock:
    """The lock of a path, not taken yet: `path` itself, or beside it ``<name>.soft`` on a disk without flock.

    Raises:
        OSError: the path's folder, which is made if it is not there, takes no file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if _disk_has_flock(path.parent):
        return FileLock(path, mode=0o666)  # of a process that was killed it stays, and others may share the folder
    # Another name, since a soft lock takes an empty file, such as flock leaves behind, for one that is held for ever.
    soft = path.with_name(f"{path.name}.soft")
    return SoftFileLease(soft, lease_duration=LEASE_SECONDS, on_compromise=_end_command)


def try_take(lock: BaseFileLock) -> Held | None:
    """Take a lock, for a ``with`` block at whose end it is released; None where another process holds it.

    Raises:
        OSError: the lock's file cannot be written.
    """
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        return None


def take(lock: BaseFileLock, waiting: str) -> Held:
    """Take a lock, as `try_take`; where another process holds it, print `waiting` and do so."""
    held = try_take(lock)
    if held is None:
        print(f"{waiting}{holder(lock)}", file=sys.stderr, flush=True)
        held = lock.acquire(timeout=-1, poll_interval=0.2)
    return held


def discard(lock: BaseFileLock) -> None:
    """Remove the file of a lock that is held and no longer needed. Whoever waits for it makes another."""
    with contextlib.suppress(OSError):
        Path(lock.lock_file).unlink()


def holder(lock: BaseFileLock) -> str:
    """Who holds a soft lock, as " (process 12 on gpu03)"; nothing where that is not known."""
    owner = lock.owner if isinstance(lock, SoftFileLease) else None
    return f" (process {owner.pid} on {owner.hostname})" if owner else ""


def _disk_has_flock(folder: Path) -> bool:
    """Whether the disk of a folder has real locks. The first time that it has none, say so."""
    device = folder.stat().st_dev
    if device not in _has_flock:
        _has_flock[device] = _flock_excludes(folder)
        if not _has_flock[device]:
            print(
                f"{folder}: this disk has no flock, so files with a heartbeat stand for locks; what a dead machine "
                f"held is taken over after {LEASE_SECONDS:.0f} seconds",
                file=sys.stderr,
            )
    return _has_flock[device]


def _flock_excludes(folder: Path) -> bool:
    """Whether flock works here and keeps a second one out. Raises OSError if the folder takes no file."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".lock-probe-") as file:
        first, second = (FileLock(file.name, fallback_to_soft=False) for _ in range(2))
        try:
            with first.acquire(timeout=0):
                return try_take(second) is None
        except OSError:
            return False
        finally:
            second.release()


def _end_command(loss: LeaseCompromise) -> None:
    """End this command as Ctrl-C does: it was suspended or cut off for so long that another may have taken over."""
    print(f"{loss.lock_file}: this lock was lost ({loss.reason}), so this command ends", file=sys.stderr)
    # A command that a script started in the background is deaf to Ctrl-C.
    deaf = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    wake = signal.SIGTERM if deaf else signal.SIGINT
    signal.pthread_kill(threading.main_thread().ident or 0, wake)  # which wakes it, whatever it waits for
