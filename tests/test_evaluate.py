"""Scores, pixel counts and pictures against direct computation."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torchmetrics.classification import BinaryPrecisionRecallCurve

from anomaly_seg.data.datamodule import Batch
from anomaly_seg.errors import InputError
from anomaly_seg.evaluate import PIXEL_THRESHOLDS, draw, evaluate, pixel_counts
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
    return kind(width=1 / 16, **more)


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
        assert PIXEL_THRESHOLDS[0].item() == pytest.approx(1e-4, rel=0.02)
        steps = torch.logit(PIXEL_THRESHOLDS.double()).diff()
        assert (steps > 0).all() and steps.std() / steps.mean() < 1e-3


class TestEvaluate:
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
        with pytest.raises(InputError):
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
