"""The report's table of thresholds with a guarantee: what each method could promise, and at what cost."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import pandas as pd

from anomaly_seg.evaluation import metrics
from anomaly_seg.evaluation.guarantee import Basis, basis_of, percent
from anomaly_seg.reporting.collect import Group
from anomaly_seg.reporting.tables import who
from anomaly_seg.results.schema import GuaranteeResult

EXPLAINED = (
    "A threshold that promises, with exact binomial confidence, that at most a share of the defective parts is missed; "
    "a part counts by its lowest defective score. `strict`: one fold's network and its own test images, which is what "
    "the promise is proven for. `pooled`: the scores of all folds; a strict promise for none of their networks, but "
    "what one may expect of a network that scores as they do. `duplicates`: some of the images have an identical one "
    "in training, so new images may be scored lower. All assume that later parts come from the same production."
)


@lru_cache(maxsize=256)  # Markdown, page and CSV ask for it
def found(group: Group) -> dict[str, list[GuaranteeResult]]:
    """Every promise, by the scores it rests on: "pooled" (where there are several folds) and "fold 0 (strict)", ...

    "duplicates" instead of either where an identical image was in training.
    """
    parts: dict[str, tuple[pd.DataFrame, Basis]] = {}
    if len(group.runs) > 1:
        basis = basis_of(
            len(group.runs), sum(run.result.duplicates_across_split.identical for run in group.runs.values())
        )
        parts["pooled (duplicates)" if basis == "duplicates" else "pooled"] = (group.frame, basis)
    for fold, run in sorted(group.runs.items()):
        basis = basis_of(1, run.result.duplicates_across_split.identical)
        parts[f"fold {fold} ({basis})"] = (group.frame[group.frame["fold"] == fold], basis)
    return {
        name: GuaranteeResult.every(
            part["score"].to_numpy(), part["label"].to_numpy(), part["representative"].tolist(), basis
        )
        for name, (part, basis) in parts.items()
    }


def table(groups: Sequence[Group]) -> pd.DataFrame:
    """One row a group, basis and promise, with exact 95 % intervals of the false-alarm rate."""
    rows = []
    for group in groups:
        for scores, promises in found(group).items():
            for promise in promises:
                row = who(group) | {"scores": scores} | promise.model_dump(exclude={"basis", "says"})
                row = {name.replace("_", " "): value for name, value in row.items()}
                rows.append(row | _alarms(promise) | {"says": promise.says})
    return pd.DataFrame(rows).astype(dict.fromkeys(("misses allowed", "false alarms"), "Int64"))


def shown(groups: Sequence[Group]) -> pd.DataFrame:
    """One row a group and basis, one column a promise: false alarms with interval and threshold, or what is lacking.

    Folds that have too few defective parts for any promise share a row.
    """
    rows = []
    for group in groups:
        for scores, promises, count in _merged(found(group)):
            row = who(group) | {"scores": scores, "defective": count}
            rows.append(row | {_title(promise): _cell(promise) for promise in promises})
    return pd.DataFrame(rows)


def _merged(promises: dict[str, list[GuaranteeResult]]) -> list[tuple[str, list[GuaranteeResult], str]]:
    """(basis, promises, number of defective parts); without any kept, those of the fold with the most stand for all."""
    rows = {name: (name, every, str(every[0].defective)) for name, every in promises.items()}
    for basis in ("strict", "duplicates"):
        folds = {name: every for name, every in promises.items() if name.startswith("fold") and every[0].basis == basis}
        if len(folds) < 2 or any(promise.threshold is not None for every in folds.values() for promise in every):
            continue
        counts = sorted(every[0].defective for every in folds.values())
        most = max(folds.values(), key=lambda every: every[0].defective)
        rows = {name: row for name, row in rows.items() if name not in folds}
        rows[basis] = (f"each fold ({basis})", most, " to ".join(str(n) for n in sorted({counts[0], counts[-1]})))
    return list(rows.values())


def _title(promise: GuaranteeResult) -> str:
    return f"at most {percent(promise.miss_rate)} missed, confidence {percent(promise.confidence)}"


def _cell(promise: GuaranteeResult) -> str:
    if promise.threshold is None:
        allowed = math.ceil(1000 * promise.smallest_miss_rate) / 10
        return f"{promise.needed} defective needed ({promise.defective} allow {allowed:g} %)"
    alarms = _alarms(promise)
    interval = f" [{alarms['false-alarm low']:.3f}, {alarms['false-alarm high']:.3f}]" if promise.good else ""
    return f"{promise.false_alarms} of {promise.good} false alarms{interval}, threshold {promise.threshold:.4g}"


def _alarms(promise: GuaranteeResult) -> dict[str, Any]:
    if promise.false_alarms is None or not promise.good:
        return {"false-alarm low": None, "false-alarm high": None}
    low, high = metrics.clopper_pearson(promise.false_alarms, promise.good)
    return {"false-alarm low": low, "false-alarm high": high}
