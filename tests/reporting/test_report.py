"""The report's numbers against values worked out by hand, and what it says about runs that are not there."""

import csv
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_runs import write_run, write_settings, write_sweep

from anomaly_seg.errors import InputError
from anomaly_seg.evaluation.metrics import Confusion
from anomaly_seg.reporting import figures, tables, text
from anomaly_seg.reporting.collect import collect_runs
from anomaly_seg.reporting.report import build
from anomaly_seg.reporting.thresholding import all_verdicts, mean_and_spread
from anomaly_seg.results import run_files
from anomaly_seg.results.schema import PhaseLoss

LABELS = [0, 0, 1, 1]


@pytest.fixture
def two_methods(tmp_path: Path) -> Path:
    """Two folds of four images, from which all numbers below follow; the published sigmas are 25 and 325 here."""
    write_run(tmp_path, [1, 2, 40, 60], LABELS, folds=2, fold=0, pictures=True)
    write_run(tmp_path, [3, 50, 20, 80], LABELS, folds=2, fold=1, pictures=True)
    for fold in (0, 1):
        write_run(tmp_path, [10, 20, 400, 500], LABELS, folds=2, fold=fold, model="unet")
    return tmp_path


def test_more_methods_than_colours_can_be_told_apart() -> None:
    methods = [f"method {i}" for i in range(10)]
    palette = {method: figures.PALETTE[i % len(figures.PALETTE)] for i, method in enumerate(methods)}
    frame = pd.DataFrame([{"method": m, "D": d, "F1": 0.9} for m in methods for d in (5, 9)])
    lines = figures.dilation_figure(frame, "F1", palette).data
    assert len({(line.line.color, line.line.dash) for line in lines}) == 10
    assert [line.line.dash for line in lines] == ["solid"] * 7 + ["dash"] * 3


def test_runs_that_did_not_learn_are_marked(two_methods: Path, tmp_path: Path) -> None:
    """Old results say nothing of it, and nothing is said of them."""
    assert "hardly learned" not in "".join(text.facts(collect_runs(two_methods).methods))
    assert "learned" not in tables.runs(collect_runs(two_methods).methods)
    for folder in sorted({path.parent for path in two_methods.rglob("result.json")}):
        result = run_files.read_result(folder)
        losses = [
            ("segmentation", 0.53, result.run.model == "unet" or result.run.fold == 1),
            ("decision", 0.6931, True),
        ]
        phases = [
            PhaseLoss(phase=name, loss=0.47, constant_guess=guess, lowest_possible=0, learned=learned)
            for name, guess, learned in losses
        ]
        training = result.training.model_copy(update={"phases": phases})
        run_files.write_result(folder, result.model_copy(update={"training": training}))
    says = (
        "of 4 runs these hardly learned, so their figures say little: One-Stage, D = 9, seed 0, fold 0 (phase "
        "'segmentation': loss 0.47, a constant guess has 0.53)."
    )
    built = build(two_methods, tmp_path / "out", picture_bytes=0)
    assert f"**Caution:** {says}" in built.markdown.read_text()
    assert f"Caution: {says.replace(chr(39), '&#39;')}" in built.html.read_text()
    learned = [row["learned"] for row in csv.DictReader((tmp_path / "out/tables/runs.csv").open())]
    assert learned == ["no", "yes", "yes", "yes"]


def test_verdicts_by_hand(two_methods: Path) -> None:
    one_stage = collect_runs(two_methods).methods[0]
    found = all_verdicts(one_stage)
    assert {kind: v.values for kind, v in found.items()} == {
        "paper": {0: 25.0, 1: 25.0},
        "cross_fold": {0: 11.5, 1: 21.0},  # fold 0 by fold 1's scores (3 | 20), fold 1 by fold 0's (2 | 40)
        "best_f": {0: 11.5, 1: 11.5},
        "best_f_per_fold": {0: 21.0, 1: 11.5},
    }
    assert found["paper"].pooled == found["cross_fold"].pooled == Confusion(tp=3, fp=1, fn=1, tn=3)
    assert found["best_f"].pooled == found["best_f_per_fold"].pooled == Confusion(tp=4, fp=1, fn=0, tn=3)
    mean, spread = found["cross_fold"].over_folds("f1")  # 1 and 1/2
    assert (mean, spread) == (0.75, pytest.approx(0.125**0.5))


def test_tables_by_hand(two_methods: Path) -> None:
    methods = collect_runs(two_methods).methods
    overview = tables.overview(methods).set_index("method")
    assert list(overview.index) == ["One-Stage", "U-Net"]
    row = overview.loc["One-Stage"]
    assert (row["F1 at paper"], row["FP, FN at paper"]) == (0.75, "1, 1")
    assert (row["F1 at best_f (oracle)"], row["FP, FN at best_f (oracle)"]) == (8 / 9, "1, 0")
    assert row["AP"] == pytest.approx((1 + 1 + 3 / 4 + 4 / 5) / 4)  # 80, 60, (50), 40, 20
    assert row["AUROC"] == 14 / 16  # of 16 pairs, the good 50 beats the defective 40 and 20
    assert row["FP at FN = 0"] == 1
    assert overview.loc["U-Net", "F1 at cross_fold"] == 1.0

    at = tables.at_thresholds(methods).set_index(["method", "threshold"]).loc[("One-Stage", "cross_fold")]
    assert at["value"] == "11.5 / 21"
    assert (at["R low"], at["R high"]) == pytest.approx((0.19412, 0.99369), abs=1e-5)  # 3 of 4, tabulated
    assert (at["false-alarm low"], at["false-alarm high"]) == pytest.approx((0.00631, 0.80588), abs=1e-5)
    assert (at["FN mean"], at["FN std"]) == (0.5, pytest.approx(0.5**0.5))

    ranking = tables.ranking(methods).set_index("method").loc["One-Stage"]
    assert ranking["AP mean"] == pytest.approx((1 + (1 + 2 / 3) / 2) / 2)  # fold 0: all right; fold 1: 80, (50), 20
    assert (ranking["pixel IoU (oracle)"], ranking["pixel Dice (oracle)"]) == (0.6, 0.75)
    assert (ranking["images"], ranking["defective"]) == (8, 4)


def test_ablation_by_hand(two_methods: Path) -> None:
    ablation = tables.ablation(collect_runs(two_methods).methods).set_index("readout")
    assert list(ablation.index) == ["f1", "C", "F"]  # U-Net has no readouts
    assert list(ablation["median score of good images"]) == [
        52.5,
        3.5,
        2.5,
    ]  # good: 1, 2, 3, 50; f1 = F + 50, C = F + 1
    assert list(ablation["FP at best_f (oracle)"]) == [1, 1, 1]
    assert list(ablation["FN at cross_fold"]) == [1, 1, 1]


def test_comparison_by_hand(two_methods: Path) -> None:
    compared = tables.comparisons(collect_runs(two_methods).methods).set_index("threshold")
    honest = compared.loc["cross_fold"]
    # One-Stage is wrong on two images, U-Net on none: p = 2 / 2^2.
    assert (honest["only first right"], honest["only second right"], honest["p"]) == (0, 2, 0.5)
    assert honest["says"] == "One-Stage and U-Net cannot be told apart on these 8 images (p = 0.5)."
    assert compared.loc["best_f (oracle)", "p"] == 1.0


def test_ap_and_its_difference_have_intervals(tmp_path: Path) -> None:
    # Two parts, drawn twice with replacement: AP of One-Stage is 1 (a quarter of the draws), 5/6 (half) or 1/2
    # (a quarter); U-Net ranks everything right.
    for fold, scores in ((0, [4, 1]), (1, [2, 3])):
        write_run(tmp_path, scores, [1, 0], fold=fold, folds=2)
        write_run(tmp_path, [4, 1], [1, 0], fold=fold, folds=2, model="unet")
    methods = collect_runs(tmp_path).methods
    ranking = tables.ranking(methods).set_index("method")
    found = ranking.loc["One-Stage", ["AP pooled", "AP low", "AP high"]]
    assert list(found) == pytest.approx([5 / 6, 1 / 2, 1])
    assert list(ranking.loc["U-Net", ["AP low", "AP high"]]) == [1, 1]
    row = tables.ap_differences(methods).iloc[0]
    assert (row["first"], row["second"], row["images"], row["defective"]) == ("One-Stage", "U-Net", 4, 2)
    assert list(row[["difference", "difference low", "difference high"]]) == pytest.approx([-1 / 6, -1 / 2, 0])
    report = build(tmp_path)
    markdown = report.markdown.read_text(encoding="utf-8")
    assert "[-0.500, 0.000]" in markdown and "[0.500, 1.000]" in markdown
    assert "Differences in AP" in report.html.read_text(encoding="utf-8")
    assert (tmp_path / "tables" / "ap_differences.csv").exists()


def test_methods_without_a_fold_in_common_are_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path, [1, 2, 40, 60], LABELS, folds=2, fold=0)
    write_run(tmp_path, [1, 2, 40, 60], LABELS, folds=2, fold=1, model="unet")
    assert tables.comparisons(collect_runs(tmp_path).methods).empty
    assert "told apart" not in build(tmp_path).markdown.read_text(encoding="utf-8")


def test_counts_stay_whole_beside_undefined_ones(tmp_path: Path) -> None:
    write_run(tmp_path, [1, 50, 20, 60], LABELS, folds=1)  # at the published 25: one alarm, one miss
    write_run(tmp_path, [0.1, 0.2, 0.3, 0.4], LABELS, folds=1, model="seg_dec")  # has no published threshold
    build(tmp_path)
    shown = text.show(tables.runs(collect_runs(tmp_path).methods))
    assert list(shown["FP at paper"]) == list(shown["FN at paper"]) == ["1", "n/a"]
    rows = pd.read_csv(tmp_path / "tables" / "runs.csv", dtype=str, keep_default_na=False)
    assert rows[["FP at paper", "FN at paper", "FP at FN = 0"]].values.tolist() == [["1", "1", "1"], ["", "", "0"]]


def test_sentences() -> None:
    says = tables.verdict_sentence("A", "B", 399, 2, 11, 0.022)
    assert says == "B is right where A is wrong on 11 images, the reverse on 2 (p = 0.022)."
    assert "at least 6 images" in tables.limits_sentence(52)  # 2 / 2^5 = 0.0625, 2 / 2^6 = 0.031
    assert tables.limits_sentence(52).startswith("52 defective images cannot separate")


def test_only_like_is_compared_with_like(tmp_path: Path) -> None:
    scores = [1, 2, 40, 60]
    write_run(tmp_path, scores, LABELS, folds=1, dilation=9)
    write_run(tmp_path, scores, LABELS, folds=1, dilation=5, model="unet")
    write_run(tmp_path, scores, LABELS, folds=1, seed=1, model="unet")
    write_run(tmp_path, scores, LABELS, folds=1, split="published", model="unet")
    write_run(tmp_path, scores, LABELS, folds=1, variant="no_fbs")
    compared = tables.comparisons(collect_runs(tmp_path).methods)
    assert set(zip(compared["first"], compared["second"], strict=True)) == {("One-Stage", "One-Stage (no_fbs)")}
    assert set(compared["threshold"]) == {"best_f (oracle)"}  # a single fold has no other folds


def test_validation_scores_stay_apart(tmp_path: Path) -> None:
    write_run(tmp_path, [1, 2, 40, 60], LABELS, folds=1)
    write_run(tmp_path, [1, 2, 40, 60], LABELS, folds=1, model="unet", scored="validation")
    found = collect_runs(tmp_path)
    assert len(found.by_setting()) == 2
    markdown = build(tmp_path).markdown.read_text(encoding="utf-8")
    assert "grouped split, scored on the validation part" in markdown
    assert "4 validation images, 2 defective" in markdown


def test_report_files(two_methods: Path, tmp_path: Path) -> None:
    report = build(two_methods, tmp_path / "out")
    assert report.problems == []
    markdown = report.markdown.read_text(encoding="utf-8")
    for needed in (
        "best_f (oracle)",
        "8 test images, 4 defective",
        "cannot be told apart",
        "Runs: 4 finished, none missing",
    ):
        assert needed in markdown
    assert str(tmp_path) not in markdown + report.html.read_text(encoding="utf-8")
    with (tmp_path / "out" / "tables" / "images.csv").open(encoding="utf-8", newline="") as file:
        rows = {(r["method"], r["image"]): r for r in csv.DictReader(file)}
    assert len(rows) == 16
    assert rows["One-Stage", "kos01/Part2.jpg"]["verdict cross_fold"] == "miss"
    assert rows["One-Stage", "kos01/Part1.jpg"]["verdict best_f (oracle)"] == "false alarm"
    assert rows["One-Stage", "kos01/Part2.jpg"]["verdict best_f (oracle)"] == "hit"
    assert all(path.stat().st_size > 0 for path in [*report.tables, *report.figures])
    html = report.html.read_text(encoding="utf-8")
    assert html.count("data:image/jpeg;base64,") == 4  # the defective images of One-Stage's two runs


def test_pictures_stop_at_the_limit_with_the_misses_first(two_methods: Path, tmp_path: Path) -> None:
    one = build(two_methods, tmp_path / "all").html.read_text(encoding="utf-8")
    first = one[one.index('"pictures":{"6"') :]  # row 6: fold 1, image 2, the miss at cross_fold
    size = len(first[first.index("data:") : first.index('"', first.index("data:"))])
    html = build(two_methods, tmp_path / "few", picture_bytes=size).html.read_text(encoding="utf-8")
    assert html.count("data:image/jpeg;base64,") == 1
    assert '"pictures":{"6"' in html
    assert '"left_out":3' in html


def test_missing_unfinished_failed_and_unreadable_runs_are_named(tmp_path: Path) -> None:
    runs = write_sweep(tmp_path, models=("one_stage", "unet"), dilations=(5, 9), images=20, defective=4)
    assert collect_runs(tmp_path).problems == []
    shutil.rmtree(runs[1])
    for run in runs[6:9]:
        shutil.rmtree(run)
    (runs[10] / "scores.csv").write_text("image\n", encoding="utf-8")
    (runs[3] / "result.json").unlink()
    (runs[4] / "result.json").unlink()
    (runs[4] / "failure.txt").write_text("Traceback:\n  ...\nRuntimeError: loss is NaN at kos07\n\n", encoding="utf-8")
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("", encoding="utf-8")
    online = runs[5] / "wandb" / "run-1" / "files"  # W&B keeps a file of this name in a run's folder
    online.mkdir(parents=True)
    (online / "config.yaml").write_text("", encoding="utf-8")
    problems = collect_runs(tmp_path).problems
    d5, d9 = (f"comparison: kolektor, scale laptop, grouped split: {{}}, D = {d}, seed 0" for d in (5, 9))
    assert problems[:4] == [
        f"Missing: {d5.format('One-Stage')}: fold 1.",
        f"Missing: {d9.format('One-Stage')}: fold 0.",
        f"Missing: {d9.format('One-Stage')}: fold 1.",
        f"Missing: {d9.format('U-Net')}: fold 1.",
    ]
    assert problems[4] == f"Missing: {d5.format('U-Net')}: no fold was run."
    said = "\n".join(problems[5:])
    assert f"Unfinished: {runs[3].relative_to(tmp_path)} has" in said
    assert f"Failed: {runs[4].relative_to(tmp_path)}: RuntimeError: loss is NaN at kos07" in said
    assert f"Unreadable: {(runs[10] / 'scores.csv').relative_to(tmp_path)}: column" in said
    assert len(problems) == 8
    report = build(tmp_path)
    for problem in problems:
        assert problem in report.markdown.read_text(encoding="utf-8")


def test_duplicates_are_reported(tmp_path: Path) -> None:
    for fold in (0, 1):
        write_run(tmp_path, [1, 2, 40, 60], LABELS, folds=2, fold=fold, split="published", duplicates=8)
    markdown = build(tmp_path).markdown.read_text(encoding="utf-8")
    assert "16 test images have a byte-identical, and 16 a near-identical, image in their training part" in markdown


def test_a_study_without_defective_test_images(tmp_path: Path) -> None:
    write_run(tmp_path, [1.0, 2.0], [0, 0], folds=1)
    write_run(tmp_path, [0.0, 0.0], [0, 0], folds=1, model="seg_dec", dilation=5)
    report = build(tmp_path)
    overview = pd.read_csv(tmp_path / "tables" / "overview.csv")
    assert overview["AP"].isna().all()
    assert "n/a" in report.markdown.read_text(encoding="utf-8")


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir()])
def test_nothing_to_report_on(tmp_path: Path, make) -> None:
    make(tmp_path / "runs")
    with pytest.raises(InputError, match=r"runs: (no such folder|holds no readable result\.json)"):
        build(tmp_path / "runs")


def test_the_same_run_twice_is_refused(two_methods: Path) -> None:
    run = next(two_methods.rglob("fold0_seed0"))
    shutil.copytree(run, two_methods / "copy")
    with pytest.raises(InputError, match=r"fold0_seed0 and copy hold the same run"):
        collect_runs(two_methods)


def test_image_names_cannot_break_the_page(tmp_path: Path) -> None:
    name = "</script><img src=x onerror=alert(1)>"
    write_run(tmp_path, [1, 2, 40, 60], LABELS, folds=1, experiment=name, data="<b>")
    html = build(tmp_path, tmp_path / "out").html.read_text(encoding="utf-8")
    assert "<img src=x" not in html


def test_report_needs_no_torch(two_methods: Path) -> None:
    program = (
        "import sys, pathlib; from anomaly_seg.reporting.report import build; "
        f"build(pathlib.Path({str(two_methods)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_45_runs_in_seconds(tmp_path: Path) -> None:
    """Eight seconds of a quiet core; those of a busy machine, whose cores share caches and clocks, are worth half."""
    assert len(write_sweep(tmp_path, pictures=True)) == 45
    start = time.process_time()
    build(tmp_path)
    assert time.process_time() - start < 20


def test_mean_and_spread() -> None:
    assert mean_and_spread([1.0, 2.0, 6.0]) == (3.0, pytest.approx(7**0.5))  # (4 + 1 + 9) / 2
    assert mean_and_spread([2.0]) == (2.0, None)
    assert mean_and_spread([1.0, None]) == mean_and_spread([]) == (None, None)


def test_the_axis_resolves_suppressed_backgrounds() -> None:
    axis = figures.axis_for([0.0] * 50 + [0.002] * 20 + [0.5, 300.0, 4000.0])
    assert axis == ("asinh", 0.001)
    positions, names = figures.ticks([0.0, 4000.0], axis)
    assert names == ["0", "0.01", "1", "100"]
    assert positions == pytest.approx([0, np.arcsinh(10), np.arcsinh(1e3), np.arcsinh(1e5)])
    assert figures.axis_for([0.0, 0.3, 1.0]).kind == "logit"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_labels_beside_lines_keep_their_distance(values: list[float]) -> None:
    places = figures.spread_labels(values, gap=0.1, top=1.0)
    assert max(places) <= 1.0
    assert all(b - a > 0.0999 for a, b in zip(sorted(places), sorted(places)[1:], strict=False))
    if all(abs(a - b) >= 0.1 for i, a in enumerate(values) for b in values[:i]):
        assert places == pytest.approx(values)


@given(st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=9) | st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_the_axis_keeps_the_order_of_scores(scores: list[float]) -> None:
    positions = figures.to_axis(np.sort(scores), figures.axis_for(scores))
    assert np.isfinite(positions).all()
    assert np.all(np.diff(positions) >= 0)


def test_folds_trained_with_other_settings_are_left_out(tmp_path: Path) -> None:
    for fold in range(2):
        for model, epochs in (("one_stage", 6 + fold), ("unet", 6)):
            folder = write_run(tmp_path, [1.0, 2000.0], [0, 1], model=model, fold=fold, folds=2)
            write_settings(folder, epochs=epochs, fold=fold, threads=fold)
    found = collect_runs(tmp_path)
    assert [method.key.model for method in found.methods] == ["unet"]
    (problem,) = found.problems
    assert problem.startswith("Left out: ") and "One-Stage" in problem and "(epochs: 6 -> 7)" in problem
