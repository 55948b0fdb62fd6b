"""U-Net (Ronneberger, Fischer, Brox, MICCAI 2015) with 'same' padding, normalisation and transposed convolutions."""

from collections.abc import Mapping
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anomaly_seg.models.base import Network, Output
from anomaly_seg.models.blocks import Init, Norm, UpBlock, conv_stage, initialise, scale_channels
from anomaly_seg.models.heads import SideOutput, init_head_bias


class UNet(Network):
    """Encoder of 3x3 convolutions in pairs, doubling the width at each halving, and its mirror image.

    Args:
        in_channels: 1 for grey images.
        width_multiplier: fraction of `base`.
        base: channels at full size (64 in the original).
        depth: number of down-samplings (4 in the original).
        norm, init: as in the other networks.
        head_bias: start of the last 1x1 convolution's bias.

    Input: (b, in_channels, h, w) in [0, 1], h and w multiples of 2^depth and at least twice that.
    """

    readout = "map"
    title = "U-Net"
    meanings: Mapping[str, str] = {"map": "sum of the map's pixels"}

    def __init__(
        self,
        in_channels: int = 1,
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
        self.size_multiple = 2**depth
        self.smallest_size = 2 * self.size_multiple  # one value per channel has no statistics to normalise by
        widths = [scale_channels(base * 2**level, width_multiplier) for level in range(depth + 1)]
        self.down = nn.ModuleList(
            conv_stage(a, b, 3, 2, norm) for a, b in zip([in_channels, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(UpBlock(below, c, c, 3, norm) for c, below in pairwise(widths))
        self.pool = nn.MaxPool2d(2)
        self.head = SideOutput(widths[0], 1, "bilinear")
        initialise(self, init)
        init_head_bias(head_bias, self.head.reduce)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Output:
        self.check_size(image)
        skips: list[Tensor] = []
        x = image
        for level, stage in enumerate(self.down):
            x = stage(x if level == 0 else self.pool(x))
            skips.append(x)
        for level in reversed(range(len(self.up))):
            x = self.up[level](x, skips[level])
        return Output({"map": self.head(x)})

    def maps(self, output: Output) -> dict[str, Float[Tensor, "b 1 h w"]]:
        return {"map": torch.sigmoid(output.logits["map"].float())}
