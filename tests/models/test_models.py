"""The networks: one tester that all of them pass, and what each of them promises beyond it."""

import copy
import io
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as nnf
from beartype import beartype
from jaxtyping import jaxtyped
from torch import Tensor, nn

from anomaly_seg.losses import Phase
from anomaly_seg.models import blocks, seg_dec, unet
from anomaly_seg.models.base import Network, Output, parameter_count
from anomaly_seg.models.classifier import pooled_score
from anomaly_seg.models.encoders import segdec
from anomaly_seg.models.encoders.efficientnet_lite0 import EfficientNetLite0
from anomaly_seg.models.heads import SideOutput, prior_log_odds
from anomaly_seg.models.one_stage import OneStage, coarse_suppression, fine_logit, fine_suppression
from anomaly_seg.models.seg_dec import SegDec, segmentation_target
from anomaly_seg.models.unet import UNet
from anomaly_seg.settings import OptimizerSettings
from anomaly_seg.training.module import SegmentationModule

SIZE = (128, 64)  # height, width: the smallest that every network takes
NETWORKS = {
    "one_stage": lambda **more: OneStage(width_multiplier=1 / 16, **more),
    "encoder_decoder": lambda **more: OneStage(width_multiplier=1 / 16, side_outputs=[1], readout="f1", **more),
    "seg_dec": lambda **more: SegDec(width_multiplier=1 / 16, **more),
    "unet": lambda **more: UNet(width_multiplier=1 / 16, **more),
    "one_stage_lite0": lambda **more: OneStage(encoder=EfficientNetLite0(depth=8, finest="full"), **more),
    "seg_dec_lite0": lambda **more: SegDec(encoder=EfficientNetLite0(depth=32), **more),
    "unet_lite0": lambda **more: UNet(encoder=EfficientNetLite0(), **more),
}


def images(count: int = 1, size: tuple[int, int] = SIZE, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, *size, generator=torch.Generator().manual_seed(seed))


def everything(output: Output) -> list[Tensor]:
    return [*output.logits.values(), *([] if output.decision is None else [output.decision])]


@pytest.fixture(params=NETWORKS)
def make(request: pytest.FixtureRequest):
    def seeded(**more) -> Network:
        torch.manual_seed(0)
        return NETWORKS[request.param](**more)

    return seeded


class TestImageNorm:
    def test_by_hand(self) -> None:
        # Mean 2 and variance 1, then doubled and shifted by 5; the second image does not touch the first.
        norm = blocks.FastInstanceNorm2d(1)
        norm.weight.data.fill_(2.0)
        norm.bias.data.fill_(5.0)
        for batch in ([[1.0, 3.0]], [[1.0, 3.0], [10.0, 30.0]]):
            out = norm.eval()(torch.tensor(batch).reshape(-1, 1, 1, 2))
            torch.testing.assert_close(out.flatten(1), torch.tensor([[3.0, 7.0]] * len(batch)), rtol=0, atol=1e-4)

    @pytest.mark.parametrize("n", [1, 3])
    @pytest.mark.parametrize("training", [True, False])
    def test_it_is_torchs_instance_normalisation(self, n: int, training: bool) -> None:
        torch.manual_seed(0)
        ours, theirs = blocks.FastInstanceNorm2d(4).train(training), nn.InstanceNorm2d(4, affine=True).train(training)
        nn.init.normal_(theirs.weight)
        ours.load_state_dict(theirs.state_dict())
        x, weights = torch.randn(n, 4, 5, 6), torch.randn(n, 4, 5, 6)
        found = []
        for norm in (ours, theirs):
            image = x.clone().contiguous(memory_format=torch.channels_last).requires_grad_()
            out = norm(image)
            (out * weights).sum().backward()
            found.append((out, image.grad, norm.weight.grad, norm.bias.grad))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


class TestEveryNetwork:
    @pytest.mark.parametrize("norm", ["batch", "instance", "group"])
    def test_every_parameter_gets_a_gradient(self, make, norm: str) -> None:
        network = make(norm=norm)
        if isinstance(network, SegDec):
            # From N(0, 0.01) the shift of the one-channel mask is all that passes its ReLU; give it something to pass.
            nn.init.constant_(network.segmentation.head[1].weight, 3.0)
        outputs = everything(network(images(2)))
        noise = torch.Generator().manual_seed(1)  # a plain sum would be constant after normalisation
        sum((out * torch.randn(out.shape, generator=noise)).sum() for out in outputs).backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all() and parameter.grad.any(), name

    @pytest.mark.parametrize("size", [(128, 63), (127, 64), (100, 70), (8, 8), (32, 16), (1, 1), (64, 64)])
    def test_a_bad_size_names_a_good_one(self, make, size: tuple[int, int]) -> None:
        network = make()
        try:
            network.check_size(torch.empty(1, 1, *size, device="meta"))
        except ValueError as error:
            words = str(error)
            good = words.split("nearest good size is ")[1].split(" ")[0]
            height, width = (int(n) for n in good.split("x"))
            assert f"{size[0]}x{size[1]}" in words
            step = network.size_multiple
            for side, wanted in ((height, size[0]), (width, size[1])):
                assert side % step == 0
                assert abs(side - wanted) <= step / 2 or side in (network.smallest_size, 2 * network.smallest_size)
            with pytest.raises(ValueError):
                network(torch.zeros(1, 1, *size))
            size = height, width
        network.check_size(torch.empty(1, 1, *size, device="meta"))
        for mode in (True, False):
            outputs = everything(network.train(mode)(images(1, size)))
            assert all(torch.isfinite(out).all() for out in outputs)

    @pytest.mark.parametrize("norm", ["batch", "instance", "group"])
    def test_a_batch_is_its_images(self, make, norm: str) -> None:
        network = make(norm=norm).eval()
        x = images(3)
        together, alone = everything(network(x)), [everything(network(x[i : i + 1])) for i in range(3)]
        for k, out in enumerate(together):
            torch.testing.assert_close(out, torch.cat([a[k] for a in alone]), rtol=1e-4, atol=1e-4)

    def test_saved_and_loaded_it_computes_the_same(self, make) -> None:
        network = make()
        network(images(2))  # moves running statistics away from their start
        file = io.BytesIO()
        torch.save(network.state_dict(), file)
        file.seek(0)
        torch.manual_seed(99)
        other = copy.deepcopy(network)
        for parameter in other.parameters():
            nn.init.normal_(parameter)
        other.load_state_dict(torch.load(file, weights_only=True))
        for a, b in zip(everything(network.eval()(images())), everything(other.eval()(images())), strict=True):
            assert torch.equal(a, b)

    def test_maps_are_probabilities_at_input_size(self, make) -> None:
        network = make().eval()
        output = network(images(2))
        maps = network.maps(output)
        assert maps and all(m.shape == (2, 1, *SIZE) and m.dtype == torch.float32 for m in maps.values())
        assert all(((m >= 0) & (m <= 1)).all() for m in maps.values())
        scores = network.scores(output, maps)
        assert network.readout in scores
        assert all(s.shape == (2,) and s.dtype == torch.float64 for s in scores.values())
        for name, value in maps.items():
            assert torch.equal(scores[name], value.double().sum(dim=(1, 2, 3)))

    def test_channels_last_is_the_same_function(self, make) -> None:
        network = make().eval()
        plain = everything(network(images(2)))
        network.to(memory_format=torch.channels_last)
        last = everything(network(images(2).contiguous(memory_format=torch.channels_last)))
        for a, b in zip(plain, last, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

    def test_shapes_are_as_the_signatures_say(self, make, monkeypatch: pytest.MonkeyPatch) -> None:
        checked = [
            segdec.SegDecEncoder,
            blocks.UpBlock,
            SideOutput,
            OneStage,
            SegDec,
            UNet,
            seg_dec.Segmentation,
            seg_dec.Decision,
        ]
        for kind in checked:
            monkeypatch.setattr(kind, "forward", jaxtyped(typechecker=beartype)(kind.forward))
            if "maps" in vars(kind):
                monkeypatch.setattr(kind, "maps", jaxtyped(typechecker=beartype)(kind.maps))
                monkeypatch.setattr(kind, "scores", jaxtyped(typechecker=beartype)(kind.scores))
        network = make()
        output = network(images(2))
        network.scores(output, network.maps(output))

    def test_a_loss_on_a_logit_it_lacks_is_refused(self, make) -> None:
        network = make().eval()
        with pytest.raises(ValueError, match=r"loss on 'f9'"):
            network.supervised(network(images()), ["f9"])

    @pytest.mark.parametrize(
        ("setting", "says"),
        [
            ({"norm": "layer"}, "norm=layer"),
            ({"width_multiplier": 0}, "width_multiplier=0"),
            ({"width_multiplier": -1.0}, "width_multiplier"),
            ({"init": "zeros"}, "init=zeros"),
        ],
    )
    def test_a_wrong_setting_is_refused(self, make, setting: dict, says: str) -> None:
        kind = type(make())
        with pytest.raises(ValueError, match=says):
            kind(**setting)

    @pytest.mark.parametrize("init", ["default", "normal"])
    def test_initialisation(self, make, init: str) -> None:
        convs = [m for m in make(init=init).modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
        weights = torch.cat([m.weight.flatten() for m in convs])
        heads = torch.cat([m.weight.flatten() for m in convs if m.weight.shape[0] == 1 and m.weight.ndim == 4])
        if init == "normal":
            assert heads.std().item() < 0.02
            assert weights.std().item() == pytest.approx(0.01, rel=0.05)
            assert weights.mean().item() == pytest.approx(0, abs=1e-3)
        else:
            assert weights.std().item() > 0.011


def conv(a: int, b: int, k: int) -> int:
    """Parameters of one convolution without bias and its normalisation's scale and shift."""
    return a * b * k * k + 2 * b


def up(below: int, skip: int, out: int, k: int) -> int:
    """Of an up-sampling block: 2x2 transposed convolution with bias, two convolutions over the concatenation."""
    return below * out * 4 + out + conv(out + skip, out, k) + conv(out, out, k)


class TestParameterCounts:
    def test_one_stage(self) -> None:
        stages = conv(1, 32, 5) + conv(32, 32, 5), conv(32, 64, 5) + 2 * conv(64, 64, 5), 4 * conv(64, 64, 5)
        encoder = sum(stages) + conv(64, 1024, 15)
        decoder = up(1024, 64, 64, 5) + up(64, 64, 64, 5) + up(64, 32, 32, 5)
        heads = (64 + 1) + (64 + 1) + (32 + 1)
        with torch.device("meta"):
            network = OneStage()
        assert parameter_count(network) == encoder + decoder + heads == 16_419_555
        assert parameter_count(network.encoder) == encoder == 15_440_672

    def test_one_stage_at_laptop_width(self) -> None:
        with torch.device("meta"):
            assert parameter_count(OneStage(width_multiplier=0.25)) == 1_027_131

    def test_seg_dec(self) -> None:
        with torch.device("meta"):
            network = SegDec()
        assert parameter_count(network.segmentation) == 15_441_698
        assert parameter_count(network.decision) == 221_179
        assert parameter_count(network) == 15_662_877

    @pytest.mark.parametrize(("base", "depth", "expected"), [(64, 4, 31_036_481), (16, 3, None)])
    def test_unet(self, base: int, depth: int, expected: int | None) -> None:
        widths = [base * 2**level for level in range(depth + 1)]
        down = sum(conv(a, b, 3) + conv(b, b, 3) for a, b in zip([1, *widths], widths, strict=False))
        count = down + sum(up(below, c, c, 3) for c, below in pairwise(widths)) + base + 1
        with torch.device("meta"):
            assert parameter_count(UNet(base=base, depth=depth)) == count
        assert expected in (None, count)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


class TestOneStage:
    def test_coarse_suppression_by_hand(self) -> None:
        # sigmoid(1 + 2 - 4) = sigmoid(-1) and sigmoid(0.5 + 0 + 0) (Eq. 1)
        f1, f2, f3 = (torch.tensor(v).reshape(1, 1, 1, 2) for v in ([1.0, 0.5], [2.0, 0.0], [-4.0, 0.0]))
        expected = [1 / (1 + math.e), 1 / (1 + math.exp(-0.5))]
        assert coarse_suppression([f1, f2, f3]).flatten().tolist() == pytest.approx(expected)

    @pytest.mark.parametrize(("n", "expected"), [(0, 0.8), (1, 0.4), (2, 0.2), (3, 0.1)])
    def test_fine_suppression_by_hand(self, n: int, expected: float) -> None:
        coarse, bottom = torch.full((1, 1, 1, 1), 0.8), torch.zeros(1, 1, 1, 1)  # sigmoid(0) = 1/2 (Eq. 4)
        assert fine_suppression(coarse, bottom, n).item() == pytest.approx(expected)

    def test_the_maps_are_the_paper_s(self) -> None:
        torch.manual_seed(0)
        network = OneStage(width_multiplier=1 / 16).eval()
        values = {"f1": 0.3, "f2": -1.2, "f3": 2.0}
        output = Output({name: torch.full((1, 1, 8, 8), v) for name, v in values.items()})
        maps = network.maps(output)
        sigmoid = {name: 1 / (1 + math.exp(-v)) for name, v in values.items()}
        for name, expected in sigmoid.items():  # Eq. 2
            assert maps[name].mean().item() == pytest.approx(expected)
        coarse = 1 / (1 + math.exp(-(0.3 - 1.2 + 2.0)))
        assert maps["C"].mean().item() == pytest.approx(coarse)
        assert maps["F"].mean().item() == pytest.approx(coarse * sigmoid["f1"] ** 3)
        assert maps["fine"].mean().item() == pytest.approx(sigmoid["f1"] ** 4)
        scores = network.scores(output, maps)
        for n in range(6):
            assert scores[f"F{n}"].item() == pytest.approx(64 * coarse * sigmoid["f1"] ** n)
        assert torch.equal(scores["F0"], scores["C"]) and torch.equal(scores["F3"], scores["F"])

    @pytest.mark.parametrize("bottom", ["f1", "f2", "f3"])
    @pytest.mark.parametrize("multiplications", [0, 1, 5])
    def test_bottom_and_multiplications(self, bottom: str, multiplications: int) -> None:
        network = OneStage(width_multiplier=1 / 16, bottom=bottom, multiplications=multiplications).eval()
        output = network(images())
        maps = network.maps(output)
        torch.testing.assert_close(maps["F"], maps["C"] * maps[bottom] ** multiplications)

    @pytest.mark.parametrize("n", [0, 1, 3, 5])
    def test_the_fused_logit_is_the_logit_of_f(self, n: int) -> None:
        c, b = torch.meshgrid(torch.linspace(-12, 12, 25).double(), torch.linspace(-12, 12, 25).double(), indexing="ij")
        fused = torch.sigmoid(c) * torch.sigmoid(b) ** n
        torch.testing.assert_close(fine_logit(c, b, n).double(), torch.logit(fused), rtol=2e-5, atol=2e-5)

    @pytest.mark.parametrize("c", [-80.0, 0.0, 80.0])
    @pytest.mark.parametrize("b", [-80.0, 0.0, 80.0])
    @pytest.mark.parametrize("target", [0.0, 1.0])
    def test_a_loss_on_f_keeps_its_gradient_at_extreme_logits(self, c: float, b: float, target: float) -> None:
        coarse, bottom = (torch.tensor([v], requires_grad=True) for v in (c, b))
        fused = fine_logit(coarse, bottom, 3)
        nnf.binary_cross_entropy_with_logits(fused, torch.tensor([target])).backward()
        # logit(F) = -log(exp(s) - 1) with s = softplus(-c) + 3 softplus(-b), in float64
        x, y = (torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (c, b))
        s = torch.log1p(torch.exp(-x)) + 3 * torch.log1p(torch.exp(-y))
        loss = torch.where(torch.tensor(target) == 1, s, -torch.log(-torch.expm1(-s)))
        loss.sum().backward()
        torch.testing.assert_close(coarse.grad.double(), x.grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(bottom.grad.double(), y.grad, rtol=1e-4, atol=1e-6)

    def test_fused_maps_can_be_supervised(self) -> None:
        network = OneStage(width_multiplier=1 / 16).eval()
        output = network(images())
        logits, maps = network.supervised(output, ["f1", "C", "F"]), network.maps(output)
        assert list(logits) == ["f1", "C", "F"]
        for name in logits:
            torch.testing.assert_close(torch.sigmoid(logits[name]), maps[name])
        alone = OneStage(width_multiplier=1 / 16, side_outputs=[1], readout="f1").eval()
        with pytest.raises(ValueError, match="loss on 'C'"):
            alone.supervised(alone(images()), ["C"])

    @pytest.mark.parametrize("mode", ["bilinear", "nearest"])
    @pytest.mark.parametrize("factor", [1, 2, 4])
    def test_reducing_before_up_sampling_changes_nothing(self, mode: str, factor: int) -> None:
        torch.manual_seed(0)
        head, x = SideOutput(16, factor, mode), torch.randn(2, 16, 12, 10)
        more = {"align_corners": False} if mode == "bilinear" else {}
        as_in_the_paper = head.reduce(nnf.interpolate(x, scale_factor=factor, mode=mode, **more))
        torch.testing.assert_close(head(x), as_in_the_paper, rtol=1e-5, atol=1e-5)
        assert head(x).shape == (2, 1, 12 * factor, 10 * factor)

    @pytest.mark.parametrize(
        "setting",
        [
            {"transposed_kernel": 2}, {"transposed_kernel": 4}, {"upsampling": "nearest"},
            {"decoder_widths": (16, 32, 48)}, {"side_outputs": [1, 3]},
            {"side_outputs": [2], "bottom": "f2", "readout": "f2"}, {"readout": "C"},
            {"readout": "fine"}, {"large_kernel": "fft"}, {"head_bias": -5}, {"init": "normal"},
        ],
        ids=str,
    )  # fmt: skip
    def test_each_switch_works(self, setting: dict) -> None:
        network = OneStage(width_multiplier=1 / 8, **setting)
        output = network(images())
        maps = network.maps(output)
        assert all(out.shape == (1, 1, *SIZE) for out in output.logits.values())
        assert network.readout in network.scores(output, maps)

    def test_switches_reach_what_they_name(self) -> None:
        network = OneStage(
            width_multiplier=0.5, transposed_kernel=4, decoder_widths=(16, 32, 48), head_bias=-5, upsampling="nearest"
        )
        assert [b.up.kernel_size for b in (network.up3, network.up2, network.up1)] == [(4, 4)] * 3
        assert [b.convs[1][0].out_channels for b in (network.up3, network.up2, network.up1)] == [8, 16, 24]
        assert all(head.reduce.bias.item() == -5 and head.mode == "nearest" for head in network.side.values())

    @pytest.mark.parametrize(
        ("setting", "says"),
        [
            ({"transposed_kernel": 3}, "transposed_kernel=3: use an even number"),
            ({"transposed_kernel": 0}, "transposed_kernel=0"),
            ({"upsampling": "cubic"}, "upsampling=cubic: choose bilinear or nearest"),
            ({"bottom": "f4"}, "bottom=f4: choose one of the side outputs, f1, f2, f3"),
            ({"multiplications": -1}, "multiplications=-1: use a whole number"),
            ({"multiplications": 1.5}, "multiplications=1.5"),
            ({"multiplications": "many"}, "multiplications=many"),
            ({"decoder_widths": (64, 64)}, r"decoder_widths=\[64, 64\]: use 3 whole"),
            ({"decoder_widths": (64, 0, 32)}, "decoder_widths"),
            ({"side_outputs": []}, r"side_outputs=\[\]"),
            ({"side_outputs": [1, 4]}, "side_outputs"),
            ({"side_outputs": [1, 1]}, "side_outputs"),
            ({"readout": "G"}, "readout=G: these side outputs give f1, f2, f3, fine, C, F"),
            ({"side_outputs": [1]}, "readout=F: these side outputs give f1, fine$"),
            ({"head_bias": "high"}, "head_bias=high: use a number, or prior"),
            ({"head_bias": math.nan}, "head_bias=nan"),
            ({"large_kernel": "winograd"}, "large_kernel=winograd: choose direct or fft"),
        ],
    )
    def test_a_wrong_switch_is_refused(self, setting: dict, says: str) -> None:
        with pytest.raises(ValueError, match=says):
            OneStage(width_multiplier=1 / 16, **setting)

    @pytest.mark.parametrize(
        ("fraction", "expected"), [(0.01, logit(0.01)), (0.0, logit(1e-4)), (0.9, 0.0), (1.0, 0.0)]
    )
    def test_prior_log_odds(self, fraction: float, expected: float) -> None:
        assert prior_log_odds(fraction) == pytest.approx(expected)


class TestClassifier:
    def test_score_is_the_sum(self) -> None:
        maps = torch.tensor([[[[0.5, 0.25], [0.25, 1.0]]], [[[0.5, 0.25], [0.25, 1.5 - 0.5 + 1e-3]]]])
        scores = pooled_score(maps)  # G = mean times M * N (Eq. 5)
        assert scores[0].item() == 2.0 == maps[0].double().mean().item() * 4
        assert scores[1].item() == pytest.approx(2.001, abs=1e-6)

    def test_a_sum_of_many_small_pixels_is_exact(self) -> None:
        flat = torch.full((1, 1, 1408, 512), 0.1)
        assert pooled_score(flat).item() == pytest.approx(float(flat[0, 0, 0, 0]) * 1408 * 512, rel=1e-14)


class TestSegDec:
    @pytest.mark.parametrize("size", [(64, 96), (72, 64)])
    def test_the_target_is_the_mean_of_17x17_windows(self, size: tuple[int, int]) -> None:
        height, width = size
        mask = (torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0)) > 0.7).float()
        naive = torch.empty(2, 1, height // 8, width // 8)
        for i in range(height // 8):
            for j in range(width // 8):
                top, left = 8 * i + 4 - 8, 8 * j + 4 - 8  # centred on pixel (4, 4) of the cell
                window = mask[:, :, max(0, top) : top + 17, max(0, left) : left + 17]
                naive[:, :, i, j] = window.mean(dim=(2, 3))
        torch.testing.assert_close(segmentation_target(mask), naive)

    def test_a_point_is_seen_by_the_cells_around_it(self) -> None:
        mask = torch.zeros(1, 1, 64, 64)
        mask[0, 0, 28, 36] = 1  # pixel 4 of cell 3 and of cell 4: dead centre of that window
        target = segmentation_target(mask)[0, 0]
        seen = target.nonzero().tolist()
        assert seen == [[i, j] for i in (2, 3, 4) for j in (3, 4, 5)]
        assert target[3, 4].item() == pytest.approx(1 / 289)

    def test_a_defect_at_the_border_counts_in_full(self) -> None:
        torch.testing.assert_close(segmentation_target(torch.ones(1, 1, 64, 64)), torch.ones(1, 1, 8, 8))
        for edge in (slice(0, 8), slice(-8, None)):
            mask = torch.zeros(1, 1, 64, 64)
            mask[:, :, edge] = 1
            target = segmentation_target(mask)[0, 0]
            assert target[0 if edge.start == 0 else -1].min() >= 0.6  # 8 of 13 or 12 rows of the window that exist

    def test_structure_of_the_decision_network(self) -> None:
        with torch.device("meta"):
            decision = SegDec().decision
        kinds = [type(layer).__name__ for layer in decision.convs]
        assert kinds == ["MaxPool2d", "Sequential"] * 3
        convs = [layer[0] for layer in decision.convs if isinstance(layer, nn.Sequential)]
        assert [(c.in_channels, c.out_channels, c.kernel_size, c.bias) for c in convs] == [
            (1025, 8, (5, 5), None), (8, 16, (5, 5), None), (16, 32, (5, 5), None),
        ]  # fmt: skip
        assert decision.linear.in_features == 66 and decision.linear.out_features == 1

    def test_the_linear_layer_sees_means_and_maxima(self) -> None:
        torch.manual_seed(0)
        decision = seg_dec.Decision(8, [8, 16, 32], "instance").eval()
        features, mask = torch.rand(1, 8, 16, 16), torch.randn(1, 1, 16, 16)
        seen: list[Tensor] = []
        decision.linear.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
        decision(features, mask)
        positive = mask.clamp(min=0)
        deep = decision.convs(torch.cat([features, positive], dim=1))
        expected = [deep.mean((2, 3)), deep.amax((2, 3)), positive.mean((2, 3)), positive.amax((2, 3))]
        torch.testing.assert_close(seen[0], torch.cat(expected, dim=1))

    def test_the_mask_has_no_relu_and_the_label_is_any_defect(self) -> None:
        torch.manual_seed(0)
        network = SegDec(width_multiplier=1 / 16).eval()
        assert (network(images()).logits["mask"] < 0).any()
        mask, label = torch.zeros(1, 1, *SIZE), torch.ones(1)
        assert torch.equal(network.target("decision", mask, label), label)
        assert network.target("mask", mask, label).shape == (1, 1, SIZE[0] // 8, SIZE[1] // 8)

    def test_confident_decisions_stay_apart(self) -> None:
        network = SegDec(width_multiplier=1 / 16)
        output = Output({"mask": torch.zeros(2, 1, 8, 8)}, torch.tensor([20.0, 21.0]))
        score = network.scores(output, network.maps(output))["decision"]
        assert score[0] < score[1] < 1


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("average", [0.0, 0.9])
@pytest.mark.parametrize(
    "optimizer",
    [{"name": "adam", "lr": 0.01}, {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}],
    ids=["adam", "sgd"],
)
def test_stage_two_leaves_the_segmentation_bit_for_bit(norm: str, average: float, optimizer: dict) -> None:
    torch.manual_seed(0)
    phases = [
        Phase("segmentation", 1.0, ("segmentation",), {"mask": 1.0}),
        Phase("decision", 1.0, ("decision",), {"decision": 1.0}),
    ]
    module = SegmentationModule(
        SegDec(width_multiplier=1 / 16, norm=norm), phases, OptimizerSettings(**optimizer), average=average
    )
    solver = module.configure_optimizers()
    mask, label = torch.zeros(1, 1, *SIZE), torch.ones(1)
    mask[..., 40:50, 20:40] = 1

    def step(phase: Phase, seed: int) -> None:
        module._freeze(phase)
        output = module.network(images(seed=seed))
        name = next(iter(phase.weights))
        logits = module.network.supervised(output, [name])[name]
        solver.zero_grad()
        nnf.binary_cross_entropy_with_logits(logits, module.network.target(name, mask, label)).backward()
        solver.step()
        module.on_train_batch_end(None, None, 0)

    def state(part: nn.Module) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in part.state_dict().items()}

    segmentation, decision = module.network.segmentation, module.network.decision
    before = state(segmentation), state(decision)
    for seed in range(3):
        step(phases[0], seed)
    learned = state(segmentation), state(decision)
    assert all(torch.equal(learned[1][k], before[1][k]) for k in learned[1])
    assert not any(torch.equal(learned[0][k], before[0][k]) for k in learned[0] if k.endswith("weight"))
    assert norm != "batch" or any(name.endswith("running_mean") for name in learned[0])
    for seed in range(3):
        step(phases[1], seed)
    after = state(segmentation), state(decision)
    assert all(torch.equal(after[0][k], learned[0][k]) for k in after[0])
    assert not torch.equal(after[1]["linear.weight"], learned[1]["linear.weight"])
    if average:  # the average of a frozen weight moves on towards that weight, on which the decision was trained
        averaged = dict(module.evaluated.segmentation.named_parameters())
        gap = [(averaged[n] - p).abs().max().item() for n, p in segmentation.named_parameters()]
        for _ in range(200):
            module.on_train_batch_end(None, None, 0)
        closer = [(averaged[n] - p).abs().max().item() for n, p in segmentation.named_parameters()]
        assert max(gap) > 0 and max(closer) < 1e-6


class TestUNet:
    @pytest.mark.parametrize("setting", [{"depth": 0}, {"base": 0}, {"head_bias": "x"}], ids=str)
    def test_a_wrong_setting_is_refused(self, setting: dict) -> None:
        with pytest.raises(ValueError, match="use "):
            unet.UNet(width_multiplier=1 / 16, **setting)

    @pytest.mark.parametrize("depth", [1, 3, 5])
    def test_depth_sets_the_size_it_needs(self, depth: int) -> None:
        network = UNet(width_multiplier=1 / 16, depth=depth)
        side = 2 * 2**depth
        assert network(images(1, (side, side))).logits["map"].shape == (1, 1, side, side)
        with pytest.raises(ValueError, match=f"multiples of {2**depth}"):
            network(images(1, (side + 2**depth // 2, side)))

    def test_up_sampling_is_by_transposed_convolution(self) -> None:
        kinds = [type(block.up) for block in UNet(width_multiplier=1 / 16).up]
        assert kinds == [nn.ConvTranspose2d] * 4
