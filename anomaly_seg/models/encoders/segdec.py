"""The encoder that One-Stage and Seg-Dec share: the segmentation network of Tabernik et al. (2019)."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from anomaly_seg.models.blocks import Backend, Norm, conv_norm_relu, conv_stage, scale_channels
from anomaly_seg.models.encoders.base import Encoder


class Features(NamedTuple):
    """The encoder's maps, finest first."""

    full: Float[Tensor, "b c1 h w"]
    half: Float[Tensor, "b c2 h/2 w/2"]
    quarter: Float[Tensor, "b c3 h/4 w/4"]
    eighth: Float[Tensor, "b c4 h/8 w/8"]


class SegDecEncoder(Encoder):
    """Four stages, 5x5 convolutions of 32, 64 and 64 channels, then one 15x15 of 1024 channels at 1/8 size.

    Args:
        in_channels: 1 for grey images.
        width_multiplier: fraction of the published channel counts.
        norm: normalisation after each convolution.
        large_kernel: how the 15x15 convolution is computed; both give the same numbers to float32 rounding.
    """

    def __init__(
        self,
        in_channels: int = 1,
        width_multiplier: float = 1.0,
        norm: Norm = "batch",
        large_kernel: Backend = "direct",
    ) -> None:
        super().__init__()
        self.in_channels, self.strides = in_channels, (1, 2, 4, 8)
        self.widths = tuple(scale_channels(c, width_multiplier) for c in (32, 64, 64, 1024))
        c1, c2, c3, c4 = self.widths
        self.stage1 = conv_stage(in_channels, c1, 5, 2, norm)
        self.stage2 = conv_stage(c1, c2, 5, 3, norm)
        self.stage3 = conv_stage(c2, c3, 5, 4, norm)
        self.stage4 = conv_norm_relu(c3, c4, 15, norm, large_kernel)
        self.pool = nn.MaxPool2d(2)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Features:
        self.check_channels(image)
        full = self.stage1(image)
        half = self.stage2(self.pool(full))
        quarter = self.stage3(self.pool(half))
        return Features(full, half, quarter, self.stage4(self.pool(quarter)))
