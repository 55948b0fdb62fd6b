"""Finished runs for the tests of sealed models, with plausible weights: written by the package's own writers, in a
fraction of the time that training takes."""

from collections.abc import Sequence
from pathlib import Path

import lightning
import numpy as np
import torch
import yaml
from support.fake_runs import fake_result
from support.tiny_runs import tiny_settings
from torch import nn

from anomaly_seg.evaluation.evaluate import PIXEL_THRESHOLDS
from anomaly_seg.models.base import Network
from anomaly_seg.results import run_files
from anomaly_seg.training.build import make_network
from anomaly_seg.training.outputs import identity

SCORES = (1.0, 2.0, 4.0, 8.0)
LABELS = (0, 0, 1, 1)
PARTS = ((3, 4), (5, 6), (1, 2))
"""Of the tiny runs' generated data, those that each fold tests: two views each."""


def plausible(network: Network, seed: int) -> Network:
    """Weights and running statistics as after some training: no layer is the identity, and maps are neither 0 nor 1."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(of: torch.Tensor, low: float, high: float) -> None:
        of.copy_(low + (high - low) * torch.rand(of.shape, generator=generator))

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                reach = module.weight[0].numel() ** -0.5
                uniform(module.weight, -2 * reach, 2 * reach)
                if module.bias is not None:
                    uniform(module.bias, -reach, reach)
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                assert module.running_var is not None
                uniform(module.running_mean, -0.2, 0.2)
                uniform(module.running_var, 0.2, 1.0)
            if isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d) and module.affine:
                uniform(module.weight, 0.5, 1.5)
                uniform(module.bias, -0.3, 0.3)
    return network.eval()


def write_run(
    root: Path,
    *overrides: str,
    scores: Sequence[float] = SCORES,
    labels: Sequence[int] = LABELS,
    averaged: bool = False,
) -> Path:
    """One finished run with these test scores, in the folder that training would give it.

    Args:
        root: where runs go.
        overrides: of the tiny run's settings.
        scores, labels: of its test images.
        averaged: whether its checkpoint holds a moving average of the weights beside them.
    """
    settings = tiny_settings(root, *overrides)
    folder = settings.folder
    network = plausible(make_network(settings.model), seed=settings.seed + 10 * settings.fold)
    views = range(len(scores) // 2)
    names = [f"part{part:02}/view{view}" for part in PARTS[settings.fold] for view in views]
    score, label = np.asarray(scores, float), np.asarray(labels)
    run_files.write_scores(folder, run_files.Scores(names, names, label, score))
    run_files.write_pixels(folder, pixels())
    run_files.write_whole(folder / "config.yaml", yaml.safe_dump(settings.model_dump(), sort_keys=False))
    write_checkpoint(folder / "checkpoint.ckpt", network, averaged)
    about = fake_result(identity(settings), score, label, {})
    run_files.write_result(folder, about.model_copy(update={"readout": network.readout}))
    return folder


def write_checkpoint(path: Path, network: Network, averaged: bool = False) -> None:
    """As Lightning writes it, as far as export reads it. Averaged: the plain weights beside the average are all 0."""
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    if averaged:
        average = {name.replace("network.", "averaged.module.", 1): value for name, value in state.items()}
        state = {name: torch.zeros_like(value) for name, value in state.items()} | average
    content = {"state_dict": state, "optimizer_states": [], "loops": {}, "last_loss": 0.1}
    torch.save(content | {"pytorch-lightning_version": lightning.__version__}, path)


def pixels(best: int = 92) -> run_files.Pixels:
    """Counts of 10 defect pixels of 100 on a real run's grid: Dice is 1 at place `best` of it, lower elsewhere."""
    n = len(PIXEL_THRESHOLDS)
    tp = np.where(np.arange(n) <= best, 10, 5)
    fp = np.where(np.arange(n) < best, 20, 0)
    return run_files.Pixels(PIXEL_THRESHOLDS.double().numpy(), tp, fp, 10 - tp, 90 - fp)


def pictures(seed: int = 0, *sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Smooth random pictures of these sizes, uint8."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in sizes]
