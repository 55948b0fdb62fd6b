"""Start-up: CPU seconds of a process until a run could begin, and seconds until a sealed model's first verdict.

Each line is a process of its own; the first repeat of each warms the disk's cache and does not count. CPU seconds are
user and system time of the process, on one thread.

    anomaly-seg train scale=demo output_dir=/tmp/start_up && anomaly-seg export /tmp/start_up --out /tmp/start_up/m.onnx
    python experiments/bench/start_up.py /tmp/start_up/m.onnx
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from anomaly_seg.results.environment import describe

TARGET = 2.0
"""CPU seconds of importing the training story beyond those of torch."""

PROGRAMS = {
    "import torch": "import torch",
    "import torch, make an optimiser": "import torch; torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])",
    "import the training story": "import anomaly_seg.training.run, anomaly_seg.training.sweep",
    "--help": "from anomaly_seg.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
}
VERDICT = "import numpy, anomaly_seg; print(anomaly_seg.load({model!r})(numpy.zeros((256, 96), 'uint8')).verdict)"


def measure(program: str) -> tuple[float, float]:
    """CPU and wall seconds of a Python process that runs this program."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, env=environment)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a sealed model")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    programs = PROGRAMS | {"load, first verdict": VERDICT.format(model=str(options.model))}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for repeat in tqdm(range(options.repeats + 1), desc="start-up"):
        for name, program in programs.items():
            taken = measure(program)
            if repeat:
                seconds[name].append(taken)
    rows = {
        name: {"cpu_s": np.round(np.quantile(values, [0.25, 0.5, 0.75], axis=0)[:, 0], 2).tolist(),
               "wall_s": np.round(np.quantile(values, [0.25, 0.5, 0.75], axis=0)[:, 1], 2).tolist()}
        for name, values in seconds.items()
    }  # fmt: skip
    beyond = [a[0] - b[0] for a, b in zip(seconds["import the training story"], seconds["import torch"], strict=True)]
    for name, row in rows.items():
        print(f"{name}: {row['cpu_s'][1]:.2f} s of CPU, {row['wall_s'][1]:.2f} s")
    print(f"the training story beyond torch: {np.median(beyond):.2f} s of CPU (target {TARGET:g})")
    facts = {
        "what": __doc__.splitlines()[0], "quartiles": rows, "beyond_torch_cpu_s": round(float(np.median(beyond)), 2),
        "target_s": TARGET, "load_average": round(os.getloadavg()[0], 1), "environment": describe().model_dump(),
    }  # fmt: skip
    options.out.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
