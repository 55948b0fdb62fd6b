"""Cross-validation folds by item."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from anomaly_seg.data.twins import Twin
from anomaly_seg.errors import InputError

Policy = Literal["published", "grouped", "grouped_near"]


def assign_folds(
    items: Sequence[str],
    labels: Sequence[int],
    folds: int,
    policy: Policy,
    twins: Sequence[Twin] = (),
    published: Mapping[str, int] | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Test fold of every image, (n,) in 0..folds-1.

    published: the folds that came with the data. grouped: the same (or, where none came, stratified folds by item), but
    items with byte-identical images join the fold of the first of them. grouped_near: near-identical images count too.

    Args:
        items: n items; all images of an item share a fold.
        labels: n, 1 = defective.
        folds: how many.
        twins: from `find_twins`.
        published: item -> fold.
        seed: of the stratified folds.

    Raises:
        InputError: unknown policy, folds below 2, no published folds, an item without fold, a fold without images or
            without defects.
    """
    if policy not in ("published", "grouped", "grouped_near"):
        raise InputError(f"data.split={policy}: choose published, grouped or grouped_near")
    if folds < 2:
        raise InputError(f"data.folds={folds}: use 2 or more")
    if published is None and policy == "published":
        raise InputError("data.split=published: this data set came without folds; use data.split=grouped")
    base = _published(items, folds, published) if published is not None else _stratified(items, labels, folds, seed)
    if policy != "published":
        base = _join(base, items, [t for t in twins if t.kind == "identical" or policy == "grouped_near"])
    result = np.array([base[item] for item in items])
    remedy = "use fewer folds (data.folds) or more items" if published is None else "data.root lacks some of the items"
    for fold in range(folds):
        inside = result == fold
        if not inside.any():
            raise InputError(f"fold {fold} of {folds} holds no image: {remedy}")
        for side, where in (("test", inside), ("training", ~inside)):
            if not np.asarray(labels)[where].any():
                raise InputError(f"fold {fold} of {folds} has no defective {side} image: {remedy}")
    return result


def _published(items: Sequence[str], folds: int, published: Mapping[str, int]) -> dict[str, int]:
    if folds != max(published.values()) + 1:
        raise InputError(f"data.folds={folds}: the published split has {max(published.values()) + 1}")
    missing = sorted(set(items) - set(published))
    if missing:
        raise InputError(f"items {', '.join(missing[:5])} are in no published fold; check data.root")
    return {item: published[item] for item in set(items)}


def _stratified(items: Sequence[str], labels: Sequence[int], folds: int, seed: int) -> dict[str, int]:
    """Items with most defects first, each to the fold with fewest defective (then fewest) images so far."""
    names = sorted(set(items))
    order = np.random.default_rng(seed).permutation(len(names))
    sizes = Counter(items)
    defects = Counter(item for item, label in zip(items, labels, strict=True) if label)
    load = [(0, 0)] * folds
    fold_of: dict[str, int] = {}
    for name in sorted((names[i] for i in order), key=lambda n: -defects[n]):
        fold = min(range(folds), key=lambda k: load[k])
        fold_of[name] = fold
        load[fold] = (load[fold][0] + defects[name], load[fold][1] + sizes[name])
    return fold_of


def _join(base: dict[str, int], items: Sequence[str], twins: Sequence[Twin]) -> dict[str, int]:
    """Move every item that is linked by twins, however indirectly, to the fold of the first item of its group."""
    parent = {item: item for item in base}

    def root(item: str) -> str:
        while parent[item] != item:
            item = parent[item]
        return item

    for twin in twins:
        a, b = sorted((root(items[twin.a]), root(items[twin.b])))
        parent[b] = a  # the smaller name leads
    return {item: base[root(item)] for item in base}


def across(twins: Sequence[Twin], train: Iterable[int], test: Iterable[int]) -> dict[str, int]:
    """How many test images have a twin among the training images, by kind of the closest twin.

    Args:
        twins: from `find_twins`.
        train, test: indices of the two sides.
    """
    trained, tested = set(map(int, train)), set(map(int, test))
    kinds: dict[int, set[str]] = {}
    for a, b, kind, _ in twins:
        for one, other in ((a, b), (b, a)):
            if one in tested and other in trained:
                kinds.setdefault(one, set()).add(kind)
    identical = sum("identical" in found for found in kinds.values())
    return {"identical": identical, "near": len(kinds) - identical}
