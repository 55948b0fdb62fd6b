"""A network made light for inference computes what it computed before."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sealed_runs import plausible
from torch import nn

from anomaly_seg.exporting.fused_upsampling import FusedUpBlock, saves_multiplications
from anomaly_seg.exporting.optimize import SpectralConv, optimize
from anomaly_seg.exporting.winograd import WinogradConv, matrices
from anomaly_seg.models.blocks import UpBlock
from anomaly_seg.models.fft_conv import FFTConv2d
from anomaly_seg.models.one_stage import OneStage
from anomaly_seg.models.seg_dec import SegDec
from anomaly_seg.models.unet import UNet

WHOLE = st.integers(-9, 9)


class TestWinograd:
    @given(st.lists(WHOLE, min_size=8, max_size=8), st.lists(WHOLE, min_size=5, max_size=5))
    def test_four_outputs_from_eight_products(self, data: list[int], kernel: list[int]) -> None:
        into, taps, out = matrices()
        found = out @ ((taps @ kernel) * (into @ data))
        assert found == pytest.approx(np.correlate(data, kernel, "valid"), abs=1e-9)

    @pytest.mark.parametrize(("n", "height", "width"), [(1, 1, 1), (2, 3, 4), (1, 9, 13), (3, 6, 32)])
    @pytest.mark.parametrize("bias", [True, False])
    def test_it_is_the_convolution(self, n: int, height: int, width: int, bias: bool) -> None:
        torch.manual_seed(0)
        conv = nn.Conv2d(6, 7, 5, padding=2, bias=bias).requires_grad_(False)
        x = torch.randn(n, 6, height, width)
        assert torch.allclose(WinogradConv(conv)(x), conv(x), atol=1e-5)


class TestMergedUp:
    @pytest.mark.parametrize(("kernel", "height", "width"), [(5, 4, 7), (5, 1, 1), (3, 3, 2)])
    @pytest.mark.parametrize("norm", ["batch", "instance"])
    def test_it_is_the_block_up_to_its_borders(self, kernel: int, height: int, width: int, norm: str) -> None:
        torch.manual_seed(0)
        block = UpBlock(6, 3, 4, kernel, norm).eval().requires_grad_(False)  # type: ignore[arg-type]
        assert block.up.bias is not None and block.up.bias.abs().min() > 0, "what only counts inside the map"
        x, skip = torch.randn(2, 6, height, width), torch.randn(2, 3, 2 * height, 2 * width)
        assert torch.allclose(FusedUpBlock(block)(x, skip), block(x, skip), atol=1e-5)

    def test_where_it_pays(self) -> None:
        # Products per pixel of the small map, merged against apart: 36 i d, 4 i c + 4 k k c d.
        assert saves_multiplications(UpBlock(64, 64, 64, 5, "batch"))  # 147,456 against 425,984
        assert not saves_multiplications(UpBlock(1024, 64, 64, 5, "batch"))  # 2,359,296 against 671,744
        assert not saves_multiplications(UpBlock(128, 64, 64, 3, "batch"))  # 294,912 against 180,224
        assert not saves_multiplications(UpBlock(64, 64, 64, 5, "batch", transposed_kernel=4))


class TestLighten:
    @pytest.mark.parametrize(("height", "width", "n"), [(9, 31, 1), (88, 40, 2), (33, 16, 3)])
    def test_the_spectral_convolution_is_the_convolution(self, height: int, width: int, n: int) -> None:
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 130, 15, padding=7).requires_grad_(False)  # more channels than one block
        x = torch.randn(n, 3, height, width)
        assert torch.allclose(SpectralConv(conv)(x), conv(x), atol=1e-5)

    @pytest.mark.parametrize("large_kernel", ["direct", "fft"])
    def test_normalisation_goes_into_the_convolutions(self, large_kernel: str) -> None:
        network = plausible(OneStage(width_multiplier=1 / 16, large_kernel=large_kernel), seed=0)  # type: ignore[arg-type]
        light, x = optimize(network), torch.rand(2, 1, 64, 32)
        kinds = [type(module) for module in light.modules()]
        assert nn.BatchNorm2d not in kinds and kinds.count(SpectralConv) == 1
        with torch.no_grad():
            for name, logit in network(x).logits.items():
                assert torch.allclose(light(x).logits[name], logit, rtol=1e-4, atol=1e-5)
        assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules()), "a copy"

    @pytest.mark.parametrize("fewer", [True, False])
    def test_wide_layers_by_fewer_products(self, fewer: bool) -> None:
        network = plausible(OneStage(width_multiplier=1, norm="batch"), seed=0)
        light, x = optimize(network, fewer), torch.rand(1, 1, 16, 24)
        kinds = [type(module) for module in light.modules()]
        # stage2: 2 of 3, stage3: 4, up3: both, up2: the encoder's half of the first, and the second; up1: 32 channels
        assert kinds.count(WinogradConv) == (10 if fewer else 0) and kinds.count(FusedUpBlock) == (2 if fewer else 0)
        with torch.no_grad():
            for name, logit in network(x).logits.items():
                assert torch.allclose(light(x).logits[name], logit, rtol=1e-4, atol=1e-4 * logit.abs().max())

    def test_u_nets_small_kernels_stay(self) -> None:
        kinds = {type(module) for module in optimize(plausible(UNet(width_multiplier=1 / 16), seed=0)).modules()}
        assert not kinds & {WinogradConv, FusedUpBlock, SpectralConv}

    def test_statistics_of_the_image_itself_stay(self) -> None:
        light = optimize(plausible(SegDec(width_multiplier=1 / 16), seed=0))
        assert any(isinstance(module, nn.InstanceNorm2d) for module in light.modules())


class Doubled(nn.Conv2d):
    """A subclass whose own forward pass does something else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Backwards(nn.Sequential):
    """A Sequential in name only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in reversed(self):
            x = layer(x)
        return x


class Restless(nn.BatchNorm2d):
    """Normalisation that stays in training mode."""

    def train(self, mode: bool = True) -> "Restless":
        return super().train(True)


def stubborn(channels: int) -> nn.BatchNorm2d:
    """Plain in type, but told to use the current map's statistics whatever the mode."""
    norm = nn.BatchNorm2d(channels)
    norm.train = lambda mode=True: nn.Module.train(norm, True)  # type: ignore[method-assign, assignment]
    return norm


def hooked(conv: nn.Conv2d) -> nn.Conv2d:
    conv.register_forward_hook(lambda module, args, out: out + 1)
    return conv


def patched(conv: nn.Conv2d) -> nn.Conv2d:
    conv.forward = lambda x: nn.functional.conv2d(x, conv.weight, padding=2) ** 2  # type: ignore[method-assign]
    return conv


C = 64
CONVOLUTIONS = {
    "plain 5x5": lambda: nn.Conv2d(C, C, 5, padding=2),
    "plain 11x11": lambda: nn.Conv2d(C, C, 11, padding=5),
    "spectral 15x15": lambda: FFTConv2d(C, C, 15),
    "same by name": lambda: nn.Conv2d(C, C, 5, padding="same"),
    "strided": lambda: nn.Conv2d(C, C, 5, padding=2, stride=2),
    "dilated": lambda: nn.Conv2d(C, C, 5, padding=4, dilation=2),
    "dilated 11x11": lambda: nn.Conv2d(C, C, 11, padding=10, dilation=2),
    "strided 11x11": lambda: nn.Conv2d(C, C, 11, padding=5, stride=2),
    "reflecting": lambda: nn.Conv2d(C, C, 5, padding=2, padding_mode="reflect"),
    "circular 11x11": lambda: nn.Conv2d(C, C, 11, padding=5, padding_mode="circular"),
    "replicating": lambda: nn.Conv2d(C, C, 5, padding=2, padding_mode="replicate"),
    "unpadded": lambda: nn.Conv2d(C, C, 5),
    "half padded 11x11": lambda: nn.Conv2d(C, C, 11, padding=3),
    "grouped": lambda: nn.Conv2d(C, C, 5, padding=2, groups=4),
    "depthwise": lambda: nn.Conv2d(C, C, 5, padding=2, groups=C),
    "depthwise 11x11": lambda: nn.Conv2d(C, C, 11, padding=5, groups=C),
    "even kernel": lambda: nn.Conv2d(C, C, 12, padding=6),
    "oblong": lambda: nn.Conv2d(C, C, (5, 11), padding=(2, 5)),
    "a subclass": lambda: Doubled(C, C, 5, padding=2),
    "hooked": lambda: hooked(nn.Conv2d(C, C, 5, padding=2)),
    "patched": lambda: patched(nn.Conv2d(C, C, 5, padding=2, bias=False)),
    "parametrised": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(C, C, 5, padding=2)),
    "transposed": lambda: nn.ConvTranspose2d(C, C, 5, padding=2),
}
NORMS = {
    "none": lambda: nn.Identity(),
    "batch": lambda: nn.BatchNorm2d(C),
    "batch without scale": lambda: nn.BatchNorm2d(C, affine=False),
    "batch without statistics": lambda: nn.BatchNorm2d(C, track_running_stats=False),
    "batch in training mode": lambda: Restless(C),
    "batch told to train": lambda: stubborn(C),
    "instance": lambda: nn.InstanceNorm2d(C, affine=True),
}
STAGES = {"plain": nn.Sequential, "backwards": Backwards}
layers = st.tuples(
    st.sampled_from(sorted(CONVOLUTIONS)), st.sampled_from(sorted(NORMS)), st.sampled_from(sorted(STAGES))
)


class TestAnyNetwork:
    """What optimize does not know it leaves alone: no network of the user's becomes another function."""

    @staticmethod
    def check(network: nn.Module) -> None:
        plausible(network, seed=0)  # type: ignore[arg-type]
        x = torch.randn(2, C, 33, 29, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = copy.deepcopy(network).eval()(x)
            found = optimize(network)(x)  # type: ignore[arg-type]
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()

    @pytest.mark.parametrize("norm", ["batch", "batch told to train"])
    @pytest.mark.parametrize("conv", sorted(CONVOLUTIONS))
    def test_every_kind_alone(self, conv: str, norm: str) -> None:
        torch.manual_seed(0)
        self.check(nn.Sequential(CONVOLUTIONS[conv](), NORMS[norm](), nn.ReLU()))

    @settings(max_examples=12)
    @given(st.lists(layers, min_size=1, max_size=2))
    def test_every_mixture(self, kinds: list[tuple[str, str, str]]) -> None:
        torch.manual_seed(0)
        stages = [STAGES[stage](CONVOLUTIONS[conv](), NORMS[norm]()) for conv, norm, stage in kinds]
        self.check(nn.Sequential(*stages))

    def test_a_convolution_in_two_places(self) -> None:
        torch.manual_seed(0)
        conv = nn.Conv2d(C, C, 5, padding=2)
        self.check(nn.Sequential(nn.Sequential(conv, nn.BatchNorm2d(C)), nn.Sequential(conv, nn.BatchNorm2d(C))))

    def test_a_stage_asked_layer_by_layer(self) -> None:
        class ByNumber(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.stage = nn.Sequential(nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C), nn.Conv2d(C, C, 1))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.stage[2](self.stage[1](self.stage[0](x)))

        torch.manual_seed(0)
        self.check(ByNumber())

    @pytest.mark.parametrize("change", ["output_padding", "a subclass", "dilated first", "another forward"])
    def test_an_up_block_that_is_none(self, change: str) -> None:
        class Skipping(UpBlock):
            def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
                return super().forward(x, skip) + 1

        class Up(nn.Module):
            def __init__(self, block: UpBlock) -> None:
                super().__init__()
                self.block = block

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.block(x, torch.cat([x, x, x, x], 1).reshape(len(x), C, 2 * x.shape[2], 2 * x.shape[3]))

        torch.manual_seed(0)
        block = (Skipping if change == "a subclass" else UpBlock)(C, C, C, 5, "batch")
        if change == "output_padding":
            block.up = nn.ConvTranspose2d(C, C, 2, stride=2, padding=1, output_padding=1, dilation=2)
        if change == "dilated first":
            block.convs[0][0] = nn.Conv2d(2 * C, C, 5, padding=4, dilation=2)  # type: ignore[index, operator]
        if change == "another forward":
            block.convs[1].register_forward_hook(lambda module, args, out: out * 2)
        self.check(Up(block))
