"""INT8: a sealed model quantised by NNCF on the run's training images, and what that costs."""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_seg.data.datamodule import FoldDataModule
from anomaly_seg.data.image_io import load_image
from anomaly_seg.data.preparation import Preparation
from anomaly_seg.data.tiling import cut
from anomaly_seg.errors import InputError
from anomaly_seg.evaluation import metrics
from anomaly_seg.exporting import formats
from anomaly_seg.exporting.ensemble import HeldOut, Member
from anomaly_seg.extras import imported
from anomaly_seg.inference.load import load
from anomaly_seg.inference.model_card import ModelCard, Quantisation
from anomaly_seg.training.build import make_data, read_dataset

CALIBRATION = 128
"""Training images that show the range of every activation."""

COMPARED = 300
"""Images at most on which the two models are compared."""

QUANTISED = {
    "Conv", "ConvTranspose", "Relu", "MaxPool", "Concat",  # ONNX
    "Convolution", "ConvolutionBackpropData", "ReLU",  # OpenVINO
}  # fmt: skip
"""Operators that may compute in 8 bits. Resizing, the spectral convolution, suppression and pooling stay in float32:
they are a small part of the time, and their range is large."""


@dataclass(frozen=True)
class Pictures:
    """The images of a data set as a sealed model takes them, and which of them calibrate and which compare."""

    data: FoldDataModule
    preparation: Preparation
    calibrating: np.ndarray
    compared: np.ndarray

    def image(self, index: int) -> np.ndarray:
        """(h, w, c) uint8."""
        pixels = load_image(self.data.dataset.records[index].image, self.preparation.convert, self.preparation.channels)
        return pixels.reshape(*pixels.shape[:2], self.preparation.channels)

    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Lowest and highest native height, and width, of the training images."""
        shapes = self.data.arrays.shapes[self.data.split.train]
        (top, left), (bottom, right) = shapes.min(axis=0).tolist(), shapes.max(axis=0).tolist()
        return (top, bottom), (left, right)

    def batches(self) -> list[np.ndarray]:
        """What the graph is calibrated with, (1, h, w, c) each: images, or of each its middle tile."""
        return [self.sample(i)[None] for i in self.calibrating.tolist()]

    def sample(self, index: int) -> np.ndarray:
        """What the graph takes of an image, (h, w, c) uint8: the whole, or its middle tile."""
        pixels = self.image(index)
        if self.preparation.fit != "tile":
            return pixels
        tiles = self.preparation.tile_grid(*pixels.shape[:2]).tiles
        return cut(pixels, tiles[len(tiles) // 2], self.preparation.height, self.preparation.width)


def find_pictures(member: Member) -> Pictures:
    """The data of a run. Raises InputError where they are gone, or others than it was trained on."""
    try:
        data = make_data(member.settings, read_dataset(member.settings))
        _check_unchanged(data, member)
    except InputError as error:
        raise InputError(
            f"--int8 is calibrated on the images that {member.folder} was trained with; {error}"
        ) from error
    return Pictures(
        data,
        member.settings.preparation,
        _spread(data.split.train, CALIBRATION),
        _spread(data.split.test, COMPARED),
    )


def _check_unchanged(data: FoldDataModule, member: Member) -> None:
    """Other folds would call images held out that the run was trained on. Older results only know what they tested."""
    recorded, tested = member.result.data_digest, {data.dataset.records[i].name for i in data.split.test}
    if recorded != data.digest if recorded else tested != set(member.scores.image):
        raise InputError("the data have changed since (images, masks or folds): restore them, or train again")


def quantise(model: Any, kind: formats.Format, images: Sequence[np.ndarray]) -> Any:
    """A copy of the model with convolutions in 8 bits, calibrated on images (1, h, w, c) uint8."""
    nncf = imported("nncf", "openvino")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    types = {n.op_type for n in model.graph.node} if kind == "onnx" else {n.get_type_name() for n in model.get_ops()}
    return nncf.quantize(
        model,
        nncf.Dataset(images, lambda image: {"image": image}),
        preset=nncf.QuantizationPreset.MIXED,
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(images),
        ignored_scope=nncf.IgnoredScope(types=sorted(types - QUANTISED), validate=False),
    )


def compare(
    before: Any, after: Any, card: ModelCard, members: Sequence[Member], pictures: Pictures, names: list[str]
) -> tuple[Quantisation, HeldOut]:
    """Verdicts of the two models on the first run's held-out images, and the scores of the second."""
    with tempfile.TemporaryDirectory() as folder:
        scores = [
            _scores(model, card, names, Path(folder) / f"{number}{formats.SUFFIX[card.format]}", pictures)
            for number, model in enumerate((before, after))
        ]
    labels = pictures.data.arrays.labels[pictures.compared]
    verdicts = [metrics.confusion(s, labels, card.threshold.value) for s in scores]
    changed = np.sum((scores[0] > card.threshold.value) != (scores[1] > card.threshold.value))
    cost = Quantisation(
        calibration_images=len(pictures.calibrating), images=len(labels), defective=int(labels.sum()),
        held_out=len(members) == 1, f1_float32=verdicts[0].f1, f1_int8=verdicts[1].f1, verdicts_changed=int(changed),
    )  # fmt: skip
    groups = [pictures.data.dataset.records[i].group for i in pictures.compared.tolist()]
    return cost, HeldOut(scores[1], labels, groups, np.full(len(labels), members[0].result.run.fold))


def _scores(model: Any, card: ModelCard, names: list[str], path: Path, pictures: Pictures) -> np.ndarray:
    formats.write(model, card.format, names, card.model_dump_json(), path)
    detector = load(path)
    return np.array([detector(pictures.image(i)).score for i in pictures.compared.tolist()])


def _spread(indices: np.ndarray, most: int) -> np.ndarray:
    """At most so many of them, evenly spaced."""
    count = min(most, len(indices))
    return indices[np.linspace(0, len(indices) - 1, count).round().astype(int)]
