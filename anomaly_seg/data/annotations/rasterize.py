"""Drawn shapes and run lengths become masks, by the library of the COCO data set (pycocotools).

Coordinates are pixels from the top left corner of the image, x to the right, y down; pixel (i, j) covers [j, j+1] x
[i, i+1]. A pixel belongs to a shape if its centre does (to within pycocotools' grid of a fifth of a pixel).
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anomaly_seg.errors import InputError
from anomaly_seg.extras import imported

FAR = 100_000
"""No coordinate is further than this from the image: a larger one is an error in the file, and costs memory."""

TOUCHING = 1.0
"""Tools put points up to this many pixels outside when one draws along the border; that is not worth a note."""


@dataclass(frozen=True)
class Polygon:
    """Corners (x, y), three or more; the last joins the first."""

    points: tuple[tuple[float, float], ...]

    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        x, y = zip(*self.points, strict=True)
        return min(x), min(y), max(x), max(y)

    def encode(self, height: int, width: int) -> dict:
        flat = [float(value) for point in self.points for value in point]
        return _masks().frPyObjects([flat], height, width)[0]


@dataclass(frozen=True)
class Ellipse:
    """Centre, radii, and turn in degrees, clockwise on the screen."""

    x: float
    y: float
    radius_x: float
    radius_y: float
    turn: float = 0.0

    def bounds(self) -> tuple[float, float, float, float]:
        c, s = np.cos(np.deg2rad(self.turn)), np.sin(np.deg2rad(self.turn))
        half_w, half_h = np.hypot(self.radius_x * c, self.radius_y * s), np.hypot(self.radius_x * s, self.radius_y * c)
        return self.x - half_w, self.y - half_h, self.x + half_w, self.y + half_h

    def encode(self, height: int, width: int) -> dict:
        c, s = np.cos(np.deg2rad(self.turn)), np.sin(np.deg2rad(self.turn))
        left, top, right, bottom = self.bounds()
        x0, x1 = (int(np.clip(edge, 0, width)) for edge in (np.floor(left), np.ceil(right)))
        y0, y1 = (int(np.clip(edge, 0, height)) for edge in (np.floor(top), np.ceil(bottom)))
        y, x = np.ogrid[y0:y1, x0:x1]
        dx, dy = x + 0.5 - self.x, y + 0.5 - self.y
        along, across = (dx * c + dy * s) / self.radius_x, (dy * c - dx * s) / self.radius_y
        return Bitmap(along**2 + across**2 <= 1, x0, y0).encode(height, width)


@dataclass(frozen=True, eq=False)
class Bitmap:
    """A drawn mask (h, w), anything above 0 being inside, whose top left pixel is pixel (top, left) of the image."""

    pixels: np.ndarray
    left: int = 0
    top: int = 0

    def bounds(self) -> tuple[float, float, float, float]:
        height, width = self.pixels.shape
        return self.left, self.top, self.left + width, self.top + height

    def encode(self, height: int, width: int) -> dict:
        canvas = np.zeros((height, width), np.uint8, order="F")
        part = self.pixels[max(-self.top, 0) :, max(-self.left, 0) :]
        place = canvas[max(self.top, 0) :, max(self.left, 0) :][: part.shape[0], : part.shape[1]]
        place[:] = part[: place.shape[0], : place.shape[1]] > 0
        return _masks().encode(canvas)


@dataclass(frozen=True)
class Runs:
    """A mask of the whole image as lengths of alternating runs down its columns, the first being outside."""

    lengths: tuple[int, ...]
    height: int
    width: int

    def bounds(self) -> tuple[float, float, float, float]:
        return 0, 0, self.width, self.height

    def encode(self, height: int, width: int) -> dict:
        if (height, width) != (self.height, self.width):
            raise InputError(f"run lengths of {self.height}x{self.width} for an image of {height}x{width}")
        return _masks().frPyObjects({"size": [height, width], "counts": list(self.lengths)}, height, width)


Shape = Polygon | Ellipse | Bitmap | Runs


def outside(shape: Shape, height: int, width: int) -> bool:
    """Whether the shape reaches over the border by more than a pixel."""
    left, top, right, bottom = shape.bounds()
    return min(left, top) < -TOUCHING or right > width + TOUCHING or bottom > height + TOUCHING


def turned(points: Sequence[tuple[float, float]], degrees: float) -> tuple[tuple[float, float], ...]:
    """Points turned about the centre of their bounding box, clockwise on the screen.

    >>> [(round(x), round(y)) for x, y in turned([(0, 0), (4, 0), (4, 2), (0, 2)], 90)]
    [(3, -1), (3, 3), (1, 3), (1, -1)]
    """
    if not degrees:
        return tuple(points)
    x, y = np.array(points, float).T
    cx, cy = (x.min() + x.max()) / 2, (y.min() + y.max()) / 2
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    dx, dy = x - cx, y - cy
    return tuple(zip((cx + dx * c - dy * s).tolist(), (cy + dx * s + dy * c).tolist(), strict=True))


@dataclass(frozen=True)
class ShapeSource:
    """The mask that annotations of one image make: a `Source`.

    name: for messages. height, width: of the image. runs: compressed run lengths, column by column.
    """

    name: str
    height: int
    width: int
    runs: bytes

    @classmethod
    def of(cls, name: str, shapes: Iterable[Shape], height: int, width: int) -> "ShapeSource":
        """The union of the shapes, clipped at the border."""
        encoded = [shape.encode(height, width) for shape in shapes]
        return cls(name, height, width, _masks().merge(encoded)["counts"])

    def fingerprint(self) -> str:
        return f"shapes-{zlib.crc32(self.runs):08x}-{len(self.runs)}-{self.height}x{self.width}"

    def pixels(self) -> np.ndarray:
        """(height, width) uint8 of 0 and 255."""
        return _masks().decode({"size": [self.height, self.width], "counts": self.runs}) * np.uint8(255)

    def area(self) -> int:
        """Pixels inside."""
        return int(_masks().area({"size": [self.height, self.width], "counts": self.runs}))


def check_runs(runs: Sequence[int], height: int, width: int) -> tuple[int, ...]:
    """The runs, if they fill a mask of that size exactly.

    Raises:
        ValueError: a negative run, or another number of pixels.
    """
    if any(run < 0 for run in runs):
        raise ValueError("a run of negative length")
    if sum(runs) != height * width:
        raise ValueError(f"runs of {sum(runs)} pixels in all for a mask of {height}x{width} = {height * width}")
    return tuple(runs)


def from_runs(runs: Sequence[int], height: int, width: int) -> np.ndarray:
    """(height, width) bool from lengths of alternating runs along the rows, the first being outside: CVAT's masks.

    >>> from_runs([1, 2, 3], 2, 3).astype(int).tolist()
    [[0, 1, 1], [0, 0, 0]]

    Raises:
        ValueError: the runs do not fill the mask.
    """
    lengths = check_runs(runs, height, width)
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(height, width)


def runs_of(text: str) -> list[int]:
    """Run lengths from COCO's compressed string: six bits a character, five of them the number's, the sixth "more
    follows"; from the fourth number on the difference to the last but one.

    pycocotools would read these too, but beyond the end of its memory where the string is damaged.

    Raises:
        ValueError: not such a string.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("damaged run lengths")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("run lengths cut short")
    return runs


def _masks() -> Any:
    return imported("pycocotools.mask", "annotations")
