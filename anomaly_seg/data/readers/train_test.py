"""Data sets that come divided into a training and a test part."""

import re
from pathlib import Path

from anomaly_seg.data.image_io import Source
from anomaly_seg.data.records import Dataset, Record
from anomaly_seg.errors import InputError


def parts(found: dict[str, Source], pattern: re.Pattern[str]) -> dict[str, Source]:
    """Files that the pattern finds, as "PART/NUMBER" from its two groups."""
    chosen: dict[str, Source] = {}
    for path, source in found.items():
        if match := pattern.search(path):
            name = f"{match[1]}/{match[2]}"
            if name in chosen:
                raise InputError(f"{source.name}: a second file for {name}, beside {chosen[name].name}; remove one")
            chosen[name] = source
    return chosen


def train_test(
    name: str, root: str | Path | None, images: dict[str, Source], masks: dict[str, Source], train: str, test: str
) -> Dataset:
    """A data set that comes divided into a training and a test part; every image is a group of its own."""
    for key in sorted(masks.keys() - images.keys()):
        raise InputError(f"{masks[key].name}: mask without its image; restore the image or remove this file")
    for part in (train, test):
        if not any(key.startswith(f"{part}/") for key in images):
            raise InputError(f"data.root={root}: holds no image of the {part} part; copy it whole")
    records = [Record(key, key, images[key], masks.get(key)) for key in sorted(images)]
    folds = {key: 0 if key.startswith(f"{test}/") else 1 for key in images}
    return Dataset(name, records, folds, train_test=True)
