"""What `anomaly-seg check` says about a data set before anyone trains on it."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from anomaly_seg.data.cache import Arrays, prepare
from anomaly_seg.data.duplicates import KINDS, DuplicatePair, Duplicates, find_duplicates
from anomaly_seg.data.preparation import Preparation
from anomaly_seg.data.quality import areas, broken, duplicate_problems, fold_notes, notes, problems
from anomaly_seg.data.records import Dataset
from anomaly_seg.data.sampling import check_sampler
from anomaly_seg.data.split_file import make_folds
from anomaly_seg.data.splits import Policy, check_fold, count_leaks, fold_sides, only_fold
from anomaly_seg.errors import InputError


@dataclass(frozen=True)
class Report:
    """text: for the terminal. problems: how many things in it need the user's attention."""

    text: str
    problems: int


@dataclass(frozen=True)
class TrainingPlan:
    """Settings of `train` that decide whether it takes the data; see `datamodule.FoldDataModule`.

    refused: what it refuses whatever the data are.
    """

    fold: int = 0
    evaluate_on: str = "test"
    sampler: str = "uniform"
    refused: Sequence[str] = ()


def check(
    dataset: Dataset,
    preparation: Preparation,
    cache_dir: str | Path | None,
    folds: int = 3,
    split: Policy = "grouped",
    split_seed: int = 0,
    splits: str | None = None,
    plan: TrainingPlan | None = None,
) -> Report:
    """Counts, sizes, defect areas, folds, duplicates, notes and problems of a data set, as tables.

    Args:
        dataset: from the reader.
        preparation: how its images become samples.
        cache_dir: where arrays are kept; None: `cache.default_cache()`.
        folds, split, split_seed, splits: as in `split_file.make_folds`.
        plan: what `train` would do with them; what it would refuse is a problem.

    Raises:
        InputError: a cache folder that cannot be written. Files that cannot be used
            are no error here but problems of the report, all of them at once.
    """
    plan = plan or TrainingPlan()
    try:
        arrays = prepare(dataset, preparation, cache_dir)
    except InputError:
        unusable = broken(dataset, preparation)
        if not unusable:
            raise
        wrong = [*plan.refused, *dataset.problems, *unusable]
        return _report([f"{dataset.name}: {len(dataset.records)} images"], dataset.notes, wrong)

    groups = [r.group for r in dataset.records]
    duplicates = find_duplicates(arrays.fingerprints, arrays.thumbnails, groups)
    oddities = dataset.notes + arrays.notes + notes(dataset, arrays, duplicates)
    wrong = [*plan.refused, *dataset.problems, *problems(dataset, arrays)]
    parts = [_headline(dataset, arrays), _sizes(groups, arrays)]
    new = splits and not Path(splits).expanduser().exists()
    try:
        labels = arrays.labels.tolist()
        fold_of = make_folds(dataset, labels, duplicates, folds, split, split_seed, splits)
    except InputError as error:
        return _report([*parts, _duplicates_table(groups, duplicates, None)], oddities, [*wrong, str(error)])
    tested = 1 if only_fold(split, dataset.train_test) else folds
    wrong += _refusals(dataset, arrays, fold_of, folds, split, plan)
    oddities += fold_notes(arrays.labels, fold_of, tested)
    if tested == 1:
        fold_of = np.minimum(fold_of, 1)  # all but the test part trains
    title = f"Folds, data.split={split}" + (f", {'saved to' if new else 'from'} {splits}" if splits else "")
    parts += [
        f"{title}\n\n{_fold_table(arrays, duplicates, fold_of, tested)}",
        _duplicates_table(groups, duplicates, fold_of),
    ]
    return _report(parts, oddities, wrong + duplicate_problems(duplicates, groups, fold_of, splits))


def _refusals(
    dataset: Dataset, arrays: Arrays, fold_of: np.ndarray, folds: int, split: Policy, plan: TrainingPlan
) -> list[str]:
    """What `train` refuses about the plan's fold and all others, in its own words."""
    tested = 1 if only_fold(split, dataset.train_test) else folds
    found: dict[str, None] = {}
    for fold in sorted({*range(tested), plan.fold}):
        try:
            check_fold(fold, folds, plan.evaluate_on, split, dataset.train_test)
            train, _ = fold_sides(fold_of, fold, folds, plan.evaluate_on)
            check_sampler(plan.sampler, arrays.sample_labels[arrays.samples(train)])
        except InputError as error:
            found[str(error)] = None
    return list(found)


def _report(parts: Sequence[str], notes: Sequence[str], problems: Sequence[str]) -> Report:
    lists = [_list(title, lines) for title, lines in (("Notes", notes), ("Problems", problems)) if lines]
    return Report(
        "\n\n".join([*(p for p in parts if p), *lists, *([] if problems else ["No problems."])]), len(problems)
    )


def _headline(dataset: Dataset, arrays: Arrays) -> str:
    """Counts in one line. Scripts of users read it, so it keeps its words: an item is a group."""
    images, defective = len(arrays.labels), int(arrays.labels.sum())
    groups = len({r.group for r in dataset.records})
    return f"{dataset.name}: {images} images of {groups} items, {defective} defective ({defective / images:.1%})"


def _sizes(groups: Sequence[str], arrays: Arrays) -> str:
    """Minimum, median and maximum of what varies among the images."""
    bad, preparation = arrays.labels == 1, arrays.preparation
    size = f"at {preparation.height}x{preparation.width}"
    rows: list[tuple[str, Any]] = [
        ("height", arrays.shapes[:, 0]),
        ("width", arrays.shapes[:, 1]),
        ("images of a group", list(Counter(groups).values())),
    ]
    if bad.any():
        rows += [
            ("defect, pixels", arrays.defect_pixels[bad]),
            ("defect, % of the image", 100 * arrays.defect_pixels[bad] / arrays.shapes[bad].prod(axis=1)),
            (f"defect {size}, pixels", areas(arrays, arrays.exact)),
        ]
        if preparation.dilation > 1:
            rows.append((f"label {size}, D = {preparation.dilation}, pixels", areas(arrays, arrays.masks)))
    table = [[name, *(_number(f(values)) for f in (np.min, np.median, np.max))] for name, values in rows]
    return tabulate(table, ["", "min", "median", "max"], disable_numparse=True, colalign=("left", *["right"] * 3))


def _number(value: float) -> str:
    return f"{value:.0f}" if value == round(value) or value >= 100 else f"{value:.3g}"


def _fold_table(arrays: Arrays, duplicates: Duplicates, folds: np.ndarray, tested: int) -> str:
    rows = []
    for fold in range(tested):
        test = folds == fold
        shared = count_leaks(duplicates, np.flatnonzero(~test), np.flatnonzero(test))
        sides = [count for side in (~test, test) for count in (int(side.sum()), int(arrays.labels[side].sum()))]
        rows.append([fold, *sides, shared["identical"], shared["near"]])
    head = ["fold", "train", "defective", "test", "defective", "test with duplicate\nin train", "with near-\nduplicate"]
    return tabulate(rows, head)


def _duplicates_table(groups: Sequence[str], duplicates: Duplicates, folds: np.ndarray | None) -> str:
    """One row for every two groups that share images."""
    if not duplicates.closest:
        return ""
    pairs_by_groups: dict[tuple[str, str, str], list[DuplicatePair]] = {}
    for pair in duplicates.closest:
        pairs_by_groups.setdefault((groups[pair.a], groups[pair.b], pair.kind), []).append(pair)
    rows = []
    for (a, b, kind), pairs in pairs_by_groups.items():
        row: list[Any] = [a, b, kind, len(pairs), f"{min(t.similarity for t in pairs):.2f}"]
        rows.append(row if folds is None else [*row, *_sides(pairs[0], folds)])
    head = ["group", "group", "kind", "pairs", "similarity", *([] if folds is None else ["test fold", ""])]
    table = tabulate(rows[:20], head, disable_numparse=True, colalign=("left", "left", "left", "right", "right"))
    more = f"\n... and {len(rows) - 20} more" if len(rows) > 20 else ""
    total, listed = sum(duplicates.count(kind) for kind in KINDS), len(duplicates.closest)
    part = f" (the closest {listed} of {total} pairs)" if listed < total else ""
    return f"Duplicates: images of two groups that show the same{part}\n\n{table}{more}"


def _sides(pair: DuplicatePair, folds: np.ndarray) -> tuple[str, str]:
    a, b = int(folds[pair.a]), int(folds[pair.b])
    return (f"{a}", "") if a == b else (f"{a}, {b}", "apart")


def _list(title: str, lines: Iterable[str]) -> str:
    wrap = textwrap.TextWrapper(110, "  - ", "    ", break_long_words=False, break_on_hyphens=False)
    return "\n".join([title, "", *(wrap.fill(line) for line in lines)])
