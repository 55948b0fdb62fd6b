"""The classifier without parameters: sum of the map's pixels against a threshold (paper section 2.3, Eq. 5 and 6).

The verdict is score > sigma (Eq. 6; the paper prints class 0 there, we keep the field's 1 = defective).
"""

from jaxtyping import Float
from torch import Tensor


def pooled_score(probability: Float[Tensor, "b 1 h w"]) -> Float[Tensor, " b"]:
    """G, the sum of the map's pixels (Eq. 5): global average pooling times the number of pixels.

    Args:
        probability: map in [0, 1].

    Returns:
        (b,) in [0, h * w], float64: a map sums some 700,000 small values, and float32 would round ties into being.

    >>> import torch
    >>> pooled_score(torch.full((1, 1, 2, 4), 0.25)).item()
    2.0
    """
    return to_float64(probability).sum(dim=(1, 2, 3))


def to_float64(values: Tensor) -> Tensor:
    """The same in float64: on the same device, or on the CPU if that is one of Apple's GPUs, which have no float64."""
    return (values.cpu() if values.device.type == "mps" else values).double()
