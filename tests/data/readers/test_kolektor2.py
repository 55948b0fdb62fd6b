"""KolektorSDD2 in its published layout."""

from pathlib import Path

import numpy as np
import pytest
from support.helpers import box_mask, write_kolektor2, zip_of

from anomaly_seg.data.image_io import load_image
from anomaly_seg.data.readers import kolektor2
from anomaly_seg.data.readers.kolektor2 import read
from anomaly_seg.data.records import load_mask
from anomaly_seg.errors import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_kolektor2(tmp_path / "KolektorSDD2")


def test_the_published_layout(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = read(root)
    names = [f"test/{i}" for i in range(20000, 20006)] + [f"train/{i}" for i in range(10000, 10006)]
    assert [r.name for r in dataset.records] == [r.group for r in dataset.records] == names
    assert dataset.train_test and dataset.published_folds == {n: 0 if n.startswith("test") else 1 for n in names}
    assert dataset.notes == ["6 images in train/, of 2331 published", "6 images in test/, of 1004 published"]
    assert load_image(dataset.records[0].image, channels=3).shape == (26, 10, 3)
    masks = [load_mask(r, (26, 10))[0] for r in dataset.records]
    np.testing.assert_array_equal(masks[0], box_mask() // 255)
    assert [int(mask.sum()) for mask in masks] == [20, 0, 0, 20, 0, 0] * 2
    monkeypatch.setattr(kolektor2, "PUBLISHED", {"train": 6, "test": 6})
    assert read(root).notes == []


def test_a_zip_gives_the_same_records(root: Path, tmp_path: Path) -> None:
    for inside in ("", "KolektorSDD2/"):
        zipped = read(zip_of(root, tmp_path / "k.zip", inside))
        assert [r.image.fingerprint() for r in zipped.records] == [r.image.fingerprint() for r in read(root).records]


def test_what_is_not_there(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.root is not set: set data\.root to the folder that holds train and"):
        read(None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: holds no train/NNNNN\.png; set data\.root"):
        read(tmp_path / "empty")
    with pytest.raises(InputError, match=r"train: holds no image of the test part; copy it whole"):
        read(root / "train")
    (root / "train" / "10003_GT.png").unlink()
    with pytest.raises(InputError, match=r"10003\.png: image without its mask; restore 10003_GT\.png beside it"):
        read(root)
    (root / "train" / "10003.png").unlink()
    (root / "test" / "20001.png").unlink()
    with pytest.raises(InputError, match=r"20001_GT\.png: mask without its image"):
        read(root)
