"""KolektorSDD (Tabernik et al. 2019; CC BY-NC-SA 4.0): kosNN/PartM.jpg with kosNN/PartM_label.bmp."""

import json
import re
import zipfile
from importlib import resources
from pathlib import Path, PurePosixPath

from anomaly_seg.data.records import Dataset, FileSource, Record, Source, ZipSource, open_archive
from anomaly_seg.errors import InputError

IMAGE = re.compile(r"(?:^|/)(kos\d\d)/(Part\d)\.(?:jpe?g|png|bmp)$", re.IGNORECASE)
MASK = re.compile(r"(?:^|/)(kos\d\d)/(Part\d)_label\.(?:bmp|png)$", re.IGNORECASE)
REMEDY = "set data.root to the folder that holds kos01, kos02, ..., or to the data set's zip"


def read(root: str | Path | None) -> Dataset:
    """Records of KolektorSDD from a folder or straight from its zip.

    Raises:
        InputError: no such place, nothing in it, a broken zip, an image without mask or a mask without image.
    """
    if not root:
        raise InputError(f"data.root is not set: {REMEDY}")
    path = Path(root).expanduser()
    if not path.exists():
        raise InputError(f"data.root={path}: no such file or folder; {REMEDY}")
    sources = _zip_sources(path) if path.is_file() else _folder_sources(path)
    images = {f"{m[1]}/{m[2]}": s for name, s in sources.items() if (m := IMAGE.search(name))}
    masks = {f"{m[1]}/{m[2]}": s for name, s in sources.items() if (m := MASK.search(name))}
    if not images:
        raise InputError(f"data.root={path}: holds no kosNN/PartM.jpg; {REMEDY}")
    for name in sorted(images.keys() ^ masks.keys()):
        have, lack = ("image", "mask") if name in images else ("mask", "image")
        source = images.get(name) or masks[name]
        raise InputError(f"{source.name}: {have} without its {lack}; restore the {lack} or remove this file")
    notes = _leave_out_duplicate(images)
    records = [Record(name, name.split("/")[0], images[name], masks[name]) for name in sorted(images)]
    return Dataset("kolektor", records, published_folds(), notes)


def published_folds() -> dict[str, int]:
    """Item -> fold, as published with the Seg-Dec work."""
    text = resources.files("anomaly_seg.data").joinpath("kolektor_folds.json").read_text(encoding="utf-8")
    return {item: fold for fold, items in enumerate(json.loads(text)["test_items"]) for item in items}


def _zip_sources(path: Path) -> dict[str, Source]:
    if not zipfile.is_zipfile(path):
        raise InputError(f"data.root={path}: not a complete zip archive (cut short, or another kind of file); {REMEDY}")
    return {name: ZipSource(path, name) for name in open_archive(path).namelist() if not name.endswith("/")}


def _folder_sources(path: Path) -> dict[str, Source]:
    files = (p for p in path.rglob("*") if p.is_file())
    return {str(PurePosixPath(p.relative_to(path.parent).as_posix())): FileSource(p) for p in files}


def _leave_out_duplicate(images: dict[str, Source]) -> list[str]:
    """Part7 of kos21 is absent by design; some copies carry Part6 in its place."""
    extra, twin = images.get("kos21/Part7"), images.get("kos21/Part6")
    if extra is None or twin is None or extra.fingerprint() != twin.fingerprint():
        return []
    del images["kos21/Part7"]
    return [f"{extra.name}: a copy of Part6 (the data set has no Part7 of kos21); left out"]
