"""Augmentation recipes, applied to image and masks together as functions of (seed, epoch, index)."""

import os

import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for news at import
import albumentations as A  # noqa: E402

from anomaly_seg.errors import InputError  # noqa: E402


def recipe(name: str) -> A.Compose | None:
    """An augmentation by name.

    none: the paper's (silent) recipe. flips: left-right and up-down, each with probability 1/2. light: flips, and half the
    time brightness and contrast changed by up to a tenth.

    Raises:
        InputError: unknown name.
    """
    flips = [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]
    if name == "none":
        return None
    if name == "flips":
        return A.Compose(flips)
    if name == "light":
        return A.Compose([*flips, A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.1, p=0.5)])
    raise InputError(f"data.augment={name}: choose none, flips or light")


def augment(
    transform: A.Compose | None, image: np.ndarray, mask: np.ndarray, seed: int, epoch: int, position: int
) -> tuple[np.ndarray, np.ndarray]:
    """Image (h, w) uint8 and mask (h, w) uint8, changed alike; the same arguments always give the same result.

    `position` is the place in the epoch's order, which the sampler makes a function of (seed, epoch): an image drawn twice
    in an epoch is changed in two ways.
    """
    if transform is None:
        return image, mask
    transform.set_random_seed(int(np.random.SeedSequence([seed, epoch, position]).generate_state(1)[0]))
    out = transform(image=image, mask=mask)
    return out["image"], out["mask"]
