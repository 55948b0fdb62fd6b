"""Data sets that come divided into a training and a test part."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from anomaly_seg.data.image_io import Source
from anomaly_seg.data.masks import mask_file
from anomaly_seg.data.records import Dataset, Record
from anomaly_seg.errors import InputError


def parts(
    found: Mapping[str, Source], pattern: re.Pattern[str], spell: Callable[[re.Match[str]], str]
) -> dict[str, tuple[str, Source]]:
    """Files that the pattern finds, by name: path and source.

    Args:
        found: by path.
        pattern: of paths, whatever the case of their letters.
        spell: the name, from what the pattern found: one way of writing it, whatever the case of the path's letters.

    Raises:
        InputError: two files for one name.
    """
    chosen: dict[str, tuple[str, Source]] = {}
    for path, source in found.items():
        if match := pattern.search(path):
            name = spell(match)
            if name in chosen:
                raise InputError(f"{source.name}: a second file for {name}, beside {chosen[name][1].name}; remove one")
            chosen[name] = path, source
    return chosen


Parts = Mapping[str, tuple[str, Source]]


def used_paths(*parts: Parts) -> set[str]:
    """The paths of all files in them."""
    return {path for part in parts for path, _ in part.values()}


def train_test(name: str, root: str | Path | None, images: Parts, masks: Parts, train: str, test: str) -> Dataset:
    """A data set that comes divided into a training and a test part; every image is a group of its own."""
    for key in sorted(masks.keys() - images.keys()):
        raise InputError(f"{masks[key][1].name}: mask without its image; restore the image or remove this file")
    for part in (train, test):
        if not any(key.startswith(f"{part}/") for key in images):
            raise InputError(f"data.root={root}: holds no image of the {part} part; copy it whole")
    drawn = {key: mask_file(source) for key, (_, source) in masks.items()}
    records = [Record(key, key, images[key][1], drawn.get(key)) for key in sorted(images)]
    folds = {key: 0 if key.startswith(f"{test}/") else 1 for key in images}
    return Dataset(name, records, folds, train_test=True)
