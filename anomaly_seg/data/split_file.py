"""Folds of a data set, saved as readable JSON and used again."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_seg import atomic
from anomaly_seg.data.duplicates import Duplicates
from anomaly_seg.data.files import some
from anomaly_seg.data.records import Dataset
from anomaly_seg.data.splits import Policy, assign_folds, check_folds
from anomaly_seg.errors import InputError

ABOUT = "Test fold of every group, 0-based; data.splits=THIS FILE uses it again, and makes it anew if it is deleted."


def make_folds(
    dataset: Dataset,
    labels: Sequence[int],
    duplicates: Duplicates | None,
    folds: int,
    policy: Policy,
    seed: int = 0,
    file: str | Path | None = None,
) -> np.ndarray:
    """Test fold of every image, (n,): from the file where it exists; else assigned, and saved if a file is named.

    Args:
        dataset: from a reader.
        labels: n, 1 = defective.
        duplicates, folds, policy, seed: as in `splits.assign_folds`.
        file: `data.splits`, JSON.

    Raises:
        InputError: folds that cannot be (see `assign_folds`), or a file that does not fit the data or the settings.
    """
    groups = [record.group for record in dataset.records]
    path = None if file is None else Path(file).expanduser()
    if path is not None and path.exists():
        saved = _saved(path, {"folds": folds, "split": policy, "seed": seed}, groups)
        result = np.array([saved[group] for group in groups])
        check_folds(result, groups, labels, folds, f"the labels have changed since {path} was made; delete it")
        return result
    published, division = dataset.published_folds, dataset.train_test
    result = assign_folds(groups, labels, folds, policy, duplicates, published, seed, division)
    if path is not None:
        fold_of = dict(sorted(zip(groups, result.tolist(), strict=True)))
        facts = {"about": ABOUT, "data": dataset.name, "folds": folds, "split": policy, "seed": seed}
        _write(path, json.dumps(facts | {"fold_of": fold_of}, indent=2, ensure_ascii=False) + "\n")
    return result


def _write(path: Path, text: str) -> None:
    """Whole or not at all: runs side by side may write and read the same file."""
    try:
        atomic.write(path, text)
    except OSError as error:
        raise InputError(f"data.splits={path}: cannot be written ({error}); name another file") from error


def _saved(path: Path, wanted: dict[str, Any], groups: Sequence[str]) -> dict[str, int]:
    """Group -> fold, once the file is known to fit."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"data.splits={path}: cannot be read as JSON ({error}); delete it to have it made") from error
    fold_of = found.get("fold_of") if isinstance(found, dict) else None
    if not isinstance(fold_of, dict) or not fold_of:
        raise InputError(f"data.splits={path}: not a file of folds (no fold_of); delete it to have it made anew")
    for key, value in wanted.items():
        if key in found and found[key] != value:
            name = {"folds": "data.folds", "split": "data.split", "seed": "data.split_seed"}[key]
            raise InputError(
                f"data.splits={path}: made with {name}={found[key]}, not {value}; set that, or another file"
            )
    wrong = [group for group, fold in fold_of.items() if type(fold) is not int or not 0 <= fold < wanted["folds"]]
    if wrong:
        raise InputError(f"data.splits={path}: folds of {some(wrong)} are not within 0 to {wanted['folds'] - 1}")
    new, gone = sorted(set(groups) - fold_of.keys()), sorted(fold_of.keys() - set(groups))
    if new or gone:
        changes = [f"{len(names)} {what} ({some(names)})" for names, what in ((new, "new"), (gone, "gone")) if names]
        raise InputError(
            f"data.splits={path}: the data have changed since, groups: {' and '.join(changes)}; restore them, or "
            "delete the file, but then no result so far compares with what follows"
        )
    return fold_of
