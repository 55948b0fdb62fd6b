"""The finished runs that become one sealed model: their settings, scores and networks."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomaly_seg import settings as run_settings
from anomaly_seg.errors import InputError
from anomaly_seg.models.base import Network
from anomaly_seg.models.flip_tta import FlipAverage
from anomaly_seg.results import run_files
from anomaly_seg.results.schema import Result
from anomaly_seg.settings import CONFIG, Settings
from anomaly_seg.settings_identity import START_DIGEST
from anomaly_seg.training.build import make_network
from anomaly_seg.training.checkpoint import CHECKPOINT, CheckpointFile, check_fits, evaluated_weights


@dataclass(frozen=True)
class Member:
    """One finished run."""

    folder: Path
    settings: Settings
    result: Result
    scores: run_files.Scores


@dataclass(frozen=True)
class HeldOut:
    """Images that their model had not in training: scores (n,) as a sealed model gives them, labels, folds.

    representative: n, see `run_files.Scores`.
    """

    score: np.ndarray
    label: np.ndarray
    representative: list[str]
    fold: np.ndarray


def read_members(root: Path) -> list[Member]:
    """The runs in or below a folder, by fold and seed.

    Raises:
        InputError: no run there, an unfinished one, a file of one that cannot be read, runs that differ in more than
            fold and seed, or in their data, or folds with unlike numbers of seeds.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give a finished run's, or one with a run for each fold")
    holding = {path.parent for path in root.rglob(CONFIG)}
    folders = sorted(path for path in holding if holding.isdisjoint(path.parents))  # a logger keeps a file of that name
    if not folders:
        raise InputError(f"{root}: holds no run (no {CONFIG}); give a finished run's folder, or one with several")
    members = sorted((_read(folder) for folder in folders), key=lambda m: (m.result.run.fold, m.result.run.seed))
    first = members[0]
    for member, before in zip(members[1:], members, strict=False):
        changed = first.settings.differences(member.settings, ignored=("fold", "seed", START_DIGEST))
        if changed:
            raise InputError(
                f"{root}: {first.folder} and {member.folder} differ in more than fold and seed "
                f"({'; '.join(changed[:3])}); point at the folder of one model"
            )
        if _place(member) == _place(before):
            raise InputError(f"{root}: {before.folder} and {member.folder} are of the same fold and seed; keep one")
    _check_seeds(root, members)
    run_files.check_pooled({member.folder: (member.result, member.scores) for member in members})
    return members


def _place(member: Member) -> tuple[int, int]:
    return member.settings.fold, member.settings.seed


def _check_seeds(root: Path, members: Sequence[Member]) -> None:
    """The model averages all runs alike, so its threshold, which averages a fold's, fits only if all have as many."""
    seeds = Counter(member.result.run.fold for member in members)
    few, many = min(seeds, key=seeds.__getitem__), max(seeds, key=seeds.__getitem__)
    if seeds[few] != seeds[many]:
        raise InputError(
            f"{root}: fold {few} has {seeds[few]} run(s) and fold {many} has {seeds[many]}, so their mean would weigh "
            "folds unlike the scores behind its threshold; train the missing seeds, or move the others away"
        )


def _read(folder: Path) -> Member:
    if not run_files.finished(folder):
        raise InputError(
            f"{folder}: not finished (no {run_files.RESULT}); run its command again, which goes on with it"
        )
    return Member(
        folder, run_settings.read(folder / CONFIG), run_files.read_result(folder), run_files.read_scores(folder)
    )


def read_network(member: Member) -> Network:
    """The network that the run scored with, in evaluation mode.

    Raises:
        InputError: no checkpoint, a damaged one, or that of another network.
    """
    path = member.folder / CHECKPOINT
    if not path.is_file():
        raise InputError(f"{path}: no such file, and it holds the weights; copy it there, or run again")
    weights = evaluated_weights(CheckpointFile().load_checkpoint(path)["state_dict"])
    network = make_network(member.settings.model)
    check_fits(path, weights, network)
    network.load_state_dict(weights)
    if member.settings.model.flip_average:  # scored so, and the threshold comes from these scores
        network = FlipAverage(network)
    return network.eval()


def held_out(members: Sequence[Member]) -> HeldOut:
    """The pooled scores of all folds, of several seeds their mean: as a sealed model gives them, in float32.

    Raises:
        InputError: seeds of one fold that scored different images.
    """
    score, label, representative, fold = [], [], [], []
    for number in sorted({member.result.run.fold for member in members}):
        seeds = [member for member in members if member.result.run.fold == number]
        images = [dict(zip(m.scores.image, m.scores.score, strict=True)) for m in seeds]
        first = seeds[0].scores
        if any(other.keys() != images[0].keys() for other in images):
            raise InputError(f"{seeds[0].folder}: the seeds of fold {number} scored different images; run them again")
        mean = np.mean([[scores[name] for name in first.image] for scores in images], axis=0)
        score.append(mean.astype(np.float32).astype(np.float64))
        label.append(first.label)
        representative += list(first.representative)
        fold.append(np.full(len(first.label), number))
    return HeldOut(np.concatenate(score), np.concatenate(label), representative, np.concatenate(fold))
