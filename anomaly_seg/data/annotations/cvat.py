"""Annotations of CVAT in its own XML, "CVAT for images 1.1".

The standard library parses it: what else reads it (datumaro) is a data framework of many packages for four elements.
"""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import NoReturn

from anomaly_seg.data.annotations.common import Drawing, Parsed, box, ellipse, numbers, polygon, side
from anomaly_seg.data.annotations.rasterize import Bitmap, Polygon, Shape, from_runs, turned
from anomaly_seg.data.files import trimmed
from anomaly_seg.errors import InputError


class _NoDoctype(ET.TreeBuilder):
    """A document type definition could declare entities that grow without bound; no export has one."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        raise InputError("holds a document type definition, which no CVAT export does; export it again")


def read(data: bytes, name: str) -> Parsed:
    """Boxes, ellipses, polygons and masks; what has no area is listed."""
    try:
        root = ET.fromstring(data, ET.XMLParser(target=_NoDoctype()))
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except ET.ParseError as error:
        raise InputError(f"{name}: not valid XML ({error}); export it again") from error
    if root.tag != "annotations" or root.find("track") is not None:
        kind = "is in the format for videos" if root.tag == "annotations" else f"begins with <{root.tag}>"
        raise InputError(f'{name}: {kind}; export from CVAT as "CVAT for images 1.1" or as COCO')
    drawings = []
    labels = {trimmed(e.text or "") for e in root.iterfind("meta//labels/label/name")}
    for image in root.iterfind("image"):
        path = image.get("name") or ""
        height, width = (side(image.get(key), f"{name}: {path}", key) for key in ("height", "width"))
        drawing = Drawing(path, height, width)
        for number, element in enumerate(image):
            label = trimmed(element.get("label") or "")
            if element.tag in SHAPES:
                shape = SHAPES[element.tag](element, f"{name}: {path}: <{element.tag}> number {number + 1}")
                drawing.shapes.append((label, shape))
            elif element.tag == "tag":
                drawing.tags.append(label)
            else:
                drawing.undrawn.append((label, element.tag))
        drawings.append(drawing)
    return Parsed(drawings, labels.union(*(drawing.labels for drawing in drawings)))


def _box(element: ET.Element, where: str) -> Shape:
    left, top, right, bottom, turn = _attributes(element, where, "xtl", "ytl", "xbr", "ybr", "rotation")
    return Polygon(turned(box(left, top, right, bottom, where).points, turn))


def _ellipse(element: ET.Element, where: str) -> Shape:
    x, y, rx, ry, turn = _attributes(element, where, "cx", "cy", "rx", "ry", "rotation")
    return ellipse(x, y, rx, ry, turn, where)


def _polygon(element: ET.Element, where: str) -> Shape:
    pairs = [point.split(",") for point in (element.get("points") or "").split(";") if point]
    return polygon([numbers(pair, 2, where) for pair in pairs], where)


def _mask(element: ET.Element, where: str) -> Shape:
    left, top, width, height = (int(v) for v in _attributes(element, where, "left", "top", "width", "height"))
    try:
        runs = [int(run) for run in (element.get("rle") or "").split(",")]
        return Bitmap(from_runs(runs, height, width), left, top)
    except ValueError as error:
        raise InputError(f"{where}: rle: {error}; export it again") from error


SHAPES: dict[str, Callable[[ET.Element, str], Shape]] = {
    "box": _box,
    "ellipse": _ellipse,
    "polygon": _polygon,
    "mask": _mask,
}


def _attributes(element: ET.Element, where: str, *names: str) -> tuple[float, ...]:
    """Numbers; a rotation that is not there is none."""
    return numbers([element.get(name, "0" if name == "rotation" else None) for name in names], len(names), where)
