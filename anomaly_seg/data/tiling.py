"""Large images in tiles: where the tiles lie, how they are cut, and how their maps become one again. Plain numpy.

Every pixel of the whole map is taken from the tile in which it lies deepest. So a network of receptive radius r gives
the same map as on the whole image where neighbouring tiles share 2 r pixels or more, provided that its pooling grid is
the same in the tile and in the image: all tiles start on multiples of `align`.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from anomaly_seg.errors import InputError

ALIGN = 16
"""Multiple on which tiles start: a whole number of pooling cells for every network here (8, or U-Net's 2^4)."""


class Tile(NamedTuple):
    """Upper left corner, in pixels of the image."""

    y: int
    x: int


@dataclass(frozen=True)
class TileGrid:
    """The tiles of one image: a grid, evenly spaced up to `align`, that covers the image.

    height, width: of the image. tile_height, tile_width: of every tile. overlap: pixels that neighbours share at least.
    align: corners are multiples of it; for that the last tiles may reach less than `align` pixels over the edge.

    Raises:
        InputError: an overlap below 0, or one that leaves less than `align` pixels of a tile.
    """

    height: int
    width: int
    tile_height: int
    tile_width: int
    overlap: int
    align: int = ALIGN

    def __post_init__(self) -> None:
        check_overlap(self.tile_height, self.tile_width, self.overlap, self.align)

    @cached_property
    def tiles(self) -> list[Tile]:
        """Row by row."""
        rows, columns = self._starts
        return [Tile(y, x) for y in rows for x in columns]

    def inner(self, tile: Tile) -> tuple[slice, slice]:
        """The rows and columns of the image that are taken from this tile; those of all tiles part the image.

        Raises:
            ValueError: no tile of this grid.
        """
        rows, columns = self._starts
        return (
            _owned(rows, rows.index(tile.y), self.tile_height, self.height),
            _owned(columns, columns.index(tile.x), self.tile_width, self.width),
        )

    def inside(self, tile: Tile) -> tuple[slice, slice]:
        """The same part in rows and columns of the tile."""
        rows, columns = self.inner(tile)
        return slice(rows.start - tile.y, rows.stop - tile.y), slice(columns.start - tile.x, columns.stop - tile.x)

    @cached_property
    def _starts(self) -> tuple[list[int], list[int]]:
        return (
            _starts(self.height, self.tile_height, self.overlap, self.align),
            _starts(self.width, self.tile_width, self.overlap, self.align),
        )


def check_overlap(tile_height: int, tile_width: int, overlap: int, align: int = ALIGN) -> None:
    """Raises InputError for an overlap below 0, or one that leaves less than `align` pixels of a tile."""
    side = min(tile_height, tile_width)
    if side < align:
        raise InputError(f"tiles of {tile_height}x{tile_width}: use {align} or more (scale.height, scale.width)")
    if not isinstance(overlap, int) or not 0 <= overlap <= side - align:
        raise InputError(
            f"data.tile_overlap={overlap}: use a whole number from 0 to {side - align} for tiles of "
            f"{tile_height}x{tile_width}, or larger tiles (scale.height, scale.width)"
        )


def cut(image: np.ndarray, tile: Tile, tile_height: int, tile_width: int) -> np.ndarray:
    """One tile of an image (h, w) or (h, w, c).

    Args:
        image: of any size.
        tile: inside it.
        tile_height, tile_width: of what is returned; beyond the image, its last row and column are repeated.
    """
    part = image[tile.y : tile.y + tile_height, tile.x : tile.x + tile_width]
    return pad(part, tile_height, tile_width)


def pad(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Image (h, w) or (h, w, c), enlarged at the bottom and the right by its last row and column."""
    missing = [(0, height - image.shape[0]), (0, width - image.shape[1])] + [(0, 0)] * (image.ndim - 2)
    if not any(after for _, after in missing):
        return image
    return np.pad(image, missing, "edge")


class Stitcher:
    """One map from the maps of all tiles; it holds that one map and nothing else.

    Args: as of `TileGrid`.

    >>> stitcher = Stitcher(64, 100, 64, 64, 16)
    >>> for number, tile in enumerate(stitcher.grid.tiles):
    ...     stitcher.add(tile, np.full((64, 64), number, np.float32))
    >>> np.bincount(stitcher.result()[0].astype(int)).tolist()
    [56, 44]
    """

    def __init__(
        self, height: int, width: int, tile_height: int, tile_width: int, overlap: int, align: int = ALIGN
    ) -> None:
        self.grid = TileGrid(height, width, tile_height, tile_width, overlap, align)
        self._whole: np.ndarray | None = None
        self._missing = set(self.grid.tiles)

    def add(self, tile: Tile, values: np.ndarray) -> None:
        """The map (tile_height, tile_width) or (tile_height, tile_width, c) of one tile, in any order of tiles."""
        if self._whole is None:
            size = (self.grid.height, self.grid.width)
            self._whole = np.zeros(size + values.shape[2:], values.dtype)
        self._whole[self.grid.inner(tile)] = values[self.grid.inside(tile)]
        self._missing.discard(tile)

    @property
    def complete(self) -> bool:
        """Whether every tile has been added."""
        return not self._missing

    def result(self) -> np.ndarray:
        """(height, width) or (height, width, c), of the dtype that was added.

        Raises:
            ValueError: tiles are missing.
        """
        if self._whole is None or not self.complete:
            raise ValueError(f"{len(self._missing)} of {len(self.grid.tiles)} tiles are missing")
        return self._whole


def _starts(length: int, tile: int, overlap: int, align: int) -> list[int]:
    """Evenly spaced, on multiples of `align`; the last tile reaches the end, or less than `align` over it."""
    cells = -(-max(0, length - tile) // align)  # of the last start
    step = (tile - overlap) // align
    gaps = -(-cells // step)
    return [i * cells // gaps * align for i in range(gaps + 1)] if gaps else [0]


def _owned(starts: list[int], index: int, tile: int, length: int) -> slice:
    """From the middle of the overlap with the tile before to the middle of that with the tile behind."""
    middles = [(b + a + tile) // 2 for a, b in pairwise(starts)]
    edges = [0, *middles, length]
    return slice(edges[index], edges[index + 1])
