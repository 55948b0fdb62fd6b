"""Averaging over mirror images."""

from pathlib import Path

import pytest
import torch
from support.sealed_runs import write_run
from torch import Tensor

from anomaly_seg.exporting.ensemble import read_members, read_network
from anomaly_seg.models.base import Network, Output
from anomaly_seg.models.flip_tta import FlipAverage
from anomaly_seg.models.one_stage import OneStage
from anomaly_seg.models.seg_dec import SegDec
from anomaly_seg.models.unet import UNet


class Corner(Network):
    """Its logit is the image times a weight for each place, its decision the value in the top left corner."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, image: Tensor) -> Output:
        return Output({"map": image * self.weight}, image[:, 0, 0, 0])

    def maps(self, output: Output) -> dict[str, Tensor]:
        return {"map": output.logits["map"]}


def test_the_mean_over_the_four_mirror_images_by_hand() -> None:
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    weight = torch.tensor([[1.0, 10.0], [100.0, 1000.0]])
    output = FlipAverage(Corner(weight))(image)
    # A pixel meets each of the four weights once: 1111 / 4 times its value. The corner sees each of the pixels once.
    assert output.logits["map"].tolist() == [[[[277.75, 555.5], [833.25, 1111.0]]]]
    assert output.decision is not None and output.decision.tolist() == [2.5]


@pytest.mark.parametrize(
    "network", [OneStage(width_multiplier=1 / 16), UNet(width_multiplier=1 / 16), SegDec(width_multiplier=1 / 16)]
)
def test_the_answer_does_not_depend_on_how_the_image_is_mirrored(network: Network) -> None:
    both = FlipAverage(network.eval())
    image = torch.rand(1, 1, 128, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output, mirrored = both(image), both(image.flip(3))
        plain = network(image)
    maps = both.maps(output)
    score, again = (both.scores(o, both.maps(o))[both.readout].item() for o in (output, mirrored))
    assert both.readout == network.readout and set(maps) == set(network.maps(plain))
    assert score == pytest.approx(again, rel=1e-4)
    for name, value in output.logits.items():
        assert torch.allclose(value, mirrored.logits[name].flip(3), atol=1e-4)
        assert not torch.allclose(value, plain.logits[name], atol=1e-4)


def test_it_takes_the_sizes_that_its_network_takes() -> None:
    network = SegDec(width_multiplier=1 / 16)  # 8 and below would be enough for the others
    assert FlipAverage(network).nearest_size(32, 48) == network.nearest_size(32, 48) == (128, 64)


def test_a_sealed_run_is_scored_as_the_run_was(tmp_path: Path) -> None:
    averaged, plain = (read_network(read_members(write_run(tmp_path / name, f"model.flip_average={name}"))[0])
                       for name in ("true", "false"))  # fmt: skip
    assert isinstance(averaged, FlipAverage) and isinstance(plain, OneStage)
