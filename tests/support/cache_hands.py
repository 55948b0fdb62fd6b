"""One of several processes that need the same arrays of the cache at once. Imported by child processes."""

import os
import signal
import time
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np

from anomaly_seg.data import cache
from anomaly_seg.data.preparation import Preparation
from anomaly_seg.data.readers import kolektor


def prepare_with_others(data: Path, cache_dir: Path, log: Path, barrier: Barrier, killed: Path | None) -> None:
    """Prepare a data set as soon as all are there, and log which arrays this process makes and maps.

    Args:
        data: folder of `helpers.write_kolektor`.
        cache_dir: of all processes.
        log: file that gets the lines "begins ARRAY", "ends ARRAY" and "maps INODE".
        barrier: of all processes.
        killed: the first process to decode its third image makes this file and kills itself; None: none does.
    """
    write, to_image, decoded = cache._write, cache.to_image, []

    def say(line: str) -> None:
        with log.open("a") as file:
            file.write(f"{line}\n")

    def logged(big: Path, *args: Any) -> None:
        what = big.stem.rpartition("-")[0]
        say(f"begins {what}")
        write(big, *args)
        say(f"ends {what}")

    def slow(*args: Any) -> np.ndarray:
        time.sleep(0.05)  # so that the others are there too
        decoded.append(None)
        if killed and len(decoded) == 3 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return to_image(*args)

    cache._write, cache.to_image = logged, slow
    dataset = kolektor.read(data)
    barrier.wait()
    arrays = cache.prepare(dataset, Preparation(13, 5, 5), cache_dir)
    for array in (arrays.images, arrays.masks, arrays.exact):
        assert isinstance(array, np.memmap)
        say(f"maps {os.stat(str(array.filename)).st_ino}")
