"""Images as a sealed model takes them: from a file or an array to (h, w, c) uint8."""

from pathlib import Path

import cv2
import numpy as np

from anomaly_seg.data.image_io import decode, to_8_bit
from anomaly_seg.errors import InputError
from anomaly_seg.inference.model_card import InputContract

MAX_SIDE = 16_384
"""Pixels a side that a sealed model resizes: its arithmetic is exact up to there, and takes memory with each side."""


def read_image(path: str | Path) -> np.ndarray:
    """Pixels of an image file, (h, w) or (h, w, 3, RGB) uint8. 16 bits become 8, an alpha channel is left out.

    Raises:
        InputError: no such file, not an image, several in one file, or one of another depth.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path and its rights") from None
    return from_bytes(data, str(path))


def from_bytes(data: bytes, name: str) -> np.ndarray:
    """`read_image` for what is in memory already. name: for messages."""
    pixels = to_8_bit(decode(data, name))
    if pixels.dtype != np.uint8:
        raise InputError(f"{name}: pixels of type {pixels.dtype}; give an image of 8 or 16 bits")
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return pixels.reshape(pixels.shape[:2])
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGB)


def as_input(image: np.ndarray | str | Path, contract: InputContract) -> np.ndarray:
    """What the graph takes, (h, w, c) uint8: colour becomes grey, or grey colour, where the model needs the other.

    Raises:
        InputError: as `read_image`; or an array of another type or shape, without pixels, or with too many on a side.
    """
    if isinstance(image, str | Path):
        image = read_image(image)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        found = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"image of type {found}: give a numpy array of uint8 (0 to 255), or the path of an image file")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise InputError(f"image of shape {image.shape}: give (height, width), or (height, width, 1 or 3)")
    if 0 in image.shape:
        raise InputError(f"image of shape {image.shape}: it has no pixels")
    if contract.fit != "tile" and max(image.shape[:2]) > MAX_SIDE:
        raise InputError(
            f"image of {image.shape[0]} x {image.shape[1]} pixels: the model resizes up to {MAX_SIDE} a side; "
            "cut it or shrink it"
        )
    channels = image.shape[2] if image.ndim == 3 else 1
    if channels == 3 and contract.channels == 1:
        image = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    pixels = image.reshape(*image.shape[:2], -1)
    return np.array(np.broadcast_to(pixels, (*pixels.shape[:2], contract.channels)), order="C")
