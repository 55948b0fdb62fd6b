"""A sealed model is the run's function, or it is not written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.sealed_runs import write_run
from torch import nn

import anomaly_seg
from anomaly_seg.errors import InputError
from anomaly_seg.exporting import export as exporting
from anomaly_seg.exporting.optimize import optimize
from anomaly_seg.exporting.verify import _compare
from anomaly_seg.models.base import Network

SMALL = ["data.reader.height=128", "data.reader.width=64"]


def off_by(change: Callable[[Network], None]) -> Callable[..., Network]:
    """`optimize` with a mistake."""

    def mistaken(network: Network, fewer: bool = True) -> Network:
        light = optimize(network, fewer)
        change(light)
        return light

    return mistaken


def brighter(network: Network) -> None:
    with torch.no_grad():
        network.side["f1"].reduce.bias += 0.5  # type: ignore[union-attr, index, operator, arg-type]


def not_a_number(network: Network) -> None:
    with torch.no_grad():
        network.side["f1"].reduce.bias *= torch.nan  # type: ignore[union-attr, index, operator, arg-type]


@pytest.mark.parametrize(("mistake", "fit"), [(brighter, "tile"), (not_a_number, "resize")])
def test_another_function_is_not_written(
    mistake: Callable[[Network], None], fit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path, *SMALL, f"data.fit={fit}", "data.tile_overlap=32", "scale.height=64", "scale.width=64")
    monkeypatch.setattr(exporting, "optimize", off_by(mistake))
    with pytest.raises(InputError, match=r"model\.pt2: not written, for it computes something else .* image 1 scores"):
        anomaly_seg.export(run, to="torch", threshold=0.25)
    assert not list(run.glob("model*"))


def test_without_the_runs_images_noise_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path)
    record = run / "config.yaml"
    text = record.read_text()
    assert "    views: 2\n" in text
    record.write_text(text.replace("    views: 2\n", "    views: 0\n"))  # no such data set any more
    monkeypatch.setattr(exporting, "optimize", off_by(brighter))
    with pytest.raises(InputError, match="computes something else"):
        anomaly_seg.export(run, to="torch", threshold=0.25)


def outputs(score: float, value: float) -> dict[str, Any]:
    return {"score": torch.tensor([score]).numpy(), "map": torch.full((1, 10, 10), value).numpy()}


@pytest.mark.parametrize(
    ("score", "value", "equal"),
    [
        (100.0, 0.5, True),
        (100.9, 0.5, True),  # within a hundredth
        (101.2, 0.5, False),
        (100.0, 0.5009, True),  # within a thousandth
        (100.0, 0.5011, False),
        (float("nan"), 0.5, False),
        (100.0, float("nan"), False),
    ],
)
def test_what_counts_as_equal(score: float, value: float, equal: bool) -> None:
    if equal:
        _compare(Path("m.onnx"), 0, outputs(score, value), outputs(100.0, 0.5))
        return
    with pytest.raises(InputError, match=r"m\.onnx: not written"):
        _compare(Path("m.onnx"), 0, outputs(score, value), outputs(100.0, 0.5))


def test_what_torch_cannot_write_as_a_graph_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    def branching(network: Network) -> None:
        network.side["f1"].reduce = nn.Sequential(network.side["f1"].reduce, Branching())  # type: ignore[union-attr, index]

    run = write_run(tmp_path)
    monkeypatch.setattr(exporting, "optimize", off_by(branching))
    with pytest.raises(InputError, match=r"the network cannot be sealed: torch\.export says"):
        anomaly_seg.export(run, to="torch", threshold=0.25)
