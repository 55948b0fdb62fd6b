"""Heads: from features to the logit of a map, and where their bias begins."""

import math
from typing import Literal

import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor, nn


class SideOutput(nn.Module):
    """1x1 convolution to one channel, then up-sampling to input size (section 2.2.2).

    The paper up-samples first. Both are linear and the interpolation weights of a pixel sum to 1, so the order does not
    change the function, but up-sampling one channel instead of many costs a fraction of the memory.
    """

    def __init__(self, channels: int, factor: int, mode: Literal["bilinear", "nearest"]) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, 1, 1)
        self.factor, self.mode = factor, mode

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 H W"]:
        logit = self.reduce(x)
        if self.factor == 1:
            return logit
        align = False if self.mode == "bilinear" else None
        return nnf.interpolate(logit, scale_factor=self.factor, mode=self.mode, align_corners=align)


def init_head_bias(log_odds: float, layer: nn.Module) -> None:
    """Let a head's layer begin at this log-odds of a defect, by its bias. Raises ValueError for no finite number."""
    if not isinstance(log_odds, int | float) or not math.isfinite(log_odds):
        raise ValueError(f"head_bias={log_odds}: use a number, or prior")
    nn.init.constant_(layer.bias, log_odds)  # type: ignore[arg-type]


def prior_log_odds(fraction: float) -> float:
    """Log-odds of a defect pixel, for `head_bias`.

    Args:
        fraction: share of defect pixels in what is trained on, in [0, 1]; held inside [1e-4, 0.5] so that neither a
            missing nor an overwhelming class starts the training saturated.
    """
    p = min(max(fraction, 1e-4), 0.5)
    return math.log(p / (1 - p))
