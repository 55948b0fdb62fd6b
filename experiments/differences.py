"""Comparison of two rows of the pages image by image: verdicts, exact McNemar test, and difference in AP.

A row is named as in `tables.py`. The two may differ in network, dilation, seed or split; only images that both
scored count. The interval of the difference in AP resamples groups of images with replacement. With several pairs (the
seeds of two networks, say) the last line is the mean of their differences; its interval uses the same draws in each.

    python experiments/differences.py comparison/results/one_stage/D9 comparison/results/one_stage/D0
    python experiments/differences.py "seeds/results/unet/D9 seed=1" "seeds/results/one_stage/D9 seed=1" \\
        "seeds/results/unet/D9 seed=2" "seeds/results/one_stage/D9 seed=2"
"""

import argparse
import sys
from collections.abc import Iterator

import numpy as np
import pandas as pd
from tables import Row, read_row

from anomaly_seg.errors import InputError
from anomaly_seg.evaluation import metrics
from anomaly_seg.reporting.thresholding import LABELS, all_verdicts


def frame(row: Row) -> pd.DataFrame:
    """One line an image: label, representative, score, and the verdict ("defective" is True) at each threshold."""
    rows = row.method.frame
    table = rows[["image", "label", "representative"]].assign(score=rows[row.column])
    for kind, verdicts in all_verdicts(row.method, row.column).items():
        table[kind] = rows[row.column] > rows["fold"].map(verdicts.values)
    return table


def pair(first: Row, second: Row) -> pd.DataFrame:
    """The images that both scored, a line each.

    Raises:
        InputError: no image in common, or one that is defective for one of the rows only.
    """
    both = frame(first).merge(frame(second).drop(columns="representative"), on="image", suffixes=("_1", "_2"))
    if both.empty or (both["label_1"] != both["label_2"]).any():
        raise InputError("the two rows have no image in common, or disagree on what is defective; name others")
    return both


def verdicts(both: pd.DataFrame) -> Iterator[str]:
    """The lines on the verdicts of a `pair`."""
    label = both["label_1"]
    yield f"{len(both)} images, {label.sum()} defective"
    for kind in LABELS:
        if f"{kind}_1" in both and f"{kind}_2" in both:
            right = [both[f"{kind}_{number}"] == (label == 1) for number in (1, 2)]
            test = metrics.mcnemar_exact(*right)
            errors = " and ".join(str(int((~r).sum())) for r in right)
            yield f"{LABELS[kind]}: {errors} errors; right alone {test.b} and {test.c}, p = {test.p_value:.2g}"
            for who, wrong in (("first", right[1] & ~right[0]), ("second", right[0] & ~right[1])):
                if wrong.any():
                    yield f"  wrong for the {who} alone: {', '.join(sorted(both['image'][wrong]))}"


def ranking(pairs: list[pd.DataFrame]) -> str:
    """The line on the AP of each first and second row, the mean where there are several pairs.

    Raises:
        InputError: the pairs are not of the same images: the draws of one are then not those of another.
    """
    if len({tuple(sorted(both["image"])) for both in pairs}) > 1:
        raise InputError("the pairs of rows are not of the same images, so no mean difference has an interval")
    precision, draws = np.empty((len(pairs), 2)), []
    for k, both in enumerate(pairs):
        label, scores = both["label_1"], [both[f"score_{number}"] for number in (1, 2)]
        values = [metrics.average_precision(score, label) for score in scores]
        if None in values:
            return "AP: undefined without both good and defective images"
        precision[k] = values
        groups = both["representative"]
        draws.append(np.subtract(*[metrics.resampled_average_precision(s, label, groups) for s in scores]))
    low, high = metrics.percentile_interval(np.mean(draws, axis=0))
    first, second = precision.mean(axis=0)
    return f"AP: {first:.4f} and {second:.4f}, difference {first - second:+.4f} ({low:+.4f} to {high:+.4f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = "a folder of runs below experiments/, with seed=N and so on as in tables.py; first and second in turn"
    parser.add_argument("rows", nargs="+", metavar="ROW", help=text)
    rows = parser.parse_args().rows
    if len(rows) % 2:
        parser.error(f"rows come in pairs, and these are {len(rows)}")
    try:
        pairs = []
        for first, second in zip(rows[::2], rows[1::2], strict=True):
            pairs.append(pair(read_row(first), read_row(second)))
            print(f"{first} and {second}", *verdicts(pairs[-1]), ranking(pairs[-1:]), sep="\n")
        if len(pairs) > 1:
            print(f"mean of {len(pairs)} pairs", ranking(pairs), sep="\n")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
