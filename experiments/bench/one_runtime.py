"""The other end of runtimes.py: one runtime in a process of its own, which imports nothing that it does not need.

A line in, one timed run, a line of JSON out.
"""

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

NATIVE = (1260, 500)
CORES = 2


def image() -> np.ndarray:
    """(1, h, w, 1) uint8: smooth noise, as a surface has it."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(0, 1, (NATIVE[0] // 8, NATIVE[1] // 8))
    grey = 128 + 20 * cv2.resize(coarse, NATIVE[::-1]) + rng.normal(0, 6, NATIVE)
    return grey.clip(0, 255).astype(np.uint8)[None, :, :, None]


def open_file(path: Path) -> Callable[[], float]:
    """One run of a sealed model, which returns the score."""
    from anomaly_seg.inference.load import KINDS

    if path.suffix == ".pt2":
        import torch

        torch.set_num_threads(CORES)
    infer, raw = KINDS[path.suffix](path, CORES).infer, image()
    return lambda: float(infer(raw)["score"][0])


def answer(run: Callable[[], float]) -> None:
    """Until the input ends."""
    before = peak_kib()
    run()  # warm-up: kernels are chosen, the weight's spectrum is made
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        score = run()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps({"wall": wall, "cpu": cpu, "score": score, "peak": peak_kib(), "before": before}), flush=True)


def peak_kib() -> int:
    """Highest resident memory of this process so far. Not getrusage's, which a child inherits from its parent."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None, "Linux only"
    return int(found[1])


if __name__ == "__main__":
    answer(open_file(Path(sys.argv[1])))
