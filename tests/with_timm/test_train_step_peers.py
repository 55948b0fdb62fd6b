"""The benchmark beside segmentation_models_pytorch still runs."""

from types import ModuleType

import pytest
import torch
from support.helpers import load_script
from support.paths import ROOT

SCRIPT = ROOT / "experiments" / "bench" / "train_step_peers.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return load_script(SCRIPT)


def test_every_network_takes_a_step(script: ModuleType) -> None:
    for make in script.NETWORKS.values():
        assert script.make_step(make, torch.channels_last)() > 0
