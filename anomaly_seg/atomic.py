"""Files written whole or not at all: whoever reads sees the old file or the whole new one, even after a kill."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = ".writing-"
"""How the temporary folders begin. After a kill one may stay; its content is nobody's."""


@contextmanager
def writing(*paths: Path, prefix: str = PREFIX) -> Iterator[tuple[Path, ...]]:
    """Temporary paths to write to. When the block ends, their files are on the disk and take the places of ``paths``.

    They take them one after the other, so the file whose presence means "complete" comes last. If the block fails, or a
    file does not fit the disk, the places keep what they had. No temporary file stays, except after a kill.

    Args:
        paths: files of one folder, which is made if it is not there.
        prefix: how the name of the temporary folder begins, for whoever sweeps away what a kill has left.

    Raises:
        OSError: the folder takes no file, or the block has not written one of them.
    """
    folder = paths[0].parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=prefix, ignore_cleanup_errors=True) as name:
        temporary = tuple(Path(name) / path.name for path in paths)
        yield temporary
        for file in temporary:
            _to_disk(file)
        for file, path in zip(temporary, paths, strict=True):
            os.replace(file, path)


def write(path: Path, content: str | bytes | memoryview) -> None:
    """Write text (as UTF-8, its line ends as they are) or bytes. Raises OSError if the folder takes no file."""
    with writing(path) as (temporary,):
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def _to_disk(path: Path) -> None:
    """Wait until the content is on the disk, and let all who share the folder read it, whatever the umask is."""
    with open(path, "r+b") as file:
        os.fsync(file.fileno())
    os.chmod(path, 0o644)
