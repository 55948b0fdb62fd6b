"""Dilated labels (D = 0, 5, 9, 13, 17), made at native size, and how images and masks get the network's size."""

from typing import Literal

import cv2
import numpy as np

from anomaly_seg.errors import InputError
from anomaly_seg.tiling import pad

Element = Literal["diamond", "square"]
Resize = Literal["area", "nearest"]
Fit = Literal["resize", "pad", "tile"]


def structuring_element(dilation: int, element: Element) -> np.ndarray:
    """(D, D) uint8 of 0 and 1: a diamond of radius (D - 1) / 2 (the labels published with Seg-Dec), or a full square.

    >>> structuring_element(3, "diamond").tolist()
    [[0, 1, 0], [1, 1, 1], [0, 1, 0]]

    Raises:
        InputError: D is even or below 3.
    """
    if dilation < 3 or dilation % 2 == 0:
        raise InputError(f"dilation={dilation}: use 0 (as drawn) or an odd number such as 5, 9, 13 or 17")
    if element == "square":
        return np.ones((dilation, dilation), np.uint8)
    radius = dilation // 2
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (np.abs(y) + np.abs(x) <= radius).astype(np.uint8)


def dilate(mask: np.ndarray, dilation: int, element: Element = "diamond") -> np.ndarray:
    """Mask (h, w) uint8 of 0 and 1, grown by the element; D of 0 or 1 leaves it as drawn."""
    if dilation in (0, 1):
        return mask
    return cv2.dilate(mask, structuring_element(dilation, element))


def nearest_index(source: int, target: int) -> np.ndarray:
    """floor(i * source / target) for i in 0..target-1: the sampling of Seg-Dec's published records."""
    return np.arange(target) * source // target


def resize_image(image: np.ndarray, height: int, width: int, method: Resize) -> np.ndarray:
    """Image (h, w) or (h, w, 3) uint8 at another size: area means along sides that shrink, bilinear along those that
    grow; or nearest."""
    if method == "nearest":
        return image[nearest_index(image.shape[0], height)][:, nearest_index(image.shape[1], width)]
    # One after the other: OpenCV averages only where no side grows, and would step over a thin crack elsewhere.
    size = (min(width, image.shape[1]), min(height, image.shape[0]))
    shrunk = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_LINEAR)


def resize_mask(mask: np.ndarray, height: int, width: int, method: Resize) -> np.ndarray:
    """Mask (h, w) uint8 of 0 and 1 at another size: defect where at least half of the pixel's area is; or nearest."""
    if method == "nearest":
        return resize_image(mask, height, width, method)
    return (resize_image(mask * np.uint8(255), height, width, method) >= 128).astype(np.uint8)


def content_size(source: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Height and width of an image when it keeps its aspect and fills the target in one direction (`fit: pad`).

    The other side is rounded, half up, in whole numbers: no runtime of a sealed model can come to another size.

    >>> content_size((100, 50), (64, 64))
    (64, 32)
    """
    (height, width), (tall, wide) = source, target
    return max(1, min(tall, _quotient(height * wide, width))), max(1, min(wide, _quotient(width * tall, height)))


def _quotient(numerator: int, denominator: int) -> int:
    """The nearest whole number; half goes up."""
    return (2 * numerator + denominator) // (2 * denominator)


def fit_image(image: np.ndarray, height: int, width: int, method: Resize, keep_aspect: bool) -> np.ndarray:
    """Image (h, w) or (h, w, 3) uint8 at the network's size.

    keep_aspect: resized by one factor into the top left corner; its last row and column are repeated beyond.
    """
    if not keep_aspect:
        return resize_image(image, height, width, method)
    size = content_size((image.shape[0], image.shape[1]), (height, width))
    return pad(resize_image(image, *size, method), height, width)


def fit_mask(mask: np.ndarray, height: int, width: int, method: Resize, keep_aspect: bool) -> np.ndarray:
    """Mask (h, w) uint8 of 0 and 1 at the network's size, as `fit_image`: what repeats a defect is one too."""
    if not keep_aspect:
        return resize_mask(mask, height, width, method)
    size = content_size((mask.shape[0], mask.shape[1]), (height, width))
    return pad(resize_mask(mask, *size, method), height, width)
