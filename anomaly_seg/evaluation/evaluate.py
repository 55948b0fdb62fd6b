"""From a trained network to scores and pixel counts of the test images. Plain torch.

An image may come in tiles, one a batch, those of an image in a row. Of every tile's maps only the inner region counts,
what the stitched map takes from it: the inner regions of an image's tiles are the whole image, so their pixel counts
and pooled maps add up to those of the stitched map, which is never needed in memory. A score that is no sum of pixels,
such as a decision of the network's own, is computed for each whole tile, and the highest is the image's
(`Network.tile_join`).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from anomaly_seg.data.cache import Place
from anomaly_seg.data.datamodule import Batch, to_float
from anomaly_seg.models.base import Network, Output, TileJoin

PIXEL_THRESHOLDS = torch.sigmoid(torch.cat([torch.arange(-80, -9.2, 0.5), torch.linspace(-9.2, 9.2, 185)]))
"""Grid for pixel-level counts, in log-odds, for maps crowd at both ends: products of probabilities reach down to 1e-35
(a grid that stopped at 0.0001 would leave many defect pixels of a suppressed map unranked)."""

Places = Callable[[int], Place]
"""From the index of a sample to the image, and the tile of it, that it is."""


class PixelCounts(NamedTuple):
    """Pixels above each threshold: (t,) int64 each."""

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor


class Evaluation(NamedTuple):
    """Scores (n,) float64 by readout, in the order of `index`, the pixel counts of the readout's map, and the names of
    the maps that pictures show."""

    index: np.ndarray  # type: ignore[assignment]  # tuple has an index() that nobody wants here
    scores: dict[str, np.ndarray]
    pixels: PixelCounts
    drawn: list[str]


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
    for inside in (bins[defect], bins[~defect]):
        histogram = torch.bincount(inside, minlength=len(thresholds) + 1)
        above.append(histogram.flip(0).cumsum(0).flip(0)[1:].cpu())
    tp, fp = above
    positives = int(defect.sum())
    return PixelCounts(tp, fp, positives - tp, defect.numel() - positives - fp)


@torch.no_grad()
def evaluate(
    network: Network,
    batches: Iterable[Batch],
    device: torch.device | str = "cpu",
    progress: bool = True,
    places: Places | None = None,
) -> Evaluation:
    """Scores of all images, in float32 whatever the training's precision was.

    Args:
        network: in any mode; it is evaluated in evaluation mode, and its mode is left as it came.
        batches: uint8, as loaders give them, with undilated masks.
        device: where to compute.
        progress: whether to show a bar.
        places: where samples that are tiles belong, `Arrays.place`; None: every sample is an image.
    """
    index: list[int] = []
    scores: dict[str, list[float]] = {}
    joins: dict[str, TileJoin] = {}
    totals: list[Tensor] | None = None
    drawn: list[str] = []
    for batch, maps, batch_scores in predictions(network, batches, device, "scoring" if progress else None, places):
        index += [i if places is None else places(i).image for i in batch.index.tolist()]
        for name, values in batch_scores.items():
            # Plain numbers: a small tensor kept from every tile would lie between the large ones that come and go, and
            # keep their memory from being used again.
            scores.setdefault(name, []).extend(values.double().tolist())
            joins[name] = network.tile_join(name, maps)
        drawn = list(network.drawn(maps))
        counts = pixel_counts(maps[network.pixel_map(maps)], batch.mask, PIXEL_THRESHOLDS)
        totals = list(counts) if totals is None else [a + b for a, b in zip(totals, counts, strict=True)]
    assert totals is not None, "no test images"
    joined = {name: _by_image(joins[name], values, index) for name, values in scores.items()}
    return Evaluation(np.array(list(dict.fromkeys(index))), joined, PixelCounts(*totals), drawn)


def _by_image(join: TileJoin, values: list[float], index: list[int]) -> np.ndarray:
    """Scores of images, in the order of their first tiles, from those of all tiles."""
    row = {image: k for k, image in enumerate(dict.fromkeys(index))}
    rows = [row[image] for image in index]
    out = np.full(len(row), 0.0 if join == "sum" else -np.inf)
    (np.add if join == "sum" else np.maximum).at(out, rows, values)
    return out


def predictions(
    network: Network,
    batches: Iterable[Batch],
    device: torch.device | str,
    progress: str | None,
    places: Places | None = None,
) -> Iterator[tuple[Batch, dict[str, Tensor], dict[str, Tensor]]]:
    """Each batch as floats with its maps and scores; of tiles the inner region, and scores by `Network.tile_join`."""
    tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False  # 10 bits of mantissa are no float32
    modes = [(module, module.training) for module in network.modules()]  # one by one: some may be frozen
    network.eval().to(device)
    try:
        for raw in tqdm(batches, desc=progress, unit="image", leave=False, disable=progress is None):
            batch = to_float(Batch(*(t.to(device) for t in raw)))
            with torch.no_grad():
                output = network(batch.image)
                maps = network.maps(output)
                if places is None:
                    yield batch, maps, network.scores(output, maps)
                else:
                    yield _judged_tile(network, batch, output, maps, places)
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
        for module, training in modes:
            module.training = training


def _judged_tile(
    network: Network, batch: Batch, output: Output, maps: dict[str, Tensor], places: Places
) -> tuple[Batch, dict[str, Tensor], dict[str, Tensor]]:
    """Inner region and scores of one tile: sums are over the inner region, any other score is of the whole tile."""
    inner_batch, inner_output, inner_maps = _inner(batch, output, maps, places)
    scores = network.scores(inner_output, inner_maps)
    highest = [name for name in scores if network.tile_join(name, maps) == "max"]
    if highest:
        of_tile = network.scores(output, maps)
        scores |= {name: of_tile[name] for name in highest}
    return inner_batch, inner_maps, scores


def _inner(
    batch: Batch, output: Output, maps: dict[str, Tensor], places: Places
) -> tuple[Batch, Output, dict[str, Tensor]]:
    """What the stitched map takes from one tile: the same region of image, mask, maps, and of logits of their size."""
    _, grid, tile = places(int(batch.index))
    rows, columns = grid.inside(tile)
    size = batch.image.shape[-2:]
    logits = {k: v[..., rows, columns] if v.shape[-2:] == size else v for k, v in output.logits.items()}
    cropped = batch._replace(image=batch.image[..., rows, columns], mask=batch.mask[..., rows, columns])
    return cropped, output._replace(logits=logits), {k: v[..., rows, columns] for k, v in maps.items()}
