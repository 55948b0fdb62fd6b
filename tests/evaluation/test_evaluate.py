"""Scores, pixel counts and pictures against direct computation."""

import gc
import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from support.helpers import in_memory
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader
from torchmetrics.classification import BinaryPrecisionRecallCurve

from anomaly_seg.data import datamodule
from anomaly_seg.data.cache import Arrays, Preparation, prepare
from anomaly_seg.data.datamodule import Batch
from anomaly_seg.errors import InputError
from anomaly_seg.evaluation.evaluate import PIXEL_THRESHOLDS, evaluate, pixel_counts
from anomaly_seg.evaluation.metrics import pixel_measures
from anomaly_seg.evaluation.pictures import draw
from anomaly_seg.models.base import Network, Output
from anomaly_seg.models.one_stage import OneStage
from anomaly_seg.models.seg_dec import SegDec
from anomaly_seg.models.unet import UNet

HEIGHT, WIDTH = 128, 64


def batches(count: int = 3, batch_size: int = 1) -> list[Batch]:
    """As loaders give them: uint8, with the index of each image (here from 10 downwards)."""
    generator = torch.Generator().manual_seed(0)
    out = []
    for k in range(count):
        image = torch.randint(0, 256, (batch_size, 1, HEIGHT, WIDTH), dtype=torch.uint8, generator=generator)
        mask = torch.zeros(batch_size, 1, HEIGHT, WIDTH, dtype=torch.uint8)
        mask[:, :, 10:20, 5:40] = k % 2
        index = 10 - torch.arange(k * batch_size, (k + 1) * batch_size)
        out.append(Batch(image, mask, torch.full((batch_size,), float(k % 2)), index))
    return out


def network(kind: type[Network] = OneStage, **more: object) -> Network:
    torch.manual_seed(0)
    return kind(width_multiplier=1 / 16, **more)


class TestPixelCounts:
    @pytest.mark.parametrize("shape", [(1, 1, 1, 3), (2, 1, 13, 7)])
    def test_against_brute_force(self, shape: tuple[int, ...]) -> None:
        rng = np.random.default_rng(0)
        thresholds = np.array([0.0, 0.1, 0.25, 0.5, 0.75, 1.0], np.float32)
        values = rng.choice(np.append(thresholds, rng.random(20, np.float32)), shape).astype(np.float32)  # ties too
        mask = rng.integers(0, 2, shape).astype(np.float32)
        counts = pixel_counts(*(torch.from_numpy(a) for a in (values, mask, thresholds)))
        for i, t in enumerate(thresholds):
            called, defect = values > t, mask == 1
            brute = [called & defect, called & ~defect, ~called & defect, ~called & ~defect]
            assert [int(c[i]) for c in counts] == [int(b.sum()) for b in brute]

    @pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
    def test_against_torchmetrics(self, share: float) -> None:
        generator = torch.Generator().manual_seed(1)
        values = torch.rand(1, 1, 40, 50, generator=generator)  # no value meets a threshold: torchmetrics counts >=
        mask = (torch.rand(1, 1, 40, 50, generator=generator) < share).float()
        curve = BinaryPrecisionRecallCurve(thresholds=PIXEL_THRESHOLDS)
        curve.update(values, mask.int())
        expected = curve.confmat  # (t, label, verdict)
        counts = pixel_counts(values, mask, PIXEL_THRESHOLDS)
        assert torch.equal(counts.tp, expected[:, 1, 1]) and torch.equal(counts.fp, expected[:, 0, 1])
        assert torch.equal(counts.fn, expected[:, 1, 0]) and torch.equal(counts.tn, expected[:, 0, 0])

    def test_the_grid_is_ascending_and_even_in_log_odds(self) -> None:
        assert PIXEL_THRESHOLDS[0].item() == pytest.approx(math.exp(-80), rel=1e-4)
        assert PIXEL_THRESHOLDS[-1].item() == pytest.approx(0.9999, abs=1e-5)
        steps = torch.logit(PIXEL_THRESHOLDS.double()).diff()
        assert (steps > 0).all() and steps.max().item() == pytest.approx(0.5, rel=1e-3)
        fine = steps[-184:]
        assert fine.std() / fine.mean() < 1e-3

    @pytest.mark.parametrize("power", [1, 4, 6])
    def test_a_power_of_the_map_ranks_as_the_map(self, power: int) -> None:
        # As fine suppression does; exact AP by scikit-learn. Log-odds from -14 to 4: to the sixth power, 1e-36 to 0.9.
        generator = torch.Generator().manual_seed(0)
        mask = (torch.rand(1, 1, 64, 64, generator=generator) < 0.1).float()
        logit = (torch.randn(1, 1, 64, 64, generator=generator) * 2 - 8 + 3 * mask).clamp(-13, 4)
        counts = pixel_counts(torch.sigmoid(logit) ** power, mask, PIXEL_THRESHOLDS)
        found = pixel_measures(PIXEL_THRESHOLDS.double().numpy(), *(c.numpy() for c in counts)).ap
        assert found == pytest.approx(average_precision_score(mask.flatten(), logit.flatten()), abs=0.01)


class TestEvaluate:
    @pytest.mark.parametrize("before", [True, False])
    def test_convolutions_are_in_float32_on_a_gpu_too(self, before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", before)
        seen: list[bool] = []
        net = network(UNet)
        net.register_forward_hook(lambda *args: seen.append(torch.backends.cudnn.allow_tf32))
        evaluate(net, batches(2, 1), progress=False)
        assert seen == [False, False] and torch.backends.cudnn.allow_tf32 is before

    @pytest.mark.parametrize("kind", [OneStage, SegDec, UNet])
    @pytest.mark.parametrize("batch_size", [1, 2])
    def test_scores_are_those_of_a_direct_pass(self, kind: type[Network], batch_size: int) -> None:
        net, data = network(kind).eval(), batches(3, batch_size)
        found = evaluate(net, data, progress=False)
        assert found.index.tolist() == [10 - i for i in range(3 * batch_size)]
        expected: dict[str, list[float]] = {}
        totals = np.zeros((4, len(PIXEL_THRESHOLDS)), np.int64)
        with torch.no_grad():
            for batch in data:
                output = net(batch.image.float() / 255)
                maps = net.maps(output)
                for name, values in net.scores(output, maps).items():
                    expected.setdefault(name, []).extend(values.tolist())
                readout = {"decision": "mask"}.get(net.readout, net.readout)
                totals += np.stack(pixel_counts(maps[readout], batch.mask.float(), PIXEL_THRESHOLDS))
        assert found.scores.keys() == expected.keys() and net.readout in found.scores
        for name, values in found.scores.items():
            assert values.dtype == np.float64 and values.tolist() == expected[name]
        assert np.array_equal(np.stack(found.pixels), totals)
        assert (totals.sum(0) == 3 * batch_size * HEIGHT * WIDTH).all()

    def test_the_mode_is_left_as_it_came_part_by_part(self) -> None:
        net = network(SegDec).train()
        net.segmentation.eval()
        before = [m.training for m in net.modules()]
        statistics = {k: v.clone() for k, v in net.state_dict().items()}
        evaluate(net, batches(), progress=False)
        assert [m.training for m in net.modules()] == before
        assert all(torch.equal(v, statistics[k]) for k, v in net.state_dict().items())
        with pytest.raises(ValueError):
            evaluate(net, [b._replace(image=b.image[..., :-1]) for b in batches()], progress=False)
        assert [m.training for m in net.modules()] == before


class TestDraw:
    @pytest.mark.parametrize(("kind", "panels"), [(OneStage, 5), (SegDec, 3), (UNet, 3)])
    def test_a_strip_an_image(self, tmp_path: Path, kind: type[Network], panels: int) -> None:
        folder = tmp_path / "run" / "pictures"
        draw(network(kind), batches(2), lambda i: f"image{i}", folder, "cpu")
        assert sorted(p.name for p in folder.iterdir()) == ["image10.png", "image9.png"]
        strip = cv2.imread(str(folder / "image9.png"))
        assert strip.shape == (HEIGHT + 22, panels * WIDTH + (panels - 1) * 2, 3)
        image = batches(2)[1].image[0, 0].numpy()
        assert np.array_equal(strip[22:, :WIDTH, 0], image)
        assert set(np.unique(strip[22:, WIDTH + 2 : 2 * WIDTH + 2]).tolist()) == {0, 255}

    def test_a_map_s_colours_run_from_dark_to_bright(self, tmp_path: Path) -> None:
        class Ramp(Network):
            def forward(self, image: torch.Tensor) -> Output:
                return Output({"map": torch.linspace(-8, 8, WIDTH).expand(len(image), 1, HEIGHT, WIDTH)})

            def maps(self, output: Output) -> dict[str, torch.Tensor]:
                return {"map": output.logits["map"].sigmoid()}

        draw(Ramp(), batches(1), str, tmp_path, "cpu")
        brightness = cv2.imread(str(tmp_path / "10.png"))[60, -WIDTH:].astype(int).sum(axis=1)
        assert brightness[0] < 60 and brightness[-1] > 500 and (np.diff(brightness) > -10).all()

    def test_a_folder_that_takes_no_picture_is_an_input_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match=r"file/pictures.*set output_dir, or pictures=false"):
            draw(network(), batches(1), str, tmp_path / "file" / "pictures", "cpu")
        monkeypatch.setattr(cv2, "imwrite", lambda *args: False)  # what OpenCV says on a full disk
        with pytest.raises(InputError, match=r"10\.png: cannot be written; free space"):
            draw(network(), batches(1), str, tmp_path, "cpu")


class Look(Network):
    """The map is the first channel, the decision the brightest pixel less 2: what stitching does can be seen."""

    readout = "decision"

    def forward(self, image: torch.Tensor) -> Output:
        return Output({"map": image[:, :1]}, image.amax((1, 2, 3)) - 2)

    def maps(self, output: Output) -> dict[str, torch.Tensor]:
        return dict(output.logits)

    def scores(self, output: Output, maps: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"decision": output.decision} | super().scores(output, maps)


def tiled(cache: Path, height: int, width: int, side: int = 32, overlap: int = 16, **more: object) -> Arrays:
    preparation = Preparation(side, side, fit="tile", overlap=overlap, **more)
    return prepare(in_memory(groups=2, height=height, width=width), preparation, cache)


def loader(arrays: Arrays, images: tuple[int, ...] = (2, 0, 1)) -> DataLoader:
    return DataLoader(datamodule.TestSet(arrays, np.array(images)))


class TestTiles:
    @pytest.mark.parametrize("size", [(40, 60), (20, 10), (32, 32), (100, 33)])
    def test_scores_and_counts_are_those_of_the_whole_image(self, tmp_path: Path, size: tuple[int, int]) -> None:
        arrays, records = tiled(tmp_path, *size), in_memory(groups=2, height=size[0], width=size[1]).records
        found = evaluate(Look(), loader(arrays), progress=False, places=arrays.place)
        assert found.index.tolist() == [2, 0, 1]
        images = [torch.from_numpy(records[i].image.pixels()).float()[None, None] / 255 for i in (2, 0, 1)]
        masks = [torch.zeros_like(image) for image in images]
        for mask in masks[:2]:
            mask[..., 5:9, 2:7] = 1
        np.testing.assert_allclose(found.scores["map"], [float(i.double().sum()) for i in images], rtol=1e-12)
        assert found.scores["decision"].tolist() == [float(i.max() - 2) for i in images]
        expected = [pixel_counts(i, m, PIXEL_THRESHOLDS) for i, m in zip(images, masks, strict=True)]
        assert np.array_equal(np.stack(found.pixels), sum(np.stack(c) for c in expected))

    def test_every_readout_counts_the_inner_part_only(self, tmp_path: Path) -> None:
        """An image of 40x56 in one tile of 64x64: what the map says beyond the image is no part of any score."""
        arrays, net = tiled(tmp_path, 40, 56, side=64), network(OneStage).eval()
        found = evaluate(net, loader(arrays, (0,)), progress=False, places=arrays.place)
        with torch.no_grad():
            output = net(torch.from_numpy(arrays.images[:1].copy())[None].float() / 255)
        maps = {k: v[..., :40, :56].double() for k, v in net.maps(output).items()}
        bottom, other = (output.logits[k][..., :40, :56].double().sigmoid() for k in ("f1", "f2"))
        maps |= {"F0": maps["C"], "F5": maps["C"] * bottom**5, "F_f2": maps["C"] * other**3}
        for name, values in maps.items():
            assert found.scores[name].item() == pytest.approx(float(values.sum()), rel=1e-6)

    def test_a_network_gives_the_untiled_scores(self, tmp_path: Path) -> None:
        """Tiles share twice the 23 pixels that a U-Net of depth 2 sees to each side."""
        torch.manual_seed(0)
        net = UNet(width_multiplier=1 / 16, depth=2).eval()
        arrays = tiled(tmp_path, 128, 208, side=96, overlap=48)
        whole = prepare(in_memory(groups=2, height=128, width=208), Preparation(128, 208), tmp_path)
        found, expected = (evaluate(net, loader(a), progress=False, places=a.place) for a in (arrays, whole))
        assert len(arrays.owner) == 4 * 8
        np.testing.assert_allclose(found.scores["map"], expected.scores["map"], rtol=1e-5)
        assert np.abs(np.stack(found.pixels) - np.stack(expected.pixels)).max() <= 5  # pixels at a threshold, rounded

    def test_memory_is_bounded_by_the_tile(self, tmp_path: Path) -> None:
        """The largest tensor of all is that of one tile's eight channels, for an image of 25 times its pixels."""
        largest = 0

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
                nonlocal largest
                out = function(*args, **(kwargs or {}))
                sizes = [t.untyped_storage().nbytes() for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
                largest = max([largest, *sizes])
                return out

        torch.manual_seed(0)
        net, arrays = UNet(width_multiplier=1 / 16, depth=2).eval(), tiled(tmp_path, 320, 320, side=64)
        with Watch():
            evaluate(net, loader(arrays, (0,)), progress=False, places=arrays.place)
        assert largest == 8 * 64 * 64 * 4 < 320 * 320 * 4  # float32, below even one such map of the whole image

    def test_no_tensor_is_kept_from_a_tile(self, tmp_path: Path) -> None:
        """Kept ones, however small, lie between the large ones that come and go, and memory grows by MBs a tile."""
        arrays, alive = tiled(tmp_path, 80, 80), []

        def watched() -> Iterator[Batch]:
            for batch in loader(arrays, (0,)):
                alive.append(sum(type(o) is torch.Tensor for o in gc.get_objects()) if len(alive) in (3, 15) else 0)
                yield batch

        evaluate(network(OneStage), watched(), progress=False, places=arrays.place)
        assert len(alive) == 16 and alive[3] == alive[15] > 0

    def test_a_picture_shows_the_whole_image(self, tmp_path: Path) -> None:
        arrays = tiled(tmp_path / "cache", 40, 60)
        draw(Look(), loader(arrays, (3, 0)), lambda i: f"image{i}", tmp_path / "p", "cpu", arrays.place)
        assert sorted(p.name for p in (tmp_path / "p").iterdir()) == ["image0.png", "image3.png"]
        strip, records = cv2.imread(str(tmp_path / "p" / "image0.png")), in_memory(height=40, width=60).records
        assert strip.shape == (40 + 22, 3 * 60 + 2 * 2, 3)
        np.testing.assert_array_equal(strip[22:, :60, 0], records[0].image.pixels())
        np.testing.assert_array_equal(strip[22:, 62:122, 1], records[0].mask.pixels())
        inferno = cv2.applyColorMap(records[0].image.pixels(), cv2.COLORMAP_INFERNO)
        np.testing.assert_array_equal(strip[22:, 124:], inferno)

    def test_the_caption_has_the_score_of_the_whole_image(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arrays, captions = tiled(tmp_path / "cache", 40, 60), []
        monkeypatch.setattr(cv2, "putText", lambda image, text, *more: captions.append(text))
        draw(Look(), loader(arrays, (0,)), str, tmp_path / "p", "cpu", arrays.place)
        total = in_memory(height=40, width=60).records[0].image.pixels().sum() / 255
        assert captions == ["input", "mask", f"map {total:.4g}"]

    def test_a_large_picture_is_shrunk(self, tmp_path: Path) -> None:
        arrays = tiled(tmp_path / "cache", 3000, 40, side=128)
        draw(Look(), loader(arrays, (0,)), str, tmp_path / "p", "cpu", arrays.place)
        assert cv2.imread(str(tmp_path / "p" / "0.png")).shape == (1408 + 22, 3 * 19 + 2 * 2, 3)  # 40 * 1408 / 3000

    def test_colours_are_drawn_as_they_are(self, tmp_path: Path) -> None:
        image = torch.tensor([200, 30, 90], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 16, 16)
        batch = Batch(image, torch.zeros(1, 1, 16, 16, dtype=torch.uint8), torch.zeros(1), torch.tensor([7]))
        draw(Look(), [batch], str, tmp_path, "cpu")
        assert cv2.imread(str(tmp_path / "7.png"))[30, 8].tolist() == [90, 30, 200]  # OpenCV reads blue first
