"""Order of the training images as a pure function of (seed, epoch): a resumed run sees what it would have seen."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
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


class Share(NamedTuple):
    """One device's part of a batch: the place of its first image, how many they are, and what its mean loss weighs so
    that the mean over all devices is the mean over the whole batch."""

    first: int
    images: int
    weight: float


def share_of(size: int, device: int, devices: int) -> Share:
    """The part of a batch of `size` images that falls to a device: runs of the batch, as even as can be.

    >>> [share_of(5, device, 2) for device in (0, 1)]
    [Share(first=0, images=2, weight=0.8), Share(first=2, images=3, weight=1.2)]
    """
    first, end = (size * number // devices for number in (device, device + 1))
    return Share(first, end - first, (end - first) * devices / size)


class DeviceBatches(Sampler[list[Draw]]):
    """Batches of one epoch; where several devices share each step, the part of one of them.

    The batches of all devices together are those of one device alone, in the same order. Of a last batch with fewer
    images than devices, a device without one gets the first again, and a weight of 0.

    Args:
        sampler: order of all images.
        batch_size: images a step, over all devices.
        device: which of them this is, from 0.
        devices: how many there are.
    """

    def __init__(self, sampler: EpochSampler, batch_size: int, device: int = 0, devices: int = 1) -> None:
        self.sampler, self.batch_size, self.device, self.devices = sampler, batch_size, device, devices

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def share(self, batch: int) -> Share:
        """This device's part of a batch of the epoch, counted from 0."""
        size = min(self.batch_size, len(self.sampler) - batch * self.batch_size)
        return share_of(size, self.device, self.devices)

    def __iter__(self) -> Iterator[list[Draw]]:
        draws = iter(self.sampler)
        for batch in range(len(self)):
            whole, (first, images, _) = list(islice(draws, self.batch_size)), self.share(batch)
            yield whole[first : first + images] or whole[:1]
