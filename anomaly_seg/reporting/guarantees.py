"""The report's table of thresholds with a guarantee: what each method could guarantee, and at what cost."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import pandas as pd

from anomaly_seg.evaluation import metrics
from anomaly_seg.evaluation.guarantee import Basis, basis_of, percent
from anomaly_seg.reporting.collect import MethodRuns
from anomaly_seg.reporting.tables import who
from anomaly_seg.results.schema import GuaranteeResult

EXPLAINED = (
    "A threshold that guarantees, with exact binomial confidence, that at most a share of the defective groups is "
    "missed; a group, the images of one physical part, counts by its lowest defective score. `strict`: one fold's "
    "network and its own test images, for which the guarantee is proven. `pooled`: the scores of all folds; a strict "
    "guarantee for none of their networks, but what one may expect of a network that scores as they do. `duplicates`: "
    "some of the images have an identical one in training, so new images may be scored lower. All assume that later "
    "groups come from the same production."
)


@lru_cache(maxsize=256)  # Markdown, page and CSV ask for it
def guarantees_of(method: MethodRuns) -> dict[str, list[GuaranteeResult]]:
    """Every guarantee, by the scores it rests on: "pooled" (where there are several folds) and "fold 0 (strict)", ...

    "duplicates" instead of either where an identical image was in training.
    """
    frames: dict[str, tuple[pd.DataFrame, Basis]] = {}
    if len(method.runs) > 1:
        basis = basis_of(
            len(method.runs), sum(run.result.duplicates_across_split.identical for run in method.runs.values())
        )
        frames["pooled (duplicates)" if basis == "duplicates" else "pooled"] = (method.frame, basis)
    for fold, run in sorted(method.runs.items()):
        basis = basis_of(1, run.result.duplicates_across_split.identical)
        frames[f"fold {fold} ({basis})"] = (method.frame[method.frame["fold"] == fold], basis)
    return {
        name: GuaranteeResult.every(
            frame["score"].to_numpy(), frame["label"].to_numpy(), frame["representative"].tolist(), basis
        )
        for name, (frame, basis) in frames.items()
    }


def table(methods: Sequence[MethodRuns]) -> pd.DataFrame:
    """One row a method, basis and guarantee, with exact 95 % intervals of the false-alarm rate."""
    rows = []
    for method in methods:
        for scores, guarantees in guarantees_of(method).items():
            for guarantee in guarantees:
                row = who(method) | {"scores": scores} | guarantee.model_dump(exclude={"basis", "says"})
                row = {name.replace("_", " "): value for name, value in row.items()}
                rows.append(row | _alarms(guarantee) | {"says": guarantee.says})
    return pd.DataFrame(rows).astype(dict.fromkeys(("misses allowed", "false alarms"), "Int64"))


def shown(methods: Sequence[MethodRuns]) -> pd.DataFrame:
    """One row a method and basis, one column a guarantee: false alarms with interval and threshold, or what is lacking.

    Folds that have too few defective groups for any guarantee share a row.
    """
    rows = []
    for method in methods:
        for scores, guarantees, count in _merged(guarantees_of(method)):
            row = who(method) | {"scores": scores, "defective": count}
            rows.append(row | {_title(guarantee): _cell(guarantee) for guarantee in guarantees})
    return pd.DataFrame(rows)


def _merged(guarantees: dict[str, list[GuaranteeResult]]) -> list[tuple[str, list[GuaranteeResult], str]]:
    """(basis, guarantees, number of defective groups); folds that have none share those of the one with the most."""
    rows = {name: (name, every, str(every[0].defective)) for name, every in guarantees.items()}
    for basis in ("strict", "duplicates"):
        folds = {
            name: every for name, every in guarantees.items() if name.startswith("fold") and every[0].basis == basis
        }
        if len(folds) < 2 or any(guarantee.threshold is not None for every in folds.values() for guarantee in every):
            continue
        counts = sorted(every[0].defective for every in folds.values())
        most = max(folds.values(), key=lambda every: every[0].defective)
        rows = {name: row for name, row in rows.items() if name not in folds}
        rows[basis] = (f"each fold ({basis})", most, " to ".join(str(n) for n in sorted({counts[0], counts[-1]})))
    return list(rows.values())


def _title(guarantee: GuaranteeResult) -> str:
    return f"at most {percent(guarantee.miss_rate)} missed, confidence {percent(guarantee.confidence)}"


def _cell(guarantee: GuaranteeResult) -> str:
    if guarantee.threshold is None:
        allowed = math.ceil(1000 * guarantee.smallest_miss_rate) / 10
        return f"{guarantee.needed} defective needed ({guarantee.defective} allow {allowed:g} %)"
    alarms = _alarms(guarantee)
    interval = f" [{alarms['false-alarm low']:.3f}, {alarms['false-alarm high']:.3f}]" if guarantee.good else ""
    return f"{guarantee.false_alarms} of {guarantee.good} false alarms{interval}, threshold {guarantee.threshold:.4g}"


def _alarms(guarantee: GuaranteeResult) -> dict[str, Any]:
    if guarantee.false_alarms is None or not guarantee.good:
        return {"false-alarm low": None, "false-alarm high": None}
    low, high = metrics.clopper_pearson(guarantee.false_alarms, guarantee.good)
    return {"false-alarm low": low, "false-alarm high": high}
