"""``report.html``: one file with data, pictures, figures and scripts inside, that needs no network."""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from anomaly_seg.reporting import figures, guarantees, tables, text
from anomaly_seg.reporting.collect import Collection, MethodRuns
from anomaly_seg.reporting.pictures import gallery
from anomaly_seg.reporting.thresholding import EXPLAINED, LABELS, all_verdicts

GUARANTEE = "Thresholds with a guarantee: what could be guaranteed, and at what cost"
DIFFERENCES = "Differences in AP"
READOUTS = "Readouts of the same networks, without retraining"


def render(collection: Collection, picture_bytes: int) -> str:
    """The whole page. ``picture_bytes`` limits the pictures inside."""
    environment = Environment(
        loader=PackageLoader("anomaly_seg.reporting", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    settings = {str(setting): methods for setting, methods in collection.by_setting().items()}
    data = {
        "labels": LABELS,
        "methods": _methods(collection, picture_bytes),
        "settings": [{"name": name, "figures": _dilation_figures(methods)} for name, methods in settings.items()],
    }
    return environment.get_template("template.html.j2").render(
        title=collection.directory.resolve().name,
        runs=len(collection.runs),
        problems=collection.problems,
        sections=[_section(name, methods) for name, methods in settings.items()],
        kinds={kind: LABELS[kind] for kind in figures.LINES},
        explained=[(LABELS[kind], explained) for kind, explained in EXPLAINED.items()],
        provenance=text.provenance(collection),
        data=_script_json(data),
        plotly=Markup(get_plotlyjs()),
    )


def _methods(collection: Collection, picture_bytes: int) -> list[dict[str, Any]]:
    """What the page's script knows of each method, dilation and seed: scores, thresholds, figure and pictures."""
    pictures = gallery(collection.methods, picture_bytes)
    return [
        {
            "setting": str(method.key.setting),
            "method": method.key.name,
            "dilation": method.key.dilation,
            "seed": method.key.seed,
            "folds": sorted(method.runs),
            "image": frame["image"].tolist(),
            "fold": frame["fold"].tolist(),
            "label": frame["label"].tolist(),
            "score": frame["score"].tolist(),
            "thresholds": {kind: at.values for kind, at in verdicts.items() if kind in figures.LINES},
            "axis": figures.axis_for(frame["score"])._asdict(),
            "figure": json.loads(figures.score_figure(method, verdicts).to_json()),
            "panels": _panels(method),
            "pictures": {row: uri for (n, row), uri in pictures.embedded.items() if n == number},
            "left_out": pictures.left_out[number],
        }
        for number, method in enumerate(collection.methods)
        for frame, verdicts in [(method.frame, all_verdicts(method))]
    ]


def _panels(method: MethodRuns) -> str:
    """What a picture strip shows, from left to right."""
    return " | ".join(["image", "mask", *(method.network.maps or ["output map"])])


def _dilation_figures(methods: Sequence[MethodRuns]) -> dict[str, list[Any]]:
    """Kind of threshold -> the panels F1, P, R, FP, FN against D; empty where there are fewer than two D."""
    palette = figures.colours(methods)
    frames = {kind: figures.by_dilation(methods, kind) for kind in figures.LINES}
    return {
        kind: [json.loads(figures.dilation_figure(frame, m, palette).to_json()) for m in figures.MEASURES]
        for kind, frame in frames.items()
        if frame["D"].nunique() > 1
    }


def _section(name: str, methods: Sequence[MethodRuns]) -> dict[str, Any]:
    compared, ablated = tables.comparisons(methods), tables.ablation(methods)
    meanings = "; ".join(f"{readout}: {meaning}" for readout, meaning in text.meanings(methods))
    more = {
        "Pooled counts at each threshold, exact 95 % intervals, mean and sample standard deviation over folds": (
            tables.at_thresholds(methods)
        ),
        GUARANTEE: guarantees.shown(methods),
        "Ranking, pixels and duplicates": tables.ranking(methods),
        DIFFERENCES: tables.ap_differences(methods),
        READOUTS: ablated,
        "Single runs (best_f here is each fold's own oracle)": tables.runs(methods),
    }
    return {
        "name": name,
        "facts": [fact.replace("**", "") for fact in text.facts(methods)],
        "overview": _html(tables.overview(methods)),
        "limits": text.limits(methods),
        "says": [] if compared.empty else _sayings(compared),
        "comparisons": None if compared.empty else _html(compared),
        "notes": {GUARANTEE: guarantees.EXPLAINED.replace("`", ""), DIFFERENCES: text.AP_INTERVALS}
        | ({READOUTS: f"{meanings}."} if meanings else {}),
        "tables": {title: _html(frame) for title, frame in more.items() if len(frame)},
    }


def _sayings(compared: pd.DataFrame) -> list[str]:
    """The sentences on the verdicts that peeked at nothing; those of the oracle stay in the table."""
    honest = compared[compared["threshold"] == LABELS["cross_fold"]].sort_values(["D", "seed"], kind="stable")
    several = honest["D"].nunique() > 1
    return [f"D = {d}: {says}" if several else says for d, says in zip(honest["D"], honest["says"], strict=True)]


def _html(frame: pd.DataFrame) -> Markup:
    return Markup(text.show(frame).to_html(index=False, border=0, escape=True, classes="numbers"))  # escaped by pandas


def _script_json(data: Any) -> Markup:
    """JSON that no HTML parser can leave: "<" only ever occurs inside strings, where its escape means the same."""
    return Markup(json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))
