"""Requests that wait are judged together: one worker thread, micro-batches, every answer to the one who asked."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np

from anomaly_seg.inference.prediction import Detector, Prediction

MAX_BATCH = 8


@dataclass
class Job:
    """One image. read: decodes it, called in the worker so that no more than one batch is ever decoded.

    pixels: height x width, as far as the header says.
    """

    read: Callable[[], np.ndarray]
    pixels: int
    answer: "Future[Prediction]" = field(default_factory=Future)


class Batcher:
    """Owns the worker thread. Nothing waits for company: a batch is what came in while the last one was judged.

    Args:
        detector: judges.
        max_pixels: of one batch, unless a single image has more.
        judged: called after each batch with (images, seconds).
    """

    def __init__(
        self, detector: Detector, max_pixels: int, judged: Callable[[int, float], None] = lambda images, seconds: None
    ) -> None:
        self.detector, self.max_pixels, self.judged = detector, max_pixels, judged
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()  # bounded by who submits: see api.Room
        self._open = False
        self._lock = threading.Lock()
        self._worker = threading.Thread()

    def start(self) -> None:
        """Starts the worker, also after `close`."""
        self._worker = threading.Thread(target=self._work, name="judge", daemon=True)
        self._worker.start()
        self._open = True

    @property
    def alive(self) -> bool:
        return self._open and self._worker.is_alive()

    def submit(self, read: Callable[[], np.ndarray], pixels: int) -> "Future[Prediction]":
        """The answer to come. It raises what decoding or judging this one image raised.

        Raises:
            RuntimeError: not started, or closed.
        """
        job = Job(read, pixels)
        with self._lock:
            if not self._open:
                raise RuntimeError("the batcher is closed")
            self._jobs.put(job)
        return job.answer

    def close(self) -> None:
        """Answers what was submitted, then ends the worker."""
        with self._lock:
            if not self._open:
                return
            self._open = False
            self._jobs.put(None)
        self._worker.join()

    def _work(self) -> None:
        ahead: Job | None = None  # taken from the queue, but the last batch had no room for it
        while True:
            first = ahead or self._jobs.get()
            ahead = None
            if first is None:
                return
            batch, room = [first], self.max_pixels - first.pixels
            while len(batch) < MAX_BATCH and not self._jobs.empty():
                job = self._jobs.get()
                if job is None:  # the end: nothing is submitted after it
                    self._judge(batch)
                    return
                if job.pixels > room:
                    ahead = job
                    break
                batch.append(job)
                room -= job.pixels
            self._judge(batch)

    def _judge(self, batch: list[Job]) -> None:
        ready = []
        for job in batch:
            if job.answer.set_running_or_notify_cancel():
                try:
                    ready.append((job, job.read()))
                except Exception as error:
                    job.answer.set_exception(error)
        if not ready:
            return
        started = time.perf_counter()
        for (job, _), outcome in zip(ready, self._outcomes([image for _, image in ready]), strict=True):
            if isinstance(outcome, Exception):
                job.answer.set_exception(outcome)
            else:
                job.answer.set_result(outcome)
        self.judged(len(ready), time.perf_counter() - started)

    def _outcomes(self, images: list[np.ndarray]) -> "list[Prediction | Exception]":
        """A prediction, or what went wrong, for each. One bad image must not take the others with it."""
        try:
            found: list[Prediction | Exception] = [*self.detector.batch(images)]
            if len(found) != len(images):
                raise RuntimeError(f"{len(found)} answers to {len(images)} images")
            return found
        except Exception as error:
            if len(images) == 1:
                return [error]
        return [outcome for image in images for outcome in self._outcomes([image])]
