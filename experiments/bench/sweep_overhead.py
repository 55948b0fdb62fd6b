"""Seconds that a sweep takes for each job beyond training and scoring.

Runs a sweep of one job and one of several in processes of their own, on generated data with a warm cache. The overhead
of a job is what each further job adds to the wall time, less the training and scoring seconds in its result.json; the
start-up is the wall time of the single job, less its own.

    python experiments/bench/sweep_overhead.py --jobs 7
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from anomaly_seg.results.environment import describe
from anomaly_seg.results.run_files import read_result

TARGET = 2.0  # seconds a job


def sweep(seeds: str, out: Path, cache: Path) -> tuple[float, float]:
    """Wall seconds of the command, and the seconds of training and scoring in it."""
    words = ["scale=demo", "epochs=1", f"seed={seeds}", f"output_dir={out}", f"data.cache_dir={cache}", "-m"]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "anomaly_seg.cli", "train", *words], check=True, capture_output=True)
    wall = time.perf_counter() - start
    training = [read_result(path.parent).training for path in out.rglob("result.json")]
    return wall, sum(t.train_seconds + t.test_seconds for t in training)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=7, help="jobs of the longer sweep, 2 or more")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    overheads, starts = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sweep("0", folder / "warm-up", folder / "cache")
        for i in range(options.repeats):
            one, inside_one = sweep("0", folder / f"one{i}", folder / "cache")
            seeds = ",".join(map(str, range(options.jobs)))
            many, inside_many = sweep(seeds, folder / f"many{i}", folder / "cache")
            overheads.append((many - one - (inside_many - inside_one)) / (options.jobs - 1))
            starts.append(one - inside_one)
            print(f"{overheads[-1]:.2f} s a job, {starts[-1]:.1f} s to start")
    median = sorted(overheads)[len(overheads) // 2]
    facts = {
        "what": __doc__.splitlines()[0], "jobs": options.jobs, "target": TARGET, "median": round(median, 2),
        "all": [round(s, 2) for s in overheads], "start_up": [round(s, 1) for s in starts],
        "load_average": round(os.getloadavg()[0], 1), "environment": describe().model_dump(),
    }  # fmt: skip
    options.out.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
