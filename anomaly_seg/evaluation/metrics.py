"""Image-level and pixel-level measures: pure functions on scores and labels, no torch.

Throughout, ``scores`` is ``(n,)``, finite, higher = more defective; ``labels`` is ``(n,)`` of 0 (good) and 1
(defective); an image is called defective if ``score > threshold`` (Eq. 6, with the field's convention 1 = defective).
A measure that the data do not define (recall without a defective image, say) is ``None``, never a made-up 0 or 1.
Where shares are summed that are rounded already, the sum may end a few bits above 1 and is cut off there; sums of whole
numbers times a share of at most 1, divided last, cannot.

scikit-learn and SciPy are imported where they are used: they take a second, which whoever only counts does not pay.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
"""Bootstrap draws behind an interval."""


@dataclass(frozen=True)
class Confusion:
    """Counts of verdicts against labels.

    >>> Confusion(tp=8, fp=2, fn=0, tn=90).precision
    0.8
    """

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def precision(self) -> float | None:
        """TP / (TP + FP) in [0, 1]; None when nothing was called defective."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float | None:
        """TP / (TP + FN) in [0, 1]; None when there is no defective image."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def false_alarm_rate(self) -> float | None:
        """FP / (FP + TN) in [0, 1]; None when there is no good image."""
        return _ratio(self.fp, self.fp + self.tn)

    @property
    def f1(self) -> float | None:
        """2 TP / (2 TP + FP + FN) in [0, 1]; None when there is no defective image and no alarm."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    def __add__(self, other: "Confusion") -> "Confusion":
        return Confusion(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)


def confusion(scores: ArrayLike, labels: ArrayLike, threshold: float) -> Confusion:
    """Counts at one threshold.

    Raises:
        ValueError: scores and labels of different length, a score that is not finite, a label other than 0 and 1.
    """
    s, y = checked(scores, labels)
    called = s > threshold
    tp, fp = int(np.sum(called & y)), int(np.sum(called & ~y))
    return Confusion(tp, fp, fn=int(y.sum()) - tp, tn=int((~y).sum()) - fp)


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Area under precision over recall, by steps, in [0, 1]; None without a defective image. Raises as `confusion`."""
    from sklearn.metrics import average_precision_score

    s, y = checked(scores, labels)
    return min(1.0, float(average_precision_score(y, s))) if y.any() else None


def weighted_average_precision(scores: ArrayLike, labels: ArrayLike, weights: ArrayLike) -> NDArray[np.float64]:
    """`average_precision` for many weightings of the images at once; weight 2 counts an image twice, 0 leaves it out.

    Args:
        weights: (b, n) whole numbers, not negative.

    Returns:
        (b,) in [0, 1]; NaN where no defective image has weight.

    Raises:
        ValueError: as `confusion`.

    >>> weighted_average_precision([3.0, 2.0, 1.0], [1, 0, 1], [[1, 1, 1], [1, 0, 1], [0, 2, 0]]).round(3).tolist()
    [0.833, 1.0, nan]
    """
    s, y = checked(scores, labels)
    order = np.argsort(-s, kind="stable")
    last = np.flatnonzero(np.append(np.diff(s[order]) != 0, True))  # of images with equal scores: they rank together
    w = np.asarray(weights, dtype=np.int64)[:, order]
    called, hits = np.cumsum(w, axis=1)[:, last], np.cumsum(w * y[order], axis=1)[:, last]
    gained = np.diff(hits, prepend=0, axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.sum(gained * hits / np.maximum(called, 1), axis=1) / hits[:, -1])


def resampled_average_precision(
    scores: ArrayLike, labels: ArrayLike, units: ArrayLike, draws: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """Bootstrap of `average_precision`: units drawn with replacement, as many as there are, with all their images.

    A unit is what varies independently: a group, of which there may be several images (cluster bootstrap; Davison and
    Hinkley, Bootstrap Methods and their Application, 1997, 3.8). The draws depend on the units and the seed alone, so
    those of two methods on the same images are pairs.

    Args:
        units: (n,) names.

    Returns:
        (draws,) in [0, 1]; NaN where no defective image was drawn. Raises as `confusion`.
    """
    _, unit = np.unique(np.asarray(units), return_inverse=True)
    number = int(unit.max()) + 1
    counts = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=draws)
    step = max(1, 2_000_000 // len(unit))  # rows at once: memory stays small however many images there are
    chunks = [weighted_average_precision(scores, labels, counts[k : k + step, unit]) for k in range(0, draws, step)]
    return np.concatenate(chunks)


def percentile_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float | None, float | None]:
    """The central ``confidence`` of bootstrap values, NaN left aside; (None, None) where nothing is left."""
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    if not known.size:
        return None, None
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def auroc(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Area under the ROC curve in [0, 1]; None unless there are good and defective images. Raises as `confusion`."""
    from sklearn.metrics import roc_auc_score

    s, y = checked(scores, labels)
    return min(1.0, float(roc_auc_score(y, s))) if y.any() and not y.all() else None


def fp_at_fn0(scores: ArrayLike, labels: ArrayLike) -> int | None:
    """False alarms at the highest threshold that misses nothing; None without a defective image. Raises as `confusion`.

    Nothing is missed only if the threshold lies below the lowest score of a defective image, so a good image that
    *equals* that score is an alarm too.

    >>> fp_at_fn0([0.1, 0.5, 0.5, 0.9], [0, 0, 1, 1])
    1
    """
    s, y = checked(scores, labels)
    return int(np.sum(s[~y] >= s[y].min())) if y.any() else None


@lru_cache(maxsize=4096)  # a report asks for few different counts, many times, and SciPy takes milliseconds
def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval for a proportion, ``k`` of ``n`` (Clopper and Pearson, Biometrika 26, 1934).

    Without trials (n = 0) anything is possible: (0, 1).

    Raises:
        ValueError: unless 0 <= k <= n and 0 < confidence < 1.
    """
    from scipy.stats import binomtest

    if not 0 <= k <= n or not 0 < confidence < 1:
        raise ValueError(f"needs 0 <= k <= n and 0 < confidence < 1, got k={k}, n={n}, confidence={confidence}")
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(k, n).proportion_ci(confidence, "exact")
    return float(interval.low), float(interval.high)


class McNemar(NamedTuple):
    """``b``: only the first method is right; ``c``: only the second; ``p_value``: two-sided, exact."""

    b: int
    c: int
    p_value: float


def mcnemar_exact(correct_a: ArrayLike, correct_b: ArrayLike) -> McNemar:
    """Exact McNemar test of two methods on the same images (McNemar, Psychometrika 12, 1947; binomial form).

    Only the images on which exactly one method is right say anything; under "no difference" each such image falls to
    either side with probability 1/2. Without any, p = 1.

    Args:
        correct_a: (n,) bool, whether the first method's verdict is right, image by image.
        correct_b: (n,) bool, the same images in the same order.

    Raises:
        ValueError: different lengths.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"needs two vectors over the same images, got shapes {a.shape} and {b.shape}")
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(~a & b))
    if only_a + only_b == 0:
        return McNemar(0, 0, 1.0)
    return McNemar(only_a, only_b, float(binomtest(only_a, only_a + only_b, 0.5).pvalue))


class PixelMeasures(NamedTuple):
    """Pixel-level AP; the best IoU and the best Dice, each with its threshold. All None without a defective pixel."""

    ap: float | None
    iou: float | None
    dice: float | None
    threshold_iou: float | None
    threshold_dice: float | None


def pixel_measures(threshold: ArrayLike, tp: ArrayLike, fp: ArrayLike, fn: ArrayLike, tn: ArrayLike) -> PixelMeasures:
    """AP, IoU and Dice from pixel counts on a grid of thresholds (a pixel is defective if ``value > threshold``).

    AP is the stepwise sum of (recall gained) x precision from the highest threshold down, closed by the point at which
    every pixel is called defective; on a grid that separates all values it equals scikit-learn's. IoU = TP / (TP + FP +
    FN), Dice = 2 TP / (2 TP + FP + FN), each at its best threshold (the lowest, if tied), so both are oracle values.

    Args:
        threshold, tp, fp, fn, tn: (t,) each, in any order; TP + FN and FP + TN are the same in every row.

    Raises:
        ValueError: different lengths, or class totals that differ between rows.
    """
    t = np.asarray(threshold, dtype=float)
    counts = np.stack([np.asarray(c, dtype=np.int64) for c in (tp, fp, fn, tn)])
    if counts.shape[1:] != t.shape or t.ndim != 1 or t.size == 0:
        raise ValueError(f"needs as many counts as thresholds, got {counts.shape[1:]} and {t.shape}")
    positives, negatives = counts[0] + counts[2], counts[1] + counts[3]
    if np.any(positives != positives[0]) or np.any(negatives != negatives[0]):
        raise ValueError("TP + FN and FP + TN have to be the same at every threshold")
    if positives[0] == 0:
        return PixelMeasures(None, None, None, None, None)
    order = np.argsort(t)
    t, (hit, alarm, miss, _) = t[order], counts[:, order]
    iou, dice = hit / (hit + alarm + miss), 2 * hit / (2 * hit + alarm + miss)
    hits = np.append(hit[::-1], positives[0])
    called = hits + np.append(alarm[::-1], negatives[0])
    precision = hits / np.maximum(called, 1)
    ap = float(np.sum(np.diff(hits, prepend=0) * precision) / positives[0])
    i, d = int(np.argmax(iou)), int(np.argmax(dice))
    return PixelMeasures(ap, float(iou[i]), float(dice[d]), float(t[i]), float(t[d]))


def checked(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores as float64 and labels as bool, or a ValueError that says what is wrong with them."""
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if s.ndim != 1 or s.shape != y.shape:
        raise ValueError(f"scores and labels need one value per image, got shapes {s.shape} and {y.shape}")
    if not np.isfinite(s).all():
        raise ValueError(f"score of image number {int(np.argmin(np.isfinite(s)))} is not finite")
    if not np.isin(y, (0, 1)).all():
        raise ValueError("labels have to be 0 (good) or 1 (defective)")
    return s, y.astype(bool)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
