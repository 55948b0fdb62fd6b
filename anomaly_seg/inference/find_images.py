"""From what the user named to image files: files, folders (with all below them) and globs."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from anomaly_seg.data.image_formats import IMAGE_SUFFIXES
from anomaly_seg.errors import InputError


def find_images(given: Sequence[str], leave_out: Path) -> list[str]:
    """Every image once, in the order given, folders in the order of their names.

    Args:
        given: files, folders, globs (** goes through folders). Inside a folder the suffix says what is an image; a file
            that is named itself, or by a glob, may have any name. Paths come back as they were given: relative stay
            relative. A file that is named twice, in whatever way, is in the list once.
        leave_out: nothing below this folder.

    Raises:
        InputError: a path that is not there, a glob without a match, a folder without an image or that cannot be read.
    """
    found: dict[str, str] = {}
    for text in given:
        for path in _expand(text, leave_out):
            found.setdefault(identity(path), path)
    return list(found.values())


def walk(folder: str, leave_out: Path) -> Iterator[str]:
    """Images in a folder and below it. Hidden files and folders are left out, links to folders followed once.

    Raises:
        InputError: a folder that cannot be read; one below it that has just vanished is passed over.
    """

    def failed(error: OSError) -> None:
        if isinstance(error, FileNotFoundError) and error.filename != folder:
            return
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); check the folder and its rights")

    seen = set()
    for here, folders, files in os.walk(folder, onerror=failed, followlinks=True):
        real = os.path.realpath(here)
        if real in seen or below(here, leave_out):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(here, name) for name in sorted(files) if is_image(name))


def is_image(name: str) -> bool:
    """By name: not hidden, and with the suffix of an image."""
    base = os.path.basename(name)
    return not base.startswith(".") and base.lower().endswith(IMAGE_SUFFIXES)


def identity(path: str) -> str:
    """The same for every way to name a file, by links to folders as well; a link to a file is a file of its own."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(folder), name)


def below(path: str, folder: Path) -> bool:
    """Whether the path is the folder or something in it."""
    inside, outside = os.path.abspath(path), os.path.abspath(folder)
    return inside == outside or inside.startswith(os.path.join(outside, ""))


def _expand(text: str, leave_out: Path) -> list[str]:
    if os.path.isdir(text):
        inside = list(walk(text, leave_out))
        if not inside:
            raise InputError(
                f"{text}: holds no image ({' '.join(IMAGE_SUFFIXES)}); give one that does, or files by name"
            )
        return inside
    if os.path.lexists(text):  # a name with brackets in it is no glob if there is such a file
        return [text]
    if not glob.has_magic(text):
        raise InputError(f"{text}: no such file or folder; check the path")
    matches = sorted(glob.glob(text, recursive=True))
    inside = [p for p in matches if not os.path.isdir(p) and not below(p, leave_out)]
    for match in matches:
        if os.path.isdir(match):
            inside.extend(walk(match, leave_out))
    if not inside:
        raise InputError(f"{text}: matches no file; check the pattern (** goes through folders)")
    return inside
