"""Milliseconds a training step at 704x256, batch 1, float32: this project's One-Stage beside smp's U-Net.

Every network is given the same image and mask: forward, losses, backward, fused Adam. One-Stage has the losses of its
configuration, smp.Unet binary cross-entropy on its one map. All begin at random, which costs no other time than weights
that have seen ImageNet. Each runs in both memory layouts, since neither is the faster one for all of them. Rounds go
through all networks in turn, so that whatever slows the machine slows them alike.

Needs timm and segmentation_models_pytorch, in the environment of `make test-timm`, on quiet cores:

    make .venv-timm/.installed
    .venv-timm/bin/python experiments/bench/train_step_peers.py
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from train_step import interleave

from anomaly_seg.results.environment import describe
from anomaly_seg.training.build import make_network, make_phases
from anomaly_seg.training.compose import compose_settings
from anomaly_seg.training.module import make_loss

SIZE = (704, 256)
SLOW = "smp.Unet, resnet34"
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
Compute = Callable[[Tensor, Tensor], Tensor]


def ours(encoder: str) -> tuple[nn.Module, Compute]:
    """One-Stage at laptop scale, and its loss."""
    settings = compose_settings(["model=one_stage", "scale=laptop", f"encoder={encoder}"])
    assert (settings.scale.height, settings.scale.width) == SIZE
    network, loss_of = make_network(settings.model, head_bias=-5.0), make_loss(False)
    weights = make_phases(settings.model)[0].weights

    def compute(image: Tensor, mask: Tensor) -> Tensor:
        return loss_of(network, image, mask, torch.ones(1), weights)[0]

    return network, compute


def theirs(encoder: str) -> tuple[nn.Module, Compute]:
    """smp.Unet, and binary cross-entropy."""
    network = smp.Unet(encoder, encoder_weights=None, in_channels=1, classes=1)
    return network, lambda image, mask: nnf.binary_cross_entropy_with_logits(network(image), mask)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Compute]]] = {
    "One-Stage, efficientnet_lite0": lambda: ours("efficientnet_lite0"),
    "One-Stage, paper": lambda: ours("paper"),
    SLOW: lambda: theirs("resnet34"),
    "smp.Unet, tf_efficientnet_lite0": lambda: theirs("timm-tf_efficientnet_lite0"),
}


def make_step(make: Callable[[], tuple[nn.Module, Compute]], layout: torch.memory_format) -> Callable[[], float]:
    """A function that takes one step and returns its seconds."""
    torch.manual_seed(0)
    network, compute = make()
    network.train().to(memory_format=layout)  # frozen statistics are those of train()
    image = torch.rand(1, 1, *SIZE).contiguous(memory_format=layout)
    mask = torch.zeros(1, 1, *SIZE)
    mask[..., 100:140, 60:70] = 1
    optimizer = torch.optim.Adam(network.parameters(), lr=0.0005, fused=True)

    def step() -> float:
        start = time.perf_counter()
        compute(image, mask).backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("train_step_peers.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    steps = {f"{name}, {word}": make_step(make, layout)
             for name, make in NETWORKS.items() for word, layout in LAYOUTS.items()}  # fmt: skip
    found = interleave(steps, f"{SLOW}, contiguous", options.rounds, options.warmup, "peers")
    about = {name: getattr(options, name) for name in ("threads", "rounds", "warmup")}
    about["load_average"] = round(os.getloadavg()[0], 1)  # above the number of threads: others slowed this down
    about["peers"] = {name: version(name) for name in ("segmentation-models-pytorch", "timm", "torchvision")}
    facts = {"what": __doc__.splitlines()[0], **about, "steps": found, "environment": describe().model_dump()}
    options.out.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
