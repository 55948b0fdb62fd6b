"""What `anomaly-seg check` says: counts, sizes, folds and duplicates as tables, and every problem with its remedy."""

import re
from pathlib import Path

import numpy as np
import pytest
from support.helpers import (
    BOX,
    PUBLISHED_ITEMS,
    ArraySource,
    box_mask,
    in_memory,
    picture,
    write_dagm,
    write_image,
    write_kolektor,
)

from anomaly_seg.data.annotations.rasterize import Polygon, ShapeSource
from anomaly_seg.data.check import Report, check
from anomaly_seg.data.preparation import Preparation
from anomaly_seg.data.readers import dagm, kolektor
from anomaly_seg.data.records import Dataset, Record
from anomaly_seg.errors import InputError


def report(cache: Path, dataset: Dataset, **more: object) -> Report:
    folds = {key: more.pop(key) for key in ("folds", "split", "split_seed", "splits") if key in more}
    place = more.pop("cache_dir", cache)
    return check(dataset, Preparation(**{"height": 26, "width": 10, "dilation": 5, **more}), place, **folds)


def row(text: str, start: str) -> list[str]:
    """The cells of the table row that begins so."""
    line = next(line for line in text.splitlines() if line.strip().startswith(start))
    return line.strip().removeprefix(start).split()


def unwrapped(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_a_sound_data_set(tmp_path: Path) -> None:
    found = report(tmp_path, in_memory(groups=6, views=3))
    assert found.problems == 0 and found.text.endswith("No problems.")
    assert found.text.startswith("memory: 18 images of 6 items, 6 defective (33.3%)")
    assert row(found.text, "height") == ["26", "26", "26"]
    assert row(found.text, "width") == ["10", "10", "10"]
    assert row(found.text, "images of a group") == ["3", "3", "3"]
    assert row(found.text, "defect, pixels") == ["20", "20", "20"]
    assert row(found.text, "defect, % of the image") == ["7.69", "7.69", "7.69"]  # 20 of 260
    assert row(found.text, "defect at 26x10, pixels") == ["20", "20", "20"]
    # A box of 4 x 5 grown by a diamond of radius 2: two rows of each side, and triangles of 1 pixel at the corners.
    assert row(found.text, "label at 26x10, D = 5, pixels") == ["60", "60", "60"]
    for fold in range(3):  # train, defective, test, defective, identical, near
        assert row(found.text, f"{fold}  ") == ["12", "4", "6", "2", "0", "0"]
    assert "Duplicates" not in found.text


def test_minimum_median_and_maximum(tmp_path: Path) -> None:
    records = []
    for i, (height, area) in enumerate([(20, 4), (24, 12), (40, 8), (28, 10)]):
        mask = np.zeros((height, 10), np.uint8)
        mask.ravel()[:area] = 255
        image = ArraySource(f"{i}", picture(f"{i}", height, 10))
        records.append(Record(f"{i}/0", f"{i}", image, ArraySource(f"{i} mask", mask)))
    text = report(tmp_path, Dataset("memory", records), dilation=0, resize="nearest").text
    assert row(text, "height") == ["20", "26", "40"]
    assert row(text, "defect, pixels") == ["4", "9", "12"]
    assert row(text, "defect, % of the image") == ["2", "2.79", "5"]  # 2, 5, 2, 3.57: median of 2 and 3.57
    assert "D = " not in text


def test_the_duplicates_of_kolektor(tmp_path: Path) -> None:
    folder = write_kolektor(tmp_path / "k", PUBLISHED_ITEMS)
    for view in range(2):
        (folder / "kos26" / f"Part{view}.jpg").write_bytes((folder / "kos01" / f"Part{view}.jpg").read_bytes())
    noise = np.random.default_rng(0).normal(0, 3, (26, 10))
    near = np.clip(kolektor.read(folder).records[74].image.pixels() + noise, 0, 255)  # kos38/Part0
    write_image(folder / "kos39" / "Part1.jpg", near.astype(np.uint8))
    mask = np.zeros((26, 10), np.uint8)
    mask[BOX] = 85
    write_image(folder / "kos01" / "Part0_label.bmp", mask)
    mask[0, 0] = 255
    write_image(folder / "kos26" / "Part0_label.bmp", mask)
    dataset = kolektor.read(folder)

    published = report(tmp_path / "c", dataset, split="published")
    assert row(published.text, "kos01") == ["kos26", "identical", "2", "1.00", "1,", "2", "apart"]
    assert row(published.text, "kos38")[:3] == ["kos39", "near", "1"]
    assert row(published.text, "2  ")[-2:] == ["2", "0"]
    text = unwrapped(published.text)
    assert "2 pairs of identical images lie on both sides of the split" in text and "data.split=grouped keeps" in text
    assert "1 pairs of near-identical images" in text and "data.split=grouped_near keeps them together" in text
    assert "identical images with different masks" in text and "kos01/Part0 and kos26/Part0" in text
    assert "masks hold values other than 0 and 255 (85 in kos01/Part0, kos26/Part0)" in text
    assert published.problems == 2

    grouped = report(tmp_path / "c", dataset)
    assert row(grouped.text, "kos01") == ["kos26", "identical", "2", "1.00", "1"]
    assert grouped.problems == 1
    assert report(tmp_path / "c", dataset, split="grouped_near").problems == 0


def test_images_that_are_all_alike(tmp_path: Path) -> None:
    """Twelve groups of one picture with a little noise: near duplicates join all, which grouped_near could not
    split."""
    dataset, scene = in_memory(groups=12), picture("one", 26, 10).astype(np.float64)
    for i, record in enumerate(dataset.records):
        noise = np.random.default_rng(i).normal(0, 3, scene.shape)
        record.image.array = np.clip(scene + noise, 0, 255).astype(np.uint8)  # type: ignore[attr-defined]
    found = report(tmp_path, dataset)
    assert found.problems == 0
    assert "near duplicates join 12 of 12 groups: images of one product in one place are alike" in unwrapped(found.text)
    refused = report(tmp_path, dataset, split="grouped_near")
    assert refused.problems == 1
    assert "near duplicates join 12 of 12 groups into one group; use data.split=grouped" in unwrapped(refused.text)


def test_of_many_duplicates_the_closest_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomaly_seg.data.duplicates.LISTED", 2)
    dataset = in_memory()
    for i in (1, 3, 5):  # one picture under three groups: three pairs
        dataset.records[i].image.array = dataset.records[1].image.array  # type: ignore[attr-defined]
    assert "show the same (the closest 2 of 3 pairs)" in report(tmp_path, dataset).text


def test_all_broken_files_are_listed(tmp_path: Path) -> None:
    folder = write_kolektor(tmp_path / "k")
    (folder / "kos01" / "Part0.jpg").write_bytes(b"broken")
    write_image(folder / "kos02" / "Part1.jpg", np.zeros((26, 10, 3), np.uint8))
    write_image(folder / "kos03" / "Part0_label.bmp", np.zeros((26, 11), np.uint8))
    found = report(tmp_path / "c", kolektor.read(folder))
    text = unwrapped(found.text)
    assert found.problems == 3
    for message in ("Part0.jpg: does not decode", "Part1.jpg: RGB, 8 bit", "Part0_label.bmp: mask of 26x11"):
        assert message in text


def test_defects_that_vanish_when_resized(tmp_path: Path) -> None:
    found = report(tmp_path, in_memory(), height=6, width=4, dilation=0)
    text = unwrapped(found.text)
    # Pixels of 13/3 x 5/2: the box of 4 x 5 covers most of two at most.
    assert "defects of fewer than 4 pixels at 6x4: p0/v0 (2), p1/v0 (2)" in text and "use a larger scale" in text
    assert found.problems == 1


def test_a_split_that_cannot_be(tmp_path: Path) -> None:
    found = report(tmp_path, in_memory(), folds=7)
    assert found.problems == 1 and "Folds" not in found.text
    assert "fold 6 of 7 holds no image: use fewer folds (data.folds)" in unwrapped(found.text)


def test_no_defects(tmp_path: Path) -> None:
    dataset = in_memory()
    good = [Record(r.name, r.group, r.image, None) for r in dataset.records]
    text = unwrapped(report(tmp_path, Dataset("memory", good)).text)
    assert "0 defective (0.0%)" in text and "no image is defective" in text


def test_flat_images_copies_and_single_views(tmp_path: Path) -> None:
    dataset = in_memory(groups=9)
    dataset.records[1].image.array = np.full((26, 10), 7, np.uint8)
    dataset.records[5].image.array = dataset.records[4].image.array
    del dataset.records[17]
    found = report(tmp_path, dataset)
    text = unwrapped(found.text)
    assert "images of one grey value: p0/v1" in text
    assert "a group's image twice: p2/v1 = p2/v0" in text
    assert "one counts as defective and one as good: p2/v0 (defective) = p2/v1 (good)" in text
    assert "only one image, where other groups have more: p8" in text
    assert "groups have 2 images each, but p8 has 1" in text
    assert found.problems == 4


def test_one_image_an_item_is_no_problem(tmp_path: Path) -> None:
    assert report(tmp_path, in_memory(views=1)).problems == 0


def test_long_lists_are_cut(tmp_path: Path) -> None:
    text = unwrapped(report(tmp_path, in_memory(groups=20), height=6, width=4, dilation=0).text)
    assert "p5/v0 (2) and 14 more; use a larger scale" in text


def with_mask(dataset: Dataset, index: int, mask: object) -> None:
    r = dataset.records[index]
    dataset.records[index] = Record(r.name, r.group, r.image, mask)  # type: ignore[arg-type]


def test_masks_without_a_defect_pixel(tmp_path: Path) -> None:
    dataset, black = in_memory(), np.zeros((26, 10), np.uint8)
    with_mask(dataset, 1, ArraySource("black", black))
    found = report(tmp_path, dataset)
    assert found.problems == 1
    assert "without a single defect pixel, taken as free of defects: p0/v1; draw the defect" in unwrapped(found.text)


def test_black_masks_are_how_some_data_sets_say_good(tmp_path: Path) -> None:
    dataset = in_memory()
    for index in range(1, 12, 2):
        with_mask(dataset, index, ArraySource("black", np.zeros((26, 10), np.uint8)))
    assert report(tmp_path, dataset).problems == 0
    outside = ShapeSource.of("drawn", [Polygon(((50, 50), (60, 50), (60, 60)))], 26, 10)
    with_mask(dataset, 1, outside)  # but nobody draws nothing
    text = unwrapped(report(tmp_path, dataset).text)
    assert "without a single defect pixel, taken as free of defects: p0/v1;" in text


def test_masks_that_cover_most_of_the_image(tmp_path: Path) -> None:
    dataset = in_memory()
    mask = np.zeros((26, 10), np.uint8)
    mask[:13] = 255  # half: not yet
    with_mask(dataset, 0, ArraySource("half", mask))
    assert report(tmp_path, dataset).problems == 0
    with_mask(dataset, 2, ArraySource("more", np.roll(mask, 1, axis=0) | mask))  # 14 of 26 rows
    found = report(tmp_path, dataset)
    assert found.problems == 1
    assert "masks that cover most of the image: p1/v0 (54%); are they inverted" in unwrapped(found.text)


def test_separate_defects_smaller_than_a_pixel(tmp_path: Path) -> None:
    """Half the height and width: a pixel is 4 of the old ones. Two specks, of 1 and 3 pixels, beside the box."""
    dataset = in_memory(height=52, width=20)
    mask = dataset.records[0].mask.pixels().copy()  # type: ignore[union-attr]
    mask[30, 10], mask[40, 1:4] = 255, 255
    with_mask(dataset, 0, ArraySource("specks", mask))
    text = unwrapped(report(tmp_path, dataset, dilation=0).text)
    assert "2 of 3 separate defects in 1 images are smaller than a pixel at 26x10 and vanish: p0/v0 (2 of 3);" in text
    assert "separate defects" not in report(tmp_path, dataset, dilation=0, height=52, width=20).text
    tiles = report(tmp_path, dataset, dilation=0, fit="tile", height=32, width=32, overlap=16)
    assert "separate defects" not in tiles.text
    assert row(tiles.text, "defect at 32x32, pixels") == ["20", "20", "24"]  # tiles overlap, but no pixel counts twice


def test_pictures_that_are_stretched(tmp_path: Path) -> None:
    """26 x 10 becomes 26 x 20: twice as wide. Padding keeps the aspect."""
    scale = {"height": 26, "width": 20}
    text = unwrapped(report(tmp_path, in_memory(), **scale).text)
    assert "images of about 26x10 become 26x20, 2.0 times wider for their height; set scale.height" in text
    assert "for their height" not in report(tmp_path, in_memory(), **scale, fit="pad").text


def test_colour_that_is_thrown_away(tmp_path: Path) -> None:
    dataset = in_memory()
    for record in dataset.records:
        record.image.array = np.dstack([record.image.array] * 3)
    text = unwrapped(report(tmp_path, dataset, convert="grey8").text)
    assert f"{len(dataset.records)} colour images become grey; data.channels=3 keeps the colour" in text
    assert "become grey" not in report(tmp_path, dataset, channels=3).text


def test_a_single_colour_image_that_is_not_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a cache that an earlier version wrote, which knows nothing of colour and stays as it is."""
    dataset = in_memory()
    dataset.records[7].image.array = np.dstack([dataset.records[7].image.array] * 3)
    said = "1 colour image becomes grey; data.channels=3 keeps the colour: p3/v1"
    assert said in unwrapped(report(tmp_path, dataset, convert="grey8").text)
    small = next((tmp_path / "memory").glob("images-*.npz"))
    with np.load(small) as file:
        np.savez(small, **{key: value for key, value in file.items() if key != "colour"})
    old = small.read_bytes()
    assert said in unwrapped(report(tmp_path, dataset, convert="grey8").text)
    assert small.read_bytes() == old


def test_identical_images_of_which_one_is_good(tmp_path: Path) -> None:
    """kos01/Part0 is defective, and its bytes are those of kos02/Part1, which is good; kos03/Part0 is defective too."""
    folder = write_kolektor(tmp_path / "k")
    for other in ("kos02/Part1.jpg", "kos03/Part0.jpg"):
        (folder / other).write_bytes((folder / "kos01" / "Part0.jpg").read_bytes())
    found = report(tmp_path / "c", kolektor.read(folder), folds=2, split="published")
    text = unwrapped(found.text)
    assert (
        "identical images of which one counts as defective and one as good: kos01/Part0 (defective) = kos02/Part1 "
        "(good), kos03/Part0 (defective) = kos02/Part1 (good); give both the same mask, or remove one of each"
    ) in text[text.index("Problems") :]
    assert "identical images with different masks" not in text


def test_few_defects_in_a_fold(tmp_path: Path) -> None:
    text = unwrapped(report(tmp_path, in_memory(groups=6)).text)
    assert "few defective test images (fold 0 has 2, fold 1 has 2, fold 2 has 2): a single one moves" in text
    assert "recall by 50 points" in text
    assert "few defective" not in report(tmp_path, in_memory(groups=15)).text


def test_folds_from_a_file(tmp_path: Path) -> None:
    file, dataset = tmp_path / "folds.json", in_memory()
    assert f"Folds, data.split=grouped, saved to {file}" in report(tmp_path, dataset, splits=str(file)).text
    assert f"Folds, data.split=grouped, from {file}" in report(tmp_path, dataset, splits=str(file)).text
    found = report(tmp_path, in_memory(groups=7), splits=str(file))
    assert found.problems == 1 and "the data have changed since, groups: 1 new (p6)" in unwrapped(found.text)


def test_duplicates_apart_in_saved_folds_need_new_ones(tmp_path: Path) -> None:
    file, dataset = tmp_path / "folds.json", in_memory()
    report(tmp_path, dataset, splits=str(file), split="grouped")
    dataset.records[3].image.array = dataset.records[1].image.array  # p1/v1 = p0/v1, found after the folds were made
    found = report(tmp_path, dataset, splits=str(file))
    text = unwrapped(found.text)
    assert found.problems == 1 and f"data.split=grouped keeps them together, once {file} is deleted" in text


def test_a_published_division_has_one_row(tmp_path: Path) -> None:
    dataset = dagm.read(write_dagm(tmp_path / "d"))
    text = report(tmp_path, dataset, split="published").text
    assert row(text, "0  ") == ["6", "2", "6", "2", "0", "0"]
    assert not any(line.strip().startswith("1  ") for line in text.splitlines())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dilation": 4}, "dilation=4"),
        ({"structuring_element": "disk"}, r"data\.structuring_element=disk"),
    ],
)
def test_settings_out_of_range_are_errors(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        report(tmp_path, in_memory(), **change)


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"data\.cache_dir: cannot write"):
        report(tmp_path / "file", in_memory())


def ramp_mask(height: int = 26, width: int = 10) -> np.ndarray:
    """A box of 20 pixels of 255 below a row of 10 pixels of which 6 are below 128."""
    mask = box_mask(height, width)
    mask[4] = [20, 40, 60, 80, 100, 120, 140, 160, 180, 200]
    return mask


class TestGreyMasks:
    def grey(self, *masks: np.ndarray) -> Dataset:
        dataset = in_memory(groups=6)
        for record, mask in zip(dataset.records[::2], masks, strict=False):
            record.mask.array = mask  # type: ignore[union-attr]
        return dataset

    def test_a_threshold_is_proposed_where_edges_are_grey(self, tmp_path: Path) -> None:
        dataset = self.grey(ramp_mask(), ramp_mask(), ramp_mask() // 3)  # of the last one, at most 85, nothing is left
        text = unwrapped(report(tmp_path, dataset).text)
        # Of 30 pixels each 6, 6 and 30 are below 128: 42 of 90. The median of a fifth, a fifth and all is a fifth.
        assert (
            "3 masks with grey edges: 46.7% of their pixels above 0 are below 128 (20.0% in the median mask); "
            "data.mask_threshold=128 takes only the brighter half of an edge, and leaves nothing of p2/v0"
        ) in text

    def test_nothing_is_proposed_for_a_few_values_or_for_faint_masks(self, tmp_path: Path) -> None:
        kinds, faint = box_mask(), ramp_mask() // 3
        kinds[4] = [50, 100, 150, 200, 250] * 2
        for masks in ((kinds,) * 3, (faint, faint, ramp_mask())):
            text = unwrapped(report(tmp_path, self.grey(*masks)).text)
            assert "masks hold values other than 0 and 255" in text and "grey edges" not in text

    def test_a_threshold_that_leaves_nothing_of_a_mask_is_a_problem(self, tmp_path: Path) -> None:
        dataset = self.grey(ramp_mask(), ramp_mask() // 3)
        found = report(tmp_path, dataset, mask_threshold=128)
        text = unwrapped(found.text)
        assert found.problems == 1 and "grey edges" not in text and "12 images of 6 items, 5 defective" in text
        assert (
            "masks without a value from data.mask_threshold=128 on, taken as free of defects: p1/v0; lower it, or draw "
            "these anew"
        ) in text
        assert row(found.text, "defect, pixels") == ["20", "20", "24"]
