"""Augmentation: image and mask alike, and a pure function of (seed, epoch, position)."""

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.helpers import picture

from anomaly_seg.data.transforms import augment, recipe
from anomaly_seg.errors import InputError

IMAGE = (picture("x", 12, 8) // 2 + 60).astype(np.uint8)  # 70 to 177: a tenth more or less stays inside 0 to 255
MASK = (IMAGE > 120).astype(np.uint8)
FLIPS = {
    "as it is": lambda a: a,
    "left-right": lambda a: a[:, ::-1],
    "up-down": lambda a: a[::-1],
    "both": lambda a: a[::-1, ::-1],
}


def flip_of(mask: np.ndarray) -> str:
    return next(name for name, flip in FLIPS.items() if np.array_equal(flip(MASK), mask))


def test_none_changes_nothing() -> None:
    image, mask = augment(recipe("none"), IMAGE, MASK, 0, 0, 0)
    assert image is IMAGE and mask is MASK


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(InputError, match=r"augment=heavy: choose none, flips, brightness or light"):
        recipe("heavy")


@given(seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 10_000), position=st.integers(0, 10_000))
def test_image_and_mask_are_flipped_alike(seed: int, epoch: int, position: int) -> None:
    image, mask = augment(recipe("flips"), IMAGE, MASK, seed, epoch, position)
    np.testing.assert_array_equal(mask, image > 120)
    np.testing.assert_array_equal(image, FLIPS[flip_of(mask)](IMAGE))


@pytest.mark.parametrize("name", ["light", "brightness"])
@given(seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 10_000), position=st.integers(0, 10_000))
def test_light_moves_the_mask_with_the_image_and_leaves_it_binary(
    name: str, seed: int, epoch: int, position: int
) -> None:
    image, mask = augment(recipe(name), IMAGE, MASK, seed, epoch, position)
    if name == "brightness":
        np.testing.assert_array_equal(mask, MASK)  # never flipped
    original = FLIPS[flip_of(mask)](IMAGE).astype(float)
    assert image.dtype == mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 1}
    # Contrast a in 0.9..1.1 and brightness b in -0.1..0.1 of the range: one line for all pixels, up to rounding.
    slope, offset = np.polyfit(original.ravel(), image.ravel().astype(float), 1)
    # A tenth of 255 is 25.5; whole grey levels, and the way from the darkest pixel to 0, move the fitted offset by 2.
    assert 0.89 < slope < 1.11 and -28 < offset < 28
    assert np.abs(image - (slope * original + offset)).max() <= 1.01


@pytest.mark.parametrize("name", ["flips", "light", "brightness"])
def test_a_pure_function_of_seed_epoch_and_position(name: str) -> None:
    used, fresh = recipe(name), recipe(name)
    for position in range(50):  # other draws in between, on a recipe of its own
        augment(used, IMAGE, MASK, 1, 2, position)
    np.random.seed(0)
    for key in ((0, 0, 0), (5, 3, 17), (2**32 - 1, 9, 1)):
        for a, b in zip(augment(used, IMAGE, MASK, *key), augment(fresh, IMAGE, MASK, *key), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("vary", [0, 1, 2])
def test_each_of_seed_epoch_and_position_matters(vary: int) -> None:
    keys = [[0, 0, 0] for _ in range(40)]
    for i, key in enumerate(keys):
        key[vary] = i
    assert len({augment(recipe("light"), IMAGE, MASK, *key)[0].tobytes() for key in keys}) > 20


def test_the_steps_of_a_recipe_are_independent() -> None:
    """The four flips are equally frequent, and a change of brightness goes with each of them half the time."""
    transform, seen = recipe("light"), Counter()
    for position in range(2000):
        image, mask = augment(transform, IMAGE, MASK, 0, 0, position)
        flip = flip_of(mask)
        seen[flip, np.array_equal(image, FLIPS[flip](IMAGE))] += 1
    for flip in FLIPS:
        for same in (True, False):
            assert abs(seen[flip, same] - 250) < 75, seen  # five standard deviations of 14.8


def test_brightness_is_changed_half_the_time() -> None:
    transform = recipe("brightness")
    changed = sum(not np.array_equal(augment(transform, IMAGE, MASK, 0, 0, i)[0], IMAGE) for i in range(1000))
    assert abs(changed - 500) < 80  # five standard deviations of 15.8


def test_the_arrays_given_are_not_written_to() -> None:
    image, mask = IMAGE.copy(), MASK.copy()
    for array in (image, mask):
        array.setflags(write=False)
    for position in range(20):
        augment(recipe("light"), image, mask, 0, 0, position)
    np.testing.assert_array_equal(image, IMAGE)


def test_importing_neither_warns_nor_reaches_for_the_network() -> None:
    """In a process of its own, where nothing has been imported and no environment variable is set."""
    program = """
import socket, warnings
calls = []
socket.getaddrinfo = socket.create_connection = lambda *a, **k: calls.append(a) or 1 / 0
warnings.simplefilter("error", UserWarning)
from anomaly_seg.data import transforms
transforms.recipe("light")
assert not calls, calls
"""
    environment = {k: v for k, v in os.environ.items() if k != "NO_ALBUMENTATIONS_UPDATE"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["flips", "light"])
def test_colour_is_changed_as_grey_is_channel_by_channel(name: str) -> None:
    """Of a colour image, every channel gets the flips and the brightness that the grey image of that channel gets."""
    colour = np.stack([IMAGE, IMAGE[::-1] // 2 + 40, 250 - IMAGE], axis=2)
    for position in range(20):
        image, mask = augment(recipe(name), colour, MASK, 0, 0, position)
        assert image.shape == colour.shape and image.dtype == np.uint8
        flip = FLIPS[flip_of(mask)]
        before, after = flip(colour).reshape(-1).astype(float), image.reshape(-1).astype(float)
        slope, offset = np.polyfit(before, after, 1)  # one line for all channels
        assert np.abs(after - (slope * before + offset)).max() <= 1.01
        if name == "flips":
            np.testing.assert_array_equal(image, flip(colour))
