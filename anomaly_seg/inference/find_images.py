"""From what the user named to image files: files, folders (with all below them) and globs."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anomaly_seg.data.image_formats import HEAD, IMAGE_SUFFIXES, UNFINISHED_SUFFIXES, looks_like_image
from anomaly_seg.data.own_outputs import own_entries
from anomaly_seg.errors import InputError


@dataclass
class PassedOver:
    """What a walk through folders found that is no image.

    others: files whose name and content are no image's. outputs: files and folders that anomaly-seg wrote, with kind.
    """

    others: list[str] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)


def find_images(given: Sequence[str], leave_out: Path, passed_over: PassedOver | None = None) -> list[str]:
    """Every image once, in the order given, folders in the order of their names.

    Args:
        given: files, folders, globs (** goes through folders). Inside a folder the suffix or the content says what is
            an image, of whatever kind; a file that is named itself, or by a glob, may have any name. Paths come back as
            they were given: relative stay relative. A file that is named twice, in whatever way, is in the list once.
        leave_out: nothing below this folder, nor what anomaly-seg wrote into others.
        passed_over: takes what was left out, except hidden files.

    Raises:
        InputError: a path that is not there, a glob without a match, a folder without an image, that anomaly-seg wrote,
            or that cannot be read.
    """
    found: dict[str, str] = {}
    for text in given:
        for path in _expand(text, leave_out, passed_over):
            found.setdefault(identity(path), path)
    return list(found.values())


def walk(folder: str, leave_out: Path, passed_over: PassedOver | None = None) -> Iterator[str]:
    """Images in a folder and below it. Hidden files and folders are left out, links to folders followed once.

    Raises:
        InputError: a folder that cannot be read, or that anomaly-seg wrote; one below it that has just vanished is
            passed over.
    """

    def failed(error: OSError) -> None:
        if isinstance(error, FileNotFoundError) and error.filename != folder:
            return
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); check the folder and its rights")

    if (kind := output_kind(folder)) and not below(folder, leave_out):
        raise InputError(f"{folder}: pictures that anomaly-seg made ({kind}), no parts; name the images themselves")
    seen, passed_over = set(), passed_over or PassedOver()
    for here, folders, files in os.walk(folder, onerror=failed, followlinks=True):
        real = os.path.realpath(here)
        if real in seen or below(here, leave_out):
            folders.clear()
            continue
        seen.add(real)
        own = own_entries([*folders, *files], top=here == folder)
        passed_over.outputs |= {os.path.join(here, name): kind for name, kind in own.items()}
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in own)
        for name in sorted(name for name in files if not name.startswith(".") and name not in own):
            path = os.path.join(here, name)
            if is_image(path):
                yield path
            else:
                passed_over.others.append(path)


def is_image(path: str) -> bool:
    """Not hidden, and an image by name or content, of whatever kind, or a link to nowhere that may be one."""
    name = os.path.basename(path)
    if name.startswith("."):
        return False
    if name.lower().endswith(IMAGE_SUFFIXES):
        return True
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError:  # judged, it is reported as unreadable
        return os.path.lexists(path) and not name.lower().endswith(UNFINISHED_SUFFIXES)
    return looks_like_image(name, head)


def output_kind(path: str) -> str | None:
    """What anomaly-seg wrote a file or a folder as, told by what lies beside it and beside its folder."""
    place = Path(os.path.abspath(path))
    for entry in (place, place.parent):
        try:
            names = os.listdir(entry.parent)
        except OSError:
            continue
        if kind := own_entries(names, top=True).get(entry.name):
            return kind
    return None


def identity(path: str) -> str:
    """The same for every way to name a file, by links to folders as well; a link to a file is a file of its own."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(folder), name)


def below(path: str, folder: Path) -> bool:
    """Whether the path is the folder or something in it."""
    inside, outside = os.path.abspath(path), os.path.abspath(folder)
    return inside == outside or inside.startswith(os.path.join(outside, ""))


def _expand(text: str, leave_out: Path, passed_over: PassedOver | None) -> list[str]:
    if os.path.isdir(text):
        inside = list(walk(text, leave_out, passed_over))
        if not inside:
            raise InputError(
                f"{text}: holds no image ({' '.join(IMAGE_SUFFIXES)}); give one that does, or files by name"
            )
        return inside
    if os.path.lexists(text):  # a name with brackets in it is no glob if there is such a file
        return [text]
    if not glob.has_magic(text):
        raise InputError(f"{text}: no such file or folder; check the path")
    matches = sorted(path for path in glob.glob(text, recursive=True) if not below(path, leave_out))
    inside = [path for path in matches if not os.path.isdir(path) and not output_kind(path)]
    for match in matches:
        if os.path.isdir(match) and not output_kind(match):
            inside.extend(walk(match, leave_out, passed_over))
    if not inside:
        raise InputError(f"{text}: matches no file; check the pattern (** goes through folders)")
    return inside
