"""Annotations in the format of the COCO data set: one JSON file for all images (Lin et al. 2014).

Polygons and run lengths are drawn by pycocotools, the data set's own library. Run lengths are checked before, for its
decoder reads beyond its memory where they are damaged.
"""

from collections import Counter
from typing import Any

from anomaly_seg.data.annotations.common import Drawing, Parsed, box, key, listed, numbers, polygon, side, whole
from anomaly_seg.data.annotations.rasterize import Runs, Shape, check_runs, runs_of
from anomaly_seg.errors import InputError


def read(found: dict[str, Any], name: str) -> Parsed:
    """Object instances; a segmentation is a list of polygons, run lengths, or absent where there is only a box."""
    categories = _by_id(listed(found, "categories", name), f"{name}: categories")
    labels = {id_: str(category.get("name", id_)) for id_, (category, _) in categories.items()}
    drawings: dict[int | str, Drawing] = {}
    for id_, (image, where) in _by_id(listed(found, "images", name), f"{name}: images").items():
        height, width = side(image.get("height"), where, "height"), side(image.get("width"), where, "width")
        drawings[id_] = Drawing(str(key(image, "file_name", where)), height, width)
    skipped: Counter[str] = Counter()
    for i, note in enumerate(listed(found, "annotations", name)):
        where = f"{name}: annotation {note.get('id', i)}"
        drawing = drawings.get(key(note, "image_id", where))
        if drawing is None:
            raise InputError(f"{where}: image_id {note['image_id']} is not among its images; export the file again")
        category = key(note, "category_id", where)
        if category not in labels:
            raise InputError(f"{where}: category_id {category} is not among its categories; export the file again")
        shapes = _shapes(note, drawing, where)
        if not shapes:
            skipped["annotation without area"] += 1
        drawing.shapes += [(labels[category], shape) for shape in shapes]
    return Parsed(list(drawings.values()), set(labels.values()), skipped)


def _by_id(entries: list[dict[str, Any]], where: str) -> dict[int | str, tuple[dict[str, Any], str]]:
    """Entries, and where each stands, by their id, which no two may share."""
    found: dict[int | str, tuple[dict[str, Any], str]] = {}
    for i, entry in enumerate(entries):
        id_, place = key(entry, "id", f"{where}[{i}]"), f"{where}[{i}]"
        if id_ in found:
            raise InputError(
                f"{place}: id {id_} is that of {found[id_][1].removeprefix(where)} too, so annotations could mean "
                "either; give each an id of its own, as when files are merged"
            )
        found[id_] = entry, place
    return found


def _shapes(note: dict[str, Any], drawing: Drawing, where: str) -> list[Shape]:
    found = note.get("segmentation")
    if isinstance(found, dict):
        return [_runs(found, drawing, where)]
    if found:
        if not isinstance(found, list) or not all(isinstance(part, list) for part in found):
            raise InputError(f"{where}: segmentation is neither a list of polygons nor run lengths; export it again")
        return [polygon([flat[i : i + 2] for i in range(0, len(flat), 2)], where) for flat in found]
    if not note.get("bbox"):
        return []
    x, y, w, h = numbers(note["bbox"], 4, where)
    return [box(x, y, x + w, y + h, where)]


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
