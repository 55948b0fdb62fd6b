"""Orders of the training images: what each promises, as pure functions of (seed, epoch)."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomaly_seg.data.sampling import (
    ORDERS,
    DeviceBatches,
    Draw,
    EpochSampler,
    alternating,
    balanced,
    share_of,
    uniform,
)
from anomaly_seg.errors import InputError

SEEDS = st.integers(0, 2**32 - 1)
TWO_CLASSES = st.lists(st.integers(0, 1), min_size=2, max_size=40).filter(lambda x: len(set(x)) == 2).map(np.array)


def epochs(kind: str, labels: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    return np.concatenate([ORDERS[kind](labels, seed, epoch) for epoch in range(count)])


@given(labels=TWO_CLASSES, seed=SEEDS, epoch=st.integers(0, 1000), kind=st.sampled_from(sorted(ORDERS)))
def test_orders_are_pure_functions(labels: np.ndarray, seed: int, epoch: int, kind: str) -> None:
    order = ORDERS[kind](labels, seed, epoch)
    np.random.default_rng().random(5)
    np.random.random(5)
    np.testing.assert_array_equal(order, ORDERS[kind](labels.copy(), seed, epoch))
    assert len(order) == len(labels) and order.min() >= 0 and order.max() < len(labels)


@pytest.mark.parametrize("kind", sorted(ORDERS))
def test_seeds_and_epochs_differ(kind: str) -> None:
    labels = np.arange(60) % 3 == 0
    orders = [ORDERS[kind](labels.astype(int), seed, epoch) for seed in range(4) for epoch in range(4)]
    assert len({tuple(order.tolist()) for order in orders}) == 16  # seed 0 is a seed like any other


@given(labels=TWO_CLASSES, seed=SEEDS, epoch=st.integers(0, 1000))
def test_uniform_shows_every_image_once(labels: np.ndarray, seed: int, epoch: int) -> None:
    assert sorted(uniform(labels, seed, epoch).tolist()) == list(range(len(labels)))


@given(labels=TWO_CLASSES, seed=SEEDS)
def test_alternation_is_strict_across_epochs(labels: np.ndarray, seed: int) -> None:
    seen = labels[epochs("alternating", labels, 5, seed)]
    np.testing.assert_array_equal(seen, 1 - np.arange(5 * len(labels)) % 2)  # 1, 0, 1, 0, ...


@given(labels=TWO_CLASSES, seed=SEEDS, count=st.integers(1, 12))
def test_alternation_shows_each_image_of_a_class_equally_often(labels: np.ndarray, seed: int, count: int) -> None:
    seen = epochs("alternating", labels, count, seed)
    for cls in (0, 1):
        members = np.flatnonzero(labels == cls)
        stream = seen[labels[seen] == cls]
        for turn in range(len(stream) // len(members)):  # every full turn shows each member once
            part = stream[turn * len(members) : (turn + 1) * len(members)]
            assert sorted(part.tolist()) == members.tolist()
        counts = Counter({int(m): 0 for m in members}) + Counter(stream.tolist())
        assert max(counts.values()) - min(counts.get(int(m), 0) for m in members) <= 1


def test_alternation_by_hand() -> None:
    """Two defective images (0, 1) and three good ones (2, 3, 4): epochs of five, D G D G D | G D G D G."""
    labels = np.array([1, 1, 0, 0, 0])
    first, second = alternating(labels, 7, 0), alternating(labels, 7, 1)
    assert labels[first].tolist() == [1, 0, 1, 0, 1] and labels[second].tolist() == [0, 1, 0, 1, 0]
    assert {first[0], first[2]} == {0, 1} and {first[4], second[1]} == {0, 1}  # two turns of the defective
    assert {first[1], first[3], second[0]} == {2, 3, 4}  # one turn of the good


def test_alternation_draws_a_new_order_each_turn() -> None:
    labels = np.array([1] * 10 + [0] * 10)
    turns = {tuple(alternating(labels, 0, epoch)[::2].tolist()) for epoch in range(10)}
    assert len(turns) == 10


def test_balanced_draws_both_classes_equally_often() -> None:
    labels = np.array([1] * 5 + [0] * 95)
    seen = epochs("balanced", labels, 100)
    # 10,000 draws: five standard deviations are 250 for a class, and for one of 5 members (mean 1000, sd 30) 150.
    assert abs((labels[seen] == 1).sum() - 5000) < 250
    counts = np.bincount(seen, minlength=100)
    assert (np.abs(counts[:5] - 1000) < 150).all()
    assert (np.abs(counts[5:] - 5000 / 95) < 5 * np.sqrt(5000 / 95)).all()
    assert set(balanced(labels, 0, 0).tolist()) <= set(range(100))


def test_the_sampler_gives_data_set_indices_and_places() -> None:
    labels = np.array([1, 0, 0, 1])
    sampler = EpochSampler([10, 20, 30, 40], labels, "uniform", seed=3)
    sampler.set_epoch(2)
    order = uniform(labels, 3, 2)
    assert list(sampler) == [Draw([10, 20, 30, 40][i], 2, place) for place, i in enumerate(order)]
    assert len(sampler) == 4
    assert list(sampler) == list(sampler)


@given(images=st.integers(2, 30), batch_size=st.integers(1, 9), devices=st.integers(1, 5), epoch=st.integers(0, 3))
def test_devices_share_each_batch_in_the_order_of_one(images: int, batch_size: int, devices: int, epoch: int) -> None:
    sampler = EpochSampler(range(images), np.arange(images) % 2, "alternating", seed=1)
    sampler.set_epoch(epoch)
    whole = list(DeviceBatches(sampler, batch_size))
    assert [draw for batch in whole for draw in batch] == list(sampler)
    assert {len(batch) for batch in whole[:-1]} <= {batch_size} and 1 <= len(whole[-1]) <= batch_size
    parts = [DeviceBatches(sampler, batch_size, device, devices) for device in range(devices)]
    for number, batches in enumerate(zip(*parts, strict=True)):
        shares = [part.share(number) for part in parts]
        assert [d for batch, share in zip(batches, shares, strict=True) for d in batch[: share.images]] == whole[number]
        assert all(len(batch) == max(1, share.images) for batch, share in zip(batches, shares, strict=True))
        assert max(s.images for s in shares) - min(s.images for s in shares) <= 1
        # A mean over devices of weighted means over images is the mean over all images.
        assert [s.weight * len(whole[number]) / devices for s in shares] == pytest.approx([s.images for s in shares])
    assert len(parts[0]) == len(whole)


def test_shares_by_hand() -> None:
    assert [share_of(4, device, 2) for device in (0, 1)] == [(0, 2, 1.0), (2, 2, 1.0)]
    assert [share_of(1, device, 2) for device in (0, 1)] == [(0, 0, 0.0), (0, 1, 2.0)]
    assert [share_of(3, device, 2)[:2] for device in (0, 1)] == [(0, 1), (1, 2)]


def test_what_a_sampler_refuses() -> None:
    with pytest.raises(InputError, match=r"sampler\.kind=random: choose uniform, alternating, balanced"):
        EpochSampler([0, 1], np.array([0, 1]), "random", 0)
    for kind in ("alternating", "balanced"):
        with pytest.raises(InputError, match=rf"sampler\.kind={kind}: needs defective .*use sampler=uniform"):
            EpochSampler([0, 1], np.array([1, 1]), kind, 0)
    assert len(EpochSampler([0, 1], np.array([1, 1]), "uniform", 0)) == 2
