"""Annotations of LabelMe: one JSON file an image.

Plain JSON with a handful of shapes, so the standard library reads it: the labelme package brings a graphical interface.
"""

import base64
import binascii
import math
from collections.abc import Callable
from typing import Any

from anomaly_seg.data.annotations.common import Drawing, Parsed, box, ellipse, listed, numbers, polygon, side
from anomaly_seg.data.annotations.rasterize import Bitmap, Shape
from anomaly_seg.data.files import trimmed
from anomaly_seg.data.image_io import decode
from anomaly_seg.data.masks import drawn_levels
from anomaly_seg.errors import InputError

POLYGONS = (
    "polygon", "oriented_rectangle", "rotation", "rotated_rectangle", "rotated_box", "rotatedbox", "rotbox", "obb",
    "quadrilateral", "quad",
)  # fmt: skip
"""Names that LabelMe and programs like it give to closed outlines of several corners."""

UNMEANT = ("__ignore__", "_background_")
"""Labels that LabelMe's own examples keep for what is no object."""


def read(found: dict[str, Any], name: str) -> Parsed:
    """One image's shapes; what has no area is listed, and flags of the whole image are tags."""
    height, width = (side(found.get(key), name, key) for key in ("imageHeight", "imageWidth"))
    drawing, flags = Drawing(str(found.get("imagePath") or ""), height, width), found.get("flags")
    drawing.tags = [trimmed(flag) for flag, is_set in flags.items() if is_set] if isinstance(flags, dict) else []
    for i, entry in enumerate(listed(found, "shapes", name)):
        where, label = f"{name}: shapes[{i}]", trimmed(entry.get("label"))
        kind = str(entry.get("shape_type") or "polygon")
        if label in UNMEANT:
            drawing.unmeant.append(label)
        elif kind not in SHAPES:
            drawing.undrawn.append((label, kind))
        else:
            points = entry.get("points")
            if not isinstance(points, list):
                raise InputError(f"{where}: has no points; draw it anew")
            pairs = [(p[0], p[1]) for p in (numbers(p, 2, where) for p in points)]
            drawing.shapes.append((label, SHAPES[kind](entry, pairs, where)))
    return Parsed([drawing], drawing.labels, single=True)


def _polygon(entry: dict[str, Any], points: list[tuple[float, float]], where: str) -> Shape:
    return polygon(points, where)


def _two(points: list[tuple[float, float]], where: str) -> list[tuple[float, float]]:
    if len(points) != 2:
        raise InputError(f"{where}: {len(points)} points where LabelMe writes two; draw it anew")
    return points


def _rectangle(entry: dict[str, Any], points: list[tuple[float, float]], where: str) -> Shape:
    if len(points) == 4:  # some programs write the corners
        return polygon(points, where)
    (ax, ay), (bx, by) = _two(points, where)
    return box(min(ax, bx), min(ay, by), max(ax, bx), max(ay, by), where)


def _circle(entry: dict[str, Any], points: list[tuple[float, float]], where: str) -> Shape:
    (x, y), on = _two(points, where)
    radius = math.dist((x, y), on)
    return ellipse(x, y, radius, radius, 0, where)


def _mask(entry: dict[str, Any], points: list[tuple[float, float]], where: str) -> Shape:
    (left, top), _ = _two(points, where)
    try:
        data = base64.b64decode(entry.get("mask") or "", validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise InputError(f"{where}: its mask is not base64 ({error}); draw it anew") from error
    pixels = decode(data, where)
    return Bitmap(drawn_levels(pixels, where), round(left), round(top))


SHAPES: dict[str, Callable[[dict[str, Any], list[tuple[float, float]], str], Shape]] = {
    **dict.fromkeys(POLYGONS, _polygon),
    "rectangle": _rectangle,
    "circle": _circle,
    "mask": _mask,
}
