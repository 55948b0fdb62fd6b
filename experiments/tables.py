"""Tables of the pages here, and of the main README, written from the result files.

A comment before each table says what it holds: the columns, then one line for each row. The last field of a row is a
folder of runs below `experiments/`, with `seed=N` where it holds several seeds, `readout=NAME` for another score, and
`without=IMAGE,IMAGE` to leave images out. Several folders with ` + ` between them are judged by the mean of their
scores, image by image, as a model sealed from several seeds is. Columns that are no measure hold the row's own text.

    python experiments/tables.py            # write all tables anew
    python experiments/tables.py --check    # say which are out of date
"""

import argparse
import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anomaly_seg.errors import InputError
from anomaly_seg.evaluation import metrics
from anomaly_seg.reporting.collect import Collection, MethodRuns, collect_runs
from anomaly_seg.reporting.thresholding import all_verdicts, ap_interval, pooled_pixels
from anomaly_seg.results import run_files

HERE = Path(__file__).resolve().parent
TABLE = re.compile(r"(?P<spec><!-- table\n(?P<lines>.*?)-->\n)(?P<body>.*?)(?=<!-- end -->)", re.DOTALL)


class Row(NamedTuple):
    """The runs of one row, and the column of scores.csv that is judged."""

    method: MethodRuns
    column: str

    def counts(self, kind: str) -> str:
        verdicts = all_verdicts(self.method, self.column)
        if kind not in verdicts:
            return "none"
        c = verdicts[kind].pooled
        return f"{c.fp}, {c.fn}, {c.f1:.3f}"

    def ranking(self, measure: Callable[..., float | int | None], decimals: int) -> str:
        """A measure of the ranking as text; empty where it is undefined."""
        value = measure(self.method.frame[self.column], self.method.frame["label"])
        return "" if value is None else f"{value:.{decimals}f}"

    def ap_interval(self) -> str:
        """The 95 % interval of AP, by resampling groups of images of one object; empty where it is undefined."""
        low, high = ap_interval(self.method, self.column)
        return "" if low is None else f"{low:.3f} to {high:.3f}"

    def good(self, percent: float) -> str:
        frame = self.method.frame
        return f"{np.percentile(frame[self.column][frame['label'] == 0], percent):.2g}"

    def pixel_ap(self) -> str:
        """Pooled AP of pixels; empty where an older run stops counting before nearly all defect pixels are ranked."""
        counts = [run.pixels for run in self.method.runs.values() if run.pixels is not None]
        tp, fn = (sum(int(getattr(fold, name)[0]) for fold in counts) for name in ("tp", "fn"))
        pooled = pooled_pixels(self.method)
        return f"{pooled.ap:.3f}" if pooled is not None and pooled.ap is not None and tp > 0.99 * (tp + fn) else ""

    def training(self, fact: str) -> str:
        values = [getattr(run.result.training, fact) for _, run in sorted(self.method.runs.items())]
        return ", ".join(dict.fromkeys(f"{value:,.0f}" for value in values))

    def commit(self) -> str:
        commits = dict.fromkeys(run.result.environment.commit[:7] for run in self.method.runs.values())
        return ", ".join(f"`{commit}`" for commit in commits)


MEASURES: dict[str, tuple[str, Callable[[Row], str]]] = {
    "cross_fold": ("FP, FN, F1 at `cross_fold`", lambda row: row.counts("cross_fold")),
    "paper": ("FP, FN, F1 at `paper`", lambda row: row.counts("paper")),
    "best_f": ("FP, FN, F1 at `best_f` (oracle)", lambda row: row.counts("best_f")),
    "AP": ("AP", lambda row: row.ranking(metrics.average_precision, 3)),
    "AP 95 %": ("AP: 95 %", Row.ap_interval),
    "AUROC": ("AUROC", lambda row: row.ranking(metrics.auroc, 3)),
    "FP at FN = 0": ("FP at FN = 0", lambda row: row.ranking(metrics.fp_at_fn0, 0)),
    "pixel AP": ("pixel AP", Row.pixel_ap),
    "good median": ("good images' score: median", lambda row: row.good(50)),
    "good 95 %": ("95th percentile", lambda row: row.good(95)),
    "seconds": ("training, s a fold", lambda row: row.training("train_seconds")),
    "parameters": ("parameters", lambda row: row.training("parameters")),
    "commit": ("scored at commit", Row.commit),
}


@lru_cache
def runs_below(folder: Path) -> Collection:
    return collect_runs(folder)


def read_row(field: str) -> Row:
    """The runs that a row names, or the mean of several.

    Raises:
        InputError: as `read_method` and `mean_of`.
    """
    rows = [read_method(member) for member in field.split(" + ")]
    return rows[0] if len(rows) == 1 else mean_of(rows)


def read_method(field: str) -> Row:
    """The runs that a row, or one member of a mean, names.

    Raises:
        InputError: no such folder or seed, a fold is missing, or a folder with several methods or seeds.
    """
    folder, *options = field.split()
    settings = dict(option.split("=") for option in options)
    methods = runs_below(HERE / folder).methods
    if "seed" in settings:
        methods = [method for method in methods if method.key.seed == int(settings["seed"])]
    if len(methods) != 1:
        raise InputError(f"{field}: names {len(methods)} sets of runs, and a row shows one: give its folder and seed=N")
    column = f"score_{settings['readout']}" if "readout" in settings else "score"
    return Row(leave_out(methods[0], settings["without"].split(",")) if "without" in settings else methods[0], column)


def mean_of(rows: list[Row]) -> Row:
    """The first row's runs with the mean score of all rows, image by image; pixel counts are dropped.

    Raises:
        InputError: other images or folds, other published thresholds, or a readout.
    """
    first = rows[0].method
    runs = {}
    for fold, run in first.runs.items():
        others = [row.method.runs.get(fold) for row in rows]
        alike = all(other is not None and other.scores.image == run.scores.image for other in others)
        if not alike or len({other.result.sigma for other in others}) > 1 or {row.column for row in rows} != {"score"}:
            names = "; ".join(str(row.method.key) for row in rows)
            raise InputError(f"{names}: a mean needs the same images, folds and sigma, and no readout=")
        mean = np.mean([other.scores.score for other in others], axis=0)
        runs[fold] = replace(run, scores=replace(run.scores, score=mean, readouts={}), pixels=None)
    return Row(replace(first, runs=runs), "score")


def leave_out(method: MethodRuns, images: list[str]) -> MethodRuns:
    """The runs without these images; their pixel counts, which are sums over images, are dropped.

    Raises:
        InputError: no such image.
    """
    unknown = set(images) - set(method.frame["image"])
    if unknown:
        raise InputError(f"without={','.join(sorted(unknown))}: {method.key} has no such image")
    runs = {}
    for fold, run in method.runs.items():
        s, kept = run.scores, [i for i, name in enumerate(run.scores.image) if name not in images]
        names, groups, firsts = ([column[i] for i in kept] for column in (s.image, s.group, s.representative))
        readouts = {name: values[kept] for name, values in s.readouts.items()}
        scores = run_files.Scores(names, groups, s.label[kept], s.score[kept], readouts, firsts)
        runs[fold] = replace(run, scores=scores, pixels=None)
    return replace(method, runs=runs)


def build(lines: str) -> str:
    """A table in Markdown from the lines of its comment."""
    head, *rows = ([field.strip() for field in line.split("|")] for line in lines.strip().splitlines())
    table = [[MEASURES[name][0] if name in MEASURES else name for name in head], ["---"] * len(head)]
    for fields in rows:
        *texts, place = fields
        if len(texts) != sum(name not in MEASURES for name in head):
            raise InputError(f"{' | '.join(fields)}: needs a text for each column that is no measure, then a folder")
        row, own = read_row(place), iter(texts)
        table.append([MEASURES[name][1](row) if name in MEASURES else next(own) for name in head])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in table)


def renew(text: str) -> str:
    """A page with its tables written anew."""
    return TABLE.sub(lambda table: f"{table['spec']}\n{build(table['lines'])}\n\n", text)


def pages() -> list[Path]:
    """The main README, each result page, and the full tables beside it."""
    return [HERE.parent / "README.md", *sorted(HERE.glob("**/README.md")), *sorted(HERE.glob("*/full_tables.md"))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a table is out of date")
    options = parser.parse_args()
    stale = []
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = renew(before)
        if after != before:
            stale.append(page.relative_to(HERE.parent))
            if not options.check:
                page.write_text(after, encoding="utf-8")
    for page in stale:
        print(f"{page}: {'out of date: run python experiments/tables.py' if options.check else 'written'}")
    return int(options.check and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
