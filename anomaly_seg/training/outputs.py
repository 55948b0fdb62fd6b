"""What a finished run leaves: scores.csv, pixels.csv, pictures/ and the content of result.json."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from anomaly_seg.data.datamodule import FoldDataModule, TestSet
from anomaly_seg.evaluation import thresholds
from anomaly_seg.evaluation.evaluate import PIXEL_THRESHOLDS, Evaluation
from anomaly_seg.evaluation.guarantee import basis_of
from anomaly_seg.evaluation.pictures import draw
from anomaly_seg.models.base import Network
from anomaly_seg.models.encoders.base import Source
from anomaly_seg.results import run_files
from anomaly_seg.results.environment import describe
from anomaly_seg.results.schema import (
    AtThreshold,
    Counts,
    DuplicatesAcrossSplit,
    GuaranteeResult,
    ImageLevel,
    NetworkFacts,
    Readout,
    Result,
    Run,
    StartWeights,
    Training,
)
from anomaly_seg.settings import Settings


def write_outputs(
    settings: Settings,
    folder: Path,
    data: FoldDataModule,
    network: Network,
    evaluation: Evaluation,
    training: Training,
    source: Source | None = None,
) -> Result:
    """Write scores.csv and pixels.csv, and return what result.json will say."""
    records = [data.dataset.records[i] for i in evaluation.index]
    labels, score = data.arrays.labels[evaluation.index], evaluation.scores[network.readout]
    names, groups = [r.name for r in records], [r.group for r in records]
    representatives = [data.representatives[i] for i in evaluation.index]
    run_files.write_scores(folder, run_files.Scores(names, groups, labels, score, evaluation.scores, representatives))
    pixels = run_files.Pixels(PIXEL_THRESHOLDS.double().numpy(), *(c.numpy() for c in evaluation.pixels))
    run_files.write_pixels(folder, pixels)
    basis = basis_of(1, data.split.duplicates_across["identical"])
    sigma, best = published_sigma(settings, data.arrays.shapes), AtThreshold.best_f(score, labels)
    meanings = {name: meaning for name, meaning in network.meanings.items() if name in evaluation.scores}
    at: dict[Any, AtThreshold | None] = {
        "paper": None if sigma is None else AtThreshold.of(score, labels, sigma, oracle=False),
        "best_f": best,
    }
    return Result(
        run=identity(settings).model_copy(update={"folds": 1} if data.only_fold else {}),
        readout=network.readout,
        network=NetworkFacts(title=network.title, maps=evaluation.drawn, meanings=meanings),
        counts=Counts(**data.counts()),
        sigma=sigma,
        image=ImageLevel.of(score, labels),
        thresholds={name: value for name, value in at.items() if value is not None},
        guarantees=GuaranteeResult.every(score, labels, representatives, basis),
        readouts={name: Readout.of(values, labels) for name, values in evaluation.scores.items()},
        pixel=pixels.measures(),
        training=training,
        start=None if source is None else StartWeights(**source._asdict()),
        duplicates_across_split=DuplicatesAcrossSplit(**data.split.duplicates_across),
        config_digest=settings.digest(),
        data_digest=data.digest,
        environment=describe(),
    )


def identity(settings: Settings) -> Run:
    """Which run the settings describe."""
    scale, data = settings.scale, settings.data
    return Run(
        experiment=settings.experiment_name,
        data=data.name,
        model=settings.model.full_name,
        variant=settings.variant,
        dilation=settings.dilation,
        fold=settings.fold,
        folds=data.folds,
        split=data.split,
        seed=settings.seed,
        scored=settings.evaluate_on,
        scale=scale.name,
        height=scale.height,
        width=scale.width,
    )


def published_sigma(settings: Settings, shapes: np.ndarray | None = None) -> float | None:
    """The published threshold for this network and dilation, scaled to the map's size; None where there is none.

    Args:
        settings: of the run.
        shapes: (n, 2) native sizes, which maps stitched from tiles have: sigma is that of the median number of pixels.
    """
    sigma = settings.model.paper_sigma
    if isinstance(sigma, dict):
        sigma = sigma.get(settings.dilation)
    if sigma is None:
        return None
    if settings.data.fit == "tile" and shapes is not None:
        return thresholds.paper(sigma, max(1, round(float(np.median(shapes.prod(axis=1))))), 1)
    return thresholds.paper(sigma, settings.scale.height, settings.scale.width)


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
