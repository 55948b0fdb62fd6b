"""Where the mask of an image lies: pairs in one folder, parallel folders, or good and defect folders as in MVTec AD."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal, get_args

from anomaly_seg.data.files import is_image, some, stem
from anomaly_seg.errors import InputError

Layout = Literal["auto", "pairs", "parallel", "mvtec"]

SUFFIXES = ("_mask", "_masks", "_label", "_labels", "_gt", "_seg", "_msk", "-mask", "-label", "-gt", "-msk")
IMAGE_FOLDERS = ("images", "image", "imgs", "img")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "gt", "ground_truth")
SIDES = ("train", "test", "val", "validation")
WORDS = (*IMAGE_FOLDERS, *MASK_FOLDERS, *SIDES, "good")
"""Names of folders that mean something."""
LOSSY = (".jpg", ".jpeg")


@dataclass
class Pairing:
    """Who belongs to whom, all by path.

    masks: by image, of those that have one. others: image files that are neither. bare: images whose folder says that
    they are defective, but which have no mask.
    """

    images: set[str] = field(default_factory=set)
    masks: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    bare: set[str] = field(default_factory=set)


def pair(paths: Iterable[str], layout: Layout = "auto", suffix: str | None = None) -> tuple[str, Pairing]:
    """Recognise the layout, unless it is named, and find the mask of every image.

    Args:
        paths: of all files, relative to the root.
        layout: "auto" recognises.
        suffix: end of a mask's name before its extension; None takes any of SUFFIXES, and beside a JPEG a file of the
            same name in another format.

    Raises:
        InputError: unknown layout, a suffix that no file has, several layouts recognised or not the one that is named,
            a mask without image, two images for one mask, or two masks for one image.
    """
    if layout not in get_args(Layout):
        raise InputError(f"data.layout={layout}: choose {', '.join(get_args(Layout))}")
    images = sorted(filter(is_image, paths))
    if not images:
        raise InputError("no image found (looked for .png, .jpg, .bmp and .tif below data.root); set data.root")
    suffixes = SUFFIXES if suffix is None else (suffix,) if suffix else ()
    if suffix and all(_base(stem(path), suffixes) is None for path in images):
        raise InputError(f"data.mask_suffix={suffix}: no name of an image file ends so; leave it out, or mend it")
    chosen = _recognise(images, suffixes, suffix is None) if layout == "auto" else layout
    found = _match(*SORT[chosen](images, suffixes, suffix is None))
    if not found.images:
        raise InputError(f"data.layout={chosen}: {MISSING[chosen]} below data.root; set data.layout, or data.root")
    if chosen == "mvtec":
        found.bare = {path for path in found.images - found.masks.keys() if not _good(path)}
    return chosen, found


def _recognise(images: list[str], suffixes: tuple[str, ...], formats: bool) -> str:
    """The one layout with a sign of its own; without any, images alone."""
    stems, folders = {stem(path) for path in images}, _folders(images)
    jpeg = {stem(path) for path in images if path.lower().endswith(LOSSY)}
    other = {stem(path) for path in images if not path.lower().endswith(LOSSY)}
    beside = [path for path in images if _base(stem(path), suffixes) in stems]
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
"""Paths by what an image and its mask have in common."""


def _pairs(images: list[str], suffixes: tuple[str, ...], formats: bool) -> tuple[Keyed, Keyed, list[str]]:
    pictures, masks = Keyed(), Keyed()
    for path in images:
        base = _base(stem(path), suffixes)
        (pictures if base is None else masks).setdefault(base or stem(path), []).append(path)
    for key, paths in pictures.items():
        lossy = [path for path in paths if path.lower().endswith(LOSSY)]
        if len(paths) == 2 and len(lossy) == 1 and formats:
            pictures[key] = lossy
            masks.setdefault(key, []).extend(path for path in paths if path not in lossy)
        elif len(paths) > 1 and formats and key not in masks:
            raise InputError(f"{some(paths)}: which is the image, which the mask? set data.mask_suffix, or remove one")
    return pictures, masks, []


def _parallel(images: list[str], suffixes: tuple[str, ...], formats: bool) -> tuple[Keyed, Keyed, list[str]]:
    pictures, masks, others, folders = Keyed(), Keyed(), [], _folders(images)
    drawn = []
    for path in images:
        if key := _parallel_place(path, folders, IMAGE_FOLDERS, MASK_FOLDERS):
            pictures.setdefault(key, []).append(path)
        elif key := _parallel_place(path, folders, MASK_FOLDERS, IMAGE_FOLDERS):
            drawn.append((key, path))
        else:
            others.append(path)
    for key, path in drawn:
        masks.setdefault(key if key in pictures else _base(key, suffixes) or key, []).append(path)
    return pictures, masks, others


def _parallel_place(path: str, folders: set[str], mine: tuple[str, ...], theirs: tuple[str, ...]) -> str | None:
    """The path with its images or masks folder cut out, if a folder of the other kind stands beside it."""
    parts = PurePosixPath(path).parts
    for i, part in enumerate(parts[:-1]):
        beside = {"/".join([*parts[:i], word]).lower() for word in theirs}
        if part.lower() in mine and beside & folders:
            return stem("/".join([*parts[:i], *parts[i + 1 :]]))
    return None


def _mvtec(images: list[str], suffixes: tuple[str, ...], formats: bool) -> tuple[Keyed, Keyed, list[str]]:
    pictures, masks, others, folders = Keyed(), Keyed(), [], _folders(images)
    drawn = []
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
    for key, path in drawn:
        masks.setdefault(key if key in pictures else _base(key, suffixes) or key, []).append(path)
    return pictures, masks, others


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


def _match(pictures: Keyed, masks: Keyed, others: list[str]) -> Pairing:
    for key, paths in masks.items():
        if key not in pictures:
            raise InputError(
                f"{paths[0]}: mask without its image; restore the image or remove the mask, or set data.mask_suffix if "
                "it is an image itself"
            )
        if len(paths) > 1:
            raise InputError(f"{some(paths)}: several masks for {pictures[key][0]}; keep one")
        if len(pictures[key]) > 1:
            raise InputError(f"{some(pictures[key])}: several images claim the mask {paths[0]}; rename or remove one")
    images = {path for paths in pictures.values() for path in paths}
    return Pairing(images, {pictures[key][0]: paths[0] for key, paths in masks.items()}, others)


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


SORT: dict[str, Callable[[list[str], tuple[str, ...], bool], tuple[Keyed, Keyed, list[str]]]] = {
    "pairs": _pairs,
    "parallel": _parallel,
    "mvtec": _mvtec,
}
MISSING = {
    "pairs": "only masks",
    "parallel": "no images/ beside a masks/",
    "mvtec": "no train/, test/ or ground_truth/",
}
