"""`anomaly-seg predict`: the verdict on every image that is named, or that a camera writes into a folder."""

import hashlib
import math
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

import cv2
from tqdm import tqdm

from anomaly_seg.data.files import some
from anomaly_seg.errors import InputError
from anomaly_seg.inference.find_images import PassedOver, below, find_images, identity
from anomaly_seg.inference.image_input import read_image
from anomaly_seg.inference.image_size import size_note
from anomaly_seg.inference.overlay import overlay
from anomaly_seg.inference.prediction import Detector
from anomaly_seg.inference.predictions_file import RELATIVE, TABLE, Outcome, Record, Row, State
from anomaly_seg.inference.watch import Timing, state_of
from anomaly_seg.inference.watch import watch as watch_files

ALL_GOOD, SOME_DEFECTIVE, SOME_UNREADABLE = 0, 3, 4
OVERLAYS = "overlays"
Tally = Counter[Outcome]


@dataclass(frozen=True)
class Predictions:
    """What became of the images.

    Attributes:
        good, defective, unreadable: numbers of images, those judged before included.
        table: predictions.csv, one row an image.
    """

    good: int
    defective: int
    unreadable: int
    table: Path

    @property
    def exit_code(self) -> int:
        """0: all good, 3: at least one defective, 4: some file could not be read (the rest was judged).

        4 outweighs 3: with a file unread, nobody knows whether all defects were found.
        """
        if self.unreadable:
            return SOME_UNREADABLE
        return SOME_DEFECTIVE if self.defective else ALL_GOOD


def predict(
    model: Path, paths: Sequence[str], *, out: Path, threshold: float | None, overlays: bool, watch: bool
) -> Predictions:
    """Write predictions.jsonl, predictions.csv and, if asked for, overlays/ into ``out``.

    The same command again goes on: images that the folder has a verdict on, and that have not changed since, are not
    judged again, but count in the result. Another model or threshold is refused there. For the arguments see
    `anomaly_seg.predict`.

    Raises:
        InputError: no such path, no image, a model or a folder that cannot be used.
        KeyboardInterrupt: Ctrl-C, unless watching, which is how that ends.
    """
    from anomaly_seg.inference.load import load

    if threshold is not None and not math.isfinite(threshold):
        raise InputError(f"--threshold {threshold}: has to be a finite number")
    if not paths:
        raise InputError("nothing to judge: name images, folders or globs")
    pictures = out / OVERLAYS
    passed_over = PassedOver()
    images = [] if watch else find_images(paths, pictures, passed_over)
    if watch:
        _check_folders(paths)
    _report_passed_over(passed_over)
    with _stoppable() as stop, _quiet_opencv():
        detector = load(model)
        limit = detector.card.threshold.value if threshold is None else threshold
        with Record(out, _about(detector, limit, overlays, paths)) as record:
            judge = Judge(detector, limit, record, pictures if overlays else None)
            if watch:
                watch_folders(paths, judge, stop, leave_out=pictures)
            else:
                judge_all(images, judge, stop)
    _report_notes(judge)
    tally = judge.tally
    return Predictions(tally["good"], tally["defective"], tally["unreadable"], out / TABLE)


class Judge:
    """Looks at images, writes rows and overlays, and counts.

    Args:
        detector: the model.
        threshold: of the verdict.
        record: takes the rows.
        pictures: folder of the overlays; None: no overlays.

    noted, first_note: number of the images with a note, and the path and note of the first.
    """

    def __init__(self, detector: Detector, threshold: float, record: Record, pictures: Path | None) -> None:
        self.detector, self.threshold, self.record, self.pictures = detector, threshold, record, pictures
        self.tally: Tally = Counter()
        self.noted, self.first_note = 0, ""

    def known(self, path: str) -> bool:
        """Whether the record has a verdict on this very image, and the overlay if one is wanted. It is counted then."""
        before = self.record.earlier.get(identity(path))
        if before is None or before.error is not None or before.state != state_of(path):
            return False
        if self.pictures is not None and not (before.overlay and (self.record.folder / before.overlay).is_file()):
            return False
        self._count(path, before.outcome, before.note)
        return True

    def look(self, path: str) -> Row:
        """The verdict, not written yet; any overlay is."""
        state, picture = state_of(path) or (0, 0, 0, 0), None
        try:
            image = read_image(path)  # once: the file may change while it is judged
            prediction = self.detector(image, self.threshold)
            if self.pictures is not None:
                whole, encoded = cv2.imencode(".jpg", overlay(image, prediction), [cv2.IMWRITE_JPEG_QUALITY, 90])
                if not whole:
                    raise InputError(f"{path}: its overlay does not fit a JPEG; judge it without --overlays")
                picture = encoded.tobytes()
        except Exception as error:  # of whatever kind: one file must not keep the others from being judged
            return Row(path, None, None, None, (), None, _reason(path, error), *state)
        score, verdict = float(prediction.score), prediction.verdict
        name = None if picture is None else self._save(path, picture)
        limit, note = float(prediction.threshold), size_note(image.shape[0], image.shape[1], self.detector.card.input)
        return Row(path, score, limit, verdict, prediction.regions, name, None, *state, note=note)

    def write(self, row: Row) -> None:
        """Count it and write it, unless the record has this very error already."""
        self._count(row.path, row.outcome, row.note)
        before = self.record.earlier.get(identity(row.path))
        if row.error is not None:
            _say(row.error, sys.stderr)
            if before is not None and (before.error, before.state) == (row.error, row.state):
                return
        self.record.add(row)

    def _count(self, path: str, outcome: Outcome, note: str | None) -> None:
        self.tally[outcome] += 1
        if note is not None:
            self.noted, self.first_note = self.noted + 1, self.first_note or f"{path}: {note}"

    def _save(self, path: str, picture: bytes) -> str:
        """Relative to the record's folder. The name holds the image's and a digest of its path: no two collide."""
        assert self.pictures is not None
        digest = hashlib.sha256(os.fsencode(identity(path))).hexdigest()[:12]
        stem = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in Path(path).stem)[:80]
        name = f"{stem}_{digest}.jpg"
        try:
            self.pictures.mkdir(parents=True, exist_ok=True)
            (self.pictures / name).write_bytes(picture)
        except OSError as error:
            raise InputError(
                f"{self.pictures}: cannot be written ({error.strerror}); free space and run the same command again"
            ) from error
        return f"{self.pictures.name}/{name}"


def judge_all(paths: Sequence[str], judge: Judge, stop: threading.Event) -> None:
    """Judge each of the paths, one at a time: memory does not grow with their number. Raises KeyboardInterrupt."""
    for path in tqdm(paths, unit="image", disable=None, file=sys.stderr):
        if stop.is_set():
            raise KeyboardInterrupt
        if not judge.known(path):
            judge.write(judge.look(path))


def watch_folders(
    folders: Sequence[str], judge: Judge, stop: threading.Event, leave_out: Path, timing: Timing | None = None
) -> None:
    """Judge what is in the folders and whatever comes, until ``stop`` is set; one line a verdict on standard output."""
    judged: dict[str, State] = {}
    for path, seen in judge.record.earlier.items():
        if any(below(path, Path(os.path.realpath(folder))) for folder in folders) and judge.known(path):
            judged[path] = seen.state

    def once(path: str, last_chance: bool) -> bool:
        row = judge.look(path)
        if row.error is not None and not last_chance:
            return False
        now = state_of(path)
        gone = now is None and row.verdict is not None  # taken away once it was read: the verdict stands
        if row.state != now and not gone:  # it changed meanwhile: look again when it is done
            return False
        judge.write(row)
        if row.score is not None:
            _say(f"{row.verdict:9}  {row.score:.6g}  {path}", sys.stdout)
        if row.note is not None and judge.noted == 1:  # now, since a watch may end in weeks
            _report_notes(judge)
        return True

    waiting = watch_files(folders, once, judged, stop, leave_out, timing or Timing())
    if waiting:
        print(f"{waiting} files were not complete yet; the same command judges them", file=sys.stderr)


def _about(detector: Detector, threshold: float, overlays: bool, paths: Sequence[str]) -> dict[str, Any]:
    """What rows must have in common to stand in one record; the working directory only if a path depends on it."""
    digest = hashlib.sha256()
    weights = [detector.path.with_suffix(".bin")] if detector.path.suffix == ".xml" else []  # OpenVINO's lie beside
    for path in (detector.path, *weights):
        if path.is_file():
            digest.update(path.read_bytes())
    about = {"model": detector.card.name, "sha256": digest.hexdigest(), "threshold": threshold, "overlays": overlays}
    return about if all(map(os.path.isabs, paths)) else about | {RELATIVE: os.getcwd()}


def _reason(path: str, error: Exception) -> str:
    """One line that names the file."""
    text = " ".join(str(error).split())
    if not isinstance(error, InputError):
        text = f"the model failed on it ({type(error).__name__}: {text}); check the image and the model"
    return text if path in text else f"{path}: {text}"


def _say(text: str, to: IO[str]) -> None:
    """A line, past the progress bar. Names on disk may hold bytes that are no text."""
    try:
        tqdm.write(text.encode("utf-8", "backslashreplace").decode(), file=to)
        to.flush()
    except BrokenPipeError:  # nobody reads any more (`| head`); the record goes on
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), to.fileno())


def _report_passed_over(found: PassedOver) -> None:
    """Say once what of the folders is not judged."""
    for what, names in (("files that are no images", found.others), ("files that anomaly-seg wrote", found.outputs)):
        if names:
            _say(f"{len(names)} {what} passed over: {some(names)}", sys.stderr)


def _report_notes(judge: Judge) -> None:
    """Say once how many images are unlike those trained on, and show one."""
    if judge.noted:
        count = "1 image is" if judge.noted == 1 else f"{judge.noted} images are"
        text = f"{count} far in size from those trained on, so verdicts may mislead (column note of {TABLE}): "
        _say(text + judge.first_note, sys.stderr)


def _check_folders(paths: Sequence[str]) -> None:
    for path in paths:
        if not os.path.isdir(path):
            raise InputError(f"{path}: no such folder; --watch takes folders")


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Its warnings about damaged files stay off the screen: we report each file in our own words, once."""
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM set the event, so that no row is cut in two; a second one interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
