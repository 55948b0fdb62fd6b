"""Field cases: inputs of the kinds that users of other tools reported, each read right, refused, or named."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.field_sets import BOX4, DEFECT, FieldSet, bar, coco_of, cvat_of, encoded, labelme, listen, shape
from support.helpers import picture, write_image

from anomaly_seg.data.check import TrainingPlan, check
from anomaly_seg.data.datamodule import FoldDataModule
from anomaly_seg.data.preparation import Preparation
from anomaly_seg.data.readers.folder import read
from anomaly_seg.errors import InputError
from anomaly_seg.inference.find_images import PassedOver, find_images

SOUND = (8, 4)
"""Images, and how many of them are defective."""


@pytest.mark.parametrize("how", ["beside", "parallel", "mvtec", "jpeg", "labelme"])
def test_sound_data(tmp_path: Path, cache: Path, how: str) -> None:
    """What follows means nothing unless these are in order."""
    heard = listen(FieldSet(tmp_path / "d", how).write().root, cache)
    assert (len(heard.pixels), heard.defective, heard.problems) == (*SOUND, 0), heard.text
    assert sorted(heard.pixels.values()) == [0] * 4 + [DEFECT] * 4


@pytest.mark.parametrize("what", ["mask", "image", "annotation", "folder"])
def test_links_to_nowhere(tmp_path: Path, cache: Path, what: str) -> None:
    data = FieldSet(tmp_path / "d", "labelme" if what == "annotation" else "beside").write()
    path = {"image": data.image(0), "folder": data.root / "more"}.get(what, data.label(0))
    path.unlink(missing_ok=True)
    path.symlink_to("../store/objects/x")
    heard = listen(data.root, cache)
    assert heard.refused and heard.names(path.name, "a link that leads nowhere (../store/objects/x)")


def test_a_folder_that_cannot_be_entered(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, who enters everything; so the system's answer is replaced."""
    import os

    data, scandir = FieldSet(tmp_path / "d", "beside").write(), os.scandir
    (data.root / "locked").mkdir()

    def closed(path: Any) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    heard = listen(data.root, cache)
    assert heard.refused and heard.names("locked: cannot be entered (Permission denied)")


# Masks


def test_runs_predictions_and_reports_below_the_root(tmp_path: Path, cache: Path) -> None:
    data = FieldSet(tmp_path / "d", "beside").write()
    for path in (
        "runs/train/folder/one_stage/D9/fold0/seed0/pictures/part00.png",
        "verdicts/overlays/part01_0123456789ab.png",
        "figures/scores.png",
    ):
        write_image(data.root / path, picture(path, 32, 32))
    for path in (
        "runs/train/folder/one_stage/D9/fold0/seed0/config.yaml",
        "runs/train/folder/one_stage/D9/fold0/seed0/scores.csv",
        "verdicts/predictions.json",
        "verdicts/predictions.jsonl",
        "report.html",
        "report.md",
        f"cache/folder/images-{'0' * 20}.npz",
        "model.onnx",
    ):
        (data.root / path).parent.mkdir(parents=True, exist_ok=True)
        (data.root / path).write_text("x")
    heard = listen(data.root, cache)
    assert (len(heard.pixels), heard.defective, heard.problems) == (*SOUND, 0)
    assert heard.names("left out, for anomaly-seg wrote it", "figures (report)", "model.onnx (model)")
    kept, own = find_images([str(data.root)], tmp_path / "none"), PassedOver()
    assert len(kept) == 12 and find_images([str(data.root)], tmp_path / "none", own) == kept
    assert sum(kind == "run" for kind in own.outputs.values()) == 3  # its settings, scores and pictures
    with pytest.raises(InputError, match=r"overlays: pictures that anomaly-seg made \(predictions\)"):
        find_images([str(data.root / "verdicts" / "overlays")], tmp_path / "none")
    globbed = find_images([f"{data.root}/**/*.png"], tmp_path / "none")
    assert sorted(globbed) == sorted(kept)


@pytest.mark.parametrize(("colour", "opaque"), [(0, 255), (255, 255), (90, 128)])
def test_strokes_on_transparent_ground(tmp_path: Path, cache: Path, colour: int, opaque: int) -> None:
    data, mask = FieldSet(tmp_path / "d", "beside").write(), bar()
    alpha = mask // 255 * np.uint8(opaque)
    data.label(0).write_bytes(encoded(np.dstack([np.full_like(mask, colour)] * 3 + [alpha])))
    heard = listen(data.root, cache)
    assert heard.pixels["part00"] == DEFECT, heard.text


def test_an_alpha_channel_that_says_something_else(tmp_path: Path, cache: Path) -> None:
    """Strokes in two colours, of which one is black: what is drawn cannot be told."""
    data, mask = FieldSet(tmp_path / "d", "beside").write(), bar()
    colours = np.dstack([np.where(np.arange(32) < 16, 255, 0) * np.ones((32, 1))] * 3).astype(np.uint8)
    data.label(0).write_bytes(encoded(np.dstack([colours, mask])))
    assert listen(data.root, cache).complains("part00_mask.png: a mask with an alpha channel")


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("how", ["beside", "parallel", "mvtec"])
def test_jpeg_data_under_another_name(tmp_path: Path, cache: Path, how: str, quality: int, suffix: str) -> None:
    data = FieldSet(tmp_path / "d", how).write()
    data.label(0).unlink()
    data.label(0).with_suffix(suffix).write_bytes(encoded(bar(), ".jpg", cv2.IMWRITE_JPEG_QUALITY, quality))
    heard = listen(data.root, cache)
    near = [abs(count - DEFECT) <= 8 for name, count in heard.pixels.items() if name.endswith("part00")]
    assert near == [True] or heard.complains("part00"), heard.text


@pytest.mark.parametrize("level", [1, 40, 100])
def test_a_dim_jpeg_mask_is_refused(tmp_path: Path, cache: Path, level: int) -> None:
    data = FieldSet(tmp_path / "d", "beside").write()
    data.label(0).write_bytes(encoded(bar() // 255 * np.uint8(level), ".jpg"))
    assert listen(data.root, cache).complains("part00_mask.png: a mask in a format that changes values")


def tiff_16(pixels: np.ndarray, white_is_zero: bool) -> bytes:
    """A TIFF of 16 bits by hand, with nine tags."""
    height, width = pixels.shape
    data = pixels.astype("<u2").tobytes()
    tags = {256: width, 257: height, 258: 16, 259: 1, 262: 0 if white_is_zero else 1, 273: 8, 277: 1, 278: height}
    rows = [np.array([tag, 3], "<u2").tobytes() + np.array([1, value], "<u4").tobytes() for tag, value in tags.items()]
    rows.append(np.array([279, 4], "<u2").tobytes() + np.array([1, len(data)], "<u4").tobytes())
    directory = np.array([len(rows)], "<u2").tobytes() + b"".join(rows) + bytes(4)
    return b"II*\0" + np.array([8 + len(data)], "<u4").tobytes() + data + directory


@pytest.mark.parametrize(("white_is_zero", "ground", "defect"), [(True, 65535, 0), (False, 0, 65535), (False, 0, 1)])
def test_a_tiff_of_16_bits(tmp_path: Path, cache: Path, white_is_zero: bool, ground: int, defect: int) -> None:
    data = FieldSet(tmp_path / "d", "beside").write()
    data.label(0).unlink()
    stored = np.where(bar() > 0, defect, ground)
    data.label(0).with_suffix(".tif").write_bytes(tiff_16(stored, white_is_zero))
    assert listen(data.root, cache).pixels["part00"] == DEFECT


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("colours", [[0, 0, 0, 0, 0, 0], [0, 0, 0, 128, 0, 0]])
def test_palettes(tmp_path: Path, cache: Path, kind: str, colours: list[int]) -> None:
    from PIL import Image

    data = FieldSet(tmp_path / "d", "beside").write()
    data.label(0).unlink()
    mask = Image.fromarray((bar() > 0).astype(np.uint8), "P")
    mask.putpalette(colours + [0] * (768 - len(colours)))
    mask.save(data.label(0).with_suffix(f".{kind.lower()}"), kind)
    heard = listen(data.root, cache)
    assert heard.pixels["part00"] == DEFECT if any(colours) else heard.complains("part00_mask")


@pytest.mark.parametrize(
    "names",
    [
        ("_mask", "_mask2"),
        ("_mask", "_mask_1"),
        ("_mask_1", "_mask_2"),
        ("_mask", "_mask (2)"),
        ("_mask", "_mask-b"),
        ("_label-a", "_label-b"),
    ],
)
def test_numbered_masks_are_joined(tmp_path: Path, cache: Path, names: tuple[str, str]) -> None:
    """A bar of 8 rows and its mirror image, rows 14 to 21: 12 rows of 16."""
    data = FieldSet(tmp_path / "d", "beside").write()
    data.label(0).unlink()
    for name, mask in zip(names, (bar(), bar()[::-1]), strict=True):
        write_image(data.root / f"part00{name}.png", mask)
    heard = listen(data.root, cache)
    assert (len(heard.pixels), heard.defective, heard.pixels["part00"]) == (*SOUND, 12 * 16), heard.text
    assert heard.names("several masks of one image, joined: part00.png")


def test_numbered_masks_in_folders(tmp_path: Path, cache: Path) -> None:
    data = FieldSet(tmp_path / "d", "parallel").write()
    write_image(data.root / "masks" / "part00_1.png", bar()[::-1])
    assert listen(data.root, cache).pixels["images/part00"] == 12 * 16
    loco = FieldSet(tmp_path / "e", "mvtec").write()
    loco.label(0).unlink()
    for i, mask in enumerate((bar(), bar()[::-1])):
        write_image(loco.root / "ground_truth" / "crack" / "part00" / f"00{i}.png", mask)
    assert listen(loco.root, cache).pixels["test/crack/part00"] == 12 * 16


@pytest.mark.parametrize("extra", ["part00_defect", "part00_mask_old", "part04x", "masks2/part00"])
def test_further_masks_under_other_names(tmp_path: Path, cache: Path, extra: str) -> None:
    """What looks like a mask is no good image: a problem for `check`, and `train` refuses with the same words."""
    data = FieldSet(tmp_path / "d", "beside").write()
    write_image(data.root / f"{extra}.png", bar()[::-1])
    heard = listen(data.root, cache)
    assert heard.complains(extra), heard.text
    with pytest.raises(InputError) as error:
        FoldDataModule(read(data.root), Preparation(32, 32, convert="grey8"), 0, 2, cache_dir=str(cache))
    assert " ".join(str(error.value).split()).removeprefix(f"{data.root}: ") in heard.text


# Annotations


SPOILT: dict[str, Any] = {
    "empty": lambda data: b"",
    "blanks": lambda data: b" \n ",
    "zeros": lambda data: bytes(len(data)),
    "cut short": lambda data: data[:40],
    "nothing": lambda data: b"{}",
    "null": lambda data: b"null",
    "latin-1": lambda data: data.replace(b"crack", "Riß".encode("latin-1")),
    "no shapes": lambda data: data.replace(b'"shapes"', b'"Shapes"'),
    "another format": lambda data: b'{"objects": [1]}',
}


@pytest.mark.parametrize("how", SPOILT)
def test_damaged_labelme_files(tmp_path: Path, cache: Path, how: str) -> None:
    data = FieldSet(tmp_path / "d", "labelme").write()
    data.label(0).write_bytes(SPOILT[how](data.label(0).read_bytes()))
    assert listen(data.root, cache).complains("part00.json")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_labelme_files_in_other_encodings(tmp_path: Path, cache: Path, encoding: str) -> None:
    data = FieldSet(tmp_path / "d", "labelme").write()
    data.label(0).write_bytes(data.label(0).read_text().encode(encoding))
    assert listen(data.root, cache).pixels["part00"] == DEFECT


@pytest.mark.parametrize(
    ("kind", "points", "drawn"),
    [
        ("rotation", BOX4, True),
        ("quadrilateral", BOX4, True),
        ("rectangle", BOX4, True),
        ("linestrip", BOX4, False),
        ("line", BOX4[:2], False),
        ("point", BOX4[:1], False),
        ("cuboid", BOX4 + BOX4, False),
    ],
)
def test_shapes_under_other_names(tmp_path: Path, cache: Path, kind: str, points: list, drawn: bool) -> None:
    data = FieldSet(tmp_path / "d", "labelme").write()
    data.label(0).write_text(json.dumps(labelme([shape(kind, points)], "part00.png")))
    heard = listen(data.root, cache)
    if drawn:
        assert heard.pixels["part00"] == DEFECT
        return
    assert heard.complains("only annotations without an area that is known", f"part00.png ({kind})")
    with pytest.raises(InputError, match=r"part00\.png"):
        FoldDataModule(read(data.root), Preparation(32, 32), 0, 2, cache_dir=str(cache))


def test_foreign_annotations_beside_images(tmp_path: Path, cache: Path) -> None:
    for name, text in (
        ("part00.txt", "0 0.5 0.5 0.2 0.1\n"),
        ("part00.xml", "<annotation><object/></annotation>"),
        ("part00.json", '{"objects": [{"points": 3}]}'),
        ("part00_mask.npy", "\x93NUMPY"),
    ):
        data = FieldSet(tmp_path / name, "beside").write()
        data.label(0).unlink()
        (data.root / name).write_text(text)
        assert listen(data.root, cache).complains(name, "that is not read")
        if not name.endswith("npy"):
            assert listen(data.root, cache, annotations="none").problems == 0


@pytest.mark.parametrize(
    ("kind", "problem"), [("tag", False), ("polyline", True), ("cuboid", True), ("skeleton", True)]
)
def test_cvat_without_area(tmp_path: Path, cache: Path, kind: str, problem: bool) -> None:
    data = FieldSet(tmp_path / "d", "none").write()
    (data.root / "notes.xml").write_text(cvat_of(data.stems, f'<{kind} label="crack"/>'))
    heard = listen(data.root, cache, annotations="notes.xml")
    assert heard.names("part00.png (crack)" if not problem else "part00.png (") and heard.defective == 3
    assert (heard.problems > 0) == problem


@pytest.mark.parametrize(
    "first",
    [
        {"image_id": "0"},
        {"image_id": 0.0, "category_id": "1"},
        {"segmentation": [v for p in BOX4 for v in p]},
        {"segmentation": BOX4},
        {"segmentation": [BOX4]},
        {"segmentation": [[]], "bbox": [10, 10, 16, 8]},
        {"segmentation": None, "bbox": ["10", "10", "16", "8"]},
    ],
)
def test_coco_dialects(tmp_path: Path, cache: Path, first: dict) -> None:
    data = FieldSet(tmp_path / "d", "none").write()
    (data.root / "notes.json").write_text(json.dumps(coco_of(data.stems, first)))
    heard = listen(data.root, cache, annotations="notes.json")
    assert heard.pixels["part00"] == DEFECT and heard.problems == 0


def test_coco_without_categories_and_without_area(tmp_path: Path, cache: Path) -> None:
    data = FieldSet(tmp_path / "d", "none").write()
    found = coco_of(data.stems, {})
    del found["categories"]
    (data.root / "notes.json").write_text(json.dumps(found))
    assert listen(data.root, cache, annotations="notes.json", categories=1).defective == 4
    found["annotations"][0]["segmentation"] = []
    (data.root / "notes.json").write_text(json.dumps(found))
    assert listen(data.root, cache, annotations="notes.json").complains("part00.png (annotation without area)")


@pytest.mark.parametrize("label", ["Crack", "crak", "dirt"])
def test_labels_left_out_are_named(tmp_path: Path, cache: Path, label: str) -> None:
    data = FieldSet(tmp_path / "d", "labelme").write()
    data.label(0).write_text(json.dumps(labelme([shape(label=label)], "part00.png")))
    heard = listen(data.root, cache, categories=["crack"])
    assert heard.names(f"labels that data.categories leaves out: {label} (1 image)", "part00.png")


def test_labels_with_blanks_and_of_another_case(tmp_path: Path, cache: Path) -> None:
    data = FieldSet(tmp_path / "d", "labelme").write()
    for i, label in enumerate((" crack", "crack ", "\u00a0crack\t", "crack")):
        data.label(i).write_text(json.dumps(labelme([shape(label=label)], f"part0{i}.png")))
    assert listen(data.root, cache, categories=["Crack "]).defective == 4


# Names


@pytest.mark.parametrize("blank", [" ", "\t", "\u00a0", "\u200b"])
def test_groups_with_blanks(tmp_path: Path, blank: str) -> None:
    data = FieldSet(tmp_path / "d", "beside").write()
    groups = ["a", f"a{blank}", f"{blank}b", "b", "c", "c", "d", "d"]
    rows = [f"{stem}.png,{group}" for stem, group in zip(data.stems, groups, strict=True)]
    (tmp_path / "groups.csv").write_text("\n".join(["image , Group", *rows]), encoding="utf-8")
    dataset = read(data.root, groups=str(tmp_path / "groups.csv"))
    assert [r.group for r in dataset.records] == list("aabbccdd")


def test_names_that_differ_in_case(tmp_path: Path, cache: Path) -> None:
    for how in ("beside", "parallel", "mvtec", "jpeg", "labelme"):
        data = FieldSet(tmp_path / how, how).write()
        label = data.label(0)
        label.rename(label.with_name(label.name.replace("part00", "Part00")))
        assert listen(data.root, cache).defective == 4, how
    write_image(data.root / "PART00.png", picture("other", 32, 32))
    assert listen(data.root, cache).complains("Part00.json") or listen(data.root, cache).defective == 4
    both = FieldSet(tmp_path / "both", "beside").write()
    both.label(0).rename(both.root / "PART00_mask.png")
    write_image(both.root / "Part00.png", picture("other", 32, 32))
    assert listen(both.root, cache).complains("several images claim the mask PART00_mask.png")


# `check` and `train`


@pytest.mark.parametrize("sampler", ["uniform", "alternating", "balanced"])
@pytest.mark.parametrize("defective", [4, 8])
def test_check_and_train_agree(tmp_path: Path, cache: Path, sampler: str, defective: int) -> None:
    """Every image is defective: only the uniform sampler can train on that."""
    data = FieldSet(tmp_path / "d", "beside").write()
    for stem in data.stems[:defective]:
        write_image(data.root / f"{stem}_mask.png", bar())
    dataset, preparation = read(data.root), Preparation(32, 32)
    said = check(dataset, preparation, cache, folds=2, plan=TrainingPlan(sampler=sampler))
    try:
        FoldDataModule(dataset, preparation, 0, 2, sampler=sampler, cache_dir=str(cache))
        refused = ""
    except InputError as error:
        refused = str(error)
    assert bool(said.problems) == bool(refused) == (defective == 8 and sampler != "uniform")
    assert refused in " ".join(said.text.split())


@pytest.mark.parametrize("settings", [{"fold": 2}, {"fold": -1}, {"evaluate_on": "validation"}, {"sampler": "sorted"}])
def test_check_says_what_train_says_about_settings(tmp_path: Path, cache: Path, settings: dict) -> None:
    dataset, preparation = read(FieldSet(tmp_path / "d", "beside").write().root), Preparation(32, 32)
    with pytest.raises(InputError) as error:
        FoldDataModule(dataset, preparation, **{"fold": 0, "folds": 2, "cache_dir": str(cache)} | settings)  # type: ignore[arg-type]
    said = check(dataset, preparation, cache, folds=2, plan=TrainingPlan(**settings))
    assert said.problems and str(error.value) in " ".join(said.text.split())
