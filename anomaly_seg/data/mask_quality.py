"""What masks say about how they were drawn: empty or full ones, and grey edges."""

import numpy as np

from anomaly_seg.data.annotations.rasterize import ShapeSource
from anomaly_seg.data.cache import Arrays
from anomaly_seg.data.files import some
from anomaly_seg.data.image_io import to_8_bit
from anomaly_seg.data.masks import ANY_VALUE, BRIGHT, drawn_levels
from anomaly_seg.data.records import Dataset

MAX_MASK_FRACTION = 0.5
"""Share of the image from which a mask can hardly be a defect's."""

MIN_GREY_LEVELS = 8
"""Different values between 1 and 254 from which masks have grey edges; fewer may number the kinds of defect."""

SHOWN = 6
"""Names in a list, before the rest is only counted; broken files are all listed."""


def mask_notes(dataset: Dataset, arrays: Arrays) -> list[str]:
    """Proposal of a threshold where masks are grey at the edges and any value counts."""
    if arrays.preparation.mask_threshold != ANY_VALUE or not arrays.odd_masks:
        return []
    counts = _grey_levels(dataset, arrays)
    whole = np.maximum(counts[:, 1:].sum(axis=1), 1)
    bright = counts[:, BRIGHT:].sum(axis=1)
    levels = np.count_nonzero(counts[:, 1:255].sum(axis=0))
    if levels < MIN_GREY_LEVELS or not counts[:, 1:BRIGHT].any() or 2 * np.count_nonzero(bright) <= len(bright):
        return []
    share = 1 - bright / whole
    text = (
        f"{len(whole)} masks with grey edges: {1 - bright.sum() / whole.sum():.1%} of their pixels above 0 are below "
        f"{BRIGHT} ({np.median(share):.1%} in the median mask); data.mask_threshold={BRIGHT} takes only the brighter "
        "half of an edge"
    )
    if gone := [name for name, left in zip(arrays.odd_masks, bright, strict=True) if not left]:
        text += f", and leaves nothing of {some(gone, SHOWN)}"
    return [text]


def _grey_levels(dataset: Dataset, arrays: Arrays) -> np.ndarray:
    """(n, 256) pixels of each 8-bit value in the masks of `arrays.odd_masks`; those of no known range have none."""
    masks = {record.name: record.mask for record in dataset.records}
    counts = np.zeros((len(arrays.odd_masks), 256), np.int64)
    for row, name in zip(counts, arrays.odd_masks, strict=True):
        mask = masks[name]
        levels = to_8_bit(drawn_levels(mask.pixels(), mask.name)) if mask else np.empty(0)
        if levels.dtype == np.uint8:
            row += np.bincount(levels.ravel(), minlength=256)
    return counts


def too_faint(dataset: Dataset, arrays: Arrays) -> list[str]:
    """Masks with values above 0 of which the threshold takes none."""
    odd = set(arrays.odd_masks)
    names = [dataset.records[i].name for i in np.flatnonzero(arrays.labels == 0)]
    if not (faint := [name for name in names if name in odd]):
        return []
    return [
        f"masks without a value from data.mask_threshold={arrays.preparation.mask_threshold} on, taken as free of "
        f"defects: {some(faint, SHOWN)}; lower it, or draw these anew"
    ]


def mask_problems(dataset: Dataset, arrays: Arrays) -> list[str]:
    """Masks that are empty, or full, where they should not be."""
    found, records, odd = too_faint(dataset, arrays), dataset.records, set(arrays.odd_masks)
    # Where every image has a mask, a black one is how the data set says "good"; where some have none, it is odd.
    some_lack = any(r.mask is None for r in records)
    black = [records[i] for i in np.flatnonzero(arrays.labels == 0) if records[i].mask is not None]
    black = [record for record in black if record.name not in odd]
    if empty := [r.name for r in black if some_lack or isinstance(r.mask, ShapeSource)]:
        found.append(
            f"masks without a single defect pixel, taken as free of defects: {some(empty, SHOWN)}; draw the defect, or "
            "remove the mask"
        )
    share = arrays.defect_pixels / arrays.shapes.prod(axis=1)
    if full := [f"{records[i].name} ({share[i]:.0%})" for i in np.flatnonzero(share > MAX_MASK_FRACTION)]:
        found.append(
            f"masks that cover most of the image: {some(full, SHOWN)}; are they inverted, or drawn around the part, or "
            "no masks at all? Mend them, or set data.mask_suffix"
        )
    return found
