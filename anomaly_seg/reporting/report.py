"""The report on a folder of runs, from their result files alone: Markdown, CSV tables, PNG figures, one HTML page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from anomaly_seg.errors import InputError
from anomaly_seg.reporting import guarantees, page, png_figures, tables, text
from anomaly_seg.reporting.collect import Collection, MethodRuns, collect_runs
from anomaly_seg.reporting.figures import LINES

PICTURE_BYTES = 6_000_000  # of pictures in the page: it stays small enough for mail

TABLES: dict[str, Callable[[Sequence[MethodRuns]], pd.DataFrame]] = {
    "overview": tables.overview,
    "thresholds": tables.at_thresholds,
    "guarantee": guarantees.table,
    "ranking": tables.ranking,
    "comparisons": tables.comparisons,
    "ap_differences": tables.ap_differences,
    "ablation": tables.ablation,
    "runs": tables.runs,
    "images": tables.images,
}


@dataclass(frozen=True)
class Report:
    """The files written, and one sentence for every run that is missing, unfinished, failed or unreadable."""

    markdown: Path
    html: Path
    tables: list[Path]
    figures: list[Path]
    problems: list[str]


def build(directory: Path, out: Path | None = None, picture_bytes: int = PICTURE_BYTES) -> Report:
    """Write ``report.md``, ``report.html``, ``tables/*.csv`` and ``figures/*.png`` into ``out``, else ``directory``.

    Raises:
        InputError: nothing to report on (see `collect_runs`), or a folder that cannot be written.
    """
    collection = collect_runs(directory)
    out = directory if out is None else out
    try:
        (out / "tables").mkdir(parents=True, exist_ok=True)
        written = []
        for name, table in TABLES.items():
            written.append(out / "tables" / f"{name}.csv")
            table(collection.methods).to_csv(written[-1], index=False)
        figures = _figures(collection, out)
        names = {setting: [p.relative_to(out).as_posix() for p in paths] for setting, paths in figures.items()}
        markdown, html = out / "report.md", out / "report.html"
        markdown.write_text(text.report(collection, names), encoding="utf-8")
        html.write_text(page.render(collection, picture_bytes), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}): free space or choose another folder") from error
    return Report(markdown, html, written, [p for paths in figures.values() for p in paths], collection.problems)


def _figures(collection: Collection, out: Path) -> dict[str, list[Path]]:
    """Setting -> its figures. Names carry the setting only where there are several."""
    settings = collection.by_setting()
    figures = {}
    for setting, methods in settings.items():
        stem = "_".join(setting) + "_" if len(settings) > 1 else ""
        paths = [
            png_figures.dilation_png(methods, kind, out / "figures" / f"{stem}dilation_{kind}.png") for kind in LINES
        ]
        paths.append(png_figures.scores_png(methods, out / "figures" / f"{stem}scores.png"))
        figures[str(setting)] = [path for path in paths if path is not None]
    return figures
