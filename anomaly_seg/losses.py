"""Losses as pure functions, and which of them counts when."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor

from anomaly_seg.models.base import Network


class Phase(NamedTuple):
    """A stretch of training: what is trained and how much each loss counts.

    name: for logs. length: in units of the run's `epochs`, above 0: two phases of length 1 train twice as long.
    train: names of the network's parts that learn; empty = all. The rest is frozen, normalisation statistics included.
    weights: name of a logit -> weight of its loss; 0 leaves it out.
    """

    name: str
    length: float
    train: tuple[str, ...]
    weights: dict[str, float]


def check_phases(phases: Sequence[Phase]) -> None:
    """Refuse phases that make no sense.

    Raises:
        ValueError: no phase, a length that is not positive, a negative weight, or a phase that supervises nothing.
    """
    if not phases or any(p.length <= 0 for p in phases):
        raise ValueError(f"needs phases, each with a length above 0, not {[p.length for p in phases]}")
    for p in phases:
        if any(w < 0 for w in p.weights.values()) or not any(p.weights.values()):
            raise ValueError(f"phase '{p.name}': weights {p.weights} must be 0 or more, with one above 0")


class Stretch(NamedTuple):
    """A phase and its steps: from `start` up to, not including, `end`."""

    phase: Phase
    start: int
    end: int


def phase_at(phases: Sequence[Phase], step: int, total_steps: int) -> Stretch:
    """The phase of a step: a pure function, so that a resumed run is in the phase it left.

    Args:
        phases: in order.
        step: 0-based optimisation step; later than the last, it belongs to the last phase.
        total_steps: of the whole run.
    """
    total_length = sum(p.length for p in phases)
    start, length = 0, 0.0
    for phase in phases:
        length += phase.length
        end = round(length / total_length * total_steps)
        if step < end or phase is phases[-1]:
            return Stretch(phase, start, end)
        start = end
    raise ValueError("no phases")


def binary_cross_entropy(logit: Tensor, target: Tensor, positive_weight: float = 1.0) -> Tensor:
    """Mean binary cross-entropy of sigmoid(logit) against a target of the same shape (Eq. 3), from logits.

    Args:
        logit: unbounded.
        target: in [0, 1].
        positive_weight: factor on the defect term; 1 is the paper's loss.

    >>> round(binary_cross_entropy(torch.zeros(4), torch.tensor([0.0, 0.0, 1.0, 1.0])).item(), 4)
    0.6931
    """
    weight = None if positive_weight == 1 else torch.tensor(positive_weight, device=logit.device)
    return nnf.binary_cross_entropy_with_logits(logit.float(), target, pos_weight=weight)


def lowest_cross_entropy(target: Tensor, positive_weight: float = 1.0) -> Tensor:
    """Lowest `binary_cross_entropy` that one probability can have against each value, of the target's shape.

    It is reached at p = w t / (w t + 1 - t), and for w = 1 it is the entropy of t. Of a mean target it is the loss of
    the best constant guess, for the cross-entropy is linear in the target.

    Args:
        target: in [0, 1].
        positive_weight: w, see `binary_cross_entropy`.

    >>> [round(value, 4) for value in lowest_cross_entropy(torch.tensor([0.0, 0.1, 0.5])).tolist()]
    [0.0, 0.3251, 0.6931]
    """
    defect, good = positive_weight * target, 1 - target
    return torch.xlogy(defect, (defect + good) / defect) + torch.xlogy(good, (defect + good) / good)


def deep_supervision(
    logits: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    weights: Mapping[str, float],
    positive_weight: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of one cross-entropy per supervised logit (Eq. 3 summed over k, section 2.2.2).

    Args:
        logits, targets: by the same names; a target has its logit's shape.
        weights: by the same names.
        positive_weight: see `binary_cross_entropy`.

    Returns:
        The total, and each unweighted term detached, for the log.
    """
    terms = {name: binary_cross_entropy(logit, targets[name], positive_weight) for name, logit in logits.items()}
    total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
    return total, {name: term.detach() for name, term in terms.items()}


def network_loss(
    network: Network,
    image: Tensor,
    mask: Tensor,
    label: Tensor,
    weights: Mapping[str, float],
    positive_weight: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`deep_supervision` of a network on a batch: the forward half of a training step, as one compilable function.

    Args:
        network: any.
        image: (b, c, h, w) in [0, 1].
        mask: (b, 1, h, w) of 0 and 1.
        label: (b,) of 0 and 1.
        weights: name of a logit -> weight of its loss; a logit of weight 0 is not computed.
        positive_weight: see `binary_cross_entropy`.
    """
    logits = network.supervised(network(image), [name for name, weight in weights.items() if weight])
    targets = {name: network.target(name, mask, label) for name in logits}
    return deep_supervision(logits, targets, weights, positive_weight)
