"""Resizing of images and masks to the network's size."""

from typing import Literal

import cv2
import numpy as np

from anomaly_seg.data.tiling import pad

Resize = Literal["area", "nearest"]
Fit = Literal["resize", "pad", "tile"]


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
