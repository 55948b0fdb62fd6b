"""Milliseconds that the training loop adds to a step, beyond what a plain loop over the same network takes.

The network is as good as none (two parameters), so that what is left is Lightning and the module around it: work of the
CPU, under which a GPU's step cannot fall. Both loops go through the same loader.

    python experiments/bench/step_overhead.py
"""

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anomaly_seg.data.datamodule import Batch, FoldDataModule, to_float
from anomaly_seg.losses import Phase
from anomaly_seg.models.base import Network, Output
from anomaly_seg.models.heads import SideOutput
from anomaly_seg.quick_lightning import pl
from anomaly_seg.results.environment import describe
from anomaly_seg.settings import OptimizerSettings, Settings
from anomaly_seg.training.build import make_data, make_trainer, read_dataset
from anomaly_seg.training.compose import compose_settings
from anomaly_seg.training.loggers import make_logger
from anomaly_seg.training.module import SegmentationModule

SUPERVISED = ("f1", "f2", "f3")
PHASES = [Phase("all", 1.0, (), dict.fromkeys(SUPERVISED, 1.0))]
ADAM = OptimizerSettings(name="adam", lr=0.001, fused=True)  # type: ignore[call-arg]


class AlmostNothing(Network):
    """As many losses as One-Stage has, of one 1x1 convolution."""

    readout = "f1"

    def __init__(self) -> None:
        super().__init__()
        self.head = SideOutput(1, 1, "bilinear")

    def forward(self, image: torch.Tensor) -> Output:
        return Output(dict.fromkeys(SUPERVISED, self.head(image)))


class Clock(pl.Callback):
    """When each step began; None between epochs."""

    def __init__(self) -> None:
        self.times: list[float | None] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.times.append(None)

    def on_train_batch_start(self, *_: Any) -> None:
        self.times.append(time.perf_counter())


def step_times(times: list[float | None]) -> list[float]:
    """Milliseconds from the beginning of each step to that of the next."""
    return [1000 * (b - a) for a, b in pairwise(times) if a is not None and b is not None]


def by_lightning(settings: Settings, data: FoldDataModule, folder: Path) -> list[float]:
    module, clock = SegmentationModule(AlmostNothing(), PHASES, ADAM, channels_last=True), Clock()
    trainer = make_trainer(settings, folder, make_logger(settings, folder), [pl.callbacks.Timer()])
    trainer.callbacks.append(clock)
    trainer.fit(module, data)
    return step_times(clock.times)


def by_hand(settings: Settings, data: FoldDataModule, folder: Path) -> list[float]:
    module, clock = SegmentationModule(AlmostNothing(), PHASES, ADAM, channels_last=True), Clock()
    network, weights = module.network.train(), PHASES[0].weights
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001, fused=True)
    for _ in range(settings.epochs):
        clock.on_train_epoch_start()
        for raw in data.train_dataloader():
            clock.on_train_batch_start()
            batch: Batch = to_float(raw)
            image = batch.image.contiguous(memory_format=module.layout)
            loss, _ = module.loss(network, image, batch.mask, batch.label, weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return step_times(clock.times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    words = ["data=synthetic", "scale=demo", "scale.height=32", "scale.width=32", "augment=none", "epochs=5"]
    found: dict[str, list[float]] = {}
    loops: dict[str, Callable[..., list[float]]] = {"by hand": by_hand, "Lightning": by_lightning}
    with tempfile.TemporaryDirectory() as name:
        words += ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false", f"data.cache_dir={name}/cache"]
        settings = compose_settings(words)
        data = make_data(settings, read_dataset(settings))
        for i in range(options.repeats):
            for loop, times in loops.items():
                found.setdefault(loop, []).append(float(np.median(times(settings, data, Path(name) / f"{loop}{i}"))))
    added = [a - b for a, b in zip(found["Lightning"], found["by hand"], strict=True)]
    print(f"{np.median(added):.2f} ms a step ({', '.join(f'{a:.2f}' for a in added)})")
    facts = {
        "what": __doc__.splitlines()[0], "median_ms": round(float(np.median(added)), 2),
        "all_ms": [round(a, 2) for a in added],
        "loops_ms": {loop: [round(ms, 2) for ms in values] for loop, values in found.items()},
        "load_average": round(os.getloadavg()[0], 1), "environment": describe().model_dump(),
    }  # fmt: skip
    options.out.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
