"""Synthetic commutator-like surfaces as a data set: needs no files, and the same settings always give the same."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from anomaly_seg.data.readers.synthetic_surface import MIN_SIDE, layout, surface
from anomaly_seg.data.records import Dataset, Record
from anomaly_seg.errors import InputError

VERSION = 1
"""Raise when the generator's pictures change, so that caches notice."""


@dataclass(frozen=True)
class SyntheticSource:
    """One generated picture, made when it is read."""

    seed: int
    group: int
    view: int
    defective: bool
    height: int
    width: int
    part: Literal["image", "mask"]

    @property
    def name(self) -> str:
        return f"synthetic group {self.group} view {self.view} ({self.part})"

    def fingerprint(self) -> str:
        key = (self.seed, self.group, self.view, self.defective, self.height, self.width, self.part)
        return f"synthetic-{VERSION}-" + "-".join(str(part) for part in key)

    def pixels(self) -> np.ndarray:
        pair = surface(self.seed, self.group, self.view, self.defective, self.height, self.width)
        return pair[0] if self.part == "image" else pair[1]


def read(groups: int, views: int, defective_fraction: float, height: int, width: int, seed: int = 0) -> Dataset:
    """Records of a generated data set.

    Args:
        groups: number of parts; views: pictures of each.
        defective_fraction: share of pictures with a crack, in (0, 1].
        height, width: of the pictures, in pixels.
        seed: of the data, not of the training.

    Raises:
        InputError: a value out of range.
    """
    if min(height, width) < MIN_SIDE:
        raise InputError(f"data.reader.height={height}, data.reader.width={width}: use {MIN_SIDE} or more")
    try:
        plan = layout(seed, groups, views, defective_fraction)
    except ValueError as error:
        raise InputError(f"data.reader: {error}") from error
    records = []
    for group, view, defective in plan:
        image, mask = (SyntheticSource(seed, group, view, defective, height, width, part) for part in ("image", "mask"))
        name = f"part{group + 1:02d}/view{view}"
        records.append(Record(name, f"part{group + 1:02d}", image, mask if defective else None))
    return Dataset("synthetic", records)
