"""Folds: by item, as published or with twins kept together."""

import numpy as np
import pytest
from helpers import PUBLISHED_ITEMS
from hypothesis import given
from hypothesis import strategies as st

from anomaly_seg.data.kolektor import published_folds
from anomaly_seg.data.splits import across, assign_folds
from anomaly_seg.data.twins import Twin
from anomaly_seg.errors import InputError

ITEMS = [item for item in PUBLISHED_ITEMS for _ in range(2)]
LABELS = [1, 0] * 50


def twins(a: str, b: str, kind: str) -> list[Twin]:
    """The two views of one item and those of the other."""
    return [Twin(ITEMS.index(a) + view, ITEMS.index(b) + view, kind, 1.0) for view in range(2)]


TWINS = twins("kos01", "kos26", "identical") + twins("kos27", "kos34", "identical") + twins("kos38", "kos39", "near")


def by_item(items: list[str], folds: np.ndarray) -> dict[str, int]:
    assert all(len(set(folds[np.array(items) == item].tolist())) == 1 for item in items)
    return dict(zip(items, folds.tolist(), strict=True))


def test_published_folds_are_left_alone() -> None:
    assert by_item(ITEMS, assign_folds(ITEMS, LABELS, 3, "published", TWINS, published_folds())) == published_folds()


def test_grouped_moves_the_later_twin_and_nothing_else() -> None:
    folds = by_item(ITEMS, assign_folds(ITEMS, LABELS, 3, "grouped", TWINS, published_folds()))
    assert folds == published_folds() | {"kos26": 1, "kos34": 0}  # kos01 is in fold 1, kos27 in fold 0


def test_grouped_near_moves_near_twins_too() -> None:
    folds = by_item(ITEMS, assign_folds(ITEMS, LABELS, 3, "grouped_near", TWINS, published_folds()))
    assert folds == published_folds() | {"kos26": 1, "kos34": 0, "kos39": 0}  # kos38 is in fold 0


def test_twins_of_twins_stay_together() -> None:
    items, labels = ["d", "c", "b", "a", "e", "f"], [1] * 6
    chain = [Twin(0, 1, "identical", 1.0), Twin(2, 1, "identical", 1.0), Twin(3, 2, "identical", 1.0)]
    published = {"a": 2, "b": 0, "c": 1, "d": 0, "e": 0, "f": 1}
    assert assign_folds(items, labels, 3, "grouped", chain, published).tolist() == [2, 2, 2, 2, 0, 1]


def test_across_counts_test_images_by_their_closest_twin() -> None:
    pairs = [
        Twin(0, 3, "identical", 1.0),
        Twin(0, 4, "near", 0.95),  # 0 counts once, as identical
        Twin(1, 4, "near", 0.95),
        Twin(1, 2, "identical", 1.0),  # both on one side
    ]
    assert across(pairs, [3, 4, 5], [0, 1, 2]) == {"identical": 1, "near": 1}
    assert across(pairs, [0, 1, 2], [3, 4, 5]) == {"identical": 1, "near": 1}
    assert across(pairs, [4, 5], [0, 1, 2]) == {"identical": 0, "near": 2}  # 3 is on neither side
    assert across([], [3, 4, 5], [0, 1, 2]) == {"identical": 0, "near": 0}


def test_across_the_published_and_the_grouped_folds() -> None:
    expected = {
        "published": [(2, 2), (2, 2), (4, 0)],
        "grouped": [(0, 2), (0, 2), (0, 0)],
        "grouped_near": [(0, 0)] * 3,
    }
    for policy, counts in expected.items():
        folds = assign_folds(ITEMS, LABELS, 3, policy, TWINS, published_folds())
        sides = [(np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in range(3)]
        assert [tuple(across(TWINS, *side).values()) for side in sides] == counts


items_and_labels = st.lists(
    st.tuples(st.integers(0, 14).map(lambda i: f"i{i:02d}"), st.integers(0, 1)), min_size=10, max_size=60
)


@given(data=items_and_labels, folds=st.integers(2, 5), seed=st.integers(0, 2**32 - 1))
def test_stratified_folds(data: list[tuple[str, int]], folds: int, seed: int) -> None:
    items, labels = [item for item, _ in data], [label for _, label in data]
    defects = {item: sum(label for i, label in data if i == item) for item in items}
    try:
        result = assign_folds(items, labels, folds, "grouped", seed=seed)
    except InputError:  # only where the items with defects do not suffice
        assert sum(d > 0 for d in defects.values()) < max(folds, 2)
        return
    by_item(items, result)
    assert set(result.tolist()) == set(range(folds))
    np.testing.assert_array_equal(result, assign_folds(items, labels, folds, "grouped", seed=seed))
    # Each item goes to the fold that has fewest defects: no two folds differ by more than the largest item's.
    loads = [int(np.array(labels)[result == k].sum()) for k in range(folds)]
    assert max(loads) - min(loads) <= max(defects.values())


def test_stratified_folds_depend_on_the_seed() -> None:
    runs = {tuple(assign_folds(ITEMS, LABELS, 3, "grouped", seed=seed).tolist()) for seed in range(5)}
    assert len(runs) == 5


def test_grouped_without_published_folds_keeps_twins_together() -> None:
    pairs = twins("kos03", "kos44", "identical")
    for seed in range(10):
        folds = by_item(ITEMS, assign_folds(ITEMS, LABELS, 3, "grouped", pairs, seed=seed))
        assert folds["kos03"] == folds["kos44"]


# What cannot be


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": "random"}, r"data\.split=random: choose published, grouped or grouped_near"),
        ({"folds": 1}, r"data\.folds=1: use 2 or more"),
        ({"folds": 5}, r"data\.folds=5: the published split has 3"),
        ({"published": None}, r"data\.split=published: this data set came without folds; use data\.split=grouped"),
        ({"items": ["kos99", *ITEMS[1:]]}, r"items kos99 are in no published fold; check data\.root"),
    ],
)
def test_arguments_out_of_range(change: dict, message: str) -> None:
    good = {"items": ITEMS, "labels": LABELS, "folds": 3, "policy": "published", "published": published_folds()}
    with pytest.raises(InputError, match=message):
        assign_folds(**(good | change))


def test_an_empty_published_fold() -> None:
    kept = [i for i, item in enumerate(ITEMS) if published_folds()[item] != 1]
    items, labels = [ITEMS[i] for i in kept], [LABELS[i] for i in kept]
    with pytest.raises(InputError, match=r"fold 1 of 3 holds no image: data\.root lacks some of the items"):
        assign_folds(items, labels, 3, "published", published=published_folds())


def test_a_published_fold_without_defects() -> None:
    labels = [int(label and published_folds()[item] != 2) for item, label in zip(ITEMS, LABELS, strict=True)]
    with pytest.raises(InputError, match=r"fold 2 of 3 has no defective test image"):
        assign_folds(ITEMS, labels, 3, "grouped", published=published_folds())


def test_more_folds_than_items() -> None:
    with pytest.raises(InputError, match=r"fold 2 of 3 holds no image: use fewer folds \(data\.folds\) or more items"):
        assign_folds(["a", "b"], [1, 1], 3, "grouped")


def test_fewer_defective_items_than_folds() -> None:
    with pytest.raises(InputError, match=r"fold \d of 3 has no defective test image: use fewer folds"):
        assign_folds(["a", "b", "c", "d"], [1, 1, 0, 0], 3, "grouped")


def test_no_defect_left_for_training() -> None:
    published = {"a": 0, "b": 1}
    with pytest.raises(InputError, match=r"fold 0 of 2 has no defective training image"):
        assign_folds(["a", "b"], [1, 0], 2, "published", published=published)


def test_no_defects_at_all() -> None:
    with pytest.raises(InputError, match=r"has no defective test image"):
        assign_folds(["a", "b", "c"], [0, 0, 0], 3, "grouped")
