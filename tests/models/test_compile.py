"""The compiled training step: what torch.compile makes of every network, short of generating code (a minute each)."""

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from anomaly_seg.losses import network_loss
from anomaly_seg.models.base import Network, Output
from anomaly_seg.models.one_stage import OneStage
from anomaly_seg.models.seg_dec import SegDec
from anomaly_seg.models.unet import UNet
from anomaly_seg.training.module import make_loss

THREE = {"f1": 1.0, "f2": 1.0, "f3": 1.0}
CASES = {
    "one_stage": (partial(OneStage, width_multiplier=1 / 16), THREE),
    "fused": (partial(OneStage, width_multiplier=1 / 16, norm="instance"), THREE | {"F": 1.0}),
    "seg_dec, mask": (partial(SegDec, width_multiplier=1 / 16), {"mask": 1.0, "decision": 0.0}),
    "seg_dec, decision": (partial(SegDec, width_multiplier=1 / 16), {"mask": 0.0, "decision": 1.0}),
    "unet": (partial(UNet, width_multiplier=1 / 16), {"map": 1.0}),
}


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.compile captures and differentiates as always, but generates no code. A break in the graph is an error."""
    real = torch.compile

    def compile(function: Any, mode: Any = None, **more: Any) -> Any:
        return real(function, backend="aot_eager", fullgraph=True, **more)

    monkeypatch.setattr(torch, "compile", compile)
    make_loss.cache_clear()
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(recompile_limit=8):  # as torch comes
        yield
    make_loss.cache_clear()
    torch._dynamo.reset()


def batch(size: tuple[int, int] = (128, 64)) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    mask = torch.zeros(1, 1, *size)
    mask[..., 40:52, 20:30] = 1
    return torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0)), mask, torch.ones(1)


def gradients(loss: Any, network: Network, weights: dict[str, float]) -> tuple[float, list[torch.Tensor]]:
    total, _ = loss(network, *batch(), weights, 2.0)
    total.backward()
    return total.item(), [p.grad for p in network.parameters() if p.grad is not None]


@pytest.mark.usefixtures("captured")
@pytest.mark.parametrize("case", CASES)
def test_the_compiled_step_is_one_graph_with_the_same_loss_and_gradients_also_for_the_next_run(case: str) -> None:
    make, weights = CASES[case]
    torch.manual_seed(0)
    network = make()
    plain, expected = gradients(network_loss, copy.deepcopy(network), weights)
    gradients(make_loss("reduce-overhead"), make(), weights)  # an earlier run of a sweep
    compiled, found = gradients(make_loss("reduce-overhead"), network, weights)
    assert counters["stats"]["unique_graphs"] == 1
    assert compiled == pytest.approx(plain, rel=1e-5)
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5 * theirs.abs().max().item())


class Tiny(Network):
    """A network that differs from the next in a constant."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor, self.conv = factor, torch.nn.Conv2d(1, 1, 1)

    def forward(self, image: torch.Tensor) -> Output:
        return Output({"map": self.factor * self.conv(image)})


@pytest.mark.usefixtures("captured")
def test_more_networks_than_torchs_usual_limit_are_all_compiled() -> None:
    for factor in range(2, 14):
        gradients(make_loss(True), Tiny(factor), {"map": 1.0})
    assert counters["stats"]["unique_graphs"] == 12


def test_without_it_nothing_is_compiled() -> None:
    assert make_loss(False) is network_loss
