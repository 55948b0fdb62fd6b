"""The DataModule: splits, batches, and a data order that a resumed run repeats."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from support.helpers import PUBLISHED_ITEMS, in_memory, write_kolektor, zip_of

from anomaly_seg.data import datamodule
from anomaly_seg.data.cache import Preparation
from anomaly_seg.data.datamodule import Batch, FoldDataModule, to_float
from anomaly_seg.data.dilation import dilate
from anomaly_seg.data.readers import kolektor
from anomaly_seg.data.records import Dataset
from anomaly_seg.errors import InputError

HOW = Preparation(26, 10, dilation=5)


@pytest.fixture
def data(tmp_path: Path) -> FoldDataModule:
    return make(tmp_path)


def make(cache: Path, dataset: Dataset | None = None, fold: int = 0, **more: object) -> FoldDataModule:
    return FoldDataModule(dataset or in_memory(), HOW, fold, cache_dir=str(cache), **more)


def make_tiles(cache: Path, **more: object) -> FoldDataModule:
    """Twelve images of 40x60 in six tiles each; the defect of every other image lies in the first tile alone."""
    preparation = Preparation(32, 32, dilation=5, fit="tile", overlap=16)
    return FoldDataModule(in_memory(height=40, width=60), preparation, 0, cache_dir=str(cache), **more)


def order(data: FoldDataModule, epochs: range) -> list[list[tuple[int, int, int]]]:
    """Index, and sums that change with the augmentation, of every training sample."""
    seen, loader = [], data.train_dataloader()
    weights = torch.arange(260).reshape(26, 10)
    for epoch in epochs:
        data.sampler.set_epoch(epoch)
        parts = [(b.index.tolist(), (b.image * weights).sum((1, 2, 3)).tolist()) for b in loader]
        seen.append([(i, s) for index, sums in parts for i, s in zip(index, sums, strict=True)])
    return seen


def test_sides_of_the_split(tmp_path: Path) -> None:
    tested = []
    for fold in range(3):
        data = make(tmp_path, fold=fold)
        groups = np.array([r.group for r in data.dataset.records])
        assert sorted([*data.split.train, *data.split.test]) == list(range(12))
        assert not set(groups[data.split.train]) & set(groups[data.split.test])
        assert data.counts() == {"train_images": 8, "train_defective": 4, "test_images": 4, "test_defective": 2}
        tested += data.split.test.tolist()
    assert sorted(tested) == list(range(12))


def test_published_and_grouped_folds_of_kolektor(tmp_path: Path) -> None:
    """kos26 shows what kos01 shows, and kos34 what kos27 shows, as in the published data."""
    folder = write_kolektor(tmp_path / "k", PUBLISHED_ITEMS, views=2)
    for twin, first in (("kos26", "kos01"), ("kos34", "kos27")):
        for view in range(2):
            (folder / twin / f"Part{view}.jpg").write_bytes((folder / first / f"Part{view}.jpg").read_bytes())
    zipped = kolektor.read(zip_of(folder, tmp_path / "k.zip"))
    published = [make(tmp_path / "c", zipped, fold, split="published") for fold in range(3)]
    assert [d.counts()["test_images"] for d in published] == [34, 34, 32]
    assert [d.split.duplicates_across["identical"] for d in published] == [2, 2, 4]
    grouped = [make(tmp_path / "c", zipped, fold) for fold in range(3)]
    assert [d.counts()["test_images"] for d in grouped] == [36, 36, 28]
    assert [d.split.duplicates_across for d in grouped] == [{"identical": 0, "near": 0}] * 3


def test_validation_leaves_the_test_fold_alone(tmp_path: Path) -> None:
    """The next fold is scored, the third trained on; a duplicate in the fold left out is no duplicate in training."""
    dataset = in_memory()
    dataset.published_folds = {f"p{i}": i % 3 for i in range(6)}
    dataset.records[3].image.array = dataset.records[1].image.array  # p1/v1 shows what p0/v1 shows: folds 1 and 0
    for fold, scored, trained, duplicates in ((0, 1, 2, 0), (1, 2, 0, 0), (2, 0, 1, 1)):
        data = make(tmp_path, dataset, fold, split="published", evaluate_on="validation")
        assert set(data.folds[data.split.test]) == {scored} and set(data.folds[data.split.train]) == {trained}
        assert data.split.duplicates_across == {"identical": duplicates, "near": 0}
        assert [int(b.index) for b in data.val_dataloader()] == data.split.test.tolist()
    assert make(tmp_path).val_dataloader() == []


def test_test_batches_come_one_by_one_with_masks_as_drawn(data: FoldDataModule) -> None:
    batches = list(data.test_dataloader())
    assert [int(b.index) for b in batches] == data.split.test.tolist()
    for batch in batches:
        i = int(batch.index)
        assert batch.image.shape == batch.mask.shape == (1, 1, 26, 10)
        assert batch.image.dtype == batch.mask.dtype == torch.uint8 and batch.label.dtype == torch.float32
        np.testing.assert_array_equal(batch.image[0, 0], data.dataset.records[i].image.pixels())
        assert batch.mask.sum() == (20 if i % 2 == 0 else 0)
        assert batch.label.tolist() == [float(i % 2 == 0)]


def test_training_masks_are_dilated(data: FoldDataModule) -> None:
    for batch in data.train_dataloader():
        i = int(batch.index)
        mask = data.dataset.records[i].mask
        expected = np.zeros((26, 10)) if mask is None else dilate((mask.pixels() > 0).astype(np.uint8), 5)
        np.testing.assert_array_equal(batch.mask[0, 0], expected)


def test_to_float() -> None:
    batch = Batch(torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8), torch.tensor([[[[0, 1, 1]]]]), None, None)
    ready = to_float(batch)
    torch.testing.assert_close(ready.image, torch.tensor([[[[0.0, 0.2, 1.0]]]]))
    torch.testing.assert_close(ready.mask, torch.tensor([[[[0.0, 1.0, 1.0]]]]))
    assert batch.image.tolist() == [[[[0, 51, 255]]]]


def test_batches_of_several(tmp_path: Path) -> None:
    shapes = [tuple(b.image.shape) for b in make(tmp_path, batch_size=3).train_dataloader()]
    assert shapes == [(3, 1, 26, 10), (3, 1, 26, 10), (2, 1, 26, 10)]


def test_defect_fraction_follows_the_sampler(tmp_path: Path) -> None:
    """One view in three is defective; the sampler that alternates shows every second one."""
    dataset = in_memory(groups=6, views=3)
    for sampler, share in (("uniform", 1 / 3), ("alternating", 1 / 2)):
        data = make(tmp_path, dataset, sampler=sampler)
        grown = dilate((dataset.records[0].mask.pixels() > 0).astype(np.uint8), 5).mean()
        assert data.defect_fraction() == pytest.approx(share * grown)


@pytest.mark.parametrize("sampler", ["uniform", "alternating", "balanced"])
@pytest.mark.parametrize("augmentation", ["none", "light"])
def test_a_resumed_order_equals_the_uninterrupted_one(tmp_path: Path, sampler: str, augmentation: str) -> None:
    options = {"sampler": sampler, "augmentation": augmentation, "seed": 4, "batch_size": 3}
    whole = order(make(tmp_path, **options), range(4))
    resumed = order(make(tmp_path, **options), range(2, 4))
    assert whole[2:] == resumed
    assert whole[0] != whole[1]
    assert order(make(tmp_path, **(options | {"seed": 5})), range(4)) != whole


def test_loader_processes_give_the_same_samples(tmp_path: Path) -> None:
    alone = order(make(tmp_path, augmentation="light"), range(2))
    assert order(make(tmp_path, augmentation="light", workers=2), range(2)) == alone


class Watcher(LightningModule):
    """Writes down what it is given; learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(1)), []

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        assert batch.image.dtype == batch.mask.dtype == torch.float32 and batch.image.max() <= 1
        place = torch.arange(260.0).reshape(26, 10)
        self.seen.append((self.current_epoch, int(batch.index), float((batch.image * place).sum())))
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`")
def test_lightning_resumes_with_the_order_of_the_uninterrupted_run(tmp_path: Path) -> None:
    def fit(epochs: int, checkpoint: Path | None = None) -> tuple[Watcher, Trainer]:
        watcher, data = Watcher(), make(tmp_path, sampler="alternating", augmentation="light")
        trainer = Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(watcher, data, ckpt_path=checkpoint, weights_only=True)
        return watcher, trainer

    whole, _ = fit(4)
    first, trainer = fit(2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second, _ = fit(4, tmp_path / "half.ckpt")
    assert first.seen + second.seen == whole.seen
    assert [epoch for epoch, _, _ in whole.seen] == [0] * 8 + [1] * 8 + [2] * 8 + [3] * 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fold": 3}, r"fold=3: data\.folds=3, so choose 0 to 2"),
        ({"fold": -1}, r"fold=-1: data\.folds=3"),
        ({"batch_size": 0}, r"batch_size=0: use 1 or more"),
        ({"augmentation": "heavy"}, r"augment=heavy: choose"),
        ({"sampler": "random"}, r"sampler\.kind=random: choose"),
        ({"split": "random"}, r"data\.split=random: choose"),
        ({"split": "published"}, r"data\.split=published: this data set came without folds"),
        ({"folds": 7}, r"fold 6 of 7 holds no image"),
        ({"evaluate_on": "train"}, r"evaluate_on=train: choose test or validation"),
        ({"evaluate_on": "validation", "folds": 2}, r"evaluate_on=validation: needs 3 folds"),
    ],
)
def test_settings_out_of_range(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(tmp_path, **change)


def test_settings_are_refused_before_the_images_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datamodule, "prepare", lambda *_: pytest.fail("reads images"))
    for change in ({"fold": 3}, {"augmentation": "heavy"}, {"batch_size": 0}, {"evaluate_on": "train"}):
        with pytest.raises(InputError):
            make(tmp_path, **change)


def test_tiles_train_and_their_images_are_split(tmp_path: Path) -> None:
    data = make_tiles(tmp_path, sampler="alternating")
    assert data.counts() == {"train_images": 8, "train_defective": 4, "test_images": 4, "test_defective": 2}
    owner = data.arrays.owner
    batches = list(data.train_dataloader())
    assert len(batches) == 8 * 6 and {int(owner[b.index]) for b in batches} <= set(data.split.train.tolist())
    # Every second tile shows a defect, though only every twelfth has one.
    assert [b.label.item() for b in batches] == [1.0, 0.0] * 24
    assert {int(b.index) % 12 for b in batches if b.label} == {0}
    assert all(bool(b.mask.any()) == bool(b.label) for b in batches)
    assert {int(i) for i in make_tiles(tmp_path).sampler.order(0)} == set(
        data.arrays.samples(data.split.train).tolist()
    )


def test_the_tiles_of_an_image_are_scored_in_a_row(tmp_path: Path) -> None:
    data = make_tiles(tmp_path)
    batches = list(data.test_dataloader())
    assert [int(data.arrays.owner[b.index]) for b in batches] == np.repeat(data.split.test, 6).tolist()
    for batch in batches:
        image, _, (y, x) = data.arrays.place(int(batch.index))
        pixels = data.dataset.records[image].image.pixels()
        seen = pixels[y : y + 32, x : x + 32]
        np.testing.assert_array_equal(batch.image[0, 0, : seen.shape[0], : seen.shape[1]], seen)
        assert batch.mask.sum() == (20 if image % 2 == 0 and (y, x) == (0, 0) else 0)


def test_a_sample_s_name_says_which_tile_it_is(tmp_path: Path) -> None:
    names = make_tiles(tmp_path).sample_names()
    assert names[:2] == ["p0/v0, tile at row 0, column 0", "p0/v0, tile at row 0, column 16"]
    assert (len(names), names[-1]) == (72, "p5/v1, tile at row 16, column 32")
    assert make(tmp_path).sample_names()[:2] == ["p0/v0", "p0/v1"]


def test_colour_batches(tmp_path: Path) -> None:
    preparation = Preparation(26, 10, channels=3)
    data = FoldDataModule(in_memory(), preparation, 0, cache_dir=str(tmp_path), batch_size=2, augmentation="light")
    assert [tuple(b.image.shape) for b in data.train_dataloader()] == [(2, 3, 26, 10)] * 4
    batch = next(iter(data.test_dataloader()))
    expected = data.dataset.records[int(batch.index)].image.pixels()
    assert batch.mask.shape == (1, 1, 26, 10) and all(np.array_equal(batch.image[0, c], expected) for c in range(3))
