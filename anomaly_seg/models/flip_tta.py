"""Averaging over mirror images at scoring: four answers about the same surface instead of one."""

from collections.abc import Container, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from anomaly_seg.models.base import Network, Output, TileJoin

FLIPS = ((), (3,), (2,), (2, 3))
"""Dimensions of (b, c, h, w) that are reversed: as it is, left-right, up-down, both."""


class FlipAverage(Network):
    """A trained network whose logits are the mean over the image and its three mirror images.

    For surfaces where a mirrored defect is as likely as the defect itself, so that flips are no new kind of image
    (train with augment=flips or light). Four forward passes. Maps and scores are computed from the mean logits.

    Args:
        network: what is asked four times; its parameters are shared, not copied.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.readout, self.title = network.readout, network.title
        self.shown_maps, self.meanings = network.shown_maps, network.meanings

    def forward(self, image: Float[Tensor, "b c h w"]) -> Output:
        outputs = [(dims, self.network(image.flip(dims))) for dims in FLIPS]
        logits = {
            name: torch.stack([out.logits[name].flip(dims) for dims, out in outputs]).mean(dim=0)
            for name in outputs[0][1].logits
        }
        decided = [out.decision for _, out in outputs if out.decision is not None]
        return Output(logits, torch.stack(decided).mean(0) if decided else None)

    def maps(self, output: Output) -> dict[str, Float[Tensor, "b 1 h w"]]:
        return self.network.maps(output)

    def scores(self, output: Output, maps: dict[str, Tensor]) -> dict[str, Float[Tensor, " b"]]:
        return self.network.scores(output, maps)

    def tile_join(self, readout: str, maps: Container[str]) -> TileJoin:
        return self.network.tile_join(readout, maps)

    def drawn(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.network.drawn(maps)

    def pixel_map(self, maps: dict[str, Tensor]) -> str:
        return self.network.pixel_map(maps)

    def nearest_size(self, height: int, width: int) -> tuple[int, int]:
        return self.network.nearest_size(height, width)
