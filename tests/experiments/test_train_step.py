"""The benchmark of the training step: its rounds, and that it still runs."""

import argparse
from types import ModuleType

import pytest
from support.helpers import load_script
from support.paths import ROOT

SCRIPT = ROOT / "experiments" / "bench" / "train_step.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return load_script(SCRIPT)


def test_medians_and_the_median_of_ratios_by_rounds(script: ModuleType) -> None:
    slow, fast = iter([9.0, 0.4, 0.8, 0.6]), iter([9.0, 0.1, 0.4, 0.1])  # seconds; the first is for warming up
    steps = {"plain": lambda: next(slow), "ours": lambda: next(fast)}
    found = script.interleave(steps, "plain", rounds=3, warmup=1, title="model")
    assert found["plain"] == {"ms": 600.0, "quartiles": [500.0, 700.0], "times_as_fast": 1.0}
    assert found["ours"] == {"ms": 100.0, "quartiles": [100.0, 250.0], "times_as_fast": 4.0}


@pytest.mark.parametrize("inference", [False, True])
def test_a_step_takes_time(script: ModuleType, inference: bool) -> None:
    options = argparse.Namespace(scale="demo", device="cpu", inference=inference)
    assert script.make_step("unet", options, script.PLAIN)() > 0
