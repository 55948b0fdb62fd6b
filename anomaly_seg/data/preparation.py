"""How pictures of any size become samples of the network's size: resized, padded or cut into tiles."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from anomaly_seg.data.dilation import StructuringElement, make_structuring_element
from anomaly_seg.data.image_io import Convert
from anomaly_seg.data.masks import ANY_VALUE
from anomaly_seg.data.resize import Fit, Resize, fit_image, fit_mask
from anomaly_seg.data.tiling import ALIGN, TileGrid, check_overlap, cut
from anomaly_seg.errors import InputError


@dataclass(frozen=True)
class Preparation:
    """How pictures become arrays.

    height, width: in pixels. resize: "area" or "nearest". dilation, structuring_element: of the labels, at native size.
    convert: what to do with 16-bit images, and with colour where channels is 1. channels: 1 = grey, 3 = RGB.
    fit: how an image gets the size: "resize", "pad" (aspect kept), or "tile" (cut at native size). overlap: of tiles.
    mask_threshold: 1 to 255, the value from which on a mask's pixel is defect.

    Raises:
        InputError: a value out of range.
    """

    height: int
    width: int
    dilation: int = 0
    structuring_element: StructuringElement = "diamond"
    resize: Resize = "area"
    convert: Convert = "error"
    channels: int = 1
    fit: Fit = "resize"
    overlap: int = 0
    mask_threshold: int = ANY_VALUE

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise InputError(f"scale.height={self.height}, scale.width={self.width}: use 1 or more")
        if self.dilation not in (0, 1):
            make_structuring_element(self.dilation, self.structuring_element)  # refuses what cannot be
        for key, choices in (
            ("structuring_element", StructuringElement),
            ("resize", Resize),
            ("convert", Convert),
            ("fit", Fit),
        ):
            if getattr(self, key) not in get_args(choices):
                raise InputError(f"data.{key}={getattr(self, key)}: choose {' or '.join(get_args(choices))}")
        if self.channels not in (1, 3):
            raise InputError(f"data.channels={self.channels}: use 1 (grey) or 3 (colour)")
        if not 1 <= self.mask_threshold <= 255:
            raise InputError(f"data.mask_threshold={self.mask_threshold}: use a whole number from 1 to 255")
        if self.fit == "tile":
            check_overlap(self.height, self.width, self.overlap)

    def tile_grid(self, height: int, width: int) -> TileGrid:
        """The tiles of an image of this native size; a single one, of the network's size, unless fit is "tile"."""
        if self.fit == "tile":
            return TileGrid(height, width, self.height, self.width, self.overlap)
        return TileGrid(self.height, self.width, self.height, self.width, 0, align=1)

    def images(self, image: np.ndarray) -> Iterator[np.ndarray]:
        """The samples (height, width) or (height, width, 3) that an image becomes, as ordered in its grid."""
        if self.fit != "tile":
            yield fit_image(image, self.height, self.width, self.resize, self.fit == "pad")
            return
        for tile in self.tile_grid(*image.shape[:2]).tiles:
            yield cut(image, tile, self.height, self.width)

    def masks(self, mask: np.ndarray) -> Iterator[np.ndarray]:
        """Likewise for a mask (h, w) of 0 and 1; beyond the image it is repeated as the image is."""
        if self.fit != "tile":
            yield fit_mask(mask, self.height, self.width, self.resize, self.fit == "pad")
            return
        for tile in self.tile_grid(*mask.shape).tiles:
            yield cut(mask, tile, self.height, self.width)

    def changed(self, shapes: np.ndarray) -> bool:
        """Whether a version before 3 of the cache made other samples of images of these shapes (n, 2).

        It interpolated along a side that shrinks where the other one grows, and no mask was repeated.
        """
        if self.fit != "resize":
            return True
        grows = shapes < (self.height, self.width)
        return self.resize == "area" and bool(
            np.any(grows.any(axis=1) & (shapes > (self.height, self.width)).any(axis=1))
        )

    def key(self) -> dict[str, Any]:
        """What tells the arrays of one preparation from those of another, what concerns its masks alone left aside."""
        key: dict[str, Any] = {"height": self.height, "width": self.width, "resize": self.resize}
        key["convert"] = self.convert
        if self.channels != 1:  # grey, resized arrays are found where they were before there was a choice
            key["channels"] = self.channels
        if self.fit != "resize":
            key["fit"] = self.fit
        return key | ({"overlap": self.overlap, "align": ALIGN} if self.fit == "tile" else {})

    def mask_key(self, dilation: int) -> dict[str, Any]:
        """The same for masks, dilated by so much."""
        key = self.key() | {"dilation": dilation, "element": self.structuring_element if dilation else None}
        return key if self.mask_threshold == ANY_VALUE else key | {"mask_threshold": self.mask_threshold}
