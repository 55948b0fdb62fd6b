"""The figures as PNG files, to be committed beside a study's tables."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from anomaly_seg.reporting import figures
from anomaly_seg.reporting.collect import MethodRuns
from anomaly_seg.reporting.thresholding import LABELS, all_verdicts

MARKERS = "osDX^v"
DASHES = {"dot": ":", "solid": "-", "dash": "--"}
SIZE = 9


def dilation_png(methods: Sequence[MethodRuns], kind: str, path: Path) -> Path | None:
    """F, P, R (the paper's Figure 9) and FP, FN (Figure 10) against D; None if there are fewer than two D."""
    frame = figures.by_dilation(methods, kind)
    if frame["D"].nunique() < 2:
        return None
    palette = figures.colours(methods)
    figure = Figure(figsize=(10.5, 5.6), layout="constrained")
    *panels, key = figure.subplots(2, 3).ravel()
    for axes, measure in zip(panels, figures.MEASURES, strict=True):
        for i, (name, colour) in enumerate(palette.items()):
            line = frame[(frame["method"] == name) & frame[measure].notna()]
            style = {"color": colour, "marker": MARKERS[i % len(MARKERS)], "markersize": 5, "lw": 1.6}
            style["ls"] = DASHES[figures.dashes(palette)[name]]
            axes.plot(line["D"], line[measure], label=figures.short(name), **style)
        axes.set(ylim=figures.value_range(frame, measure), xlabel="dilation D", xticks=sorted(frame["D"].unique()))
        axes.set_title(figures.MEASURES[measure], loc="left", size=SIZE + 2)
        if measure in ("FP", "FN"):
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        _plain(axes)
    key.set_axis_off()  # the lines end at different D, so a key tells them apart better than labels at their ends
    key.legend(*panels[0].get_legend_handles_labels(), loc="center left", fontsize=SIZE + 1, frameon=False)
    figure.suptitle(f"threshold: {LABELS[kind]}", x=0.01, ha="left", size=SIZE + 2)
    return _save(figure, path)


def scores_png(methods: Sequence[MethodRuns], path: Path) -> Path:
    """Scores of good and defective images with the thresholds drawn in: a column a method, of the first seed."""
    first = min(m.key.seed for m in methods)
    shown = sorted((m for m in methods if m.key.seed == first), key=lambda m: m.key.dilation)
    columns = min(4, len(figures.colours(shown)))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(5 * columns, 2.1 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    kinds = {kind for axes, method in zip(panels, shown, strict=False) for kind in _scores(axes, method)}
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    lines = [(LABELS[kind], style) for kind, style in figures.LINES.items() if kind in kinds]
    handles = [Line2D([], [], color=colour, ls=DASHES[dash], label=name) for name, (colour, dash) in lines]
    figure.legend(handles=handles, loc="outside upper right", ncols=3, fontsize=SIZE, frameon=False)
    return _save(figure, path)


def _scores(axes: Axes, method: MethodRuns) -> list[str]:
    """Draw one panel; returns the kinds of threshold drawn."""
    frame = method.frame
    axis = figures.axis_for(frame["score"])
    for label, colour, marker in ((0, figures.GOOD, "o"), (1, figures.DEFECTIVE, "D")):
        images = frame[frame["label"] == label]
        height = figures.jitter(images.index.to_numpy(), label)
        axes.scatter(figures.to_axis(images["score"], axis), height, s=9, color=colour, marker=marker, alpha=0.7, lw=0)
    drawn = {kind: at for kind, at in all_verdicts(method).items() if kind in figures.LINES}
    for kind, at in drawn.items():
        colour, dash = figures.LINES[kind]
        for x in figures.to_axis(sorted(set(at.values.values())), axis):
            axes.axvline(float(x), color=colour, ls=DASHES[dash], lw=1.2)
    axes.set_xticks(*figures.ticks(frame["score"], axis))
    axes.set_yticks([0.22, 0.78], ["good", "defective"])
    axes.set_title(f"{figures.short(method.key.name)}, D = {method.key.dilation}", loc="left", size=SIZE + 1)
    _plain(axes)
    return list(drawn)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SIZE - 1, length=2)
    axes.grid(axis="y" if axes.get_xlabel() else "x", color="#e4e8ed", lw=0.8)
    axes.set_axisbelow(True)


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
