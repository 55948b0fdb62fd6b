"""KolektorSDD (Tabernik et al. 2019; CC BY-NC-SA 4.0): kosNN/PartM.jpg with kosNN/PartM_label.bmp."""

import json
import re
from importlib import resources
from pathlib import Path

from anomaly_seg.data.files import inventory
from anomaly_seg.data.image_io import Source
from anomaly_seg.data.masks import mask_file
from anomaly_seg.data.readers.train_test import Parts, parts, used_paths
from anomaly_seg.data.records import Dataset, Record
from anomaly_seg.errors import InputError

IMAGE = re.compile(r"(?i)(?:^|/)(kos\d\d)/(Part\d)\.\w+$")
MASK = re.compile(r"(?i)(?:^|/)(kos\d\d)/(Part\d)_label\.\w+$")
REMEDY = "set data.root to the folder that holds kos01, kos02, ..., or to the data set's zip"


def read(root: str | Path | None) -> Dataset:
    """Records of KolektorSDD from a folder or straight from its zip.

    Raises:
        InputError: no such place, nothing in it, a broken zip, an image without mask, a mask without image, or two
            files for one image.
    """
    found = inventory(root, REMEDY, named=True)
    images, masks = (parts(found.images, pattern, _name) for pattern in (IMAGE, MASK))
    if not images:
        raise InputError(f"data.root={root}: holds no kosNN/PartM.jpg; {REMEDY}")
    for name in sorted(images.keys() ^ masks.keys()):
        have, lack = ("image", "mask") if name in images else ("mask", "image")
        _, source = images.get(name) or masks[name]
        raise InputError(f"{source.name}: {have} without its {lack}; restore the {lack} or remove this file")
    folds = published_folds()
    used = used_paths(images, masks)
    notes = _leave_out_duplicate(images) + _missing_items(images, folds) + found.passed_over(used)
    records = [Record(name, name.split("/")[0], images[name][1], mask_file(masks[name][1])) for name in sorted(images)]
    return Dataset("kolektor", records, folds, notes)


def _name(match: re.Match[str]) -> str:
    return f"{match[1].lower()}/{match[2].capitalize()}"


def published_folds() -> dict[str, int]:
    """Group -> fold, as published with the Seg-Dec work."""
    text = resources.files("anomaly_seg.data.readers").joinpath("kolektor_folds.json").read_text(encoding="utf-8")
    return {group: fold for fold, groups in enumerate(json.loads(text)["test_items"]) for group in groups}


def _leave_out_duplicate(images: dict[str, tuple[str, Source]]) -> list[str]:
    """Part7 of kos21 is absent by design; some copies carry Part6 in its place."""
    if not {"kos21/Part7", "kos21/Part6"} <= images.keys():
        return []
    extra, original = images["kos21/Part7"][1], images["kos21/Part6"][1]
    if extra.fingerprint() != original.fingerprint():
        return []
    del images["kos21/Part7"]
    return [f"{extra.name}: a copy of Part6 (the data set has no Part7 of kos21); left out"]


def _missing_items(images: Parts, folds: dict[str, int]) -> list[str]:
    missing = sorted(folds.keys() - {name.split("/")[0] for name in images})
    some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    return [f"{len(missing)} of the {len(folds)} published groups are missing ({some})"] if missing else []
