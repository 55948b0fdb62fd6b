"""The threshold of a sealed model and what its card says about it."""

from collections.abc import Sequence

import numpy as np

from anomaly_seg.errors import InputError
from anomaly_seg.evaluation import metrics, thresholds
from anomaly_seg.evaluation.guarantee import basis_of, guarantee
from anomaly_seg.exporting.ensemble import HeldOut, Member
from anomaly_seg.inference.model_card import Estimate, Metrics, Threshold
from anomaly_seg.results import run_files

KINDS = ("held_out", "paper", "guarantee")


def choose(
    threshold: str | float,
    members: Sequence[Member],
    scores: HeldOut,
    *,
    int8: bool,
    miss_rate: float,
    confidence: float,
) -> Threshold:
    """The threshold that `--threshold` asks for.

    Args:
        threshold: held_out, paper, guarantee, or a number.
        members: the runs.
        scores: of images that they had not in training.
        int8: whether the model will compute in 8 bits.
        miss_rate, confidence: of a guarantee, each in (0, 1).

    Raises:
        InputError: an unknown kind, a promise or a best F1 that the scores do not allow, or no published threshold.
    """
    kind = str(threshold)
    if kind == "held_out":
        return _held_out(scores, int8)
    if kind == "paper":
        return _paper(members)
    if kind == "guarantee":
        return _guarantee(members, scores, miss_rate, confidence)
    try:
        value = float(kind)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise InputError(f"--threshold {kind}: choose {', '.join(KINDS)}, or give a number")
    return Threshold(value=value, kind="given", how="given at export", oracle=False)


def _held_out(scores: HeldOut, int8: bool) -> Threshold:
    if not scores.label.any():
        raise InputError("--threshold held_out: no defective image among the held-out scores; give a number instead")
    value = thresholds.best_f(scores.score, scores.label)
    names = ", ".join(map(str, _folds(scores)))
    if int8:
        how = (
            f"best F1 of the float32 model on the test images of fold {names}, on which the INT8 model is judged too: "
            "an oracle, so expect less"
        )
        return Threshold(value=value, kind="held_out", how=how, oracle=True)
    if _crosses(scores):
        how = (
            f"best F1 over the pooled held-out scores of folds {names}, each image scored by the model that had not "
            "seen it; the metrics are at thresholds chosen on the other folds"
        )
        return Threshold(value=value, kind="held_out", how=how, oracle=False)
    how = (
        f"best F1 on the test images of fold {names}, the very images of the metrics: an oracle, so expect less; "
        "export the folder of all folds for an honest estimate"
    )
    return Threshold(value=value, kind="held_out", how=how, oracle=True)


def _paper(members: Sequence[Member]) -> Threshold:
    sigma = [member.result.sigma for member in members]
    known = [value for value in sigma if value is not None]
    if len(known) < len(sigma):
        run = members[0].result.run
        raise InputError(f"--threshold paper: none was published for {run.model} at D = {run.dilation}; use held_out")
    how = "the published sigma, scaled to the number of pixels; chosen without these scores"
    return Threshold(value=float(np.median(known)), kind="paper", how=how, oracle=False)


def _guarantee(members: Sequence[Member], scores: HeldOut, miss_rate: float, confidence: float) -> Threshold:
    """NotEnoughError, which names how many it takes, is an InputError."""
    basis = basis_of(len(_folds(scores)), sum(member.result.duplicates_across_split.identical for member in members))
    promise = guarantee(scores.score, scores.label, miss_rate, confidence, scores.representative, basis)
    return Threshold(value=promise.threshold, kind="guarantee", how=promise.sentence, oracle=True)


def judge(threshold: Threshold, scores: HeldOut) -> Metrics | None:
    """Metrics on the held-out images; None where there is no defective, or no good one.

    A threshold of the best F1 over several folds is judged fold by fold, at the best F1 of the other folds; any other
    one as it is.
    """
    if len(set(scores.label.tolist())) < 2:
        return None
    crosses = threshold.kind == "held_out" and not threshold.oracle
    limits = np.full(len(scores.label), threshold.value)
    if crosses:
        folds = {k: scores.fold == k for k in _folds(scores)}
        found = thresholds.cross_fold(*({k: v[at] for k, at in folds.items()} for v in (scores.score, scores.label)))
        limits = np.array([found[k] for k in scores.fold.tolist()])
    c = metrics.confusion((scores.score > limits).astype(float), scores.label, 0.5)
    return Metrics(
        threshold="cross_fold" if crosses else "card", images=len(scores.label), defective=c.tp + c.fn,
        tp=c.tp, fp=c.fp, fn=c.fn, tn=c.tn, f1=c.f1,
        average_precision=metrics.average_precision(scores.score, scores.label),
        recall=_estimate(c.tp, c.tp + c.fn), false_alarm_rate=_estimate(c.fp, c.fp + c.tn),
    )  # fmt: skip


def pixel_threshold(members: Sequence[Member]) -> float:
    """The value of the heat map with the best Dice over all runs' held-out pixels; 0.5 where there is no defect."""
    counts = [run_files.read_pixels(member.folder) for member in members]
    grid = counts[0].threshold
    if any(not np.array_equal(grid, other.threshold) for other in counts):
        raise InputError(f"{members[0].folder}: pixels.csv of another grid than its neighbours'; run them again")
    sums = [np.sum([getattr(c, name) for c in counts], axis=0) for name in ("tp", "fp", "fn", "tn")]
    found = run_files.Pixels(grid, *sums).measures().threshold_dice
    return 0.5 if found is None else found


def _folds(scores: HeldOut) -> list[int]:
    return sorted(set(scores.fold.tolist()))


def _crosses(scores: HeldOut) -> bool:
    """Whether every fold has a defective image in the others."""
    folds = _folds(scores)
    return len(folds) > 1 and all(scores.label[scores.fold != k].any() for k in folds)


def _estimate(k: int, n: int) -> Estimate:
    low, high = metrics.clopper_pearson(k, n)
    return Estimate(value=k / n, low=low, high=high)
