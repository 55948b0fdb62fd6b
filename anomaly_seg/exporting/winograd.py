"""5x5 convolutions with two fifths of the multiplications: Winograd's minimal filtering along rows."""

import numpy as np
import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor, nn

STEP, TAPS = 4, 5
LENGTH = STEP + TAPS - 1
POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)
"""Where the polynomials are evaluated, besides infinity: small numbers and their inverses lose the fewest digits."""


class WinogradConv(nn.Module):
    """A 5x5 "same" convolution as F(4, 5) along rows and directly along columns.

    Winograd, "Arithmetic Complexity of Computations" (1980); Lavin and Gray, "Fast Algorithms for Convolutional Neural
    Networks" (CVPR 2016). Four neighbours of a row are computed from eight, with eight products a kernel's row instead
    of twenty. In channels-last order a tile's eight pixels lie behind one another, so both transforms are products with
    small matrices and the convolution in between is one with eight groups.

    Args:
        conv: 5x5, stride 1, padding 2, one group.

    The result differs from the convolution's by some 1e-6 of its largest value.
    """

    weight: Tensor
    bias: Tensor
    to_points: Tensor
    from_points: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        into, kernel, out = matrices()
        weight = conv.weight.detach().double()
        spectral = torch.einsum("tx,dcyx->tdcy", torch.from_numpy(kernel), weight)
        self.register_buffer("weight", spectral.flatten(0, 1)[..., None].float())
        bias = torch.zeros(LENGTH, conv.out_channels)
        if conv.bias is not None:
            # Of the polynomial's value at 1, every output takes one part.
            bias[POINTS.index(1)] = conv.bias.detach()
        self.register_buffer("bias", bias.flatten())
        self.register_buffer("to_points", torch.from_numpy(into).float())
        self.register_buffer("from_points", torch.from_numpy(out).float())

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        n, c, h, w = x.shape
        tiles = -(-w // STEP)
        lead = TAPS // 2
        rows = nnf.pad(x.permute(0, 2, 3, 1), (0, 0, lead, (tiles + 1) * STEP - lead - w))
        steps = rows.reshape(n, h, tiles + 1, STEP, c)
        values = torch.matmul(self.to_points, torch.cat([steps[:, :, :-1], steps[:, :, 1:]], dim=3))
        values = values.reshape(n, h, tiles, LENGTH * c).permute(0, 3, 1, 2)
        products = nnf.conv2d(values, self.weight, self.bias, padding=(lead, 0), groups=LENGTH)
        products = products.permute(0, 2, 3, 1).reshape(n, h, tiles, LENGTH, -1)
        out = torch.matmul(self.from_points, products).reshape(n, h, tiles * STEP, -1)
        return out[:, :, :w].permute(0, 3, 1, 2)


def matrices() -> tuple[Float[np.ndarray, "8 8"], Float[np.ndarray, "8 5"], Float[np.ndarray, "4 8"]]:
    """Of y = out @ ((kernel @ g) * (into @ d)) with y_j = sum over k of g_k d_(j + k).

    Toom and Cook's product of two polynomials by their values at `POINTS`, transposed.
    """
    inverse = np.linalg.inv(_powers(LENGTH))
    scale = np.abs(inverse).max(axis=0)  # balances data's and kernel's sizes
    return (inverse / scale).T, _powers(TAPS) * scale[:, None], _powers(STEP).T


def _powers(count: int) -> Float[np.ndarray, "8 count"]:
    """Values of the first `count` monomials at the points; at infinity that is the leading coefficient."""
    return np.vstack([np.vander(POINTS, count, increasing=True), np.eye(count)[-1]])
