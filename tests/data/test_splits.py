"""Folds: by group, as published or with duplicates kept together; saved and used again."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.helpers import PUBLISHED_ITEMS, duplicates_of, in_memory

from anomaly_seg.data.duplicates import DuplicatePair
from anomaly_seg.data.readers.kolektor import published_folds
from anomaly_seg.data.split_file import make_folds
from anomaly_seg.data.splits import assign_folds, count_leaks, only_fold
from anomaly_seg.errors import InputError

ITEMS = [group for group in PUBLISHED_ITEMS for _ in range(2)]
LABELS = [1, 0] * 50


def duplicates(a: str, b: str, kind: str) -> list[DuplicatePair]:
    """The two views of one group and those of the other."""
    return [DuplicatePair(ITEMS.index(a) + view, ITEMS.index(b) + view, kind, 1.0) for view in range(2)]


DUPLICATES = duplicates_of(
    100,
    duplicates("kos01", "kos26", "identical")
    + duplicates("kos27", "kos34", "identical")
    + duplicates("kos38", "kos39", "near"),
)


def by_item(groups: list[str], folds: np.ndarray) -> dict[str, int]:
    assert all(len(set(folds[np.array(groups) == group].tolist())) == 1 for group in groups)
    return dict(zip(groups, folds.tolist(), strict=True))


def test_published_folds_are_left_alone() -> None:
    assert (
        by_item(ITEMS, assign_folds(ITEMS, LABELS, 3, "published", DUPLICATES, published_folds())) == published_folds()
    )


def test_grouped_moves_the_later_duplicate_and_nothing_else() -> None:
    folds = by_item(ITEMS, assign_folds(ITEMS, LABELS, 3, "grouped", DUPLICATES, published_folds()))
    assert folds == published_folds() | {"kos26": 1, "kos34": 0}  # kos01 is in fold 1, kos27 in fold 0


def test_grouped_near_moves_near_duplicates_too() -> None:
    folds = by_item(ITEMS, assign_folds(ITEMS, LABELS, 3, "grouped_near", DUPLICATES, published_folds()))
    assert folds == published_folds() | {"kos26": 1, "kos34": 0, "kos39": 0}  # kos38 is in fold 0


def test_duplicates_of_duplicates_stay_together() -> None:
    groups, labels = ["d", "c", "b", "a", "e", "f"], [1] * 6
    chain = [
        DuplicatePair(0, 1, "identical", 1.0),
        DuplicatePair(2, 1, "identical", 1.0),
        DuplicatePair(3, 2, "identical", 1.0),
    ]
    published = {"a": 2, "b": 0, "c": 1, "d": 0, "e": 0, "f": 1}
    assert assign_folds(groups, labels, 3, "grouped", duplicates_of(6, chain), published).tolist() == [2, 2, 2, 2, 0, 1]


def test_across_counts_test_images_by_their_closest_duplicate() -> None:
    listed = [
        DuplicatePair(0, 3, "identical", 1.0),
        DuplicatePair(0, 4, "near", 0.95),  # 0 counts once, as identical
        DuplicatePair(1, 4, "near", 0.95),
        DuplicatePair(1, 2, "identical", 1.0),  # both on one side
    ]
    pairs = duplicates_of(6, listed)
    assert count_leaks(pairs, [3, 4, 5], [0, 1, 2]) == {"identical": 1, "near": 1}
    assert count_leaks(pairs, [0, 1, 2], [3, 4, 5]) == {"identical": 1, "near": 1}
    assert count_leaks(pairs, [4, 5], [0, 1, 2]) == {"identical": 0, "near": 2}  # 3 is on neither side
    assert count_leaks(duplicates_of(6, []), [3, 4, 5], [0, 1, 2]) == {"identical": 0, "near": 0}


def test_across_the_published_and_the_grouped_folds() -> None:
    expected = {
        "published": [(2, 2), (2, 2), (4, 0)],
        "grouped": [(0, 2), (0, 2), (0, 0)],
        "grouped_near": [(0, 0)] * 3,
    }
    for policy, counts in expected.items():
        folds = assign_folds(ITEMS, LABELS, 3, policy, DUPLICATES, published_folds())
        sides = [(np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in range(3)]
        assert [tuple(count_leaks(DUPLICATES, *side).values()) for side in sides] == counts


items_and_labels = st.lists(
    st.tuples(st.integers(0, 14).map(lambda i: f"i{i:02d}"), st.integers(0, 1)), min_size=10, max_size=60
)


@given(data=items_and_labels, folds=st.integers(2, 5), seed=st.integers(0, 2**32 - 1))
def test_stratified_folds(data: list[tuple[str, int]], folds: int, seed: int) -> None:
    groups, labels = [group for group, _ in data], [label for _, label in data]
    defects = {group: sum(label for i, label in data if i == group) for group in groups}
    try:
        result = assign_folds(groups, labels, folds, "grouped", seed=seed)
    except InputError:  # only where the groups with defects do not suffice
        assert sum(d > 0 for d in defects.values()) < max(folds, 2)
        return
    by_item(groups, result)
    assert set(result.tolist()) == set(range(folds))
    np.testing.assert_array_equal(result, assign_folds(groups, labels, folds, "grouped", seed=seed))
    # Each group goes to the fold that has fewest defects: no two folds differ by more than the largest group's.
    loads = [int(np.array(labels)[result == k].sum()) for k in range(folds)]
    assert max(loads) - min(loads) <= max(defects.values())


def test_stratified_folds_depend_on_the_seed() -> None:
    runs = {tuple(assign_folds(ITEMS, LABELS, 3, "grouped", seed=seed).tolist()) for seed in range(5)}
    assert len(runs) == 5


links = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=8)


@given(data=items_and_labels, pairs=links, folds=st.integers(2, 4), seed=st.integers(0, 99))
def test_groups_linked_by_duplicates_are_never_parted(
    data: list[tuple[str, int]], pairs: list[tuple[int, int]], folds: int, seed: int
) -> None:
    """Whatever the links, both ends of one share a fold, and every fold has both sides' defects; or it is refused."""
    groups, labels = [group for group, _ in data], [label for _, label in data]
    found = [DuplicatePair(a, b, "identical", 1.0) for a, b in pairs if groups[a] != groups[b]]
    try:
        result = assign_folds(groups, labels, folds, "grouped", duplicates_of(len(groups), found), seed=seed)
    except InputError:
        return
    by_item(groups, result)
    assert all(result[t.a] == result[t.b] for t in found)
    for fold in range(folds):
        assert any(labels[i] for i in np.flatnonzero(result == fold))
        assert any(labels[i] for i in np.flatnonzero(result != fold))


def test_linked_items_are_weighed_as_one() -> None:
    """Six defective groups, of which a to d are one part: it fills a fold, and the others share the second."""
    groups = ["a", "b", "c", "d", "e", "f"]
    chain = [DuplicatePair(i, i + 1, "identical", 1.0) for i in range(3)]
    for seed in range(5):
        folds = assign_folds(groups, [1] * 6, 2, "grouped", duplicates_of(6, chain), seed=seed).tolist()
        assert len(set(folds[:4])) == 1 and folds[4] == folds[5] != folds[0]


def test_items_without_defects_even_out_the_sizes() -> None:
    """Four defective groups over three folds make 2, 1, 1; the 20 good ones bring every fold to 8."""
    groups = [f"bad{i}" for i in range(4)] + [f"good{i}" for i in range(20)]
    folds = assign_folds(groups, [1] * 4 + [0] * 20, 3, "grouped")
    assert np.bincount(folds).tolist() == [8, 8, 8]
    assert sorted(np.bincount(folds[:4]).tolist()) == [1, 1, 2]


# A published training and test part

DIVIDED = {f"i{k:02d}": int(k >= 4) for k in range(16)}  # four test groups, twelve training groups
PARTS = sorted(DIVIDED)
PART_LABELS = [k % 2 for k in range(16)]


@pytest.mark.parametrize("folds", [2, 3, 4])
def test_the_published_test_part_is_fold_0(folds: int) -> None:
    found = assign_folds(PARTS, PART_LABELS, folds, "published", published=DIVIDED, train_test=True)
    assert [i for i, fold in zip(PARTS, found, strict=True) if fold == 0] == PARTS[:4]
    assert np.bincount(found).tolist() == [4, *[12 // (folds - 1)] * (folds - 1)]
    assert np.bincount(found, PART_LABELS).tolist() == [2, *[6 // (folds - 1)] * (folds - 1)]


def test_grouped_leaves_a_division_aside() -> None:
    found = assign_folds(PARTS, PART_LABELS, 4, "grouped", published=DIVIDED, train_test=True)
    np.testing.assert_array_equal(found, assign_folds(PARTS, PART_LABELS, 4, "grouped"))
    assert len(set(found[:4].tolist())) > 1


def test_only_a_published_division_has_one_fold() -> None:
    assert only_fold("published", True)
    assert not only_fold("grouped", True) and not only_fold("published", False)


# Saved folds


def test_folds_are_saved_as_readable_json_and_used_again(tmp_path: Path) -> None:
    dataset, file = in_memory(groups=6, views=2), tmp_path / "new" / "folds.json"
    labels = [1, 0] * 6
    first = make_folds(dataset, labels, None, 3, "grouped", 0, file)
    saved = json.loads(file.read_text())
    assert saved["fold_of"] == {f"p{i}": int(first[2 * i]) for i in range(6)}
    assert (saved["data"], saved["folds"], saved["split"], saved["seed"]) == ("memory", 3, "grouped", 0)
    assert '\n    "p0": ' in file.read_text()  # a group a line
    assert list(file.parent.iterdir()) == [file]

    turned = {group: (fold + 1) % 3 for group, fold in saved["fold_of"].items()}
    file.write_text(json.dumps({"fold_of": turned}))  # as drawn up by hand
    again = make_folds(dataset, labels, None, 3, "grouped", 0, file)
    np.testing.assert_array_equal(again, (first + 1) % 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", r"data\.splits=.*f\.json: cannot be read as JSON"),
        ([], r"f\.json: not a file of folds \(no fold_of\); delete it"),
        ({"fold_of": {}}, r"not a file of folds"),
        ({"folds": 4}, r"made with data\.folds=4, not 3; set that, or another file"),
        ({"split": "grouped_near"}, r"made with data\.split=grouped_near, not grouped"),
        ({"seed": 1}, r"made with data\.split_seed=1, not 0"),
        ({"fold_of": {"p0": 3, "p1": 1, "p2": 2}}, r"folds of p0 are not within 0 to 2"),
        ({"fold_of": {"p0": "0", "p1": 1, "p2": 2}}, r"folds of p0 are not within 0 to 2"),
        (
            {"fold_of": {"p0": 0, "p1": 1}},
            r"the data have changed since, groups: 1 new \(p2\); restore them, or delete",
        ),
        ({"fold_of": {"p0": 0, "p1": 1, "p3": 2}}, r"groups: 1 new \(p2\) and 1 gone \(p3\)"),
        ({"fold_of": {"p0": 0, "p1": 1, "p2": 1}}, r"fold 2 of 3 holds no image: the labels have changed since"),
    ],
)
def test_saved_folds_that_do_not_fit(tmp_path: Path, change: object, message: str) -> None:
    dataset, file = in_memory(groups=3, views=2), tmp_path / "f.json"
    good = {"folds": 3, "split": "grouped", "seed": 0, "fold_of": {"p0": 0, "p1": 1, "p2": 2}}
    assert make_folds(dataset, [1, 0] * 3, None, 3, "grouped", 0).max() == 2  # without a file it works
    text = change if isinstance(change, str) else json.dumps(good | change if isinstance(change, dict) else change)
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        make_folds(dataset, [1, 0] * 3, None, 3, "grouped", 0, file)


def test_a_place_that_takes_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"data\.splits=.*: cannot be written"):
        make_folds(in_memory(groups=3), [1, 0] * 3, None, 3, "grouped", 0, tmp_path / "file" / "f.json")


def test_grouped_without_published_folds_keeps_duplicates_together() -> None:
    pairs = duplicates_of(100, duplicates("kos03", "kos44", "identical"))
    for seed in range(10):
        folds = by_item(ITEMS, assign_folds(ITEMS, LABELS, 3, "grouped", pairs, seed=seed))
        assert folds["kos03"] == folds["kos44"]


# What cannot be


def test_near_duplicates_that_join_nearly_all_items_are_named() -> None:
    """Nine of ten groups in one group leave two groups for three folds; without near duplicates the folds can be."""
    groups = [f"i{k}" for k in range(10)]
    chain = duplicates_of(10, [DuplicatePair(k, k + 1, "near", 0.95) for k in range(8)])
    message = r"fold 2 of 3 holds no image: near duplicates join 9 of 10 groups into one group; use data\.split=grouped"
    with pytest.raises(InputError, match=message):
        assign_folds(groups, [1] * 10, 3, "grouped_near", chain)
    assert assign_folds(groups, [1] * 10, 3, "grouped", chain).max() == 2
    with pytest.raises(InputError, match=r"use fewer folds"):  # not the near-duplicates' fault
        assign_folds(groups, [0] * 9 + [1], 3, "grouped_near", chain)


def test_near_duplicates_leave_a_published_fold_without_images() -> None:
    """Folds 0 and 1 are a and b; joined, both are fold 0."""
    pair, published = duplicates_of(2, [DuplicatePair(0, 1, "near", 0.95)]), {"a": 0, "b": 1}
    with pytest.raises(
        InputError, match=r"fold 0 of 2 .*: near duplicates join 2 of 2 groups .* use data\.split=grouped"
    ):
        assign_folds(["a", "b"], [1, 1], 2, "grouped_near", pair, published)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": "random"}, r"data\.split=random: choose published, grouped or grouped_near"),
        ({"folds": 1}, r"data\.folds=1: use 2 or more"),
        ({"folds": 5}, r"data\.folds=5: the published split has 3"),
        ({"published": None}, r"data\.split=published: this data set came without folds; use data\.split=grouped"),
        ({"groups": ["kos99", *ITEMS[1:]]}, r"groups kos99 are in no published fold; check data\.root"),
    ],
)
def test_arguments_out_of_range(change: dict, message: str) -> None:
    good = {"groups": ITEMS, "labels": LABELS, "folds": 3, "policy": "published", "published": published_folds()}
    with pytest.raises(InputError, match=message):
        assign_folds(**(good | change))


def test_an_empty_published_fold() -> None:
    kept = [i for i, group in enumerate(ITEMS) if published_folds()[group] != 1]
    groups, labels = [ITEMS[i] for i in kept], [LABELS[i] for i in kept]
    with pytest.raises(InputError, match=r"fold 1 of 3 holds no image: data\.root lacks some of the groups"):
        assign_folds(groups, labels, 3, "published", published=published_folds())


def test_a_published_fold_without_defects() -> None:
    labels = [int(label and published_folds()[group] != 2) for group, label in zip(ITEMS, LABELS, strict=True)]
    with pytest.raises(InputError, match=r"fold 2 of 3 has no defective test image"):
        assign_folds(ITEMS, labels, 3, "grouped", published=published_folds())


def test_more_folds_than_items() -> None:
    with pytest.raises(InputError, match=r"fold 2 of 3 holds no image: use fewer folds \(data\.folds\) or more groups"):
        assign_folds(["a", "b"], [1, 1], 3, "grouped")


def test_fewer_defective_items_than_folds() -> None:
    with pytest.raises(InputError, match=r"fold \d of 3 has no defective test image: use fewer folds"):
        assign_folds(["a", "b", "c", "d"], [1, 1, 0, 0], 3, "grouped")


def test_no_defect_left_for_training() -> None:
    published = {"a": 0, "b": 1}
    with pytest.raises(InputError, match=r"fold 0 of 2 has no defective training image"):
        assign_folds(["a", "b"], [1, 0], 2, "published", published=published)


def test_no_defects_at_all() -> None:
    with pytest.raises(InputError, match=r"has no defective test image.*\(0 images of 0 groups are defective\)"):
        assign_folds(["a", "b", "c"], [0, 0, 0], 3, "grouped")
