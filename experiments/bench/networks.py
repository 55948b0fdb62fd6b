"""Networks as the benchmarks compare them."""

import torch
from torch import Tensor, nn

from anomaly_seg.models.base import Network
from anomaly_seg.models.blocks import FastInstanceNorm2d


def use_torchs_norm(network: nn.Module) -> None:
    """Normalisation by the image through torch's own layer, as a plain implementation has it."""
    for part in network.modules():
        if isinstance(part, FastInstanceNorm2d):
            part.__class__ = nn.InstanceNorm2d  # type: ignore[assignment]


def settle(network: Network, pixels: Tensor) -> Network:
    """Running statistics of one image, where a network has any: else maps of random weights are 0 or 1 throughout."""
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(pixels)
    return network.eval()
