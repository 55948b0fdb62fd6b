"""A network made light for inference computes what it computed before."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.sealed_runs import plausible
from torch import nn

from anomaly_seg.exporting.fused_upsampling import FusedUpBlock, saves_multiplications
from anomaly_seg.exporting.optimize import SpectralConv, optimize
from anomaly_seg.exporting.winograd import WinogradConv, matrices
from anomaly_seg.models.blocks import UpBlock
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
