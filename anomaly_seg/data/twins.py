"""Identical and near-identical images, which a split must not put on both sides."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np

THUMBNAIL = 64
NEAR = 0.9
"""Correlation of two thumbnails from which images count as the same scene. On KolektorSDD different parts reach 0.70
at most; two photographs of the same part (kos38 and kos39 turn out to be one) lie between 0.96 and 0.99."""


class Twin(NamedTuple):
    """Two images, by index, that show the same: the same bytes, or a correlation of at least NEAR."""

    a: int
    b: int
    kind: Literal["identical", "near"]
    similarity: float


def thumbnail(image: np.ndarray) -> np.ndarray:
    """(64 * 64,) float32 of mean 0 and norm 1 (all zero for a flat image), so that a dot product is a correlation.

    Args:
        image: (h, w) or (h, w, 3) RGB uint8; of colour only the brightness counts.
    """
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    small -= small.mean()
    norm = float(np.linalg.norm(small))
    return small / norm if norm > 1e-3 else np.zeros_like(small)


def find_twins(fingerprints: Sequence[str], thumbnails: np.ndarray, items: Sequence[str]) -> list[Twin]:
    """Pairs of images of different items that show the same, best first.

    Args:
        fingerprints: n contents, equal only for identical bytes.
        thumbnails: (n, 4096) from `thumbnail`.
        items: n items; views of one item stay on one side anyway and are not compared.
    """
    twins: list[Twin] = []
    block = 1024  # rows at a time: memory stays bounded for tens of thousands of images
    for start in range(0, len(thumbnails), block):
        similarity = thumbnails[start : start + block] @ thumbnails.T
        for row, b in np.argwhere(similarity >= NEAR):
            a = start + int(row)
            if a < b and items[a] != items[b]:
                same = fingerprints[a] == fingerprints[b]
                twins.append(Twin(a, int(b), "identical" if same else "near", float(similarity[row, b])))
    seen = {(t.a, t.b) for t in twins}
    flat: dict[str, list[int]] = {}
    for i, print_ in enumerate(fingerprints):  # flat images have no correlation but can be identical
        flat.setdefault(print_, []).append(i)
    for same_bytes in flat.values():
        for i, a in enumerate(same_bytes):
            others = (b for b in same_bytes[i + 1 :] if items[a] != items[b] and (a, b) not in seen)
            twins += [Twin(a, b, "identical", 1.0) for b in others]
    return sorted(twins, key=lambda t: (t.kind, -t.similarity, t.a, t.b))
