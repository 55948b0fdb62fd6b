"""U-Net (Ronneberger, Fischer, Brox, MICCAI 2015) with 'same' padding, normalisation and transposed convolutions."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anomaly_seg.models.base import Network, Output, titled
from anomaly_seg.models.blocks import Init, Norm, UpBlock, conv_stage, decode, initialise, scale_channels
from anomaly_seg.models.encoders.base import Encoder, shape_of
from anomaly_seg.models.heads import SideOutput, init_head_bias


class UNetEncoder(Encoder):
    """The published path down: pairs of 3x3 convolutions, the width doubled at each halving.

    Args:
        in_channels: 1 for grey images.
        widths: channels at full size, 1/2, 1/4 and so on.
        norm: normalisation after each convolution.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], norm: Norm) -> None:
        super().__init__()
        self.in_channels, self.widths = in_channels, tuple(widths)
        self.strides = tuple(2**level for level in range(len(widths)))
        self.stages = nn.ModuleList(
            conv_stage(a, b, 3, 2, norm) for a, b in zip([in_channels, *widths], widths, strict=False)
        )
        self.pool = nn.MaxPool2d(2)

    def forward(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        self.check_channels(image)
        maps: list[Tensor] = []
        for stage in self.stages:
            maps.append(stage(self.pool(maps[-1]) if maps else image))
        return maps


class UNet(Network):
    """An encoder, by default `UNetEncoder`, and its mirror image.

    Args:
        in_channels: 1 for grey images.
        encoder: gives the maps that the decoder joins; None is the published one, of which alone the next three speak.
        width_multiplier: fraction of `base`.
        base: channels at full size (64 in the original).
        depth: number of down-samplings (4 in the original).
        norm, init: as in the other networks.
        head_bias: start of the last 1x1 convolution's bias.

    Input: (b, in_channels, h, w) in [0, 1], h and w multiples of the deepest map's stride (published: 2^depth) and at
    least twice that.
    """

    readout = "map"
    title = "U-Net"
    meanings: Mapping[str, str] = {"map": "sum of the map's pixels"}

    def __init__(
        self,
        in_channels: int = 1,
        encoder: nn.Module | None = None,
        width_multiplier: float = 1.0,
        base: int = 64,
        depth: int = 4,
        norm: Norm = "batch",
        head_bias: float = 0.0,
        init: Init = "default",
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth={depth}: use 1 or more")
        if base < 1:
            raise ValueError(f"base={base}: use 1 or more")
        published = [scale_channels(base * 2**level, width_multiplier) for level in range(depth + 1)]
        self.encoder = encoder if encoder is not None else UNetEncoder(in_channels, published, norm)
        widths, strides = shape_of(self.encoder, in_channels)
        self.size_multiple, self.smallest_size = strides[-1], 2 * strides[-1]  # one value has no statistics
        self.up = nn.ModuleList(UpBlock(below, c, c, 3, norm) for c, below in pairwise(widths))
        self.head = SideOutput(widths[0], strides[0], "bilinear")
        self.title = titled(self.title, self.encoder)
        initialise(self, init)
        init_head_bias(head_bias, self.head.reduce)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Output:
        self.check_size(image)
        return Output({"map": self.head(decode(self.up, self.encoder(image))[0])})

    def maps(self, output: Output) -> dict[str, Float[Tensor, "b 1 h w"]]:
        return {"map": torch.sigmoid(output.logits["map"].float())}
