"""The classifier without parameters: sum of the map's pixels against a threshold (paper section 2.3, Eq. 5 and 6)."""

from jaxtyping import Bool, Float
from torch import Tensor


def pooled_score(probability: Float[Tensor, "b 1 h w"]) -> Float[Tensor, " b"]:
    """G, the sum of the map's pixels (Eq. 5): global average pooling times the number of pixels.

    Args:
        probability: map in [0, 1].

    Returns:
        (b,) in [0, h * w], float64: a map sums some 700,000 small values, and float32 would round ties into being.

    >>> pooled_score(torch.full((1, 1, 2, 4), 0.25)).item()
    2.0
    """
    return probability.double().sum(dim=(1, 2, 3))


def is_defective(score: Float[Tensor, " b"], sigma: float) -> Bool[Tensor, " b"]:
    """True where G > sigma (Eq. 6; the paper prints class 0 there, we keep the field's 1 = defective)."""
    return score > sigma
