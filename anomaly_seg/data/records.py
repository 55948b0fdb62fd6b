"""What a reader returns: one record an image, and the defect mask that belongs to it."""

from dataclasses import dataclass, field

import numpy as np

from anomaly_seg.data.image_io import Source
from anomaly_seg.data.masks import ANY_VALUE, drawn_levels, is_defect
from anomaly_seg.errors import InputError


@dataclass(frozen=True)
class Record:
    """One image of a data set.

    name: unique, such as "kos01/Part5". group: the physical part it shows; a split never parts a group.
    mask: None where the image is known to be free of defects.
    """

    name: str
    group: str
    image: Source
    mask: Source | None


@dataclass
class Dataset:
    """Records and what the reader has to say about them.

    published_folds: group -> fold, for data sets that come with folds. train_test: these are no folds but a division, 0
    for the test part and 1 for the training part.
    notes: things left out or taken with a doubt, one sentence each, for `anomaly-seg check`. problems: what has to be
    mended before anything may train on these data; `check` lists it, `train` refuses with the same words.
    """

    name: str
    records: list[Record]
    published_folds: dict[str, int] | None = None
    notes: list[str] = field(default_factory=list)
    train_test: bool = False
    problems: list[str] = field(default_factory=list)


def load_mask(record: Record, shape: tuple[int, int], threshold: int = ANY_VALUE) -> tuple[np.ndarray, set[int]]:
    """Defect mask at native size.

    Args:
        record: whose mask.
        shape: of its image.
        threshold: stored value from which on a pixel is defect, see `masks.is_defect`.

    Returns:
        (h, w) uint8 of 0 and 1, where 1 is defect, and the stored values other than 0 and 255.

    Raises:
        InputError: the mask's size differs from its image's, or one cannot say what is drawn (see `masks`).
    """
    if record.mask is None:
        return np.zeros(shape, np.uint8), set()
    pixels = record.mask.pixels()
    if pixels.shape[:2] != shape:
        raise InputError(
            f"{record.mask.name}: mask of {pixels.shape[0]}x{pixels.shape[1]} for an image of {shape[0]}x{shape[1]} "
            f"({record.image.name}); export it at the image's size"
        )
    pixels = drawn_levels(pixels, record.mask.name)
    odd = set(np.unique(pixels).tolist()) - {0, 255}
    return is_defect(pixels, threshold, record.mask.name).astype(np.uint8), odd
