"""Annotations of LabelMe: one JSON file an image.

Plain JSON with a handful of shapes, so the standard library reads it: the labelme package brings a graphical interface.
"""

import base64
import binascii
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from anomaly_seg.data.annotations.common import Drawing, Parsed, box, ellipse, listed, numbers, polygon, side
from anomaly_seg.data.annotations.rasterize import Bitmap, Shape
from anomaly_seg.data.image_io import decode
from anomaly_seg.errors import InputError

UNMEANT = ("__ignore__", "_background_")
"""Labels that LabelMe's own examples keep for what is no object."""


def read(found: dict[str, Any], name: str) -> Parsed:
    """One image's polygons, rectangles, circles and masks; lines and points have no area and are counted."""
    height, width = (side(found.get(key), name, key) for key in ("imageHeight", "imageWidth"))
    drawing, skipped = Drawing(str(found.get("imagePath") or ""), height, width), Counter[str]()
    for i, entry in enumerate(listed(found, "shapes", name)):
        where, label = f"{name}: shapes[{i}]", str(entry.get("label"))
        kind = str(entry.get("shape_type") or "polygon")
        if label in UNMEANT:
            skipped[label] += 1
        elif kind not in SHAPES:
            skipped[kind] += 1
        else:
            points = entry.get("points")
            if not isinstance(points, list):
                raise InputError(f"{where}: has no points; draw it anew")
            pairs = [(p[0], p[1]) for p in (numbers(p, 2, where) for p in points)]
            drawing.shapes.append((label, SHAPES[kind](entry, pairs, where)))
    return Parsed([drawing], {label for label, _ in drawing.shapes}, skipped, single=True)


def _polygon(entry: dict[str, Any], points: list[tuple[float, float]], where: str) -> Shape:
    return polygon(points, where)


def _two(points: list[tuple[float, float]], where: str) -> list[tuple[float, float]]:
    if len(points) != 2:
        raise InputError(f"{where}: {len(points)} points where LabelMe writes two; draw it anew")
    return points


def _rectangle(entry: dict[str, Any], points: list[tuple[float, float]], where: str) -> Shape:
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
    return Bitmap(pixels if pixels.ndim == 2 else pixels[:, :, :3].max(axis=2), round(left), round(top))


SHAPES: dict[str, Callable[[dict[str, Any], list[tuple[float, float]], str], Shape]] = {
    "polygon": _polygon,
    "oriented_rectangle": _polygon,
    "rectangle": _rectangle,
    "circle": _circle,
    "mask": _mask,
}
