"""Locks between processes: which kind a disk gives, and what is left of dead holders."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock, SoftFileLease
from support.paths import ROOT
from support.sweeps import small

from anomaly_seg import locks
from anomaly_seg.cli import main


def refuse(number: int) -> Callable:
    def flock(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return flock


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without flock, on which soft locks are stale after half a second."""
    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOTSUP))
    monkeypatch.setattr(locks, "_has_flock", {})
    monkeypatch.setattr(locks, "LEASE_SECONDS", 0.5)


def marker(path: Path, host: str, pid: int) -> Path:
    """The file of a soft lock as its library's second protocol has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"filelock/2\npid={pid}\nhost={host}\nmode=lease\ntoken=0123\nduration={locks.LEASE_SECONDS!r}\n")
    return path


CHILD = """
import errno, fcntl, os, signal, sys, time
from pathlib import Path
from anomaly_seg import locks

def refuse(*_):
    raise OSError(errno.ENOSYS, "")

fcntl.flock = refuse
locks.LEASE_SECONDS = 0.5
signal.signal(signal.SIGINT, signal.SIG_IGN if sys.argv[2] == "deaf" else signal.default_int_handler)
lock = locks.lock_for(Path(sys.argv[1]))
with locks.take(lock, "waiting"):
    if sys.argv[2] == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    os.unlink(lock.lock_file)  # as whoever takes it over does
    time.sleep(60)
"""


def hold(path: Path, end: str) -> subprocess.CompletedProcess:
    """Take a soft lock in another process, which dies with it, or loses it."""
    command = [sys.executable, "-c", CHILD, str(path), end]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)


def test_a_disk_with_flock(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    first, second = (locks.lock_for(tmp_path / "new" / "x.lock") for _ in range(2))
    assert isinstance(first, FileLock)
    with locks.take(first, "waiting"):
        assert locks.try_take(second) is None
    held = locks.try_take(second)
    assert held is not None
    held.__exit__(None, None, None)
    assert capfd.readouterr().err == "" and os.listdir(tmp_path / "new") == ["x.lock"]


@pytest.mark.parametrize("flock", [refuse(n) for n in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)] + [lambda *_: None])
def test_a_disk_without_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, flock: Callable
) -> None:
    """Its flock ends with an error, or keeps nobody out."""
    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(locks, "_has_flock", {})
    first, second = (locks.lock_for(tmp_path / "x.lock") for _ in range(2))
    assert isinstance(first, SoftFileLease)
    said = capfd.readouterr().err
    assert said.count("this disk has no flock") == 1 and f"{tmp_path}: " in said and "after 120 seconds" in said
    with locks.take(first, "waiting"):
        assert locks.try_take(second) is None
        assert locks.holder(second).startswith(f" (process {os.getpid()} on {socket.gethostname()}")
        assert os.listdir(tmp_path) == ["x.lock.soft"]
    assert os.listdir(tmp_path) == []


def test_a_folder_that_takes_no_file_is_no_question_of_flock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_has_flock", {})
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse(errno.EROFS))
    with pytest.raises(OSError, match="Read-only file system"):
        locks.lock_for(tmp_path / "x.lock")


@pytest.mark.usefixtures("no_flock")
def test_a_dead_process_of_this_machine_blocks_nobody(tmp_path: Path) -> None:
    assert hold(tmp_path / "x.lock", "dies").returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == ["x.lock.soft"]
    lock = locks.lock_for(tmp_path / "x.lock")
    assert locks.try_take(lock) is not None  # at once
    lock.release()


@pytest.mark.usefixtures("no_flock")
def test_a_machine_without_heartbeat_is_dead_and_one_with_it_is_waited_for(tmp_path: Path) -> None:
    lock = locks.lock_for(tmp_path / "x.lock")
    path, stop = marker(Path(lock.lock_file), "another-machine", 1), threading.Event()

    def beat() -> None:
        while not stop.wait(0.1):
            os.utime(path)

    heart = threading.Thread(target=beat)
    heart.start()
    began = time.monotonic()
    while time.monotonic() < began + 1.5:  # three times as long as a heart may stand still
        assert locks.try_take(lock) is None
        time.sleep(0.02)
    stop.set()
    heart.join()
    stopped = time.monotonic()
    locks.take(lock, "waiting")
    assert 0.3 < time.monotonic() - stopped < 30  # the last beat was a tenth before
    lock.release()


@pytest.mark.usefixtures("no_flock")
def test_a_grid_on_such_a_disk_takes_over_what_a_dead_machine_held(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    runs = tmp_path / "runs/train/synthetic/one_stage/D5/fold0"
    marker(runs / ".seed0.lock.soft", "another-machine", 1)
    assert main(["train", *small(tmp_path), "epochs=1", "seed=0,1", "fold=0", "-m"]) == 0
    said = capfd.readouterr().err
    assert f"waiting for runs that other processes are at: {runs / 'seed0'} (process 1 on another-machine)" in said
    assert said.count("this disk has no flock") == 1 and "2 done, 0 failed, 0 left of 2" in said
    assert sorted(path.name for path in runs.iterdir()) == ["seed0", "seed1"]


def test_a_command_in_the_background_ends_too_when_its_lock_was_taken_over(tmp_path: Path) -> None:
    assert hold(tmp_path / "x.lock", "deaf").returncode == -signal.SIGTERM


def test_a_command_whose_lock_was_taken_over_ends(tmp_path: Path) -> None:
    lost = hold(tmp_path / "x.lock", "loses it")
    assert lost.returncode != 0 and "KeyboardInterrupt" in lost.stderr
    assert "x.lock.soft: this lock was lost (marker-missing)" in lost.stderr
