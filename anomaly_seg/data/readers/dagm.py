"""DAGM 2007: ClassN/{Train,Test}/0001.PNG, with ClassN/{Train,Test}/Label/0001_label.PNG for the defective ones.

Ten classes of generated textures, grey, 512 x 512; a label is a rough ellipse around the defect.
"""

import re
from pathlib import Path

from anomaly_seg.data.files import Inventory, inventory
from anomaly_seg.data.readers.train_test import parts, train_test, used_paths
from anomaly_seg.data.records import Dataset
from anomaly_seg.errors import InputError

CLASSES = 10
IMAGE = r"(?i)(?:^|/)Class{}/(Train|Test)/(\d{{4}})\.\w+$"
MASK = r"(?i)(?:^|/)Class{}/(Train|Test)/Label/(\d{{4}})_label\.\w+$"
INSIDE = r"(?i)(?:^|/)Class{}/(?:Train|Test)/Label/(?!Labels\.txt$)"
OTHER_CLASS = r"(?i)(?:^|/)Class(?!{}/)\d+/|/Label/Labels\.txt$"
REMEDY = "set data.root to the folder that holds Class1, Class2, ..., to one of these, or to a zip of them"


def read(root: str | Path | None, dagm_class: int = 1) -> Dataset:
    """Records of one class from a folder or straight from a zip. The published test part is fold 0; see `splits`.

    Raises:
        InputError: no such place or class, nothing of it there, a mask without image, two files for one image, or a
            part without images.
    """
    if not isinstance(dagm_class, int) or not 1 <= dagm_class <= CLASSES:
        raise InputError(f"data.dagm_class={dagm_class}: use a whole number from 1 to {CLASSES}")
    found = inventory(root, REMEDY, named=True)
    images, masks = (
        parts(found.images, re.compile(pattern.format(dagm_class)), lambda match: f"{match[1].capitalize()}/{match[2]}")
        for pattern in (IMAGE, MASK)
    )
    if not images:
        raise InputError(f"data.root={root}: holds no Class{dagm_class}/Train/NNNN.PNG; {REMEDY}")
    dataset = train_test(f"dagm_class{dagm_class}", root, images, masks, "Train", "Test")
    dataset.notes += _passed_over(found, used_paths(images, masks), dagm_class)
    return dataset


def _passed_over(found: Inventory, used: set[str], dagm_class: int) -> list[str]:
    """Notes about files of this class that were not used; among the labels there must be none."""
    inside, other = (re.compile(pattern.format(dagm_class)) for pattern in (INSIDE, OTHER_CLASS))
    for path, source in (found.images | found.unread | found.others).items():
        if path not in used and inside.search(path):
            raise InputError(f"{source.name}: no label NNNN_label.PNG, so its image would count as good; mend its name")
    return found.passed_over(used | {path for path in found.everything if other.search(path)})
