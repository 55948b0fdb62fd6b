"""Where the mask of an image lies: pairs in one folder, parallel folders, or good and defect folders as in MVTec AD."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal, get_args

from anomaly_seg.data.files import some, stem
from anomaly_seg.errors import InputError

Layout = Literal["auto", "pairs", "parallel", "mvtec"]

SUFFIXES = ("_mask", "_masks", "_label", "_labels", "_gt", "_seg", "_msk", "-mask", "-label", "-gt", "-msk")
IMAGE_FOLDERS = ("images", "image", "imgs", "img")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "gt", "ground_truth")
SIDES = ("train", "test", "val", "validation")
WORDS = (*IMAGE_FOLDERS, *MASK_FOLDERS, *SIDES, "good")
"""Names of folders that mean something."""
JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
NUMBER = re.compile(r"[ _.-]*\(?\d{1,3}\)?|[ _.-]+\(?[a-z]\)?", re.IGNORECASE)
NUMBER_AT_END = re.compile(r"(?:[ _.-]+\(?(?:\d{1,3}|[a-z])\)?|(?<=\D)\d{1,3})$", re.IGNORECASE)
"""What tells several masks of one image apart, behind the mask's suffix or the image's name."""


@dataclass
class Pairing:
    """Who belongs to whom, all by path.

    masks: by image, of those that have one, or several that were numbered. others: image files that are neither. bare:
    images whose folder says that they are defective, but which have no mask.
    """

    images: set[str] = field(default_factory=set)
    masks: dict[str, list[str]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    bare: set[str] = field(default_factory=set)


def pair(paths: Iterable[str], layout: Layout = "auto", suffix: str | None = None) -> tuple[str, Pairing]:
    """Recognise the layout, unless it is named, and find the mask of every image.

    The names of an image and of its mask may differ in the case of letters, where that is plain. Masks of one image
    that a number or a letter tells apart are joined.

    Args:
        paths: of all image files, relative to the root.
        layout: "auto" recognises.
        suffix: end of a mask's name before its extension; None takes any of SUFFIXES, and beside a JPEG a file of the
            same name in another format.

    Raises:
        InputError: unknown layout, a suffix that no file has, several layouts recognised or not the one that is named,
            a mask without image, two images for one mask, or two masks for one image.
    """
    if layout not in get_args(Layout):
        raise InputError(f"data.layout={layout}: choose {', '.join(get_args(Layout))}")
    images = sorted(paths)
    if not images:
        raise InputError("no image found (looked for .png, .jpg, .bmp and .tif below data.root); set data.root")
    suffixes = SUFFIXES if suffix is None else (suffix,) if suffix else ()
    if suffix and all(_base(stem(path), suffixes) is None for path in images):
        raise InputError(f"data.mask_suffix={suffix}: no name of an image file ends so; leave it out, or mend it")
    chosen = _recognise(images, suffixes, suffix is None) if layout == "auto" else layout
    found = _match(*SORT[chosen](images, suffixes, suffix is None), suffixes)
    if not found.images:
        raise InputError(f"data.layout={chosen}: {MISSING[chosen]} below data.root; set data.layout, or data.root")
    if chosen == "mvtec":
        found.bare = {path for path in found.images - found.masks.keys() if not _good(path)}
    return chosen, found


def _recognise(images: list[str], suffixes: tuple[str, ...], formats: bool) -> str:
    """The one layout with a sign of its own; without any, images alone."""
    stems, folders = {stem(path).casefold() for path in images}, _folders(images)
    jpeg = {stem(path).casefold() for path in images if path.lower().endswith(JPEG_SUFFIXES)}
    other = {stem(path).casefold() for path in images if not path.lower().endswith(JPEG_SUFFIXES)}
    beside = [path for path in images if (base := mask_base(path, suffixes)) and base.casefold() in stems]
    signs = {
        "pairs": beside or (sorted(jpeg & other) if formats else []),
        "parallel": [path for path in images if _parallel_place(path, folders, IMAGE_FOLDERS, MASK_FOLDERS)],
        "mvtec": [path for path in images if _mvtec_sign(path, folders)],
    }
    found = {name: paths for name, paths in signs.items() if paths}
    if len(found) > 1:
        examples = " and like ".join(f"{name} ({paths[0]})" for name, paths in found.items())
        raise InputError(f"data.root looks like {examples}; set data.layout to the one that it is")
    return next(iter(found), "pairs")


Keyed = dict[str, list[str]]
"""Paths of images by what they have in common with their masks."""

Drawn = list[tuple[str, str]]
"""Masks: each one's path without what makes it a mask's by its folder, and without its extension; and its path."""


def _pairs(images: list[str], suffixes: tuple[str, ...], formats: bool) -> tuple[Keyed, Drawn, list[str]]:
    pictures, drawn = Keyed(), Drawn()
    for path in images:
        if _base(stem(path), suffixes) is None:
            pictures.setdefault(stem(path), []).append(path)
        else:
            drawn.append((stem(path), path))
    known = {key.casefold() for key in pictures}
    further = [key for key in pictures if any(base.casefold() in known for base, _ in _further(key, suffixes))]
    drawn += [(key, path) for key in further for path in pictures.pop(key)]
    if formats:
        drawn += _pair_formats(pictures, {(_base(key, suffixes) or key).casefold() for key, _ in drawn})
    return pictures, drawn, []


def _pair_formats(pictures: Keyed, masked: set[str]) -> Drawn:
    """Of a JPEG and a file of its name in another format, the latter is the mask, and taken from the pictures."""
    same: dict[str, list[str]] = {}
    for key in pictures:
        same.setdefault(key.casefold(), []).append(key)
    drawn = Drawn()
    for folded, keys in same.items():
        paths = [path for key in keys for path in pictures[key]]
        lossy = [path for path in paths if path.lower().endswith(JPEG_SUFFIXES)]
        if len(paths) == 2 and len(lossy) == 1:
            for key in keys:
                del pictures[key]
            pictures[stem(lossy[0])] = lossy
            drawn += [(stem(lossy[0]), path) for path in paths if path not in lossy]
        elif len(paths) > len(keys) and folded not in masked:
            raise InputError(f"{some(paths)}: which is the image, which the mask? set data.mask_suffix, or remove one")
    return drawn


def _parallel(images: list[str], suffixes: tuple[str, ...], formats: bool) -> tuple[Keyed, Drawn, list[str]]:
    pictures, drawn, others, folders = Keyed(), Drawn(), [], _folders(images)
    for path in images:
        if key := _parallel_place(path, folders, IMAGE_FOLDERS, MASK_FOLDERS):
            pictures.setdefault(key, []).append(path)
        elif key := _parallel_place(path, folders, MASK_FOLDERS, IMAGE_FOLDERS):
            drawn.append((key, path))
        else:
            others.append(path)
    return pictures, drawn, others


def _parallel_place(path: str, folders: set[str], mine: tuple[str, ...], theirs: tuple[str, ...]) -> str | None:
    """The path with its images or masks folder cut out, if a folder of the other kind stands beside it."""
    parts = PurePosixPath(path).parts
    for i, part in enumerate(parts[:-1]):
        beside = {"/".join([*parts[:i], word]).lower() for word in theirs}
        if part.lower() in mine and beside & folders:
            return stem("/".join([*parts[:i], *parts[i + 1 :]]))
    return None


def _mvtec(images: list[str], suffixes: tuple[str, ...], formats: bool) -> tuple[Keyed, Drawn, list[str]]:
    pictures, drawn, others, folders = Keyed(), Drawn(), [], _folders(images)
    for path in images:
        parts = PurePosixPath(path).parts
        place = next((i for i, part in enumerate(parts[:-2]) if part.lower() in (*SIDES, "ground_truth")), None)
        if place is not None:
            key = stem("/".join([*parts[:place], *parts[place + 1 :]]))
            if parts[place].lower() == "ground_truth":
                drawn.append((key, path))
            else:
                # a good image has no mask that another could claim
                pictures.setdefault(stem(path) if _good(path) else key, []).append(path)
        elif len(parts) > 1 and "/".join([*parts[:-2], "ground_truth"]).lower() in folders:
            pictures.setdefault(stem(path), []).append(path)
        else:
            others.append(path)
    return pictures, drawn, others


def _mvtec_sign(path: str, folders: set[str]) -> bool:
    """train/good or test/good, or ground_truth/KIND beside a folder KIND, with train or test in between or not."""
    parts = PurePosixPath(path).parts
    for i, part in enumerate(parts[:-2]):
        if part.lower() in SIDES and parts[i + 1].lower() == "good":
            return True
        beside = {"/".join([*parts[:i], *side, parts[i + 1]]).lower() for side in ((), *((name,) for name in SIDES))}
        if part.lower() == "ground_truth" and folders & beside:
            return True
    return False


def _match(pictures: Keyed, drawn: Drawn, others: list[str], suffixes: tuple[str, ...]) -> Pairing:
    same: dict[str, list[str]] = {}
    for key in pictures:
        same.setdefault(key.casefold(), []).append(key)
    found: dict[str, dict[str, str]] = {}  # image -> mask -> its name without a number
    for key, path in drawn:
        owners = [(base, core) for base, core in _owners(key, path, suffixes) if base.casefold() in same]
        if not owners:
            raise InputError(
                f"{path}: mask without its image; restore the image or remove the mask, or set data.mask_suffix if "
                "it is an image itself"
            )
        base, core = owners[0]
        claimed = pictures.get(base) or [image for one in same[base.casefold()] for image in pictures[one]]
        if len(claimed) > 1:
            raise InputError(f"{some(claimed)}: several images claim the mask {path}; rename or remove one")
        found.setdefault(claimed[0], {})[path] = core
    for image, cores in found.items():
        if len(cores) > 1 and len(set(cores.values())) > 1:
            raise InputError(
                f"{some(sorted(cores))}: several masks for {image}; keep one, or tell them apart by a number alone"
            )
    images = {path for paths in pictures.values() for path in paths}
    return Pairing(images, {image: sorted(cores) for image, cores in found.items()}, others)


def _owners(key: str, path: str, suffixes: tuple[str, ...]) -> list[tuple[str, str]]:
    """Names that the image of a mask may have, the likeliest first, each with the mask's name without a number."""
    base, found = _base(key, suffixes), []
    if key != stem(path) or base is None:  # by its folder, or its format, which needs no suffix
        number = NUMBER_AT_END.search(key)
        bare = key[: number.start()] if number else key
        found = [(key, key), (bare, bare), (str(PurePosixPath(key).parent), str(PurePosixPath(key).parent))]
    plain = [] if base is None else [(base, key)]
    return [*found[:1], *plain, *_further(key, suffixes), *found[1:]]


def _further(name: str, suffixes: tuple[str, ...]) -> list[tuple[str, str]]:
    """What precedes a mask's suffix that something else follows, and the name without that if it is a number."""
    found, start = [], len(name) - len(PurePosixPath(name).name)
    for suffix in suffixes:
        at = name.lower().rfind(suffix.lower(), start)
        rest = name[at + len(suffix) :]
        if at > start and suffix[-1:].isalpha() and (NUMBER.fullmatch(rest) or rest[:1] in tuple(" _.-(")):
            found.append((name[:at], name[: at + len(suffix)] if NUMBER.fullmatch(rest) else name))
    return found


def mask_base(path: str, suffixes: tuple[str, ...] = SUFFIXES) -> str | None:
    """The name of the image whose mask a file is called, or None where its name is no mask's."""
    base, further = _base(stem(path), suffixes), _further(stem(path), suffixes)
    return base if base is not None else further[0][0] if further else None


def _base(name: str, suffixes: tuple[str, ...]) -> str | None:
    """The name without the suffix that marks a mask, or None where it has none."""
    for suffix in suffixes:
        if name.lower().endswith(suffix.lower()) and len(PurePosixPath(name).name) > len(suffix):
            return name[: -len(suffix)]
    return None


def _good(path: str) -> bool:
    return PurePosixPath(path).parent.name.lower() == "good"


def _folders(images: Iterable[str]) -> set[str]:
    """All folders that hold an image at any depth, in lower case."""
    return {str(parent).lower() for path in images for parent in PurePosixPath(path).parents}


SORT: dict[str, Callable[[list[str], tuple[str, ...], bool], tuple[Keyed, Drawn, list[str]]]] = {
    "pairs": _pairs,
    "parallel": _parallel,
    "mvtec": _mvtec,
}
MISSING = {
    "pairs": "only masks",
    "parallel": "no images/ beside a masks/",
    "mvtec": "no train/, test/ or ground_truth/",
}
