"""What `predict` writes: one row an image in predictions.jsonl and predictions.csv, as soon as it is judged.

predictions.jsonl is the record. predictions.csv holds the same for spreadsheets; after a crash the next run completes
it from the record. Rows are only ever appended: a file that was changed and judged again has two, and the later counts.
"""

import csv
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

from filelock import FileLock, Timeout

from anomaly_seg import atomic
from anomaly_seg.errors import InputError
from anomaly_seg.inference.find_images import identity
from anomaly_seg.inference.prediction import Region, Verdict

ABOUT, LINES, TABLE = "predictions.json", "predictions.jsonl", "predictions.csv"
RELATIVE = "relative to"
"""In `about`: the folder that relative paths among the rows start from, once there may be any."""
COLUMNS = ("path", "score", "threshold", "verdict", "defects", "area", "boxes", "areas", "overlay", "error", "note")

Outcome = Literal["good", "defective", "unreadable"]
State = tuple[int, int, int, int]
"""Size in bytes, times in ns of the last modification and of the last change of whatever kind, and the number of the
file (inode). A file of another state is another image."""


@dataclass(frozen=True)
class Row:
    """One image. error: why it could not be judged; score, threshold, verdict are then None.

    regions: parts of the heat map above the model's pixel threshold, largest first, whatever the verdict.
    overlay: its picture, relative to the folder of the record. bytes, modified, changed, inode: the file's `State` when
    it was judged; records of older versions lack the last two, so their images are judged again. note: why the verdict
    may mislead, as a size far from those trained on; None: no reason known.
    """

    path: str
    score: float | None
    threshold: float | None
    verdict: Verdict | None
    regions: tuple[Region, ...]
    overlay: str | None
    error: str | None
    bytes: int
    modified: int
    changed: int = 0
    inode: int = 0
    note: str | None = None

    @property
    def state(self) -> State:
        return self.bytes, self.modified, self.changed, self.inode

    @property
    def outcome(self) -> Outcome:
        return "unreadable" if self.verdict is None else self.verdict


@dataclass(frozen=True)
class Seen:
    """What the last row of a file says that is needed to go on; see `Row`."""

    state: State
    outcome: Outcome
    error: str | None
    overlay: str | None
    note: str | None


class Record:
    """The record in a folder, opened for more rows; `earlier` holds what it has (`paths.identity` -> last row).

    Args:
        folder: made if it is not there.
        about: what all rows have in common: the model's digest, the threshold and so on.

    Raises:
        InputError: the folder cannot be written, is in use, or holds rows with another `about`.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder = folder
        self._lock = FileLock(folder / f".{LINES}.lock")
        self._files: list[IO[str]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            self._claim(about)
            self.earlier = dict(self._restore())
            self._files = [_append(folder / LINES), _append(folder / TABLE)]
        except Timeout:
            raise InputError(f"{folder}: another predict writes there; wait for it, or choose another --out") from None
        except OSError as error:
            self.close()
            raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from error
        except BaseException:
            self.close()
            raise

    def add(self, row: Row) -> None:
        """Append a row to both files. Raises InputError if the disk takes no more."""
        try:
            for file, text in zip(self._files, (_line(row), _cells(row)), strict=True):
                if isinstance(text, str):
                    file.write(text)
                else:
                    csv.writer(file, lineterminator="\n").writerow(text)
                file.flush()
        except OSError as error:
            raise InputError(
                f"{self.folder}: cannot be written ({error.strerror}); free space and run the same command again: "
                "it goes on from here"
            ) from error

    def close(self) -> None:
        for file in self._files:
            with suppress(OSError):  # a full disk: `add` has said so
                file.close()
        self._lock.release()

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _claim(self, about: dict[str, Any]) -> None:
        record, path = self.folder / LINES, self.folder / ABOUT
        if record.exists() or (self.folder / TABLE).exists():
            before = _about(path)
            if before is not None and RELATIVE in before:
                about = about | {RELATIVE: os.getcwd()}
            differing = f"{ABOUT} is missing or damaged" if before is None else _differences(before, about)
            if differing:
                raise InputError(
                    f"{self.folder}: holds verdicts of another run ({differing}); choose another --out, or delete it"
                )
        atomic.write(path, json.dumps(about, indent=2) + "\n")  # a file cut short would lock the record

    def _restore(self) -> Iterator[tuple[str, Seen]]:
        """Cuts off a half-written last line, writes the table anew, and gives the last row of every file."""
        record = self.folder / LINES
        whole = 0
        with atomic.writing(self.folder / TABLE) as (temporary,), _append(temporary, "w") as table:
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow(COLUMNS)
            if record.exists():
                with record.open("rb") as lines:
                    for number, line in enumerate(lines, start=1):
                        if not line.endswith(b"\n"):
                            break
                        whole += len(line)
                        row = _parse(line, record, number)
                        writer.writerow(_cells(row))
                        yield identity(row.path), Seen(row.state, row.outcome, row.error, row.overlay, row.note)
                os.truncate(record, whole)


def _append(path: Path, mode: str = "a") -> IO[str]:
    # Names on disk may hold bytes that are no text; surrogateescape writes them as they are.
    return open(path, mode, encoding="utf-8", errors="surrogateescape", newline="")  # type: ignore[return-value]


def _about(path: Path) -> dict[str, Any] | None:
    """What the folder's rows have in common; None where the file is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _differences(before: dict[str, Any], about: dict[str, Any]) -> str:
    """What the folder's run had otherwise, for a message; empty if nothing."""
    fixed = [name for name in about if name != RELATIVE or name in before]
    names = [name for name in fixed if before.get(name) != about[name]]
    return "; ".join(f"{name} {before.get(name)}, now {about[name]}" for name in names)


def _line(row: Row) -> str:
    return json.dumps(asdict(row), allow_nan=False) + "\n"


def _parse(line: bytes, record: Path, number: int) -> Row:
    try:
        raw = json.loads(line)
        return Row(**raw | {"regions": tuple(Region(**region) for region in raw["regions"])})
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{record}: line {number} is damaged; choose another --out, or delete the folder") from error


def _cells(row: Row) -> list[Any]:
    boxes = [[r.x, r.y, r.width, r.height] for r in row.regions]
    areas = [r.area for r in row.regions]
    counted = (None, None) if row.verdict is None else (len(areas), sum(areas))
    values = (row.path, row.score, row.threshold, row.verdict, *counted, json.dumps(boxes), json.dumps(areas))
    return [*values, row.overlay, row.error, row.note]
