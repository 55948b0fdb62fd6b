"""A folder (or zip) of one's own: images with masks, or with annotations, in the common layouts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from anomaly_seg.data.annotations import load as drawn
from anomaly_seg.data.files import Inventory, inventory, some, stem
from anomaly_seg.data.image_io import Source
from anomaly_seg.data.masks import JoinedMask, LossyMask, mask_file
from anomaly_seg.data.readers.groups import assign_groups
from anomaly_seg.data.readers.mask_pairing import MASK_FOLDERS, SUFFIXES, WORDS, Layout, Pairing, mask_base, pair
from anomaly_seg.data.records import Dataset, Record
from anomaly_seg.errors import InputError

REMEDY = "set data.root to the folder that holds the images, or to its zip"
SPECIALS = (".json", ".xml")


def read(
    root: str | Path | None,
    layout: Layout = "auto",
    mask_suffix: str | int | None = None,
    annotations: str | None = None,
    categories: Sequence[str | int] | str | int | None = None,
    groups: str | None = None,
    name: str = "folder",
) -> Dataset:
    """Records of a folder of images.

    Args:
        root: the folder, or a zip of it.
        layout: "auto", "pairs" (masks beside the images, named by a suffix or in another format than a JPEG),
            "parallel" (images/ and masks/) or "mvtec" (train/good, test/KIND, ground_truth/KIND).
        mask_suffix: end of a mask's name; None takes the usual ones.
        annotations: a COCO or CVAT file or a folder of LabelMe files; None takes LabelMe files beside the images,
            "none" none at all.
        categories: labels of annotations that count as defect; None takes all.
        groups: regular expression or CSV file; see `groups.assign_groups`. None takes every image for a group of its
            own.
        name: of the data set.

    Raises:
        InputError: nothing found, or what was found does not fit together; see `layouts`, `annotations` and `groups`.
    """
    top, listing = _without_top(inventory(root, REMEDY))
    everything = listing.everything
    chosen, pairing = _pair(root, listing, layout, mask_suffix)
    images = {path: listing.images[path] for path in sorted(pairing.images)}
    group_of = assign_groups(images, _below(top, groups, everything), everything)
    found = drawn.load(everything, images, _below(top, annotations, everything), categories)
    if categories is not None and found is None:
        raise InputError("data.categories: needs annotations, for masks have no labels; set data.annotations")
    seen = found.seen if found else set()
    masks = {image: _mask([listing.images[path] for path in paths]) for image, paths in pairing.masks.items()}
    if found is None and not masks:
        raise InputError(_nothing(root, len(images), everything))
    _check(root, masks, seen, pairing.bare)
    used = {*images, *(path for paths in pairing.masks.values() for path in paths), *(found.files if found else ())}
    used.add(_below(top, groups, everything) or "")
    if annotations != "none":
        _check_unread(listing, images, used, SUFFIXES if mask_suffix is None else (str(mask_suffix),))
    notes = [_summary(chosen, len(masks), found), *_notes(masks), *(found.notes if found else [])]
    notes += listing.passed_over(used)
    masks |= found.masks if found else {}
    names = _record_names(images)
    records = [
        Record(names[path], group_of[path] if group_of else names[path], source, masks.get(path))
        for path, source in images.items()
    ]
    return Dataset(name, records, notes=notes, problems=found.problems if found else [])


def _pair(root: str | Path | None, listing: Inventory, layout: Layout, suffix: str | int | None) -> tuple[str, Pairing]:
    try:
        return pair(listing.images, layout, None if suffix is None else str(suffix))
    except InputError as error:  # about paths, which mean more with their root
        raise InputError(str(error) if str(error).startswith("data.") else f"{root}: {error}") from error


def _without_top(found: Inventory) -> tuple[str, Inventory]:
    """The one folder that holds everything, as archives often have it, and the paths below: its name says nothing."""
    everything = found.everything
    tops = {path.split("/")[0] for path in everything}
    top = next(iter(tops), "")
    if len(tops) != 1 or top in everything or top.lower() in WORDS:
        return "", found
    classes = ("images", "unread", "others", "by_products")
    below = {name: {path[len(top) + 1 :]: source for path, source in getattr(found, name).items()} for name in classes}
    return f"{top}/", replace(found, **below)


def _below(top: str, place: str | None, everything: Mapping[str, Source]) -> str | None:
    """A path inside the data set as it is there: without the top folder, where it was written with it."""
    if place is None or not top or not place.replace("\\", "/").startswith(top) or Path(place).expanduser().exists():
        return place
    inside = place.replace("\\", "/")[len(top) :].rstrip("/")
    return inside if inside in everything or any(path.startswith(f"{inside}/") for path in everything) else place


def _mask(sources: Sequence[Source]) -> Source:
    parts = [mask_file(source) for source in sources]
    return parts[0] if len(parts) == 1 else JoinedMask(parts)


def _check_unread(listing: Inventory, images: Mapping[str, Source], used: set[str], suffixes: tuple[str, ...]) -> None:
    """Refuse a file that belongs to an image as its mask or its annotation, but is of a kind that is not read."""
    stems = {stem(path).casefold() for path in images}
    names = {PurePosixPath(path).stem.casefold() for path in images}
    for path, source in sorted((listing.unread | listing.others).items()):
        base, place = mask_base(path, suffixes), PurePosixPath(path)
        among_masks = any(part.lower() in MASK_FOLDERS for part in place.parts[:-1]) and place.stem.casefold() in names
        annotation = stem(path).casefold() in stems and drawn.foreign(path, source)
        if path not in used and (among_masks or annotation or (base is not None and base.casefold() in stems)):
            raise InputError(
                f"{source.name}: belongs to an image, but is {annotation or 'a kind of file'} that is not read, so the "
                "image would count as good; save it as a PNG mask or as a COCO, LabelMe or CVAT annotation, remove it, "
                "or set data.annotations=none if it means nothing"
            )


def _check(root: str | Path | None, masks: Mapping[str, Source], seen: set[str], bare: set[str]) -> None:
    """A mask or an annotation for what is said to be defective, and for no image both."""
    if both := sorted(masks.keys() & seen):
        raise InputError(
            f"{some(both)}: both a mask and an annotation ({masks[both[0]].name}); remove one, or set "
            "data.annotations=none to keep the masks"
        )
    if lacking := sorted(bare - seen):
        raise InputError(
            f"{root}: {some(lacking)}: in a defect folder, but without mask in ground_truth/ or annotation; add it, or "
            "move the image to good/"
        )


def _nothing(root: str | Path | None, images: int, everything: Mapping[str, Source]) -> str:
    special = sorted(path for path in everything if path.lower().endswith(SPECIALS))
    hint = f"; it holds {some(special)}: set data.annotations if that is it" if special else ""
    return (
        f"data.root={root}: {images} images but no mask (looked for x_mask.png and the like beside x.png, x.png beside "
        "x.jpg, images/ with masks/, ground_truth/) and no LabelMe file beside an image; set data.layout, "
        f"data.mask_suffix or data.annotations{hint}"
    )


def _summary(layout: str, masks: int, found: drawn.Annotations | None) -> str:
    if found is None:
        return f"layout {layout}: {masks} masks"
    return f"layout {layout}: {masks} masks, {len(found.masks)} annotated images"


def _notes(masks: Mapping[str, Source]) -> list[str]:
    notes, parts = (
        [],
        [part for mask in masks.values() for part in (mask.parts if isinstance(mask, JoinedMask) else [mask])],
    )
    if joined := [image for image, mask in masks.items() if isinstance(mask, JoinedMask)]:
        notes.append(f"several masks of one image, joined: {some(joined)}")
    if lossy := [mask.name for mask in parts if isinstance(mask, LossyMask)]:
        notes.append(f"masks kept as JPEG, of which values from 128 on count as defect: {some(lossy)}; PNG keeps them")
    return notes


def _record_names(images: Mapping[str, Source]) -> dict[str, str]:
    """The path without extension where that tells the images apart, else the whole path."""
    same = Counter(stem(path) for path in images)
    return {path: stem(path) if same[stem(path)] == 1 else path for path in images}
