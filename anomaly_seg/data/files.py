"""The files below a folder or inside a zip, by path: what every reader starts from."""

import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from posixpath import normpath
from unicodedata import normalize

from anomaly_seg.data.image_io import IMAGE_SUFFIXES, FileSource, Source, ZipSource, open_archive
from anomaly_seg.errors import InputError

SHOWN = 5
"""Names in a message before the rest is only counted."""


def files(root: str | Path | None, remedy: str, named: bool = False) -> dict[str, Source]:
    """Everything below a folder or inside a zip, by its path with forward slashes, relative to the root.

    Hidden files and what systems leave behind (`__MACOSX`, `._x.png`) are passed over. Links to folders are followed,
    but none to a folder that the link lies in. Letters with accents are one character (NFC), however the system that
    wrote the path took them apart.

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
        return _composed("", _members(path, remedy))
    found = {p.relative_to(path).as_posix(): FileSource(p) for p in sorted(_walk(path)) if p.is_file()}
    return _composed(normalize("NFC", f"{path.resolve().name}/") if named else "", found)


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
    return path.lower().endswith(IMAGE_SUFFIXES)


def stem(path: str) -> str:
    """The path without its extension."""
    return str(PurePosixPath(path).with_suffix(""))


def some(names: Iterable[str], limit: int = SHOWN) -> str:
    """The first names of a list, and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")


class Names:
    """Finds the image that an annotation or a table means.

    Tools write paths of the machine they ran on, or leave folders out. The image meant is the one of that path, else
    the one whose path is the end of what is written, or ends with it; of several the one that agrees furthest.
    """

    def __init__(self, images: Iterable[str]) -> None:
        self.by_name: dict[str, list[str]] = {}
        for path in sorted(images):
            self.by_name.setdefault(PurePosixPath(path).name, []).append(path)

    def find(self, name: str, where: str) -> str | None:
        """The image's path, or None where there is no such image.

        Args:
            name: as written.
            where: who wrote it, for messages.

        Raises:
            InputError: several images could be meant.
        """
        wanted = _parts(name)
        same = self.same_name(name)
        if "/".join(wanted) in same:
            return "/".join(wanted)
        agreeing = {path: _agreement(wanted, _parts(path)) for path in same}
        most = max(agreeing.values(), default=0)
        best = [path for path, parts in agreeing.items() if parts == most > 0]
        if len(best) > 1:
            raise InputError(f"{where}: {name} could mean {some(best)}; write the path below data.root")
        return best[0] if best else None

    def same_name(self, name: str) -> list[str]:
        """Images of that file name, in whatever folder."""
        return self.by_name.get((_parts(name) or ("",))[-1], [])


def _parts(path: str) -> tuple[str, ...]:
    """Folders and file of a path of any system, without what leads to them from elsewhere."""
    parts = PurePosixPath(normpath(normalize("NFC", path.replace("\\", "/")))).parts
    return tuple(part for part in parts if part not in ("/", "//", "..", "."))


def _agreement(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many parts the shorter path has, if the longer one ends with it; else 0."""
    shared = min(len(one), len(other))
    return shared if shared and one[-shared:] == other[-shared:] else 0


def _composed(top: str, found: Mapping[str, Source]) -> dict[str, Source]:
    composed: dict[str, Source] = {}
    for name, source in found.items():
        if _wanted(name):
            path = normalize("NFC", name)
            both = path in composed or (path != name and path in found)  # ways of writing it, for two files
            composed[name if both else path] = source
    return {top + name: source for name, source in composed.items()}


def _walk(root: Path) -> Iterator[Path]:
    above: dict[str, set[str]] = {}  # folder -> where it and the folders that lead to it really are
    for folder, folders, names in os.walk(root, followlinks=True):
        above[folder] = above.get(os.path.dirname(folder), set()) | {os.path.realpath(folder)}
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(folder, name)) not in above[folder]]
        yield from (Path(folder, name) for name in names)


def _members(path: Path, remedy: str) -> Mapping[str, Source]:
    if not zipfile.is_zipfile(path):
        raise InputError(
            f"data.root={path}: not a complete zip archive (cut short, or another kind of file); copy or download it "
            f"again, or {remedy}"
        )
    return {name: ZipSource(path, name) for name in sorted(open_archive(path).namelist()) if not name.endswith("/")}


def _wanted(path: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))
