"""A trained network made light for inference: the same function with fewer operations."""

import copy
from collections import Counter

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from anomaly_seg.exporting.fused_upsampling import FusedUpBlock, saves_multiplications
from anomaly_seg.exporting.rewritable import is_doubling_block, is_foldable, is_plain, is_same_convolution
from anomaly_seg.exporting.winograd import WinogradConv
from anomaly_seg.models.base import Network
from anomaly_seg.models.encoders.efficientnet_lite0 import ConvNorm
from anomaly_seg.models.fft_conv import FftPlan

MIN_FFT_KERNEL = 11
"""Kernels from this size on are computed in the frequency domain. The 15x15 layer is then a twentieth of the
multiplications; 5x5 layers (64 channels, 704x256) take twice as long as directly."""

MIN_WINOGRAD_CHANNELS = 64
"""5x5 layers with at least so many channels on both sides are computed by Winograd's filtering. With 32 channels its
transforms cost what it saves (1408x512, OpenVINO, two cores: 93 to 129 ms and two transforms against 176)."""

BLOCK = 128
"""Output channels worked on at a time, so that their spectra stay small."""


class SpectralConv(nn.Module):
    """`FFTConv2d` (see there) as a graph of plain operators: gathers, matrix products, transpositions.

    The weight's spectrum is part of the graph, so the file holds the weight alone; ONNX Runtime and OpenVINO compute it
    once, when they open the file, as they do with everything that depends on constants only.

    Args:
        conv: of stride 1, an odd kernel and "same" padding.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.register_buffer("weight", conv.weight.detach())
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach()[:, None, None])

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        plan = FftPlan(x.shape, self.weight)
        operator = self._operator(plan, self._tiles(plan, x))
        out = torch.cat([self._block(plan, operator, part, x.shape[0]) for part in self.weight.split(BLOCK)], dim=1)
        out = out[:, :, : plan.size[0], : plan.size[1]]
        return out if self.bias is None else out + self.bias

    def _tiles(self, plan: FftPlan, x: Tensor) -> Tensor:
        """(lx, ly, tiles of all images * c): overlapping tiles, gathered by index."""
        ends = [(axis.tiles - 1) * axis.step + axis.length for axis in plan.axes]
        tail = [end - at - size for end, at, size in zip(ends, plan.lead, plan.size, strict=True)]
        x = nnf.pad(x, (plan.lead[1], tail[1], plan.lead[0], tail[0]))
        rows, columns = (torch.arange(a.tiles)[:, None] * a.step + torch.arange(a.length) for a in plan.axes)
        x = x.index_select(3, columns.flatten()).index_select(2, rows.flatten())
        (n, c), (ty, ly), (tx, lx) = x.shape[:2], rows.shape, columns.shape
        return x.reshape(n, c, ty, ly, tx, lx).permute(5, 3, 0, 2, 4, 1).reshape(lx, ly * n * ty * tx * c)

    def _operator(self, plan: FftPlan, tiles: Tensor) -> Tensor:
        """Spectra of the tiles, (bins, 2 * tiles, 2 * c): complex numbers as real 2 x 2 blocks."""
        to_x, to_y = plan.of_map
        bins, length, c = len(to_x) // 2, plan.y.length, self.weight.shape[1]
        by_x = torch.mm(to_x, tiles).reshape(bins, 2 * length, tiles.shape[1] // length)
        by_y = torch.bmm(to_y.expand(bins, -1, -1), by_x).reshape(bins * length, 2, by_x.shape[2] // c, c)
        re, im = by_y[:, 0], by_y[:, 1]
        return torch.cat([torch.cat([re, -im], 2), torch.cat([im, re], 2)], 1)

    def _block(self, plan: FftPlan, operator: Tensor, part: Tensor, n: int) -> Tensor:
        """The map (n, channels, h, w) of some of the output channels, a part of a tile too large."""
        (ty, sy, _), (tx, sx, _) = plan.axes
        to_x, to_y = plan.of_out
        bins, channels, tiles = len(to_x) // 2, len(part), n * ty * tx
        spectrum = torch.bmm(operator, plan.spectrum(part))
        # In two steps: in one, torch.export takes the result's strides for a rule about n.
        spectrum = spectrum.reshape(bins, plan.y.length, 2, tiles, channels).flatten(3, 4).flatten(1, 2)
        by_y = torch.bmm(to_y.t().contiguous().expand(bins, -1, -1), spectrum).reshape(2 * bins, sy * tiles * channels)
        out = torch.mm(to_x.t().contiguous(), by_y).reshape(sx, sy, n, ty, tx, channels)
        return out.permute(2, 5, 3, 1, 4, 0).reshape(n, channels, ty * sy, tx * sx)


def optimize(network: Network, fewer: bool = True) -> Network:
    """A copy for inference: normalisation with running statistics in the convolutions, large kernels by spectrum.

    Only layers whose function is known are rewritten (see `rewritable`); all others are left as they are.

    Args:
        network: as trained.
        fewer: also compute wide 5x5 convolutions by `WinogradConv` and merge decoder stages (`FusedUpBlock`). Not for
            8-bit weights, which the transforms would spread over too large a range.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    shared = _shared_modules(network)
    for stage in list(network.modules()):
        if is_plain(stage, nn.Sequential) and stage not in shared:
            _fold(stage, shared)  # type: ignore[arg-type]
        elif is_plain(stage, ConvNorm) and stage not in shared:
            stage.fold()  # type: ignore[operator]
    if fewer:
        for name, block in list(network.named_modules()):
            if is_doubling_block(block) and saves_multiplications(block):  # type: ignore[arg-type]
                _replace(network, name, FusedUpBlock(block))  # type: ignore[arg-type]
    for name, conv in list(network.named_modules()):
        if not isinstance(conv, nn.Conv2d) or not is_same_convolution(conv) or conv in shared:
            continue
        if min(conv.kernel_size) >= MIN_FFT_KERNEL:
            _replace(network, name, SpectralConv(conv))
        elif fewer and _is_wide(conv):
            _replace(network, name, WinogradConv(conv))
    return network


def _shared_modules(network: nn.Module) -> set[nn.Module]:
    """Modules that the network holds in more than one place: replaced in one, they would differ in the other."""
    count = Counter(module for _, module in network.named_modules(remove_duplicate=False))
    return {module for module, places in count.items() if places > 1}


def _is_wide(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == (5, 5) and min(conv.in_channels, conv.out_channels) >= MIN_WINOGRAD_CHANNELS


def _replace(network: nn.Module, name: str, by: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, by)


def _fold(stage: nn.Sequential, shared: set[nn.Module]) -> None:
    """Make batch normalisation right behind a convolution that convolution's weight and bias.

    The normalisation's place is kept by an identity, for a network may ask for a layer by its number.
    """
    for i in range(1, len(stage)):
        conv, norm = stage[i - 1], stage[i]
        if is_foldable(conv, norm) and not {conv, norm} & shared:
            stage[i - 1] = fuse_conv_bn_eval(conv, norm)  # type: ignore[type-var, arg-type]
            stage[i] = nn.Identity()
