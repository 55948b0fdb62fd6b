"""What a sealed model says about one image. Plain numpy."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np

from anomaly_seg.inference.model_card import ModelCard

Verdict = Literal["good", "defective"]


@dataclass(frozen=True)
class Region:
    """One connected defect, in pixels of the image as given.

    x, y, width, height: bounding box, origin at the top left. area: pixels. peak: highest value of the heat map inside.
    """

    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    score: pooled map (its sum of pixels) or the decision's probability; larger is more suspicious. threshold: of
    the verdict. verdict: "defective" where score > threshold. heat_map: (h, w) float32 in [0, 1] at the size of the
    image as given. regions: of the heat map, largest first. maps: every map of the network by name (f1, f2, f3, C,
    F; map; mask), (H, W) float32 in [0, 1] at the network's size.
    """

    score: float
    threshold: float
    verdict: Verdict
    heat_map: np.ndarray
    regions: tuple[Region, ...]
    maps: dict[str, np.ndarray] = field(default_factory=dict)


class Detector(Protocol):
    """A loaded sealed model, whatever its runtime. Safe to call from several threads."""

    card: ModelCard
    path: Path

    def __call__(self, image: np.ndarray | str | Path, threshold: float | None = None) -> Prediction:
        """The verdict on one image.

        Args:
            image: (h, w), (h, w, 1) or (h, w, 3, RGB) uint8, or the path of an image file.
            threshold: instead of the card's.

        Raises:
            InputError: no image, or one that the input contract does not take.
            FloatingPointError: the model's score is no finite number.
        """
        ...

    def batch(self, images: list[np.ndarray], threshold: float | None = None) -> list[Prediction]:
        """The verdicts on several images, in their order; they may differ in size."""
        ...


def find_regions(heat_map: np.ndarray, above: float = 0.5) -> tuple[Region, ...]:
    """Connected (8-neighbourhood) parts of the heat map (h, w) in [0, 1] above a value, largest first."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((heat_map > above).astype(np.uint8), connectivity=8)
    found = []
    for i in range(1, count):
        x, y, width, height, area = (int(v) for v in stats[i])
        box = (slice(y, y + height), slice(x, x + width))
        peak = float(heat_map[box][labels[box] == i].max())
        found.append(Region(x, y, width, height, area, peak))
    return tuple(sorted(found, key=lambda r: (-r.area, r.y, r.x)))
