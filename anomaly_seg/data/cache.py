"""Decoded, dilated and resized arrays on disk, memory-mapped, keyed by the content of the sources and the settings."""

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from tqdm import tqdm

from anomaly_seg.data.labels import Element, Resize, dilate, resize_image, resize_mask, structuring_element
from anomaly_seg.data.records import Convert, Dataset, load_image, load_mask
from anomaly_seg.data.twins import thumbnail
from anomaly_seg.errors import InputError

VERSION = 2
"""Raise when the arrays change for the same sources and settings."""


@dataclass(frozen=True)
class Preparation:
    """How pictures become arrays.

    height, width: in pixels. resize: "area" or "nearest". dilation, element: of the labels, at native size.
    convert: what to do with colour and 16-bit images.

    Raises:
        InputError: a value out of range.
    """

    height: int
    width: int
    dilation: int = 0
    element: Element = "diamond"
    resize: Resize = "area"
    convert: Convert = "error"

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise InputError(f"scale.height={self.height}, scale.width={self.width}: use 1 or more")
        if self.dilation not in (0, 1):
            structuring_element(self.dilation, self.element)  # refuses what cannot be
        for key, choices in (("element", Element), ("resize", Resize), ("convert", Convert)):
            if getattr(self, key) not in get_args(choices):
                raise InputError(f"data.{key}={getattr(self, key)}: choose {' or '.join(get_args(choices))}")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Preparation":
        """From the plain settings of a run."""
        data, scale = settings["data"], settings["scale"]
        dilation = settings["dilation"]
        return cls(scale["height"], scale["width"], dilation, data["element"], data["resize"], data["convert"])


def default_cache() -> str:
    """$ANOMALY_SEG_CACHE, or anomaly_seg in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return os.environ.get("ANOMALY_SEG_CACHE") or f"{base}/anomaly_seg"


@dataclass
class Arrays:
    """All images of a data set, in the order of its records.

    images: (n, height, width) uint8. masks: dilated, uint8 of 0 and 1. exact: undilated, likewise.
    shapes: (n, 2) native height and width. defect_pixels: (n,) native, undilated. labels: (n,) 1 = defective.
    fingerprints: n contents. thumbnails: (n, 4096) for `twins`. notes: what the masks made worth saying.
    """

    images: np.ndarray
    masks: np.ndarray
    exact: np.ndarray
    shapes: np.ndarray
    defect_pixels: np.ndarray
    labels: np.ndarray
    fingerprints: list[str]
    thumbnails: np.ndarray
    notes: list[str]


def prepare(dataset: Dataset, how: Preparation, cache_dir: str | Path) -> Arrays:
    """Arrays of a data set, from the cache where its sources and settings are the same.

    Raises:
        InputError: an image or mask that cannot be used, or a cache folder that cannot be written.
    """
    names = [r.name for r in dataset.records]
    prints = [r.image.fingerprint() for r in dataset.records]
    base = {"version": VERSION, "names": names, "images": prints}
    size = {"height": how.height, "width": how.width, "resize": how.resize, "convert": how.convert}
    masks = [r.mask.fingerprint() if r.mask else None for r in dataset.records]
    folder = Path(cache_dir).expanduser() / dataset.name

    images = _cached(folder, "images", base | size, lambda: _images(dataset, how))
    shapes = images["shapes"]

    def mask_set(dilation: int) -> dict[str, np.ndarray]:
        key = base | size | {"masks": masks, "dilation": dilation, "element": how.element if dilation else None}
        return _cached(folder, f"masks-D{dilation}", key, lambda: _masks(dataset, how, dilation, shapes))

    exact = mask_set(0)
    dilated = exact if how.dilation == 0 else mask_set(how.dilation)
    notes = []
    if len(exact["odd"]):
        values, where = _some(exact["odd"].tolist()), _some(exact["odd_in"].tolist())
        notes = [f"masks hold values other than 0 and 255 ({values} in {where}); any value above 0 is taken as defect"]
    pixels = exact["pixels"]
    return Arrays(
        images["arrays"], dilated["arrays"], exact["arrays"], shapes, pixels, (pixels > 0).astype(np.int64), prints,
        images["thumbnails"], notes,
    )  # fmt: skip


def _images(dataset: Dataset, how: Preparation) -> dict[str, Any]:
    shapes, thumbnails = [], []

    def rows() -> Iterator[np.ndarray]:
        for record in tqdm(dataset.records, desc=f"{dataset.name}: images", unit="image", leave=False, disable=None):
            image = load_image(record.image, how.convert)
            shapes.append(image.shape)
            thumbnails.append(thumbnail(image))
            yield resize_image(image, how.height, how.width, how.resize)

    shape = (len(dataset.records), how.height, how.width)
    return {"shape": shape, "rows": rows(), "shapes": shapes, "thumbnails": thumbnails}


def _masks(dataset: Dataset, how: Preparation, dilation: int, shapes: np.ndarray) -> dict[str, Any]:
    pixels, odd, odd_in = [], set(), []

    def rows() -> Iterator[np.ndarray]:
        records = tqdm(
            dataset.records, desc=f"{dataset.name}: masks, D = {dilation}", unit="image", leave=False, disable=None
        )
        for record, shape in zip(records, shapes.tolist(), strict=True):
            mask, values = load_mask(record, tuple(shape))
            pixels.append(int(mask.sum()))
            if values:
                odd.update(values)
                odd_in.append(record.name)
            grown = dilate(mask, dilation, how.element)
            yield resize_mask(grown, how.height, how.width, how.resize)

    shape = (len(shapes), how.height, how.width)
    return {"shape": shape, "rows": rows(), "pixels": pixels, "odd": odd, "odd_in": odd_in}


def _some(values: list[Any], limit: int = 5) -> str:
    return ", ".join(map(str, values[:limit])) + (f" and {len(values) - limit} more" if len(values) > limit else "")


def _cached(folder: Path, what: str, key: dict, make: Callable[[], dict[str, Any]]) -> dict[str, np.ndarray]:
    """The arrays of one key: `arrays` memory-mapped, the small ones from an npz whose presence means "complete"."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
    big, small = folder / f"{what}-{digest}.npy", folder / f"{what}-{digest}.npz"
    if not small.exists() or not big.exists():
        try:
            _write(folder, big, small, make())
        except OSError as error:
            raise InputError(
                f"data.cache_dir: cannot write {big} ({error}); free space or set another folder"
            ) from error
    try:
        with np.load(small) as file:
            facts = dict(file)
        facts["arrays"] = np.load(big, mmap_mode="r")
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        both = f"{big} or {small.name}"
        raise InputError(f"{both}: damaged cache file ({error}); delete both, they are made anew") from error
    return facts


def _write(folder: Path, big: Path, small: Path, made: dict[str, Any]) -> None:
    """Both files under temporary names, then renamed: a reader, or a second writer, never sees half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as name:
        temporary = Path(name)
        header = {"descr": "|u1", "fortran_order": False, "shape": made.pop("shape")}
        with open(temporary / big.name, "wb") as file:  # not a memory map: on a full disk that kills the process
            np.lib.format.write_array_header_1_0(file, header)
            for row in made.pop("rows"):
                file.write(row.tobytes())
        lists = {k: np.array(sorted(v) if isinstance(v, set) else v) for k, v in made.items()}
        np.savez(temporary / small.name, **lists)  # type: ignore[arg-type]
        os.replace(temporary / big.name, big)
        os.replace(temporary / small.name, small)
