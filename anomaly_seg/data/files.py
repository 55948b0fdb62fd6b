"""The files below a folder or inside a zip, each in one class: what every reader starts from."""

import os
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from posixpath import normpath
from unicodedata import normalize

from anomaly_seg.data.image_formats import HEAD, IMAGE_SUFFIXES, looks_like_image
from anomaly_seg.data.image_io import FileSource, Source, ZipSource, open_archive
from anomaly_seg.data.own_outputs import split_outputs
from anomaly_seg.errors import InputError

SHOWN = 5
"""Names in a message before the rest is only counted."""

BY_PRODUCTS = re.compile(
    r"(?i)(?:^|/)(?:readme|licen[cs]e|copying|citation|changelog|authors|notice|thumbs\.db|desktop\.ini)[^/]*$|\.md$"
)
"""What lies beside images and says nothing about them."""


@dataclass
class Inventory:
    """Everything below a root by its path, with forward slashes; of hidden files the images alone.

    images: files of a kind that is decoded, by their names. unread: what looks like an image but is of another kind,
    hidden, or named as none. others: the rest, annotations and tables among it. by_products: read-me files and the
    like. outputs: what anomaly-seg wrote itself, with its kind; it is in no other class.
    """

    images: dict[str, Source] = field(default_factory=dict)
    unread: dict[str, Source] = field(default_factory=dict)
    others: dict[str, Source] = field(default_factory=dict)
    by_products: dict[str, Source] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)

    @property
    def everything(self) -> dict[str, Source]:
        return self.images | self.unread | self.others | self.by_products

    def passed_over(self, used: Collection[str]) -> list[str]:
        """One sentence for each class of files that the reader did not use, with their count and first names."""
        taken, notes = set(used), []
        for what, files in (
            ("images outside the layout's folders", self.images),
            ("files that look like images but are not read (convert them to PNG, and name them so)", self.unread),
            ("other files", self.others),
        ):
            if left := sorted(files.keys() - taken):
                notes.append(f"{len(left)} {what} passed over: {some(left)}")
        if self.outputs:
            places = some(f"{place} ({kind})" for place, kind in sorted(self.outputs.items()))
            notes.append(f"left out, for anomaly-seg wrote it: {places}")
        return notes


def inventory(root: str | Path | None, remedy: str, named: bool = False) -> Inventory:
    """Everything below a folder or inside a zip.

    Hidden folders and what systems leave behind (`__MACOSX`, `._x.png`) are passed over. Links to folders are followed,
    but none to a folder that the link lies in. Letters with accents are one character (NFC), however the system that
    wrote the path took them apart.

    Args:
        root: `data.root`.
        remedy: end of the message where the root is no good: what to set it to.
        named: paths begin with the folder's own name, for data sets in which folder names mean something.

    Raises:
        InputError: not set, no such place, no complete zip, a folder that cannot be entered, or a link to nowhere.
    """
    if not root:
        raise InputError(f"data.root is not set: {remedy}")
    path = Path(root).expanduser()
    if not path.exists():
        raise InputError(f"data.root={path}: no such file or folder; {remedy}")
    if path.is_file():
        top, found = "", _members(path, remedy)
    else:
        top = normalize("NFC", f"{path.resolve().name}/") if named else ""
        found = {p.relative_to(path).as_posix(): FileSource(p) for p in sorted(_walk(path))}
    kept, outputs = split_outputs(name for name in found if _wanted(name))
    result = Inventory(outputs={top + place: kind for place, kind in outputs.items()})
    result.unread.update({top + name: source for name, source in found.items() if _hidden_image(name)})
    for name, source in _composed({name: found[name] for name in kept}).items():
        _class_of(name, source, result)[top + name] = source
    return result


def _class_of(path: str, source: Source, result: Inventory) -> dict[str, Source]:
    if is_image(path):
        return result.images
    if BY_PRODUCTS.search(path):
        return result.by_products
    return result.unread if looks_like_image(path, _head(source)) else result.others


def _head(source: Source) -> bytes:
    try:
        return content(source, HEAD)
    except InputError:  # of a class that is named all the same
        return b""


def content(source: Source, count: int = -1) -> bytes:
    """The first bytes, or all, of a file from an inventory. Raises InputError where it cannot be read."""
    assert isinstance(source, FileSource | ZipSource)
    return source.read(count)


def is_image(path: str) -> bool:
    return path.lower().endswith(IMAGE_SUFFIXES)


def stem(path: str) -> str:
    """The path without its extension."""
    return str(PurePosixPath(path).with_suffix(""))


def trimmed(name: object) -> str:
    """A label's or a group's name without blanks of any kind around it, and with composed letters (NFC).

    >>> trimmed("\\tpiece0 ")
    'piece0'
    """
    return normalize("NFC", str(name)).strip().strip("\u200b\ufeff").strip()


def some(names: Iterable[str], limit: int = SHOWN) -> str:
    """The first names of a list, and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")


class Names:
    """Finds the image that an annotation or a table means.

    Tools write paths of the machine they ran on, or leave folders out. The image meant is the one of that path, else
    the one whose path is the end of what is written, or ends with it; of several the one that agrees furthest. Where no
    name agrees so, the case of letters is left aside.
    """

    def __init__(self, images: Iterable[str]) -> None:
        self.by_name: dict[str, list[str]] = {}
        for path in sorted(images):
            self.by_name.setdefault(PurePosixPath(path).name.casefold(), []).append(path)

    def find(self, name: str, where: str) -> str | None:
        """The image's path, or None where there is no such image.

        Args:
            name: as written.
            where: who wrote it, for messages.

        Raises:
            InputError: several images could be meant.
        """
        wanted, same = _parts(name), self.same_name(name)
        if "/".join(wanted) in same:
            return "/".join(wanted)
        for change in (str, str.casefold):  # as it is written, else whatever the case of its letters
            agreeing = {path: _agreement(_parts(change(name)), _parts(change(path))) for path in same}
            most = max(agreeing.values(), default=0)
            best = [path for path, parts in agreeing.items() if parts == most > 0]
            if best:
                break
        if len(best) > 1:
            raise InputError(f"{where}: {name} could mean {some(best)}; write the path below data.root")
        return best[0] if best else None

    def same_name(self, name: str) -> list[str]:
        """Images of that file name, in whatever folder, whatever the case of its letters."""
        return self.by_name.get((_parts(name) or ("",))[-1].casefold(), [])


def _parts(path: str) -> tuple[str, ...]:
    """Folders and file of a path of any system, without what leads to them from elsewhere."""
    parts = PurePosixPath(normpath(normalize("NFC", path.strip().replace("\\", "/")))).parts
    return tuple(part for part in parts if part not in ("/", "//", "..", "."))


def _agreement(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many parts the shorter path has, if the longer one ends with it; else 0."""
    shared = min(len(one), len(other))
    return shared if shared and one[-shared:] == other[-shared:] else 0


def _composed(found: Mapping[str, Source]) -> dict[str, Source]:
    composed: dict[str, Source] = {}
    for name, source in found.items():
        path = normalize("NFC", name)
        both = path in composed or (path != name and path in found)  # ways of writing it, for two files
        composed[name if both else path] = source
    return composed


def _walk(root: Path) -> Iterator[Path]:
    """Files, but of hidden ones images alone, and nothing in hidden folders.

    Raises:
        InputError: a folder that cannot be entered, a link to nowhere, or what is no file.
    """

    def failed(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be entered ({error.strerror}); check the folder and its rights")

    above: dict[str, set[str]] = {}  # folder -> where it and the folders that lead to it really are
    for folder, folders, names in os.walk(root, onerror=failed, followlinks=True):
        above[folder] = above.get(os.path.dirname(folder), set()) | {os.path.realpath(folder)}
        folders[:] = [
            name
            for name in folders
            if _wanted(name) and os.path.realpath(os.path.join(folder, name)) not in above[folder]
        ]
        if wrong := [name for name in folders if is_image(name)]:
            raise InputError(f"{Path(folder, wrong[0])}: a folder with the name of an image; rename it, or remove it")
        for name in names:
            if not (_wanted(name) or _hidden_image(name)):
                continue
            path = Path(folder, name)
            _check_file(path)
            yield path


def _check_file(path: Path) -> None:
    try:
        usable = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        if path.is_symlink():
            raise InputError(
                f"{path}: a link that leads nowhere ({os.readlink(path)}); fetch what it points to, or remove it"
            ) from error
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file and its rights") from error
    if not usable:
        raise InputError(f"{path}: no file but a device or a pipe; remove it")


def _members(path: Path, remedy: str) -> dict[str, Source]:
    """The files in a zip; one that Windows wrote may have backward slashes."""
    if not zipfile.is_zipfile(path):
        raise InputError(
            f"data.root={path}: not a complete zip archive (cut short, or another kind of file); copy or download it "
            f"again, or {remedy}"
        )
    members = sorted(open_archive(path).namelist())
    names = {name.replace("\\", "/"): ZipSource(path, name) for name in members}
    if len(names) < len(members):
        twice = [name for name, count in Counter(name.replace("\\", "/") for name in members).items() if count > 1]
        raise InputError(f"{path}: holds several files of one name, {some(twice)}; make the zip anew")
    return {name: source for name, source in names.items() if not name.endswith("/")}


def _hidden_image(path: str) -> bool:
    place = PurePosixPath(path)
    return (
        place.name.startswith(".") and not place.name.startswith("._") and is_image(path) and _wanted(str(place.parent))
    )


def _wanted(path: str) -> bool:
    return not any((part.startswith(".") and part != ".") or part == "__MACOSX" for part in path.split("/"))
