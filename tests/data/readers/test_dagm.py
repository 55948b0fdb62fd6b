"""DAGM 2007 in its published layout, and its division into a training and a test part."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.helpers import box_mask, picture, write_dagm, write_image, zip_of

from anomaly_seg.data.cache import Preparation
from anomaly_seg.data.datamodule import FoldDataModule
from anomaly_seg.data.readers.dagm import read
from anomaly_seg.errors import InputError
from anomaly_seg.instantiate import instantiate


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_dagm(tmp_path / "DAGM")


def test_the_published_layout(root: Path) -> None:
    dataset = read(root)
    assert dataset.name == "dagm_class1" and dataset.train_test
    names = [f"{part}/{i:04d}" for part in ("Test", "Train") for i in range(1, 7)]
    assert [r.name for r in dataset.records] == [r.group for r in dataset.records] == names
    assert [r.name for r in dataset.records if r.mask] == ["Test/0001", "Test/0004", "Train/0001", "Train/0004"]
    np.testing.assert_array_equal(dataset.records[0].mask.pixels(), box_mask())  # type: ignore[union-attr]
    assert dataset.published_folds == {name: 0 if name.startswith("Test") else 1 for name in names}


def test_a_class_of_its_own(root: Path) -> None:
    write_image(root / "Class10" / "Train" / "0001.PNG", picture("x"))
    write_image(root / "Class10" / "Test" / "0002.PNG", picture("y"))
    assert [r.name for r in read(root, 10).records] == ["Test/0002", "Train/0001"]  # and not those of Class1


def test_a_zip_or_the_class_itself_gives_the_same(root: Path, tmp_path: Path) -> None:
    prints = [r.image.fingerprint() for r in read(root).records]
    for place in (root / "Class1", zip_of(root, tmp_path / "d.zip"), zip_of(root, tmp_path / "e.zip", "deep/er/")):
        assert [r.image.fingerprint() for r in read(place).records] == prints


def module(root: Path, cache: Path, fold: int = 0, **more: object) -> FoldDataModule:
    preparation = Preparation(26, 10)
    return FoldDataModule(read(root), preparation, fold, split="published", cache_dir=str(cache), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("folds", [2, 3])
def test_published_trains_on_the_training_part(root: Path, tmp_path: Path, folds: int) -> None:
    data = module(root, tmp_path, folds=folds)
    names = np.array([r.name for r in data.dataset.records])
    assert all(name.startswith("Train/") for name in names[data.split.train]) and len(data.split.train) == 6
    assert all(name.startswith("Test/") for name in names[data.split.test]) and len(data.split.test) == 6
    assert data.only_fold


def test_validation_is_a_piece_of_the_training_part(root: Path, tmp_path: Path) -> None:
    data = module(root, tmp_path, folds=3, evaluate_on="validation")
    names = [r.name for r in data.dataset.records]
    train, scored = ({names[i] for i in side} for side in (data.split.train, data.split.test))
    assert train | scored == {f"Train/{i:04d}" for i in range(1, 7)} and not train & scored
    assert data.counts()["train_defective"] == data.counts()["test_defective"] == 1


def test_the_other_folds_are_none_to_test(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"fold=1: with data\.split=published the published test part is fold 0"):
        module(root, tmp_path, fold=1, folds=3)


def test_a_run_saves_its_folds(root: Path, tmp_path: Path) -> None:
    data = module(root, tmp_path, folds=3, splits=str(tmp_path / "folds.json"))
    saved = json.loads((tmp_path / "folds.json").read_text())["fold_of"]
    assert [saved[r.group] for r in data.dataset.records] == data.folds.tolist()


@pytest.mark.parametrize("number", [0, 11, "1", None])
def test_a_class_that_is_none(root: Path, number: object) -> None:
    with pytest.raises(InputError, match=rf"data\.dagm_class={number}: use a whole number from 1 to 10"):
        instantiate(
            {"_target_": "anomaly_seg.data.readers.dagm.read", "root": str(root), "dagm_class": number}, "data.reader"
        )


def test_what_is_not_there(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.root is not set: set data\.root to the folder that holds Class1"):
        read(None)
    with pytest.raises(InputError, match=r"DAGM: holds no Class2/Train/NNNN\.PNG; set data\.root"):
        read(root, 2)
    (root / "Class1" / "Test" / "0004.PNG").unlink()
    with pytest.raises(InputError, match=r"0004_label\.PNG: mask without its image; restore"):
        read(root)
    only = write_image(tmp_path / "half" / "Class1" / "Train" / "0001.PNG", picture("x"))
    with pytest.raises(InputError, match=r"half: holds no image of the Test part; copy it whole"):
        read(only.parents[2])


def test_two_files_for_one_image(root: Path) -> None:
    write_image(root / "copy" / "Class1" / "Train" / "0001.PNG", picture("x"))
    with pytest.raises(InputError, match=r"a second file for Train/0001, beside .*; remove one"):
        read(root)
