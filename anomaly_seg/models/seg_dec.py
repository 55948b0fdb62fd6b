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

from anomaly_seg.models.base import Network, Output, titled
from anomaly_seg.models.blocks import Backend, Init, Norm, conv_norm_relu, initialise, normalisation
from anomaly_seg.models.classifier import to_float64
from anomaly_seg.models.encoders.base import shape_of
from anomaly_seg.models.encoders.segdec import SegDecEncoder
from anomaly_seg.models.heads import init_head_bias

STRIDE = 8
"""Pixels of the image to one of the mask and of the features that the decision network sees."""


class Segmentation(nn.Module):
    """An encoder and a 1x1 convolution to one channel with normalisation: the mask's logit at 1/8 size.

    The features are the encoder's map of that size; deeper maps, which the published encoder does not have, are
    up-sampled to it and join it.

    Args:
        encoder: with a map at 1/8 of the image's size.
        in_channels: of the image.
        norm: of the mask.
    """

    def __init__(self, encoder: nn.Module, in_channels: int, norm: Norm) -> None:
        super().__init__()
        self.encoder = encoder
        widths, strides = shape_of(encoder, in_channels)
        if STRIDE not in strides:
            sizes = ", ".join(f"1/{stride}" for stride in strides)
            raise ValueError(f"encoder: its maps are of {sizes} of the image's size; Seg-Dec needs one of 1/{STRIDE}")
        self.first, self.size_multiple = strides.index(STRIDE), strides[-1]
        self.channels = sum(widths[self.first :])
        self.head = nn.Sequential(nn.Conv2d(self.channels, 1, 1, bias=False), normalisation(norm, 1))

    def forward(
        self, image: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b d h/8 w/8"], Float[Tensor, "b 1 h/8 w/8"]]:
        maps = list(self.encoder(image))[self.first :]
        for k in range(1, len(maps)):
            maps[k] = nnf.interpolate(maps[k], scale_factor=2**k, mode="bilinear", align_corners=False)
        features = torch.cat(maps, dim=1) if len(maps) > 1 else maps[0]
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
        encoder: of the segmentation network, with a map at 1/8 of the image's size; None is the published one.
        width_multiplier: fraction of the published channel counts of the segmentation network.
        decision_widths: channels of the decision network, not scaled by `width_multiplier`: 1 or 2 channels decide
            nothing.
        norm: "instance" is what the published code computed: statistics of the current image, at evaluation too.
        init: "normal" is the published N(0, 0.01).
        head_bias: start of the mask logit's shift (published: 0; the log-odds of a defect pixel spare Adam many steps).
        large_kernel: see `SegDecEncoder`.

    Input: (b, in_channels, h, w) in [0, 1], h and w multiples of the deepest map's stride (published: 8) and at least
    64, one of them at least 128: the decision network pools to 1/64, and a single value per channel has no statistics
    to normalise by.
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
        encoder: nn.Module | None = None,
        width_multiplier: float = 1.0,
        decision_widths: Sequence[int] = (8, 16, 32),
        norm: Norm = "instance",
        head_bias: float = 0.0,
        init: Init = "normal",
        large_kernel: Backend = "direct",
    ) -> None:
        super().__init__()
        if encoder is None:
            encoder = SegDecEncoder(in_channels, width_multiplier, norm, large_kernel)
        self.segmentation = Segmentation(encoder, in_channels, norm)
        self.size_multiple = self.segmentation.size_multiple
        self.decision = Decision(self.segmentation.channels, decision_widths, norm)
        self.title = titled(self.title, encoder)
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
