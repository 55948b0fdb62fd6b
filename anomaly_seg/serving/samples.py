"""Images to choose from on the page of `anomaly-seg demo`: a folder's, or generated ones."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from anomaly_seg.data.image_formats import IMAGE_SUFFIXES
from anomaly_seg.data.readers.synthetic_surface import MIN_SIDE, surface
from anomaly_seg.errors import InputError
from anomaly_seg.inference.image_input import from_bytes
from anomaly_seg.inference.model_card import InputContract
from anomaly_seg.serving.upload import Limits, check_upload

MAX_SAMPLES = 12
GENERATED_SIDE = 704
"""Longest side of a generated sample, in pixels."""


@dataclass(frozen=True)
class Sample:
    """An image offered on the page. image: (h, w) grey or (h, w, 3) RGB uint8, or the file that holds it."""

    name: str
    image: np.ndarray | Path

    def pixels(self, limits: Limits) -> np.ndarray:
        """Raises InputError if the file is gone or no usable image."""
        return self.image if isinstance(self.image, np.ndarray) else read(self.image, limits)


def read(path: Path, limits: Limits) -> np.ndarray:
    """An image file as (h, w) grey or (h, w, 3) RGB uint8. Raises InputError if it is not usable."""
    try:
        with open(path, "rb") as file:
            data = file.read(limits.max_bytes + 1)
    except OSError as error:
        raise InputError(f"{path.name}: cannot be read ({error.strerror}).") from error
    check_upload(data, limits)
    return from_bytes(data, path.name)


def samples_of(folder: Path, limits: Limits) -> list[Sample]:
    """Choose up to 12 images, spread over all that the folder and those below it hold.

    Raises:
        InputError: no such folder, or no usable image in it.
    """
    if not folder.is_dir():
        raise InputError(f"--samples {folder}: no such folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    samples = []
    for i in np.unique(np.linspace(0, len(paths) - 1, min(len(paths), MAX_SAMPLES)).round().astype(int)):
        sample = Sample(paths[i].relative_to(folder).as_posix(), paths[i])
        try:
            sample.pixels(limits)
        except InputError:  # one bad file must not keep the page from starting
            continue
        samples.append(sample)
    if not samples:
        raise InputError(f"--samples {folder}: no usable image ({', '.join(IMAGE_SUFFIXES)}) in it")
    return samples


def generated(contract: InputContract) -> list[Sample]:
    """Four synthetic surfaces in the shape the model takes, every other one with a crack."""
    scale = min(1.0, GENERATED_SIDE / max(contract.height, contract.width))
    height, width = (max(MIN_SIDE, round(scale * side)) for side in (contract.height, contract.width))
    samples = []
    for group in range(4):
        image, _ = surface(0, group, 0, group % 2 == 0, height, width)
        name = f"{'crack' if group % 2 == 0 else 'good'} {group // 2 + 1}"
        samples.append(Sample(name, image if contract.channels == 1 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)))
    return samples
