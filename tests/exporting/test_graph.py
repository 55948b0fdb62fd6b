"""The graph of a sealed model, before it is exported: it prepares images as training did, and computes what the network
computes."""

from fractions import Fraction
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.sealed_runs import pictures, plausible
from torch import nn

from anomaly_seg.data.resize import fit_image
from anomaly_seg.exporting import formats
from anomaly_seg.exporting.graph import InferenceGraph, Preprocess, below
from anomaly_seg.exporting.optimize import optimize
from anomaly_seg.exporting.winograd import WinogradConv
from anomaly_seg.inference.runtimes import open_onnx, open_openvino
from anomaly_seg.models.classifier import pooled_score
from anomaly_seg.models.one_stage import OneStage
from anomaly_seg.models.seg_dec import SegDec
from anomaly_seg.models.unet import UNet

SIDE = st.integers(1, 150)


def prepared(image: np.ndarray, height: int, width: int, fit: str = "resize", method: str = "area") -> np.ndarray:
    """Grey values (height, width[, 3]) that the network gets."""
    pixels = image.reshape(*image.shape[:2], -1)
    out = Preprocess(height, width, fit, method)(torch.from_numpy(pixels)[None])[0] * 255  # type: ignore[arg-type]
    assert torch.allclose(out, out.round(), atol=1e-4), "whole grey values"
    return out.round().permute(1, 2, 0).numpy().astype(int).reshape(height, width, *image.shape[2:])


def shares(source: int, target: int) -> list[list[tuple[int, Fraction]]]:
    """Of each target cell: the source's cells and how much of it each covers, as exact fractions of the target cell."""
    scale = Fraction(source, target)
    found = []
    for i in range(target):
        overlaps = [(y, min((i + 1) * scale, Fraction(y + 1)) - max(i * scale, Fraction(y))) for y in range(source)]
        found.append([(y, overlap / scale) for y, overlap in overlaps if overlap > 0])
    return found


class TestPrepare:
    @pytest.mark.parametrize("size", [(200, 150), (256, 192), (130, 97), (128, 96), (128, 300), (1285, 500)])
    def test_shrinking_is_opencvs_area_averaging(self, size: tuple[int, int]) -> None:
        (image,) = pictures(1, size)
        expected = cv2.resize(image, (96, 128), interpolation=cv2.INTER_AREA).astype(int)
        got = prepared(image, 128, 96)
        assert np.abs(got - expected).max() <= 1 and np.mean(got != expected) <= 1e-3

    @pytest.mark.parametrize("size", [(64, 48), (40, 300), (300, 40), (128, 40), (100, 70), (5, 7), (2, 2)])
    def test_enlarging_is_opencvs_bilinear_interpolation(self, size: tuple[int, int]) -> None:
        (image,) = pictures(2, size)
        rows, columns = min(size[0], 128), min(size[1], 96)
        shrunk = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
        expected = cv2.resize(shrunk, (96, 128), interpolation=cv2.INTER_LINEAR).astype(int)
        got = prepared(image, 128, 96)  # OpenCV rounds the last columns, those behind its vectors, in another way
        assert np.abs(got - expected).max() <= 1 and np.mean(got != expected) <= 0.05

    def test_kolektors_images_at_the_papers_size_keep_their_grey_values(self) -> None:
        (image,) = pictures(2, (1253, 500))
        expected = cv2.resize(image, (512, 1408), interpolation=cv2.INTER_LINEAR).astype(int)
        assert np.mean(prepared(image, 1408, 512) != expected) <= 1e-3

    def test_exactly_half_in_blocks_of_two_by_two_is_rounded_up(self) -> None:
        image = np.array([[0, 1], [0, 1]], np.uint8).repeat(4, axis=0)  # every block sums to 2: 0.5
        assert prepared(np.tile(image, (1, 2)), 4, 2).tolist() == [[1, 1]] * 4

    def test_nearest_is_that_of_the_published_records(self) -> None:
        image = np.arange(7 * 5, dtype=np.uint8).reshape(7, 5)
        got = prepared(image, 3, 4, method="nearest")
        assert got.tolist() == image[[0, 2, 4]][:, [0, 1, 2, 3]].tolist()  # floor(i * 7 / 3), floor(i * 5 / 4)

    @settings(max_examples=25)
    @given(SIDE, SIDE, st.sampled_from(["area", "nearest"]), st.sampled_from([1, 3]))
    def test_padding_keeps_the_aspect_as_in_training(self, h: int, w: int, method: str, channels: int) -> None:
        (image,) = pictures(3, (h, w, 3))
        image = image if channels == 3 else np.ascontiguousarray(image[:, :, 0])
        expected = fit_image(image, 64, 48, method, keep_aspect=True).astype(int)  # type: ignore[arg-type]
        got = prepared(image, 64, 48, "pad", method)
        assert np.abs(got - expected).max() <= 1  # a few by one level; of a thin strip the padding repeats them
        assert abs(np.mean(got - expected)) <= 0.25

    @settings(max_examples=40)
    @example(16, 16, 0)
    @given(st.integers(8, 60), st.integers(8, 60), st.integers(0, 2**32))
    def test_averages_are_rounded_exactly(self, h: int, w: int, seed: int) -> None:
        # Few grey values, so that many means lie exactly between two.
        image = np.random.default_rng(seed).integers(0, 3, (h, w), dtype=np.uint8)
        got = prepared(image, 8, 8)
        rows, columns = shares(h, 8), shares(w, 8)
        for i, j in product(range(8), range(8)):
            mean = sum(a * b * int(image[y, x]) for y, a in rows[i] for x, b in columns[j])
            half_up = (h, w) == (16, 16)  # there OpenCV adds whole numbers
            expected = (mean + Fraction(1, 2)) // 1 if half_up else round(mean)
            assert got[i, j] == expected

    def test_every_runtime_prepares_the_same_image_and_filters_it_alike(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        conv = nn.Conv2d(1, 3, 5, padding=2).requires_grad_(False)

        class Start(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.prepare, self.filter = Preprocess(100, 62, "resize", "area"), WinogradConv(conv)

            def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                pixels = self.prepare(image)
                return pixels * 255, self.filter(pixels)

        names = ["pixels", "filtered"]
        onnx = formats.onnx_model(formats.trace(Start(), 1), names)  # type: ignore[arg-type]
        formats.write(onnx, "onnx", names, "{}", tmp_path / "model.onnx")
        formats.write(formats.openvino_model(onnx), "openvino", names, "{}", tmp_path / "model.xml")
        others = [open_onnx(tmp_path / "model.onnx").infer, open_openvino(tmp_path / "model.xml").infer]
        for image in pictures(8, (2, 145, 111, 1), (1, 97, 53, 1), (1, 300, 40, 1)):  # shrinks, enlarges, both
            expected = Start()(torch.from_numpy(image))[0].round()
            direct = conv(expected / 255).numpy()
            for infer in others:
                found = infer(image)
                assert np.array_equal(found["pixels"].round(), expected)
                assert np.abs(found["filtered"] - direct).max() < 1e-5

    def test_a_tile_is_taken_as_it_is(self) -> None:
        (image,) = pictures(4, (64, 48, 3))
        assert np.array_equal(prepared(image, 64, 48, "tile"), image)


class TestSealed:
    def test_the_score_is_the_pooled_readout_and_the_heat_map_its_map(self) -> None:
        network = plausible(OneStage(width_multiplier=1 / 16), seed=0)
        sealed = make(network)
        (image,) = pictures(5, (2, 70, 50, 1))
        out = dict(zip(sealed.names, sealed(torch.from_numpy(image)), strict=True))
        with torch.no_grad():
            expected = network.maps(network(sealed.prepare(torch.from_numpy(image))))
        assert sealed.names == ["score", "defective", "heat_map", "f1", "f2", "f3", "fine", "C", "F"]
        assert torch.allclose(out["score"], pooled_score(expected["F"]).float(), rtol=1e-4)
        assert torch.equal(out["heat_map"], out["F"]) and out["F"].shape == (2, 64, 32)
        assert torch.allclose(out["C"], expected["C"][:, 0], rtol=1e-4)

    def test_an_ensemble_gives_the_mean_of_scores_and_maps(self) -> None:
        networks = [plausible(UNet(width_multiplier=1 / 16), seed) for seed in (0, 1, 2)]
        image = torch.from_numpy(pictures(6, (1, 70, 50, 1))[0])
        alone = [make(network)(image) for network in networks]
        together = make(*networks)(image)
        for i in (0, 2, 3):  # score, heat map, map
            assert torch.allclose(together[i], (alone[0][i] + alone[1][i] + alone[2][i]) / 3, rtol=1e-5)
        assert make(*networks).names[4:] == ["member_scores"] and together[4].shape == (1, 3)
        assert torch.allclose(together[4][0], torch.cat([one[0] for one in alone]), rtol=1e-5)

    def test_a_decision_of_the_networks_own_is_its_score(self) -> None:
        network = plausible(SegDec(width_multiplier=1 / 16), seed=0)
        sealed = make(network, size=(128, 64))
        image = torch.from_numpy(pictures(7, (1, 128, 64, 1))[0])
        with torch.no_grad():
            decision = network(image.permute(0, 3, 1, 2) / 255).decision
        score, defective = sealed(image)[:2]
        assert score.item() == pytest.approx(torch.sigmoid(decision).item(), rel=1e-4)
        assert defective.item() == (score.item() > 0.5) and sealed.names[2:] == ["heat_map", "mask"]

    @given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.floats(-1e30, 1e30))
    def test_a_float32_threshold_gives_the_verdict_of_the_exact_one(self, score: float, threshold: float) -> None:
        assert (np.float32(score) > np.float32(below(threshold))) == (score > threshold)

    def test_the_verdict_next_to_the_threshold(self) -> None:
        low, high = np.float32(0.1), np.nextafter(np.float32(0.1), np.float32(1))
        for threshold, score in product((float(low), 0.1, float(high)), (low, high)):
            assert (score > np.float32(below(threshold))) == (float(score) > threshold)


def make(*networks, size: tuple[int, int] = (64, 32), threshold: float = 0.5) -> InferenceGraph:
    sealed = InferenceGraph(
        [optimize(network) for network in networks], Preprocess(*size, "resize", "area"), threshold
    ).eval()
    sealed.find_maps(1)
    return sealed
