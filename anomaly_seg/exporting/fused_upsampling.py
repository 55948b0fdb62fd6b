"""A decoder stage whose transposed convolution is part of the convolution that follows it."""

from typing import cast

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor, nn

from anomaly_seg.models.blocks import UpBlock


class FusedUpBlock(nn.Module):
    """`UpBlock` with its transposed convolution and first convolution as one, and without the concatenation.

    Between the two nothing is nonlinear. Of four neighbouring pixels of the result each sees, through k x k pixels of
    the enlarged map, the same 3 x 3 pixels of the small one (k = 3 or 5): one convolution of the small map with a 3x3
    kernel for each of the four. The encoder's map has a convolution of its own, and the two are added.

    The bias of the transposed convolution counts inside the map only, for the padding is 0: it comes as the weight of
    a channel of ones.

    Args:
        block: its transposed kernel is 2.
    """

    small: Tensor

    def __init__(self, block: UpBlock) -> None:
        super().__init__()
        first, rest = _first(block), list(cast(nn.Sequential, block.convs[0]))[1:]
        c = block.up.out_channels
        kernel = first.weight.detach().double()
        bias = torch.zeros(first.out_channels) if first.bias is None else first.bias.detach()
        self.skip = nn.Conv2d(first.in_channels - c, first.out_channels, kernel.shape[2], padding=kernel.shape[2] // 2)
        self.skip.weight = nn.Parameter(kernel[:, c:].float(), requires_grad=False)
        self.skip.bias = nn.Parameter(bias, requires_grad=False)
        self.register_buffer("small", _merge(block.up, kernel[:, :c]).float())
        self.rest = nn.Sequential(*rest, *list(block.convs)[1:])

    def forward(self, x: Float[Tensor, "b c h w"], skip: Float[Tensor, "b s 2*h 2*w"]) -> Float[Tensor, "b d 2*h 2*w"]:
        ones = torch.ones_like(x[:, :1])
        enlarged = nnf.pixel_shuffle(nnf.conv2d(torch.cat([x, ones], 1), self.small, padding=1), 2)
        return self.rest(enlarged + self.skip(skip))


def _merge(up: nn.ConvTranspose2d, kernel: Float[Tensor, "d c k k"]) -> Float[Tensor, "4*d i+1 3 3"]:
    """Weight of the small map's convolution: four outputs for each channel, in `pixel_shuffle`'s order."""
    enlarge, size, reach = up.weight.detach().double(), kernel.shape[2], kernel.shape[2] // 2
    bias = torch.zeros(up.out_channels) if up.bias is None else up.bias.detach()
    merged = torch.zeros(len(kernel), 2, 2, len(enlarge) + 1, 3, 3, dtype=torch.float64)
    for y, x, ky, kx in torch.cartesian_prod(*map(torch.arange, (2, 2, size, size))).tolist():
        (row, down), (column, right) = divmod(y + ky - reach, 2), divmod(x + kx - reach, 2)
        at = merged[:, y, x, :, row + 1, column + 1]
        at[:, :-1] += kernel[:, :, ky, kx] @ enlarge[:, :, down, right].t()
        at[:, -1] += kernel[:, :, ky, kx] @ bias.double()
    return merged.flatten(0, 2)


def saves_multiplications(block: UpBlock) -> bool:
    """Whether merging is possible and saves multiplications (per pixel of the small map)."""
    first = _first(block)
    i, c, d, k = block.up.in_channels, block.up.out_channels, first.out_channels, first.kernel_size[0]
    kernels = block.up.kernel_size == (2, 2) and first.kernel_size in ((3, 3), (5, 5))
    return kernels and 36 * i * d < 4 * i * c + 4 * k * k * c * d


def _first(block: UpBlock) -> nn.Conv2d:
    return cast(nn.Conv2d, cast(nn.Sequential, block.convs[0])[0])
