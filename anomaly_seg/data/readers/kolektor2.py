"""KolektorSDD2 (Bozic et al. 2021; CC BY-NC-SA 4.0): {train,test}/10301.png with 10301_GT.png for every image.

Colour images of about 230 x 630 pixels; the mask of a defect-free image is black.
"""

import re
from pathlib import Path

from anomaly_seg.data.files import inventory
from anomaly_seg.data.readers.train_test import parts, train_test, used_paths
from anomaly_seg.data.records import Dataset
from anomaly_seg.errors import InputError

IMAGE = re.compile(r"(?i)(?:^|/)(train|test)/(\d+)\.\w+$")
MASK = re.compile(r"(?i)(?:^|/)(train|test)/(\d+)_GT\.\w+$")
PUBLISHED = {"train": 2331, "test": 1004}
REMEDY = "set data.root to the folder that holds train and test, or to the data set's zip"


def read(root: str | Path | None) -> Dataset:
    """Records from a folder or straight from the zip. The published test part is fold 0; see `splits`.

    Raises:
        InputError: no such place, nothing of the data set there, an image without mask or a mask without image, two
            files for one image, or a part without images.
    """
    found = inventory(root, REMEDY, named=True)
    images, masks = (
        parts(found.images, pattern, lambda match: f"{match[1].lower()}/{match[2]}") for pattern in (IMAGE, MASK)
    )
    if not images:
        raise InputError(f"data.root={root}: holds no train/NNNNN.png; {REMEDY}")
    for key in sorted(images.keys() - masks.keys()):
        raise InputError(f"{images[key][1].name}: image without its mask; restore {Path(key).name}_GT.png beside it")
    dataset = train_test("kolektor2", root, images, masks, "train", "test")
    for part, count in PUBLISHED.items():
        if (here := sum(key.startswith(f"{part}/") for key in images)) != count:
            dataset.notes.append(f"{here} images in {part}/, of {count} published")
    dataset.notes += found.passed_over(used_paths(images, masks))
    return dataset
