"""The promise: against published sample sizes, exact fractions, and by simulation."""

import csv
import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from support.fake_runs import write_run
from support.paths import ROOT

from anomaly_seg.errors import InputError
from anomaly_seg.evaluation.guarantee import (
    GUARANTEES,
    Guarantee,
    NotEnoughError,
    guarantee,
    misses_allowed,
    needed,
    smallest_miss_rate,
)
from anomaly_seg.reporting.report import build
from anomaly_seg.results import run_files
from anomaly_seg.results.schema import GuaranteeResult

DRAWS = 1000


def test_published_sample_sizes() -> None:
    # The tables of one-sided distribution-free 95 % / 95 % limits, for 0, 1, 2, ... exceptions.
    for misses, n in enumerate((59, 93, 124, 153, 181, 208)):
        assert misses_allowed(n, 0.05, 0.95) == misses
        assert misses_allowed(n - 1, 0.05, 0.95) == (misses - 1 if misses else None)
    assert [needed(a, c) for a, c in ((0.05, 0.95), (0.05, 0.9), (0.1, 0.95), (0.1, 0.9), (0.01, 0.95))] == [
        59,
        45,
        29,
        22,
        299,
    ]
    assert misses_allowed(0, 0.5, 0.5) is None


share = st.integers(1, 99).map(lambda p: Fraction(p, 100))


@settings(max_examples=150)
@given(st.integers(1, 60), share, share)
def test_misses_allowed_against_exact_fractions(n: int, a: Fraction, c: Fraction) -> None:
    chance, allowed = Fraction(0), None
    for m in range(n + 1):
        chance += math.comb(n, m) * a**m * (1 - a) ** (n - m)
        if chance > 1 - c:
            break
        allowed = m
    assert misses_allowed(n, float(a), float(c)) == allowed
    assert (allowed is not None) == (n >= needed(float(a), float(c)))


@pytest.mark.parametrize(("n", "a", "c"), [(50, 0.1, 0.95), (200, 0.05, 0.9), (59, 0.05, 0.95)])
def test_same_as_the_exact_upper_limit_for_the_misses(n: int, a: float, c: float) -> None:
    def upper(misses: int) -> float:
        return stats.binomtest(misses, n, alternative="less").proportion_ci(c, method="exact").high

    m = misses_allowed(n, a, c)
    assert upper(m) <= a < upper(m + 1)


@given(st.integers(1, 500), st.floats(0.01, 0.99))
def test_smallest_miss_rate_is_the_edge(n: int, confidence: float) -> None:
    best = smallest_miss_rate(n, confidence)
    assert (1 - best) ** n == pytest.approx(1 - confidence)
    assert misses_allowed(n, min(best * 1.001, 0.99999), confidence) is not None
    assert misses_allowed(n, best * 0.999, confidence) is None


def test_threshold_by_hand() -> None:
    # 38 defective scores 1..38: P(Bin(38, 0.1) <= 1) = 0.0953 <= 0.1, so one may be missed: just below the second.
    scores, labels = [*range(1, 39), 0.5, 1.999, 2, 30], [1] * 38 + [0] * 4
    promise = guarantee(scores, labels, 0.1, 0.9)
    assert promise == Guarantee(promise.threshold, 1, 38, 0.1, 0.9, false_alarms=3, good=4)
    assert promise.threshold == pytest.approx(2 - 0.002)  # 1.999 is above it
    assert promise.false_alarm_interval == pytest.approx((0.19412, 0.99369), abs=1e-5)  # 3 of 4, tabulated


@pytest.mark.parametrize("score", [0.0, 1e-15, -3.0, 0.25, 7e5])
def test_the_calibration_image_itself_is_found_in_float32_and_after_a_small_error(score: float) -> None:
    promise = guarantee([score] * 30, [1] * 30, 0.1, 0.9)
    assert promise.misses_allowed == 0
    assert np.float32(score) > np.float32(promise.threshold)
    assert score - 0.9e-3 * abs(score) > promise.threshold
    assert promise.threshold >= score - 1.1e-3 * abs(score) - 1e-36


number = st.floats(-1e6, 1e6)


@settings(max_examples=50)
@given(st.lists(number, min_size=30, max_size=40), st.lists(number, max_size=10), st.randoms())
def test_misses_stay_within_the_allowance_and_good_scores_do_not_matter(defects: list, good: list, random) -> None:
    images = [(s, 1) for s in defects] + [(s, 0) for s in good]
    random.shuffle(images)
    promise = guarantee(*zip(*images, strict=True), 0.1, 0.9)
    assert sum(s <= promise.threshold for s in defects) <= promise.misses_allowed
    assert promise.false_alarms == sum(s > promise.threshold for s in good)
    assert promise.threshold == guarantee(defects, [1] * len(defects), 0.1, 0.9).threshold


def test_a_part_counts_once_by_its_lowest_defective_score() -> None:
    parts = [f"p{i}" for i in range(22)]
    scores = [*range(10, 32), *range(40, 62), 9, 3]
    groups = [*parts, *parts, "p0", "p1"]
    promise = guarantee(scores, [1] * 45 + [0], 0.1, 0.9, groups)  # lowest: 9, 11, 12, ...; the good 3 is no defect
    assert (promise.defective, promise.misses_allowed, promise.unit) == (22, 0, "groups")
    assert promise.threshold == pytest.approx(9, rel=2e-3)
    assert "A group is missed if any of its defective images is." in promise.sentence
    assert guarantee(range(22), [1] * 22, 0.1, 0.9, parts).unit == "images"  # one image each


def test_too_few_are_told_how_many_it_takes_and_what_they_allow() -> None:
    with pytest.raises(NotEnoughError) as caught:
        guarantee(range(60), [1] * 50 + [0] * 10, 0.05, 0.95)
    error = caught.value
    assert (error.needed, error.defective) == (59, 50)
    assert error.smallest == pytest.approx(0.0581551, abs=1e-6)  # 1 - 0.05^(1/50)
    assert str(error) == (
        "not enough defective samples for this guarantee: a miss rate of 0.05 with confidence 0.95 needs 59 held-out "
        "defective images, and there are 50: ask for a miss rate of 0.059 or more, or add defective images"
    )
    assert guarantee(range(60), [1] * 50 + [0] * 10, 0.059, 0.95).misses_allowed == 0  # the advice can be followed
    with pytest.raises(NotEnoughError, match=r"needs 59 .* and there are 0: add defective images"):
        guarantee([1.0], [0], 0.05, 0.95)


@pytest.mark.parametrize("value", [0, 1, -0.1, 5, math.nan])
def test_impossible_shares(value: float) -> None:
    with pytest.raises(InputError, match=r"miss rate .*: has to lie between 0 and 1, such as 0.05"):
        guarantee([1.0], [1], value, 0.9)
    with pytest.raises(InputError, match=r"confidence .*: has to lie between 0 and 1"):
        guarantee([1.0], [1], 0.1, value)


def test_mistakes_of_the_caller() -> None:
    with pytest.raises(ValueError, match="not finite"):
        guarantee([1.0, math.nan], [1, 1], 0.1, 0.9)
    with pytest.raises(ValueError, match="one group per image, got 1 for 2"):
        guarantee([1.0, 2.0], [1, 1], 0.1, 0.9, groups=["a"])


def test_sentences() -> None:
    scores, labels = range(100), [0] * 40 + [1] * 60
    strict = guarantee(scores, labels, 0.05, 0.95).sentence
    assert strict == (
        "At most 5 % of defective images missed, with confidence 95 % (from 60 held-out ones, of which 0 may be "
        "missed). It costs 0 false alarms on 40 good images (0.0 %, 95 % interval 0.0 to 8.8 %). It holds for images "
        "drawn independently from the same production."
    )
    pooled = guarantee(scores, labels, 0.05, 0.95, basis="pooled").sentence
    assert pooled.startswith("If the deployed model scores like the models of the folds: at most 5 %")
    assert pooled.endswith("pooled over folds, so this is an estimate, not a strict guarantee.")
    duplicates = guarantee(scores, labels, 0.05, 0.95, basis="duplicates").sentence
    assert duplicates.startswith("If new images are scored like these: at most 5 %")
    assert duplicates.endswith("an identical one in training, so this is an estimate, not a strict guarantee.")
    assert "unknown: no good image" in guarantee(range(60), [1] * 60, 0.05, 0.95).sentence
    assert all(0 < a < 1 and 0 < c < 1 for a, c in GUARANTEES)


def broken(true_miss_rate: list[float], a: float) -> float:
    """Share of the draws whose threshold misses more than promised."""
    return float(np.mean(np.array(true_miss_rate) > a))


def noise(p: float) -> float:
    """Four standard deviations of a share over the draws."""
    return 4 * math.sqrt(p * (1 - p) / DRAWS)


@pytest.mark.parametrize(("n", "a", "c"), [(59, 0.05, 0.95), (60, 0.1, 0.9), (200, 0.1, 0.95), (30, 0.2, 0.8)])
def test_the_promise_holds_as_often_as_it_says(n: int, a: float, c: float) -> None:
    draws = np.random.default_rng(0).exponential(size=(DRAWS, n))
    share = broken([-math.expm1(-guarantee(s, np.ones(n), a, c).threshold) for s in draws], a)  # exact: 1 - exp(-t)
    exact = float(stats.binom.cdf(misses_allowed(n, a, c), n, a))
    assert exact <= 1 - c
    assert share == pytest.approx(exact, abs=noise(exact))  # neither broken nor needlessly cautious


def test_the_promise_holds_for_discrete_scores_with_ties() -> None:
    n, a, c = 60, 0.1, 0.9
    draws = np.random.default_rng(1).poisson(3, size=(DRAWS, n))
    promises = [guarantee(s, np.ones(n), a, c) for s in draws]
    assert broken([float(stats.poisson.cdf(p.threshold, 3)) for p in promises], a) <= 1 - c + noise(1 - c)
    # A threshold on the score instead of below it would miss the ties too, and break the promise.
    on_it = [float(stats.poisson.cdf(np.sort(s)[p.misses_allowed], 3)) for s, p in zip(draws, promises, strict=True)]
    assert broken(on_it, a) > 1 - c + noise(1 - c)


def test_several_images_of_a_part_break_the_promise_unless_they_are_grouped() -> None:
    parts, views, a, c = 30, 5, 0.1, 0.9
    draws = np.repeat(np.random.default_rng(2).normal(size=(DRAWS, parts)), views, axis=1)  # all views score alike
    groups, labels = list(np.repeat([f"p{i}" for i in range(parts)], views)), np.ones(parts * views)
    naive = [float(stats.norm.cdf(guarantee(s, labels, a, c).threshold)) for s in draws]
    honest = [float(stats.norm.cdf(guarantee(s, labels, a, c, groups).threshold)) for s in draws]
    assert broken(naive, a) > 1 - c + noise(1 - c)
    exact = 0.9**30  # no miss allowed
    assert broken(honest, a) == pytest.approx(exact, abs=noise(exact))


def test_pooled_scores_promise_nothing_for_a_model_that_scores_lower() -> None:
    n, a, c = 100, 0.1, 0.9
    low = np.random.default_rng(3).exponential(size=(DRAWS, n))
    high = 10 * np.random.default_rng(4).exponential(size=(DRAWS, n))
    pooled = [guarantee(s, np.ones(2 * n), a, c, basis="pooled").threshold for s in np.hstack([low, high])]
    strict = [guarantee(s, np.ones(n), a, c).threshold for s in low]
    assert broken([-math.expm1(-t) for t in pooled], a) > 0.5  # why the pooled sentence begins with "If"
    assert broken([-math.expm1(-t) for t in strict], a) <= 1 - c + noise(1 - c)


def test_what_a_run_says_of_each_promise() -> None:
    scores, labels = [*range(1, 51), 1.5, 0.5], [1] * 50 + [0, 0]
    said = {
        (p.miss_rate, p.confidence): p
        for p in GuaranteeResult.every(scores, labels, [str(i) for i in range(52)], "strict")
    }
    assert {wanted: (p.needed, p.misses_allowed, p.false_alarms) for wanted, p in said.items()} == {
        (0.05, 0.9): (45, 0, 1),
        (0.05, 0.95): (59, None, None),
        (0.1, 0.9): (22, 1, 0),  # of 50, P(Bin(50, 0.1) <= 1) = 0.034 and <= 2: 0.112
        (0.1, 0.95): (29, 1, 0),
    }
    assert said[0.1, 0.9].threshold == pytest.approx(2, rel=2e-3)
    lacking = said[0.05, 0.95]
    assert lacking.threshold is None and lacking.smallest_miss_rate == pytest.approx(0.0581551, abs=1e-6)
    assert lacking.says.startswith("not enough defective samples for this guarantee: ")
    assert all((p.defective, p.good, p.basis) == (50, 2, "strict") for p in said.values())


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two folds of 25 defective images each, every one of another part, and 10 good ones."""
    for fold in (0, 1):
        score = np.array([*range(10 * fold + 1, 10 * fold + 26), *range(10)], dtype=float)
        label = np.array([1] * 25 + [0] * 10)
        folder = write_run(tmp_path, list(score), list(label), folds=2, fold=fold, model="seg_dec")
        names = [f"f{fold}p{i}" for i in range(35)]
        run_files.write_scores(folder, run_files.Scores(names, names, label, score))
    return tmp_path


def test_report_by_hand(study: Path) -> None:
    report = build(study)
    with (study / "tables" / "guarantee.csv").open(encoding="utf-8", newline="") as file:
        rows = {(r["scores"], r["miss rate"], r["confidence"]): r for r in csv.DictReader(file)}
    assert len(rows) == 12
    pooled = rows["pooled", "0.1", "0.95"]  # of 50, one may be missed: just below 2; good 2..9 of both folds above it
    assert (pooled["misses allowed"], pooled["false alarms"], pooled["good"]) == ("1", "16", "20")
    assert float(pooled["threshold"]) == pytest.approx(2, rel=2e-3)
    assert float(pooled["false-alarm low"]) == pytest.approx(0.56339, abs=1e-5)  # 16 of 20, tabulated
    strict = rows["fold 1 (strict)", "0.1", "0.9"]  # of 25, none may be missed: just below 11, above all good ones
    assert (strict["misses allowed"], strict["false alarms"], strict["good"]) == ("0", "0", "10")
    lacking = rows["fold 1 (strict)", "0.1", "0.95"]
    assert (lacking["needed"], lacking["defective"], lacking["threshold"]) == ("29", "25", "")
    markdown = report.markdown.read_text(encoding="utf-8")
    for cell in (
        "16 of 20 false alarms [0.563, 0.943], threshold 1.998",
        "29 defective needed (25 allow 11.3 %)",  # 1 - 0.05^(1/25) = 0.1129
        "59 defective needed (50 allow 5.9 %)",
    ):
        assert cell in markdown
        assert cell in report.html.read_text(encoding="utf-8")


def test_folds_that_can_promise_nothing_share_a_row(tmp_path: Path) -> None:
    for fold, scores in enumerate(([5, 6, 1], [5, 6, 7, 1])):
        write_run(tmp_path, scores, [1] * (len(scores) - 1) + [0], folds=2, fold=fold)
    markdown = build(tmp_path).markdown.read_text(encoding="utf-8")  # each fold's images show one part
    assert "each fold (strict)" in markdown and "22 defective needed (1 allow 90 %)" in markdown
    assert "fold 0 (strict)" not in markdown


def test_nothing_is_strict_where_an_identical_image_was_in_training(tmp_path: Path) -> None:
    for fold, (scores, duplicates) in enumerate((([5, 6, 1], 0), ([5, 6, 7, 1], 2), ([5, 6, 1], 1))):
        write_run(tmp_path, scores, [1] * (len(scores) - 1) + [0], folds=3, fold=fold, duplicates=duplicates)
    build(tmp_path)
    with (tmp_path / "tables" / "guarantee.csv").open(encoding="utf-8", newline="") as file:
        assert {r["scores"] for r in csv.DictReader(file)} == {
            "pooled (duplicates)", "fold 0 (strict)", "fold 1 (duplicates)", "fold 2 (duplicates)",
        }  # fmt: skip
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    names = ("pooled (duplicates)", "fold 0 (strict)", "each fold (duplicates)", "fold 1", "pooled |")
    rows = {name for name in names if name in markdown}
    assert rows == {"pooled (duplicates)", "fold 0 (strict)", "each fold (duplicates)"}


def test_results_of_older_versions_still_read(study: Path) -> None:
    path = next(study.rglob("result.json"))
    raw = json.loads(path.read_text(encoding="utf-8"))
    del raw["guarantees"]
    path.write_text(json.dumps(raw), encoding="utf-8")
    assert run_files.read_result(path).guarantees == []
    published = sorted((ROOT / "experiments").rglob("result.json"))
    assert len(published) >= 18
    for path in published:
        run_files.read_result(path)
