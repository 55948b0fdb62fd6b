"""Annotation files (COCO, LabelMe, CVAT) become a mask for every image that they draw on."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from anomaly_seg.data.annotations import coco, cvat, labelme
from anomaly_seg.data.annotations.common import Drawing, Parsed
from anomaly_seg.data.annotations.rasterize import ShapeSource, outside
from anomaly_seg.data.files import Names, content, some, stem
from anomaly_seg.data.files import files as files_below
from anomaly_seg.data.image_io import FileSource, Source
from anomaly_seg.errors import InputError


@dataclass
class Annotations:
    """What annotation files say about a data set.

    masks: by the image's path; an image on which nothing counts as defect has none. seen: images that the files speak
    of. notes: sentences for `anomaly-seg check`.
    """

    masks: dict[str, Source] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def load(
    files: Mapping[str, Source],
    images: Mapping[str, Source],
    annotations: str | None = None,
    categories: Sequence[str | int] | str | int | None = None,
) -> Annotations | None:
    """Masks from annotations, or None where there are none.

    Args:
        files: of the data set, from `tree.files`.
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
    chosen = _beside(files, images) if annotations is None else _named(files, annotations)
    if not chosen:
        return None
    parsed = {path: parse(content(source), source.name) for path, source in chosen.items()}
    labels = _chosen_labels(categories, {label for one in parsed.values() for label in one.labels})
    places = _places(parsed, {path: source.name for path, source in chosen.items()}, images)
    found = Annotations(seen=set(places))
    _draw(places, images, labels, found)
    if skipped := sum((one.skipped for one in parsed.values()), Counter[str]()):
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()))
        found.notes.append(f"annotations without area, or meant for no object, passed over: {kinds}")
    if free := sorted(images.keys() - found.seen):
        found.notes.append(f"{len(free)} images without annotation are taken as free of defects: {some(free)}")
    return found


def _chosen_labels(categories: Sequence[str | int] | str | int | None, labels: set[str]) -> set[str]:
    """The labels that count as defect."""
    if categories is None:
        return labels
    several = [categories] if isinstance(categories, str | int | float) else categories
    chosen = {str(label) for label in several}
    if unknown := sorted(chosen - labels):
        raise InputError(f"data.categories: {some(unknown)} not in the annotations, which have {some(sorted(labels))}")
    return chosen


def parse(data: bytes, name: str) -> Parsed:
    """Recognise the format of an annotation file by its content, and read it.

    Raises:
        InputError: none of the three, or something wrong inside, with the place named.
    """
    if data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return cvat.read(data, name)
    found = _json(data, name)
    if isinstance(found, dict) and "shapes" in found:
        return labelme.read(found, name)
    if isinstance(found, dict) and {"images", "annotations"} <= found.keys():
        return coco.read(found, name)
    raise InputError(
        f"{name}: neither COCO (images, annotations), LabelMe (shapes) nor CVAT XML; export as one of them"
    )


def _json(data: bytes, name: str) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: not valid JSON ({error}); export it again") from error


def _beside(files: Mapping[str, Source], images: Mapping[str, Source]) -> dict[str, Source]:
    """JSON files named after an image in the same folder, if they hold shapes: other programs write JSON too."""
    stems = {stem(path) for path in images}
    near = {path: source for path, source in files.items() if path.lower().endswith(".json") and stem(path) in stems}
    return {path: source for path, source in near.items() if b'"shapes"' in content(source)}


def _named(files: Mapping[str, Source], annotations: str) -> dict[str, Source]:
    place = Path(annotations).expanduser()
    if place.is_file():
        return {place.name: FileSource(place)}
    if place.is_dir():
        below = files_below(place, "")
    else:
        inside = PurePosixPath(annotations.replace("\\", "/")).as_posix()
        if inside in files:
            return {inside: files[inside]}
        below = {path: source for path, source in files.items() if path.startswith(f"{inside}/")}
        if not below:
            raise InputError(f"data.annotations={annotations}: no such file or folder, neither here nor in data.root")
    found = {path: source for path, source in below.items() if path.lower().endswith(".json")}
    if not found:
        raise InputError(f"data.annotations={annotations}: holds no .json file; name the annotation file itself")
    return found


def _places(
    parsed: Mapping[str, Parsed], files: Mapping[str, str], images: Mapping[str, Source]
) -> dict[str, tuple[str, Drawing]]:
    """Image path -> name of the file that draws on it, and its drawing."""
    names, places = Names(images), dict[str, tuple[str, Drawing]]()
    stems: dict[str, list[str]] = {}
    for path in images:
        for name in {stem(path), PurePosixPath(path).stem}:
            stems.setdefault(name, []).append(path)
    missing: dict[str, list[str]] = {}
    for path, one in parsed.items():
        for drawing in one.drawings:
            image = _own_image(path, drawing, stems) if one.single else None
            image = image or names.find(drawing.image, files[path])
            if image is None and drawing.shapes:
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
    same = stems.get(stem(path)) or stems.get(PurePosixPath(path).stem, [])
    beside = [image for image in same if stem(image) == stem(path)] or same
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
