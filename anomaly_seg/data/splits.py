"""Cross-validation folds by group."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from anomaly_seg.data.duplicates import KINDS, Duplicates, numbered
from anomaly_seg.errors import InputError

Policy = Literal["published", "grouped", "grouped_near"]


def assign_folds(
    groups: Sequence[str],
    labels: Sequence[int],
    folds: int,
    policy: Policy,
    duplicates: Duplicates | None = None,
    published: Mapping[str, int] | None = None,
    seed: int = 0,
    train_test: bool = False,
) -> np.ndarray:
    """Test fold of every image, (n,) in 0..folds-1.

    `published`: the folds that came with the data. `grouped`: the same (or, where none came, stratified folds by
    group), but groups with byte-identical images join the fold of the first of them. `grouped_near`: near-identical
    images count too.

    Where the data came divided into a training and a test part, published makes the test part fold 0 and divides the
    training part into the other folds, so that fold 0 is tested by what the whole training part teaches; grouped and
    grouped_near leave the division aside.

    Args:
        groups: n groups; all images of a group share a fold.
        labels: n, 1 = defective.
        folds: how many.
        duplicates: from `find_duplicates`.
        published: group -> fold; with train_test 0 for the test part, 1 for the training part.
        seed: of the stratified folds.
        train_test: whether `published` is a division rather than folds.

    Raises:
        InputError: unknown policy, folds below 2, no published folds, a group without fold, a fold without images or
            without defects.
    """
    if policy not in ("published", "grouped", "grouped_near"):
        raise InputError(f"data.split={policy}: choose published, grouped or grouped_near")
    if folds < 2:
        raise InputError(f"data.folds={folds}: use 2 or more")
    if published is None and policy == "published":
        raise InputError("data.split=published: this data set came without folds; use data.split=grouped")
    leader = group_representatives(groups, duplicates, policy)
    led = [leader[group] for group in groups]
    if published is None or (train_test and policy != "published"):
        base = _stratified(led, labels, folds, seed)
    elif train_test:
        base = _divided(groups, labels, folds, seed, published)
    else:
        base = _published(groups, folds, published)
    result = np.array([base[group] for group in led])
    fixed = published is not None and not train_test
    remedy = "data.root lacks some of the groups" if fixed else "use fewer folds (data.folds) or more groups"
    try:
        check_folds(result, groups, labels, folds, remedy)
    except InputError:
        if policy == "grouped_near":
            assign_folds(
                groups, labels, folds, "grouped", duplicates, published, seed, train_test
            )  # else it is not to blame
            size = max(Counter(leader.values()).values())
            remedy = f"near duplicates join {size} of {len(leader)} groups into one group; use data.split=grouped"
            check_folds(result, groups, labels, folds, remedy)
        raise
    return result


def check_folds(assigned: np.ndarray, groups: Sequence[str], labels: Sequence[int], folds: int, remedy: str) -> None:
    """Refuse folds that nothing can be learnt or measured with.

    Args:
        assigned: (n,) fold of every image.
        groups, labels, folds: as in `assign_folds`.
        remedy: end of the message.

    Raises:
        InputError: a fold without images, or without defective ones on one of its sides.
    """
    bad = np.asarray(labels) == 1
    having = len({group for group, label in zip(groups, labels, strict=True) if label})
    for fold in range(folds):
        inside = assigned == fold
        if not inside.any():
            raise InputError(f"fold {fold} of {folds} holds no image: {remedy}")
        for side, where in (("test", inside), ("training", ~inside)):
            if not bad[where].any():
                count = f"{int(bad.sum())} images of {having} groups are defective"
                raise InputError(f"fold {fold} of {folds} has no defective {side} image: {remedy} ({count})")


def check_fold(fold: int, folds: int, evaluate_on: str, split: str, train_test: bool) -> None:
    """Refuse a fold that cannot be tested.

    Args:
        fold, folds: which of how many.
        evaluate_on: "test" or "validation".
        split, train_test: as in `only_fold`.

    Raises:
        InputError: a fold that is not there, a word that means nothing, or too few folds to validate.
    """
    if not 0 <= fold < folds:
        raise InputError(f"fold={fold}: data.folds={folds}, so choose 0 to {folds - 1}")
    if evaluate_on not in ("test", "validation"):
        raise InputError(f"evaluate_on={evaluate_on}: choose test or validation")
    if evaluate_on == "validation" and folds < 3:
        raise InputError(
            f"evaluate_on=validation: needs 3 folds or more to train, validate and test; data.folds={folds}"
        )
    if only_fold(split, train_test) and fold:
        raise InputError(
            f"fold={fold}: with data.split=published the published test part is fold 0; use fold=0, or "
            "data.split=grouped to cross-validate"
        )


def fold_sides(assigned: np.ndarray, fold: int, folds: int, evaluate_on: str) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the images that train and of those that are scored.

    In validation the next fold stands in for the test fold, which is then neither trained on nor looked at.
    """
    scored = fold if evaluate_on == "test" else (fold + 1) % folds
    return np.flatnonzero(~np.isin(assigned, (fold, scored))), np.flatnonzero(assigned == scored)


def only_fold(policy: str, train_test: bool) -> bool:
    """Whether fold 0 is the only one to be tested: a published test part has no other folds."""
    return train_test and policy == "published"


def _published(groups: Sequence[str], folds: int, published: Mapping[str, int]) -> dict[str, int]:
    if folds != max(published.values()) + 1:
        raise InputError(f"data.folds={folds}: the published split has {max(published.values()) + 1}")
    missing = sorted(set(groups) - set(published))
    if missing:
        raise InputError(f"groups {', '.join(missing[:5])} are in no published fold; check data.root")
    return {group: published[group] for group in set(groups)}


def _divided(
    groups: Sequence[str], labels: Sequence[int], folds: int, seed: int, published: Mapping[str, int]
) -> dict[str, int]:
    """The test part as fold 0, and the training part stratified over the others."""
    training = [i for i, group in enumerate(groups) if published[group] == 1]
    rest = _stratified([groups[i] for i in training], [labels[i] for i in training], folds - 1, seed)
    return {group: rest[group] + 1 if group in rest else 0 for group in groups}


def _stratified(groups: Sequence[str], labels: Sequence[int], folds: int, seed: int) -> dict[str, int]:
    """Items with most defects first, each to the fold with fewest defective (then fewest) images so far; those without
    defects to the fold with fewest images."""
    names = sorted(set(groups))
    order = np.random.default_rng(seed).permutation(len(names))
    sizes = Counter(groups)
    defects = Counter(group for group, label in zip(groups, labels, strict=True) if label)
    load = [(0, 0)] * folds
    fold_of: dict[str, int] = {}
    for name in sorted((names[i] for i in order), key=lambda n: -defects[n]):
        rank = load if defects[name] else [(size, bad) for bad, size in load]
        fold = min(range(folds), key=rank.__getitem__)
        fold_of[name] = fold
        load[fold] = (load[fold][0] + defects[name], load[fold][1] + sizes[name])
    return fold_of


def group_representatives(groups: Sequence[str], duplicates: Duplicates | None, policy: Policy) -> dict[str, str]:
    """Group -> the first, by name, of all groups that it is linked to by the duplicates that count, however
    indirectly."""
    if duplicates is None or policy == "published":
        return {group: group for group in groups}
    kinds = KINDS if policy == "grouped_near" else KINDS[:1]
    joined = dict(zip(groups, duplicates.joined(numbered(groups), kinds).tolist(), strict=True))
    first: dict[int, str] = {}
    for group in sorted(joined):
        first.setdefault(joined[group], group)
    return {group: first[cluster] for group, cluster in joined.items()}


def count_leaks(duplicates: Duplicates, train: np.ndarray, test: np.ndarray) -> dict[str, int]:
    """How many test images have a duplicate among the training images, by kind of the closest.

    Args:
        duplicates: from `find_duplicates`.
        train, test: indices of the two sides.
    """
    sides = np.zeros((2, len(duplicates.bits["near"])), bool)
    sides[0, train], sides[1, test] = True, True
    identical, near = (duplicates.beside(kind, sides[0]) & sides[1] for kind in KINDS)
    return {"identical": int(identical.sum()), "near": int((near & ~identical).sum())}
