"""`load`: a sealed model from its file, whatever its runtime."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pydantic import ValidationError

from anomaly_seg.data.resize import content_size
from anomaly_seg.data.tiling import Stitcher, cut
from anomaly_seg.errors import InputError
from anomaly_seg.inference import runtimes
from anomaly_seg.inference.image_input import as_input
from anomaly_seg.inference.model_card import ModelCard
from anomaly_seg.inference.prediction import Detector, Prediction, find_regions

KINDS = {".onnx": runtimes.open_onnx, ".xml": runtimes.open_openvino, ".pt2": runtimes.open_torch}


def load(path: str | Path, threads: int | None = None) -> Detector:
    """A sealed model that `anomaly-seg export` wrote.

    Args:
        path: .onnx (ONNX Runtime), .xml beside its .bin (OpenVINO) or .pt2 (torch).
        threads: of ONNX Runtime and OpenVINO; None uses all cores.

    Raises:
        InputError: no such file, another kind of file, a damaged one, one without a model card, or a runtime that is
            not installed.
    """
    path = Path(path)
    if path.suffix not in KINDS:
        raise InputError(f"{path}: no sealed model; give one of {', '.join(KINDS)} (see anomaly-seg export)")
    if not path.is_file():
        raise InputError(f"{path}: no such file; anomaly-seg export writes one")
    runtime = KINDS[path.suffix](path, threads)
    return SealedDetector(path, read_card(path, runtime.card), runtime)


def read_card(path: Path, text: str | None) -> ModelCard:
    """The model card from its text. Raises InputError where there is none, or one of another version."""
    if text is None:
        raise InputError(f"{path}: a model without a model card; only files that anomaly-seg export wrote can be used")
    try:
        return ModelCard.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "card"
        raise InputError(
            f"{path}: model card of another version, or damaged ({key}: {first['msg']}); export it again"
        ) from error


class SealedDetector:
    """See `prediction.Detector`.

    Args:
        path: of the model.
        card: its model card.
        runtime: what computes; its `infer` stays open as `graph`, (n, h, w, c) uint8 -> the outputs by name.
    """

    def __init__(self, path: Path, card: ModelCard, runtime: runtimes.Runtime) -> None:
        self.path, self.card, self.graph = path, card, runtime.infer

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, {self.card.name!r})"

    def __call__(self, image: np.ndarray | str | Path, threshold: float | None = None) -> Prediction:
        limit = self.card.threshold.value if threshold is None else _finite(threshold)
        pixels = as_input(image, self.card.input)
        tiled = self.card.input.fit == "tile"
        score, maps = self._tiles(pixels) if tiled else self._whole(pixels)
        if not np.isfinite(score):
            raise FloatingPointError(f"{self.path}: gives the score {score}, so there is no verdict; export it again")
        heat_map = self._at_native_size(maps[self.card.heat_map], pixels.shape[0], pixels.shape[1])
        return Prediction(
            score=score,
            threshold=limit,
            verdict="defective" if score > limit else "good",
            heat_map=heat_map,
            regions=find_regions(heat_map, self.card.pixel_threshold),
            maps=maps,
        )

    def batch(self, images: Iterable[Any], threshold: float | None = None) -> list[Prediction]:
        # One by one: on a CPU a single image keeps all cores busy, and a batch would only take more memory.
        return [self(image, threshold) for image in images]

    def _whole(self, pixels: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        """Score and maps (H, W) of an image that goes through the graph as one."""
        outputs = self.graph(pixels[None])
        return float(outputs["score"][0]), {name: outputs[name][0] for name in self.card.maps}

    def _tiles(self, pixels: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        """Score and maps (h, w) at native size of an image that goes through the graph tile by tile.

        The score is the sum of the stitched map; one that is no such sum, as a decision of the network's own, is that
        of the most suspicious tile, and of several networks the mean of theirs.
        """
        about = self.card.input
        (rows, columns), (height, width) = pixels.shape[:2], (about.height, about.width)
        stitchers = {name: Stitcher(rows, columns, height, width, about.tile_overlap) for name in self.card.maps}
        scores = []
        for tile in stitchers[self.card.heat_map].grid.tiles:
            outputs = self.graph(cut(pixels, tile, height, width)[None])
            scores.append(outputs.get(runtimes.MEMBER_SCORES, outputs["score"][:, None])[0])
            for name, stitcher in stitchers.items():
                stitcher.add(tile, outputs[name][0])
        maps = {name: stitcher.result() for name, stitcher in stitchers.items()}
        pooled = self.card.pooled
        score = np.max(scores, axis=0).mean() if pooled is None else np.float32(maps[pooled].sum(dtype=np.float64))
        return float(score), maps

    def _at_native_size(self, heat_map: np.ndarray, height: int, width: int) -> np.ndarray:
        if heat_map.shape == (height, width):
            return heat_map
        about = self.card.input
        if about.fit == "pad":
            tall, wide = content_size((height, width), (about.height, about.width))
            heat_map = heat_map[:tall, :wide]
        return cv2.resize(heat_map, (width, height), interpolation=cv2.INTER_LINEAR)


def _finite(threshold: float) -> float:
    if not np.isfinite(threshold):
        raise InputError(f"threshold={threshold}: give a finite number")
    return float(threshold)
