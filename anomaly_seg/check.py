"""What `anomaly-seg check` says about a data set before anyone trains on it."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from anomaly_seg import settings as run_settings
from anomaly_seg.data.cache import Arrays, Preparation, default_cache, prepare
from anomaly_seg.data.oddities import areas, broken, fold_notes, notes, problems, twin_problems
from anomaly_seg.data.records import Dataset
from anomaly_seg.data.split_file import make_folds
from anomaly_seg.data.splits import across, only_fold
from anomaly_seg.data.twins import KINDS, Twin, Twins, find_twins
from anomaly_seg.errors import InputError


@dataclass(frozen=True)
class Report:
    """text: for the terminal. problems: how many things in it need the user's attention."""

    text: str
    problems: int


def check(settings: Mapping[str, Any], dataset: Dataset) -> Report:
    """Counts, sizes, defect areas, folds, twins, notes and problems of a data set, as tables.

    Args:
        settings: of a run, plain; `data`, `scale` and `dilation` are used.
        dataset: from the reader.

    Raises:
        InputError: settings that no run can have, or a cache folder that cannot be written. Files that cannot be used
            are no error here but problems of the report, all of them at once.
    """
    run_settings.check(settings)
    data, how = settings["data"], Preparation.of(settings)
    try:
        arrays = prepare(dataset, how, data["cache_dir"] or default_cache())
    except InputError:
        unusable = broken(dataset, how)
        if not unusable:
            raise
        return _report([f"{dataset.name}: {len(dataset.records)} images"], dataset.notes, unusable)

    items = [r.item for r in dataset.records]
    twins = find_twins(arrays.fingerprints, arrays.thumbnails, items)
    oddities, wrong = dataset.notes + arrays.notes + notes(dataset, arrays, twins), problems(dataset, arrays)
    parts = [_headline(dataset, arrays), _sizes(items, arrays)]
    file, policy = data.get("splits"), data["split"]
    new = file and not Path(file).expanduser().exists()
    try:
        labels = arrays.labels.tolist()
        folds = make_folds(dataset, labels, twins, data["folds"], policy, data["split_seed"], file)
    except InputError as error:
        return _report([*parts, _twin_table(items, twins, None)], oddities, [*wrong, str(error)])
    tested = 1 if only_fold(policy, dataset.train_test) else data["folds"]
    oddities += fold_notes(arrays.labels, folds, tested)
    if tested == 1:
        folds = np.minimum(folds, 1)  # all but the test part trains
    title = f"Folds, data.split={policy}" + (f", {'saved to' if new else 'from'} {file}" if file else "")
    parts += [f"{title}\n\n{_fold_table(arrays, twins, folds, tested)}", _twin_table(items, twins, folds)]
    return _report(parts, oddities, wrong + twin_problems(twins, items, folds, file))


def _report(parts: Sequence[str], notes: Sequence[str], problems: Sequence[str]) -> Report:
    lists = [_list(title, lines) for title, lines in (("Notes", notes), ("Problems", problems)) if lines]
    return Report(
        "\n\n".join([*(p for p in parts if p), *lists, *([] if problems else ["No problems."])]), len(problems)
    )


def _headline(dataset: Dataset, arrays: Arrays) -> str:
    images, defective = len(arrays.labels), int(arrays.labels.sum())
    items = len({r.item for r in dataset.records})
    return f"{dataset.name}: {images} images of {items} items, {defective} defective ({defective / images:.1%})"


def _sizes(items: Sequence[str], arrays: Arrays) -> str:
    """Minimum, median and maximum of what varies among the images."""
    bad, how = arrays.labels == 1, arrays.how
    size = f"at {how.height}x{how.width}"
    rows: list[tuple[str, Any]] = [
        ("height", arrays.shapes[:, 0]),
        ("width", arrays.shapes[:, 1]),
        ("images of an item", list(Counter(items).values())),
    ]
    if bad.any():
        rows += [
            ("defect, pixels", arrays.defect_pixels[bad]),
            ("defect, % of the image", 100 * arrays.defect_pixels[bad] / arrays.shapes[bad].prod(axis=1)),
            (f"defect {size}, pixels", areas(arrays, arrays.exact)),
        ]
        if how.dilation > 1:
            rows.append((f"label {size}, D = {how.dilation}, pixels", areas(arrays, arrays.masks)))
    table = [[name, *(_number(f(values)) for f in (np.min, np.median, np.max))] for name, values in rows]
    return tabulate(table, ["", "min", "median", "max"], disable_numparse=True, colalign=("left", *["right"] * 3))


def _number(value: float) -> str:
    return f"{value:.0f}" if value == round(value) or value >= 100 else f"{value:.3g}"


def _fold_table(arrays: Arrays, twins: Twins, folds: np.ndarray, tested: int) -> str:
    rows = []
    for fold in range(tested):
        test = folds == fold
        shared = across(twins, np.flatnonzero(~test), np.flatnonzero(test))
        sides = [count for side in (~test, test) for count in (int(side.sum()), int(arrays.labels[side].sum()))]
        rows.append([fold, *sides, shared["identical"], shared["near"]])
    head = ["fold", "train", "defective", "test", "defective", "test with identical\ntwin in train", "with near\ntwin"]
    return tabulate(rows, head)


def _twin_table(items: Sequence[str], twins: Twins, folds: np.ndarray | None) -> str:
    """One row for every two items that share images."""
    if not twins.closest:
        return ""
    groups: dict[tuple[str, str, str], list[Twin]] = {}
    for twin in twins.closest:
        groups.setdefault((items[twin.a], items[twin.b], twin.kind), []).append(twin)
    rows = []
    for (a, b, kind), pairs in groups.items():
        row: list[Any] = [a, b, kind, len(pairs), f"{min(t.similarity for t in pairs):.2f}"]
        rows.append(row if folds is None else [*row, *_sides(pairs[0], folds)])
    head = ["item", "item", "kind", "pairs", "similarity", *([] if folds is None else ["test fold", ""])]
    table = tabulate(rows[:20], head, disable_numparse=True, colalign=("left", "left", "left", "right", "right"))
    more = f"\n... and {len(rows) - 20} more" if len(rows) > 20 else ""
    total, listed = sum(twins.count(kind) for kind in KINDS), len(twins.closest)
    part = f" (the closest {listed} of {total} pairs)" if listed < total else ""
    return f"Twins: images of two items that show the same{part}\n\n{table}{more}"


def _sides(twin: Twin, folds: np.ndarray) -> tuple[str, str]:
    a, b = int(folds[twin.a]), int(folds[twin.b])
    return (f"{a}", "") if a == b else (f"{a}, {b}", "apart")


def _list(title: str, lines: Iterable[str]) -> str:
    wrap = textwrap.TextWrapper(110, "  - ", "    ", break_long_words=False, break_on_hyphens=False)
    return "\n".join([title, "", *(wrap.fill(line) for line in lines)])
