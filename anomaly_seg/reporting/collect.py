"""Find the runs below a folder, group them, and name what is missing."""

import os
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from anomaly_seg import settings
from anomaly_seg.errors import InputError
from anomaly_seg.evaluation import metrics
from anomaly_seg.results import run_files
from anomaly_seg.results.schema import Result

METHOD_NAMES = {
    "one_stage": "One-Stage",
    "seg_dec": "Seg-Dec",
    "unet": "U-Net",
    "encoder_decoder": "Encoder-decoder",
}

SAME = 1e-9
"""Two values of one measure, computed from the same scores, differ by less."""


class Setting(NamedTuple):
    """What has to be equal before two runs may be compared at all."""

    experiment: str
    data: str
    scale: str
    split: str
    scored: str

    def __str__(self) -> str:
        scored = "" if self.scored == "test" else f", scored on the {self.scored} part"
        return f"{self.experiment}: {self.data}, scale {self.scale}, {self.split} split{scored}"


class Key(NamedTuple):
    """One cell of the grid: the runs with this key differ in their fold only."""

    setting: Setting
    model: str
    variant: str
    dilation: int
    seed: int

    @property
    def method(self) -> str:
        name = METHOD_NAMES.get(self.model, self.model)
        return f"{name} ({self.variant})" if self.variant else name

    def __str__(self) -> str:
        return f"{self.setting}: {self.method}, D = {self.dilation}, seed {self.seed}"


@dataclass(frozen=True)
class LoadedRun:
    """One finished run; ``pixels`` is None where it wrote no pixel counts, ``settings`` where only results are kept."""

    folder: Path
    result: Result
    scores: run_files.Scores
    pixels: run_files.Pixels | None
    settings: settings.Settings | None


@dataclass(frozen=True, eq=False)  # equal only to itself, so that what is computed from it can be cached
class Group:
    """The runs of one cell, by fold."""

    key: Key
    folds: int
    runs: dict[int, LoadedRun]

    @property
    def missing(self) -> list[int]:
        """Folds that the cell should hold and does not."""
        return [fold for fold in range(self.folds) if fold not in self.runs]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Test images of all folds: fold, image, group, representative, label, score, score_<readout>; one row an
        image."""
        parts = []
        for fold, run in sorted(self.runs.items()):
            s = run.scores
            columns = {
                "fold": fold,
                "image": s.image,
                "group": s.group,
                "representative": s.representative,
                "label": s.label,
                "score": s.score,
            }
            parts.append(pd.DataFrame(columns | {f"score_{name}": v for name, v in s.readouts.items()}))
        return pd.concat(parts, ignore_index=True)


@dataclass(frozen=True)
class Collection:
    """Everything found below a folder. ``problems`` are sentences for the reader, one for each thing amiss."""

    directory: Path
    groups: list[Group]
    problems: list[str]

    @property
    def runs(self) -> list[LoadedRun]:
        return [run for group in self.groups for _, run in sorted(group.runs.items())]

    def by_setting(self) -> dict[Setting, list[Group]]:
        settings: dict[Setting, list[Group]] = {}
        for group in self.groups:
            settings.setdefault(group.key.setting, []).append(group)
        return settings


def collect_runs(directory: Path) -> Collection:
    """All runs below ``directory``, in a fixed order.

    Raises:
        InputError: no such folder, no finished run in it, or the same run in two folders.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: no such folder: give the folder that holds the runs")
    finished, problems = [], []
    for folder, files in _run_folders(directory):
        if run_files.RESULT in files:
            try:
                finished.append(_load(folder))
            except InputError as error:
                problems.append(f"Unreadable: {_relative(str(error), directory)}")
        elif "failure.txt" in files:
            problems.append(f"Failed: {folder.relative_to(directory)}: {_last_line(folder / 'failure.txt')}")
        else:
            problems.append(f"Unfinished: {folder.relative_to(directory)} has a configuration but no result.")
    if not finished:
        raise InputError(f"{directory}: holds no readable {run_files.RESULT}: run `anomaly-seg train` first")
    groups, left_out = _group(finished, directory)
    if not groups:
        raise InputError(f"{directory}: nothing to report: {' '.join(left_out)}")
    return Collection(directory, groups, _missing(groups) + left_out + _other_data(groups) + problems)


def picture_name(image: str) -> str:
    """File name, below a run's ``pictures`` folder, of the strip that shows this image."""
    return image.replace("/", "__") + ".png"


def _run_folders(directory: Path) -> list[tuple[Path, set[str]]]:
    """Folders that hold a run, with their file names.

    Hidden folders are no runs, nor is what lies in a run's: Hydra and W&B keep a config.yaml there.
    """
    found = []
    for folder, subfolders, files in os.walk(directory):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if {run_files.RESULT, settings.CONFIG, "failure.txt"} & set(files):
            found.append((Path(folder), set(files)))
            subfolders.clear()
    return found


def _load(folder: Path) -> LoadedRun:
    result, scores = run_files.read_result(folder), run_files.read_scores(folder)
    _check_same(folder, result, scores)
    pixels = run_files.read_pixels(folder) if (folder / run_files.PIXELS).is_file() else None
    record = folder / settings.CONFIG
    return LoadedRun(folder, result, scores, pixels, settings.read(record) if record.is_file() else None)


def _check_same(folder: Path, result: Result, scores: run_files.Scores) -> None:
    """Raises InputError if the scores are not those that the result was made from."""
    pairs: dict[str, tuple[float | None, float | None]] = {
        "images": (len(scores.image), result.counts.test_images),
        "defective images": (int(scores.label.sum()), result.counts.test_defective),
        "AP": (metrics.average_precision(scores.score, scores.label), result.image.ap),
    }
    for what, (here, there) in pairs.items():
        if here != there and (here is None or there is None or abs(here - there) > SAME):
            raise InputError(
                f"{folder / run_files.SCORES}: {what}: {here}, in {run_files.RESULT} {there}: {run_files.AGAIN}"
            )


def _key(result: Result) -> Key:
    run = result.run
    setting = Setting(run.experiment, run.data, run.scale, run.split, run.scored)
    return Key(setting, run.model, run.variant, run.dilation, run.seed)


def _group(runs: list[LoadedRun], directory: Path) -> tuple[list[Group], list[str]]:
    """The cells of which one can speak as of one model, and why the others are left out."""
    cells: dict[Key, dict[int, LoadedRun]] = {}
    for run in runs:
        cell, fold = cells.setdefault(_key(run.result), {}), run.result.run.fold
        if fold in cell:
            here, there = (path.relative_to(directory) for path in (cell[fold].folder, run.folder))
            raise InputError(f"{directory}: {here} and {there} hold the same run: move one of them away")
        cell[fold] = run
    left_out = {key: reason for key, cell in cells.items() if (reason := _no_one_model(cell, directory))}
    order = {model: i for i, model in enumerate(METHOD_NAMES)}
    keys = sorted(cells.keys() - left_out.keys(), key=lambda k: (k.setting, order.get(k.model, len(order)), k[1:]))
    groups = [Group(key, max(run.result.run.folds for run in cells[key].values()), cells[key]) for key in keys]
    return groups, [f"Left out: {key}: {reason}." for key, reason in sorted(left_out.items())]


def _no_one_model(cell: dict[int, LoadedRun], directory: Path) -> str:
    """Why the folds of a cell cannot be judged together; nothing if they can."""
    runs = {run.folder.relative_to(directory): run for run in cell.values()}
    known = [(folder, run.settings) for folder, run in runs.items() if run.settings]
    for (first, its), (other, theirs) in pairwise(known):
        changed = its.differences(theirs, ignored=("fold",))
        if changed:
            keys = "; ".join(changed[:3])
            return f"{first} and {other} differ in more than their fold ({keys}): train one of them anew"
    try:
        run_files.check_pooled({folder: (run.result, run.scores) for folder, run in runs.items()})
    except InputError as error:
        return str(error)
    return ""


def _missing(groups: list[Group]) -> list[str]:
    """Folds absent from a cell, and cells absent from the grid of a setting's methods, dilations and seeds."""
    problems = [f"Missing: {group.key}: fold {fold}." for group in groups for fold in group.missing]
    present = {group.key for group in groups}
    for setting in {group.key.setting: None for group in groups}:
        keys = [key for key in present if key.setting == setting]
        methods, dilations = {(k.model, k.variant) for k in keys}, {k.dilation for k in keys}
        for seed in {k.seed for k in keys}:
            grid = {Key(setting, *method, dilation, seed) for method in methods for dilation in dilations}
            problems += sorted(f"Missing: {key}: no fold was run." for key in grid - present)
    return problems


def _other_data(groups: list[Group]) -> list[str]:
    """Cells of one setting that are of different data, as far as their runs say it."""
    problems = []
    firsts: dict[Setting, tuple[str, Key]] = {}
    for group in groups:
        for digest in {run.result.data_digest for run in group.runs.values()} - {""}:  # one, or pooling had refused
            first, key = firsts.setdefault(group.key.setting, (digest, group.key))
            if digest != first:
                problems.append(f"Not comparable: {group.key}: made from other data than {key}.")
    return problems


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "(its failure.txt is empty)"


def _relative(message: str, directory: Path) -> str:
    """Messages in a report that may be published name files from the report's folder on, not from the disk's root."""
    return message.replace(f"{directory}{os.sep}", "")
