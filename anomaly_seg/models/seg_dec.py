"""Seg-Dec, the two-stage baseline.

Tabernik, Sela, Skvarc, Skocaj: "Segmentation-based deep-learning approach for surface-defect detection",
Journal of Intelligent Manufacturing, 2019. A segmentation network is trained first, then frozen under a decision
network.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor, nn

from anomaly_seg.models.base import Network, Output
from anomaly_seg.models.blocks import Backend, Init, Norm, conv_norm_relu, initialise, normalisation
from anomaly_seg.models.classifier import to_float64
from anomaly_seg.models.encoders.segdec import SegDecEncoder
from anomaly_seg.models.heads import init_head_bias


class Segmentation(nn.Module):
    """The shared encoder and a 1x1 convolution to one channel with normalisation: the mask's logit at 1/8 size."""

    def __init__(self, in_channels: int, width_multiplier: float, norm: Norm, large_kernel: Backend) -> None:
        super().__init__()
        self.encoder = SegDecEncoder(in_channels, width_multiplier, norm, large_kernel)
        self.head = nn.Sequential(nn.Conv2d(self.encoder.widths[-1], 1, 1, bias=False), normalisation(norm, 1))

    def forward(
        self, image: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b d h/8 w/8"], Float[Tensor, "b 1 h/8 w/8"]]:
        features = self.encoder(image).eighth
        return features, self.head(features)


class Decision(nn.Module):
    """From features and mask to one logit per image; global average and maximum of both join at the end."""

    def __init__(self, channels: int, widths: Sequence[int], norm: Norm) -> None:
        super().__init__()
        steps = [channels + 1, *widths]
        layers: list[nn.Module] = []
        for a, b in pairwise(steps):
            layers += [nn.MaxPool2d(2), conv_norm_relu(a, b, 5, norm)]
        self.convs = nn.Sequential(*layers)
        self.linear = nn.Linear(2 * widths[-1] + 2, 1)

    def forward(self, features: Float[Tensor, "b d h w"], mask: Float[Tensor, "b 1 h w"]) -> Float[Tensor, " b"]:
        mask = nnf.relu(mask)
        deep = self.convs(torch.cat([features, mask], dim=1))
        pooled = [reduce(x, dim=(2, 3)) for x in (deep, mask) for reduce in (torch.mean, torch.amax)]
        return self.linear(torch.cat(pooled, dim=1)).squeeze(1)


class SegDec(Network):
    """Segmentation and decision networks; two phases train them one after the other.

    Args:
        in_channels: 1 for grey images.
        width_multiplier: fraction of the published channel counts of the segmentation network.
        decision_widths: channels of the decision network, not scaled by `width_multiplier`: 1 or 2 channels decide
            nothing.
        norm: "instance" is what the published code computed: statistics of the current image, at evaluation too.
        init: "normal" is the published N(0, 0.01).
        head_bias: start of the mask logit's shift (published: 0; the log-odds of a defect pixel spare Adam many steps).
        large_kernel: see `SegDecEncoder`.

    Input: (b, in_channels, h, w) in [0, 1], h and w multiples of 8 and at least 64, one of them at least 128: the
    decision network pools to 1/64, and a single value per channel has no statistics to normalise by.
    """

    smallest_size = 64
    readout = "decision"
    title = "Seg-Dec"
    meanings: Mapping[str, str] = {
        "decision": "probability that the decision network gives",
        "mask": "sum of the segmentation network's map",
    }

    def __init__(
        self,
        in_channels: int = 1,
        width_multiplier: float = 1.0,
        decision_widths: Sequence[int] = (8, 16, 32),
        norm: Norm = "instance",
        head_bias: float = 0.0,
        init: Init = "normal",
        large_kernel: Backend = "direct",
    ) -> None:
        super().__init__()
        self.segmentation = Segmentation(in_channels, width_multiplier, norm, large_kernel)
        channels = self.segmentation.encoder.widths[-1]
        self.decision = Decision(channels, decision_widths, norm)
        initialise(self, init)
        init_head_bias(head_bias, self.segmentation.head[1])

    @property
    def size_rule(self) -> str:
        return f"{super().size_rule}, and one side of at least {2 * self.smallest_size}"

    def nearest_size(self, height: int, width: int) -> tuple[int, int]:
        height, width = super().nearest_size(height, width)
        if max(height, width) >= 2 * self.smallest_size:
            return height, width
        return (2 * self.smallest_size, width) if height >= width else (height, 2 * self.smallest_size)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Output:
        self.check_size(image)
        features, mask = self.segmentation(image)
        return Output({"mask": mask}, self.decision(features, mask))

    def target(self, name: str, mask: Float[Tensor, "b 1 h w"], label: Float[Tensor, " b"]) -> Tensor:
        """Mask averaged over 17x17 windows at stride 8 for the segmentation, the image's label for the decision."""
        return segmentation_target(mask) if name == "mask" else label

    def maps(self, output: Output) -> dict[str, Float[Tensor, "b 1 h w"]]:
        logit = nnf.interpolate(output.logits["mask"].float(), scale_factor=8, mode="bilinear", align_corners=False)
        return {"mask": torch.sigmoid(logit)}

    def scores(self, output: Output, maps: dict[str, Tensor]) -> dict[str, Float[Tensor, " b"]]:
        """The decision's probability, in float64 (float32 would round sure ones into ties), and the pooled mask."""
        assert output.decision is not None
        return {"decision": torch.sigmoid(to_float64(output.decision))} | super().scores(output, maps)


def segmentation_target(mask: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h/8 w/8"]:
    """Share of defect pixels in the 17x17 window on each 8x8 cell, of the part of the window inside the image."""
    # Centred on pixel 4 of a cell (its middle is 3.5), the windows reach 4 pixels out before the first cell and 5
    # behind the last: the published code's 'same' padding. That padding is left out of the mean, or a defect at the
    # image's border would have a fainter target than the same defect elsewhere.
    mass, inside = (nnf.avg_pool2d(nnf.pad(m, (4, 5, 4, 5)), 17, 8) for m in (mask, torch.ones_like(mask[:1, :1])))
    return mass / inside
