"""The gallery: thumbnails of the runs' picture strips, the telling ones first, within a limit."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from anomaly_seg.reporting.collect import MethodRuns, picture_name
from anomaly_seg.reporting.tables import outcome
from anomaly_seg.reporting.thresholding import all_verdicts, called_defective

WIDTH = 900  # of a thumbnail, in pixels: five panels of 180, enough for a crack of one hundredth of the image
PREFERENCE = {"miss": 0, "false alarm": 1, "hit": 2, "pass": 3}


@dataclass(frozen=True)
class Gallery:
    """``embedded``: (number of the method, row in its frame) -> data URI; ``left_out``: the same number -> count."""

    embedded: dict[tuple[int, int], str]
    left_out: dict[int, int]


def gallery(methods: Sequence[MethodRuns], limit_bytes: int) -> Gallery:
    """Thumbnails up to ``limit_bytes`` in all: misses first, then false alarms, then hits.

    Verdicts are those of cross_fold, or of best_f where there is a single fold. Methods take turns, so that a limit
    leaves every method its worst images.
    """
    queues = [_by_preference(method) for method in methods]
    ranked = sorted(
        (preference, turn, number, row, path)
        for number, queue in enumerate(queues)
        for turn, (preference, row, path) in enumerate(queue)
    )
    embedded: dict[tuple[int, int], str] = {}
    left_out = dict.fromkeys(range(len(methods)), 0)
    room = limit_bytes
    for _, _, number, row, path in ranked:
        picture = _thumbnail(path) if room > 0 else None
        if picture is None or len(picture) > room:
            room = 0
            left_out[number] += 1
        else:
            room -= len(picture)
            embedded[number, row] = picture
    return Gallery(embedded, left_out)


def _by_preference(method: MethodRuns) -> list[tuple[int, int, Path]]:
    """(preference, row, file) of every picture that exists, in order of preference."""
    verdicts = all_verdicts(method)
    kind = "cross_fold" if "cross_fold" in verdicts else "best_f"
    frame = method.frame
    values = verdicts[kind].values if kind in verdicts else dict.fromkeys(method.runs, float("inf"))
    outcomes = outcome(called_defective(frame, values), frame["label"].to_numpy())
    present = {fold: _files(run.folder / "pictures") for fold, run in method.runs.items()}
    pictures = []
    for row, (fold, image) in enumerate(zip(frame["fold"], frame["image"], strict=True)):
        path = present[fold].get(picture_name(image))
        if path is not None:
            pictures.append((PREFERENCE[str(outcomes[row])], row, path))
    return sorted(pictures)


def _files(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}


def _thumbnail(path: Path) -> str | None:
    """A picture file as a JPEG data URI at most WIDTH wide; None if it does not decode (a run cut short, say)."""
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
    except OSError:
        return None
    if small.width > WIDTH:
        small = small.resize((WIDTH, round(small.height * WIDTH / small.width)), Image.Resampling.BOX, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=72)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
