"""Augmentation recipes, applied to image and masks together as functions of (seed, epoch, index)."""

import os
import random
from typing import TYPE_CHECKING

import numpy as np

from anomaly_seg.errors import InputError

if TYPE_CHECKING:
    from albumentations import Compose


def recipe(name: str) -> "Compose | None":
    """An augmentation by name.

    none: the paper's (silent) recipe. flips: left-right and up-down, each with probability 1/2. brightness: half the
    time, brightness and contrast changed by up to a tenth. light: flips and brightness.

    Raises:
        InputError: unknown name.
    """
    if name == "none":
        return None
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for news at import
    from albumentations import Compose, HorizontalFlip, RandomBrightnessContrast, VerticalFlip  # takes a second

    flips = [HorizontalFlip(p=0.5), VerticalFlip(p=0.5)]
    brightness = RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.1, p=0.5)
    if name == "flips":
        return Compose(flips)
    if name == "light":
        return Compose([*flips, brightness])
    if name == "brightness":
        return Compose([brightness])
    raise InputError(f"augment={name}: choose none, flips, brightness or light")


def augment(
    transform: "Compose | None", image: np.ndarray, mask: np.ndarray, seed: int, epoch: int, position: int
) -> tuple[np.ndarray, np.ndarray]:
    """Image (h, w) or (h, w, 3) uint8 and mask (h, w) uint8, changed alike.

    The same arguments always give the same result. `position` is the place in the epoch's order, which the sampler
    makes a function of (seed, epoch): an image drawn twice in an epoch is changed in two ways.
    """
    if transform is None:
        return image, mask
    # Not set_random_seed: it gives every step a generator of its own from the one seed, so that all steps draw alike
    # and no image is flipped in one direction only.
    rng = np.random.default_rng([seed, epoch, position])
    transform.set_random_state(rng, random.Random(int(rng.integers(2**63))))
    out = transform(image=image, mask=mask)
    return out["image"], out["mask"]
