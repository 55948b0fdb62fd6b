"""A folder that a camera fills: which files are complete and new."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from anomaly_seg.extras import imported
from anomaly_seg.inference.find_images import below, identity, is_image, output_kind, walk
from anomaly_seg.inference.predictions_file import State


@dataclass(frozen=True)
class Timing:
    """Seconds. tick: between looks at what is waiting. settle: a file that has not changed for so long is tried.
    give_up: one that still does not decode after so long without a change is reported as unreadable.
    rescan: the folders are walked again, since events get lost (network drives, overflow)."""

    tick: float = 0.2
    settle: float = 0.5
    give_up: float = 10.0
    rescan: float = 60.0


def watch(
    folders: Sequence[str],
    judge: Callable[[str, bool], bool],
    judged: dict[str, State],
    stop: threading.Event,
    leave_out: Path,
    timing: Timing,
) -> int:
    """Hand every complete image to ``judge`` once, those that are there first, until ``stop`` is set.

    A file is judged again only if it changes. Memory grows with the files in the folders, not with all there ever were.

    Args:
        folders: with all below them.
        judge: (path, last chance) -> whether it is done with; it is asked again until then.
        judged: `paths.identity` -> state when it was judged; kept up to date here.
        stop: ends it, between two images.
        leave_out: nothing below this folder.
        timing: of the looks.

    Returns:
        How many files were seen but not done with.

    Raises:
        InputError: watchfiles is not installed, or a folder cannot be read (any more).
    """
    watchfiles = imported("watchfiles", "watch")
    real = {os.path.realpath(folder): folder for folder in folders}
    queue, scanned = _Queue(judge, judged, timing), -timing.rescan
    milliseconds = max(1, round(1000 * timing.tick))
    # The watch begins before the first walk: no file can fall between the two.
    for changes in watchfiles.watch(
        *real,
        watch_filter=None,
        debounce=milliseconds,
        step=min(50, milliseconds),
        stop_event=stop,
        rust_timeout=milliseconds,
        yield_on_timeout=True,
        raise_interrupt=False,
    ):
        if time.monotonic() - scanned >= timing.rescan:
            queue.rescan([path for folder in folders for path in walk(folder, leave_out)])
            scanned = time.monotonic()
        for kind, path in changes:
            if kind != watchfiles.Change.deleted:
                for image in _images(path, real, leave_out):
                    queue.add(image)
        queue.work(stop)
        if stop.is_set():
            break
    return len(queue.waiting)


class _Queue:
    """Files that were seen and are not done with: path -> its state, since when it has had it, whether it was tried."""

    def __init__(self, judge: Callable[[str, bool], bool], judged: dict[str, State], timing: Timing) -> None:
        self.judge, self.judged, self.timing = judge, judged, timing
        self.waiting: dict[str, tuple[State | None, float, bool]] = {}

    def add(self, path: str) -> None:
        self.waiting.setdefault(path, (None, 0.0, False))

    def rescan(self, present: Sequence[str]) -> None:
        """Take up what events have missed, and forget files that are gone."""
        known = {identity(path) for path in present}
        for path in [path for path in self.judged if path not in known]:
            del self.judged[path]
        for path in present:
            if self.judged.get(identity(path)) != state_of(path):
                self.add(path)

    def work(self, stop: threading.Event) -> None:
        """One look at everything that waits."""
        for path in list(self.waiting):
            if stop.is_set():
                return
            self._look(path)

    def _look(self, path: str) -> None:
        state, now = state_of(path), time.monotonic()
        if state is None or state == self.judged.get(identity(path)):
            del self.waiting[path]  # gone (renamed, say), or an event that changed nothing
            return
        before, since, tried = self.waiting[path]
        if state != before:
            self.waiting[path] = (state, now, False)
            return
        quiet = now - since
        last_chance = quiet >= self.timing.give_up
        if quiet < self.timing.settle or (tried and not last_chance):
            return
        if self.judge(path, last_chance):
            self.judged[identity(path)] = state
            del self.waiting[path]
        else:
            self.waiting[path] = (state, since, True)


def _images(path: str, real: dict[str, str], leave_out: Path) -> Iterator[str]:
    """The images behind an event's path, named as the user named their folder. A new folder may arrive full."""
    for root, folder in real.items():
        if path == root or path.startswith(os.path.join(root, "")):
            given = os.path.normpath(os.path.join(folder, os.path.relpath(path, root)))
            break
    else:
        return
    hidden = any(part.startswith(".") and part != "." for part in os.path.relpath(given, folder).split(os.sep))
    if hidden or below(given, leave_out):
        return
    if os.path.isdir(given):
        yield from walk(given, leave_out)
    elif is_image(given) and not output_kind(given):
        yield given


def state_of(path: str) -> State | None:
    """What tells a file from another one under its name; None where there is no such file.

    Size and time of modification alone do not: a camera without a clock, unzip and rsync give two images the same.
    """
    try:
        stat = os.stat(path)
    except OSError:
        try:
            stat = os.lstat(path)  # a link to nowhere, which is reported
        except OSError:
            return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
