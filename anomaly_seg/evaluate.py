"""From a trained network to scores, pixel counts and pictures of the test images. Plain torch."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from anomaly_seg.data.datamodule import Batch, to_float
from anomaly_seg.errors import InputError
from anomaly_seg.models.base import Network

PIXEL_THRESHOLDS = torch.sigmoid(torch.linspace(-9.2, 9.2, 185))
"""Grid for pixel-level counts: even in log-odds from 0.0001 to 0.9999, for maps crowd at both ends."""


class PixelCounts(NamedTuple):
    """Pixels above each threshold: (t,) int64 each."""

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor


class Evaluation(NamedTuple):
    """Scores (n,) float64 by readout, in the order of `index`, and the pixel counts of the readout's map."""

    index: np.ndarray  # type: ignore[assignment]  # tuple has an index() that nobody wants here
    scores: dict[str, np.ndarray]
    pixels: PixelCounts


def pixel_counts(
    probability: Float[Tensor, "b 1 h w"], mask: Float[Tensor, "b 1 h w"], thresholds: Float[Tensor, " t"]
) -> PixelCounts:
    """Counts of `probability > threshold` against the mask (0 or 1), for ascending thresholds, in one pass.

    >>> probability, mask = torch.tensor([[[[0.2, 0.6, 0.9]]]]), torch.tensor([[[[0.0, 1.0, 1.0]]]])
    >>> counts = pixel_counts(probability, mask, torch.tensor([0.1, 0.7]))
    >>> counts.tp.tolist(), counts.fp.tolist()
    ([2, 1], [1, 0])
    """
    bins = torch.bucketize(probability.flatten(), thresholds.to(probability.device))
    defect = mask.flatten() > 0.5
    above = []
    for chosen in (bins[defect], bins[~defect]):
        histogram = torch.bincount(chosen, minlength=len(thresholds) + 1)
        above.append(histogram.flip(0).cumsum(0).flip(0)[1:].cpu())
    tp, fp = above
    positives = int(defect.sum())
    return PixelCounts(tp, fp, positives - tp, defect.numel() - positives - fp)


@torch.no_grad()
def evaluate(
    network: Network, batches: Iterable[Batch], device: torch.device | str = "cpu", progress: bool = True
) -> Evaluation:
    """Scores of all images, in float32 whatever the training's precision was.

    Args:
        network: in any mode; it is evaluated in evaluation mode, and its mode is left as it came.
        batches: uint8, as loaders give them, with undilated masks.
        device: where to compute.
        progress: whether to show a bar.
    """
    index: list[int] = []
    scores: dict[str, list[Tensor]] = {}
    totals: list[Tensor] | None = None
    for batch, maps, batch_scores in _predictions(network, batches, device, "scoring" if progress else None):
        index += batch.index.tolist()
        for name, values in batch_scores.items():
            scores.setdefault(name, []).append(values.double().cpu())
        counts = pixel_counts(maps[network.pixel_map(maps)], batch.mask, PIXEL_THRESHOLDS)
        totals = list(counts) if totals is None else [a + b for a, b in zip(totals, counts, strict=True)]
    assert totals is not None, "no test images"
    return Evaluation(
        np.array(index), {name: torch.cat(values).numpy() for name, values in scores.items()}, PixelCounts(*totals)
    )


def draw(
    network: Network, batches: Iterable[Batch], name: Callable[[int], str], folder: Path, device: torch.device | str
) -> None:
    """One PNG an image: input, mask and maps side by side, each under its name.

    Args:
        network, batches, device: as in `evaluate`.
        name: file name by index of the image.
        folder: made if need be.

    Raises:
        InputError: a picture cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error}); set output_dir, or pictures=false") from error
    for batch, maps, scores in _predictions(network, batches, device, None):
        shown = {k: maps[k] for k in ("f1", "C", "F") if k in maps} or maps
        for i, index in enumerate(batch.index.tolist()):
            panels = {"input": batch.image[i, 0].cpu().numpy(), "mask": batch.mask[i, 0].cpu().numpy()}
            panels |= {f"{k} {scores[k][i]:.4g}": v[i, 0].cpu().numpy() for k, v in shown.items()}
            path = folder / f"{name(index)}.png"
            if not cv2.imwrite(str(path), _strip(panels)):
                raise InputError(f"{path}: cannot be written; free space, or set output_dir or pictures=false")


def _predictions(network: Network, batches: Iterable[Batch], device: torch.device | str, progress: str | None):
    modes = [(module, module.training) for module in network.modules()]  # part by part: some may be frozen
    network.eval().to(device)
    try:
        for raw in tqdm(batches, desc=progress, unit="image", leave=False, disable=progress is None):
            batch = to_float(Batch(*(t.to(device) for t in raw)))
            with torch.no_grad():
                output = network(batch.image)
                maps = network.maps(output)
                yield batch, maps, network.scores(output, maps)
    finally:
        for module, training in modes:
            module.training = training


def _strip(panels: dict[str, np.ndarray]) -> np.ndarray:
    """Panels (h, w) in [0, 1] side by side under their captions, (h + 22, ..., 3) uint8; maps in false colour."""
    columns = []
    for caption, values in panels.items():
        grey = (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
        flat = caption in ("input", "mask")
        coloured = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR) if flat else cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO)
        head = np.full((22, grey.shape[1], 3), 255, np.uint8)
        cv2.putText(head, caption, (3, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
        columns += [np.vstack([head, coloured]), np.full((grey.shape[0] + 22, 2, 3), 255, np.uint8)]
    return np.hstack(columns[:-1])
