"""Where a training step's time goes: by stage and by operation, as `profile.md` and a trace in the run's folder."""

import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tabulate import tabulate
from torch.autograd import DeviceType

from anomaly_seg.quick_lightning import pl
from anomaly_seg.results import run_files

STAGES = ("data", "forward and loss", "backward", "optimiser")
WARMUP, TIMED, TRACED = 3, 20, 5
"""Steps: not counted, timed by stage, and recorded by operation (which slows them, so they are not timed)."""


def own_times(events: Iterable[Any], cuda: bool) -> list[tuple[Any, float]]:
    """Events of a profile with their own microseconds, on the GPU or on the CPU.

    On a GPU those of its kernels alone: the operations that started them are said to have taken the same time.
    """
    if cuda:
        kernels = (e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation)
        return [(e, e.self_device_time_total) for e in kernels]
    return [(e, e.self_cpu_time_total) for e in events if "#" not in e.key]


class ProfileSteps(pl.Callback):
    """Times the first steps of a fit; after WARMUP + TIMED + TRACED steps it only stands by.

    Writes `profile.md` (medians of TIMED steps by stage; means of TRACED steps by operation) and `profile_trace.json`
    (for chrome://tracing or ui.perfetto.dev). A run with fewer steps than needed writes nothing and says so.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}
        self.step, self.last = 0, 0.0
        self.profiler: torch.profiler.profile | None = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.last = self._now(module)

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        self._mark("data", module)
        if self.step == WARMUP + TIMED:
            self.profiler = torch.profiler.profile()
            self.profiler.start()

    def on_before_backward(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        self._mark("forward and loss", module)

    def on_after_backward(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._mark("backward", module)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        self._mark("optimiser", module)
        self.step += 1
        if self.profiler is not None and self.step == WARMUP + TIMED + TRACED:
            self.profiler.stop()
            self._write(self.profiler)
            self.profiler = None

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.step < WARMUP + TIMED + TRACED:
            print(f"{self.folder}: no profile, for it takes {WARMUP + TIMED + TRACED} steps and there were {self.step}")
        if self.profiler is not None:
            self.profiler.stop()

    def _mark(self, stage: str, module: pl.LightningModule) -> None:
        """The time since the last mark was this stage's."""
        if self.step >= WARMUP + TIMED:
            return
        now = self._now(module)
        if self.step >= WARMUP:
            self.seconds[stage].append(now - self.last)
        self.last = now

    def _now(self, module: pl.LightningModule) -> float:
        if module.device.type == "cuda":  # kernels are only queued when a stage returns
            torch.cuda.synchronize(module.device)
        return time.perf_counter()

    def _write(self, profiler: torch.profiler.profile) -> None:
        profiler.export_chrome_trace(str(self.folder / "profile_trace.json"))
        run_files.write_whole(self.folder / "profile.md", self._text(profiler))

    def _text(self, profiler: torch.profiler.profile) -> str:
        typical = {stage: 1000 * median(self.seconds[stage]) for stage in STAGES}
        total = sum(typical.values())
        stages = [[stage, f"{ms:.2f}", f"{ms / total:.1%}"] for stage, ms in typical.items()]
        cuda = torch.cuda.is_available()
        events = own_times(profiler.key_averages(), cuda)
        everything = sum(us for _, us in events) or 1.0
        top = sorted(events, key=lambda pair: -pair[1])[:25]
        rows = [[e.key, f"{us / 1000 / TRACED:.2f}", f"{us / everything:.1%}", e.count / TRACED] for e, us in top]
        return "\n".join([
            f"# Where a step's time goes ({total:.1f} ms)\n",
            f"Median of {TIMED} steps after {WARMUP}; {torch.get_num_threads()} CPU threads.\n",
            tabulate(stages, ["stage", "ms", "share"], tablefmt="github", disable_numparse=True),
            f"\nBy operation ({'GPU' if cuda else 'CPU'} time of its own, mean of {TRACED} recorded steps)\n",
            tabulate(rows, ["operation", "ms a step", "share", "calls"], tablefmt="github", disable_numparse=True),
            "",
        ])  # fmt: skip
