"""Order of the training images as a pure function of (seed, epoch): a resumed run sees what it would have seen."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from anomaly_seg.errors import InputError

Order = Callable[[np.ndarray, int, int], np.ndarray]


def uniform(labels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Every image once, in random order. Returns (n,) positions in `labels`."""
    return np.random.default_rng([seed, epoch]).permutation(len(labels))


def alternating(labels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Defective and defect-free images in strict alternation (Seg-Dec), n in all.

    Each class is gone through in its own random order, which continues over epochs and is drawn anew each time the
    class is exhausted: over the epochs every image of a class is seen equally often.
    """
    out = np.empty(len(labels), dtype=np.int64)
    for offset, cls in enumerate((1, 0)):
        members = np.flatnonzero(labels == cls)
        # Positions of this class in the endless alternating sequence, which an epoch of odd length shifts by one.
        start = epoch * len(labels)
        slots = np.flatnonzero((np.arange(start, start + len(labels)) % 2) == offset)
        first = (start + 1 - offset) // 2
        stream = first + np.arange(len(slots))
        for turn in np.unique(stream // len(members)):
            order = np.random.default_rng([seed, cls, int(turn)]).permutation(members)
            inside = stream // len(members) == turn
            out[slots[inside]] = order[stream[inside] % len(members)]
    return out


def balanced(labels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """n draws with replacement, each class with probability 1/2."""
    rng = np.random.default_rng([seed, epoch])
    members = [np.flatnonzero(labels == cls) for cls in (0, 1)]
    return np.array([rng.choice(members[cls]) for cls in rng.integers(0, 2, len(labels))])


ORDERS: dict[str, Order] = {"uniform": uniform, "alternating": alternating, "balanced": balanced}


def check_sampler(kind: str, labels: np.ndarray) -> None:
    """Refuse training samples that the order cannot be made of.

    Args:
        kind: a key of ORDERS.
        labels: of the training samples, 1 = defective.

    Raises:
        InputError: an order that is not there, or one of a class that has no sample.
    """
    if kind not in ORDERS:
        raise InputError(f"sampler.kind={kind}: choose {', '.join(ORDERS)}")
    if kind != "uniform" and len(np.unique(labels)) < 2:
        raise InputError(f"sampler.kind={kind}: needs defective and defect-free images; use sampler=uniform")


class Draw(NamedTuple):
    """One training sample to be made: which image, and the randomness of its augmentation."""

    index: int  # type: ignore[assignment]  # tuples have a method of this name
    epoch: int
    position: int


class EpochSampler(Sampler[Draw]):
    """Draws of one epoch; Lightning calls `set_epoch`.

    Args:
        indices: the training images, as indices of the data set.
        labels: their labels, 1 = defective.
        kind: a key of ORDERS.
        seed: of the run.
    """

    def __init__(self, indices: Sequence[int] | np.ndarray, labels: np.ndarray, kind: str, seed: int) -> None:
        check_sampler(kind, labels)
        self.indices, self.labels, self.kind, self.seed = np.asarray(indices), np.asarray(labels), kind, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.indices)

    def order(self, epoch: int) -> np.ndarray:
        """(n,) images of an epoch, as indices of the data set."""
        return self.indices[ORDERS[self.kind](self.labels, self.seed, epoch)]

    def __iter__(self) -> Iterator[Draw]:
        for position, index in enumerate(self.order(self.epoch)):
            yield Draw(int(index), self.epoch, position)
