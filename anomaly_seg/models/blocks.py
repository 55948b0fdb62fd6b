"""Building blocks: convolution with normalisation and ReLU, and the up-sampling block of a decoder."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor, nn

from anomaly_seg.models.fft_conv import FFTConv2d

Norm = Literal["batch", "instance", "group"]
Init = Literal["default", "normal"]
Backend = Literal["direct", "fft"]


class FastInstanceNorm2d(nn.InstanceNorm2d):
    """``nn.InstanceNorm2d`` with scale and shift, by batch normalisation's faster code where the batch is one image.

    torch's own rearranges a channels_last map first: half as long again for a whole One-Stage at evaluation.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, eps=eps, affine=True)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        # An exported graph keeps the batch open.
        if torch.compiler.is_exporting() or len(x) != 1:
            return super().forward(x)
        return nnf.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)


def normalisation(kind: Norm, channels: int) -> nn.Module:
    """Normalisation with learned scale and shift.

    batch: running statistics at evaluation. instance: statistics of the current image, always; at batch size 1 this
    is what Seg-Dec's published code computes. group: eight groups (fewer for narrow layers) of the current image.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "instance":
        return FastInstanceNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(next(g for g in (8, 4, 2, 1) if channels % g == 0), channels)
    raise ValueError(f"norm={kind}: choose batch, instance or group")


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel: int, norm: Norm, backend: Backend = "direct"
) -> nn.Sequential:
    """'Same'-padded convolution without bias (the normalisation shifts), normalisation, ReLU."""
    if backend not in ("direct", "fft"):
        raise ValueError(f"large_kernel={backend}: choose direct or fft")
    conv: nn.Conv2d
    if backend == "fft":
        conv = FFTConv2d(in_channels, out_channels, kernel, bias=False)
    else:
        conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, normalisation(norm, out_channels), nn.ReLU(inplace=True))


def conv_stage(in_channels: int, out_channels: int, kernel: int, count: int, norm: Norm) -> nn.Sequential:
    """`count` convolutions of one width in a row."""
    widths = [in_channels] + [out_channels] * count
    return nn.Sequential(*(conv_norm_relu(a, b, kernel, norm) for a, b in pairwise(widths)))


class UpBlock(nn.Module):
    """One decoder stage: transposed convolution (x2), concatenation with the encoder's map, two convolutions."""

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        kernel: int,
        norm: Norm,
        transposed_kernel: int = 2,
    ) -> None:
        super().__init__()
        if transposed_kernel < 2 or transposed_kernel % 2:
            raise ValueError(f"transposed_kernel={transposed_kernel}: use an even number, 2 or more")
        padding = (transposed_kernel - 2) // 2
        self.up = nn.ConvTranspose2d(in_channels, out_channels, transposed_kernel, stride=2, padding=padding)
        self.convs = conv_stage(out_channels + skip_channels, out_channels, kernel, 2, norm)

    def forward(self, x: Float[Tensor, "b c h w"], skip: Float[Tensor, "b s 2*h 2*w"]) -> Float[Tensor, "b d 2*h 2*w"]:
        return self.convs(torch.cat([self.up(x), skip], dim=1))


def decode(stages: Iterable[nn.Module], maps: Sequence[Tensor]) -> list[Tensor]:
    """Maps of a decoder of `UpBlock` stages, finest first; the last of them is the encoder's deepest.

    Args:
        stages: one for each of the encoder's maps but the deepest, finest first.
        maps: the encoder's, finest first.
    """
    decoded = [maps[-1]]
    for stage, skip in zip(reversed(list(stages)), reversed(maps[:-1]), strict=True):
        decoded.insert(0, stage(decoded[0], skip))
    return decoded


def scale_channels(channels: int, width_multiplier: float) -> int:
    """Channel count at a fraction of the published width, at least 1."""
    if width_multiplier <= 0:
        raise ValueError(f"width_multiplier={width_multiplier}: use a number above 0 (1 is the published width)")
    return max(1, round(channels * width_multiplier))


def initialise(module: nn.Module, init: Init) -> None:
    """Weights of all convolutions and linear layers. default: torch's own; normal: N(0, 0.01), as Seg-Dec published."""
    if init not in ("default", "normal"):
        raise ValueError(f"init={init}: choose default or normal")
    if init == "normal":
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
