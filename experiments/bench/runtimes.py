"""One image through a sealed One-Stage model: latency, peak memory and file size of each runtime, on two CPU cores.

A raw image of KolektorSDD's size goes in, score and maps come out, at the laptop's and the paper's scale. The weights
are random, running statistics plausible: they change no time. Each runtime has a process of its own (together 10 GiB);
their runs take turns, so that a busy machine slows all alike. "plain" is eager PyTorch, contiguous, its 15x15
convolution direct; it and "fast" (channels_last, 15x15 by FFT) get an image that is resized already, the others resize
inside. INT8 is calibrated on that one image, so its score says nothing here; its loss of F1 is in README.md.

    python experiments/bench/runtimes.py --norm instance
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import settle, use_torchs_norm
from one_runtime import CORES, NATIVE, answer, image
from sealing import convert

from anomaly_seg.exporting import formats
from anomaly_seg.exporting.graph import InferenceGraph, Preprocess
from anomaly_seg.exporting.int8 import quantise
from anomaly_seg.exporting.optimize import optimize
from anomaly_seg.models.base import Network
from anomaly_seg.models.one_stage import OneStage
from anomaly_seg.results.environment import describe

SCALES = {"laptop": (704, 256, 0.25), "paper": (1408, 512, 1.0)}
FILES = {
    "torch.export": "model.pt2", "ONNX Runtime": "model.onnx", "OpenVINO": "model.xml",
    "ONNX Runtime INT8": "int8.onnx", "OpenVINO INT8": "int8.xml",
}  # fmt: skip
EAGER = {"plain": ("direct", torch.contiguous_format), "fast": ("fft", torch.channels_last)}
TARGET = 2.5  # times as fast as plain


def network(scale: str, norm: str, large_kernel: str) -> Network:
    """The same weights for every runtime."""
    height, width, factor = SCALES[scale]
    torch.manual_seed(0)
    made = OneStage(width_multiplier=factor, norm=norm, large_kernel=large_kernel)  # type: ignore[arg-type]
    pixels = Preprocess(height, width, "resize", "area")(torch.from_numpy(image()))
    settle(made, pixels)
    return made


def write_models(scale: str, norm: str, folder: Path) -> dict[str, float]:
    """All files of one scale, and their sizes in MB."""
    sealed = seal(scale, norm, fewer=True)
    models = convert(sealed, channels=1)
    for name, (model, kind) in convert(seal(scale, norm, fewer=False), channels=1).items():
        if kind != "torch":
            models[f"{name} INT8"] = quantise(model, kind, [image()]), kind
    sizes = {}
    for name, (model, kind) in models.items():
        files = formats.write(model, kind, sealed.names, "{}", folder / FILES[name])
        sizes[name] = round(sum(file.stat().st_size for file in files) / 1e6, 1)
    return sizes


def seal(scale: str, norm: str, fewer: bool) -> InferenceGraph:
    """The sealed network; fewer: by fewer products, as for float32."""
    height, width, _ = SCALES[scale]
    prepare = Preprocess(height, width, "resize", "area")
    sealed = InferenceGraph([optimize(network(scale, norm, "fft"), fewer)], prepare, 0.5).eval()
    sealed.find_maps(channels=1)
    return sealed


def eager(name: str, scale: str, norm: str) -> Callable[[], float]:
    """One run of the network as it was trained, which returns the score."""
    torch.set_num_threads(CORES)
    large_kernel, layout = EAGER[name]
    made = network(scale, norm, large_kernel).to(memory_format=layout)  # type: ignore[call-overload]
    if name == "plain":
        use_torchs_norm(made)
    height, width, _ = SCALES[scale]
    pixels = Preprocess(height, width, "resize", "area")(torch.from_numpy(image())).contiguous(memory_format=layout)

    @torch.inference_mode()
    def run() -> float:
        output = made(pixels)
        return float(made.scores(output, made.maps(output))[made.readout])

    return run


class Runner:
    """A runtime in a process of its own."""

    def __init__(self, name: str, scale: str, norm: str, folder: Path) -> None:
        own = [__file__, "--eager", name, scale, norm]
        words = own if name in EAGER else [str(Path(__file__).with_name("one_runtime.py")), str(folder / FILES[name])]
        self.process = subprocess.Popen(
            [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.runs: list[dict[str, float]] = []

    def run(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.runs.append(json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        self.process.communicate()


def measure(scale: str, norm: str, repeats: int) -> dict[str, dict[str, Any]]:
    """Rows by runtime."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = write_models(scale, norm, folder)
        runners = {runtime: Runner(runtime, scale, norm, folder) for runtime in (*EAGER, *FILES)}
        try:
            for _ in range(repeats):
                for runner in runners.values():
                    time.sleep(0.2)  # until the threads of the one before have stopped waiting for more
                    runner.run()
        finally:
            for runner in runners.values():
                runner.close()
    plain = np.array([run["wall"] for run in runners["plain"].runs])
    exact = runners["plain"].runs[0]["score"]
    return {runtime: row(runner.runs, plain, exact, sizes.get(runtime)) for runtime, runner in runners.items()}


def row(runs: list[dict[str, float]], plain: np.ndarray, exact: float, size: float | None) -> dict[str, Any]:
    """Figures of one runtime. speed-up: median over turns of plain's time by this one's, of the same turn."""
    wall = np.array([run["wall"] for run in runs])
    low, median, high = (1000 * np.percentile(wall, (25, 50, 75))).round(1).tolist()
    return {
        "milliseconds": median,
        "quartiles": [low, high],
        "cpu_milliseconds": round(1000 * float(np.median([run["cpu"] for run in runs])), 1),
        "times_as_fast_as_plain": round(float(np.median(plain / wall)), 2),
        "peak_mib": round(runs[-1]["peak"] / 1024),
        "peak_above_loaded_mib": round((runs[-1]["peak"] - runs[-1]["before"]) / 1024),
        "file_mb": size,
        "score_off_by": float(f"{abs(runs[0]['score'] - exact) / exact:.1e}"),
        "all": (1000 * wall).round(1).tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, nargs=2, default=(15, 5), help="timed runs at laptop and paper scale")
    parser.add_argument("--norm", default="instance", choices=("instance", "batch"), help="of the network")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--eager", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.eager:
        answer(eager(*options.eager))
        return
    results = {scale: measure(scale, options.norm, n) for scale, n in zip(SCALES, options.repeats, strict=True)}
    about = {"norm": options.norm, "native_size": NATIVE, "cores": CORES, "repeats": options.repeats, "target": TARGET}
    about["load_average"] = round(os.getloadavg()[0], 1)  # above the number of cores: others slowed this down
    versions = {name: version(name) for name in ("onnx", "onnxruntime", "openvino", "nncf")}
    facts = {"what": __doc__.splitlines()[0], **about, "scales": results, "versions": versions}
    text = json.dumps(facts | {"environment": describe().model_dump()}, indent=2)
    out = options.out or Path(__file__).with_name(f"runtimes_{options.norm}.json")
    out.write_text(f"{text}\n", encoding="utf-8")
    for scale, rows in results.items():
        print(f"\n| {scale} | ms (quartiles) | times plain | peak MiB | file MB | score off by |")
        print("|---|---|---|---|---|---|")
        for name, r in rows.items():
            print(
                f"| {name} | {r['milliseconds']:,} ({r['quartiles'][0]:,} to {r['quartiles'][1]:,}) "
                f"| {r['times_as_fast_as_plain']} | {r['peak_mib']:,} | {r['file_mb'] or ''} | {r['score_off_by']} |"
            )


if __name__ == "__main__":
    main()
