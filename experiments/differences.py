"""Two rows of the pages against each other, image by image: verdicts, exact McNemar, and the difference in AP.

A row is named as in `tables.py`. The two may be of other networks, dilations, seeds or splits; images that both scored
count. The interval of the difference in AP is over parts, drawn with replacement.

    python experiments/differences.py comparison/results/one_stage/D9 comparison/results/one_stage/D0
    python experiments/differences.py "seeds/results/one_stage seed=1" comparison/results/unet/D9
"""

import argparse
import sys
from collections.abc import Iterator

import numpy as np
import pandas as pd
from tables import Row, read_row

from anomaly_seg import metrics
from anomaly_seg.errors import InputError
from anomaly_seg.report.verdicts import LABELS, all_verdicts


def frame(row: Row) -> pd.DataFrame:
    """One line an image: label, part, score, and the verdict ("defective" is True) at each threshold."""
    rows = row.group.frame
    found = rows[["image", "label", "part"]].assign(score=rows[row.column])
    for kind, verdicts in all_verdicts(row.group, row.column).items():
        found[kind] = rows[row.column] > rows["fold"].map(verdicts.values)
    return found


def describe(first: Row, second: Row) -> Iterator[str]:
    """The lines of the answer.

    Raises:
        InputError: no image in common, or one that is defective for one of the rows only.
    """
    both = frame(first).merge(frame(second).drop(columns="part"), on="image", suffixes=("_1", "_2"))
    label = both["label_1"]
    if both.empty or (label != both["label_2"]).any():
        raise InputError("the two rows have no image in common, or disagree on what is defective; name others")
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
    scores = [both[f"score_{number}"] for number in (1, 2)]
    found = [metrics.average_precision(score, label) for score in scores]
    if found[0] is not None and found[1] is not None:
        draws = [metrics.resampled_average_precision(score, label, both["part"]) for score in scores]
        low, high = metrics.percentile_interval(np.subtract(*draws))
        difference = f"{found[0] - found[1]:+.4f} ({low:+.4f} to {high:+.4f})"
        yield f"AP: {found[0]:.4f} and {found[1]:.4f}, difference {difference}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", help="a folder of runs below experiments/, with seed=N and so on as in tables.py")
    parser.add_argument("second")
    options = parser.parse_args()
    try:
        for line in describe(read_row(options.first), read_row(options.second)):
            print(line)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
