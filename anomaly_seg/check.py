"""What `anomaly-seg check` says about a data set before anyone trains on it."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

from anomaly_seg import settings as run_settings
from anomaly_seg.data.cache import Arrays, Preparation, default_cache, prepare
from anomaly_seg.data.records import Dataset, load_image, load_mask
from anomaly_seg.data.splits import across, assign_folds
from anomaly_seg.data.twins import Twin, find_twins
from anomaly_seg.errors import InputError

TINY = 4
"""Defects below this many pixels at training size count as lost."""

SHOWN = 6
"""Names in a list, before the rest is only counted; broken files are all listed."""


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
        broken = _broken(dataset, how)
        if not broken:
            raise
        return _report([f"{dataset.name}: {len(dataset.records)} images"], dataset.notes, broken)

    items = [r.item for r in dataset.records]
    twins = find_twins(arrays.fingerprints, arrays.thumbnails, items)
    notes = dataset.notes + arrays.notes + _notes(dataset, arrays, twins)
    problems = _problems(dataset, arrays, how)
    parts = [_headline(dataset, arrays), _sizes(items, arrays, how)]
    try:
        labels, published = arrays.labels.tolist(), dataset.published_folds
        folds = assign_folds(items, labels, data["folds"], data["split"], twins, published, data["split_seed"])
    except InputError as error:
        problems.append(str(error))
        parts += [_twin_table(items, twins, None)]
    else:
        problems += _twin_problems(twins, folds)
        parts += [f"Folds, data.split={data['split']}\n\n{_fold_table(arrays, twins, folds)}"]
        parts += [_twin_table(items, twins, folds)]
    return _report(parts, notes, problems)


def _report(parts: Sequence[str], notes: Sequence[str], problems: Sequence[str]) -> Report:
    lists = [_list(title, lines) for title, lines in (("Notes", notes), ("Problems", problems)) if lines]
    return Report(
        "\n\n".join([*(p for p in parts if p), *lists, *([] if problems else ["No problems."])]), len(problems)
    )


def _headline(dataset: Dataset, arrays: Arrays) -> str:
    images, defective = len(arrays.labels), int(arrays.labels.sum())
    items = len({r.item for r in dataset.records})
    return f"{dataset.name}: {images} images of {items} items, {defective} defective ({defective / images:.1%})"


def _sizes(items: Sequence[str], arrays: Arrays, how: Preparation) -> str:
    """Minimum, median and maximum of what varies among the images."""
    bad = arrays.labels == 1
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
            (f"defect {size}, pixels", _areas(arrays.exact, bad)),
        ]
        if how.dilation > 1:
            rows.append((f"label {size}, D = {how.dilation}, pixels", _areas(arrays.masks, bad)))
    table = [[name, *(_number(f(values)) for f in (np.min, np.median, np.max))] for name, values in rows]
    return tabulate(table, ["", "min", "median", "max"], disable_numparse=True, colalign=("left", *["right"] * 3))


def _number(value: float) -> str:
    return f"{value:.0f}" if value == round(value) or value >= 100 else f"{value:.3g}"


def _areas(masks: np.ndarray, which: np.ndarray) -> np.ndarray:
    return np.array([int(masks[i].sum()) for i in np.flatnonzero(which)])


def _fold_table(arrays: Arrays, twins: Sequence[Twin], folds: np.ndarray) -> str:
    rows = []
    for fold in range(int(folds.max()) + 1):
        test = folds == fold
        shared = across(twins, np.flatnonzero(~test), np.flatnonzero(test))
        sides = [count for side in (~test, test) for count in (int(side.sum()), int(arrays.labels[side].sum()))]
        rows.append([fold, *sides, shared["identical"], shared["near"]])
    head = ["fold", "train", "defective", "test", "defective", "test with identical\ntwin in train", "with near\ntwin"]
    return tabulate(rows, head)


def _twin_table(items: Sequence[str], twins: Sequence[Twin], folds: np.ndarray | None) -> str:
    """One row for every two items that share images."""
    if not twins:
        return ""
    groups: dict[tuple[str, str, str], list[Twin]] = {}
    for twin in twins:
        groups.setdefault((items[twin.a], items[twin.b], twin.kind), []).append(twin)
    rows = []
    for (a, b, kind), pairs in groups.items():
        row: list[Any] = [a, b, kind, len(pairs), f"{min(t.similarity for t in pairs):.2f}"]
        rows.append(row if folds is None else [*row, *_sides(pairs[0], folds)])
    head = ["item", "item", "kind", "pairs", "similarity", *([] if folds is None else ["test fold", ""])]
    table = tabulate(rows[:20], head, disable_numparse=True, colalign=("left", "left", "left", "right", "right"))
    more = f"\n... and {len(rows) - 20} more" if len(rows) > 20 else ""
    return f"Twins: images of two items that show the same\n\n{table}{more}"


def _sides(twin: Twin, folds: np.ndarray) -> tuple[str, str]:
    a, b = int(folds[twin.a]), int(folds[twin.b])
    return (f"{a}", "") if a == b else (f"{a}, {b}", "apart")


def _twin_problems(twins: Sequence[Twin], folds: np.ndarray) -> list[str]:
    found = []
    for kind, name, remedy in (("identical", "identical", "grouped"), ("near", "near-identical", "grouped_near")):
        apart = sum(t.kind == kind and folds[t.a] != folds[t.b] for t in twins)
        if apart:
            found.append(
                f"{apart} pairs of {name} images lie on both sides of the split, so a test image was trained on; "
                f"data.split={remedy} keeps them together"
            )
    return found


def _notes(dataset: Dataset, arrays: Arrays, twins: Sequence[Twin]) -> list[str]:
    """Oddities that call for no action."""
    notes = []
    views = Counter(r.item for r in dataset.records)
    usual = Counter(views.values()).most_common(1)[0][0]
    if odd := [f"{item} has {count}" for item, count in sorted(views.items()) if count != usual]:
        notes.append(f"items have {usual} image{'s' * (usual != 1)} each, but {_names(odd)}")
    differing = [
        (t.a, t.b)
        for t in twins
        if t.kind == "identical"
        and (arrays.defect_pixels[t.a], arrays.exact[t.a].tobytes())
        != (arrays.defect_pixels[t.b], arrays.exact[t.b].tobytes())
    ]
    if differing:
        pairs = [f"{dataset.records[a].name} and {dataset.records[b].name}" for a, b in differing]
        notes.append(f"identical images with different masks, which shows how far two drawings differ: {_names(pairs)}")
    return notes


def _problems(dataset: Dataset, arrays: Arrays, how: Preparation) -> list[str]:
    """What would spoil training or evaluation without an error."""
    problems = []
    names = [r.name for r in dataset.records]
    bad = np.flatnonzero(arrays.labels)
    size = f"{how.height}x{how.width}"
    if not len(bad):
        problems.append("no image is defective: nothing can be learnt; check the masks")
    for what, masks in (("defects", arrays.exact), (f"labels (D = {how.dilation})", arrays.masks)):
        area = _areas(masks, arrays.labels == 1)
        if lost := [f"{names[i]} ({a})" for i, a in zip(bad, area, strict=True) if a < TINY]:
            problems.append(f"{what} of fewer than {TINY} pixels at {size}: {_names(lost)}; use a larger scale")
        if masks is arrays.masks and how.dilation < 2:
            break
    if flat := [names[i] for i in np.flatnonzero(~arrays.thumbnails.any(axis=1))]:
        problems.append(f"images of one grey value: {_names(flat)}; replace or remove them")
    first: dict[tuple[str, str], str] = {}
    copies = []
    for record, print_ in zip(dataset.records, arrays.fingerprints, strict=True):
        other = first.setdefault((record.item, print_), record.name)
        if other != record.name:
            copies.append(f"{record.name} = {other}")
    if copies:
        problems.append(f"an item's image twice: {_names(copies)}; remove one of each")
    views = Counter(r.item for r in dataset.records)
    single = sorted(item for item, count in views.items() if count == 1)
    if single and len(single) < len(views) / 2:
        problems.append(f"only one image, where other items have more: {_names(single)}; an incomplete copy?")
    return problems


def _broken(dataset: Dataset, how: Preparation) -> list[str]:
    """The messages of all images and masks that cannot be used."""
    messages = []
    for record in dataset.records:
        try:
            load_mask(record, load_image(record.image, how.convert).shape[:2])
        except InputError as error:
            messages.append(str(error))
    return messages


def _names(names: Sequence[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _list(title: str, lines: Iterable[str]) -> str:
    wrap = textwrap.TextWrapper(110, "  - ", "    ", break_long_words=False, break_on_hyphens=False)
    return "\n".join([title, "", *(wrap.fill(line) for line in lines)])
