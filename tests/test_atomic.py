"""Files written whole or not at all, on a full disk and when the writer is killed."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT

from anomaly_seg import atomic


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file that is there already."""
    path = tmp_path / "folder" / "x.json"
    path.parent.mkdir()
    path.write_bytes(b"old")
    return path


def untouched(path: Path) -> bool:
    """Whether the old file is whole, and nothing lies beside it."""
    return path.read_bytes() == b"old" and os.listdir(path.parent) == [path.name]


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """The kernel refuses to let a file grow beyond so many bytes, in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "content, on_disk",
    [
        ("größer\r\nals\n", b"gr\xc3\xb6\xc3\x9fer\r\nals\n"),  # line ends as they are
        (b"\0\xff", b"\0\xff"),
        (memoryview(b"weights"), b"weights"),
        ("", b""),
    ],
)
def test_text_and_bytes_replace_what_was_there(old: Path, content: Any, on_disk: bytes) -> None:
    atomic.write(old, content)
    assert old.read_bytes() == on_disk and os.listdir(old.parent) == ["x.json"]


def test_the_folder_is_made_and_others_may_read_the_file(tmp_path: Path) -> None:
    umask = os.umask(0o077)
    try:
        atomic.write(tmp_path / "a" / "b" / "x", "new")
    finally:
        os.umask(umask)
    assert (tmp_path / "a" / "b" / "x").stat().st_mode & 0o777 == 0o644


def test_a_disk_that_fills_up_in_the_middle_of_a_write(old: Path) -> None:
    with file_size_limit(100), pytest.raises(OSError, match="File too large"):
        atomic.write(old, bytes(101))
    assert untouched(old)
    with file_size_limit(100):
        atomic.write(old, bytes(100))
    assert old.read_bytes() == bytes(100)


@pytest.mark.parametrize("call", ["fsync", "chmod", "replace"])
def test_a_disk_that_fails_at_a_later_step(old: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left on device"):
        atomic.write(old, "new")
    monkeypatch.undo()
    assert untouched(old)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, MemoryError])
def test_whatever_stops_the_writer_leaves_the_old_file(old: Path, raised: type[BaseException]) -> None:
    with pytest.raises(raised), atomic.writing(old) as (temporary,):
        temporary.write_text("half")
        raise raised
    assert untouched(old)


def test_a_file_that_was_not_written_keeps_all_places_as_they_were(old: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic.writing(old, old.with_name("y")) as (first, _):
        first.write_text("new")
    assert untouched(old)


def test_files_take_their_places_in_the_order_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, order = os.replace, []

    def watched(source: Any, target: Any) -> None:
        order.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    with atomic.writing(tmp_path / "weights", tmp_path / "graph") as (weights, graph):
        graph.write_text("g")
        weights.write_text("w")
        assert not list(tmp_path.glob("[wg]*"))  # neither is there yet
    assert order == ["weights", "graph"]
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"weights": "w", "graph": "g"}


KILLED = """
import os, signal, sys
from pathlib import Path
from anomaly_seg import atomic
with atomic.writing(Path(sys.argv[1])) as (temporary,):
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_writer_killed_in_the_middle_leaves_the_old_file(old: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED, str(old)], env=environment)
    assert done.returncode == -signal.SIGKILL and old.read_bytes() == b"old"
    (left,) = (p for p in old.parent.iterdir() if p != old)
    assert left.name.startswith(atomic.PREFIX)  # hidden: no reader takes it for an image or a run
    atomic.write(old, "new")
    assert old.read_text() == "new"
