"""Decoded, dilated and fitted arrays on disk, memory-mapped, keyed by the content of the sources and the settings."""

import contextlib
import hashlib
import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from platformdirs import user_cache_path
from tqdm import tqdm

from anomaly_seg import atomic, locks
from anomaly_seg.data.dilation import dilate
from anomaly_seg.data.duplicates import thumbnail
from anomaly_seg.data.image_io import stored_channels, to_image
from anomaly_seg.data.masks import ANY_VALUE
from anomaly_seg.data.preparation import Preparation
from anomaly_seg.data.records import Dataset, load_mask
from anomaly_seg.data.tiling import Tile, TileGrid
from anomaly_seg.errors import InputError

VERSION = 3
"""Raise when the arrays change for the same sources and settings."""

ABANDONED_SECONDS = 86_400
"""A temporary folder of another array in which nothing was written for so long is nobody's."""


def default_cache() -> Path:
    """$ANOMALY_SEG_CACHE, or anomaly_seg in the system's folder for caches: on Linux ~/.cache, or $XDG_CACHE_HOME.

    Raises:
        InputError: the user has no home folder, as in a container under a number without an account.
    """
    named = os.environ.get("ANOMALY_SEG_CACHE")
    try:
        return Path(named).expanduser() if named else user_cache_path("anomaly_seg", appauthor=False).expanduser()
    except RuntimeError as error:
        raise _homeless("no place for the cache of images") from error


class Place(NamedTuple):
    """Where a sample belongs: image, by index among the records, its tiles, and which of them the sample is."""

    image: int
    grid: TileGrid
    tile: Tile


@dataclass
class Arrays:
    """All images of a data set as samples, in the order of its records; one sample an image, or its tiles row by row.

    images: (t, height, width) uint8, or (t, height, width, 3) RGB. masks: dilated, (t, height, width) uint8 of 0
    and 1. exact: undilated, likewise. shapes: (n, 2) native height and width. defect_pixels: (n,) native,
    undilated. labels: (n,) 1 = defective. fingerprints: n contents; mask_fingerprints: likewise, None without a
    mask. thumbnails: (n, 4096) for `find_duplicates`. notes: what the masks made worth saying. owner: (t,) index of the
    image. sample_labels: (t,) of the image, or whether the tile's dilated mask holds a defect. preparation: what made
    them. odd_masks: names of images whose masks hold values other than 0 and 255. colour: (n,) bool, whether the image
    is stored in colour; None from a cache of an earlier version.
    """

    images: np.ndarray
    masks: np.ndarray
    exact: np.ndarray
    shapes: np.ndarray
    defect_pixels: np.ndarray
    labels: np.ndarray
    fingerprints: list[str]
    mask_fingerprints: list[str | None]
    thumbnails: np.ndarray
    notes: list[str]
    owner: np.ndarray
    sample_labels: np.ndarray
    preparation: Preparation
    odd_masks: list[str]
    colour: np.ndarray | None = None

    def samples(self, images: Iterable[int]) -> np.ndarray:
        """Indices of all samples of these images, image by image."""
        starts, ends = (np.searchsorted(self.owner, np.asarray(images), side) for side in ("left", "right"))
        parts = [np.arange(a, b) for a, b in zip(starts, ends, strict=True)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def place(self, sample: int) -> Place:
        """Which part of which image a sample is."""
        image = int(self.owner[sample])
        grid = self.preparation.tile_grid(*self.shapes[image].tolist())
        return Place(image, grid, grid.tiles[sample - int(np.searchsorted(self.owner, image))])


def prepare(dataset: Dataset, preparation: Preparation, cache_dir: str | Path | None = None) -> Arrays:
    """Arrays of a data set, from the cache where its sources and settings are the same.

    Args:
        dataset: from a reader.
        preparation: how images and masks become arrays.
        cache_dir: where they are kept, `data.cache_dir`; None: `default_cache()`.

    Raises:
        InputError: an image or mask that cannot be used, or a cache folder that cannot be written.
    """
    names = [r.name for r in dataset.records]
    prints = [r.image.fingerprint() for r in dataset.records]
    base = {"version": VERSION, "names": names, "images": prints}
    masks = [r.mask.fingerprint() if r.mask else None for r in dataset.records]
    folder = _folder(cache_dir) / dataset.name

    images = _cached(folder, "images", base | preparation.key(), lambda: _images(dataset, preparation))
    shapes = images["shapes"]

    def mask_set(dilation: int) -> dict[str, np.ndarray]:
        key = base | preparation.mask_key(dilation) | {"masks": masks}
        return _cached(folder, f"masks-D{dilation}", key, lambda: _masks(dataset, preparation, dilation, shapes))

    exact = mask_set(0)
    dilated = exact if preparation.dilation == 0 else mask_set(preparation.dilation)
    odd_masks = exact["odd_in"].tolist()
    labels = (exact["pixels"] > 0).astype(np.int64)
    tiled = preparation.fit == "tile"
    counts = [len(preparation.tile_grid(*shape).tiles) for shape in shapes.tolist()] if tiled else 1
    return Arrays(
        images["arrays"], dilated["arrays"], exact["arrays"], shapes, exact["pixels"], labels, prints,
        masks, images["thumbnails"], _mask_notes(exact["odd"].tolist(), odd_masks, preparation.mask_threshold),
        np.repeat(np.arange(len(names)), counts),
        dilated["holds"].astype(np.int64) if tiled else labels, preparation,
        odd_masks, images.get("colour"),
    )  # fmt: skip


def _folder(cache_dir: str | Path | None) -> Path:
    if not cache_dir:
        return default_cache()
    try:
        return Path(cache_dir).expanduser()
    except RuntimeError as error:
        raise _homeless(f"data.cache_dir={cache_dir}") from error


def _homeless(what: str) -> InputError:
    return InputError(
        f"{what}: this user has no home folder; set data.cache_dir, or the environment variable ANOMALY_SEG_CACHE, to "
        "a folder by its whole path"
    )


def _images(dataset: Dataset, preparation: Preparation) -> dict[str, Any]:
    shapes, thumbnails, colour = [], [], []

    def rows() -> Iterator[np.ndarray]:
        for record in tqdm(dataset.records, desc=f"{dataset.name}: images", unit="image", leave=False, disable=None):
            stored = record.image.pixels()
            image = to_image(stored, record.image.name, preparation.convert, preparation.channels)
            colour.append(stored_channels(stored) > 1)
            shapes.append(image.shape[:2])
            thumbnails.append(thumbnail(image))
            yield from preparation.images(image)

    shape = (preparation.height, preparation.width) + ((3,) if preparation.channels == 3 else ())
    return {"shape": shape, "rows": rows(), "shapes": shapes, "thumbnails": thumbnails, "colour": colour}


def _masks(dataset: Dataset, preparation: Preparation, dilation: int, shapes: np.ndarray) -> dict[str, Any]:
    pixels, odd, odd_in, holds = [], set(), [], []

    def rows() -> Iterator[np.ndarray]:
        records = tqdm(
            dataset.records, desc=f"{dataset.name}: masks, D = {dilation}", unit="image", leave=False, disable=None
        )
        for record, shape in zip(records, shapes.tolist(), strict=True):
            mask, values = load_mask(record, tuple(shape), preparation.mask_threshold)
            pixels.append(int(mask.sum()))
            if values:
                odd.update(values)
                odd_in.append(record.name)
            for sample in preparation.masks(dilate(mask, dilation, preparation.structuring_element)):
                holds.append(bool(sample.any()))
                yield sample

    shape = (preparation.height, preparation.width)
    return {"shape": shape, "rows": rows(), "pixels": pixels, "odd": odd, "odd_in": odd_in, "holds": holds}


def _mask_notes(odd: list[int], odd_masks: list[str], threshold: int) -> list[str]:
    """What is worth saying about the stored values of the masks."""
    if not odd:
        return []
    rule = "any value above 0 is" if threshold == ANY_VALUE else f"values from {threshold} on are"
    return [f"masks hold values other than 0 and 255 ({_some(odd)} in {_some(odd_masks)}); {rule} taken as defect"]


def _some(values: list[Any], limit: int = 5) -> str:
    return ", ".join(map(str, values[:limit])) + (f" and {len(values) - limit} more" if len(values) > limit else "")


def _cached(folder: Path, what: str, key: dict, make: Callable[[], dict[str, Any]]) -> dict[str, np.ndarray]:
    """The arrays of one key: `arrays` memory-mapped, the small ones from an npz whose presence means "complete"."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
    big, small = folder / f"{what}-{digest}.npy", folder / f"{what}-{digest}.npz"
    if not _complete(big, small):
        try:
            _make_once(big, small, make)
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


def _complete(big: Path, small: Path) -> bool:
    return small.exists() and big.exists()


def _make_once(big: Path, small: Path, make: Callable[[], dict[str, Any]]) -> None:
    """Make arrays, or wait for the process that is at it. What is complete stays: others may have mapped it."""
    lock = locks.lock_for(small.with_name(f".{small.stem}.lock"))
    with locks.take(lock, f"{big}: another process is making it, waiting"):
        try:
            if not _complete(big, small):
                prefix = f"{atomic.PREFIX}{small.stem}-"
                _sweep(small.parent, prefix)
                _write(big, small, make(), prefix)
        finally:
            locks.discard(lock)


def _sweep(folder: Path, prefix: str) -> None:
    """Remove what killed processes left here: with this prefix at once, and else where nobody writes any more."""
    for left in [*folder.glob(f"{atomic.PREFIX}*"), *folder.glob(".making-*")]:  # the latter of an earlier version
        with contextlib.suppress(OSError):  # another process removes its own
            written = max(path.stat().st_mtime for path in (left, *left.iterdir()))
            if left.name.startswith(prefix) or time.time() - written > ABANDONED_SECONDS:
                shutil.rmtree(left)


def _write(big: Path, small: Path, made: dict[str, Any], prefix: str) -> None:
    """The arrays row by row, then the small ones, whose file says that both are complete."""
    with atomic.writing(big, small, prefix=prefix) as (big_part, small_part):
        shape, count = made.pop("shape"), 0
        with open(big_part, "wb") as file:  # not a memory map: on a full disk that kills the process
            _header(file, (count, *shape))
            for row in made.pop("rows"):
                file.write(row.tobytes())
                count += 1
            file.seek(0)  # only now is it known how many there are; numpy leaves the header room for that
            _header(file, (count, *shape))
        lists = {k: np.array(sorted(v) if isinstance(v, set) else v) for k, v in made.items()}
        np.savez(small_part, **lists)  # type: ignore[arg-type]


def _header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
