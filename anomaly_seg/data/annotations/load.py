"""Annotation files (COCO, LabelMe, CVAT) become a mask for every image that they draw on."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from anomaly_seg.data.annotations import coco, cvat, labelme
from anomaly_seg.data.annotations.common import Drawing, Parsed
from anomaly_seg.data.annotations.rasterize import ShapeSource, outside
from anomaly_seg.data.files import Names, content, inventory, some, stem, trimmed
from anomaly_seg.data.image_io import FileSource, Source
from anomaly_seg.errors import InputError


@dataclass
class Annotations:
    """What annotation files say about a data set.

    masks: by the image's path; an image on which nothing counts as defect has none. seen: images that the files speak
    of. files: paths of the files that were read. notes: sentences for `anomaly-seg check`. problems: what has to be
    mended.
    """

    masks: dict[str, Source] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def load(
    files: Mapping[str, Source],
    images: Mapping[str, Source],
    annotations: str | None = None,
    categories: Sequence[str | int] | str | int | None = None,
) -> Annotations | None:
    """Masks from annotations, or None where there are none.

    Args:
        files: of the data set, from `files.inventory`.
        images: those of them that are images.
        annotations: a COCO or CVAT file or a folder of LabelMe files, on disk or below the data set's root; None takes
            the LabelMe files that lie beside the images; "none" takes nothing.
        categories: labels (or the one) that count as defect; None takes all.

    Raises:
        InputError: a file that cannot be used, a label that does not occur, an annotation of an image that is not
            there, or two files that draw on one image.
    """
    if annotations == "none":
        return None
    chosen, left_over = (_beside(files, images), []) if annotations is None else _named(files, annotations)
    if not chosen:
        return None
    parsed = {path: parse(content(source), source.name) for path, source in chosen.items()}
    every = {label for one in parsed.values() for label in one.labels}
    labels = _chosen_labels(categories, every)
    places = _places(parsed, {path: source.name for path, source in chosen.items()}, images)
    found = Annotations(seen=set(places), files=set(chosen), notes=left_over)
    _draw(places, images, labels, found)
    drawings = {image: drawing for image, (_, drawing) in sorted(places.items())}
    found.notes += _notes([drawing for one in parsed.values() for drawing in one.drawings])
    found.notes += _left_out(drawings, labels, found.masks) + _tags(drawings) + coco.note_boxes(drawings, labels)
    found.problems += _without_area(drawings, labels)
    if free := sorted(images.keys() - found.seen):
        found.notes.append(f"{len(free)} images without annotation are taken as free of defects: {some(free)}")
    return found


def _notes(drawings: Sequence[Drawing]) -> list[str]:
    skipped = Counter(kind for one in drawings for kind in [*one.unmeant, *(kind for _, kind in one.undrawn)])
    if not skipped:
        return []
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()))
    return [f"annotations without area, or meant for no object, passed over: {kinds}"]


def _left_out(drawings: Mapping[str, Drawing], labels: set[str], masks: Mapping[str, Source]) -> list[str]:
    """Every label that `data.categories` leaves out, with its number of images."""
    counts = Counter(label for drawing in drawings.values() for label in drawing.labels - labels)
    if not counts:
        return []
    each = ", ".join(f"{label} ({count} image{'s' * (count != 1)})" for label, count in sorted(counts.items()))
    good = [image for image, drawing in drawings.items() if drawing.labels - labels and image not in masks]
    more = f"; {len(good)} images have no other label and count as free of defects: {some(good)}" if good else ""
    return [f"labels that data.categories leaves out: {each}{more}"]


def _tags(drawings: Mapping[str, Drawing]) -> list[str]:
    """Images that somebody labelled with words alone."""
    words = {image: [*one.tags, *one.unmeant] for image, one in drawings.items() if not one.labels}
    if tagged := [f"{image} ({', '.join(labels)})" for image, labels in words.items() if labels]:
        what = "tags of whole images, and labels that mean no object, draw nothing"
        return [f"{what}; without a shape these count as free of defects: {some(tagged)}"]
    return []


def _without_area(drawings: Mapping[str, Drawing], labels: set[str]) -> list[str]:
    """Images that somebody marked, but in no way that has an area."""
    lacking = []
    for image, drawing in drawings.items():
        kinds = sorted({kind for label, kind in drawing.undrawn if label in labels})
        if kinds and not any(label in labels for label, _ in drawing.shapes):
            lacking.append(f"{image} ({', '.join(kinds)})")
    if not lacking:
        return []
    return [
        f"only annotations without an area that is known, so {len(lacking)} images would count as free of defects: "
        f"{some(lacking)}; draw outlines, or delete the annotations"
    ]


def _chosen_labels(categories: Sequence[str | int] | str | int | None, labels: set[str]) -> set[str]:
    """The labels that count as defect; one that does not occur is taken for the only one of other case."""
    if categories is None:
        return labels
    several = [categories] if isinstance(categories, str | int | float) else categories
    chosen, unknown = set[str](), []
    for wanted in map(trimmed, several):
        same = [wanted] if wanted in labels else [name for name in labels if name.casefold() == wanted.casefold()]
        if len(same) == 1:
            chosen.add(same[0])
        else:
            unknown.append(wanted)
    if unknown:
        raise InputError(
            f"data.categories: {some(sorted(unknown))} not in the annotations, which have {some(sorted(labels))}"
        )
    return chosen


def parse(data: bytes, name: str) -> Parsed:
    """Recognise the format of an annotation file by its content, and read it.

    Raises:
        InputError: none of the three, or something wrong inside, with the place named.
    """
    if _is_xml(data):
        return cvat.read(data, name)
    found = _json(data, name)
    if isinstance(found, dict) and LABELME_KEYS & found.keys():
        return labelme.read(found, name)
    if isinstance(found, dict) and {"images", "annotations"} <= found.keys():
        return coco.read(found, name)
    raise InputError(
        f"{name}: neither COCO (images, annotations), LabelMe (shapes) nor CVAT XML; export as one of them"
    )


LABELME_KEYS = {"shapes", "imagePath", "imageData"}

ANNOTATION_KEYS = {
    "annotations", "bboxes", "boxes", "instances", "items", "labels", "masks", "objects", "polygons", "predictions",
    "regions", "segmentation", "segmentations",
}  # fmt: skip
"""What JSON files of annotations in formats that are not read hold, some of it."""

YOLO = re.compile(rb"\s*\d+(?:[ \t]+-?[\d.]+(?:[eE][+-]?\d+)?){4,}[ \t]*(?:\r?\n\s*|$)")
"""A label's number and a box or an outline."""


def foreign(path: str, source: Source) -> str | None:
    """What an annotation file of a format that is not read is called, or None where the file is no such thing."""
    kind = PurePosixPath(path).suffix.lower()
    if kind == ".txt":
        return "a YOLO file" if YOLO.match(content(source)) else None
    if kind == ".xml":
        head = content(source)[:4096].replace(b"\0", b"")
        return "an XML file" if re.search(rb"<annotations?[\s>]", head) else None
    if kind != ".json":
        return None
    found = _json(content(source), source.name)
    return "a JSON file" if isinstance(found, dict) and ANNOTATION_KEYS & found.keys() else None


def _is_xml(data: bytes) -> bool:
    return data.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n").startswith(b"<")


def _json(data: bytes, name: str) -> Any:
    try:
        return json.loads(data)  # in UTF-8, 16 or 32
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: not valid JSON ({error}); export it again") from error


def _beside(files: Mapping[str, Source], images: Mapping[str, Source]) -> dict[str, Source]:
    """LabelMe files among the JSON files named after an image in their folder: other programs write JSON too.

    Raises:
        InputError: a file named so that holds nothing, or no JSON.
    """
    names = {name.casefold() for path in images for name in (path, stem(path))}
    found: dict[str, Source] = {}
    for path, source in files.items():
        if path.lower().endswith(".json") and stem(path).casefold() in names:
            try:
                inside = _json(content(source), source.name)
            except InputError as error:
                raise InputError(f"{error}, or set data.annotations=none if it means nothing") from error
            if not inside:
                raise InputError(
                    f"{source.name}: named after an image, but holds nothing; export it again, or delete it"
                )
            if isinstance(inside, dict) and LABELME_KEYS & inside.keys():
                found[path] = source
    return found


def _named(files: Mapping[str, Source], annotations: str) -> tuple[dict[str, Source], list[str]]:
    """The annotation files, and notes about what lies beside them in a folder elsewhere."""
    place = Path(annotations).expanduser()
    if place.is_file():
        return {place.name: FileSource(place)}, []
    listing = inventory(place, "") if place.is_dir() else None
    if listing:
        below = listing.everything
    else:
        inside = PurePosixPath(annotations.replace("\\", "/")).as_posix()
        if inside in files:
            return {inside: files[inside]}, []
        below = {path: source for path, source in files.items() if path.startswith(f"{inside}/")}
        if not below:
            raise InputError(f"data.annotations={annotations}: no such file or folder, neither here nor in data.root")
    found = {path: source for path, source in below.items() if path.lower().endswith(".json")}
    if not found:
        raise InputError(f"data.annotations={annotations}: holds no .json file; name the annotation file itself")
    notes = listing.passed_over([*found, *listing.images]) if listing else []
    return found, [f"data.annotations={annotations}: {note}" for note in notes]


def _places(
    parsed: Mapping[str, Parsed], files: Mapping[str, str], images: Mapping[str, Source]
) -> dict[str, tuple[str, Drawing]]:
    """Image path -> name of the file that draws on it, and its drawing."""
    names, places = Names(images), dict[str, tuple[str, Drawing]]()
    stems: dict[str, list[str]] = {}
    for path in images:
        place = PurePosixPath(path)
        for name in {name.casefold() for name in (stem(path), place.stem, path, place.name)}:
            stems.setdefault(name, []).append(path)
    missing: dict[str, list[str]] = {}
    for path, one in parsed.items():
        for drawing in one.drawings:
            image = _own_image(path, drawing, stems) if one.single else None
            image = image or names.find(drawing.image, files[path])
            if image is None and (drawing.shapes or drawing.undrawn):
                missing.setdefault(files[path], []).append(drawing.image or stem(path))
            elif image in places:
                raise InputError(f"{files[path]}: draws on {image}, as {places[image][0]} does; keep one of the two")
            elif image is not None:
                places[image] = files[path], drawing
    if missing:
        file, absent = next(iter(missing.items()))
        total, other = sum(map(len, missing.values())), names.same_name(absent[0])
        hint = f"; if {some(other)} is meant, write that path into the annotations" if other else ""
        raise InputError(
            f"{file}: draws on {some(absent)}, which data.root does not hold ({total} in all); add the images, or "
            f"delete the annotations{hint}"
        )
    return places


def _own_image(path: str, drawing: Drawing, stems: Mapping[str, list[str]]) -> str | None:
    """The image that a LabelMe file is named after: in its folder, else the only one anywhere."""
    own = stem(path)
    same = stems.get(own.casefold()) or stems.get(PurePosixPath(own).name.casefold(), [])
    beside = [image for image in same if own in (stem(image), image)]
    beside = beside or [image for image in same if own.casefold() in (stem(image).casefold(), image.casefold())] or same
    file = PurePosixPath(drawing.image.replace("\\", "/")).name
    chosen = beside if len(beside) == 1 else [image for image in beside if PurePosixPath(image).name == file]
    return chosen[0] if len(chosen) == 1 else None


def _draw(
    places: Mapping[str, tuple[str, Drawing]], images: Mapping[str, Source], labels: set[str], found: Annotations
) -> None:
    """Masks and the notes about what reaches outside."""
    clipped: Counter[str] = Counter()
    for image, (file, drawing) in sorted(places.items()):
        shapes = [shape for label, shape in drawing.shapes if label in labels]
        if not shapes:
            continue
        height, width = drawing.height, drawing.width
        if height is None or width is None:
            height, width = images[image].pixels().shape[:2]
        name = f"{file}: {image}"
        try:
            found.masks[image] = ShapeSource.of(name, shapes, height, width)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        clipped[image] = sum(outside(shape, height, width) for shape in shapes)
    if where := [f"{image} ({count})" for image, count in clipped.items() if count]:
        found.notes.append(f"annotations that reach outside their image, clipped: {some(where)}")
