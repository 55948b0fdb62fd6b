"""Comparison of a written model file with the networks that it was made from, before anyone is told of it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from anomaly_seg.data.preparation import Preparation
from anomaly_seg.errors import InputError
from anomaly_seg.inference.load import KINDS
from anomaly_seg.inference.runtimes import Outputs
from anomaly_seg.models.base import Network

IMAGES = 3
"""Images that are compared: each takes a pass of every network as it was trained, seconds at the paper's size."""

MAP_TOLERANCE = 1e-3
"""Largest difference of a map's pixel, a probability. Measured: up to 1e-5 (`experiments/bench/equality.py`)."""

SCORE_TOLERANCE = 0.01
"""Largest difference of a score, as a share of it. Measured: up to 0.0006, by suppression's products."""

ROUNDING = 1e-6
"""Difference for each pixel of a map that float32 alone can make in a score that sums them."""


def noise(preparation: Preparation) -> list[np.ndarray]:
    """Images to compare by where the run's own are gone: smooth noise, (h, w, c) uint8, of the network's size."""
    rng = np.random.default_rng(0)
    shape = (preparation.height // 8 + 1, preparation.width // 8 + 1, preparation.channels)
    coarse = (rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(IMAGES))
    return [c.repeat(8, 0).repeat(8, 1)[: preparation.height, : preparation.width] for c in coarse]


def check_equal(
    path: Path, networks: Sequence[Network], images: Sequence[np.ndarray], preparation: Preparation
) -> None:
    """Refuse a model file that computes something else than the mean of the networks.

    Args:
        path: of the file.
        networks: as they were trained, in evaluation mode.
        images: (h, w, c) uint8, as the graph takes them; with fit "tile" of the tiles' size.
        preparation: how the runs made samples of images.

    Raises:
        InputError: a score or a map differs by more than rounding explains, or is not finite.
    """
    infer = KINDS[path.suffix](path).infer
    for number, image in enumerate(images):
        _compare(path, number, infer(image[None]), _reference(networks, image, preparation))


@torch.no_grad()
def _reference(networks: Sequence[Network], image: np.ndarray, preparation: Preparation) -> Outputs:
    """Score and maps of one sample: what the runs' networks give, and their mean."""
    if preparation.fit != "tile":
        (image,) = preparation.images(image[..., 0] if image.shape[2] == 1 else image)
    planes = image.reshape(*image.shape[:2], -1).transpose(2, 0, 1)[None]
    pixels = torch.from_numpy(np.ascontiguousarray(planes)).float() / 255
    found: list[Outputs] = []
    for network in networks:
        output = network(pixels)
        maps = network.maps(output)
        score = network.scores(output, maps)[network.readout]
        found.append({"score": score.numpy(), **{name: values[:, 0].numpy() for name, values in maps.items()}})
    return {name: np.mean([outputs[name] for outputs in found], axis=0) for name in found[0]}


def _compare(path: Path, number: int, written: Outputs, expected: Outputs) -> None:
    score, wanted = float(written["score"][0]), float(expected["score"][0])
    pixels = max((values.size for name, values in expected.items() if name != "score"), default=0)
    allowed = SCORE_TOLERANCE * max(abs(score), abs(wanted)) + ROUNDING * pixels
    maps = {n: float(np.abs(written[n] - values).max()) for n, values in expected.items() if n != "score"}
    worst = max(maps, key=maps.__getitem__)
    if not abs(score - wanted) <= allowed or not maps[worst] <= MAP_TOLERANCE:
        raise InputError(
            f"{path.name}: not written, for it computes something else than the run: image {number + 1} scores "
            f"{score:.6g} instead of {wanted:.6g}, and map {worst} differs by {maps[worst]:.2g}. A layer of the "
            "network does not survive being sealed; try another --to, and report it with the network's file"
        )
