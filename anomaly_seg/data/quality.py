"""What a careful colleague would say about a data set: notes call for no action, problems do, and say which."""

from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np

from anomaly_seg.data.cache import Arrays
from anomaly_seg.data.duplicates import KINDS, Duplicates, contradictions, numbered
from anomaly_seg.data.files import some
from anomaly_seg.data.image_io import LEVELS_16_PER_8_BIT, load_image, stored_channels
from anomaly_seg.data.mask_quality import SHOWN, mask_notes, mask_problems, too_faint
from anomaly_seg.data.preparation import Preparation
from anomaly_seg.data.records import Dataset, load_mask
from anomaly_seg.errors import InputError

MIN_DEFECT_PIXELS = 4
"""Defects below this many pixels at training size count as lost."""

MIN_DEFECTIVE_PER_FOLD = 5
"""Defective test images below which a fold's recall says little."""

STRETCH = 1.3
"""Change of the aspect from which defects look different to the network."""

DIM_LEVEL_16_BIT = 1 << 14
"""A quarter of the range of 16 bits."""

MIN_GROUPS_ALIKE = 10
"""Items from which near duplicates that join most of them say that all images are alike, not that two show one part."""

TWO_VALUES_SHARE, TWO_VALUES_TOLERANCE = 0.95, 0.012
"""Share of a thumbnail's pixels at its darkest or brightest value, and how far from it, as a share of the range."""


def areas(arrays: Arrays, masks: np.ndarray) -> np.ndarray:
    """Pixels of each defective image's mask, as the network sees it; of dilated tiles the shared ones count twice.

    Args:
        arrays: of the data set.
        masks: `arrays.masks` or `arrays.exact`.
    """
    bad = np.flatnonzero(arrays.labels).tolist()
    if arrays.preparation.fit == "tile" and masks is arrays.exact:
        return arrays.defect_pixels[bad]
    return np.array([int(masks[arrays.samples([image])].sum()) for image in bad], np.int64)


def broken(dataset: Dataset, preparation: Preparation) -> list[str]:
    """The messages of all images and masks that cannot be used."""
    messages = []
    for record in dataset.records:
        try:
            shape = load_image(record.image, preparation.convert, preparation.channels).shape[:2]
            load_mask(record, shape, preparation.mask_threshold)
        except InputError as error:
            messages.append(str(error))
    return messages


def notes(dataset: Dataset, arrays: Arrays, duplicates: Duplicates) -> list[str]:
    """Oddities that call for no action."""
    found = []
    views = Counter(r.group for r in dataset.records)
    usual = Counter(views.values()).most_common(1)[0][0]
    if odd := [f"{group} has {count}" for group, count in sorted(views.items()) if count != usual]:
        found.append(f"groups have {usual} image{'s' * (usual != 1)} each, but {_names(odd)}")
    differing = [
        (t.a, t.b)
        for t in duplicates.closest
        if t.kind == "identical" and arrays.labels[t.a] == arrays.labels[t.b] and not _same_mask(arrays, t.a, t.b)
    ]
    if differing:
        pairs = [f"{dataset.records[a].name} and {dataset.records[b].name}" for a, b in differing]
        found.append(f"identical images with different masks, which shows how far two drawings differ: {_names(pairs)}")
    found += mask_notes(dataset, arrays) + _alike(duplicates, [r.group for r in dataset.records])
    return found + _fit_notes(dataset, arrays)


def _same_mask(arrays: Arrays, a: int, b: int) -> bool:
    one, other = (arrays.exact[arrays.samples([image])] for image in (a, b))
    return bool(arrays.defect_pixels[a] == arrays.defect_pixels[b] and np.array_equal(one, other))


def _fit_notes(dataset: Dataset, arrays: Arrays) -> list[str]:
    """What resizing and turning grey take away."""
    found, preparation = [], arrays.preparation
    aspect = arrays.shapes[:, 0] / arrays.shapes[:, 1] / (preparation.height / preparation.width)
    typical = float(np.median(aspect))
    if preparation.fit == "resize" and max(typical, 1 / typical) >= STRETCH:
        height, width = (int(side) for side in np.median(arrays.shapes, axis=0))
        found.append(
            f"images of about {height}x{width} become {preparation.height}x{preparation.width}, "
            f"{max(typical, 1 / typical):.1f} times {'wider' if typical > 1 else 'narrower'} for their height; "
            "set scale.height and scale.width to their aspect, or data.fit=pad"
        )
    if grey := _turned_grey(dataset, arrays):
        what = "image becomes" if len(grey) == 1 else "images become"
        found.append(f"{len(grey)} colour {what} grey; data.channels=3 keeps the colour: {_names(grey)}")
    if specks := _specks(dataset, arrays):
        lost, total = sum(count for _, count, _ in specks), sum(whole for _, _, whole in specks)
        where = _names([f"{name} ({count} of {whole})" for name, count, whole in specks])
        found.append(
            f"{lost} of {total} separate defects in {len(specks)} images are smaller than a pixel at "
            f"{preparation.height}x{preparation.width} and vanish: {where}; a larger scale, or data.fit=tile, keeps "
            "them"
        )
    return found


def _turned_grey(dataset: Dataset, arrays: Arrays) -> list[str]:
    """Names of the images that are stored in colour and used as grey; without a record of it all are decoded again."""
    if arrays.preparation.channels != 1 or arrays.preparation.convert == "error":
        return []
    colour = arrays.colour
    if colour is None:
        colour = np.array([stored_channels(r.image.pixels()) > 1 for r in dataset.records])
    return [dataset.records[i].name for i in np.flatnonzero(colour)]


def _specks(dataset: Dataset, arrays: Arrays) -> list[tuple[str, int, int]]:
    """Image, its separate defects that are smaller than a pixel at the network's size, and all of its."""
    found, preparation = [], arrays.preparation
    for i in np.flatnonzero(arrays.labels).tolist():
        height, width = arrays.shapes[i].tolist()
        sides = preparation.height / height, preparation.width / width
        scale = {"resize": sides[0] * sides[1], "pad": min(sides) ** 2}.get(preparation.fit, 1.0)
        if scale >= 1:
            continue
        mask, _ = load_mask(dataset.records[i], (height, width), preparation.mask_threshold)
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        sizes = stats[1:, cv2.CC_STAT_AREA]
        if small := int((sizes * scale < 1).sum()):
            found.append((dataset.records[i].name, small, len(sizes)))
    return found


def fold_notes(labels: np.ndarray, folds: np.ndarray, tested: int) -> list[str]:
    """Folds with so few defects that a single one moves their figures."""
    counts = [int(labels[folds == fold].sum()) for fold in range(tested)]
    few = [f"fold {fold} has {count}" for fold, count in enumerate(counts) if count < MIN_DEFECTIVE_PER_FOLD]
    if not few:
        return []
    step = 100 / min(counts)
    return [
        f"few defective test images ({_names(few)}): a single one moves a fold's recall by {step:.0f} points; go by "
        "the pooled figures and their intervals, or label more"
    ]


def problems(dataset: Dataset, arrays: Arrays) -> list[str]:
    """What would spoil training or evaluation without an error."""
    if not arrays.labels.any():
        nothing = "no image is defective: nothing can be learnt; check the masks"
        return [nothing, *too_faint(dataset, arrays), *_image_problems(dataset, arrays)]
    return mask_problems(dataset, arrays) + _size_problems(dataset, arrays) + _image_problems(dataset, arrays)


def _size_problems(dataset: Dataset, arrays: Arrays) -> list[str]:
    found, preparation = [], arrays.preparation
    names = [dataset.records[i].name for i in np.flatnonzero(arrays.labels)]
    size, remedy = f"{preparation.height}x{preparation.width}", "use a larger scale, or data.fit=tile"
    for what, masks in (("defects", arrays.exact), (f"labels (D = {preparation.dilation})", arrays.masks)):
        area = areas(arrays, masks)
        if lost := [f"{name} ({a})" for name, a in zip(names, area, strict=True) if a < MIN_DEFECT_PIXELS]:
            found.append(f"{what} of fewer than {MIN_DEFECT_PIXELS} pixels at {size}: {_names(lost)}; {remedy}")
        if masks is arrays.masks and preparation.dilation < 2:
            break
    return found


def _image_problems(dataset: Dataset, arrays: Arrays) -> list[str]:
    found, names = _dim(dataset, arrays) + mask_like(dataset, arrays), [r.name for r in dataset.records]
    found += contradictions(names, arrays.fingerprints, arrays.labels)
    if flat := [names[i] for i in np.flatnonzero(~arrays.thumbnails.any(axis=1))]:
        found.append(f"images of one grey value: {_names(flat)}; replace or remove them")
    first: dict[tuple[str, str], str] = {}
    copies = []
    for record, print_ in zip(dataset.records, arrays.fingerprints, strict=True):
        other = first.setdefault((record.group, print_), record.name)
        if other != record.name:
            copies.append(f"{record.name} = {other}")
    if copies:
        found.append(f"a group's image twice: {_names(copies)}; remove one of each")
    views = Counter(r.group for r in dataset.records)
    single = sorted(group for group, count in views.items() if count == 1)
    if single and len(single) < len(views) / 2:
        found.append(f"only one image, where other groups have more: {_names(single)}; an incomplete copy?")
    return found


def mask_like(dataset: Dataset, arrays: Arrays) -> list[str]:
    """Good images of two values alone: masks, most likely, whose names did not tell. `train` refuses them too.

    Where defective images are of two values too, that is how the data look.
    """
    lowest, highest = arrays.thumbnails.min(axis=1, keepdims=True), arrays.thumbnails.max(axis=1, keepdims=True)
    reach = TWO_VALUES_TOLERANCE * (highest - lowest)
    ends = (arrays.thumbnails <= lowest + reach) | (arrays.thumbnails >= highest - reach)
    like = (ends.mean(axis=1) >= TWO_VALUES_SHARE) & (highest > lowest)[:, 0]
    bad = arrays.labels == 1
    names = [dataset.records[i].name for i in np.flatnonzero(like & ~bad)]
    if not names or (bad.any() and like[bad].mean() > 0.5):
        return []
    return [
        f"images of two values alone, which masks have: {_names(names)}; if they are masks, name them like the others "
        "or set data.mask_suffix, else remove them"
    ]


def _dim(dataset: Dataset, arrays: Arrays) -> list[str]:
    """16-bit images that hold the values of fewer bits, as cameras of 10 and 12 bits write them."""
    if arrays.preparation.convert == "error":
        return []
    highest: dict[str, int] = {}
    for i, record in enumerate(dataset.records):
        brightest = arrays.images[arrays.samples([i])].max()  # resizing only lowers it
        if brightest <= DIM_LEVEL_16_BIT // LEVELS_16_PER_8_BIT:
            pixels = record.image.pixels()
            if pixels.dtype == np.uint16 and 0 < pixels.max() < DIM_LEVEL_16_BIT:
                highest[record.name] = int(pixels.max())
    if not highest:
        return []
    top = max(highest.values())
    bits = top.bit_length()
    return [
        f"16-bit images that use less than a quarter of the range: {_names(list(highest))}; the highest value is {top} "
        f"of 65535, which leaves {top // LEVELS_16_PER_8_BIT + 1} of 256 grey levels; if the camera has {bits} bits, "
        f"multiply its values by {1 << 16 - bits}, also where the model is used"
    ]


def duplicate_problems(
    duplicates: Duplicates, groups: Sequence[str], folds: np.ndarray, file: str | None = None
) -> list[str]:
    """Duplicates on both sides of the split; near ones only where they tell parts apart.

    Args:
        duplicates: from `find_duplicates`.
        groups: n groups.
        folds: (n,) of every image.
        file: of saved folds, which stay as they are whatever the policy.
    """
    found = []
    again = f", once {file} is deleted" if file else ""
    for kind, name, remedy in zip(KINDS, ("identical", "near-identical"), ("grouped", "grouped_near"), strict=True):
        apart = duplicates.count(kind, folds)
        if apart and not (kind == "near" and _alike(duplicates, groups)):
            found.append(
                f"{apart} pairs of {name} images lie on both sides of the split, so a test image was trained on; "
                f"data.split={remedy} keeps them together{again}"
            )
    return found


def _alike(duplicates: Duplicates, groups: Sequence[str]) -> list[str]:
    """What to say where most groups are near duplicates of one another."""
    clusters = duplicates.joined(numbered(groups), ("near",)).tolist()
    sizes = Counter(cluster for _, cluster in set(zip(groups, clusters, strict=True)))
    largest, total = max(sizes.values()), sum(sizes.values())
    if largest < MIN_GROUPS_ALIKE or largest <= total / 2:
        return []
    return [
        f"near duplicates join {largest} of {total} groups: images of one product in one place are alike whatever part "
        "they show, so near duplicates say nothing here; keep data.split=grouped, and let data.groups name the parts"
    ]


def _names(names: Sequence[str]) -> str:
    return some(names, SHOWN)
