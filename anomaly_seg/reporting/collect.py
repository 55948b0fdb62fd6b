"""Find the runs below a folder, put those of one method together, and name what is missing."""

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
from anomaly_seg.reporting.network_facts import network_facts, place_in_report
from anomaly_seg.results import run_files
from anomaly_seg.results.schema import NetworkFacts, Result
from anomaly_seg.settings_identity import START_DIGEST

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
    """One cell of the grid: the runs with this key differ in their fold only. ``name``: of the method, for people."""

    setting: Setting
    model: str
    variant: str
    name: str
    dilation: int
    seed: int

    def __str__(self) -> str:
        return f"{self.setting}: {self.name}, D = {self.dilation}, seed {self.seed}"


@dataclass(frozen=True)
class LoadedRun:
    """One finished run; ``pixels`` is None where it wrote no pixel counts, ``settings`` where only results are kept."""

    folder: Path
    result: Result
    scores: run_files.Scores
    pixels: run_files.Pixels | None
    settings: settings.Settings | None


@dataclass(frozen=True, eq=False)  # equal only to itself, so that what is computed from it can be cached
class MethodRuns:
    """The runs of one method, at one dilation and seed, by fold."""

    key: Key
    folds: int
    runs: dict[int, LoadedRun]

    @property
    def network(self) -> NetworkFacts:
        """What its network says about itself."""
        return network_facts(next(iter(self.runs.values())).result)

    @property
    def missing(self) -> list[int]:
        """Folds that the cell should hold and does not."""
        return [fold for fold in range(self.folds) if fold not in self.runs]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Test images of all folds, a row each: fold, image, group, representative, label, score, score_<readout>."""
        frames = []
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
            frames.append(pd.DataFrame(columns | {f"score_{name}": v for name, v in s.readouts.items()}))
        return pd.concat(frames, ignore_index=True)


@dataclass(frozen=True)
class Collection:
    """Everything found below a folder. ``problems`` are sentences for the reader, one for each thing amiss."""

    directory: Path
    methods: list[MethodRuns]
    problems: list[str]

    @property
    def runs(self) -> list[LoadedRun]:
        return [run for method in self.methods for _, run in sorted(method.runs.items())]

    def by_setting(self) -> dict[Setting, list[MethodRuns]]:
        settings: dict[Setting, list[MethodRuns]] = {}
        for method in self.methods:
            settings.setdefault(method.key.setting, []).append(method)
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
        elif run_files.FAILURE in files:
            problems.append(f"Failed: {folder.relative_to(directory)}: {_last_line(folder / run_files.FAILURE)}")
        else:
            problems.append(f"Unfinished: {folder.relative_to(directory)} has a configuration but no result.")
    if not finished:
        raise InputError(f"{directory}: holds no readable {run_files.RESULT}: run `anomaly-seg train` first")
    methods, left_out = _by_method(finished, directory)
    if not methods:
        raise InputError(f"{directory}: nothing to report: {' '.join(left_out)}")
    return Collection(directory, methods, _missing(methods) + left_out + _other_data(methods) + problems)


def picture_name(image: str) -> str:
    """File name, below a run's ``pictures`` folder, of the strip that shows this image."""
    return image.replace("/", "__") + ".png"


def _run_folders(directory: Path) -> list[tuple[Path, set[str]]]:
    """Folders that hold a run, with their file names.

    Hidden folders are no runs, nor is what lies in a run's: Hydra and W&B keep a config.yaml there.
    """
    folders = []
    for folder, subfolders, files in os.walk(directory):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if {run_files.RESULT, settings.CONFIG, run_files.FAILURE} & set(files):
            folders.append((Path(folder), set(files)))
            subfolders.clear()
    return folders


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


def _names(runs: list[LoadedRun]) -> dict[tuple[str, str], str]:
    """Name of each method, by model and variant: its title, and its model too where two models have one title."""
    titles: dict[tuple[str, str], str] = {}
    for run in runs:
        method = (run.result.run.model, run.result.run.variant)
        titles[method] = titles.get(method) or network_facts(run.result).title
    titles = {method: title or method[0] for method, title in titles.items()}
    models: dict[str, set[str]] = {}
    for (model, _), title in titles.items():
        models.setdefault(title, set()).add(model)
    names = {}
    for (model, variant), title in titles.items():
        more = ", ".join(word for word in (model if len(models[title]) > 1 else "", variant) if word)
        names[model, variant] = f"{title} ({more})" if more else title
    return names


def _key(result: Result, names: dict[tuple[str, str], str]) -> Key:
    run = result.run
    setting = Setting(run.experiment, run.data, run.scale, run.split, run.scored)
    return Key(setting, run.model, run.variant, names[run.model, run.variant], run.dilation, run.seed)


def _by_method(runs: list[LoadedRun], directory: Path) -> tuple[list[MethodRuns], list[str]]:
    """The cells of which one can speak as of one model, and why the others are left out."""
    cells: dict[Key, dict[int, LoadedRun]] = {}
    names = _names(runs)
    for run in runs:
        cell, fold = cells.setdefault(_key(run.result, names), {}), run.result.run.fold
        if fold in cell:
            here, there = (path.relative_to(directory) for path in (cell[fold].folder, run.folder))
            raise InputError(f"{directory}: {here} and {there} hold the same run: move one of them away")
        cell[fold] = run
    left_out = {key: reason for key, cell in cells.items() if (reason := _no_one_model(cell, directory))}
    keys = sorted(cells.keys() - left_out.keys(), key=lambda k: (k.setting, place_in_report(k.model), k[1:]))
    methods = [MethodRuns(key, max(run.result.run.folds for run in cells[key].values()), cells[key]) for key in keys]
    return methods, [f"Left out: {key}: {reason}." for key, reason in sorted(left_out.items())]


def _no_one_model(cell: dict[int, LoadedRun], directory: Path) -> str:
    """Why the folds of a cell cannot be judged together; nothing if they can."""
    runs = {run.folder.relative_to(directory): run for run in cell.values()}
    known = [(folder, run.settings) for folder, run in runs.items() if run.settings]
    for (first, its), (other, theirs) in pairwise(known):
        changed = its.differences(theirs, ignored=("fold", START_DIGEST))
        if changed:
            keys = "; ".join(changed[:3])
            return f"{first} and {other} differ in more than their fold ({keys}): train one of them anew"
    try:
        run_files.check_pooled({folder: (run.result, run.scores) for folder, run in runs.items()})
    except InputError as error:
        return str(error)
    return ""


def _missing(methods: list[MethodRuns]) -> list[str]:
    """Folds absent from a cell, and cells absent from the grid of a setting's models, dilations and seeds."""
    problems = [f"Missing: {method.key}: fold {fold}." for method in methods for fold in method.missing]
    present = {method.key for method in methods}
    for setting in {method.key.setting: None for method in methods}:
        keys = [key for key in present if key.setting == setting]
        models, dilations = {(k.model, k.variant, k.name) for k in keys}, {k.dilation for k in keys}
        for seed in {k.seed for k in keys}:
            grid = {Key(setting, *model, dilation, seed) for model in models for dilation in dilations}
            problems += sorted(f"Missing: {key}: no fold was run." for key in grid - present)
    return problems


def _other_data(methods: list[MethodRuns]) -> list[str]:
    """Cells of one setting that are of different data, as far as their runs say it."""
    problems = []
    firsts: dict[Setting, tuple[str, Key]] = {}
    for method in methods:
        for digest in {run.result.data_digest for run in method.runs.values()} - {""}:  # one, or pooling had refused
            first, key = firsts.setdefault(method.key.setting, (digest, method.key))
            if digest != first:
                problems.append(f"Not comparable: {method.key}: made from other data than {key}.")
    return problems


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "(its failure.txt is empty)"


def _relative(message: str, directory: Path) -> str:
    """Messages in a report that may be published name files from the report's folder on, not from the disk's root."""
    return message.replace(f"{directory}{os.sep}", "")
