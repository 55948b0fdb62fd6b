"""Files that anomaly-seg wrote itself: runs, reports, predictions, caches and models are never input."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

RUN_FILES = (
    "scores.csv", "pixels.csv", "result.json", "checkpoint.ckpt", "metrics.csv", "failure.txt", "pictures",
    "profile.md", "profile_trace.json",
)  # fmt: skip


@dataclass(frozen=True)
class _Kind:
    """Files of one command. all_of, any_of: entries of a folder that tell it; own: the entries that it wrote."""

    name: str
    all_of: frozenset[str]
    any_of: frozenset[str]
    own: frozenset[str]


KINDS = (
    _Kind("run", frozenset({"config.yaml"}), frozenset(RUN_FILES), frozenset({"config.yaml", *RUN_FILES})),
    _Kind(
        "report",
        frozenset({"report.html"}),
        frozenset({"report.md", "tables"}),
        frozenset({"report.html", "report.md", "tables", "figures"}),
    ),
    _Kind(
        "predictions",
        frozenset({"predictions.json"}),
        frozenset({"predictions.jsonl", "predictions.csv"}),
        frozenset({"predictions.json", "predictions.jsonl", "predictions.csv", "overlays"}),
    ),
)
FILES: Mapping[str, re.Pattern[str]] = {
    "cache": re.compile(r"(images|masks-D\d+)-[0-9a-f]{20}\.np[yz]$"),
    "model": re.compile(r".*\.(onnx|pt2|ckpt)$"),
}
"""Kinds of files that tell themselves by their name."""


def own_entries(names: Collection[str], top: bool) -> dict[str, str]:
    """Entries of a folder that anomaly-seg wrote, each with its kind.

    Args:
        names: of the folder's files and folders.
        top: the folder is the one that the user named; there, not all that lies beside a run's files is the run's.
    """
    found = {name: kind for kind, pattern in FILES.items() for name in names if pattern.match(name)}
    for kind in KINDS:
        if kind.all_of <= set(names) and kind.any_of & set(names):
            whole = kind.name == "run" and not top
            found |= {name: kind.name for name in names if whole or name in kind.own}
    return found


def split_outputs(paths: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Paths that are not our own, in their order, and kind of each file or folder that was left out for being it.

    Args:
        paths: of files, with forward slashes, below one root. A folder that is our own as a whole is named once.
    """
    listed, entries = list(paths), dict[str, set[str]]()
    for path in listed:
        place = PurePosixPath(path)
        for part, parent in zip([place, *place.parents], place.parents, strict=False):
            entries.setdefault(str(parent), set()).add(part.name)
    own: dict[str, str] = {}
    for folder, names in entries.items():
        found = own_entries(names, top=folder == ".")
        if found.keys() == names and folder != ".":
            own[folder] = next(iter(found.values()))
        own |= {str(PurePosixPath(folder, name)): kind for name, kind in found.items()}
    outermost = {place: kind for place, kind in own.items() if own.keys().isdisjoint(_parents(place))}
    return [path for path in listed if path not in own and own.keys().isdisjoint(_parents(path))], outermost


def _parents(path: str) -> list[str]:
    return [str(parent) for parent in PurePosixPath(path).parents]
