"""A small stand-in for KolektorSDD: the same folders and file names, tiny pictures."""

import importlib.util
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

from anomaly_seg.data.duplicates import KINDS, DuplicatePair, Duplicates
from anomaly_seg.data.records import Dataset, Record

HEIGHT, WIDTH = 26, 10
BOX = (slice(5, 9), slice(2, 7))
"""Where the defect of a defective image is: 4 x 5 = 20 pixels."""

CHROMIUM = shutil.which("chromium")
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-sync", "--no-first-run"]
CHROMIUM_FLAGS.extend(["--disable-background-networking", "--disable-component-update"])

PUBLISHED_ITEMS = tuple(f"kos{i:02d}" for i in range(1, 51))


def load_script(path: Path) -> ModuleType:
    """A script that is no part of the package, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def picture(name: str, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Noise that belongs to the name: pictures of two names have nothing in common."""
    return np.random.default_rng(list(name.encode())).integers(20, 236, (height, width), dtype=np.uint8)


def box_mask(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[BOX] = 255
    return mask


def write_image(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def write_kolektor(
    folder: Path, groups: Sequence[str] = PUBLISHED_ITEMS[:3], views: int = 2, defective_views: Sequence[int] = (0,)
) -> Path:
    """kosNN/PartM.jpg and kosNN/PartM_label.bmp; in every group the views named are defective."""
    for group in groups:
        for view in range(views):
            name = f"{group}/Part{view}"
            write_image(folder / f"{name}.jpg", picture(name))
            mask = box_mask() if view in defective_views else np.zeros((HEIGHT, WIDTH), np.uint8)
            write_image(folder / f"{name}_label.bmp", mask)
    return folder


def write_dagm(folder: Path, images: int = 6, number: int = 1) -> Path:
    """ClassN/{Train,Test}/NNNN.PNG; every third is defective and has its label, and there is a list of labels."""
    for part in ("Train", "Test"):
        place = folder / f"Class{number}" / part
        for i in range(1, images + 1):
            write_image(place / f"{i:04d}.PNG", picture(f"{part}{i}"))
            if i % 3 == 1:
                write_image(place / "Label" / f"{i:04d}_label.PNG", box_mask())
        (place / "Label" / "Labels.txt").write_text("1\n")
    return folder


def write_kolektor2(folder: Path, images: int = 6) -> Path:
    """{train,test}/NNNNN.png in colour with NNNNN_GT.png; every third is defective."""
    for part, first in (("train", 10000), ("test", 20000)):
        for i in range(images):
            name = f"{part}/{first + i}"
            write_image(folder / f"{name}.png", np.dstack([picture(f"{name}{c}") for c in "bgr"]))
            mask = box_mask() if i % 3 == 0 else np.zeros((HEIGHT, WIDTH), np.uint8)
            write_image(folder / f"{name}_GT.png", mask)
    return folder


def zip_of(folder: Path, target: Path, inside: str = "", compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """The folder's files in a zip, below the folder `inside`."""
    with zipfile.ZipFile(target, "w", compression) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(path, f"{inside}{path.relative_to(folder).as_posix()}")
    return target


class ArraySource:
    """A picture in memory that counts how often it is decoded."""

    def __init__(self, name: str, pixels: np.ndarray) -> None:
        self.name, self.array, self.reads = name, pixels, 0

    def fingerprint(self) -> str:
        return f"{self.array.shape}{hash(self.array.tobytes())}"

    def pixels(self) -> np.ndarray:
        self.reads += 1
        return self.array


def in_memory(groups: int = 6, views: int = 2, height: int = HEIGHT, width: int = WIDTH) -> Dataset:
    """Items p0, p1, ... with one defective view each, view 0; defect-free images have no mask."""
    records = []
    for group in range(groups):
        for view in range(views):
            name = f"p{group}/v{view}"
            mask = None if view else ArraySource(f"{name} mask", box_mask(height, width))
            records.append(Record(name, f"p{group}", ArraySource(name, picture(name, height, width)), mask))
    return Dataset("memory", records)


def duplicates_of(images: int, pairs: Sequence[DuplicatePair]) -> Duplicates:
    """So many images with these pairs, as `find_duplicates` returns them."""
    matrix = {kind: np.zeros((images, images), bool) for kind in KINDS}
    for a, b, kind, _ in pairs:
        matrix[kind][min(a, b), max(a, b)] = True
    return Duplicates({kind: np.packbits(pairs, axis=1) for kind, pairs in matrix.items()}, list(pairs))
