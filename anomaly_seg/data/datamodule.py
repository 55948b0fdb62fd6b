"""Fold splits of a prepared data set as loaders."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from anomaly_seg.data.cache import VERSION, Arrays, Preparation, prepare
from anomaly_seg.data.duplicates import find_duplicates
from anomaly_seg.data.masks import ANY_VALUE
from anomaly_seg.data.quality import mask_like
from anomaly_seg.data.records import Dataset
from anomaly_seg.data.sampling import DeviceBatches, Draw, EpochSampler
from anomaly_seg.data.split_file import make_folds
from anomaly_seg.data.splits import check_fold, count_leaks, fold_sides, group_representatives, only_fold
from anomaly_seg.data.transforms import augment, recipe
from anomaly_seg.errors import InputError
from anomaly_seg.quick_lightning import pl


class Batch(NamedTuple):
    """What a network trains on or is judged by.

    image: (b, c, h, w), from the loader uint8, on the device float32 in [0, 1]; c is 1 (grey) or 3 (RGB).
    mask: (b, 1, h, w), likewise, of 0 and 1; dilated in training, undilated in evaluation.
    label: (b,) float32, 1 = defective. index: (b,) position among the samples: the records, or all their tiles.
    """

    image: Tensor
    mask: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # tuples have a method of this name


@dataclass(frozen=True)
class Split:
    """Which images of a data set train, and which are scored."""

    train: np.ndarray
    test: np.ndarray
    duplicates_across: dict[str, int]


class TrainingSet(TorchDataset[Batch]):
    """Augmented images with dilated masks, asked for by `Draw`."""

    def __init__(self, arrays: Arrays, transform: Any, seed: int) -> None:
        self.arrays, self.transform, self.seed = arrays, transform, seed

    def __getitem__(self, draw: Draw) -> Batch:  # type: ignore[override]
        image, mask = self.arrays.images[draw.index], self.arrays.masks[draw.index]
        image, mask = augment(self.transform, np.asarray(image), np.asarray(mask), self.seed, draw.epoch, draw.position)
        return _sample(image, mask, self.arrays.sample_labels[draw.index], draw.index)


class TestSet(TorchDataset[Batch]):
    """Images as they are, or all their tiles, with undilated masks."""

    def __init__(self, arrays: Arrays, images: np.ndarray) -> None:
        self.arrays, self.indices = arrays, arrays.samples(images)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Batch:
        i = int(self.indices[position])
        return _sample(self.arrays.images[i], self.arrays.exact[i], self.arrays.sample_labels[i], i)


def _sample(image: np.ndarray, mask: np.ndarray, label: int, index: int) -> Batch:
    planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    pixels, defect = (torch.from_numpy(np.array(a, order="C")) for a in (planes, mask[None]))
    return Batch(pixels, defect, torch.tensor(float(label)), torch.tensor(index))


def to_float(batch: Batch) -> Batch:
    """Pixels from uint8 to float32 in [0, 1], and the mask to float32, on whatever device the batch is."""
    return batch._replace(image=batch.image.float().div_(255), mask=batch.mask.float())


class FoldDataModule(pl.LightningDataModule):
    """One fold of one data set: its cache, its split, its loaders.

    Args:
        dataset: from a reader.
        preparation: size, dilation and the like.
        fold: which fold is tested, 0-based.
        folds: how many.
        split: policy, see `splits.assign_folds`.
        split_seed: of stratified folds.
        sampler: order of the training images (or tiles): uniform, alternating or balanced.
        augmentation: recipe by name.
        batch_size: of training, over all devices that share a step; evaluation takes one image, or tile, at a time.
        workers: loader processes; 0 loads in the training process.
        seed: of sampling and augmentation.
        cache_dir: where arrays are kept; None: `cache.default_cache()`.
        evaluate_on: "test", or "validation": score the next fold, train on the others and leave the test fold alone.
        splits: file of folds, made where it does not exist.
    """

    def __init__(
        self,
        dataset: Dataset,
        preparation: Preparation,
        fold: int,
        folds: int = 3,
        split: str = "grouped",
        split_seed: int = 0,
        sampler: str = "uniform",
        augmentation: str = "none",
        batch_size: int = 1,
        workers: int = 0,
        seed: int = 0,
        cache_dir: str | Path | None = None,
        evaluate_on: str = "test",
        splits: str | None = None,
    ) -> None:
        super().__init__()
        check_fold(fold, folds, evaluate_on, split, dataset.train_test)
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}: use 1 or more")
        if dataset.problems:
            raise InputError("\n".join(dataset.problems))
        self.dataset, self.preparation, self.fold = dataset, preparation, fold
        self.batch_size, self.workers, self.seed, self.transform = batch_size, workers, seed, recipe(augmentation)
        self.arrays = prepare(dataset, preparation, cache_dir)
        if masks := mask_like(dataset, self.arrays):
            raise InputError("\n".join(masks))
        self.groups = [r.group for r in dataset.records]
        self.duplicates = find_duplicates(self.arrays.fingerprints, self.arrays.thumbnails, self.groups)
        labels = self.arrays.labels
        self.folds = make_folds(dataset, labels.tolist(), self.duplicates, folds, split, split_seed, splits)  # type: ignore[arg-type]
        self.only_fold = only_fold(split, dataset.train_test)
        train, test = fold_sides(self.folds, fold, folds, evaluate_on)
        self.split = Split(train, test, count_leaks(self.duplicates, train, test))
        self.evaluate_on = evaluate_on
        samples = self.arrays.samples(train)
        self.sampler = EpochSampler(samples, self.arrays.sample_labels[samples], sampler, seed)

    def train_dataloader(self) -> DataLoader:
        data = TrainingSet(self.arrays, self.transform, self.seed)
        device, devices = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return self._loader(data, batch_sampler=DeviceBatches(self.sampler, self.batch_size, device, devices))

    def test_dataloader(self) -> DataLoader:
        return self._loader(TestSet(self.arrays, self.split.test))

    def val_dataloader(self) -> DataLoader | list:
        """The validation images each epoch; never the test images. None in tiles, which are no images."""
        return self.test_dataloader() if self.evaluate_on == "validation" and self.preparation.fit != "tile" else []

    @cached_property
    def representatives(self) -> list[str]:
        """Group of every image, (n,), or the first of the groups that share a byte-identical image with it."""
        first = group_representatives(self.groups, self.duplicates, "grouped")
        return [first[group] for group in self.groups]

    @cached_property
    def digest(self) -> str:
        """Short name of what is trained and tested on: of every image its name, group, content, mask and fold.

        And of the way of preparing them, where that is not the one of the first versions, and of the masks' threshold,
        where that is not the default.
        """
        names = [r.name for r in self.dataset.records]
        prints = (self.arrays.fingerprints, self.arrays.mask_fingerprints)
        rows = sorted(zip(names, self.groups, *prints, self.folds.tolist(), strict=True))
        threshold = self.preparation.mask_threshold
        more: list[Any] = [VERSION] if self.preparation.changed(self.arrays.shapes) else []
        more += [] if threshold == ANY_VALUE else [{"mask_threshold": threshold}]
        what = [rows, *more] if more else rows
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.sampler.epoch + 1, "data": self.digest}  # written when an epoch has ended

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state.get("data", self.digest) != self.digest:  # checkpoints of older versions do not know their data
            raise InputError(
                "the data have changed since this run began (images, masks, folds, or how they are prepared): images "
                "that it has trained on may be tested now. Restore them to go on, or set overwrite=true to begin anew"
            )
        # Lightning tells the sampler too, but only after loader processes have begun to fetch.
        self.sampler.set_epoch(state["epoch"])

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        return to_float(batch)

    def counts(self) -> Mapping[str, int]:
        """Images and defective images of both sides."""
        labels = self.arrays.labels
        return {
            "train_images": len(self.split.train),
            "train_defective": int(labels[self.split.train].sum()),
            "test_images": len(self.split.test),
            "test_defective": int(labels[self.split.test].sum()),
        }

    def defect_fraction(self) -> float:
        """Share of (dilated) defect pixels among the training pixels, as often as the sampler draws them in epoch 0."""
        return float(np.mean([self.arrays.masks[i].mean() for i in self.sampler.order(epoch=0)]))

    def sample_names(self) -> list[str]:
        """What to call each sample in a message: the image's name, and for a tile its corner."""
        names = [self.dataset.records[i].name for i in self.arrays.owner]
        if self.preparation.fit != "tile":
            return names
        corners = [self.arrays.place(i).tile for i in range(len(names))]
        return [f"{name}, tile at row {y}, column {x}" for name, (y, x) in zip(names, corners, strict=True)]

    def _loader(self, data: TorchDataset, **more: Any) -> DataLoader:
        return DataLoader(
            data, num_workers=self.workers, persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(), **more,
        )  # fmt: skip
