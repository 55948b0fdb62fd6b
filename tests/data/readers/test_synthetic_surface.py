"""The synthetic surfaces: what is promised of their pictures, their masks and their layout."""

import itertools
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly_seg.data.readers.synthetic_surface import layout, surface

SMALL = (256, 96)  # height, width
SIZES = [SMALL, (352, 128), (704, 256), (1408, 512)]
CRACK_MARGIN = 20  # grey levels by which a crack is darker than its surroundings, on average over its mask


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """The chance that a positive scores above a negative, ties counted half."""
    difference = positive[:, None] - negative[None, :]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


def check_facts(seed: int, group: int, view: int, height: int, width: int) -> None:
    """What holds for any seed and size: types, sizes, an empty mask if good, one crack confined to its mask if not."""
    good, empty = surface(seed, group, view, False, height, width)
    bad, mask = surface(seed, group, view, True, height, width)
    for array in (good, empty, bad, mask):
        assert array.shape == (height, width) and array.dtype == np.uint8
    assert not empty.any()
    assert set(np.unique(mask)) == {0, 255}
    assert np.count_nonzero(mask) >= 4
    assert cv2.connectedComponents(mask, connectivity=8)[0] == 2  # background and one crack
    np.testing.assert_array_equal(bad[mask == 0], good[mask == 0])
    assert np.all(bad <= good)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**64),
    group=st.integers(0, 10_000),
    view=st.integers(0, 100),
    height=st.integers(32, 400),
    width=st.integers(32, 300),
)
def test_facts_hold_for_any_seed_and_size(seed: int, group: int, view: int, height: int, width: int) -> None:
    check_facts(seed, group, view, height, width)


@pytest.mark.parametrize("size", [*SIZES, (32, 32), (32, 1000), (1000, 32), (2816, 1024)])
def test_facts_hold_at_named_sizes(size: tuple[int, int]) -> None:
    for group in range(3):
        check_facts(5, group, 0, *size)


def test_default_size_is_the_papers() -> None:
    image, mask = surface(0, 0, 0, True)
    assert image.shape == mask.shape == (1408, 512)


def test_same_arguments_give_the_same_picture_whatever_was_drawn_before() -> None:
    first = surface(3, 1, 2, True, *SMALL)
    np.random.seed(0)  # the global state is neither read ...
    surface(4, 0, 0, False, *SMALL)
    state = np.random.get_state()[1].copy()
    second = surface(3, 1, 2, True, *SMALL)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # ... nor written
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_a_returned_picture_is_the_callers_own() -> None:
    image, mask = surface(3, 1, 2, True, *SMALL)
    kept = image.copy()
    image[:], mask[:] = 0, 0
    np.testing.assert_array_equal(surface(3, 1, 2, True, *SMALL)[0], kept)


def test_pictures_of_different_arguments_differ() -> None:
    arguments = itertools.product((0, 1, 2**32, 2**32 + 1), (0, 1, 2), (0, 1, 2))
    prints = [zlib.crc32(surface(*numbers, False, *SMALL)[0].tobytes()) for numbers in arguments]
    assert len(set(prints)) == len(prints)


def test_cracks_of_different_views_differ() -> None:
    masks = {surface(0, group, view, True, *SMALL)[1].tobytes() for group in range(4) for view in range(4)}
    assert len(masks) == 16


def test_views_of_an_item_look_alike() -> None:
    """Brightness and grain vary more between groups than between the views of one."""
    pictures = np.array(
        [[surface(1, group, view, False, *SMALL)[0] for view in range(4)] for group in range(12)], float
    )
    inner = pictures[:, :, 20:-20, 20:-20]
    grain = (inner - np.array([[cv2.blur(one, (9, 9)) for one in views] for views in inner])).std(axis=(2, 3))
    for trait in (inner.mean(axis=(2, 3)), grain):
        assert trait.mean(axis=1).std() > 2 * trait.std(axis=1).mean()


@pytest.mark.parametrize("size", SIZES)
def test_a_crack_is_darker_than_its_surroundings(size: tuple[int, int]) -> None:
    for group in range(20 if size != SIZES[-1] else 8):
        image, mask = surface(2, group, 0, True, *size)
        reach = 2 * max(3, round(20 * size[0] / 1408)) + 1
        ring = (cv2.dilate(mask, np.ones((reach, reach), np.uint8)) > 0) & (mask == 0)
        assert image[mask > 0].mean() < np.median(image[ring]) - CRACK_MARGIN, group


@pytest.mark.parametrize("size", SIZES)
def test_a_crack_is_thin_and_long(size: tuple[int, int]) -> None:
    for group in range(10):
        mask = surface(2, group, 0, True, *size)[1]
        rows, columns = np.nonzero(mask)
        length = np.hypot(np.ptp(rows) + 1, np.ptp(columns) + 1)
        widest = 2 * cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 5).max()
        assert length > 0.13 * size[1]
        assert 1.5 <= np.count_nonzero(mask) / length <= 0.04 * size[1]
        assert widest < 0.3 * length


def test_looks_much_the_same_at_any_size() -> None:
    """Mean and spread of the grey levels agree on average over groups (shading is drawn anew), and cracks keep
    place."""

    def traits(size: tuple[int, int]) -> tuple[float, float, np.ndarray]:
        images, masks = zip(*(surface(6, group, 0, True, *size) for group in range(12)), strict=True)
        # The middle of the crack's box: its centroid moves, because in small pictures the tip is relatively thicker.
        middles = [np.mean([np.argwhere(mask).min(axis=0), np.argwhere(mask).max(axis=0)], axis=0) for mask in masks]
        return float(np.mean(images)), float(np.std(images, axis=(1, 2)).mean()), np.array(middles) / size

    mean, spread, middles = traits(SIZES[-1])
    for size in SIZES[:-1]:
        small_mean, small_spread, small_middles = traits(size)
        assert abs(small_mean - mean) < 6
        assert 0.8 < small_spread / spread < 1.25
        np.testing.assert_allclose(small_middles, middles, atol=0.02)


@pytest.mark.parametrize("seed, size", [(0, SMALL), (1, SMALL), (2, SMALL), (0, (352, 128))])
def test_darkness_does_not_separate_good_from_defective(seed: int, size: tuple[int, int]) -> None:
    """On 60 images of 60 groups no measure of darkness reaches AUROC 0.8; a detector of dark lines passes it."""
    pictures = [surface(seed, group, 0, group % 2 == 1, *size)[0].astype(np.float32) for group in range(60)]

    def separation(score) -> float:
        scores = np.array([score(picture) for picture in pictures])
        return auroc(scores[1::2], scores[::2])

    reach = round(60 * size[0] / 1408) | 1
    assert separation(lambda p: -p.min()) < 0.8
    assert separation(lambda p: -cv2.blur(p, (3, 3)).min()) < 0.8
    assert separation(lambda p: (cv2.blur(p, (reach, reach)) - p).max()) < 0.8
    assert separation(lambda p: (cv2.blur(p, (reach, reach)) - cv2.blur(p, (3, 3))).max()) < 0.8
    assert 0.3 < separation(np.mean) < 0.7

    lines = []
    for degrees in range(-60, 61, 10):
        line = np.zeros((reach, reach), np.float32)
        middle, arm = reach // 2, reach // 2 * np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
        cv2.line(line, np.rint(middle - arm).astype(int).tolist(), np.rint(middle + arm).astype(int).tolist(), 1.0)
        lines.append(line / line.sum())
    assert separation(lambda p: max(cv2.filter2D(cv2.blur(p, (reach, reach)) - p, -1, k).max() for k in lines)) > 0.8


@pytest.mark.parametrize("size", [(31, 96), (256, 31), (0, 0), (-5, 96)])
def test_too_small_a_picture_is_an_error(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 32"):
        surface(0, 0, 0, True, *size)


@pytest.mark.parametrize("numbers", [(-1, 0, 0), (0, -1, 0), (0, 0, -1)])
def test_negative_numbers_are_errors(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError):
        surface(*numbers, True, *SMALL)


@given(seed=st.integers(0, 2**64), groups=st.integers(1, 60), views=st.integers(1, 9), fraction=st.floats(0.0001, 1))
@settings(max_examples=150, deadline=None)
def test_layout_deals_defects_in_rounds(seed: int, groups: int, views: int, fraction: float) -> None:
    plan = layout(seed, groups, views, fraction)
    assert plan == layout(seed, groups, views, fraction)
    assert [(group, view) for group, view, _ in plan] == list(itertools.product(range(groups), range(views)))
    assert all(type(defective) is bool for _, _, defective in plan)
    per_item = np.array([defective for _, _, defective in plan]).reshape(groups, views).sum(axis=1)
    assert per_item.sum() == max(1, round(groups * views * fraction))
    assert per_item.max() - per_item.min() <= 1
    if groups >= 3 and per_item.sum() >= 3:
        assert all(per_item[fold::3].any() for fold in range(3))
        assert all(part.any() for part in np.array_split(per_item, 3))


def test_layout_depends_on_the_seed() -> None:
    assert layout(0, 10, 8, 0.2) != layout(1, 10, 8, 0.2)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan"), float("inf")])
def test_layout_refuses_a_fraction_that_is_none(fraction: float) -> None:
    with pytest.raises(ValueError, match="defective_fraction"):
        layout(0, 3, 2, fraction)


@pytest.mark.parametrize("groups, views", [(0, 1), (1, 0), (-1, 3)])
def test_layout_refuses_an_empty_plan(groups: int, views: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        layout(0, groups, views, 0.5)
