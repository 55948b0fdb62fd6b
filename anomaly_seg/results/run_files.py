"""What a run leaves behind for the report: ``result.json``, ``scores.csv`` and ``pixels.csv``.

``result.json`` (see `schema`) is written last and atomically, so its presence means that the run is finished. Numbers
are written as the shortest text that reads back as the same float.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from anomaly_seg import atomic
from anomaly_seg.errors import InputError
from anomaly_seg.evaluation import metrics
from anomaly_seg.results.schema import SCHEMA_VERSION, PixelLevel, Result

RESULT, SCORES, PIXELS = "result.json", "scores.csv", "pixels.csv"
FAILURE = "failure.txt"
"""The traceback of a run that ended with an unexpected error."""
OLD_COLUMNS = {"item": "group", "part": "representative"}
"""Columns of scores.csv that older versions wrote under other names."""
AGAIN = f"delete {RESULT} beside it and run again"
"""Then the run is scored once more, from its checkpoint."""


@dataclass(frozen=True)
class Scores:
    """Test images of one run: (n,) names, groups, labels (0 or 1), scores that classify, and further readouts.

    representative: (n,) what counts as one where independent draws are counted: the group, or the first of those groups
    that share a byte-identical image with it. Results of older versions have none; there it is the group.
    """

    image: Sequence[str]
    group: Sequence[str]
    label: NDArray[np.int64]
    score: NDArray[np.float64]
    readouts: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    representative: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not len(self.representative):
            object.__setattr__(self, "representative", self.group)


@dataclass(frozen=True)
class Pixels:
    """Pixel counts over all test images on a grid of thresholds: (t,) each; defective if ``value > threshold``."""

    threshold: NDArray[np.float64]
    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    fn: NDArray[np.int64]
    tn: NDArray[np.int64]

    def measures(self) -> PixelLevel:
        """AP, IoU and Dice. Raises as `metrics.pixel_measures`."""
        measures = metrics.pixel_measures(self.threshold, self.tp, self.fp, self.fn, self.tn)
        return PixelLevel(**measures._asdict())


def finished(run_dir: Path) -> bool:
    """Whether the run in this folder wrote its result."""
    return (run_dir / RESULT).is_file()


def write_result(run_dir: Path, result: Result) -> Path:
    """Write ``result.json``, whole or not at all. Call it last. Raises InputError if the folder takes no file."""
    return write_whole(run_dir / RESULT, result.model_dump_json(indent=2) + "\n")


def read_result(path: Path) -> Result:
    """Read a ``result.json`` (or that of a run folder). Raises InputError that names file and key."""
    path = path / RESULT if path.is_dir() else path
    try:
        raw = json.loads(_read(path))
    except (ValueError, RecursionError) as error:  # also of brackets without end, and numbers of thousands of digits
        raise InputError(f"{path}: not JSON ({error}): delete it and run again") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{path}: schema_version is {version!r}, this version reads {SCHEMA_VERSION}: "
            "use the version of anomaly-seg that wrote it, or run again"
        )
    try:
        return Result.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: key {key}: {first['msg']}: delete the file and run again") from error


def write_scores(run_dir: Path, scores: Scores) -> Path:
    """Write ``scores.csv``: image, group, representative, label, score, ``score_<readout>`` each. Raises as
    `write_result`."""
    columns: dict[str, Iterable[Any]] = {
        "image": scores.image,
        "group": scores.group,
        "representative": scores.representative,
        "label": (int(label) for label in scores.label),
        "score": (float(score) for score in scores.score),
    }
    columns |= {f"score_{name}": (float(score) for score in values) for name, values in scores.readouts.items()}
    return _write_csv(run_dir / SCORES, columns)


def read_scores(path: Path) -> Scores:
    """Read a ``scores.csv`` (or that of a run folder). Raises InputError, naming file, column and line."""
    path = path / SCORES if path.is_dir() else path
    columns = _read_csv(path, ("image", "group", "label", "score"), OLD_COLUMNS)
    if len(set(columns["image"])) != len(columns["image"]):
        raise InputError(f"{path}: an image is listed twice: {AGAIN}")
    labels = _numbers(path, "label", columns, int)
    if not np.isin(labels, (0, 1)).all():
        raise InputError(f"{path}: column label holds values other than 0 and 1: {AGAIN}")
    extra = [name for name in columns if name.startswith("score_")]
    readouts = {name.removeprefix("score_"): _numbers(path, name, columns, float) for name in extra}
    score = _numbers(path, "score", columns, float)
    return Scores(columns["image"], columns["group"], labels, score, readouts, columns.get("representative", ()))


def check_pooled(runs: Mapping[Path, tuple[Result, Scores]]) -> None:
    """Refuse runs of one model that cannot be judged together: each image counts once, and under one label.

    Args:
        runs: by folder, what each holds.

    Raises:
        InputError: two runs that were made from different data, or two folds that scored the same image.
    """
    remedy = "train all folds on the same data (overwrite=true), or move one of them away"
    known = {result.data_digest: folder for folder, (result, _) in runs.items() if result.data_digest}
    if len(known) > 1:
        one, other, *_ = known.values()
        raise InputError(f"{one} and {other} were made from different data (images, masks or folds): {remedy}")
    scored: dict[str, tuple[int, Path]] = {}
    for folder, (result, scores) in runs.items():
        for image in scores.image:
            fold, first = scored.setdefault(image, (result.run.fold, folder))
            if fold != result.run.fold:  # by older versions, which did not record their data
                raise InputError(f"{image}: scored in two folds, by {first} and {folder}: {remedy}")


def write_pixels(run_dir: Path, pixels: Pixels) -> Path:
    """Write ``pixels.csv``: threshold, tp, fp, fn, tn. Raises as `write_result`."""
    columns: dict[str, Iterable[Any]] = {"threshold": (float(t) for t in pixels.threshold)}
    columns |= {name: (int(n) for n in getattr(pixels, name)) for name in ("tp", "fp", "fn", "tn")}
    return _write_csv(run_dir / PIXELS, columns)


def read_pixels(path: Path) -> Pixels:
    """Read a ``pixels.csv`` (or that of a run folder). Raises InputError, naming file, column and line."""
    path = path / PIXELS if path.is_dir() else path
    columns = _read_csv(path, ("threshold", "tp", "fp", "fn", "tn"))
    counts = {name: _numbers(path, name, columns, int) for name in ("tp", "fp", "fn", "tn")}
    pixels = Pixels(_numbers(path, "threshold", columns, float), **counts)
    try:
        pixels.measures()
    except ValueError as error:
        raise InputError(f"{path}: {error}: {AGAIN}") from error
    return pixels


def write_whole(path: Path, text: str) -> Path:
    """Write a text of a run's folder, whole or not at all.

    Raises:
        InputError: the folder takes no file.
    """
    try:
        atomic.write(path, text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}): free space or choose another folder") from None
    return path


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}): check the folder, or run again") from error


def _write_csv(path: Path, columns: dict[str, Iterable[Any]]) -> Path:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([list(columns), *zip(*columns.values(), strict=True)])
    return write_whole(path, text.getvalue())


def _read_csv(path: Path, needed: Sequence[str], old_names: Mapping[str, str] | None = None) -> dict[str, list[str]]:
    text = _read(path)
    try:
        header, *rows = list(csv.reader(io.StringIO(text, newline=""), strict=True)) or [[]]
    except csv.Error as error:
        raise InputError(f"{path}: not CSV ({error}): {AGAIN}") from error
    header = [(old_names or {}).get(name, name) for name in header]
    missing = [name for name in needed if name not in header]
    if missing:
        raise InputError(f"{path}: column {', '.join(missing)} is missing: {AGAIN}")
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise InputError(f"{path}: row {line} has {len(row)} of {len(header)} values: {AGAIN}")
    if not rows or not text.endswith("\n"):
        raise InputError(f"{path}: {'cut short' if rows else 'holds no rows'}: {AGAIN}")
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def _numbers(path: Path, name: str, columns: dict[str, list[str]], kind: Callable[[str], float]) -> NDArray[Any]:
    try:
        values = np.array([kind(text) for text in columns[name]], dtype=np.int64 if kind is int else np.float64)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}: column {name}: {error}: {AGAIN}") from error
    if not np.isfinite(values).all():
        raise InputError(f"{path}: column {name} holds a value that is not finite: {AGAIN}")
    return values
