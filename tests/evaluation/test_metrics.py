"""Measures against hand-computed values, scikit-learn and the definitions of the exact tests."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from anomaly_seg.evaluation import metrics
from anomaly_seg.evaluation.guarantee import smallest_miss_rate
from anomaly_seg.results.schema import ImageLevel, Readout

# Few distinct values, so that ties between scores and with the threshold occur often.
scored = st.lists(st.tuples(st.integers(0, 6).map(float), st.integers(0, 1)), min_size=1, max_size=40)


def test_confusion_by_hand() -> None:
    c = metrics.confusion([0.1, 0.5, 0.6, 0.5, 0.9], [0, 0, 0, 1, 1], threshold=0.5)
    assert c == metrics.Confusion(tp=1, fp=1, fn=1, tn=2)  # a score equal to the threshold is not defective
    assert (c.precision, c.recall, c.f1) == (0.5, 0.5, 0.5)
    assert c.false_alarm_rate == pytest.approx(1 / 3)
    assert c + c == metrics.Confusion(2, 2, 2, 4)


def test_undefined_measures_are_none() -> None:
    nothing_called = metrics.confusion([0.0, 0.0], [0, 0], threshold=1.0)
    assert nothing_called.precision is nothing_called.recall is nothing_called.f1 is None
    assert metrics.confusion([2.0], [1], threshold=1.0).false_alarm_rate is None
    missed_all = metrics.confusion([0.0, 0.0], [0, 1], threshold=1.0)
    assert (missed_all.precision, missed_all.recall, missed_all.f1) == (None, 0.0, 0.0)
    for scores, labels in (([], []), ([1.0], [0])):
        assert metrics.average_precision(scores, labels) is None
        assert metrics.auroc(scores, labels) is None
        assert metrics.fp_at_fn0(scores, labels) is None
    assert metrics.auroc([1.0], [1]) is None


@pytest.mark.parametrize(("defective", "good"), [(18, 117), (52, 347), (20, 80)])
def test_nothing_ranks_better_than_perfectly(defective: int, good: int) -> None:
    """scikit-learn's sum comes to 1 and a bit for the first two, which no result may hold."""
    labels = [1] * defective + [0] * good
    assert metrics.average_precision(np.arange(len(labels))[::-1], labels) == 1.0


# One defective image above good ones that share scores two, one, one, three ... at a time: scikit-learn 1.9 sums the
# area under their ROC curve to 1.0000000000000002.
SEPARATED = [9.0, *np.repeat(np.arange(8.0)[::-1], [2, 1, 1, 3, 2, 1, 3, 14])], [1, *[0] * 27]


def test_nothing_separates_better_than_perfectly() -> None:
    assert metrics.auroc(*SEPARATED) == 1.0
    level = ImageLevel.of(*SEPARATED)
    assert (level.ap, level.auroc, level.fp_at_fn0) == (1.0, 1.0, 0)
    assert Readout.of(*SEPARATED).auroc == 1.0


@pytest.mark.parametrize(
    ("measure", "library"), [("auroc", "roc_auc_score"), ("average_precision", "average_precision_score")]
)
def test_a_library_that_rounds_upwards(monkeypatch: pytest.MonkeyPatch, measure: str, library: str) -> None:
    monkeypatch.setattr(reference, library, lambda labels, scores: np.float64(1.0000000000000002))
    assert getattr(metrics, measure)([1.0, 2.0], [0, 1]) == 1.0


@settings(max_examples=100)
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=12),
    st.lists(st.integers(0, 30), min_size=1, max_size=12),
    st.integers(0, 12),
    st.data(),
)
def test_every_share_lies_between_0_and_1(good: list[int], defective: list[int], overlap: int, data: Any) -> None:
    """So many good and defective images at each of the scores; the ranges overlap from not at all to entirely."""
    values = [*range(len(good)), *(len(good) - overlap + k for k in range(len(defective)))]
    scores = np.repeat(np.array(values, dtype=float), [*good, *defective])
    labels = np.repeat([0, 1], [sum(good), sum(defective)])
    if not len(labels):
        return
    threshold = data.draw(st.sampled_from(scores.tolist()))
    c = metrics.confusion(scores, labels, threshold)
    units = np.arange(len(labels)) // 2
    drawn = metrics.resampled_average_precision(scores, labels, units, draws=3)
    weighted = metrics.weighted_average_precision(scores, labels, [np.ones_like(labels), labels, 1 - labels])
    grid = np.unique(scores)
    counts = [metrics.confusion(scores, labels, t) for t in grid]
    pixels = metrics.pixel_measures(grid, *([getattr(n, name) for n in counts] for name in ("tp", "fp", "fn", "tn")))
    shares = [
        metrics.average_precision(scores, labels), metrics.auroc(scores, labels),
        c.precision, c.recall, c.f1, c.false_alarm_rate,
        *metrics.clopper_pearson(c.tp, c.tp + c.fn), *metrics.clopper_pearson(c.fp, c.fp + c.tn),
        *weighted[~np.isnan(weighted)], *drawn[~np.isnan(drawn)], *metrics.percentile_interval(drawn), *pixels[:3],
        smallest_miss_rate(c.tp, 0.95), smallest_miss_rate(len(labels), 0.05),
    ]  # fmt: skip
    assert all(0 <= share <= 1 for share in shares if share is not None)


@settings(max_examples=60)
@given(scored, st.integers(-1, 7))
def test_against_scikit_learn(images: list[tuple[float, int]], threshold: int) -> None:
    scores, labels = np.array([s for s, _ in images]), np.array([y for _, y in images])
    called = scores > threshold
    tn, fp, fn, tp = reference.confusion_matrix(labels, called, labels=[0, 1]).ravel()
    c = metrics.confusion(scores, labels, threshold)
    assert c == metrics.Confusion(tp, fp, fn, tn)
    for measure, of in ((c.precision, "precision"), (c.recall, "recall"), (c.f1, "f1")):
        expected = getattr(reference, f"{of}_score")(labels, called, zero_division=np.nan)
        assert np.isnan(expected) if measure is None else measure == pytest.approx(expected)
    if labels.any():
        assert metrics.average_precision(scores, labels) == min(1, reference.average_precision_score(labels, scores))
        fpr, tpr, _ = reference.roc_curve(labels, scores) if not labels.all() else ([0.0], [1.0], None)
        fewest = min(rate for rate, recall in zip(fpr, tpr, strict=True) if recall == 1)
        assert metrics.fp_at_fn0(scores, labels) == round(fewest * np.sum(labels == 0))
    if 0 < labels.sum() < len(labels):
        assert metrics.auroc(scores, labels) == min(1, reference.roc_auc_score(labels, scores))


@pytest.mark.parametrize(
    ("scores", "labels", "says"),
    [
        ([1.0], [0, 1], "one value per image"),
        ([1.0, np.nan], [0, 1], "image number 1"),
        ([np.inf], [0], "not finite"),
        ([1.0], [2], "0 .good. or 1"),
        ([[1.0]], [[1]], "one value per image"),
    ],
)
def test_refuses(scores: list, labels: list, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        metrics.confusion(scores, labels, 0.5)


@given(st.lists(st.tuples(st.integers(0, 6).map(float), st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=40))
def test_weights_count_images_several_times(images: list[tuple[float, int, int]]) -> None:
    scores, labels, weights = (np.array(column) for column in zip(*images, strict=True))
    found = metrics.weighted_average_precision(scores, labels, [weights, np.ones_like(weights)])
    for value, times in zip(found, (weights, np.ones_like(weights)), strict=True):
        s, y = np.repeat(scores, times), np.repeat(labels, times)
        assert np.isnan(value) if not y.any() else value == pytest.approx(reference.average_precision_score(y, s))


def test_resampling_draws_parts_with_all_their_images() -> None:
    # Part a: defect 4, good 1. Part b: defect 2, good 3. Both a: AP 1. Both b: two defects behind two good ones, 2 / 4.
    # One of each (as drawn every other time): 1/2 + 1/2 * 2/3.
    drawn = metrics.resampled_average_precision([4, 1, 2, 3], [1, 0, 1, 0], ["a", "a", "b", "b"], draws=4000)
    values, times = np.unique(drawn.round(9), return_counts=True)
    assert values == pytest.approx([1 / 2, 5 / 6, 1])
    four_sigma = 4 * (4000 * 0.25 * 0.75) ** 0.5
    assert abs(times[0] - 1000) < four_sigma and abs(times[2] - 1000) < four_sigma


def test_two_methods_are_resampled_in_pairs() -> None:
    labels, parts = np.arange(300) % 3 == 0, np.arange(300) // 4
    first, scores = (np.random.default_rng(0).normal(size=300) + shift * labels for shift in (2, 1))
    same = [metrics.resampled_average_precision(s, labels, parts, draws=50) for s in (scores, 10 * scores)]
    assert np.array_equal(*same)  # the same ranking on the same draws
    assert (metrics.resampled_average_precision(first, labels, parts, draws=50) > same[0]).all()
    # 75 parts in rows of 26,000 images: the chunks of a large data set give what one piece gives.
    many = np.repeat(np.arange(75), 350)
    long = metrics.resampled_average_precision(many % 7, many % 3 == 0, many, draws=90)
    counts = np.random.default_rng(0).multinomial(75, np.full(75, 1 / 75), size=90)
    short = metrics.weighted_average_precision(np.arange(75) % 7, np.arange(75) % 3 == 0, counts)
    assert long == pytest.approx(short)


def test_percentiles() -> None:
    assert metrics.percentile_interval([*range(101), np.nan]) == pytest.approx((2.5, 97.5))
    assert metrics.percentile_interval([*range(101)], confidence=0.9) == pytest.approx((5, 95))
    assert metrics.percentile_interval([np.nan]) == (None, None)
    no_defect = metrics.resampled_average_precision([1.0, 2.0], [0, 0], ["a", "b"], draws=5)
    assert np.isnan(no_defect).all()


def test_clopper_pearson_closed_forms() -> None:
    # With all of n (none of n) the bound solves p^n = 0.025.
    low, high = metrics.clopper_pearson(52, 52)
    assert (low, high) == (pytest.approx(0.025 ** (1 / 52)), 1.0)
    low, high = metrics.clopper_pearson(0, 347)
    assert (low, high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 347)))
    assert metrics.clopper_pearson(0, 0) == (0.0, 1.0)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.9, 0.95]))
def test_clopper_pearson_is_its_definition(kn: tuple[int, int], confidence: float) -> None:
    k, n = kn
    low, high = metrics.clopper_pearson(k, n, confidence)
    assert low <= k / n <= high
    if k > 0:
        assert stats.binom.sf(k - 1, n, low) == pytest.approx((1 - confidence) / 2, rel=1e-6)
    if k < n:
        assert stats.binom.cdf(k, n, high) == pytest.approx((1 - confidence) / 2, rel=1e-6)
    # In closed form the ends are quantiles of beta distributions.
    tail = (1 - confidence) / 2
    ends = stats.beta.ppf([tail, 1 - tail], [k or np.nan, k + 1], [n - k + 1, n - k or np.nan])
    assert (low, high) == pytest.approx(np.where(np.isnan(ends), [0, 1], ends), abs=1e-11)


@pytest.mark.parametrize(("k", "n", "confidence"), [(-1, 3, 0.95), (4, 3, 0.95), (1, 3, 1.0), (1, 3, 0.0)])
def test_clopper_pearson_refuses(k: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="0 <= k <= n"):
        metrics.clopper_pearson(k, n, confidence)


def test_mcnemar_by_hand() -> None:
    # 5 images only the first gets right, 1 only the second: p = 2 (C(6,0) + C(6,1)) / 2^6 = 14 / 64.
    first = [True] * 5 + [False] + [True] * 90 + [False] * 4
    second = [False] * 5 + [True] + [True] * 90 + [False] * 4
    assert metrics.mcnemar_exact(first, second) == (5, 1, pytest.approx(14 / 64))
    assert metrics.mcnemar_exact(second, first) == (1, 5, pytest.approx(14 / 64))
    assert metrics.mcnemar_exact(first, first) == (0, 0, 1.0)
    assert metrics.mcnemar_exact([True] * 6, [False] * 6).p_value == pytest.approx(2 / 64)
    with pytest.raises(ValueError, match="same images"):
        metrics.mcnemar_exact([True], [True, False])


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), min_size=1, max_size=60))
def test_pixel_measures_against_scikit_learn(pixels: list[tuple[int, int]]) -> None:
    values, mask = np.array([v for v, _ in pixels]), np.array([y for _, y in pixels])
    grid = np.arange(-1, 6)[np.random.default_rng(len(pixels)).permutation(7)]  # any order of the rows will do
    counts = [metrics.confusion(values, mask, t) for t in grid]
    found = metrics.pixel_measures(grid, *([getattr(c, name) for c in counts] for name in ("tp", "fp", "fn", "tn")))
    if not mask.any():
        assert found == (None,) * 5
        return
    called = {t: values > t for t in sorted(grid)}
    iou = {t: reference.jaccard_score(mask, called[t], zero_division=0) for t in called}
    dice = {t: reference.f1_score(mask, called[t], zero_division=0) for t in called}
    assert found.ap == pytest.approx(reference.average_precision_score(mask, values))
    assert found.iou == pytest.approx(max(iou.values()))
    assert found.dice == pytest.approx(max(dice.values()))
    assert iou[found.threshold_iou] == pytest.approx(max(iou.values()))
    assert dice[found.threshold_dice] == pytest.approx(max(dice.values()))


def test_pixel_measures_refuse_counts_of_different_images() -> None:
    with pytest.raises(ValueError, match="same at every threshold"):
        metrics.pixel_measures([0.1, 0.2], [3, 2], [1, 1], [0, 0], [9, 9])
    with pytest.raises(ValueError, match="as many counts"):
        metrics.pixel_measures([0.1], [3, 2], [1, 1], [0, 1], [9, 9])
