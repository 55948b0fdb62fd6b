"""What the annotation formats have in common: shapes drawn on images, and values checked on the way in."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from anomaly_seg.data.annotations.rasterize import FAR, Ellipse, Polygon, Shape
from anomaly_seg.errors import InputError


@dataclass
class Drawing:
    """What is drawn on one image.

    image: as the file names it. height, width: of the image, None where the file does not say. shapes: label and shape.
    undrawn: label and kind of what has no area (lines, points), or none that is known. tags: labels of the whole image.
    unmeant: labels of shapes that mean no object. boxed: labels of the shapes that are rectangles only because the file
    has a box and no outline.
    """

    image: str
    height: int | None
    width: int | None
    shapes: list[tuple[str, Shape]] = field(default_factory=list)
    undrawn: list[tuple[str, str]] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    unmeant: list[str] = field(default_factory=list)
    boxed: list[str] = field(default_factory=list)

    @property
    def labels(self) -> set[str]:
        """Labels of everything but tags."""
        return {label for label, _ in [*self.shapes, *self.undrawn]}


@dataclass
class Parsed:
    """An annotation file.

    labels: all that occur or are declared. single: the file belongs to one image, as a rule the one that it is named
    after.
    """

    drawings: list[Drawing]
    labels: set[str]
    single: bool = False


def listed(found: dict[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    """A list of objects in a JSON object."""
    values = found.get(name)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise InputError(f"{where}: {name} is not a list of objects; export it again")
    return values


def key(found: dict[str, Any], name: str, where: str) -> int | str:
    """A number or a text that has to be there."""
    value = found.get(name)
    if not isinstance(value, int | str) or isinstance(value, bool) or value == "":
        raise InputError(f"{where}: {name} is missing or no number or text; export it again")
    return value


def id_of(found: dict[str, Any], name: str, where: str) -> int | str:
    """An identifier that has to be there; 7, 7.0 and "7" are one and the same."""
    value = found.get(name)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    text = key(found, name, where)
    return int(text) if str(text).strip().isdecimal() else text


def side(value: Any, where: str, name: str) -> int | None:
    """A height or width in pixels, or None where there is none."""
    if value is None:
        return None
    try:
        number = whole(value)
    except (ValueError, OverflowError):
        number = 0
    if not 1 <= number <= FAR:
        raise InputError(f"{where}: {name}={str(value)[:60]} is no size in pixels; export it again")
    return number


def whole(value: Any) -> int:
    """Raises ValueError where it is no whole number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or not float(value).is_integer():
        raise ValueError(f"{str(value)[:60]} is no whole number")
    return int(value)


def numbers(values: Any, count: int, where: str) -> tuple[float, ...]:
    """So many finite numbers of a size that coordinates have."""
    try:
        found = tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        found = ()
    if len(found) != count or not all(math.isfinite(value) and abs(value) <= FAR for value in found):
        raise InputError(f"{where}: {str(values)[:60]} is not {count} coordinates in pixels; draw it anew")
    return found


def polygon(points: Sequence[Any], where: str) -> Polygon:
    """Three corners or more."""
    corners = [numbers(point, 2, where) for point in points]
    if len(corners) < 3:
        raise InputError(f"{where}: a polygon of {len(corners)} corners has no area; draw it anew or delete it")
    return Polygon(tuple((x, y) for x, y in corners))


def box(left: float, top: float, right: float, bottom: float, where: str) -> Polygon:
    """A rectangle along the image's axes."""
    numbers((left, top, right, bottom), 4, where)
    if not (left < right and top < bottom):
        raise InputError(f"{where}: a box without area; draw it anew or delete it")
    return Polygon(((left, top), (right, top), (right, bottom), (left, bottom)))


def ellipse(x: float, y: float, radius_x: float, radius_y: float, turn: float, where: str) -> Ellipse:
    if min(radius_x, radius_y) <= 0:
        raise InputError(f"{where}: an ellipse without area; draw it anew or delete it")
    return Ellipse(x, y, radius_x, radius_y, turn)
