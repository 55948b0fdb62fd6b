"""The report's tables: each a pandas frame, one row a fact, written to CSV as it is and shown by `show`."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd

from anomaly_seg.evaluation import metrics
from anomaly_seg.reporting.collect import Key, MethodRuns
from anomaly_seg.reporting.thresholding import (
    LABELS,
    Verdicts,
    all_verdicts,
    ap_interval,
    called_defective,
    mean_and_spread,
    pooled_pixels,
)

SIGNIFICANT = 0.05


def overview(methods: Sequence[MethodRuns]) -> pd.DataFrame:
    """One row a method: F1, FP and FN, pooled over folds, at the three thresholds side by side; AP and AUROC."""
    rows = []
    for method in methods:
        verdicts, frame = all_verdicts(method), method.frame
        row = who(method)
        for kind in ("paper", "cross_fold", "best_f"):
            c = verdicts[kind].pooled if kind in verdicts else None
            row[f"F1 at {LABELS[kind]}"] = c.f1 if c else None
            row[f"FP, FN at {LABELS[kind]}"] = f"{c.fp}, {c.fn}" if c else None
        row |= {"AP": metrics.average_precision(frame["score"], frame["label"])}
        row |= {"AUROC": metrics.auroc(frame["score"], frame["label"])}
        row |= {"FP at FN = 0": metrics.fp_at_fn0(frame["score"], frame["label"])}
        rows.append(row)
    return _frame(rows)


def at_thresholds(methods: Sequence[MethodRuns]) -> pd.DataFrame:
    """One row a method and threshold: pooled counts and measures, exact 95 % intervals, mean and spread over folds."""
    return pd.DataFrame([_threshold_row(method, v) for method in methods for v in all_verdicts(method).values()])


def ranking(methods: Sequence[MethodRuns]) -> pd.DataFrame:
    """One row a method: what needs no image threshold, pooled and as mean and spread over folds; pixel level;
    test images that have a duplicate in training."""
    rows = []
    for method in methods:
        score, label = method.frame["score"], method.frame["label"]
        per_run = [run.result for _, run in sorted(method.runs.items())]
        pixel = pooled_pixels(method)
        row = who(method) | {"images": len(label), "defective": int(label.sum())}
        for name, function in (("AP", metrics.average_precision), ("AUROC", metrics.auroc)):
            row[f"{name} pooled"] = function(score, label)
            row[f"{name} mean"], row[f"{name} std"] = mean_and_spread([getattr(r.image, name.lower()) for r in per_run])
            if name == "AP":
                row["AP low"], row["AP high"] = ap_interval(method)
        row["FP at FN = 0"] = metrics.fp_at_fn0(score, label)
        for name in ("AP", "IoU", "Dice"):
            row[f"pixel {name}" if name == "AP" else f"pixel {name} (oracle)"] = getattr(pixel, name.lower(), None)
        row["duplicates in training"] = sum(r.duplicates_across_split.identical for r in per_run)
        row["near-duplicates in training"] = sum(r.duplicates_across_split.near for r in per_run)
        rows.append(row)
    return _frame(rows)


def runs(methods: Sequence[MethodRuns]) -> pd.DataFrame:
    """One row a run, as its own result.json has it: single folds, so best_f is this fold's own oracle."""
    rows = []
    for method in methods:
        for fold, run in sorted(method.runs.items()):
            r = run.result
            row = _identity(method.key) | {"fold": fold, "test images": r.counts.test_images}
            row |= {"defective": r.counts.test_defective}
            kinds: tuple[Literal["paper", "best_f"], ...] = ("paper", "best_f")
            for kind in kinds:
                at, label = r.thresholds.get(kind), LABELS[kind]
                row |= {
                    f"{name} at {label}": getattr(at, name, None) for name in ("value", "precision", "recall", "f1")
                }
                row |= {f"{name.upper()} at {label}": getattr(at, name, None) for name in ("fp", "fn")}
            row |= {"AP": r.image.ap, "AUROC": r.image.auroc, "FP at FN = 0": r.image.fp_at_fn0}
            row |= {"pixel AP": r.pixel.ap, "pixel IoU (oracle)": r.pixel.iou, "pixel Dice (oracle)": r.pixel.dice}
            row |= {name.replace("_", " "): value for name, value in r.training.model_dump(exclude={"phases"}).items()}
            if r.training.phases:  # older results have none
                row["learned"] = "no" if any(not phase.learned for phase in r.training.phases) else "yes"
            rows.append(row)
    return _frame(rows)


def ablation(methods: Sequence[MethodRuns]) -> pd.DataFrame:
    """One row a method and readout: what each map of the same trained network would have scored, without retraining."""
    rows = []
    for method in methods:
        names = {c.removeprefix("score_") for c in method.frame.columns if c.startswith("score_")}
        known = [name for name in method.network.meanings if name in names]
        for name in [*known, *sorted(names - set(known))]:
            frame = method.frame.dropna(subset=f"score_{name}")
            if len(frame) < len(method.frame):  # a fold without this readout: nothing to pool
                continue
            score, label = frame[f"score_{name}"], frame["label"]
            verdicts = all_verdicts(method, f"score_{name}")
            row = who(method) | {"readout": name, "AP": metrics.average_precision(score, label)}
            for kind in ("cross_fold", "best_f"):
                c = verdicts[kind].pooled if kind in verdicts else None
                row |= {f"{n} at {LABELS[kind]}": getattr(c, n.lower(), None) for n in ("F1", "FP", "FN")}
            good = score[label == 0]
            rows.append(row | {"median score of good images": float(good.median()) if len(good) else None})
    return _frame(rows)


def comparisons(methods: Sequence[MethodRuns]) -> pd.DataFrame:
    """One row a pair of methods (same setting, D and seed, images in common) and threshold: exact McNemar, and what it
    lets one say."""
    rows = []
    for a, b in _pairs(methods):
        verdicts_a, verdicts_b = all_verdicts(a), all_verdicts(b)
        for kind in ("cross_fold", "best_f"):
            if kind in verdicts_a and kind in verdicts_b:
                rows.append(_comparison(a, b, verdicts_a[kind], verdicts_b[kind]))
    return pd.DataFrame(rows)


def ap_differences(methods: Sequence[MethodRuns]) -> pd.DataFrame:
    """One row a pair of methods, as in `comparisons`: the APs of the images in common, and their difference with a
    95 % interval: both are computed again and again on the same groups, drawn with replacement."""
    return pd.DataFrame([_ap_difference(a, b) for a, b in _pairs(methods)])


def images(methods: Sequence[MethodRuns]) -> pd.DataFrame:
    """One row an image and method: label, score, every readout, and the verdict at each threshold."""
    frames = []
    for method in methods:
        frame = method.frame.copy()
        for kind, verdicts in all_verdicts(method).items():
            frame[f"threshold {LABELS[kind]}"] = frame["fold"].map(verdicts.values)
            called = called_defective(frame, verdicts.values)
            frame[f"verdict {LABELS[kind]}"] = outcome(called, frame["label"].to_numpy())
        for position, (name, value) in enumerate(_identity(method.key).items()):
            frame.insert(position, name, value)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def outcome(called: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(n,) of "hit", "false alarm", "miss" and "pass", from (n,) verdicts and (n,) labels."""
    return np.where(called, np.where(label == 1, "hit", "false alarm"), np.where(label == 1, "miss", "pass"))


def _pairs(methods: Sequence[MethodRuns]) -> Iterator[tuple[MethodRuns, MethodRuns]]:
    """Methods with the same setting, D and seed, and images in common."""
    for a, b in combinations(methods, 2):
        same = (a.key.setting, a.key.dilation, a.key.seed) == (b.key.setting, b.key.dilation, b.key.seed)
        if same and not a.frame.merge(b.frame, on=["fold", "image"]).empty:
            yield a, b


@lru_cache(maxsize=1024)  # thousands of APs, asked for by tables, report and page
def _ap_difference(a: MethodRuns, b: MethodRuns) -> dict[str, Any]:
    names = ["fold", "image"]
    both = a.frame.merge(b.frame[[*names, "score"]], on=names, suffixes=("_a", "_b"))
    label, scores = both["label"], (both["score_a"], both["score_b"])
    values = [metrics.average_precision(score, label) for score in scores]
    resampled = [metrics.resampled_average_precision(score, label, both["representative"]) for score in scores]
    low, high = metrics.percentile_interval(resampled[0] - resampled[1])
    row = _identity(a.key, method=False) | {"first": a.key.name, "second": b.key.name, "images": len(both)}
    row |= {"defective": int(label.sum()), "AP of the first": values[0], "AP of the second": values[1]}
    row["difference"] = None if values[0] is None or values[1] is None else values[0] - values[1]
    return row | {"difference low": low, "difference high": high}


def _comparison(a: MethodRuns, b: MethodRuns, at_a: Verdicts, at_b: Verdicts) -> dict[str, Any]:
    frames = []
    for method, at in ((a, at_a), (b, at_b)):
        right = called_defective(method.frame, at.values) == (method.frame["label"].to_numpy() == 1)
        frames.append(method.frame[["fold", "image", "label"]].assign(right=right))
    both = frames[0].merge(frames[1], on=["fold", "image"], suffixes=("_a", "_b"))
    only_a, only_b, p = metrics.mcnemar_exact(both["right_a"], both["right_b"])
    return _identity(a.key, method=False) | {
        "first": a.key.name,
        "second": b.key.name,
        "threshold": LABELS[at_a.kind],
        "images": len(both),
        "defective": int(both["label_a"].sum()),
        "only first right": only_a,
        "only second right": only_b,
        "p": p,
        "says": verdict_sentence(a.key.name, b.key.name, len(both), only_a, only_b, p),
    }


def verdict_sentence(first: str, second: str, n: int, only_first: int, only_second: int, p: float) -> str:
    """What an exact McNemar test allows one to say about two methods on n images."""
    if p >= SIGNIFICANT:
        return f"{first} and {second} cannot be told apart on these {n} images (p = {p:.2g})."
    better, worse = (first, second) if only_first > only_second else (second, first)
    more, fewer = max(only_first, only_second), min(only_first, only_second)
    return f"{better} is right where {worse} is wrong on {more} images, the reverse on {fewer} (p = {p:.2g})."


def limits_sentence(defective: int) -> str:
    """What so few defective images can and cannot decide."""
    needed = next(k for k in range(1, 100) if 2 * 0.5**k < SIGNIFICANT)
    return (
        f"{defective} defective images cannot separate methods that differ by one or two: before p falls below "
        f"{SIGNIFICANT}, two methods must disagree in correctness on at least {needed} images, all on the same side."
    )


def _threshold_row(method: MethodRuns, verdicts: Verdicts) -> dict[str, Any]:
    c, values = verdicts.pooled, [f"{value:.4g}" for _, value in sorted(verdicts.values.items())]
    value = values[0] if len(set(values)) == 1 else " / ".join(values)  # of folds 0, 1, ... where they differ
    row = who(method) | {"threshold": LABELS[verdicts.kind], "value": value}
    row |= {"P": c.precision, "R": c.recall, "F1": c.f1, "FP": c.fp, "FN": c.fn, "TP": c.tp, "TN": c.tn}
    row["R low"], row["R high"] = metrics.clopper_pearson(c.tp, c.tp + c.fn)
    row["false-alarm rate"] = c.false_alarm_rate
    row["false-alarm low"], row["false-alarm high"] = metrics.clopper_pearson(c.fp, c.fp + c.tn)
    for name, measure in (("P", "precision"), ("R", "recall"), ("F1", "f1"), ("FP", "fp"), ("FN", "fn")):
        row[f"{name} mean"], row[f"{name} std"] = verdicts.over_folds(measure)
    return row


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a table whose counts stay whole beside undefined ones, where pandas would turn 6 into 6.0."""
    frame = pd.DataFrame(rows)
    return frame.astype({name: "Int64" for name in frame.columns if name.startswith(("FP at", "FN at"))})


def _identity(key: Key, method: bool = True) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(key.setting, name) for name in ("experiment", "data", "scale", "split")}
    return row | ({"method": key.name} if method else {}) | {"D": key.dilation, "seed": key.seed}


def who(method: MethodRuns) -> dict[str, Any]:
    """The columns that say which method a row is about."""
    return _identity(method.key) | {"folds": f"{len(method.runs)}/{method.folds}"}
