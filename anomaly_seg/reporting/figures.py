"""The figures' data and their interactive (plotly) form; `png_figures` draws the same data for files to commit."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from anomaly_seg.reporting.collect import MethodRuns
from anomaly_seg.reporting.thresholding import LABELS, Verdicts, all_verdicts

# Okabe and Ito's palette, which colour-blind readers tell apart; good and defective differ in lightness and shape too.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GOOD, DEFECTIVE = "#8C96A3", "#A50F2A"
LINES = {"paper": ("#000000", "dot"), "cross_fold": ("#0072B2", "solid"), "best_f": ("#009E73", "dash")}
MEASURES = {"F1": "F1", "P": "precision", "R": "recall", "FP": "false alarms (FP)", "FN": "misses (FN)"}
GOLDEN = 0.618034  # multiples of it, modulo 1, spread evenly: a jitter that is the same every time
LOGIT_EDGE = 1e-6
FONT = "system-ui, -apple-system, Segoe UI, Roboto, sans-serif"


def colours(methods: Sequence[MethodRuns]) -> dict[str, str]:
    """A colour for every method's name, the same in all figures of a setting; variants come last."""
    names = dict.fromkeys(method.key.name for method in sorted(methods, key=lambda m: m.key.variant != ""))
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def dashes(palette: dict[str, str]) -> dict[str, str]:
    """Solid or dashed for every method's name: with more methods than colours, a colour comes again dashed."""
    return {name: "dash" if i // len(PALETTE) % 2 else "solid" for i, name in enumerate(palette)}


def by_dilation(methods: Sequence[MethodRuns], kind: str) -> pd.DataFrame:
    """One row a method and D: pooled F1, P, R, FP, FN at one kind of threshold, averaged over seeds."""
    rows = []
    for method in methods:
        verdicts = all_verdicts(method).get(kind)
        if verdicts is not None:
            c = verdicts.pooled
            row = {"F1": c.f1, "P": c.precision, "R": c.recall, "FP": c.fp, "FN": c.fn}
            rows.append({"method": method.key.name, "D": method.key.dilation} | row)
    frame = pd.DataFrame(rows, columns=["method", "D", *MEASURES])
    return frame.astype(dict.fromkeys(MEASURES, float)).groupby(["method", "D"], as_index=False).mean()


class ScoreAxis(NamedTuple):
    """How to draw scores: "logit" for probabilities; else "asinh", linear below ``scale`` and logarithmic above."""

    kind: str
    scale: float


def axis_for(scores: ArrayLike) -> ScoreAxis:
    """The axis that shows these scores. Suppressed backgrounds score near 0: the linear part ends among the lowest."""
    s = np.asarray(scores, dtype=float)
    if s.size and s.min() >= 0 and s.max() <= 1:
        return ScoreAxis("logit", 1.0)
    low = np.percentile(np.abs(s[s != 0]), 10)
    return ScoreAxis("asinh", float(10.0 ** np.clip(np.floor(np.log10(low)), -6, 0)))


def to_axis(scores: ArrayLike, axis: ScoreAxis) -> NDArray[np.float64]:
    """Scores as positions on the axis."""
    s = np.asarray(scores, dtype=float)
    if axis.kind == "asinh":
        return np.asarray(np.arcsinh(s / axis.scale))
    inside = np.clip(s, LOGIT_EDGE, 1 - LOGIT_EDGE)
    return np.asarray(np.log(inside / (1 - inside)))


def ticks(scores: ArrayLike, axis: ScoreAxis) -> tuple[list[float], list[str]]:
    """Positions and labels of the axis' ticks within the range of the scores, few enough for a phone."""
    s = np.asarray(scores, dtype=float)
    if axis.kind == "logit":
        values = [v for v in (1e-6, 1e-4, 0.01, 0.1, 0.5, 0.9, 0.99, 1 - 1e-4, 1 - 1e-6) if s.min() <= v <= s.max()]
    else:
        decades = [axis.scale * 10.0**k for k in range(19) if axis.scale * 10.0**k <= np.abs(s).max() * 1.2]
        every = max(1, -(len(decades) // -5))
        decades = decades[every - 1 :: every]  # the first of a thinned row would crowd the 0
        values = [-v for v in reversed(decades) if v <= -s.min()] + [0.0] + [v for v in decades if v <= s.max() * 1.2]
    return [float(p) for p in to_axis(values, axis)], [f"{v:.6g}" for v in values]


def spread_labels(values: Sequence[float], gap: float, top: float) -> list[float]:
    """Positions for labels next to ``values``: as near as can be, at least ``gap`` apart, none above ``top``."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    positions = [values[i] for i in order]
    for i in range(1, len(positions)):
        positions[i] = max(positions[i], positions[i - 1] + gap)
    ceiling = top
    for i in reversed(range(len(positions))):
        positions[i] = min(positions[i], ceiling)
        ceiling = positions[i] - gap
    placed = dict(zip(order, positions, strict=True))
    return [placed[i] for i in range(len(values))]


def short(name: str) -> str:
    """A method's name where there is little room."""
    return name if len(name) <= 26 else name[:25] + "…"


def value_range(frame: pd.DataFrame, measure: str) -> tuple[float, float]:
    """The y axis: shares end at 1, counts start at 0."""
    if measure in ("FP", "FN"):
        return -0.4, max(4.0, float(frame[measure].max()) * 1.1)
    low = float(frame[measure].min())
    room = max(0.02, (1 - low) * 0.08)
    return (low if np.isfinite(low) else 0.0) - room, 1 + room


def dilation_figure(frame: pd.DataFrame, measure: str, palette: dict[str, str]) -> go.Figure:
    """One panel of the paper's Figures 9 and 10: a measure against D, a line a method, labelled at its end."""
    figure = go.Figure()
    low, high = value_range(frame, measure)
    lines = [(name, frame[(frame["method"] == name) & frame[measure].notna()]) for name in palette]
    lines = [(name, line) for name, line in lines if len(line)]
    ends = [float(line[measure].iloc[-1]) for _, line in lines]
    places = spread_labels(ends, gap=(high - low) / 11, top=high)
    dash = dashes(palette)
    for i, (name, line) in enumerate(lines):
        figure.add_scatter(
            x=line["D"].tolist(), y=line[measure].tolist(), name=name, mode="lines+markers",
            line={"color": palette[name], "width": 2, "dash": dash[name]},
            marker={"symbol": i % 6, "size": 8},
            hovertemplate=f"{name}, D = %{{x}}: %{{y:.3~f}}<extra></extra>",
        )  # fmt: skip
        figure.add_annotation(
            x=float(line["D"].iloc[-1]), y=places[i], text=short(name), showarrow=False, xanchor="left", xshift=9,
            font={"color": palette[name], "size": 12},
        )  # fmt: skip
    room = 20 + 8 * max((len(short(name)) for name, _ in lines), default=0)  # pixels, for the labels
    figure.update_layout(
        **_style(), height=270, margin={"l": 44, "r": room, "t": 34, "b": 42}, title=_title(MEASURES[measure])
    )
    dilations = sorted(int(d) for d in frame["D"].unique())
    span = max(dilations) - min(dilations)
    ends_at = [min(dilations) - 0.06 * span, max(dilations) + 0.06 * span]
    figure.update_xaxes(title="dilation D", tickvals=dilations, range=ends_at, **_grid())
    whole = {"tick0": 0, "dtick": max(1, round(high / 5))} if measure in ("FP", "FN") else {}
    figure.update_yaxes(range=[low, high], **_grid(), **whole)
    return figure


def score_figure(method: MethodRuns, verdicts: dict[str, Verdicts]) -> go.Figure:
    """Scores of good and defective images, a trace a fold and label, with the thresholds as labelled lines."""
    frame = method.frame
    axis = axis_for(frame["score"])
    figure = go.Figure()
    for fold in sorted(method.runs):
        for label, name, colour, symbol in ((0, "good", GOOD, "circle-open"), (1, "defective", DEFECTIVE, "diamond")):
            images = frame[(frame["fold"] == fold) & (frame["label"] == label)]
            figure.add_scatter(
                x=to_axis(images["score"], axis).round(5).tolist(), y=jitter(images.index.to_numpy(), label).tolist(),
                mode="markers", marker={"color": colour, "symbol": symbol, "size": 7, "opacity": 0.75}, name=name,
                meta={"fold": fold},
                text=[f"{i}<br>score {s:.4g}" for i, s in zip(images["image"], images["score"], strict=True)],
                hovertemplate="%{text}<extra>" + name + "</extra>",
            )  # fmt: skip
    for row, at in enumerate(verdicts[k] for k in LINES if k in verdicts):
        _threshold_lines(figure, at, axis, row)
    figure.update_layout(**_style(), height=290, margin={"l": 72, "r": 14, "t": 66, "b": 42})
    positions, names = ticks(frame["score"], axis)
    figure.update_xaxes(
        title="score", tickvals=positions, ticktext=names, tickangle=0, zeroline=False, gridcolor="#eceff3"
    )
    figure.update_yaxes(
        range=[-0.08, 1.08], tickvals=[0.22, 0.78], ticktext=["good", "defective"], showgrid=False, zeroline=False
    )
    return figure


def jitter(index: ArrayLike, label: int) -> NDArray[np.float64]:
    """(n,) heights in the band of good (0 to 0.44) or defective images (0.56 to 1)."""
    return np.asarray((np.asarray(index) * GOLDEN % 1 * 0.44 + (0.56 if label else 0.0)).round(3))


def _threshold_lines(figure: go.Figure, at: Verdicts, axis: ScoreAxis, row: int) -> None:
    colour, dash = LINES[at.kind]
    for fold, value in sorted(at.values.items()):
        x = float(to_axis(value, axis))
        figure.add_shape(
            type="line", x0=x, x1=x, yref="paper", y0=0, y1=1.05 + 0.11 * row, name=f"{at.kind}:{fold}",
            line={"color": colour, "dash": dash, "width": 1.5},
        )  # fmt: skip
    middle = float(to_axis(float(np.median(list(at.values.values()))), axis))
    figure.add_annotation(
        x=middle, yref="paper", y=1.05 + 0.11 * row, text=LABELS[at.kind], showarrow=False, xanchor="left", xshift=4,
        yanchor="middle", font={"color": colour, "size": 11}, bgcolor="rgba(255,255,255,0.8)",
    )  # fmt: skip


def _style() -> dict[str, object]:
    return {
        "template": "none", "showlegend": False, "font": {"family": FONT, "size": 12, "color": "#1f2933"},
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "hovermode": "closest",
    }  # fmt: skip


def _grid() -> dict[str, object]:
    return {"gridcolor": "#e4e8ed", "zeroline": False, "linecolor": "#9aa5b1", "ticks": ""}


def _title(text: str) -> dict[str, object]:
    return {"text": text, "x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 14}}
