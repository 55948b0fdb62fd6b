"""From finished runs to one sealed model: the same answers in every runtime, thresholds, cards, messages."""

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from support.sealed_runs import pictures, pixels, write_run

from anomaly_seg import export, load
from anomaly_seg.cli import main
from anomaly_seg.data.resize import resize_image
from anomaly_seg.errors import InputError
from anomaly_seg.evaluation import evaluate as evaluation
from anomaly_seg.exporting import choose_threshold, formats, int8
from anomaly_seg.exporting import export as exporting
from anomaly_seg.exporting.ensemble import held_out, read_members, read_network
from anomaly_seg.exporting.int8 import find_pictures
from anomaly_seg.inference.prediction import Detector
from anomaly_seg.results import run_files
from anomaly_seg.training.build import make_data, read_dataset

NETWORKS = ("one_stage", "one_stage encoder=efficientnet_lite0", "seg_dec", "unet")
FORMATS: tuple[formats.Format, ...] = ("onnx", "openvino", "torch")


def choose_from(folder: Path, threshold: str = "held_out", **more: Any) -> choose_threshold.Threshold:
    """The threshold for the runs below a folder; a guarantee is to miss 5 % with confidence 0.95."""
    members = read_members(folder)
    asked = {"int8": False, "miss_rate": 0.05, "confidence": 0.95} | more
    return choose_threshold.choose(threshold, members, held_out(members), **asked)


@pytest.fixture(scope="module", params=NETWORKS)
def sealed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[formats.Format, Detector]]:
    """A run, and its model in every format: from one graph, for tracing takes seconds."""
    folder = write_run(tmp_path_factory.mktemp("sealed"), *f"model={request.param}".split())
    members = read_members(folder)
    limit = choose_from(folder, "0.25")
    network, preparation = exporting.seal(members, limit.value)
    program = formats.trace(network, preparation.channels)
    onnx = formats.onnx_model(program, network.names)
    models = {"onnx": onnx, "openvino": formats.openvino_model(onnx), "torch": program}
    detectors = {}
    for kind in FORMATS:
        card = exporting.make_card(kind, None, members, held_out(members), limit, preparation, network)
        path = folder / f"model{formats.SUFFIX[kind]}"
        formats.write(models[kind], kind, network.names, card.model_dump_json(), path)
        detectors[kind] = load(path)
    return folder, detectors


class TestTheSameEverywhere:
    SIZES = ((128, 64), (128, 64, 3), (200, 90), (90, 200), (40, 30), (301, 64))

    def test_scores_maps_and_verdicts_are_those_of_the_network(self, sealed) -> None:
        folder, detectors = sealed
        network = read_network(read_members(folder)[0])
        for image in pictures(1, *self.SIZES):
            found = {kind: detector(image) for kind, detector in detectors.items()}
            grey = image if image.ndim == 2 else self.grey(image)
            expected, maps = evaluate(network, resize_image(grey, 128, 64, "area"))
            for kind, prediction in found.items():
                shrinks = image.shape[0] >= 128 and image.shape[1] >= 64
                # Enlarged, a few pixels of the input are one grey level off (see test_sealed); random weights and the
                # statistics of a tiny image make much of them.
                assert prediction.score == pytest.approx(expected, rel=1e-3 if shrinks else 2e-2), kind
                assert prediction.score == pytest.approx(found["torch"].score, rel=1e-3), kind
                assert prediction.verdict == ("defective" if prediction.score > 0.25 else "good")
                assert list(prediction.maps) == list(maps) == detectors[kind].card.maps
                for name, values in maps.items():
                    assert np.abs(prediction.maps[name] - found["torch"].maps[name]).max() < 1e-3, (kind, name)
                    assert np.abs(prediction.maps[name] - values).max() < 1e-2, (kind, name)
                assert prediction.heat_map.shape == image.shape[:2]

    @staticmethod
    def grey(image: np.ndarray) -> np.ndarray:
        return np.round(image @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)

    def test_the_graph_takes_batches_and_judges_by_itself(self, sealed) -> None:
        _, detectors = sealed
        (images,) = pictures(2, (3, 150, 70, 1))
        for kind, detector in detectors.items():
            out = detector.graph(images)  # type: ignore[attr-defined]
            alone = [detector(image) for image in images]
            assert out["score"] == pytest.approx([p.score for p in alone], rel=1e-3), kind
            assert out["defective"].dtype == bool and out["score"].dtype == np.float32
            assert out["defective"].tolist() == [p.verdict == "defective" for p in alone]

    def test_the_card_travels_inside(self, sealed) -> None:
        folder, detectors = sealed
        for kind, detector in detectors.items():
            card = detector.card
            assert (card.format, card.precision, card.members) == (kind, "float32", 1)
            assert (card.input.height, card.input.width, card.input.channels, card.input.fit) == (128, 64, 1, "resize")
            assert card.data.licence == "none needed (generated pictures)" and card.data.folds == [0]
            assert card.name == f"synthetic-{card.network}-D9" and card.network in folder.parts


def evaluate(network, image: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
    """As `evaluate.evaluate` does."""
    with torch.no_grad():
        output = network(torch.from_numpy(image)[None, None].float() / 255)
        maps = network.maps(output)
        score = network.scores(output, maps)[network.readout].item()
    return score, {name: value[0, 0].numpy() for name, value in maps.items()}


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folds with two seeds each."""
    root = tmp_path_factory.mktemp("folds")
    for overrides, scores, labels in (
        (["fold=0", "seed=0"], (0.0, 2.0, 5.0, 8.0), (0, 0, 1, 1)),
        (["fold=0", "seed=1"], (2.0, 2.0, 7.0, 8.0), (0, 0, 1, 1)),
        (["fold=1", "seed=0"], (1.0, 5.0, 4.0, 8.0), (0, 0, 1, 1)),
        (["fold=1", "seed=1"], (1.0, 5.0, 4.0, 10.0), (0, 0, 1, 1)),
        (["fold=2", "seed=0"], (0.0, 1.0, 6.5, 10.0), (0, 0, 0, 1)),
        (["fold=2", "seed=1"], (2.0, 3.0, 8.5, 12.0), (0, 0, 0, 1)),
    ):
        write_run(root, "model=unet", *overrides, scores=scores, labels=labels)
    return root / "train" / "synthetic" / "unet" / "D9"


class TestSeveralFolds:
    def test_held_out_scores_are_pooled_and_seeds_averaged(self, folds: Path) -> None:
        pooled = held_out(read_members(folds))
        assert pooled.score.tolist() == [1, 2, 6, 8, 1, 5, 4, 9, 1, 2, 7.5, 11]
        assert pooled.fold.tolist() == [0] * 4 + [1] * 4 + [2] * 4

    def test_an_ensemble_in_one_file(self, folds: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["export", str(folds), "--to", "torch", "--licence", "ours"]) == 0
        model = load(folds / "model.pt2")
        (image,) = pictures(3, (128, 64))
        alone = [evaluate(read_network(member), image)[0] for member in read_members(folds)]
        assert model(image).score == pytest.approx(np.mean(alone), rel=1e-4)
        assert model.card.members == 6 and model.card.data.folds == [0, 1, 2] and model.card.data.licence == "ours"
        assert model.card.input.native_height == (128, 128) and model.card.input.native_width == (64, 64)
        assert model.card.data.train_images == 24 and model.card.data.train_defective == 4 + 2
        said = capsys.readouterr().out
        assert "model.pt2" in said and "mean of 6 runs" in said
        assert "12 held-out images, each judged by its own fold's runs, 5 of them defective" in said

    def test_the_threshold_is_the_best_f1_of_all_and_the_metrics_are_those_of_the_other_folds(
        self, folds: Path
    ) -> None:
        members = read_members(folds)
        scores = held_out(members)
        limit = choose_from(folds)
        # Good: 1 2 | 1 5 | 1 2 7.5; defective: 6 8 | 4 9 | 11. Above 3: five hits, two alarms, F1 = 10/12; above 5.5:
        # four and one, 8/10.
        assert limit.value == 3.0 and not limit.oracle
        judged = choose_threshold.judge(limit, scores)
        # Fold 0 at the best of folds 1 and 2 (good 1 1 2 5 7.5, defective 4 9 11; F1 is 4/5 at 8.25, 6/8 at 3): both
        # are missed. Fold 1 at the best of 0 and 2 (good 1 1 2 2 7.5, defective 6 8 11; 6/7 at 4): 5 is an alarm, 4 is
        # missed (not above it), 9 is found. Fold 2 at the best of 0 and 1 (good 1 1 2 5, defective 4 6 8 9; 8/9 at 3):
        # 7.5 is an alarm, 11 is found.
        assert judged is not None and judged.threshold == "cross_fold"
        assert (judged.tp, judged.fp, judged.fn, judged.tn) == (2, 2, 3, 5)
        assert judged.f1 == pytest.approx(4 / 9) and judged.recall.value == 2 / 5
        exact = stats.binomtest(2, 5).proportion_ci(method="exact")
        assert (judged.recall.low, judged.recall.high) == pytest.approx((exact.low, exact.high))

    def test_pixel_threshold_is_the_best_dice_of_all_runs(self, folds: Path) -> None:
        assert choose_threshold.pixel_threshold(read_members(folds)) == pixels().threshold[92]

    def test_runs_that_do_not_belong_together_are_refused(self, folds: Path, tmp_path: Path) -> None:
        shutil.copytree(folds / "fold0", tmp_path / "fold0")
        write_run(tmp_path, "model=unet", "fold=1", "dilation=5")
        with pytest.raises(InputError, match=r"differ in more than fold and seed \(dilation: 9 -> 5\); point at"):
            read_members(tmp_path)

    def test_the_same_fold_twice_is_refused(self, folds: Path, tmp_path: Path) -> None:
        for name in ("a", "b"):
            shutil.copytree(folds / "fold0", tmp_path / name)
        with pytest.raises(InputError, match=r"are of the same fold and seed; keep one"):
            read_members(tmp_path)

    def test_folds_with_unlike_numbers_of_seeds_are_refused(self, folds: Path, tmp_path: Path) -> None:
        shutil.copytree(folds / "fold0", tmp_path / "fold0")
        shutil.copytree(folds / "fold1" / "seed0", tmp_path / "fold1" / "seed0")
        with pytest.raises(InputError, match=r"fold 1 has 1 run\(s\) and fold 0 has 2, so .*; train the missing seeds"):
            read_members(tmp_path)

    def test_seeds_that_scored_different_images_are_refused(self, folds: Path, tmp_path: Path) -> None:
        shutil.copytree(folds / "fold2", tmp_path / "fold2")
        with open(tmp_path / "fold2" / "seed1" / "scores.csv", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        rows[1][0] = "another"
        text = "".join(",".join(row) + "\n" for row in rows)
        run_files.write_whole(tmp_path / "fold2" / "seed1" / "scores.csv", text)
        with pytest.raises(InputError, match=r"the seeds of fold 2 scored different images"):
            held_out(read_members(tmp_path))


class TestThresholds:
    @pytest.fixture(scope="class")
    def run(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return write_run(tmp_path_factory.mktemp("thresholds"), "model=unet")

    @pytest.fixture
    def choose(self, run: Path) -> Callable[..., choose_threshold.Threshold]:
        return lambda **more: choose_from(run, **more)

    def test_of_a_single_run_is_an_oracle_and_says_so(self, choose: Callable) -> None:
        limit = choose()
        assert limit.value == 3.0 and limit.oracle and "an oracle" in limit.how and limit.kind == "held_out"

    def test_in_eight_bits_it_says_whose_scores_chose_it(self, choose: Callable) -> None:
        limit = choose(int8=True)
        assert limit.value == 3.0 and limit.oracle
        assert "of the float32 model on the test images of fold 0" in limit.how and "metrics" not in limit.how

    def test_paper_is_the_published_one_at_this_size(self, choose: Callable) -> None:
        assert choose(threshold="paper").value == pytest.approx(1300 * 128 * 64 / (1408 * 512))

    def test_a_number(self, choose: Callable) -> None:
        limit = choose(threshold="0.125")
        assert (limit.value, limit.kind, limit.oracle) == (0.125, "given", False)

    def test_a_guarantee_brings_its_promise(self, choose: Callable) -> None:
        limit = choose(threshold="guarantee", miss_rate=0.5, confidence=0.75)  # 0.5^2 = 1 - 0.75: none may be missed
        assert limit.value == pytest.approx(4.0, rel=2e-3) and limit.value < 4.0
        assert limit.kind == "guarantee" and "at most 50 %" in limit.how.lower() and limit.oracle

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ({"threshold": "best"}, "--threshold best: choose held_out, paper, guarantee, or give a number"),
            ({"threshold": "nan"}, "--threshold nan: choose"),
            ({"threshold": "guarantee"}, "not enough defective samples for this guarantee.*needs 59.*there are 2"),
            ({"threshold": "guarantee", "miss_rate": 2.0}, "miss rate 2: has to lie between 0 and 1"),
        ],
    )
    def test_what_cannot_be_chosen(self, choose: Callable, words: dict, message: str) -> None:
        with pytest.raises(InputError, match=message):
            choose(**words)

    def test_seg_dec_has_no_published_threshold(self, tmp_path: Path) -> None:
        write_run(tmp_path, "model=seg_dec")
        with pytest.raises(
            InputError, match=r"--threshold paper: none was published for seg_dec at D = 9; use held_out"
        ):
            choose_from(tmp_path, "paper")

    def test_without_a_defective_image(self, tmp_path: Path) -> None:
        members = read_members(write_run(tmp_path, "model=unet", labels=(0, 0, 0, 0)))
        with pytest.raises(InputError, match=r"no defective image among the held-out scores; give a number"):
            choose_from(tmp_path)
        given = choose_from(tmp_path, "1")
        assert choose_threshold.judge(given, held_out(members)) is None


class TestReadingRuns:
    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        return write_run(tmp_path, "model=unet")

    def test_the_moving_average_is_the_network_where_one_is_kept(self, tmp_path: Path) -> None:
        plain = read_network(read_members(write_run(tmp_path / "a", "model=unet"))[0])
        averaged = read_network(read_members(write_run(tmp_path / "b", "model=unet", averaged=True))[0])
        assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), averaged.parameters(), strict=True))

    def test_runs_from_before_the_newer_keys(self, run: Path) -> None:
        chosen = read_members(run)[0].settings.model_dump()
        for group, key in (("data", "fit"), ("data", "channels"), ("data", "tile_overlap"), ("model", "norm_momentum")):
            del chosen[group][key]
        run_files.write_whole(run / "config.yaml", yaml_of(chosen))
        _, preparation = exporting.seal(read_members(run), 1.0)
        assert (preparation.fit, preparation.channels) == ("resize", 1)

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda run: os.remove(run / "result.json"), "not finished"),
            (lambda run: os.remove(run / "checkpoint.ckpt"), "checkpoint.ckpt: no such file, and it holds the weights"),
            (lambda run: (run / "checkpoint.ckpt").write_bytes(b"rubbish"), "checkpoint.ckpt: damaged"),
            (lambda run: (run / "config.yaml").write_text("a: [", encoding="utf-8"), "config.yaml: cannot be read"),
            (lambda run: (run / "config.yaml").write_text("a: 1", encoding="utf-8"), "not the settings of a run"),
            (lambda run: os.remove(run / "scores.csv"), "scores.csv: cannot be read"),
            (lambda run: shutil.rmtree(run), "no such folder"),
            (lambda run: [p.unlink() for p in run.iterdir()], "holds no run"),
        ],
    )
    def test_what_cannot_be_exported(
        self, run: Path, spoil: Callable, message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        spoil(run)
        assert main(["export", str(run)]) == 2
        assert message in capsys.readouterr().err

    def test_the_checkpoint_of_another_network(self, run: Path, tmp_path: Path) -> None:
        other = write_run(tmp_path / "other", "model=seg_dec")
        shutil.copy(other / "checkpoint.ckpt", run)
        with pytest.raises(InputError, match=r"checkpoint of another network"):
            export(run, to="torch")

    def test_a_name_that_does_not_fit_the_format(self, run: Path) -> None:
        with pytest.raises(InputError, match=r"model.onnx: a model for --to torch is named \*.pt2"):
            export(run, to="torch", out=run / "model.onnx")

    def test_a_place_that_takes_no_file_is_known_before_the_work(
        self, run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (run / "file").write_text("", encoding="utf-8")
        (run / "model.pt2").mkdir()
        monkeypatch.setattr(exporting, "seal", None)
        with pytest.raises(InputError, match=r"file/model.pt2: cannot be written \(.*file is a file\); free space, or"):
            export(run, to="torch", out=run / "file" / "model.pt2")
        with pytest.raises(InputError, match=r"model.pt2: cannot be written \(it is a folder\); .*set --out"):
            export(run, to="torch")
        with pytest.raises(InputError, match=r"m.pt2: cannot be written \(Not a directory\)"):
            export(run, to="torch", out=run / "file" / "deep" / "m.pt2")

    def test_a_guarantee_is_not_given_to_scores_that_it_does_not_know(
        self, run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(exporting, "seal", None)
        with pytest.raises(
            InputError, match=r"--int8: a guarantee holds for the scores .*; leave --int8 out, or choose"
        ):
            export(run, to="onnx", int8=True, threshold="guarantee", miss_rate=0.5, confidence=0.75)

    @pytest.mark.parametrize("recorded", ["", "another"])
    def test_data_that_changed_since(self, run: Path, recorded: str) -> None:
        result = run_files.read_result(run).model_copy(update={"data_digest": recorded})
        run_files.write_result(run, result)
        if not recorded:  # an older run, which tested another image
            text = (run / "scores.csv").read_text(encoding="utf-8").replace("part03/view0", "part05/view0")
            run_files.write_whole(run / "scores.csv", text)
        with pytest.raises(
            InputError, match=r"--int8 is .*the data have changed since \(images, masks or folds\): rest"
        ):
            export(run, to="onnx", int8=True)
        export(run, to="torch")
        assert load(run / "model.pt2").card.input.native_height is None  # as for data that are gone

    def test_data_that_are_the_same(self, run: Path) -> None:
        (member,) = read_members(run)
        digest = find_pictures(member).data.digest
        run_files.write_result(run, member.result.model_copy(update={"data_digest": digest}))
        assert len(find_pictures(*read_members(run)).compared) == 4

    def test_int8_of_torch(self, run: Path) -> None:
        with pytest.raises(InputError, match=r"--int8: choose --to onnx or openvino"):
            export(run, to="torch", int8=True)

    def test_int8_without_the_data(self, run: Path) -> None:
        chosen = read_members(run)[0].settings.model_dump()
        chosen["data"]["reader"] = {"_target_": "anomaly_seg.data.readers.kolektor.read", "root": "/nowhere/data.zip"}
        run_files.write_whole(run / "config.yaml", yaml_of(chosen))
        with pytest.raises(
            InputError, match=r"--int8 is calibrated on the images that .* was trained with; .*/nowhere"
        ):
            export(run, to="onnx", int8=True)

    def test_a_missing_extra_is_named(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
        with pytest.raises(InputError, match=r"needs the package 'onnxscript': pip install 'anomaly-seg\[onnx\]'"):
            export(run, to="onnx")


class TestInt8:
    @pytest.mark.parametrize(("kind", "compared"), [("onnx", 300), ("openvino", 3)])
    def test_convolutions_in_eight_bits_and_the_card_says_what_it_cost(
        self, kind: str, compared: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(int8, "COMPARED", compared)
        run = write_run(tmp_path, "model=unet", "model.network.depth=1")
        small = run / f"small{formats.SUFFIX[kind]}"
        export(run, to=kind, out=small, int8=True, threshold="100")
        model = load(small)
        cost = model.card.quantisation
        assert model.card.precision == "int8" and cost is not None
        # Two thirds of twelve images calibrate, the other four are held out.
        assert (cost.calibration_images, cost.images, cost.held_out) == (8, min(4, compared), True)
        # The run's own scores, 1 2 | 4 8, are all below 100: two misses. In 8 bits these weights score in the
        # thousands, and of the four images one is defective: F1 is 2 / (2 + 3).
        m = model.card.metrics
        assert (m is None) == (compared == 3)
        assert m is None or (m.tp, m.fp, m.fn, m.tn, m.f1) == (1, 3, 0, 0, 0.4)
        (image,) = pictures(4, (128, 64))
        expected, _ = evaluate(read_network(read_members(run)[0]), image)
        assert model(image).score == pytest.approx(expected, rel=0.2) and model(image).score != expected


def yaml_of(chosen: dict) -> str:
    import yaml

    return yaml.safe_dump(chosen, sort_keys=False)


class TestFits:
    """The sealed model takes images as the run that it comes from did, whatever their size."""

    @pytest.mark.parametrize(
        ("model", "fit", "to", "seeds"), [("one_stage", "pad", "onnx", 1), ("seg_dec", "tile", "torch", 2)]
    )
    def test_it_scores_the_test_images_as_the_runs_do(
        self, model: str, fit: str, to: str, seeds: int, tmp_path: Path
    ) -> None:
        words = [f"model={model}", f"data.fit={fit}", "data.tile_overlap=32"]
        words += ["data.reader.height=150", "data.reader.width=100"]
        runs = [write_run(tmp_path, *words, f"seed={seed}") for seed in range(seeds)]
        root, members = runs[0].parent, read_members(runs[0].parent)
        data = make_data(members[0].settings, read_dataset(members[0].settings))
        places, scores = data.arrays.place if fit == "tile" else None, []
        for network in map(read_network, members):
            expected = evaluation.evaluate(network, data.test_dataloader(), progress=False, places=places)
            scores.append(expected.scores[network.readout])
        assert main(["export", str(root), "--to", to, "--threshold", "0.25"]) == 0
        sealed, pictures = load(root / f"model{formats.SUFFIX[to]}"), find_pictures(members[0])
        found = [sealed(pictures.image(i)) for i in expected.index.tolist()]
        assert len(found) >= 4 and all(p.heat_map.shape == (150, 100) for p in found)
        assert [p.score for p in found] == pytest.approx(np.mean(scores, axis=0).tolist(), rel=1e-3)
