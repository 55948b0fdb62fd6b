"""An alarm threshold with a guarantee: "at most a share of the defects is missed, with this confidence".

With n independent defective scores and a threshold just below the k-th smallest, k - 1 of them are missed. Its true
miss rate exceeds a only if k - 1 or fewer of the n fell into the lowest region, of probability a or more, of the
distribution: the chance of that is at most P(Bin(n, a) <= k - 1), whatever the distribution, ties and discrete scores
included. So the largest k with P(Bin(n, a) <= k - 1) <= 1 - c guarantees "at most a, with confidence c". It is

- a one-sided distribution-free tolerance limit (Wilks, Annals of Mathematical Statistics 12, 1941); for distributions
  with jumps it holds at least as often as it says (Scheffé and Tukey, ibid. 16, 1945);
- the same as asking that the exact upper limit for k - 1 misses of n (Clopper and Pearson, Biometrika 26, 1934) is at
  most a;
- split-conformal prediction for the class "defective", with validity conditional on the calibration images (Vovk,
  "Conditional validity of inductive conformal predictors", 2012; Angelopoulos and Bates, "A gentle introduction to
  conformal prediction", 2021, on the distribution of coverage). The usual, marginal form guarantees a only on
  average over calibration sets, and is left out: one kind of guarantee, the stronger.

What it assumes, and what it cannot do:

- Calibration defects and later ones are independent draws from the same production. Nothing is guaranteed
  about new kinds of defect, another camera or another light.
- Several images of one group (one physical part) are not independent. With `groups`, a group counts once, by its lowest
  defective score: the guarantee is then about groups, a group being missed if any of its defective images is.
- `strict`: all scores come from the very model that is deployed, on images that it was not trained, tuned or picked on.
  `pooled`: cross-fold scores, each image scored by the one fold's model that did not see it. The deployed model is
  another one (a fold's, or the ensemble), and the folds' scores hang together through shared training images, so the
  guarantee carries over only as far as these models score alike; no theorem says so (Barber, Candès, Ramdas and
  Tibshirani, "Predictive inference with the jackknife+", 2021, show that pooled folds may lose up to a factor of two of
  the marginal guarantee). `duplicates`: some of these images have an identical one in training, so that scores on them
  say little about new ones. The sentence says which of the three it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomaly_seg.errors import InputError
from anomaly_seg.evaluation.metrics import checked, clopper_pearson

Basis = Literal["strict", "pooled", "duplicates"]

GUARANTEES = ((0.05, 0.90), (0.05, 0.95), (0.10, 0.90), (0.10, 0.95))
"""(miss rate, confidence) that `train` and `report` try."""

MARGIN = 1e-3
"""The threshold lies this share of the k-th score below it: runtimes that agree to that give the same verdict on it."""

FLOAT32_FLOOR_MARGIN = 1e-37  # below a score of 0 by what float32 can still tell from 0
ROUNDING = 1e-9  # relative; lets a bound that is met exactly, such as 0.9^2 <= 0.81, survive binary fractions


@dataclass(frozen=True)
class Guarantee:
    """A threshold and what it guarantees. Verdict: defective if ``score > threshold``.

    misses_allowed: how many of the ``defective`` calibration units (images, or groups where one has several images)
    may lie below the threshold. false_alarms: of ``good`` images, at the threshold. The threshold depends on
    defective scores only, so `false_alarm_interval` is exact for independent good images.
    """

    threshold: float
    misses_allowed: int
    defective: int
    miss_rate: float
    confidence: float
    false_alarms: int
    good: int
    basis: Basis = "strict"
    unit: Literal["images", "groups"] = "images"

    @property
    def false_alarm_interval(self) -> tuple[float, float]:
        """Exact two-sided 95 % interval of the false-alarm rate; (0, 1) without a good image."""
        return clopper_pearson(self.false_alarms, self.good)

    @property
    def sentence(self) -> str:
        """The guarantee, what it costs and what it assumes, for people."""
        says = f"at most {percent(self.miss_rate)} of defective {self.unit} missed, with confidence "
        says += (
            f"{percent(self.confidence)} (from {self.defective} held-out ones, of which {self.misses_allowed} may be "
        )
        says += "missed). "
        if self.unit == "groups":
            says += "A group is missed if any of its defective images is. "
        says += f"{self._cost()} It holds for {self.unit} drawn independently from the same production."
        if self.basis == "strict":
            return f"{says[0].upper()}{says[1:]}"
        condition, reason = {
            "pooled": ("the deployed model scores like the models of the folds", "The scores are pooled over folds"),
            "duplicates": (
                "new images are scored like these",
                "Some of these images have an identical one in training",
            ),
        }[self.basis]
        return f"If {condition}: {says} {reason}, so this is an estimate, not a strict guarantee."

    def _cost(self) -> str:
        if not self.good:
            return "The false-alarm rate is unknown: no good image was scored."
        low, high = self.false_alarm_interval
        return (
            f"It costs {self.false_alarms} false alarms on {self.good} good images "
            f"({100 * self.false_alarms / self.good:.1f} %, 95 % interval {100 * low:.1f} to {100 * high:.1f} %)."
        )


class NotEnoughError(InputError):
    """Too few defective samples for the guarantee. needed: how many it takes; smallest: miss rate that these allow."""

    def __init__(self, miss_rate: float, confidence: float, defective: int, unit: str) -> None:
        self.needed = needed(miss_rate, confidence)
        self.defective = defective
        self.smallest = smallest_miss_rate(defective, confidence)
        reachable = math.ceil(self.smallest * 1000) / 1000  # rounded up, so that the advice can be followed
        advice = f"ask for a miss rate of {reachable:g} or more, or add defective {unit}"
        super().__init__(
            f"not enough defective samples for this guarantee: a miss rate of {miss_rate:g} with confidence "
            f"{confidence:g} needs {self.needed} held-out defective {unit}, and there are {defective}: "
            + (advice if reachable < 1 else f"add defective {unit}")
        )


def guarantee(
    scores: ArrayLike,
    labels: ArrayLike,
    miss_rate: float,
    confidence: float,
    groups: Sequence[str] | None = None,
    basis: Basis = "strict",
) -> Guarantee:
    """The highest threshold that guarantees "at most `miss_rate` of the defects missed, with `confidence`".

    Args:
        scores: (n,), finite, of images that the model did not see; higher = more defective.
        labels: (n,) of 0 and 1.
        miss_rate, confidence: in (0, 1).
        groups: (n,) the group of each image; None: every image is a group of its own.
        basis: "strict" for one model and its own held-out images, "pooled" for the scores of several folds,
            "duplicates" for either where an identical image was in training.

    Raises:
        NotEnoughError: too few defective samples for this guarantee.
        InputError: miss rate or confidence outside (0, 1).
        ValueError: as `metrics.confusion`, or groups of another length.

    >>> guarantee([1.0, 2.0, 3.0, 5.0], [0, 1, 0, 1], miss_rate=0.5, confidence=0.75).false_alarms
    1
    """
    s, y = checked(scores, labels)
    units, unit = _units(s, y, groups)
    missed = misses_allowed(len(units), miss_rate, confidence)
    if missed is None:
        raise NotEnoughError(miss_rate, confidence, len(units), unit)
    at = float(np.partition(units, missed)[missed])
    threshold = at - max(MARGIN * abs(at), FLOAT32_FLOOR_MARGIN)
    alarms, good = int(np.sum(s[~y] > threshold)), int(np.sum(~y))
    return Guarantee(threshold, missed, len(units), miss_rate, confidence, alarms, good, basis, unit)


def basis_of(folds: int, identical: int) -> Basis:
    """What a guarantee rests on: scores from so many folds, and so many images with an identical one in training."""
    if identical:
        return "duplicates"
    return "strict" if folds == 1 else "pooled"


def misses_allowed(n: int, miss_rate: float, confidence: float) -> int | None:
    """The largest m with P(Bin(n, miss_rate) <= m) <= 1 - confidence; None if not even m = 0 has it.

    Raises InputError for a miss rate or confidence outside (0, 1).

    >>> misses_allowed(59, 0.05, 0.95), misses_allowed(58, 0.05, 0.95)
    (0, None)
    """
    from scipy.stats import binom

    _check(miss_rate, confidence)
    chance = binom.cdf(np.arange(n), n, miss_rate)  # rises with m; m = n is left out, its chance being 1
    count = int(np.searchsorted(chance, (1 - confidence) * (1 + ROUNDING), side="right"))
    return count - 1 if count else None


def needed(miss_rate: float, confidence: float) -> int:
    """The smallest n with (1 - miss_rate)^n <= 1 - confidence: fewer defective samples cannot carry the guarantee.

    Raises as `misses_allowed`.

    >>> needed(0.05, 0.95)
    59
    """
    _check(miss_rate, confidence)
    wanted = math.log1p(-confidence) + ROUNDING  # the logarithm of what `misses_allowed` compares with
    return max(1, math.ceil(wanted / math.log1p(-miss_rate)))


def smallest_miss_rate(n: int, confidence: float) -> float:
    """The smallest miss rate that n defective samples can guarantee, if none of them is missed; 1 (nothing) for n = 0.

    Raises InputError for a confidence outside (0, 1).

    >>> round(smallest_miss_rate(59, 0.95), 4)
    0.0495
    """
    _check(0.5, confidence)
    return -math.expm1(math.log1p(-confidence) / n) if n else 1.0


def percent(share: float) -> str:
    """0.05 -> "5 %"."""
    return f"{100 * share:.4g} %"


def _units(
    scores: NDArray[np.float64], defective: NDArray[np.bool_], groups: Sequence[str] | None
) -> tuple[NDArray[np.float64], Literal["images", "groups"]]:
    """Lowest defective score of every group, (groups,); "images" where no group has more than one."""
    defects = scores[defective]
    if groups is None:
        return defects, "images"
    if len(groups) != len(scores):
        raise ValueError(f"needs one group per image, got {len(groups)} for {len(scores)}")
    names, index = np.unique(np.asarray(groups, dtype=str)[defective], return_inverse=True)
    lowest = np.full(len(names), np.inf)
    np.minimum.at(lowest, index, defects)
    return lowest, "images" if len(names) == len(defects) else "groups"


def _check(miss_rate: float, confidence: float) -> None:
    for name, value in (("miss rate", miss_rate), ("confidence", confidence)):
        if not 0 < value < 1:
            raise InputError(f"{name} {value:g}: has to lie between 0 and 1, such as 0.05 for 5 %")
