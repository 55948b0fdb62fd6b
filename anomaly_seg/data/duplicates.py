"""Identical and near-identical images, which a split must not put on both sides."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from anomaly_seg.data.files import some

Kind = Literal["identical", "near"]
KINDS: tuple[Kind, Kind] = ("identical", "near")

THUMBNAIL = 64
NEAR = 0.9
"""Correlation of two thumbnails from which images count as the same scene. On KolektorSDD different parts reach 0.70
at most; two photographs of the same part (kos38 and kos39 turn out to be one) lie between 0.96 and 0.99."""

BLOCK = 1 << 22
"""Pairs looked at at a time, so that memory stays bounded."""

LISTED = 10_000
"""Pairs of a kind that are kept one by one."""


class DuplicatePair(NamedTuple):
    """Two images, by index, that show the same: the same bytes, or a correlation of at least NEAR."""

    a: int
    b: int
    kind: Kind
    similarity: float


@dataclass(frozen=True)
class Duplicates:
    """All pairs of images of different groups that show the same.

    One bit a pair: images of one product in one place are all near each other, and n images have n (n - 1) / 2 pairs.

    bits: by kind (n, ceil(n / 8)) uint8, the packed rows of an (n, n) matrix that tells whether images a < b are such a
    pair. closest: identical pairs, then near ones by falling similarity; LISTED of a kind at most.
    """

    bits: dict[Kind, np.ndarray]
    closest: list[DuplicatePair]

    def blocks(self, kind: Kind) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows a = start..stop of the matrix, and these rows, (stop - start, n) bool."""
        packed = self.bits[kind]
        for rows in _blocks(len(packed)):
            yield rows, np.unpackbits(packed[rows], axis=1, count=len(packed)).astype(bool)

    def count(self, kind: Kind, folds: np.ndarray | None = None) -> int:
        """How many pairs there are, or how many the folds (n,) put apart."""
        if folds is None:
            return sum(int(pairs.sum()) for _, pairs in self.blocks(kind))
        return sum(int((pairs & (folds[rows, None] != folds)).sum()) for rows, pairs in self.blocks(kind))

    def beside(self, kind: Kind, images: np.ndarray) -> np.ndarray:
        """Which images, (n,) bool, have a duplicate of this kind among the given ones, (n,) bool."""
        has_one = np.zeros(len(images), bool)
        for rows, pairs in self.blocks(kind):
            has_one[rows] |= (pairs & images).any(axis=1)
            has_one |= pairs[images[rows]].any(axis=0)
        return has_one

    def joined(self, group_numbers: np.ndarray, kinds: Sequence[Kind]) -> np.ndarray:
        """Groups (n,) int, of 0 to n - 1, with those made one that such duplicates link, however indirectly: (n,)
        int."""
        for kind in kinds:
            for rows, pairs in self.blocks(kind):
                a, b = np.nonzero(pairs)
                links = coo_array(
                    (np.ones(len(a), bool), (group_numbers[rows][a], group_numbers[b])), shape=(len(group_numbers),) * 2
                )
                group_numbers = connected_components(links, directed=False)[1][group_numbers]
        return group_numbers


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


def find_duplicates(fingerprints: Sequence[str], thumbnails: np.ndarray, groups: Sequence[str]) -> Duplicates:
    """Pairs of images of different groups that show the same.

    Args:
        fingerprints: n contents, equal only for identical bytes.
        thumbnails: (n, 4096) from `thumbnail`.
        groups: n groups; views of one group stay on one side anyway and are not compared.
    """
    n = len(thumbnails)
    prints, group_numbers = numbered(fingerprints), numbered(groups)
    bits: dict[Kind, np.ndarray] = {kind: np.zeros((n, -(-n // 8)), np.uint8) for kind in KINDS}
    closest: dict[Kind, list[DuplicatePair]] = {"identical": [], "near": []}
    for rows in _blocks(n):
        right = np.arange(n)[rows.start :]  # a < b: what lies left of the diagonal is known
        other = (group_numbers[rows, None] != group_numbers[right]) & (np.arange(n)[rows, None] < right)
        same = prints[rows, None] == prints[right]  # flat images have no correlation but can be identical
        similarity = np.where(same, np.float32(1), thumbnails[rows] @ thumbnails[right].T)
        pairs: dict[Kind, np.ndarray] = {"identical": same & other, "near": (similarity >= NEAR) & other & ~same}
        for kind, found in pairs.items():
            bits[kind][rows] = np.packbits(np.pad(found, ((0, 0), (rows.start, 0))), axis=1)
            closest[kind] = _closest(closest[kind], found, similarity, rows.start, kind)
    return Duplicates(bits, closest["identical"] + closest["near"])


def contradictions(names: Sequence[str], fingerprints: Sequence[str], labels: np.ndarray) -> list[str]:
    """What to say of byte-identical images of which one is good and another defective: one of the labels is wrong.

    `check` calls them a problem, but `train` does not refuse them: of thousands of images a few such pairs spoil no
    model, and published data sets, whose labels nobody may change, have to stay trainable as they are. KolektorSDD and
    the magnetic tiles hold none: KolektorSDD's identical images that differ in their masks are defective in both.

    Args:
        names, fingerprints: of n images. labels: (n,) 1 = defective.
    """
    good = {content: name for name, content, bad in zip(names, fingerprints, labels, strict=True) if not bad}
    pairs = [
        f"{name} (defective) = {good[content]} (good)"
        for name, content, bad in zip(names, fingerprints, labels, strict=True)
        if bad and content in good
    ]
    if not pairs:
        return []
    return [
        f"identical images of which one counts as defective and one as good: {some(pairs)}; give both the same mask, "
        "or remove one of each"
    ]


def numbered(names: Sequence[str]) -> np.ndarray:
    """(n,) int: the place of every name among the different ones, sorted."""
    place = {name: i for i, name in enumerate(sorted(set(names)))}
    return np.array([place[name] for name in names], np.int64)


def _blocks(n: int) -> Iterator[slice]:
    height = max(1, BLOCK // max(n, 1))
    return (slice(start, min(start + height, n)) for start in range(0, n, height))


def _closest(
    known: list[DuplicatePair], found: np.ndarray, similarity: np.ndarray, start: int, kind: Kind
) -> list[DuplicatePair]:
    """The closest of the known pairs and of those found, by falling similarity; then as they come."""
    if len(known) == LISTED:
        found = found & (similarity > known[-1].similarity)
    a, b = np.nonzero(found)
    values = similarity[a, b]
    best = np.argsort(-values, kind="stable")[:LISTED]
    new = [DuplicatePair(start + int(a[i]), start + int(b[i]), kind, float(values[i])) for i in best]
    return sorted(known + new, key=lambda t: (-t.similarity, t.a, t.b))[:LISTED]
