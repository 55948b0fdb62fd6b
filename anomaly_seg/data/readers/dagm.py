"""DAGM 2007: ClassN/{Train,Test}/0001.PNG, with ClassN/{Train,Test}/Label/0001_label.PNG for the defective ones.

Ten classes of generated textures, grey, 512 x 512; a label is a rough ellipse around the defect.
"""

import re
from pathlib import Path

from anomaly_seg.data.files import files
from anomaly_seg.data.readers.train_test import parts, train_test
from anomaly_seg.data.records import Dataset
from anomaly_seg.errors import InputError

CLASSES = 10
IMAGE = r"(?:^|/)Class{}/(Train|Test)/(\d{{4}})\.(?i:png)$"
MASK = r"(?:^|/)Class{}/(Train|Test)/Label/(\d{{4}})_label\.(?i:png)$"
REMEDY = "set data.root to the folder that holds Class1, Class2, ..., to one of these, or to a zip of them"


def read(root: str | Path | None, dagm_class: int = 1) -> Dataset:
    """Records of one class from a folder or straight from a zip. The published test part is fold 0; see `splits`.

    Raises:
        InputError: no such place or class, nothing of it there, a mask without image, two files for one image, or a
            part without images.
    """
    if not isinstance(dagm_class, int) or not 1 <= dagm_class <= CLASSES:
        raise InputError(f"data.dagm_class={dagm_class}: use a whole number from 1 to {CLASSES}")
    found = files(root, REMEDY, named=True)
    images, masks = (parts(found, re.compile(pattern.format(dagm_class))) for pattern in (IMAGE, MASK))
    if not images:
        raise InputError(f"data.root={root}: holds no Class{dagm_class}/Train/NNNN.PNG; {REMEDY}")
    return train_test(f"dagm_class{dagm_class}", root, images, masks, "Train", "Test")
