"""COCO, LabelMe and CVAT become masks: pixels counted by hand, clipping, and a message for everything damaged."""

import base64
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from support.helpers import picture, write_image, zip_of

from anomaly_seg.data.annotations.load import parse
from anomaly_seg.data.annotations.rasterize import Bitmap, Ellipse, Polygon, ShapeSource, check_runs, runs_of
from anomaly_seg.data.readers.folder import read
from anomaly_seg.data.records import Dataset, load_mask
from anomaly_seg.errors import InputError

H, W = 12, 20
BOX = [2, 3, 7, 3, 7, 9, 2, 9]
"""Corners (2, 3) to (7, 9): columns 2 to 6, rows 3 to 8, 5 x 6 = 30 pixels."""


def box(top: int = 3, bottom: int = 9, left: int = 2, right: int = 7) -> np.ndarray:
    mask = np.zeros((H, W), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def images(folder: Path, *names: str) -> Path:
    for name in names:
        write_image(folder / name, picture(name, H, W))
    return folder


def mask_of(dataset: Dataset, name: str) -> np.ndarray:
    record = next(r for r in dataset.records if r.name == name)
    mask, odd = load_mask(record, (H, W))
    assert odd == set()
    return mask


def write_json(path: Path, value: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return str(path)


def coco(*segmentations: Any, names: tuple[str, ...] = ("a.png",), **more: Any) -> dict:
    """One annotation of image 1 for each segmentation, or a whole annotation where a dict has an image_id."""
    notes = [
        s if isinstance(s, dict) and "image_id" in s else {"image_id": 1, "category_id": 1, "segmentation": s}
        for s in segmentations
    ]
    return {
        "images": [{"id": i, "file_name": n, "height": H, "width": W} for i, n in enumerate(names, 1)],
        "annotations": [{"id": i, **note} for i, note in enumerate(notes, 1)],
        "categories": [{"id": 1, "name": "crack"}, {"id": 2, "name": "stain"}],
    } | more


def labelme(*shapes: dict, image: str = "a.png", **more: Any) -> dict:
    return {"version": "5.5.0", "shapes": list(shapes), "imagePath": image, "imageHeight": H, "imageWidth": W} | more


def shape(kind: str, *points: list[float], label: str = "crack", **more: Any) -> dict:
    return {"label": label, "shape_type": kind, "points": list(points), **more}


def cvat(elements: str, name: str = "a.png", meta: str = "") -> str:
    image = f'<image id="0" name="{name}" width="{W}" height="{H}">{elements}</image>'
    return f'<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>{meta}{image}</annotations>'


def from_coco(tmp_path: Path, found: dict, **settings: Any) -> Dataset:
    images(tmp_path, "a.png", "b.png")
    return read(tmp_path, annotations=write_json(tmp_path / "coco.json", found), **settings)


def from_labelme(tmp_path: Path, found: dict) -> Dataset:
    write_json(images(tmp_path, "a.png", "b.png") / "a.json", found)
    return read(tmp_path)


def from_cvat(tmp_path: Path, text: str) -> Dataset:
    (images(tmp_path, "a.png", "b.png") / "annotations.xml").write_text(text)
    return read(tmp_path, annotations="annotations.xml")


# COCO


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ([BOX], box()),
        ([BOX, [10, 0, 12, 0, 12, 2, 10, 2]], box() | box(0, 2, 10, 12)),
        # 40 outside, then 6 down the column that begins at 3 * 12 + 4 = 40: column 3, rows 4 to 9
        ({"size": [H, W], "counts": [40, 6, H * W - 46]}, box(4, 10, 3, 4)),
        ({"size": [H, W], "counts": [0, 12, H * W - 12]}, box(0, 12, 0, 1)),
    ],
)
def test_coco_pixels(tmp_path: Path, segmentation: Any, expected: np.ndarray) -> None:
    dataset = from_coco(tmp_path, coco(segmentation))
    np.testing.assert_array_equal(mask_of(dataset, "a"), expected)
    assert dataset.records[1].mask is None


def test_coco_compressed_runs(tmp_path: Path) -> None:
    from pycocotools import mask as reference

    drawn = box() | box(0, 1, 10, 18)
    runs = reference.encode(np.asfortranarray(drawn))
    dataset = from_coco(tmp_path, coco({"size": [H, W], "counts": runs["counts"].decode()}))
    np.testing.assert_array_equal(mask_of(dataset, "a"), drawn)


def test_a_box_without_segmentation(tmp_path: Path) -> None:
    note = {"image_id": 1, "category_id": 1, "segmentation": [], "bbox": [2, 3, 5, 6]}
    np.testing.assert_array_equal(mask_of(from_coco(tmp_path, coco(note)), "a"), box())


def test_boxes_that_become_rectangles_are_said(tmp_path: Path) -> None:
    """Two on a, one of each way to have no outline, and one on b; what has an outline, or a label left out, is none."""
    box_only = {"category_id": 1, "bbox": [2, 3, 5, 6]}
    notes = [
        {**box_only, "image_id": 1, "segmentation": []},
        {**box_only, "image_id": 1, "segmentation": [[]]},
        {**box_only, "image_id": 1, "segmentation": [BOX]},
        {**box_only, "image_id": 2},
        {**box_only, "image_id": 2, "category_id": 2},
    ]
    found = coco(*notes, names=("a.png", "b.png"))
    rest = "the whole rectangle counts as defect, where outlines would say more"
    every = from_coco(tmp_path, found)
    assert f"annotations with a box but no outline, in 2 images: a.png (2), b.png (2); {rest}" in every.notes
    cracks = from_coco(tmp_path, found, categories="crack")
    assert f"annotations with a box but no outline, in 2 images: a.png (2), b.png (1); {rest}" in cracks.notes
    stains = from_coco(tmp_path, found, categories="stain")
    assert f"annotations with a box but no outline, in 1 image: b.png (1); {rest}" in stains.notes
    assert not [note for note in from_coco(tmp_path, coco([BOX])).notes if "no outline" in note]


def test_size_from_the_image_where_the_file_has_none(tmp_path: Path) -> None:
    found = coco([BOX])
    del found["images"][0]["height"], found["images"][0]["width"]
    np.testing.assert_array_equal(mask_of(from_coco(tmp_path, found), "a"), box())


def test_categories_choose_what_counts(tmp_path: Path) -> None:
    stain = {"image_id": 1, "category_id": 2, "segmentation": [[10, 0, 12, 0, 12, 2, 10, 2]]}
    found = coco([BOX], stain, {**stain, "image_id": 2}, names=("a.png", "b.png"))
    for categories, a, b in ((None, 34, 4), (["crack"], 30, 0), (["stain"], 4, 4), ("crack", 30, 0)):
        dataset = from_coco(tmp_path, found, categories=categories)
        assert [int(mask_of(dataset, name).sum()) for name in ("a", "b")] == [a, b]
        assert (dataset.records[1].mask is None) == (b == 0)


def test_images_are_found_by_the_end_of_their_path(tmp_path: Path) -> None:
    images(tmp_path, "one/a.png", "two/a.png", "two/b.png")
    names = ("b.png", "C:\\data\\two\\a.png", "one/a.png")
    notes = [{"image_id": i, "category_id": 1, "segmentation": [BOX]} for i in (1, 3)]
    dataset = read(tmp_path, annotations=write_json(tmp_path / "c.json", coco(*notes, names=names)))
    assert {r.name: r.mask is not None for r in dataset.records} == {"one/a": True, "two/a": False, "two/b": True}
    found = coco({"image_id": 1, "category_id": 1, "segmentation": [BOX]}, names=("a.png",))
    with pytest.raises(InputError, match=r"c\.json: a\.png could mean one/a\.png, two/a\.png; write the path"):
        read(tmp_path, annotations=write_json(tmp_path / "c.json", found))


def test_sizes_that_are_whole_numbers_in_whatever_form(tmp_path: Path) -> None:
    found = coco([BOX], images=[{"id": 1, "file_name": "a.png", "height": float(H), "width": str(W)}])
    np.testing.assert_array_equal(mask_of(from_coco(tmp_path, found), "a"), box())


def test_an_image_of_the_same_name_elsewhere_is_not_drawn_on(tmp_path: Path) -> None:
    images(tmp_path, "train/a.png", "train/b.png")
    for name in ("val/a.png", "/home/u/val/a.png"):
        message = (
            rf"c\.json: draws on {name}, which data\.root does not hold .*; if train/a\.png is meant, write that path"
        )
        with pytest.raises(InputError, match=message):
            read(tmp_path, annotations=write_json(tmp_path / "c.json", coco([BOX], names=(name,))))


def test_paths_that_name_the_folder_which_holds_everything(tmp_path: Path) -> None:
    """The folder `set` says nothing, but who writes it is understood: annotations, images in them, and groups."""
    folder = images(tmp_path / "root" / "set", "one/a.png", "two/a.png")
    write_json(folder / "drawn" / "c.json", coco([BOX], names=("set/one/a.png",)))
    (folder / "g.csv").write_text("image,group\nset/one/a.png,x\nset/two/a.png,y\n")
    for place, table in (("set/drawn/c.json", "set/g.csv"), ("set/drawn", "g.csv"), ("drawn/c.json", "set/g.csv")):
        records = read(tmp_path / "root", annotations=place, groups=table).records
        assert [(r.name, r.group, r.mask is not None) for r in records] == [("one/a", "x", True), ("two/a", "y", False)]
    with pytest.raises(InputError, match=r"data\.annotations=set/no\.json: no such file"):
        read(tmp_path / "root", annotations="set/no.json")


# LabelMe

KINDS = ["polygon", "rectangle", "circle", "mask", "line"]
PNG = base64.b64encode(cv2.imencode(".png", np.array([[1, 0], [1, 1], [0, 1]], np.uint8))[1].tobytes()).decode()


@pytest.mark.parametrize(
    ("drawn", "pixels"),
    [
        (shape("polygon", [2, 3], [7, 3], [7, 9], [2, 9]), 30),
        ({"label": "x", "points": [[2, 3], [7, 3], [7, 9], [2, 9]]}, 30),  # files from before there were types
        (shape("rectangle", [7, 9], [2, 3]), 30),
        (shape("oriented_rectangle", [2, 3], [7, 3], [7, 9], [2, 9]), 30),
        (shape("circle", [6, 6], [6, 8]), 12),  # radius 2: 4 x 4 pixels without the corners
        (shape("mask", [4, 5], [5, 7], mask=PNG), 4),
    ],
)
def test_labelme_pixels(tmp_path: Path, drawn: dict, pixels: int) -> None:
    dataset = from_labelme(tmp_path, labelme(drawn))
    assert mask_of(dataset, "a").sum() == pixels
    assert "layout pairs: 0 masks, 1 annotated images" in dataset.notes
    assert "1 images without annotation are taken as free of defects: b.png" in dataset.notes


def test_where_a_labelme_mask_lies(tmp_path: Path) -> None:
    mask = mask_of(from_labelme(tmp_path, labelme(shape("mask", [4, 5], [5, 7], mask=PNG))), "a")
    assert np.argwhere(mask).tolist() == [[5, 4], [6, 4], [6, 5], [7, 5]]


def test_what_has_no_area_is_passed_over_and_said(tmp_path: Path) -> None:
    line, point = shape("linestrip", [1, 1], [5, 5]), shape("point", [1, 1])
    ignored = shape("polygon", [0, 0], [9, 0], [9, 9], label="__ignore__")
    dataset = from_labelme(tmp_path, labelme(line, point, point, ignored))
    assert dataset.records[0].mask is None
    assert any("1 __ignore__, 1 linestrip, 2 point" in note for note in dataset.notes)


@pytest.mark.parametrize("image", ["", "elsewhere.png", "../old/a.png"])
def test_a_labelme_file_belongs_to_the_image_it_is_named_after(tmp_path: Path, image: str) -> None:
    dataset = from_labelme(tmp_path, labelme(shape("rectangle", [2, 3], [7, 9]), image=image))
    np.testing.assert_array_equal(mask_of(dataset, "a"), box())


def test_a_folder_of_labelme_files(tmp_path: Path) -> None:
    root = images(tmp_path / "pictures", "one/a.png", "two/a.png", "two/c.png")
    box_ = shape("rectangle", [2, 3], [7, 9])
    write_json(tmp_path / "drawn" / "two" / "a.json", labelme(box_))
    write_json(tmp_path / "drawn" / "renamed.json", labelme(box_, image="C:\\x\\two\\c.png"))
    dataset = read(root, annotations=str(tmp_path / "drawn"))
    assert {r.name: r.mask is not None for r in dataset.records} == {"one/a": False, "two/a": True, "two/c": True}


@pytest.mark.parametrize("inside", [True, False])
def test_a_folder_of_labelme_files_is_read_alike_inside_and_outside_of_the_data(tmp_path: Path, inside: bool) -> None:
    root = images(tmp_path / "data", "a.png", "b.png")
    drawn = (root if inside else tmp_path) / "drawn"
    for name in ("a.JSON", ".ipynb_checkpoints/a-checkpoint.json", "__MACOSX/b.json"):
        write_json(drawn / name, labelme(shape("rectangle", [2, 3], [7, 9])))
    (drawn / "._a.json").write_bytes(b"\0\5\x16\7")
    dataset = read(root, annotations="drawn" if inside else str(drawn))
    assert [(r.name, r.mask is not None) for r in dataset.records] == [("a", True), ("b", False)]


def test_other_json_beside_images_is_left_alone(tmp_path: Path) -> None:
    write_json(images(tmp_path, "a.png") / "a.json", {"exposure": 3})
    write_image(tmp_path / "a_mask.png", box() * 255)
    np.testing.assert_array_equal(mask_of(read(tmp_path), "a"), box())


# CVAT


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        ('<polygon label="c" points="2,3;7,3;7,9;2,9"/>', box()),
        ('<box label="c" xtl="2" ytl="3" xbr="7" ybr="9"/>', box()),
        # 4 wide, 2 high about (8, 5), turned by a right angle: 2 wide, 4 high
        ('<box label="c" xtl="6" ytl="4" xbr="10" ybr="6" rotation="90"/>', box(3, 7, 7, 9)),
        ('<mask label="c" rle="0,2,1,1" left="4" top="5" width="2" height="2"/>', box(5, 7, 4, 6) - box(6, 7, 4, 5)),
    ],
)
def test_cvat_pixels(tmp_path: Path, element: str, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(mask_of(from_cvat(tmp_path, cvat(element)), "a"), expected)


@pytest.mark.parametrize(("rotation", "rows", "columns"), [(0, 2, 6), (90, 6, 2)])
def test_a_cvat_ellipse(tmp_path: Path, rotation: int, rows: int, columns: int) -> None:
    """Radii 3 and 1 about (10, 6): in each of its 2 rows the centres within sqrt(1 - 0.25) * 3 = 2.6 columns: 6."""
    element = f'<ellipse label="c" cx="10" cy="6" rx="3" ry="1" rotation="{rotation}"/>'
    mask = mask_of(from_cvat(tmp_path, cvat(element)), "a")
    assert mask.sum() == 12
    assert [int(mask.any(axis=axis).sum()) for axis in (1, 0)] == [rows, columns]


def test_cvat_labels_lines_and_tags(tmp_path: Path) -> None:
    meta = "<meta><task><labels><label><name>stain</name></label></labels></task></meta>"
    text = cvat('<polyline label="c" points="0,0;5,5"/><tag label="good"/>', meta=meta)
    dataset = from_cvat(tmp_path, text)
    assert dataset.records[0].mask is None and any("over: 1 polyline" in note for note in dataset.notes)
    assert read(tmp_path, annotations="annotations.xml", categories=["stain"]).records[0].mask is None


def test_a_cvat_export_as_it_comes(tmp_path: Path) -> None:
    """A zip with images/ and annotations.xml, the names in it without images/."""
    folder = images(tmp_path / "task", "images/a.png", "images/b.png")
    (folder / "annotations.xml").write_text(cvat('<box label="c" xtl="2" ytl="3" xbr="7" ybr="9"/>'))
    dataset = read(zip_of(folder, tmp_path / "task.zip"), annotations="annotations.xml")
    np.testing.assert_array_equal(mask_of(dataset, "a" if dataset.records[0].name == "a" else "images/a"), box())


# Clipping, fingerprints, run lengths


def test_what_reaches_outside_is_clipped_and_said(tmp_path: Path) -> None:
    over = [-5, 3, 7, 3, 7, 9, -5, 9]  # columns 0 to 6 remain
    touching = [15, 0, 20.5, 0, 20.5, 3, 15, 3]
    dataset = from_coco(tmp_path, coco([over], [touching]))
    np.testing.assert_array_equal(mask_of(dataset, "a"), box(3, 9, 0, 7) | box(0, 3, 15, 20))
    assert "annotations that reach outside their image, clipped: a.png (1)" in dataset.notes


def test_what_lies_wholly_outside_leaves_an_empty_mask(tmp_path: Path) -> None:
    dataset = from_coco(tmp_path, coco([[30, 3, 35, 3, 35, 9]]))
    assert mask_of(dataset, "a").sum() == 0 and dataset.records[0].mask is not None


@pytest.mark.parametrize(("left", "top", "pixels"), [(-1, 0, 6), (18, 10, 4), (18, 11, 2), (-3, 0, 0), (20, 0, 0)])
def test_a_bitmap_is_clipped_on_every_side(left: int, top: int, pixels: int) -> None:
    """3 x 3 pixels on 12 x 20."""
    source = ShapeSource.of("x", [Bitmap(np.ones((3, 3)), left, top)], H, W)
    assert source.area() == (source.pixels() > 0).sum() == pixels


def test_fingerprints_tell_masks_apart() -> None:
    square, circle = Polygon(((2, 2), (6, 2), (6, 6), (2, 6))), Ellipse(4, 4, 2, 2)
    prints = [
        ShapeSource.of("x", [square], H, W).fingerprint(),
        ShapeSource.of("x", [circle], H, W).fingerprint(),
        ShapeSource.of("x", [square], W, H).fingerprint(),
    ]
    assert len(set(prints)) == 3
    assert ShapeSource.of("y", [square, square], H, W).fingerprint() == prints[0]  # the union is the same


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 40)), elements=st.integers(0, 1)))
def test_compressed_runs_are_those_of_pycocotools(mask: np.ndarray) -> None:
    from pycocotools import mask as reference

    runs = runs_of(reference.encode(np.asfortranarray(mask))["counts"].decode())
    assert check_runs(runs, *mask.shape) == tuple(runs)
    flat = np.repeat(np.arange(len(runs)) % 2, runs)
    np.testing.assert_array_equal(flat.reshape(mask.shape[::-1]).T, mask)


# What cannot be


def broken_note(**change: Any) -> dict:
    return coco({"image_id": 1, "category_id": 1, "segmentation": [BOX]} | change)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (broken_note(image_id=7), r"coco\.json: annotation 1: image_id 7 is not among its images"),
        (broken_note(category_id=7), r"annotation 1: category_id 7 is not among its categories"),
        (broken_note(image_id=None), r"annotation 1: image_id is missing or no number or text"),
        (broken_note(segmentation="x"), r"segmentation is neither a list of polygons nor run lengths"),
        (broken_note(segmentation=[[1, 2, 3, 4]]), r"a polygon of 2 corners has no area"),
        (broken_note(segmentation=[[*BOX, 5]]), r"\[5\] is not 2 coordinates in pixels"),
        (broken_note(segmentation=[[*BOX, 1e9, 5]]), r"is not 2 coordinates in pixels"),
        (broken_note(segmentation=[[*BOX, float("nan"), 5]]), r"is not 2 coordinates in pixels"),
        (broken_note(segmentation=[], bbox=[2, 3, 0, 4]), r"a box without area"),
        (broken_note(segmentation=[], bbox=[2, 3]), r"\[2, 3\] is not 4 coordinates"),
        (broken_note(segmentation={"counts": [1]}), r"run lengths need size \[height, width\] and counts"),
        (broken_note(segmentation={"size": [4, 4], "counts": [16]}), r"run lengths of 4x4 for an image of 12x20"),
        (broken_note(segmentation={"size": [H, W], "counts": [5, 5]}), r"runs of 10 pixels in all for a mask of 12x20"),
        (broken_note(segmentation={"size": [H, W], "counts": [250, -10]}), r"a run of negative length"),
        (broken_note(segmentation={"size": [H, W], "counts": [0.5]}), r"0\.5 is no whole number"),
        (broken_note(segmentation={"size": [H, W], "counts": "zzzz"}), r"damaged run lengths"),
        (broken_note(segmentation={"size": [H, W], "counts": "P"}), r"run lengths cut short"),
        (broken_note(segmentation={"size": [0, W], "counts": [0]}), r"size=0 is no size in pixels"),
        (coco(images=[{"id": 1, "file_name": "a.png", "height": -1, "width": W}]), r"height=-1 is no size in pixels"),
        (coco(images=[{"id": 1, "file_name": "a.png", "height": 12.5, "width": W}]), r"height=12\.5 is no size in"),
        (coco(images=[{"id": 1, "file_name": "a.png", "height": 10**400, "width": W}]), r"height=10{59} is no size"),
        (coco(images=[{"id": 1}]), r"images\[0\]: file_name is missing"),
        (coco(images={"id": 1}), r"images is not a list of objects"),
        (coco(categories=[{"name": "x"}]), r"categories\[0\]: id is missing"),
        (coco(annotations=[3]), r"annotations is not a list of objects"),
        (
            coco([BOX], images=[{"id": i, "file_name": n} for i, n in ((1, "a.png"), (2, "b.png"), (1, "c.png"))]),
            r"coco\.json: images\[2\]: id 1 is that of \[0\] too, .*; give each an id of its own",
        ),
        (
            coco([BOX], categories=[{"id": 1, "name": "crack"}, {"id": 1, "name": "stain"}]),
            r"coco\.json: categories\[1\]: id 1 is that of \[0\] too",
        ),
        (coco([BOX], names=("gone.png",)), r"draws on gone\.png, which data\.root does not hold \(1 in all\)"),
        (coco([BOX], names=("a.png", "x/a.png")), r"draws on a\.png, as .*coco\.json does; keep one"),
        ({"pictures": []}, r"neither COCO \(images, annotations\), LabelMe \(shapes\) nor CVAT XML"),
    ],
)
def test_coco_that_cannot_be_used(tmp_path: Path, found: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_coco(tmp_path, found)


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        (labelme(shape("polygon", [1, 1], [2, 2])), r"a\.json: shapes\[0\]: a polygon of 2 corners has no area"),
        (labelme(shape("rectangle", [1, 1])), r"shapes\[0\]: 1 points where LabelMe writes two"),
        (labelme(shape("rectangle", [1, 1], [1, 5])), r"a box without area"),
        (labelme(shape("circle", [1, 1], [1, 1])), r"an ellipse without area"),
        (labelme(shape("polygon", [1, "x"], [2, 2], [3, 1])), r"\[1, 'x'\] is not 2 coordinates"),
        (labelme({"label": "x", "shape_type": "polygon"}), r"shapes\[0\]: has no points"),
        (labelme(shape("mask", [1, 1], [2, 2], mask="?")), r"its mask is not base64"),
        (labelme(shape("mask", [1, 1], [2, 2], mask="AAAA")), r"shapes\[0\]: does not decode as an image"),
        (labelme(imageHeight="tall"), r"a\.json: imageHeight=tall is no size in pixels"),
        ({"shapes": 3}, r"a\.json: shapes is not a list of objects"),
    ],
)
def test_labelme_that_cannot_be_used(tmp_path: Path, drawn: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_labelme(tmp_path, drawn)


BOMB = (
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><annotations><version>&b;</version></annotations>'
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations>", r"annotations\.xml: not valid XML .*export it again"),
        ("<data/>", r'begins with <data>; export from CVAT as "CVAT for images 1\.1" or as COCO'),
        ('<annotations><track id="0"/></annotations>', r"is in the format for videos; export from CVAT as"),
        (BOMB, r"annotations\.xml: holds a document type definition, which no CVAT export does"),
        (cvat('<box label="c" xtl="2"/>'), r"a\.png: <box> number 1: .* is not 5 coordinates"),
        (cvat('<box label="c" xtl="2" ytl="3" xbr="2" ybr="9"/>'), r"a box without area"),
        (cvat('<polygon label="c" points="1,1;2,2"/>'), r"<polygon> number 1: a polygon of 2 corners"),
        (cvat('<polygon label="c" points="1;2,2;3,3"/>'), r"\['1'\] is not 2 coordinates"),
        (cvat('<ellipse label="c" cx="1" cy="1" rx="0" ry="1"/>'), r"an ellipse without area"),
        (cvat('<mask label="c" rle="1,2" left="0" top="0" width="2" height="2"/>'), r"rle: runs of 3 pixels in all"),
        (cvat('<mask label="c" rle="x" left="0" top="0" width="2" height="2"/>'), r"rle: invalid literal"),
        (cvat('<box label="c" xtl="2" ytl="3" xbr="7" ybr="9"/>', "z.png"), r"draws on z\.png, which data\.root does"),
        (cvat("").replace('height="12"', 'height="x"'), r"a\.png: height=x is no size in pixels"),
    ],
)
def test_cvat_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_cvat(tmp_path, text)


@given(st.text(max_size=40))
def test_any_text_for_run_lengths_is_read_or_refused(text: str) -> None:
    found = json.dumps(broken_note(segmentation={"size": [H, W], "counts": text})).encode()
    try:
        parse(found, "x.json")
    except InputError as error:
        assert str(error).startswith("x.json: annotation 1: ")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["size", "counts", "id"]), inner),
    max_leaves=8,
)


@given(value=json_values, key=st.sampled_from(["id", "image_id", "category_id", "segmentation", "bbox"]))
def test_coco_of_any_content_is_read_or_refused(value: object, key: str) -> None:
    read_or_refused(broken_note(**{"segmentation": None, key: value}))


@given(value=json_values, key=st.sampled_from(["label", "shape_type", "points", "mask"]), kind=st.sampled_from(KINDS))
def test_labelme_of_any_content_is_read_or_refused(value: object, key: str, kind: str) -> None:
    read_or_refused(labelme(shape(kind, [1, 1], [4, 4]) | {key: value}))
    read_or_refused(labelme() | {"imageHeight": value, "shapes": value if key == "points" else []})


def read_or_refused(found: dict) -> None:
    try:
        for drawing in parse(json.dumps(found).encode(), "x.json").drawings:
            drawn = [one for _, one in drawing.shapes]
            assert not drawn or ShapeSource.of("x", drawn, H, W).pixels().shape == (H, W)
    except InputError as error:
        assert str(error).startswith("x.json: ")


def test_labelme_in_defect_folders(tmp_path: Path) -> None:
    """MVTec's folders without ground_truth/, the defects drawn in LabelMe."""
    images(tmp_path, "train/good/0.png", "test/crack/a.png", "test/crack/b.png")
    write_json(tmp_path / "test" / "crack" / "a.json", labelme(shape("rectangle", [2, 3], [7, 9])))
    with pytest.raises(InputError, match=r"test/crack/b\.png: in a defect folder, but without mask"):
        read(tmp_path)
    (tmp_path / "test" / "crack" / "b.png").unlink()
    np.testing.assert_array_equal(mask_of(read(tmp_path), "test/crack/a"), box())


def test_files_that_are_not_there_or_no_annotations(tmp_path: Path) -> None:
    images(tmp_path / "d", "a.png", "sub/b.png")
    for annotations, message in (
        ("gone.json", r"data\.annotations=gone\.json: no such file or folder, neither here nor in data\.root"),
        ("sub", r"data\.annotations=sub: holds no \.json file"),
        (str(tmp_path / "d"), r"holds no \.json file; name the annotation file itself"),
    ):
        with pytest.raises(InputError, match=message):
            read(tmp_path / "d", annotations=annotations)
    (tmp_path / "d" / "bad.json").write_text("{")
    with pytest.raises(InputError, match=r"bad\.json: not valid JSON"):
        read(tmp_path / "d", annotations="bad.json")


def test_categories_that_are_numbers(tmp_path: Path) -> None:
    found = coco([BOX], categories=[{"id": 1, "name": "1"}, {"id": 2, "name": "2"}])
    np.testing.assert_array_equal(mask_of(from_coco(tmp_path, found, categories=1), "a"), box())
    assert from_coco(tmp_path, found, categories=[2]).records[0].mask is None


def test_categories_that_do_not_occur(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.categories: dent not in the annotations, which have crack, stain"):
        from_coco(tmp_path, coco([BOX]), categories=["crack", "dent"])


def test_a_mask_and_an_annotation_of_one_image(tmp_path: Path) -> None:
    write_image(tmp_path / "a_mask.png", box() * 255)
    with pytest.raises(InputError, match=r"a\.png: both a mask and an annotation .*data\.annotations=none"):
        from_labelme(tmp_path, labelme(shape("rectangle", [0, 0], [1, 1])))
    np.testing.assert_array_equal(mask_of(read(tmp_path, annotations="none"), "a"), box())


def test_annotations_of_another_size(tmp_path: Path) -> None:
    dataset = from_labelme(tmp_path, labelme(shape("rectangle", [0, 0], [1, 1]), imageHeight=99))
    with pytest.raises(InputError, match=r"a\.json: a\.png: mask of 99x20 for an image of 12x20"):
        mask_of(dataset, "a")


def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(InputError, match=r"the package .pycocotools.: pip install .anomaly-seg\[annotations\]"):
        from_coco(tmp_path, coco([BOX]))
