"""The picture of the network shows the network's own numbers."""

from pathlib import Path
from types import ModuleType

import pytest
import torch
from support.helpers import load_script
from support.paths import ROOT

from anomaly_seg.models.one_stage import OneStage

SCRIPT = ROOT / "experiments" / "figures" / "network.py"


@pytest.fixture
def script() -> ModuleType:
    return load_script(SCRIPT)


def test_figure_shows_the_networks_channels_and_sizes(script: ModuleType) -> None:
    with torch.device("meta"):
        network = OneStage()
        image = torch.zeros(1, 1, *script.SIZES[0])
        features = network.encoder(image)
        shown = [(channels, *size) for (_, channels), size in zip(script.ENCODER, script.SIZES, strict=True)]
        assert [tuple(f.shape[1:]) for f in features] == shown
        decoder = (network.up1, network.up2, network.up3)
        assert [block.up.out_channels for block in decoder] == [channels for _, channels in script.DECODER]
        logits = network(image).logits
        assert {name: tuple(f.shape) for name, f in logits.items()} == {
            f"f{k}": (1, 1, *script.SIZES[0]) for k in (1, 2, 3)
        }


def test_figure_is_written(script: ModuleType, tmp_path: Path) -> None:
    script.main(tmp_path)
    assert (tmp_path / "network.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "network.svg").read_text(encoding="utf-8")
