"""`encoder=timm` against timm itself, from its weights to a sealed model."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from support.sealed_runs import plausible, write_run
from torch import Tensor, nn

from anomaly_seg import export, load
from anomaly_seg.errors import InputError
from anomaly_seg.exporting.ensemble import read_members, read_network
from anomaly_seg.models.encoders.efficientnet_lite0 import EfficientNetLite0
from anomaly_seg.models.encoders.timm import TimmEncoder
from anomaly_seg.training.build import make_network
from anomaly_seg.training.start import start_encoder

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
MODELS = {"resnet18": IMAGENET, "tf_efficientnet_lite0": INCEPTION, "convnext_atto": IMAGENET}
"""One for each way in which timm gives maps by default, with the mean and deviation of its weights as published."""


def picture(channels: int, *size: int) -> Tensor:
    return torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(0))


def normalised(rgb: Tensor, statistics: tuple[tuple[float, ...], ...]) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in statistics)
    return (rgb - mean) / std


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each model a file as a user has it: the state dict of timm's whole model, with its classifier."""
    folder = tmp_path_factory.mktemp("weights")
    for name in MODELS:
        torch.save(plausible(timm.create_model(name), seed=1).state_dict(), folder / f"{name}.pth")  # type: ignore[arg-type]
    return {name: folder / f"{name}.pth" for name in MODELS}


def started(name: str, files: dict[str, Path], **settings: object) -> TimmEncoder:
    encoder = TimmEncoder(name, weights=str(files[name]), **settings)  # type: ignore[arg-type]
    encoder.start()
    return encoder.eval()


class TestMaps:
    @pytest.mark.parametrize("name", MODELS)
    def test_they_are_those_of_timm_on_the_normalised_image(self, name: str, files: dict[str, Path]) -> None:
        image = picture(3, 64, 96)
        overlay = {"file": str(files[name])}
        plain = timm.create_model(name, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay).eval()
        with torch.no_grad():
            expected = plain(normalised(image, MODELS[name]))
            found = started(name, files, in_channels=3, depth=32)(image)
        assert len(found) == len(expected) >= 4
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        ("name", "depth", "widths", "strides"),
        [
            ("resnet18", 8, (64, 64, 128), (2, 4, 8)),
            ("tf_efficientnet_lite0", 16, (16, 24, 40, 112), (2, 4, 8, 16)),
            ("convnext_atto", 32, (40, 80, 160, 320), (4, 8, 16, 32)),
        ],
    )
    def test_depth_leaves_the_layers_behind_it_out(self, name: str, depth: int, widths: tuple, strides: tuple) -> None:
        encoder = TimmEncoder(name, weights=None, statistics="learning", depth=depth)
        assert (encoder.widths, encoder.strides, encoder.title) == (widths, strides, name)
        maps = encoder(picture(1, 64, 96))
        assert [tuple(m.shape) for m in maps] == [
            (2, c, 64 // s, 96 // s) for c, s in zip(widths, strides, strict=True)
        ]
        maps[-1].sum().backward()
        assert all(parameter.grad is not None for parameter in encoder.parameters())

    @pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
    def test_a_grey_image_is_three_equal_channels(self, name: str, files: dict[str, Path]) -> None:
        grey = picture(1, 64, 64)
        with torch.no_grad():
            found = started(name, files)(grey)
            expected = started(name, files, in_channels=3)(grey.expand(-1, 3, -1, -1))
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)

    @pytest.mark.parametrize(("statistics", "moves"), [("frozen", False), ("learning", True)])
    def test_statistics_move_only_where_they_learn(self, statistics: str, moves: bool, files: dict[str, Path]) -> None:
        encoder = started("tf_efficientnet_lite0", files, statistics=statistics)
        norms = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
        before = [norm.running_mean.clone() for norm in norms]  # type: ignore[union-attr]
        encoder.train()(picture(1, 64, 64))[-1].sum().backward()
        assert [not torch.equal(a.running_mean, b) for a, b in zip(norms, before, strict=True)] == [moves] * len(norms)
        assert norms[0].weight.grad is not None and norms[0].weight.grad.any()  # scales and shifts learn in any case


def test_our_efficientnet_lite0_is_timms() -> None:
    ours = EfficientNetLite0(in_channels=3, depth=32).eval()
    ours.start()
    theirs = timm.create_model("tf_efficientnet_lite0", features_only=True).eval()
    state = theirs.state_dict()
    for name, value in ours.state_dict().items():
        state[timms_name(name)] = value
    theirs.load_state_dict(state)
    image = picture(3, 64, 96)
    with torch.no_grad():
        found, expected = ours(image), theirs((255 * image - 127) / 128)
    assert len(found) == len(expected) == 5
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3)


def timms_name(name: str) -> str:
    """stages.1.0.expand.conv.weight -> blocks.1.0.conv_pw.weight: layers are numbered within a block."""
    *place, layer, value = name.split(".")
    if place == ["stem"]:
        return {"conv": "conv_stem", "norm": "bn1"}[layer] + f".{value}"
    _, stage, block, part = place
    order = ["depthwise", "project"] if stage == "0" else ["expand", "depthwise", "project"]
    convs = ["conv_dw", "conv_pw"] if stage == "0" else ["conv_pw", "conv_dw", "conv_pwl"]
    number = order.index(part)
    return f"blocks.{stage}.{block}.{convs[number] if layer == 'conv' else f'bn{number + 1}'}.{value}"


class TestSource:
    def test_of_a_file(self, files: dict[str, Path]) -> None:
        encoder = TimmEncoder("resnet18", weights=str(files["resnet18"]))
        digest = hashlib.sha256(files["resnet18"].read_bytes()).hexdigest()
        assert encoder.start() == ("resnet18, resnet18.pth", digest, "unknown")

    def test_of_nothing(self) -> None:
        assert TimmEncoder("resnet18", weights=None).start() is None

    def test_of_the_hub(self, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
        """All of timm's own path but the download."""
        state = torch.load(files["resnet18"], weights_only=True)
        monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(state))
        encoder = TimmEncoder("resnet18.a1_in1k", weights="hub", in_channels=3)
        source = encoder.start()
        assert source is not None and (source.name, source.licence) == ("resnet18.a1_in1k, of timm's hub", "apache-2.0")
        assert torch.equal(encoder.body.state_dict()["model.layer3.1.conv2.weight"], state["layer3.1.conv2.weight"])
        again = TimmEncoder("resnet18.a1_in1k", weights="hub", in_channels=3).start()
        state["bn1.running_mean"] = state["bn1.running_mean"] + 1
        other = TimmEncoder("resnet18.a1_in1k", weights="hub", in_channels=3).start()
        assert again == source and other is not None and other.sha256 != source.sha256


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            ({"name": "resnet_34"}, r"encoder\.name=resnet_34: timm .* did you mean .*\bresnet34\b"),
            ({"name": "resnet18.a1_in2k"}, r"no such model; did you mean .*\bresnet18\.a1_in1k\b"),
            ({"name": "hf-hub:me/mine"}, r"hf-hub:me/mine: timm .* no such model; "),
            ({"name": "vit_tiny_patch16_224"}, r"vit_tiny_patch16_224: maps of strides 16, .*16; .* double"),
            ({"name": "levit_conv_128s", "depth": 32}, r"levit_conv_128s: takes no image of 128x128 \(.*any size"),
            ({"name": "inception_v3"}, r"inception_v3: .* without loss at its edge: it gives maps \[\(1, 64, 6\d, 6\d"),
            ({"depth": 12}, r"depth=12: resnet18 gives maps of strides 2, 4, 8, 16, 32; choose 4, 8, 16, 32"),
            ({"statistics": "image"}, r"encoder\.statistics=image: choose frozen, learning"),
            ({"in_channels": 2}, r"encoder\.in_channels=2: choose 1, 3"),
        ],
    )
    def test_of_a_setting(self, settings: dict, says: str) -> None:
        with pytest.raises(ValueError, match=says):
            TimmEncoder(**{"name": "resnet18", "weights": None} | settings)

    def test_of_a_model_without_maps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def mute(features_only: bool = False, **_: object) -> nn.Module:
            raise RuntimeError("features_only not implemented for this model")

        monkeypatch.setitem(timm.models._registry._model_entrypoints, "resnet18", mute)
        with pytest.raises(ValueError, match=r"encoder\.name=resnet18: has no features_only in timm \(features_only n"):
            TimmEncoder("resnet18", weights=None)

    def test_of_an_image_of_other_channels(self) -> None:
        with pytest.raises(ValueError, match=r"encoder\.in_channels=3: the images have 1 channel"):
            TimmEncoder("resnet18", weights=None, in_channels=3)(torch.zeros(1, 1, 64, 64))

    def test_of_a_download_without_a_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(ValueError, match=r"weights=hub: no download of resnet18 .*set encoder\.weights to a file"):
            TimmEncoder("resnet18").start()

    def test_of_the_hub_for_a_model_without_weights(self) -> None:
        name = next(n for n in timm.list_models("resnet*") if not timm.is_model_pretrained(n))
        with pytest.raises(ValueError, match=rf"weights=hub: timm has no weights of {name}"):
            TimmEncoder(name).start()

    def test_of_a_file(self, files: dict[str, Path], tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"none\.pth: cannot be read"):
            TimmEncoder("resnet18", weights=str(tmp_path / "none.pth")).start()
        with pytest.raises(ValueError, match=r"convnext_atto\.pth: no weights of timm's resnet18 \(conv1\.weight miss"):
            TimmEncoder("resnet18", weights=str(files["convnext_atto"])).start()
        narrow = torch.load(files["resnet18"], weights_only=True) | {"layer2.0.bn1.bias": torch.ones(7)}
        torch.save(narrow, tmp_path / "narrow.pth")
        with pytest.raises(ValueError, match=r"narrow\.pth: .*\(layer2\.0\.bn1\.bias missing or misshapen"):
            TimmEncoder("resnet18", weights=str(tmp_path / "narrow.pth")).start()

    def test_of_a_file_that_would_run_code(self, tmp_path: Path) -> None:
        class Hostile:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "ran",))

        torch.save({"weight": Hostile()}, tmp_path / "hostile.pth")
        with pytest.raises(ValueError, match=r"hostile\.pth: holds no weights that can be read safely"):
            TimmEncoder("resnet18", weights=str(tmp_path / "hostile.pth")).start()
        assert not (tmp_path / "ran").exists()

    def test_the_configuration_s_key_is_named(self, configure: Callable) -> None:
        with pytest.raises(InputError, match=r"model\.network\.encoder\.name=resnet_34: timm"):
            make_network(configure("encoder=timm", "model.network.encoder.name=resnet_34").model)
        network = make_network(configure("encoder=timm", "model.network.encoder.name=resnet18").model)
        with pytest.raises(InputError, match=r"model\.network\.encoder\.weights=hub: no download of resnet18"):
            start_encoder(network)


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_a_sealed_one_stage_gives_the_run_s_score(name: str, tmp_path: Path) -> None:
    words = ("encoder=timm", f"model.network.encoder.name={name}", "model.network.encoder.depth=8")
    folder = write_run(tmp_path, "model=one_stage", *words)
    assert f"one_stage-{name}" in folder.parts
    network = read_network(read_members(folder)[0])
    image = np.random.default_rng(0).integers(0, 256, (128, 64), dtype=np.uint8)
    with torch.no_grad():
        output = network(torch.from_numpy(image)[None, None].float() / 255)
        expected = network.scores(output, network.maps(output))[network.readout].item()
    path = tmp_path / "model.onnx"
    export(folder, to="onnx", out=path, threshold=0.25)
    assert load(path)(image).score == pytest.approx(expected, rel=1e-3)
