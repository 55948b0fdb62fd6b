"""Annotations in the format of the COCO data set: one JSON file for all images (Lin et al. 2014).

Polygons and run lengths are drawn by pycocotools, the data set's own library. Run lengths are checked before, for its
decoder reads beyond its memory where they are damaged.
"""

from collections.abc import Mapping
from typing import Any

from anomaly_seg.data.annotations.common import Drawing, Parsed, box, id_of, key, listed, numbers, polygon, side, whole
from anomaly_seg.data.annotations.rasterize import Runs, Shape, check_runs, runs_of
from anomaly_seg.data.files import some, trimmed
from anomaly_seg.errors import InputError


def read(found: dict[str, Any], name: str) -> Parsed:
    """Object instances; a segmentation is a list of polygons, run lengths, or absent where there is only a box.

    Where the file has no categories, their numbers are the labels.
    """
    categories = _by_id(listed(found, "categories", name) if found.get("categories") else [], f"{name}: categories")
    labels = {id_: trimmed(category.get("name", id_)) for id_, (category, _) in categories.items()}
    drawings: dict[int | str, Drawing] = {}
    for id_, (image, where) in _by_id(listed(found, "images", name), f"{name}: images").items():
        height, width = side(image.get("height"), where, "height"), side(image.get("width"), where, "width")
        drawings[id_] = Drawing(str(key(image, "file_name", where)), height, width)
    for i, note in enumerate(listed(found, "annotations", name)):
        where = f"{name}: annotation {note.get('id', i)}"
        drawing = drawings.get(id_of(note, "image_id", where))
        if drawing is None:
            raise InputError(f"{where}: image_id {note['image_id']} is not among its images; export the file again")
        category = id_of(note, "category_id", where)
        if not categories:
            labels.setdefault(category, str(category))
        if category not in labels:
            raise InputError(f"{where}: category_id {category} is not among its categories; export the file again")
        shapes = _shapes(note, drawing, where, labels[category])
        if not shapes:
            drawing.undrawn.append((labels[category], "annotation without area"))
        drawing.shapes += [(labels[category], shape) for shape in shapes]
    return Parsed(list(drawings.values()), set(labels.values()))


def note_boxes(drawings: Mapping[str, Drawing], labels: set[str]) -> list[str]:
    """What to say of annotations with a box but no outline, where their label is one of these."""
    counts = {image: sum(label in labels for label in one.boxed) for image, one in drawings.items()}
    if not (images := [f"{image} ({count})" for image, count in counts.items() if count]):
        return []
    return [
        f"annotations with a box but no outline, in {len(images)} image{'s' * (len(images) != 1)}: {some(images)}; the "
        "whole rectangle counts as defect, where outlines would say more"
    ]


def _by_id(entries: list[dict[str, Any]], where: str) -> dict[int | str, tuple[dict[str, Any], str]]:
    """Entries, and where each stands, by their id, which no two may share."""
    found: dict[int | str, tuple[dict[str, Any], str]] = {}
    for i, entry in enumerate(entries):
        id_, place = id_of(entry, "id", f"{where}[{i}]"), f"{where}[{i}]"
        if id_ in found:
            raise InputError(
                f"{place}: id {id_} is that of {found[id_][1].removeprefix(where)} too, so annotations could mean "
                "either; give each an id of its own, as when files are merged"
            )
        found[id_] = entry, place
    return found


def _shapes(note: dict[str, Any], drawing: Drawing, where: str, label: str) -> list[Shape]:
    found = note.get("segmentation")
    if isinstance(found, dict):
        return [_runs(found, drawing, where)]
    if outlines := _outlines(found, where):
        return [polygon(outline, where) for outline in outlines]
    if not note.get("bbox"):
        return []
    drawing.boxed.append(label)
    x, y, w, h = numbers(note["bbox"], 4, where)
    return [box(x, y, x + w, y + h, where)]


def _outlines(found: Any, where: str) -> list[list[Any]]:
    """Corners of every polygon, from [[x, y, x, y, ...], ...], from one flat list, or from lists of pairs.

    Empty polygons, as some programs write them beside a box, are left out.
    """
    if not found:
        return []
    if isinstance(found, list) and all(isinstance(value, int | float) for value in found):
        found = [found]
    if not isinstance(found, list) or not all(isinstance(part, list) for part in found):
        raise InputError(f"{where}: segmentation is neither a list of polygons nor run lengths; export it again")
    if len(found) > 2 and all(_is_pair(part) for part in found):
        return [found]
    return [
        part if all(map(_is_pair, part)) else [part[i : i + 2] for i in range(0, len(part), 2)]
        for part in found
        if part
    ]


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(number, int | float) for number in value)


def _runs(found: dict[str, Any], drawing: Drawing, where: str) -> Shape:
    size, counts = found.get("size"), found.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not isinstance(counts, list | str):
        raise InputError(f"{where}: run lengths need size [height, width] and counts; export it again")
    height, width = (side(value, where, "size") or 0 for value in size)
    if drawing.height is not None and (height, width) != (drawing.height, drawing.width):
        raise InputError(
            f"{where}: run lengths of {height}x{width} for an image of {drawing.height}x{drawing.width}; "
            "export them at the image's size"
        )
    try:
        runs = runs_of(counts) if isinstance(counts, str) else [whole(run) for run in counts]
        return Runs(check_runs(runs, height, width), height, width)
    except ValueError as error:
        raise InputError(f"{where}: {error}; export it again") from error
