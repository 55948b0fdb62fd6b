"""Milliseconds a training step, batch 1: the plain eager implementation against this project's settings.

Every variant is the same network from the same seed, given the same image: forward, losses of the configuration,
backward, Adam; with --inference forward, maps and scores, without gradients. Rounds go through all variants in turn, so
that whatever slows the machine slows them alike. Not timed: data, logging (see data_path.py, and `anomaly-seg train
--profile` for a whole step).

    python experiments/bench/train_step.py --scale laptop --threads 2
    python experiments/bench/train_step.py --scale paper --device cuda
    python experiments/bench/train_step.py --scale paper --device cuda --inference
"""

import argparse
import json
import os
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from networks import use_torchs_norm
from torch import Tensor
from tqdm import tqdm

from anomaly_seg.models.base import Network
from anomaly_seg.results.environment import describe
from anomaly_seg.settings import ModelSettings
from anomaly_seg.training.build import make_phases
from anomaly_seg.training.compose import compose_settings
from anomaly_seg.training.module import compiled_as, make_loss

MODELS = ("one_stage", "seg_dec", "unet")
PLAIN = {
    "channels_last": False,
    "large_kernel": "direct",
    "image_norm": False,
    "bf16": False,
    "fused": False,
    "tuned": False,
    "compile": False,
}
LADDER = {  # each on top of the one before
    "plain": {},
    "channels_last": {"channels_last": True},
    "fft": {"large_kernel": "fft"},
    "image_norm": {"image_norm": True},
    "bf16": {"bf16": True},
    "fused": {"fused": True},
    "tuned": {"tuned": True},
}


def variants(model: str, device: str) -> dict[str, dict[str, Any]]:
    """Settings by name: the whole ladder for One-Stage, its ends for the others; on a GPU, compiled on top.

    "contiguous" is the ladder's end without channels_last, which alone costs and pays only with bf16.
    """
    steps, chosen = dict(PLAIN), {}
    for name, change in LADDER.items():
        if name == "fft" and (device == "cuda" or model == "unet"):  # a GPU always convolves directly; no 15x15
            continue
        if name == "tuned" and device != "cuda":  # cuDNN tries its algorithms, as with trainer=gpu
            continue
        steps |= change
        chosen[name] = dict(steps)
    chosen["contiguous"] = steps | {"channels_last": False}
    if device == "cuda":
        chosen["compiled"] = steps | {"compile": True}
        chosen["graphs"] = steps | {"compile": "reduce-overhead"}
    kept = ("plain", "fused", "tuned", "contiguous", "graphs")
    return chosen if model == "one_stage" else {name: chosen[name] for name in kept if name in chosen}


def make_step(model: str, options: argparse.Namespace, how: dict[str, Any]) -> Callable[[], float]:
    """A function that takes one step and returns its seconds."""
    torch.manual_seed(0)
    settings, device = compose_settings([f"model={model}", f"scale={options.scale}"]), options.device
    arguments = dict(settings.model.network) | {"head_bias": -5.0}
    if "large_kernel" in arguments:
        arguments["large_kernel"] = how["large_kernel"]
    network = instantiate(arguments)
    if not how["image_norm"]:
        use_torchs_norm(network)
    layout = torch.channels_last if how["channels_last"] else torch.contiguous_format
    network = network.to(device, memory_format=layout)
    size = (1, 1, settings.scale.height, settings.scale.width)
    image = torch.rand(size).to(device).contiguous(memory_format=layout)
    compute = (inference if options.inference else training)(network, image, settings.model, how)

    def step() -> float:
        torch.backends.cudnn.benchmark = how["tuned"]
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=how["bf16"]):
            finish = compute()
        finish()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return step


def training(
    network: Network, image: Tensor, model: ModelSettings, how: dict[str, Any]
) -> Callable[[], Callable[[], None]]:
    """Forward and losses; what it returns goes backward and steps."""
    mask = torch.zeros_like(image)
    mask[..., 100:140, 60:70] = 1
    label, weights = torch.ones(1, device=image.device), make_phases(model)[0].weights
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001, fused=how["fused"])
    loss_of = make_loss(how["compile"])

    def compute() -> Callable[[], None]:
        loss, _ = loss_of(network, image, mask, label, weights)

        def finish() -> None:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return finish

    return compute


def inference(
    network: Network, image: Tensor, model: ModelSettings, how: dict[str, Any]
) -> Callable[[], Callable[[], None]]:
    """Forward, maps and scores."""
    network.eval()

    @torch.no_grad()
    def score() -> dict[str, Tensor]:
        output = network(image)
        return network.scores(output, network.maps(output))

    compute = compiled_as(score, how["compile"])

    def run() -> Callable[[], None]:
        compute()
        return lambda: None

    return run


def measure(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Median and quartiles in ms by variant, and how many times as fast as plain."""
    steps = {name: make_step(model, options, how) for name, how in variants(model, options.device).items()}
    return interleave(steps, "plain", options.rounds, options.warmup, model)


def interleave(
    steps: Mapping[str, Callable[[], float]], slow: str, rounds: int, warmup: int, title: str
) -> dict[str, Any]:
    """Median and quartiles in ms by name, and how many times as fast as the one named `slow`, by rounds through all."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(warmup):
            step()
    for _ in tqdm(range(rounds), desc=title, leave=False):
        for name, step in steps.items():
            times[name].append(1000 * step())
    found = {}
    for name, values in times.items():
        low, median, high = np.percentile(values, (25, 50, 75)).tolist()
        times_faster = float(np.median(np.array(times[slow]) / np.array(values)))
        found[name] = {"ms": round(median, 1), "quartiles": [round(low, 1), round(high, 1)],
                       "times_as_fast": round(times_faster, 2)}  # fmt: skip
        print(f"{title:10} {name:14} {median:8.1f} ms [{low:.1f}, {high:.1f}]  {times_faster:.2f} times as fast")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="laptop")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--inference", action="store_true", help="time forward, maps and scores instead")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = {model: measure(model, options) for model in options.models}
    peak = torch.cuda.max_memory_allocated() / 2**20 if options.device == "cuda" else None
    about = {name: getattr(options, name) for name in ("scale", "device", "inference", "threads", "rounds", "warmup")}
    about["load_average"] = round(os.getloadavg()[0], 1)  # above the number of threads: others slowed this down
    about["peak_memory_mib"] = round(peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)
    facts = {"what": __doc__.splitlines()[0], **about, "steps": found, "environment": describe().model_dump()}
    what = "inference" if options.inference else "train_step"
    out = options.out or Path(__file__).with_name(f"{what}_{options.scale}_{options.device}.json")
    out.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
