"""`load`: typed answers from a sealed model, from several threads, and a sentence for all that cannot be used."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import onnx
import openvino
import pytest
import torch
from onnx import TensorProto, helper
from support.sealed_runs import pictures

import anomaly_seg
from anomaly_seg import load
from anomaly_seg.errors import InputError
from anomaly_seg.exporting import formats
from anomaly_seg.inference.image_input import as_input, read_image
from anomaly_seg.inference.load import SealedDetector
from anomaly_seg.inference.model_card import Data, InputContract, ModelCard, Threshold
from anomaly_seg.inference.runtimes import Runtime

NAMES = ["score", "defective", "heat_map", "map"]


def make_card(**more: object) -> ModelCard:
    fields: dict = {
        "channels": 1, "height": 16, "width": 8, "fit": "resize", "resize": "area", "tile_overlap": 0,
    }  # fmt: skip
    fields |= {key: more.pop(key) for key in list(more) if key in fields}
    about: dict = {
        "name": "tiny", "network": "unet", "format": "onnx", "precision": "float32", "members": 1, "parameters": 1,
        "maps": ["map"], "heat_map": "map", "pooled": "map", "pixel_threshold": 0.5, "metrics": None,
        "threshold": Threshold(value=60.0, kind="given", how="given", oracle=False),
        "data": Data(
            name="d", licence="unknown", train_images=1, train_defective=1, folds=[0], split="grouped", dilation=9
        ),
        "input": InputContract(**fields), "created": "now", "package_version": "0", "commit": "unknown",
    }  # fmt: skip
    return ModelCard(**(about | more))


class Darkness(torch.nn.Module):
    """A detector by hand: the map of a 16 x 8 image is 1 - grey / 255, the score its sum."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        dark = 1 - image.squeeze(3).float() / 255
        score = dark.sum((1, 2))
        return score, score > 60, dark, dark + 0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The detector by hand in all formats."""
    folder = tmp_path_factory.mktemp("models")
    image = torch.zeros(2, 16, 8, 1, dtype=torch.uint8)
    program = torch.export.export(Darkness(), (image,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    written = formats.onnx_model(program, NAMES)
    paths = {}
    for kind, model in (("onnx", written), ("openvino", formats.openvino_model(written)), ("torch", program)):
        paths[kind] = folder / f"dark{formats.SUFFIX[kind]}"
        card = make_card(format=kind).model_dump_json()
        formats.write(model, kind, NAMES, card, paths[kind])  # type: ignore[arg-type]
    return paths


@pytest.fixture(params=["onnx", "openvino", "torch"])
def path(request: pytest.FixtureRequest, models: dict[str, Path]) -> Path:
    return models[request.param]


class TestAnswers:
    def test_of_a_picture_by_hand(self, path: Path) -> None:
        image = np.full((16, 8), 255, np.uint8)
        image[4:8, 2:6] = 0  # 16 dark pixels
        image[10, 0] = 51  # one of darkness 0.8
        found = load(path)(image)
        assert found.score == pytest.approx(16.8) and found.verdict == "good" and found.threshold == 60
        assert found.heat_map.shape == (16, 8) and found.maps["map"][5, 3] == 1
        box, point = found.regions
        assert (box.x, box.y, box.width, box.height, box.area, box.peak) == (2, 4, 4, 4, 16, 1)
        assert (point.x, point.y, point.area, point.peak) == (0, 10, 1, pytest.approx(0.8))

    def test_the_threshold_can_be_another(self, path: Path) -> None:
        model, black = load(path), np.zeros((16, 8), np.uint8)  # score 128
        assert model(black).verdict == "defective"
        assert model(black, threshold=128).verdict == "good", "not above it"
        assert model(black, threshold=127.5).verdict == "defective"
        for answer in model.batch([black, black + 255], threshold=1.0):
            assert answer.threshold == 1.0

    def test_a_file_and_its_array_get_the_same_answer(self, path: Path, tmp_path: Path) -> None:
        (image,) = pictures(1, (16, 8))
        assert cv2.imwrite(str(tmp_path / "part.png"), image)
        model = load(str(path))
        assert model(str(tmp_path / "part.png")).score == model(tmp_path / "part.png").score == model(image).score

    def test_from_several_threads(self, path: Path) -> None:
        model, images = load(path), pictures(2, *[(16, 8)] * 40)
        alone = [model(image).score for image in images]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda image: model(image).score, images)) == alone
        assert len(set(alone)) == 40

    def test_it_says_what_it_is(self, path: Path) -> None:
        assert "tiny" in repr(load(path)) and load(path).path == path

    def test_a_score_that_is_no_number_is_no_verdict(self) -> None:
        model = SealedDetector(Path("m.onnx"), make_card(), Runtime(None, lambda images: darkness(images * np.nan)))
        with pytest.raises(FloatingPointError, match=r"m\.onnx: gives the score nan, so there is no verdict"):
            model(np.zeros((16, 8), np.uint8))


class TestOpenVINOsTwoFiles:
    @pytest.fixture
    def model(self, models: dict[str, Path], tmp_path: Path) -> Path:
        for suffix in (".xml", ".bin"):
            shutil.copy(models["openvino"].with_suffix(suffix), tmp_path / f"m{suffix}")
        return tmp_path / "m.xml"

    def test_weights_of_another_model_are_refused(self, model: Path) -> None:
        weights = bytearray(model.with_suffix(".bin").read_bytes())
        weights[0] ^= 1
        model.with_suffix(".bin").write_bytes(weights)
        with pytest.raises(InputError, match=r"m\.bin: the weights of another model than m\.xml, or damaged"):
            load(model)

    def test_replaced_while_it_is_open(self, model: Path) -> None:
        opened, image = load(model), np.zeros((16, 8), np.uint8)
        weights = model.with_suffix(".bin")
        weights.write_bytes(bytes(weights.stat().st_size))  # in place, as a copy over it does
        assert opened(image).score == 128


class TestSizes:
    def test_the_heat_map_comes_back_at_native_size(self) -> None:
        ramp = np.linspace(0, 1, 8, dtype=np.float32)[None].repeat(16, axis=0)
        model = SealedDetector(Path("m.onnx"), make_card(), fixed(ramp))
        found = model(np.zeros((32, 24), np.uint8))
        assert np.array_equal(found.heat_map, cv2.resize(ramp, (24, 32))) and found.maps["map"].shape == (16, 8)

    def test_padding_is_cut_off_first(self) -> None:
        # 32 x 8 into 16 x 8: by 1/2, content 16 x 4; what lies right of it belongs to nothing.
        values = np.zeros((16, 8), np.float32)
        values[:, 4:] = 1
        model = SealedDetector(Path("m.onnx"), make_card(fit="pad"), fixed(values))
        assert model(np.zeros((32, 8), np.uint8)).heat_map.max() == 0

    def test_tiles_become_one_map_and_its_sum_the_score(self) -> None:
        (image,) = pictures(3, (70, 50))
        card = make_card(fit="tile", height=32, width=32, tile_overlap=8)
        found = SealedDetector(Path("m.onnx"), card, Runtime(None, darkness))(image)
        assert np.array_equal(found.heat_map, 1 - image.astype(np.float32) / 255)
        assert found.score == pytest.approx((1 - image / 255).sum(), rel=1e-6)

    def test_a_decision_is_that_of_the_most_suspicious_tile(self) -> None:
        image = np.full((64, 96), 255, np.uint8)
        image[40:50, 70:80] = 0
        image[2:5, 2:5] = 0  # in another tile
        card = make_card(fit="tile", height=32, width=32, tile_overlap=0, pooled=None)
        assert SealedDetector(Path("m.onnx"), card, Runtime(None, darkness))(image).score == pytest.approx(100)

    def test_of_several_runs_it_is_the_mean_of_their_decisions(self) -> None:
        scores = iter([(4, 1), (2, 6)])  # of two runs, on each of two tiles: 4 and 6 are their highest

        def infer(images: np.ndarray) -> dict[str, np.ndarray]:
            each = np.array([next(scores)], np.float32)
            return {**darkness(images), "score": each.mean(axis=1), "member_scores": each}

        card = make_card(fit="tile", height=32, width=32, tile_overlap=0, pooled=None)
        assert SealedDetector(Path("m.onnx"), card, Runtime(None, infer))(np.zeros((32, 64), np.uint8)).score == 5


def fixed(values: np.ndarray) -> Runtime:
    return Runtime(None, lambda images: {"score": np.zeros(1, np.float32), "map": values[None]})


def darkness(images: np.ndarray) -> dict[str, np.ndarray]:
    dark = 1 - images[..., 0].astype(np.float32) / 255
    return {"score": dark.sum((1, 2)), "map": dark}


class TestImages:
    GREY = InputContract(channels=1, height=16, width=8, fit="resize", resize="area")
    COLOUR = InputContract(channels=3, height=16, width=8, fit="resize", resize="area")

    def test_colour_becomes_grey_as_in_training(self) -> None:
        (image,) = pictures(4, (5, 6, 3))
        assert np.array_equal(as_input(image, self.GREY)[:, :, 0], cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))

    def test_grey_becomes_three_equal_planes(self) -> None:
        (image,) = pictures(5, (5, 6))
        for given in (image, image[:, :, None]):
            got = as_input(given, self.COLOUR)
            assert got.shape == (5, 6, 3) and all(np.array_equal(got[:, :, k], image) for k in range(3))

    @pytest.mark.parametrize("suffix", ["png", "bmp", "tiff"])
    def test_files_are_read_in_rgb(self, suffix: str, tmp_path: Path) -> None:
        (image,) = pictures(6, (5, 6, 3))
        assert cv2.imwrite(str(tmp_path / f"a.{suffix}"), image[:, :, ::-1])
        assert np.array_equal(read_image(tmp_path / f"a.{suffix}"), image)

    def test_sixteen_bits_and_alpha(self, tmp_path: Path) -> None:
        assert cv2.imwrite(str(tmp_path / "a.png"), np.array([[0, 257, 65535]], np.uint16))
        assert read_image(tmp_path / "a.png").tolist() == [[0, 1, 255]]
        assert cv2.imwrite(str(tmp_path / "b.png"), np.array([[[3, 2, 1, 0]]], np.uint8))
        assert read_image(tmp_path / "b.png").tolist() == [[[1, 2, 3]]]

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (np.zeros((4, 4), np.float32), "image of type float32: give a numpy array of uint8"),
            (np.zeros((4, 4), np.uint16), "image of type uint16"),
            ([[1, 2]], "image of type list"),
            (None, "image of type NoneType"),
            (np.zeros(4, np.uint8), r"image of shape \(4,\): give \(height, width\)"),
            (np.zeros((4, 4, 4), np.uint8), r"image of shape \(4, 4, 4\)"),
            (np.zeros((1, 4, 4, 3), np.uint8), r"image of shape \(1, 4, 4, 3\)"),
            (np.zeros((0, 4), np.uint8), r"image of shape \(0, 4\): it has no pixels"),
            ("nowhere.png", "nowhere.png: cannot be read"),
        ],
    )
    def test_what_is_no_image(self, image: object, message: str, models: dict[str, Path]) -> None:
        with pytest.raises(InputError, match=message):
            load(models["onnx"])(image)  # type: ignore[arg-type]

    @pytest.mark.parametrize("fit", ["resize", "pad"])
    def test_a_side_longer_than_the_arithmetic_is_exact_for(self, fit: str) -> None:
        contract = self.GREY.model_copy(update={"fit": fit})
        assert as_input(np.zeros((1, 16_384), np.uint8), contract).shape == (1, 16_384, 1)
        for size in ((1, 16_385), (1_000_000, 1)):
            with pytest.raises(InputError, match=rf"image of {size[0]} x {size[1]} pixels: .*16384 a side; cut it or"):
                as_input(np.zeros(size, np.uint8), contract)
        tiles = self.GREY.model_copy(update={"fit": "tile"})  # nothing is resized there
        assert as_input(np.zeros((1, 16_385), np.uint8), tiles).shape == (1, 16_385, 1)

    def test_a_file_that_is_no_image(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(b"no picture")
        with pytest.raises(InputError, match=r"a.png: does not decode as an image; give a whole PNG"):
            read_image(tmp_path / "a.png")

    def test_floating_point_files(self, tmp_path: Path) -> None:
        assert cv2.imwrite(str(tmp_path / "a.tiff"), np.zeros((4, 4), np.float32))
        with pytest.raises(InputError, match=r"pixels of type float32; give an image of 8 or 16 bits"):
            read_image(tmp_path / "a.tiff")

    @pytest.mark.parametrize("threshold", [float("nan"), float("inf")])
    def test_a_threshold_that_is_none(self, threshold: float, models: dict[str, Path]) -> None:
        with pytest.raises(InputError, match=r"give a finite number"):
            load(models["onnx"])(np.zeros((16, 8), np.uint8), threshold)


class TestFilesThatCannotBeUsed:
    def test_none_there(self) -> None:
        with pytest.raises(InputError, match=r"nowhere.onnx: no such file; anomaly-seg export writes one"):
            load("nowhere.onnx")

    @pytest.mark.parametrize("name", ["model.pt", "model", "part.png"])
    def test_of_another_kind(self, name: str) -> None:
        with pytest.raises(InputError, match=rf"{name}: no sealed model; give one of .onnx, .xml, .pt2"):
            load(name)

    @pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
    @pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04 a zip that ends here"])
    def test_damaged(self, suffix: str, content: bytes, tmp_path: Path) -> None:
        (tmp_path / f"m{suffix}").write_bytes(content)
        (tmp_path / "m.bin").write_bytes(b"")
        with pytest.raises(InputError, match=rf"m{suffix}: damaged, or no model of this kind"):
            load(tmp_path / f"m{suffix}")

    def test_cut_short(self, path: Path, tmp_path: Path) -> None:
        whole = path.read_bytes()
        (tmp_path / path.name).write_bytes(whole[: len(whole) // 2])
        (tmp_path / "dark.bin").write_bytes(b"")
        with pytest.raises(InputError, match=rf"{path.name}: damaged"):
            load(tmp_path / path.name)

    def test_openvino_without_its_weights(self, models: dict[str, Path], tmp_path: Path) -> None:
        (tmp_path / "a.xml").write_bytes(models["openvino"].read_bytes())
        with pytest.raises(InputError, match=r"a.bin: no such file; an OpenVINO model is two files"):
            load(tmp_path / "a.xml")

    @pytest.mark.parametrize("make", ["onnx", "openvino", "torch"])
    def test_a_foreign_model(self, make: str, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"a model without a model card; only files that anomaly-seg export wrote"):
            load(FOREIGN[make](tmp_path))

    @pytest.mark.parametrize(
        ("change", "key"), [({"card_version": 2}, "card_version"), ({"maps": None}, "maps"), ({"new": 1}, "new")]
    )
    def test_a_card_of_another_version(self, change: dict, key: str, models: dict[str, Path], tmp_path: Path) -> None:
        model = onnx.load(models["onnx"])
        card = {**make_card().model_dump(), **change}
        formats.write(model, "onnx", NAMES, __import__("json").dumps(card), tmp_path / "m.onnx")
        with pytest.raises(InputError, match=rf"model card of another version, or damaged \({key}: .*export it again"):
            load(tmp_path / "m.onnx")

    def test_pickled_parts_are_not_opened(self, models: dict[str, Path], tmp_path: Path) -> None:
        target = tmp_path / "m.pt2"
        with zipfile.ZipFile(models["torch"]) as old, zipfile.ZipFile(target, "w") as new:
            for name in old.namelist():
                text = old.read(name)
                if name.endswith("model_constants_config.json"):
                    text = text.replace(b'"config": {', b'"config": {"x": {"use_pickle": true}, ', 1)
                new.writestr(name, text)
        with pytest.raises(InputError, match=r"m.pt2: holds pickled parts, which could run code"):
            load(target)

    @pytest.mark.parametrize(
        ("kind", "module", "extra"),
        [("onnx", "onnxruntime", "onnx"), ("openvino", "openvino", "openvino")],
    )
    def test_a_missing_extra_is_named(
        self, kind: str, module: str, extra: str, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(InputError, match=rf"needs the package '{module}': pip install 'anomaly-seg\[{extra}\]'"):
            load(models[kind])


def foreign_onnx(folder: Path) -> Path:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("a", "b")]
    graph = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "f.onnx")
    return folder / "f.onnx"


def foreign_openvino(folder: Path) -> Path:
    openvino.save_model(openvino.Core().read_model(foreign_onnx(folder)), folder / "f.xml")
    return folder / "f.xml"


def foreign_torch(folder: Path) -> Path:
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.zeros(1),)), folder / "f.pt2")
    return folder / "f.pt2"


FOREIGN: dict[str, Callable[[Path], Path]] = {
    "onnx": foreign_onnx,
    "openvino": foreign_openvino,
    "torch": foreign_torch,
}


class TestImports:
    def test_loading_imports_no_torch(self) -> None:
        code = "import sys, anomaly_seg.inference.runtimes; from anomaly_seg import load; print('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.stdout.split() == ["False"], done.stderr

    def test_the_package_itself_imports_nothing_heavy(self) -> None:
        code = "import sys, anomaly_seg; assert not {'numpy', 'cv2', 'torch', 'pydantic'} & set(sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

    def test_an_unknown_name(self) -> None:
        with pytest.raises(AttributeError, match=r"has no attribute 'nothing'"):
            anomaly_seg.nothing  # noqa: B018
