"""`--profile` and the peak memory of a run."""

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from torch.autograd import DeviceType
from torch.utils.data import DataLoader

from anomaly_seg.training import memory
from anomaly_seg.training.profiling import TIMED, TRACED, WARMUP, ProfileSteps, own_times


class Slow(L.LightningModule):
    """Sleeps 20 ms in the forward pass and 40 ms in the optimiser."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch: torch.Tensor, batch_index: int) -> torch.Tensor:
        time.sleep(0.02)
        return self.layer(batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def optimizer_step(self, epoch, batch_index, optimizer, closure) -> None:
        optimizer.step(closure)
        time.sleep(0.04)


def fit(folder: Path, steps: int) -> None:
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[ProfileSteps(folder)],
    )  # fmt: skip
    trainer.fit(Slow(), DataLoader(torch.ones(64, 2)))


def test_the_time_goes_where_it_is_spent(tmp_path: Path) -> None:
    fit(tmp_path, WARMUP + TIMED + TRACED + 2)
    text = (tmp_path / "profile.md").read_text()
    ms = {name: float(value) for name, value in re.findall(r"\| ([a-z ]+?) +\| +([\d.]+) ", text)}
    assert ms["optimiser"] >= 40 and ms["optimiser"] > ms["forward and loss"] >= 20 > ms["data"] + ms["backward"]
    calls = re.search(r"\| aten::addmm .*\| +([\d.]+) +\|$", text, re.MULTILINE)
    assert calls and float(calls[1]) == 1  # one linear layer a step
    assert json.loads((tmp_path / "profile_trace.json").read_text())["traceEvents"]


def test_too_few_steps_are_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fit(tmp_path, 2)
    assert "takes 28 steps and there were 2" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not memory.CLEAR.exists(), reason="the peak is reset on Linux only")
def test_the_peak_is_of_what_came_after_the_reset() -> None:
    np.ones(300 * 2**17).sum()  # 300 MiB, given back at once
    memory.reset_peak()
    base = memory.peak()
    np.ones(100 * 2**17).sum()
    grown = memory.peak()
    assert base is not None and grown is not None and 90 < grown - base < 200


def test_on_a_gpu_a_kernel_is_not_counted_again_with_the_operation_that_started_it() -> None:
    def event(key: str, device: DeviceType, annotation: bool = False) -> SimpleNamespace:
        times = {"self_device_time_total": 100.0, "self_cpu_time_total": 7.0}
        return SimpleNamespace(key=key, device_type=device, is_user_annotation=annotation, **times)

    events = [
        event("aten::conv2d", DeviceType.CPU),
        event("conv_kernel", DeviceType.CUDA),
        event("Optimizer.step#Adam.step", DeviceType.CUDA, annotation=True),
    ]
    assert own_times(events, cuda=True) == [(events[1], 100.0)]
    assert own_times(events[:1] + events[2:], cuda=False) == [(events[0], 7.0)]
