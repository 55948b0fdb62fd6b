"""Thresholds: published values by hand, best_f against brute force, cross_fold against its promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from anomaly_seg.evaluation import thresholds

floats = st.floats(-1e300, 1e300) | st.integers(0, 5).map(float)
scored = st.lists(st.tuples(floats, st.integers(0, 1)), min_size=1, max_size=30).filter(lambda x: any(y for _, y in x))


def test_paper_scales_with_the_number_of_pixels() -> None:
    assert thresholds.paper(100, 1408, 512) == 100
    assert thresholds.paper(1350, 704, 256) == 337.5
    assert thresholds.paper(100, 2816, 512) == 200
    with pytest.raises(ValueError, match="at least 1 x 1"):
        thresholds.paper(100, 0, 512)


def test_best_f_by_hand() -> None:
    # Above 3: TP 2, FP 0, FN 1, F1 = 4/5. Above 1.5: TP 3, FP 1, FN 0, F1 = 6/7.
    assert thresholds.best_f([1.0, 2.0, 2.5, 3.5, 9.0], [0, 1, 0, 1, 1]) == 1.5
    # Above 2 (TP 1, FP 0, FN 1) and above 0.5 (TP 2, FP 2): F1 = 2/3 both. The lower one misses less.
    assert thresholds.best_f([1.0, 1.0, 1.0, 3.0], [0, 0, 1, 1]) == np.nextafter(1.0, 0.0)
    assert thresholds.best_f([0.0, 1.0, 2.0, 3.0, 4.0], [0, 1, 0, 0, 1]) == 0.5


def test_best_f_when_all_are_defective() -> None:
    assert thresholds.best_f([0.0, 2.0], [1, 1]) < 0


def test_best_f_between_neighbouring_floats() -> None:
    low = 1.0
    high = float(np.nextafter(low, 2.0))
    found = thresholds.best_f([low, high], [0, 1])
    assert low <= found < high


@settings(max_examples=60)
@given(scored)
def test_best_f_against_brute_force(images: list[tuple[float, int]]) -> None:
    scores, labels = np.array([s for s, _ in images]), np.array([y for _, y in images])
    found = thresholds.best_f(scores, labels)
    reached = f1_score(labels, scores > found)
    every = [(f1_score(labels, scores >= s), s) for s in np.unique(scores)]
    best = max(f for f, _ in every)
    assert reached == pytest.approx(best)
    # The lowest of the best: the images called defective are those from the lowest best score on.
    lowest = min(s for f, s in every if f == pytest.approx(best))
    assert np.array_equal(scores > found, scores >= lowest)


@given(scored, st.randoms())
def test_best_f_ignores_the_order(images: list[tuple[float, int]], random) -> None:
    shuffled = random.sample(images, len(images))
    assert thresholds.best_f(*zip(*images, strict=True)) == thresholds.best_f(*zip(*shuffled, strict=True))


@pytest.mark.parametrize("labels", [[], [0, 0]])
def test_best_f_needs_a_defective_image(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one defective"):
        thresholds.best_f([1.0] * len(labels), labels)


def test_cross_fold_by_hand() -> None:
    scores = {0: [1.0, 9.0], 1: [2.0, 6.0], 2: [3.0, 5.0]}
    labels = {fold: [0, 1] for fold in scores}
    # Fold 0: others are 2, 3 | 5, 6; fold 1: 1, 3 | 5, 9; fold 2: 1, 2 | 6, 9.
    assert thresholds.cross_fold(scores, labels) == {0: 4.0, 1: 4.0, 2: 4.0}
    assert thresholds.cross_fold({0: scores[0], 1: scores[1]}, {0: [0, 1], 1: [0, 1]}) == {0: 4.0, 1: 5.0}


@given(st.lists(scored, min_size=3, max_size=3), scored)
def test_cross_fold_never_looks_at_its_own_fold(folds: list, other: list) -> None:
    def split(parts: list) -> tuple[dict, dict]:
        return {k: [s for s, _ in p] for k, p in enumerate(parts)}, {k: [y for _, y in p] for k, p in enumerate(parts)}

    before = thresholds.cross_fold(*split(folds))
    after = thresholds.cross_fold(*split([other, *folds[1:]]))
    assert after[0] == before[0]


def test_cross_fold_refuses() -> None:
    with pytest.raises(ValueError, match="two or more folds"):
        thresholds.cross_fold({0: [1.0]}, {0: [1]})
    with pytest.raises(ValueError, match="two or more folds"):
        thresholds.cross_fold({0: [1.0], 1: [1.0]}, {0: [1], 2: [1]})
    with pytest.raises(ValueError, match="at least one defective"):
        thresholds.cross_fold({0: [1.0], 1: [1.0]}, {0: [1], 1: [0]})
