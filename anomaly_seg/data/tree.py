"""The files below a folder or inside a zip, by path: what every reader starts from."""

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from anomaly_seg.data.records import FileSource, Source, ZipSource, open_archive
from anomaly_seg.errors import InputError

IMAGE_TYPES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
SHOWN = 5
"""Names in a message before the rest is only counted."""


def files(root: str | Path | None, remedy: str, named: bool = False) -> dict[str, Source]:
    """Everything below a folder or inside a zip, by its path with forward slashes, relative to the root.

    Hidden files and what systems leave behind (`__MACOSX`, `._x.png`) are passed over.

    Args:
        root: `data.root`.
        remedy: end of the message where the root is no good: what to set it to.
        named: paths begin with the folder's own name, for data sets in which folder names mean something.

    Raises:
        InputError: not set, no such place, or no complete zip.
    """
    if not root:
        raise InputError(f"data.root is not set: {remedy}")
    path = Path(root).expanduser()
    if not path.exists():
        raise InputError(f"data.root={path}: no such file or folder; {remedy}")
    if path.is_file():
        return {name: source for name, source in _members(path, remedy).items() if _wanted(name)}
    found = {p.relative_to(path).as_posix(): FileSource(p) for p in sorted(path.rglob("*")) if p.is_file()}
    top = f"{path.resolve().name}/" if named else ""
    return {top + name: source for name, source in found.items() if _wanted(name)}


def content(source: Source) -> bytes:
    """The bytes of a file from `files`.

    Raises:
        InputError: cannot be read.
    """
    try:
        if isinstance(source, ZipSource):
            return open_archive(source.archive).read(source.member)
        return Path(source.name).read_bytes()
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:  # RuntimeError: encrypted
        raise InputError(f"{source.name}: cannot be read ({error}); check the file and its rights") from error


def is_image(path: str) -> bool:
    return path.lower().endswith(IMAGE_TYPES)


def stem(path: str) -> str:
    """The path without its extension."""
    return str(PurePosixPath(path).with_suffix(""))


def some(names: Iterable[str], limit: int = SHOWN) -> str:
    """The first names of a list, and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")


class Names:
    """Finds the image that an annotation or a table means.

    Tools write paths of the machine they ran on. The image meant is the one of that path, else the only one whose path
    ends with it, else the only one of that file name.
    """

    def __init__(self, images: Iterable[str]) -> None:
        self.paths = set(images)
        self.by_name: dict[str, list[str]] = {}
        for path in sorted(self.paths):
            self.by_name.setdefault(PurePosixPath(path).name, []).append(path)

    def find(self, name: str, where: str) -> str | None:
        """The image's path, or None where no image has that name.

        Args:
            name: as written.
            where: who wrote it, for messages.

        Raises:
            InputError: several images could be meant.
        """
        wanted = PurePosixPath(name.replace("\\", "/"))
        if wanted.as_posix() in self.paths:
            return wanted.as_posix()
        same = self.by_name.get(wanted.name, [])
        close = [path for path in same if path.endswith(f"/{wanted.as_posix().lstrip('./')}")] or same
        if len(close) > 1:
            raise InputError(f"{where}: {name} could mean {some(close)}; write the path below data.root")
        return close[0] if close else None


def _members(path: Path, remedy: str) -> Mapping[str, Source]:
    if not zipfile.is_zipfile(path):
        raise InputError(
            f"data.root={path}: not a complete zip archive (cut short, or another kind of file); copy or download it "
            f"again, or {remedy}"
        )
    return {name: ZipSource(path, name) for name in sorted(open_archive(path).namelist()) if not name.endswith("/")}


def _wanted(path: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))
