"""What a finished run leaves: scores.csv, pixels.csv, pictures/ and the content of result.json."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from anomaly_seg import results, settings, thresholds
from anomaly_seg.data.datamodule import FoldDataModule, TestSet
from anomaly_seg.drawing import draw
from anomaly_seg.environment import describe
from anomaly_seg.evaluate import PIXEL_THRESHOLDS, Evaluation
from anomaly_seg.guarantee import basis_of
from anomaly_seg.models.base import Network
from anomaly_seg.schema import AtThreshold, Counts, ImageLevel, Promised, Readout, Result, Run, Training, Twins


def write_outputs(
    chosen: dict[str, Any],
    folder: Path,
    data: FoldDataModule,
    network: Network,
    evaluation: Evaluation,
    training: Training,
) -> Result:
    """Write scores.csv and pixels.csv, and return what result.json will say."""
    records = [data.dataset.records[i] for i in evaluation.index]
    labels, score = data.arrays.labels[evaluation.index], evaluation.scores[network.readout]
    names, items = [r.name for r in records], [r.item for r in records]
    parts = [data.parts[i] for i in evaluation.index]
    results.write_scores(folder, results.Scores(names, items, labels, score, evaluation.scores, parts))
    pixels = results.Pixels(PIXEL_THRESHOLDS.double().numpy(), *(c.numpy() for c in evaluation.pixels))
    results.write_pixels(folder, pixels)
    basis = basis_of(1, data.split.twins_across["identical"])
    sigma, best = published_sigma(chosen, data.arrays.shapes), AtThreshold.best_f(score, labels)
    at: dict[Any, AtThreshold | None] = {
        "paper": None if sigma is None else AtThreshold.of(score, labels, sigma, oracle=False),
        "best_f": best,
    }
    return Result(
        run=identity(chosen).model_copy(update={"folds": 1} if data.only_fold else {}),
        readout=network.readout,
        counts=Counts(**data.counts()),
        sigma=sigma,
        image=ImageLevel.of(score, labels),
        thresholds={name: value for name, value in at.items() if value is not None},
        promises=Promised.every(score, labels, parts, basis),
        readouts={name: Readout.of(values, labels) for name, values in evaluation.scores.items()},
        pixel=pixels.measures(),
        training=training,
        twins_across_split=Twins(**data.split.twins_across),
        config_digest=settings.digest(chosen),
        data_digest=data.digest,
        environment=describe(),
    )


def identity(chosen: dict[str, Any]) -> Run:
    """Which run the settings describe."""
    scale, data = chosen["scale"], chosen["data"]
    return Run(
        experiment=chosen["experiment_name"],
        data=data["name"],
        model=chosen["model"]["name"],
        variant=chosen["variant"],
        dilation=chosen["dilation"],
        fold=chosen["fold"],
        folds=data["folds"],
        split=data["split"],
        seed=chosen["seed"],
        scored=chosen["evaluate_on"],
        scale=scale["name"],
        height=scale["height"],
        width=scale["width"],
    )


def published_sigma(chosen: dict[str, Any], shapes: np.ndarray | None = None) -> float | None:
    """The published threshold for this network and dilation, scaled to the map's size; None where there is none.

    Args:
        chosen: the run's settings.
        shapes: (n, 2) native sizes, which maps stitched from tiles have: sigma is that of the median number of pixels.
    """
    sigma = chosen["model"]["paper_sigma"]
    if isinstance(sigma, dict):
        sigma = sigma.get(chosen["dilation"])
    if sigma is None:
        return None
    if chosen["data"].get("fit", "resize") == "tile" and shapes is not None:
        return thresholds.paper(sigma, max(1, round(float(np.median(shapes.prod(axis=1))))), 1)
    return thresholds.paper(sigma, chosen["scale"]["height"], chosen["scale"]["width"])


def write_pictures(
    folder: Path,
    data: FoldDataModule,
    network: Network,
    evaluation: Evaluation,
    result: Result,
    device: torch.device | str,
) -> None:
    """Every defective image, and every false alarm at either threshold."""
    score, labels = evaluation.scores[network.readout], data.arrays.labels[evaluation.index]
    lowest = min((at.value for at in result.thresholds.values()), default=float("inf"))
    shown = evaluation.index[(labels == 1) | (score > lowest)]
    loader = torch.utils.data.DataLoader(TestSet(data.arrays, shown))
    names = [r.name.replace("/", "__") for r in data.dataset.records]
    draw(network, loader, lambda i: names[i], folder / "pictures", device, data.arrays.place)
