"""Dilated labels (D = 0, 5, 9, 13, 17), made at native size."""

from typing import Literal

import cv2
import numpy as np

from anomaly_seg.errors import InputError

StructuringElement = Literal["diamond", "square"]


def make_structuring_element(dilation: int, element: StructuringElement) -> np.ndarray:
    """(D, D) uint8 of 0 and 1: a diamond of radius (D - 1) / 2 (the labels published with Seg-Dec), or a full square.

    >>> make_structuring_element(3, "diamond").tolist()
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


def dilate(mask: np.ndarray, dilation: int, element: StructuringElement = "diamond") -> np.ndarray:
    """Mask (h, w) uint8 of 0 and 1, grown by the structuring element; D of 0 or 1 leaves it as drawn."""
    if dilation in (0, 1):
        return mask
    return cv2.dilate(mask, make_structuring_element(dilation, element))
