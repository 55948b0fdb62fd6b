"""The reader of KolektorSDD, on a small stand-in."""

import json
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support.helpers import PUBLISHED_ITEMS, box_mask, picture, write_image, write_kolektor, zip_of

from anomaly_seg.data.readers.kolektor import published_folds, read
from anomaly_seg.errors import InputError
from anomaly_seg.instantiate import instantiate

NAMES = ["kos01/Part0", "kos01/Part1", "kos02/Part0", "kos02/Part1", "kos03/Part0", "kos03/Part1"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_kolektor(tmp_path / "KolektorSDD")


def test_reads_a_folder(folder: Path) -> None:
    dataset = read(folder)
    assert [r.name for r in dataset.records] == NAMES
    assert [r.group for r in dataset.records] == ["kos01", "kos01", "kos02", "kos02", "kos03", "kos03"]
    first = dataset.records[0]
    assert np.abs(first.image.pixels().astype(int) - picture("kos01/Part0")).mean() < 20  # JPEG is lossy
    np.testing.assert_array_equal(first.mask.pixels(), box_mask())
    assert first.image.name == str(folder / "kos01" / "Part0.jpg")


@pytest.mark.parametrize("inside", ["", "KolektorSDD/", "deep/er/"])
def test_a_zip_gives_the_same_records(folder: Path, tmp_path: Path, inside: str) -> None:
    zipped, unpacked = read(zip_of(folder, tmp_path / "k.zip", inside)), read(str(folder))
    for a, b in zip(zipped.records, unpacked.records, strict=True):
        assert (a.name, a.group) == (b.name, b.group)
        assert a.image.fingerprint() == b.image.fingerprint() and a.mask.fingerprint() == b.mask.fingerprint()
        np.testing.assert_array_equal(a.image.pixels(), b.image.pixels())


def test_root_may_be_a_parent_or_one_item(folder: Path) -> None:
    assert [r.name for r in read(folder.parent).records] == NAMES
    assert [r.name for r in read(folder / "kos02").records] == NAMES[2:4]


def test_other_files_are_passed_over(folder: Path) -> None:
    (folder / "README.txt").write_text("hello")
    (folder / "__MACOSX" / "kos01").mkdir(parents=True)
    (folder / "__MACOSX" / "kos01" / "._Part0.jpg").write_bytes(b"junk")
    (folder / "kos01" / "Thumbs.db").write_bytes(b"junk")
    assert [r.name for r in read(folder).records] == NAMES


def test_published_folds() -> None:
    folds = published_folds()
    assert sorted(folds) == list(PUBLISHED_ITEMS)
    assert Counter(folds.values()) == {0: 17, 1: 17, 2: 16}
    # The two pairs of groups with the same pictures: the published folds put them on both sides.
    assert (folds["kos01"], folds["kos26"], folds["kos27"], folds["kos34"]) == (1, 2, 0, 2)


def test_missing_items_are_noted(folder: Path, tmp_path: Path) -> None:
    assert read(folder).notes == ["47 of the 50 published groups are missing (kos04, kos05, kos06, ...)"]
    assert read(write_kolektor(tmp_path / "whole", PUBLISHED_ITEMS, views=1)).notes == []


@pytest.mark.parametrize("root", [None, ""])
def test_root_not_set(root: str | None) -> None:
    with pytest.raises(InputError, match=r"data\.root is not set: set data\.root to the folder that holds kos01"):
        read(root)


def test_root_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.root=.*nowhere: no such file or folder; set data\.root"):
        read(tmp_path / "nowhere")


def test_root_without_images(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing here")
    for root in (tmp_path / "empty", tmp_path / "other.zip"):
        with pytest.raises(InputError, match=rf"{root.name}: holds no kosNN/PartM\.jpg; set data\.root"):
            read(root)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_zip_cut_short(folder: Path, tmp_path: Path, kept: float) -> None:
    data = zip_of(folder, tmp_path / "k.zip").read_bytes()
    (tmp_path / "k.zip").write_bytes(data[: int(kept * len(data))])
    with pytest.raises(InputError, match=r"k\.zip: not a complete zip archive .*copy or download it again"):
        read(tmp_path / "k.zip")


def test_a_zip_with_a_hole(folder: Path, tmp_path: Path) -> None:
    """The end is there, but the directory it points to is not where it should be."""
    path = zip_of(folder, tmp_path / "k.zip")
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    path.write_bytes(data[:start] + b"\0" * 100 + data[start + 100 :])
    with pytest.raises(InputError, match=r"k\.zip: not a complete zip archive .*download it again"):
        read(path)


def test_another_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "k.tar").write_bytes(b"no zip at all" * 100)
    with pytest.raises(InputError, match=r"k\.tar: not a complete zip archive"):
        read(tmp_path / "k.tar")


def test_a_mask_without_image(folder: Path) -> None:
    (folder / "kos02" / "Part1.jpg").unlink()
    with pytest.raises(
        InputError, match=r"kos02.Part1_label\.bmp: mask without its image; restore the image or remove"
    ):
        read(folder)


def test_an_image_without_mask(folder: Path, tmp_path: Path) -> None:
    (folder / "kos03" / "Part0_label.bmp").unlink()
    with pytest.raises(InputError, match=r"kos03.Part0\.jpg: image without its mask; restore the mask or remove"):
        read(folder)
    with pytest.raises(InputError, match=r"k\.zip!kos03/Part0\.jpg: image without its mask"):
        read(zip_of(folder, tmp_path / "k.zip"))


def test_two_files_for_one_image(folder: Path) -> None:
    shutil.copytree(folder / "kos02", folder / "backup" / "kos02")
    with pytest.raises(InputError, match=r"a second file for kos02/Part\d, beside .*; remove one"):
        read(folder)


@pytest.mark.parametrize("same", [True, False])
def test_kos21_has_no_part_7(tmp_path: Path, same: bool) -> None:
    folder = write_kolektor(tmp_path / "k", ["kos21"], views=8)
    if same:
        for end in (".jpg", "_label.bmp"):
            shutil.copy(folder / "kos21" / f"Part6{end}", folder / "kos21" / f"Part7{end}")
    dataset = read(folder)
    assert len(dataset.records) == (7 if same else 8)
    assert any("Part7.jpg: a copy of Part6" in note for note in dataset.notes) == same


def test_an_item_outside_the_published_ones_is_left_to_the_split(tmp_path: Path) -> None:
    folder = write_kolektor(tmp_path / "k", ["kos01"])
    write_image(folder / "kos99" / "Part0.jpg", picture("x"))
    write_image(folder / "kos99" / "Part0_label.bmp", box_mask())
    assert {r.group for r in read(folder).records} == {"kos01", "kos99"}


def test_the_configuration_reader_passes_the_error_on(tmp_path: Path) -> None:
    """Hydra wraps what a reader raises; the user should see the reader's own words."""
    reader = {"_target_": "anomaly_seg.data.readers.kolektor.read", "root": str(tmp_path / "nowhere")}
    with pytest.raises(InputError, match=r"nowhere: no such file or folder"):
        instantiate(reader, "data.reader")
    write_kolektor(tmp_path / "k")
    assert len(instantiate(json.loads(json.dumps(reader)) | {"root": str(tmp_path / "k")}, "data.reader").records) == 6


def test_the_synthetic_reader_refuses_what_cannot_be() -> None:
    reader = {"_target_": "anomaly_seg.data.readers.synthetic.read", "groups": 3, "views": 2, "defective_fraction": 0.5}
    size = {"height": 64, "width": 32}
    assert len(instantiate(reader | size, "data.reader").records) == 6
    for wrong, message in (
        ({"groups": 0}, r"data\.reader: groups and views"),
        ({"defective_fraction": 0}, r"data\.reader: defective_fraction"),
        ({"height": 31}, r"data\.reader\.height=31, data\.reader\.width=32: use 32 or more"),
    ):
        with pytest.raises(InputError, match=message):
            instantiate(reader | size | wrong, "data.reader")
