"""Own images: masks found in every layout, groups, and a message for all that does not fit together."""

import unicodedata
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from support.helpers import box_mask, picture, write_image, zip_of

from anomaly_seg.data.image_io import load_image
from anomaly_seg.data.readers.folder import read
from anomaly_seg.data.records import Dataset, load_mask
from anomaly_seg.errors import InputError
from anomaly_seg.instantiate import instantiate

IMAGE, MASK = picture("image"), box_mask()
LAYOUTS: Mapping[str, tuple[str, list[str], dict[str, str]]] = {
    # name: (layout, paths, image -> mask)
    "suffix": (
        "pairs",
        ["a.png", "a_mask.png", "b.jpg", "b_label.bmp", "c.bmp", "c_GT.png", "d.tiff", "d-mask.tif", "e.png"],
        {"a": "a_mask.png", "b": "b_label.bmp", "c": "c_GT.png", "d": "d-mask.tif"},
    ),
    "magnetic tile": (
        "pairs",
        ["MT_Blowhole/Imgs/e1.jpg", "MT_Blowhole/Imgs/e1.png", "MT_Free/Imgs/e2.jpg", "MT_Free/Imgs/e2.png"],
        {"MT_Blowhole/Imgs/e1": "MT_Blowhole/Imgs/e1.png", "MT_Free/Imgs/e2": "MT_Free/Imgs/e2.png"},
    ),
    "parallel": (
        "parallel",
        ["images/a.png", "images/sub/b.jpg", "images/c.tif", "masks/a.png", "masks/sub/b_mask.png"],
        {"images/a": "masks/a.png", "images/sub/b": "masks/sub/b_mask.png"},
    ),
    "parallel in parts": (
        "parallel",
        ["train/Images/a.png", "train/Labels/a.png", "test/Images/a.png", "test/Labels/a.png"],
        {"train/Images/a": "train/Labels/a.png", "test/Images/a": "test/Labels/a.png"},
    ),
    "mvtec": (
        "mvtec",
        [
            "train/good/000.png", "test/good/000.png", "test/crack/000.png", "test/hole/000.png",
            "ground_truth/crack/000_mask.png", "ground_truth/hole/000_mask.png",
        ],
        {"test/crack/000": "ground_truth/crack/000_mask.png", "test/hole/000": "ground_truth/hole/000_mask.png"},
    ),
    "mvtec, several objects": (
        "mvtec",
        ["bottle/test/crack/1.png", "bottle/ground_truth/crack/1.png", "nut/test/good/0.png", "nut/train/good/0.png"],
        {"bottle/test/crack/1": "bottle/ground_truth/crack/1.png"},
    ),
    "good and defect folders": (
        "mvtec",
        ["good/0.png", "crack/1.png", "ground_truth/crack/1_mask.png"],
        {"crack/1": "ground_truth/crack/1_mask.png"},
    ),
}  # fmt: skip


def write(folder: Path, paths: list[str]) -> Path:
    """Files of that name: pictures, or masks where the name says so or a JPEG of the same name is there."""
    for path in paths:
        words = ("mask", "label", "_gt", "ground_truth")
        is_mask = any(w in path.lower() for w in words) or path.replace(".png", ".jpg") in set(paths) - {path}
        write_image(folder / path, MASK if is_mask else picture(path))
    return folder


def masks(dataset: Dataset, root: Path) -> dict[str, str]:
    found = {r.name: r.mask.name for r in dataset.records if r.mask}
    return {name: Path(mask).relative_to(root).as_posix() for name, mask in found.items()}


@pytest.mark.parametrize("case", LAYOUTS)
def test_a_layout_is_recognised(case: str, tmp_path: Path) -> None:
    layout, paths, expected = LAYOUTS[case]
    dataset = read(write(tmp_path, paths))
    assert masks(dataset, tmp_path) == expected
    assert f"layout {layout}: {len(expected)} masks" in dataset.notes
    assert len(dataset.records) == len(paths) - len(expected)
    assert all(record.group == record.name for record in dataset.records)
    named = read(tmp_path, layout=layout)
    assert [r.name for r in named.records] == [r.name for r in dataset.records]


@pytest.mark.parametrize("inside", ["", "deliveries/"])
def test_a_zip_gives_the_same_records(tmp_path: Path, inside: str) -> None:
    folder = write(tmp_path / "f", LAYOUTS["mvtec"][1])
    unpacked, zipped = read(folder), read(zip_of(folder, tmp_path / "f.zip", inside))
    for a, b in zip(unpacked.records, zipped.records, strict=True):
        assert (a.name, a.image.fingerprint()) == (b.name, b.image.fingerprint())
        assert (a.mask and a.mask.fingerprint()) == (b.mask and b.mask.fingerprint())


def test_a_zip_with_one_meaningful_folder_keeps_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "f", ["images/a.png", "images/a_mask.png"])
    assert [r.name for r in read(zip_of(folder, tmp_path / "f.zip")).records] == ["images/a"]


def test_a_mask_that_is_a_jpeg(tmp_path: Path) -> None:
    """Compression leaves values of a few around the box; those are no defect."""
    write_image(tmp_path / "a.bmp", IMAGE)
    write_image(tmp_path / "a_mask.jpg", MASK)
    write_image(tmp_path / "b.bmp", IMAGE)
    dataset = read(tmp_path)
    mask, odd = load_mask(dataset.records[0], IMAGE.shape)
    assert (np.asarray(dataset.records[0].mask.source.pixels()) > 0).sum() > 20  # type: ignore[union-attr]
    np.testing.assert_array_equal(mask, MASK // 255)
    assert odd == set()
    assert any("masks kept as JPEG" in note and "a_mask.jpg" in note for note in dataset.notes)


def test_a_suffix_of_ones_own(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "b_mask.png", "b_mask_defekt.png"):
        write_image(tmp_path / name, IMAGE)
    dataset = read(tmp_path, mask_suffix="_defekt")
    assert masks(dataset, tmp_path) == {"b_mask": "b_mask_defekt.png"}
    assert [r.name for r in dataset.records] == ["a.jpg", "a.png", "b_mask"]  # told apart by their whole names


def test_a_suffix_that_is_a_number(tmp_path: Path) -> None:
    write(tmp_path, ["a0.png", "a.png", "b.png"])
    assert masks(read(tmp_path, mask_suffix=0), tmp_path) == {"a": "a0.png"}


def test_accents_that_are_written_in_two_ways(tmp_path: Path) -> None:
    """macOS takes an accented letter apart (NFD), other systems write one character (NFC)."""
    apart, one = (unicodedata.normalize(form, "Prüf") for form in ("NFD", "NFC"))
    write(tmp_path / "d", [f"{apart}.png", f"{one}_mask.png"])
    assert masks(read(tmp_path / "d"), tmp_path / "d") == {one: f"{one}_mask.png"}
    both = write(tmp_path / "both", [f"{apart}.png", f"{one}.png", f"{one}_mask.png"])
    assert masks(read(both), both) == {one: f"{one}_mask.png"}
    assert [r.name for r in read(both).records] == [apart, one]


def test_what_is_no_part_of_the_layout_is_noted(tmp_path: Path) -> None:
    write(tmp_path, [*LAYOUTS["mvtec"][1], "preview.png"])
    for name in ("readme.txt", ".hidden.png", "__MACOSX/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"?")
    assert "1 images outside the layout's folders passed over: preview.png" in read(tmp_path).notes


def test_pixels_of_every_kind_of_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.bmp", "c.tif", "d.tiff", "e.PNG"):
        write_image(tmp_path / name, IMAGE)
    write_image(tmp_path / "a_mask.png", MASK)
    for record in read(tmp_path).records:
        np.testing.assert_array_equal(load_image(record.image), IMAGE)


# Groups


def test_groups_from_a_pattern(tmp_path: Path) -> None:
    write(tmp_path, ["p1_v1.png", "p1_v2.png", "p2_v1.png", "p2_v1_mask.png"])
    dataset = read(tmp_path, groups=r"(p\d+)_v")
    assert [(r.name, r.group) for r in dataset.records] == [("p1_v1", "p1"), ("p1_v2", "p1"), ("p2_v1", "p2")]


@pytest.mark.parametrize("place", ["data", "elsewhere"])
def test_groups_from_a_table(tmp_path: Path, place: str) -> None:
    write(tmp_path / "data", ["x/a.png", "x/b.png", "x/b_mask.png", "c.png"])
    (tmp_path / place).mkdir(exist_ok=True)
    text = "\ufeffimage,side,group\nx/a.png,l,one\nb.png,r,one\nc.png,r,two\n"  # as spreadsheets write it
    (tmp_path / place / "parts.csv").write_text(text if place == "data" else text.replace(",", ";"))
    groups = "parts.csv" if place == "data" else str(tmp_path / place / "parts.csv")
    assert {r.name: r.group for r in read(tmp_path / "data", groups=groups).records} == {
        "x/a": "one",
        "x/b": "one",
        "c": "two",
    }


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("(p[", r"data\.groups=\(p\[: not a regular expression .*nor does it end in \.csv"),
        ("p1", r"data\.groups=p1: has 0 groups in parentheses; use one"),
        ("(p)(1)", r"has 2 groups in parentheses; use one"),
        ("(p1)_", r"no group for p2_v1\.png \(1 in all\); complete it"),
        ("none.csv", r"data\.groups=none\.csv: no such file, neither here nor in data\.root"),
        ("columns.csv", r"columns\.csv: needs the columns image and group"),
        ("empty.csv", r"empty\.csv: needs the columns image and group"),
        ("latin.csv", r"latin\.csv: not a CSV file in UTF-8"),
        ("unknown.csv", r"unknown\.csv: p9\.png not among the images \(1 in all\); remove the rows"),
        ("twice.csv", r"twice\.csv: p1_v1\.png has two groups, a and b; keep one"),
        ("short.csv", r"short\.csv: no group for p2_v1\.png"),
    ],
)
def test_groups_that_cannot_be(tmp_path: Path, groups: str, message: str) -> None:
    write(tmp_path, ["p1_v1.png", "p1_v1_mask.png", "p2_v1.png"])
    tables = {
        "columns": "file,part\np1_v1.png,a\n", "empty": "", "unknown": "image,group\np9.png,a\n",
        "twice": "image,group\np1_v1.png,a\np1_v1.png,b\n", "short": "image,group\np1_v1.png,a\np2_v1.png,\n",
    }  # fmt: skip
    for name, text in tables.items():
        (tmp_path / f"{name}.csv").write_text(text)
    (tmp_path / "latin.csv").write_bytes("image,group\np1_v1.png,Stück\n".encode("latin-1"))
    with pytest.raises(InputError, match=message):
        read(tmp_path, groups=groups)


# What cannot be


@pytest.mark.parametrize(
    ("paths", "settings", "message"),
    [
        ([], {}, r": no image found \(looked for \.png, \.jpg, \.bmp and \.tif"),
        (["a.png", "b.png"], {}, r"2 images but no mask .*data\.layout, data\.mask_suffix or data\.annotations$"),
        (
            ["images/a.png", "masks/a_gt.png"],
            {"mask_suffix": "_defekt"},
            r"data\.mask_suffix=_defekt: no name of an image file ends so",
        ),
        (["a.png", "a_mask.png", "x/b_mask.png"], {}, r"x/b_mask\.png: mask without its image; .*data\.mask_suffix"),
        (["a_mask.png"], {}, r"a_mask\.png: mask without its image"),
        (["a.png", "a_mask.png", "a_label.png"], {}, r"a_label\.png, a_mask\.png: several masks for a\.png; keep one"),
        (["a.png", "a.bmp", "a_mask.png"], {}, r"a\.bmp, a\.png: several images claim the mask a_mask\.png"),
        (["a.png", "a.bmp", "b.png", "b_mask.png"], {}, r"a\.bmp, a\.png: which is the image, which the mask\?"),
        (["images/a.png", "masks/b.png"], {}, r"masks/b\.png: mask without its image"),
        (["images/a.png", "images/a.jpg", "masks/a.png"], {"layout": "parallel"}, r"several images claim the mask"),
        (
            ["images/a.png", "masks/a.png", "masks/a_mask.png"],
            {"layout": "parallel"},
            r"several masks for images/a\.png; keep one",
        ),
        (
            ["images/a.png", "masks/a.png", "b.png", "b_mask.png"],
            {},
            r"looks like pairs \(b_mask\.png\) and like parallel \(images/a\.png\); set data\.layout",
        ),
        (
            ["good/0.png", "hole/2.png", "hole/3.png", "ground_truth/hole/2.png"],
            {},
            r"hole/3\.png: in a defect folder, but without mask in ground_truth/ or annotation; add it, or move",
        ),
        (
            ["test/crack/1.png", "train/crack/1.png", "ground_truth/crack/1.png"],
            {},
            r"several images claim the mask ground_truth/crack/1\.png",
        ),
        (["a.png", "a_mask.png"], {"layout": "parallel"}, r"data\.layout=parallel: no images/ beside a masks/ below"),
        (["a.png", "a_mask.png"], {"layout": "mvtec"}, r"data\.layout=mvtec: no train/, test/ or ground_truth/"),
        (["a.png", "a_mask.png"], {"layout": "rows"}, r"data\.layout=rows: choose auto, pairs, parallel, mvtec"),
        (["a.png", "a_mask.png"], {"categories": ["crack"]}, r"data\.categories: needs annotations"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, paths: list[str], settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(write(tmp_path, paths), **settings)


def test_annotation_files_that_were_not_asked_for_are_named(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "b.png"])
    (tmp_path / "annotations.xml").write_text("<annotations/>")
    with pytest.raises(InputError, match=r"it holds annotations\.xml: set data\.annotations if that is it"):
        read(tmp_path)


def test_root_that_is_no_place(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.root is not set: set data\.root to the folder that holds the images"):
        read(None)
    with pytest.raises(InputError, match=r"nowhere: no such file or folder; set data\.root"):
        read(tmp_path / "nowhere")
    (tmp_path / "a.zip").write_bytes(b"PK no zip")
    with pytest.raises(InputError, match=r"a\.zip: not a complete zip archive"):
        read(tmp_path / "a.zip")


def test_an_encrypted_table_in_a_zip(tmp_path: Path) -> None:
    """Set the flag of encryption in both headers of the table."""
    folder = write(tmp_path / "f", ["a.png", "a_mask.png"])
    (folder / "z.csv").write_text("image,group\na.png,one\n")
    data = bytearray(zip_of(folder, tmp_path / "f.zip").read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.rindex(mark) + offset] |= 1
    (tmp_path / "f.zip").write_bytes(data)
    with pytest.raises(InputError, match=r"f\.zip!z\.csv: cannot be read .*encrypted"):
        read(tmp_path / "f.zip", groups="z.csv")


def test_the_configuration_passes_lists_and_errors_on(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "a_mask.png"])
    reader = {"_target_": "anomaly_seg.data.readers.folder.read", "root": str(tmp_path), "categories": ["crack"]}
    with pytest.raises(InputError, match=r"data\.categories: needs annotations"):
        instantiate(reader, "data.reader")
