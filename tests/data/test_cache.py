"""The cache: what it holds, when it is made anew, and what a broken disk or file leads to."""

import errno
import hashlib
import json
import os
import pwd
import resource
import shutil
import signal
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.cache_hands import prepare_with_others
from support.helpers import BOX, ArraySource, box_mask, in_memory, picture, write_image, write_kolektor, zip_of
from support.tiny_runs import PROCESSES

from anomaly_seg.data import cache
from anomaly_seg.data.cache import Arrays, Preparation, default_cache, prepare
from anomaly_seg.data.check import check
from anomaly_seg.data.readers import kolektor
from anomaly_seg.data.records import Dataset, Record
from anomaly_seg.errors import InputError

HOW = Preparation(13, 5)


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def one(image: np.ndarray, mask: np.ndarray) -> Dataset:
    return Dataset("memory", [Record("a/0", "a", ArraySource("a/0", image), ArraySource("a/0 mask", mask))])


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many images and masks were decoded."""
    count = {"images": 0, "masks": 0}

    def counting(kind: str, function: Callable) -> Callable:
        def call(*arguments: object) -> object:
            count[kind] += 1
            return function(*arguments)

        return call

    monkeypatch.setattr(cache, "to_image", counting("images", cache.to_image))
    monkeypatch.setattr(cache, "load_mask", counting("masks", cache.load_mask))
    return count


def test_arrays_by_hand(tmp_path: Path) -> None:
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    mask = np.zeros((8, 8), np.uint8)
    mask[4, 4] = 255
    arrays = prepare(one(image, mask), Preparation(4, 4, 5, resize="nearest"), tmp_path)
    assert arrays.images[0].tolist() == [[r * 8 + c for c in (0, 2, 4, 6)] for r in (0, 2, 4, 6)]
    # A diamond of radius 2 about (4, 4), at native size, then every second pixel; dilated later it would be larger.
    assert arrays.masks[0].tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 1, 1], [0, 0, 1, 0]]
    assert arrays.exact[0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert arrays.shapes.tolist() == [[8, 8]]
    assert (arrays.defect_pixels.tolist(), arrays.labels.tolist(), arrays.notes) == ([1], [1], [])


def test_a_defect_that_vanishes_when_resized_is_still_a_defect(tmp_path: Path) -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[4, 4] = 255
    arrays = prepare(one(picture("x", 8, 8), mask), Preparation(2, 2), tmp_path)
    assert arrays.exact.sum() == 0 and arrays.labels.tolist() == [1]


def test_images_without_mask_are_free_of_defects(tmp_path: Path) -> None:
    arrays = prepare(in_memory(groups=3), HOW, tmp_path)
    assert arrays.labels.tolist() == [1, 0] * 3
    assert arrays.defect_pixels.tolist() == [20, 0] * 3
    assert arrays.images.shape == arrays.masks.shape == arrays.exact.shape == (6, 13, 5)
    assert arrays.images.dtype == arrays.masks.dtype == np.uint8
    assert arrays.thumbnails.shape == (6, 64 * 64)


def test_arrays_are_mapped_not_loaded_and_cannot_be_written(tmp_path: Path) -> None:
    arrays = prepare(in_memory(), HOW, tmp_path)
    for array in (arrays.images, arrays.masks, arrays.exact):
        assert isinstance(array, np.memmap) and not array.flags.writeable


def test_a_second_time_nothing_is_decoded(tmp_path: Path, decoded: dict[str, int]) -> None:
    preparation = Preparation(13, 5, 9)
    first = prepare(in_memory(), preparation, tmp_path)
    assert decoded == {"images": 12, "masks": 24}  # masks as drawn, and dilated
    second = prepare(in_memory(), preparation, tmp_path)
    assert decoded == {"images": 12, "masks": 24}
    for field in vars(first):
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field))


def test_check_makes_what_training_needs(tmp_path: Path, decoded: dict[str, int]) -> None:
    check(in_memory(), Preparation(13, 5, 9), tmp_path)
    assert decoded == {"images": 12, "masks": 24}
    prepare(in_memory(), Preparation(13, 5, 9), tmp_path)
    assert decoded == {"images": 12, "masks": 24}


def test_another_dilation_decodes_masks_only(tmp_path: Path, decoded: dict[str, int]) -> None:
    prepare(in_memory(), Preparation(13, 5, 5), tmp_path)
    prepare(in_memory(), Preparation(13, 5, 9), tmp_path)
    assert decoded == {"images": 12, "masks": 12 * 3}


@pytest.mark.parametrize(
    "other",
    [
        Preparation(14, 5),
        Preparation(13, 6),
        Preparation(13, 5, resize="nearest"),
        Preparation(13, 5, convert="grey8"),
    ],
)
def test_other_settings_have_arrays_of_their_own(tmp_path: Path, other: Preparation, decoded: dict[str, int]) -> None:
    prepare(in_memory(), HOW, tmp_path)
    arrays = prepare(in_memory(), other, tmp_path)
    assert decoded["images"] == 24
    assert arrays.images.shape[1:] == (other.height, other.width)


def test_the_element_matters(tmp_path: Path) -> None:
    mask = np.zeros((9, 9), np.uint8)
    mask[4, 4] = 255
    data = one(picture("x", 9, 9), mask)
    sums = [
        int(prepare(data, Preparation(9, 9, 3, element), tmp_path).masks.sum()) for element in ("diamond", "square")
    ]
    assert sums == [5, 9]


def test_folder_and_zip_share_the_cache(tmp_path: Path, decoded: dict[str, int]) -> None:
    folder = write_kolektor(tmp_path / "data")
    a = prepare(kolektor.read(folder), HOW, tmp_path / "cache")
    b = prepare(kolektor.read(zip_of(folder, tmp_path / "data.zip", "Kolektor/")), HOW, tmp_path / "cache")
    assert decoded == {"images": 6, "masks": 6}
    np.testing.assert_array_equal(a.images, b.images)


def test_a_changed_image_or_mask_is_noticed(tmp_path: Path, decoded: dict[str, int]) -> None:
    folder = write_kolektor(tmp_path / "data")
    before = prepare(kolektor.read(folder), HOW, tmp_path / "cache")
    write_image(folder / "kos01" / "Part1_label.bmp", box_mask())
    relabelled = prepare(kolektor.read(folder), HOW, tmp_path / "cache")
    assert decoded == {"images": 6, "masks": 12}
    assert (before.labels.tolist(), relabelled.labels.tolist()) == ([1, 0, 1, 0, 1, 0], [1, 1, 1, 0, 1, 0])
    write_image(folder / "kos02" / "Part0.jpg", np.full((26, 10), 77, np.uint8))
    changed = prepare(kolektor.read(folder), HOW, tmp_path / "cache")
    assert decoded == {"images": 12, "masks": 18}
    assert set(np.unique(changed.images[2])) == {77}
    np.testing.assert_array_equal(changed.images[[0, 1, 3, 4, 5]], before.images[[0, 1, 3, 4, 5]])


def test_odd_mask_values_are_noted_once(tmp_path: Path) -> None:
    folder = write_kolektor(tmp_path / "data")
    for name, value in (("kos01/Part1", 85), ("kos02/Part1", 1)):
        mask = np.zeros((26, 10), np.uint8)
        mask[BOX] = value
        write_image(folder / f"{name}_label.bmp", mask)
    for _ in range(2):  # also when the arrays come from the cache
        arrays = prepare(kolektor.read(folder), Preparation(13, 5, 5), tmp_path / "cache")
        assert arrays.notes == [
            "masks hold values other than 0 and 255 (1, 85 in kos01/Part1, kos02/Part1); any value above 0 is taken as "
            "defect"
        ]
        assert arrays.defect_pixels.tolist() == [20, 20, 20, 20, 20, 0]


def test_another_threshold_has_masks_of_its_own(tmp_path: Path, decoded: dict[str, int]) -> None:
    """A defect of 255 inside an edge of 100: images are not decoded anew, and the default's cache stays as it was."""
    mask = box_mask()
    mask[4] = 100  # a row of 10 pixels above the box of 20
    dataset = one(picture("x"), mask)
    default, names = prepare(dataset, HOW, tmp_path), {p.name for p in tmp_path.rglob("*.np*")}
    sharp = prepare(dataset, Preparation(13, 5, mask_threshold=128), tmp_path)
    assert (default.defect_pixels.tolist(), sharp.defect_pixels.tolist()) == ([30], [20])
    assert decoded == {"images": 1, "masks": 2}
    assert names < {p.name for p in tmp_path.rglob("*.np*")}
    rule = "masks hold values other than 0 and 255 (100 in a/0);"
    assert (default.notes, sharp.notes) == (
        [f"{rule} any value above 0 is taken as defect"],
        [f"{rule} values from 128 on are taken as defect"],
    )


def test_the_default_s_cache_is_that_of_before_there_was_a_threshold(tmp_path: Path) -> None:
    """The keys that earlier versions wrote, by hand."""
    assert Preparation(13, 5, 9).mask_key(9) == {
        "height": 13, "width": 5, "resize": "area", "convert": "error", "dilation": 9, "element": "diamond",
    }  # fmt: skip
    assert Preparation(13, 5, 9).mask_key(0)["element"] is None
    sharp = Preparation(13, 5, 9, mask_threshold=128)
    assert sharp.mask_key(9) == Preparation(13, 5, 9).mask_key(9) | {"mask_threshold": 128}
    assert sharp.key() == Preparation(13, 5).key()


def test_a_long_list_of_odd_values_is_cut(tmp_path: Path) -> None:
    ramp = np.arange(26 * 10, dtype=np.uint16).reshape(26, 10)
    (note,) = prepare(one(picture("x"), ramp), HOW, tmp_path).notes
    assert "(1, 2, 3, 4, 5 and 253 more in a/0)" in note  # 1 to 259 without 255 are 258 values


def test_the_message_for_a_bad_file_is_the_files_own(tmp_path: Path) -> None:
    folder = write_kolektor(tmp_path / "data")
    dataset = kolektor.read(folder)
    image = dataset.records[3].image
    kept = image.path.read_bytes()
    image.path.write_bytes(b"broken")
    with pytest.raises(InputError, match=r"Part1\.jpg: does not decode"):
        prepare(kolektor.read(folder), HOW, tmp_path / "cache")
    image.path.write_bytes(kept)
    write_image(folder / "kos03" / "Part0_label.bmp", np.zeros((26, 11), np.uint8))
    with pytest.raises(InputError, match=r"Part0_label\.bmp: mask of 26x11 for an image of 26x10"):
        prepare(kolektor.read(folder), HOW, tmp_path / "cache")


def test_a_file_that_cannot_be_read_is_not_taken_for_a_full_cache(tmp_path: Path) -> None:
    class Moody(ArraySource):
        def pixels(self) -> np.ndarray:
            raise InputError("disk of the data set gone")

    dataset = Dataset("memory", [Record("a/0", "a", Moody("a/0", picture("x")), None)])
    with pytest.raises(InputError, match=r"^disk of the data set gone"):
        prepare(dataset, HOW, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dilation": 4}, r"dilation=4: use 0"),
        ({"dilation": -1}, r"dilation=-1: use 0"),
        ({"structuring_element": "disk"}, r"data\.structuring_element=disk: choose diamond or square"),
        ({"resize": "cubic"}, r"data\.resize=cubic: choose area or nearest"),
        ({"convert": "rgb"}, r"data\.convert=rgb: choose error or grey8"),
        ({"height": 0}, r"scale\.height=0, scale\.width=5: use 1 or more"),
        ({"channels": 2}, r"data\.channels=2: use 1 \(grey\) or 3 \(colour\)"),
        ({"fit": "crop"}, r"data\.fit=crop: choose resize or pad or tile"),
        (
            {"fit": "tile", "height": 48, "width": 64, "overlap": -1},
            r"data\.tile_overlap=-1: use a whole number from 0 to 32",
        ),
        (
            {"fit": "tile", "height": 48, "width": 64, "overlap": 48},
            r"data\.tile_overlap=48: .*tiles of 48x64, or larger",
        ),
        ({"fit": "tile"}, r"tiles of 13x5: use 16 or more"),
    ],
)
def test_settings_out_of_range(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Preparation(**({"height": 13, "width": 5} | change))


def test_place_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANOMALY_SEG_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/of")
    assert default_cache() == Path("/home/of/.cache/anomaly_seg")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_cache() == Path("/x/anomaly_seg")
    monkeypatch.setenv("ANOMALY_SEG_CACHE", "/y")
    assert default_cache() == Path("/y")
    monkeypatch.setenv("ANOMALY_SEG_CACHE", "~/y")
    assert default_cache() == Path("/home/of/y")


@pytest.mark.parametrize(
    ("named", "cache_dir", "says"),
    [
        (None, None, "no place for the cache of images: this user has no home folder; set data.cache_dir"),
        ("~/y", None, "no place for the cache of images: this user has no home folder; set data.cache_dir"),
        (None, "~/x", "data.cache_dir=~/x: this user has no home folder; set data.cache_dir"),
    ],
)
def test_a_user_without_a_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str | None, cache_dir: str | None, says: str
) -> None:
    """As in a container that runs under a number which has no account."""

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "ANOMALY_SEG_CACHE"):
        monkeypatch.delenv(name, raising=False)
    if named:
        monkeypatch.setenv("ANOMALY_SEG_CACHE", named)
    with pytest.raises(InputError, match=f"^{says}"):
        prepare(in_memory(), HOW, cache_dir)
    monkeypatch.setenv("ANOMALY_SEG_CACHE", str(tmp_path))
    assert len(prepare(in_memory(), HOW).images) and list(tmp_path.iterdir())  # the remedy works


# Colour, padding, tiles


def test_the_keys_of_grey_resized_arrays(tmp_path: Path) -> None:
    """Caches stay in use as long as their version does: their names, worked out from what is hashed."""
    dataset = in_memory(groups=1)
    prepare(dataset, Preparation(13, 5, 5, overlap=64), tmp_path)
    prints = [r.image.fingerprint() for r in dataset.records]
    base = {"version": 3, "names": ["p0/v0", "p0/v1"], "images": prints}
    base |= {"height": 13, "width": 5, "resize": "area", "convert": "error"}
    masks = [dataset.records[0].mask.fingerprint(), None]
    names = {"images": base}
    for dilation, element in ((0, None), (5, "diamond")):
        names[f"masks-D{dilation}"] = base | {"masks": masks, "dilation": dilation, "element": element}
    digests = {k: hashlib.sha256(json.dumps(v, sort_keys=True).encode()).hexdigest()[:20] for k, v in names.items()}
    assert files(tmp_path) == sorted(f"memory/{k}-{d}{end}" for k, d in digests.items() for end in (".npy", ".npz"))


@pytest.mark.parametrize(
    "other",
    [
        {"channels": 3},
        {"fit": "pad"},
        {"fit": "tile"},
        {"fit": "tile", "overlap": 8},
        {"fit": "tile", "convert": "grey8"},
    ],
)
def test_other_ways_to_fit_have_arrays_of_their_own(tmp_path: Path, other: dict, decoded: dict[str, int]) -> None:
    prepare(in_memory(groups=1), Preparation(32, 32), tmp_path)
    prepare(in_memory(groups=1), Preparation(32, 32, fit="tile", overlap=16), tmp_path)
    prepare(in_memory(groups=1), Preparation(32, 32, **other), tmp_path)
    assert decoded == {"images": 6, "masks": 6}


def test_colour_arrays(tmp_path: Path) -> None:
    blue_green_red = np.dstack([picture(c, 8, 8) for c in "bgr"])  # as OpenCV decodes
    data = one(blue_green_red, np.zeros((8, 8), np.uint8))
    data.records.append(Record("a/1", "a", ArraySource("a/1", picture("grey", 8, 8)), None))
    arrays = prepare(data, Preparation(8, 8, channels=3), tmp_path)
    assert arrays.images.shape == (2, 8, 8, 3) and arrays.masks.shape == (2, 8, 8)
    np.testing.assert_array_equal(arrays.images[0], np.dstack([picture(c, 8, 8) for c in "rgb"]))
    for channel in range(3):
        np.testing.assert_array_equal(arrays.images[1, ..., channel], picture("grey", 8, 8))
    assert arrays.thumbnails.shape == (2, 64 * 64) and arrays.shapes.tolist() == [[8, 8]] * 2


def test_padded_arrays_by_hand(tmp_path: Path) -> None:
    image = np.arange(1, 9, dtype=np.uint8).reshape(4, 2)
    mask = np.zeros((4, 2), np.uint8)
    mask[3, 1] = 255
    arrays = prepare(one(image, mask), Preparation(4, 4, fit="pad"), tmp_path)
    assert arrays.images[0].tolist() == [[1, 2, 2, 2], [3, 4, 4, 4], [5, 6, 6, 6], [7, 8, 8, 8]]
    assert arrays.exact[0].tolist() == [[0] * 4] * 3 + [[0, 1, 1, 1]]
    assert arrays.defect_pixels.tolist() == [1] and arrays.shapes.tolist() == [[4, 2]]


@pytest.mark.parametrize(
    ("shapes", "how", "changed"),
    [
        ([[30, 60], [50, 80]], {}, False),  # both sides shrink, or stay
        ([[30, 60], [20, 10]], {}, False),  # both grow
        ([[30, 60], [30, 59], [29, 60]], {}, False),  # one grows, the other stays
        ([[30, 60], [31, 59]], {}, True),
        ([[30, 60], [29, 61]], {}, True),
        ([[31, 59]], {"resize": "nearest"}, False),
        ([[30, 60]], {"fit": "pad"}, True),
        ([[30, 60]], {"fit": "tile"}, True),
    ],
)
def test_which_samples_older_versions_made_otherwise(shapes: list, how: dict, changed: bool) -> None:
    assert Preparation(30, 60, **how).changed(np.array(shapes)) is changed


def tiled(tmp_path: Path) -> tuple[Dataset, Arrays]:
    """Images of 40x60 (2 x 3 tiles of 32x32), 20x10 (one tile, larger than it) and 32x60 (1 x 3 tiles)."""
    records = []
    for i, (height, width) in enumerate(((40, 60), (20, 10), (32, 60))):
        mask = np.zeros((height, width), np.uint8)
        if i != 1:
            mask[17, 30] = 255
        source = ArraySource(f"m{i}", mask)
        records.append(Record(f"a/{i}", "a", ArraySource(f"a/{i}", picture(str(i), height, width)), source))
    dataset = Dataset("memory", records)
    return dataset, prepare(dataset, Preparation(32, 32, 5, fit="tile", overlap=16), tmp_path)


def test_tiles_by_hand(tmp_path: Path) -> None:
    dataset, arrays = tiled(tmp_path)
    assert arrays.images.shape == arrays.masks.shape == arrays.exact.shape == (10, 32, 32)
    assert arrays.owner.tolist() == [0] * 6 + [1] + [2] * 3
    assert arrays.shapes.tolist() == [[40, 60], [20, 10], [32, 60]]
    assert arrays.labels.tolist() == [1, 0, 1] and arrays.defect_pixels.tolist() == [1, 0, 1]
    corners = [(y, x) for y in (0, 16) for x in (0, 16, 32)] + [(0, 0)] + [(0, x) for x in (0, 16, 32)]
    assert [arrays.place(i).tile for i in range(10)] == corners
    assert [arrays.place(i).image for i in range(10)] == arrays.owner.tolist()
    # The dilated defect covers rows 15 to 19 and columns 28 to 32: all tiles of image 0 hold some of it.
    assert arrays.sample_labels.tolist() == [1] * 6 + [0] + [1] * 3
    assert [int(m.sum()) for m in arrays.masks[7:]] == [12, 13, 1]  # without column 32, whole, column 32 alone
    assert [int(m.sum()) for m in arrays.exact] == [1, 1, 0, 1, 1, 0, 0, 1, 1, 0]
    first, small = dataset.records[0].image.pixels(), dataset.records[1].image.pixels()
    np.testing.assert_array_equal(arrays.images[1], first[:32, 16:48])
    np.testing.assert_array_equal(arrays.images[4][:24], first[16:, 16:48])
    np.testing.assert_array_equal(arrays.images[4][24:], np.repeat(first[39:, 16:48], 8, axis=0))
    np.testing.assert_array_equal(arrays.images[6], np.pad(small, ((0, 12), (0, 22)), "edge"))


def test_a_defect_at_the_border_goes_on_beyond_it_like_its_image(tmp_path: Path) -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[19, 19] = 255
    arrays = prepare(one(picture("x", 20, 20), mask), Preparation(32, 32, 3, fit="tile"), tmp_path)
    # The corner fills 13 rows and columns; of a diamond's upper left half, 13 in the row above, 14 in the others.
    assert (arrays.exact.sum(), arrays.masks.sum()) == (13 * 13, 13 + 13 * 14)


def test_samples_of_images(tmp_path: Path) -> None:
    _, arrays = tiled(tmp_path)
    assert arrays.samples([2, 0]).tolist() == [7, 8, 9, 0, 1, 2, 3, 4, 5]
    assert arrays.samples([]).tolist() == []
    plain = prepare(in_memory(), HOW, tmp_path)
    assert plain.samples([3, 1]).tolist() == [3, 1] and plain.sample_labels.tolist() == plain.labels.tolist()
    image, layout, tile = plain.place(3)
    assert (image, tile, layout.tiles) == (3, (0, 0), [(0, 0)])
    assert layout.inside(tile) == (slice(0, 13), slice(0, 5))


def test_memory_does_not_grow_with_the_number_of_tiles_or_images(tmp_path: Path) -> None:
    """Of six images of 1.2 MB, whose tiles make 12 MB, and of their masks, no more is held than a few copies of one."""
    size, records = 1200 * 1000, []
    for i in range(6):
        image = np.zeros((1200, 1000), np.uint8) + np.uint8(i)
        records.append(Record(f"a/{i}", "a", ArraySource(f"a/{i}", image), ArraySource(f"m{i}", image)))
    dataset = Dataset("memory", records)
    for record in dataset.records:  # not counted: what the test itself makes of them
        record.image.fingerprint = lambda name=record.name: name
        record.mask.fingerprint = lambda name=record.name: name
    tracemalloc.start()
    try:
        arrays = prepare(dataset, Preparation(128, 128, fit="tile", overlap=32), tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert arrays.images.nbytes > 6 * 1.5 * size
    assert peak < 4 * size


# Disks


def test_a_full_disk(tmp_path: Path) -> None:
    """The system refuses to write more than 1000 bytes to a file: an error, no killed process, nothing left over."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(InputError) as caught:
            prepare(in_memory(groups=20), Preparation(26, 10), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(caught.value).startswith(f"data.cache_dir: cannot write {tmp_path / 'memory'}")
    assert "free space or set another folder" in str(caught.value)
    assert files(tmp_path) == []
    assert len(prepare(in_memory(groups=20), Preparation(26, 10), tmp_path).images) == 40


def test_a_disk_that_fills_up_at_the_last_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(InputError, match=r"data\.cache_dir: cannot write .*No space left on device.*free space"):
        prepare(in_memory(), HOW, tmp_path)
    assert files(tmp_path) == []


def test_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(InputError, match=r"data\.cache_dir: cannot write .*Read-only file system.*set another folder"):
        prepare(in_memory(), HOW, tmp_path)


def test_a_cache_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("I am a file")
    with pytest.raises(InputError, match=r"data\.cache_dir: cannot write"):
        prepare(in_memory(), HOW, tmp_path / "cache")


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError])
def test_an_interrupted_writer_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    class Interrupted(ArraySource):
        def pixels(self) -> np.ndarray:
            raise error("in the middle")

    dataset = in_memory()
    whole = dataset.records[4]
    dataset.records[4] = Record(whole.name, whole.group, Interrupted(whole.image.name, whole.image.array), whole.mask)
    with pytest.raises(error):
        prepare(dataset, HOW, tmp_path)
    assert list((tmp_path / "memory").iterdir()) == []
    dataset.records[4] = whole
    np.testing.assert_array_equal(prepare(dataset, HOW, tmp_path).images, fresh(dataset, tmp_path).images)


def fresh(dataset: Dataset, tmp_path: Path) -> Arrays:
    return prepare(dataset, HOW, tmp_path / "fresh")


def test_a_killed_writer_is_not_taken_for_a_finished_one(tmp_path: Path) -> None:
    """After a kill -9 a temporary folder may stay, or the large file without the small one that makes it complete."""
    dataset = in_memory()
    prepare(dataset, HOW, tmp_path)
    (tmp_path / "memory" / ".writing-x").mkdir()
    for path in (tmp_path / "memory").glob("*.np*"):
        if path.suffix == ".npz":
            path.unlink()
        else:
            path.write_bytes(b"half")
    np.testing.assert_array_equal(prepare(dataset, HOW, tmp_path).images, fresh(dataset, tmp_path).images)


@pytest.mark.parametrize("killed", [0, 1])
def test_four_processes_make_each_array_once(tmp_path: Path, killed: int) -> None:
    """From cold, all at once; the process that is at the first array may be killed in its middle."""
    folder, log, barrier = write_kolektor(tmp_path / "data"), tmp_path / "log", PROCESSES.Barrier(4)
    arguments = (folder, tmp_path / "cache", log, barrier, tmp_path / "killed" if killed else None)
    hands = [PROCESSES.Process(target=prepare_with_others, args=arguments) for _ in range(4)]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join(100)
    assert sorted(hand.exitcode or 0 for hand in hands) == [-signal.SIGKILL] * killed + [0] * (4 - killed)
    words = [line.split() for line in log.read_text().splitlines()]
    assert [name for word, name in words if word == "begins"] == ["images"] * killed + [
        "images",
        "masks-D0",
        "masks-D5",
    ]
    assert [name for word, name in words if word == "ends"] == ["images", "masks-D0", "masks-D5"]
    kept = sorted((tmp_path / "cache" / "kolektor").glob("*.npy"))
    mapped = [str(path.stat().st_ino) for path in kept]
    assert sorted(inode for word, inode in words if word == "maps") == sorted(mapped * (4 - killed))  # never replaced
    assert len(kept) == 3 and len(list(kept[0].parent.iterdir())) == 6  # and no lock, no half of an array


def test_what_killed_processes_left_is_swept_when_nobody_can_be_at_it(tmp_path: Path) -> None:
    prepare(in_memory(), HOW, tmp_path)
    (made,) = (path.stem for path in (tmp_path / "memory").glob("images-*.npz"))
    ages = {f".writing-{made}-x": 0, ".writing-masks-D9-x": 0, ".making-new": 0, ".making-old": 90_000}
    for name, age in ages.items():
        (tmp_path / "memory" / name).mkdir()
        (tmp_path / "memory" / name / "half.npy").write_bytes(b"half")
        for path in (tmp_path / "memory" / name / "half.npy", tmp_path / "memory" / name):
            os.utime(path, (time.time() - age,) * 2)
    (tmp_path / "memory" / f"{made}.npz").unlink()
    prepare(in_memory(), HOW, tmp_path)
    hidden = sorted(path.name for path in (tmp_path / "memory").glob(".*"))
    assert hidden == [".making-new", ".writing-masks-D9-x"]  # of which others may be the writers


@pytest.mark.parametrize("what", ["images", "masks-D0"])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("damage", ["empty", "cut", "garbage"])
def test_a_damaged_cache_file(tmp_path: Path, what: str, suffix: str, damage: str) -> None:
    dataset = in_memory()
    prepare(dataset, HOW, tmp_path)
    (path,) = (tmp_path / "memory").glob(f"{what}-*{suffix}")
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": data[: len(data) * 2 // 3], "garbage": b"garbage" * 100}[damage])
    with pytest.raises(InputError, match=rf"{path.stem}.*: damaged cache file .*delete both, they are made anew"):
        prepare(dataset, HOW, tmp_path)
    path.unlink()
    np.testing.assert_array_equal(prepare(dataset, HOW, tmp_path).images, fresh(dataset, tmp_path).images)


def test_a_bit_flipped_in_the_small_file_is_noticed(tmp_path: Path) -> None:
    dataset = in_memory()
    prepare(dataset, HOW, tmp_path)
    (path,) = (tmp_path / "memory").glob("images-*.npz")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged cache file"):
        prepare(dataset, HOW, tmp_path)


def test_a_removed_cache_is_made_anew(tmp_path: Path, decoded: dict[str, int]) -> None:
    prepare(in_memory(), HOW, tmp_path)
    shutil.rmtree(tmp_path / "memory")
    prepare(in_memory(), HOW, tmp_path)
    assert decoded == {"images": 24, "masks": 24}
