"""Verdicts of a method at each threshold, fold by fold, and the measures that pool them."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomaly_seg.evaluation import metrics, thresholds
from anomaly_seg.evaluation.metrics import Confusion, confusion
from anomaly_seg.reporting.collect import MethodRuns
from anomaly_seg.results.run_files import Pixels
from anomaly_seg.results.schema import PixelLevel

LABELS = {
    "paper": "paper",
    "cross_fold": "cross_fold",
    "best_f": "best_f (oracle)",
    "best_f_per_fold": "best_f per fold (oracle)",
}
EXPLAINED = {
    "paper": "the published threshold sigma, scaled to the input size; none of these scores had a say in it (its "
    "authors set it on KolektorSDD).",
    "cross_fold": "for each fold, the threshold of the highest F1 on the test scores of the other folds: no image is "
    "judged by a threshold that its own fold's scores helped to choose. It assumes that the folds' networks score "
    "alike.",
    "best_f": "the single threshold of the highest F1 over all these test scores. It was chosen on the test images, so "
    "it is an oracle: an upper bound, not a performance to expect. The paper and its rivals report this one.",
    "best_f_per_fold": "an oracle once more, chosen on each test fold by itself, as some follow-ups do.",
}


@dataclass(frozen=True)
class Verdicts:
    """One kind of threshold: its value and the confusion counts, fold by fold."""

    kind: str
    values: dict[int, float]
    counts: dict[int, Confusion]

    @property
    def pooled(self) -> Confusion:
        return sum(self.counts.values(), start=Confusion(0, 0, 0, 0))

    def over_folds(self, measure: str) -> tuple[float | None, float | None]:
        """Mean and sample standard deviation over folds; None where a fold leaves the measure undefined."""
        return mean_and_spread([getattr(c, measure) for c in self.counts.values()])


@lru_cache(maxsize=1024)  # every table and figure asks for them
def all_verdicts(method: MethodRuns, column: str = "score") -> dict[str, Verdicts]:
    """Verdicts by kind of threshold, for the score in ``column``; kinds that these runs do not define are absent.

    ``paper`` belongs to the score that classifies, so other readouts have none.
    """
    folds = {fold: method.frame[method.frame["fold"] == fold] for fold in sorted(method.runs)}
    scores = {fold: images[column].to_numpy() for fold, images in folds.items()}
    labels = {fold: images["label"].to_numpy() for fold, images in folds.items()}
    values: dict[str, dict[int, float]] = {}
    sigmas = {fold: run.result.sigma for fold, run in method.runs.items()}
    published = {fold: sigma for fold, sigma in sigmas.items() if sigma is not None}
    if column == "score" and len(published) == len(folds):
        values["paper"] = published
    defective = {fold: bool(y.any()) for fold, y in labels.items()}
    if len(folds) > 1 and all(any(defective[o] for o in folds if o != fold) for fold in folds):
        values["cross_fold"] = thresholds.cross_fold(scores, labels)
    if any(defective.values()):
        frame = method.frame
        values["best_f"] = dict.fromkeys(folds, thresholds.best_f(frame[column], frame["label"]))
    if all(defective.values()):
        values["best_f_per_fold"] = {fold: thresholds.best_f(scores[fold], labels[fold]) for fold in folds}
    return {
        kind: Verdicts(kind, at, {fold: confusion(scores[fold], labels[fold], at[fold]) for fold in folds})
        for kind, at in values.items()
    }


@lru_cache(maxsize=1024)  # thousands of APs, asked for by tables, report and page
def ap_interval(method: MethodRuns, column: str = "score") -> tuple[float | None, float | None]:
    """95 % interval of the pooled AP of the score in ``column``, by resampling groups."""
    frame = method.frame
    return metrics.percentile_interval(
        metrics.resampled_average_precision(frame[column], frame["label"], frame["representative"])
    )


def called_defective(frame: pd.DataFrame, values: dict[int, float]) -> NDArray[np.bool_]:
    """(n,) bool: whether each row of a method's frame is called defective at its fold's threshold."""
    return np.asarray(frame["score"].to_numpy() > frame["fold"].map(values).to_numpy())


def mean_and_spread(values: list[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation (n - 1); None if a value is undefined, no spread from a single value."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None, None
    return float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None


def pooled_pixels(method: MethodRuns) -> PixelLevel | None:
    """Pixel measures over all folds, from summed counts; None unless every fold has counts on the same thresholds."""
    counts = [run.pixels for run in method.runs.values() if run.pixels is not None]
    if len(counts) < len(method.runs) or any(not np.array_equal(c.threshold, counts[0].threshold) for c in counts):
        return None
    tp, fp, fn, tn = (np.sum([getattr(c, name) for c in counts], axis=0) for name in ("tp", "fp", "fn", "tn"))
    return Pixels(counts[0].threshold, tp, fp, fn, tn).measures()
