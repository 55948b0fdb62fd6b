"""The three thresholds that turn a score into a verdict. They are reported side by side and never mixed.

``paper``       the published sigma, scaled to the input size: no score of ours had a say in it. Its authors set it on
                KolektorSDD itself (section 3), so there it is no threshold for unseen data.
``best_f``      the threshold of the highest F1 on the scores it is given. Chosen on test scores, as the paper and its
                rivals do, it is an *oracle*: it says what a perfectly placed threshold would have reached.
``cross_fold``  for fold k, ``best_f`` on the test scores of the other folds: no score of fold k is used
                (the other folds' networks did train on its images).
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from anomaly_seg.evaluation.metrics import checked

PAPER_HEIGHT, PAPER_WIDTH = 1408, 512


def paper(sigma: float, height: int, width: int) -> float:
    """The published sigma at another input size: a sum over pixels (Eq. 5) grows with their number.

    >>> paper(100, 704, 256)
    25.0

    Raises:
        ValueError: a size below one pixel.
    """
    if height < 1 or width < 1:
        raise ValueError(f"input size has to be at least 1 x 1, got {height} x {width}")
    return sigma * (height * width) / (PAPER_HEIGHT * PAPER_WIDTH)


def best_f(scores: ArrayLike, labels: ArrayLike) -> float:
    """The single threshold with the highest F1 for the rule ``score > threshold``. On test scores: an oracle.

    Candidates are the midpoints between neighbouring distinct scores and the number just below the lowest score
    (everything is called defective). Of thresholds with equal F1 the lowest wins: in inspection a miss costs more than
    a false alarm. The result does not depend on the order of the images.

    Args:
        scores: (n,), finite.
        labels: (n,) of 0 and 1.

    Raises:
        ValueError: no defective image (F1 is then undefined or 0 everywhere), or as `metrics.confusion`.

    >>> best_f([1.0, 2.0, 4.0, 8.0], [0, 0, 1, 1])
    3.0
    """
    s, y = checked(scores, labels)
    if not y.any():
        raise ValueError("best_f needs at least one defective image: without one, F1 has no maximum")
    values, index = np.unique(s, return_inverse=True)
    defective = np.bincount(index, weights=y, minlength=len(values))
    images = np.bincount(index, minlength=len(values))
    # Entry i: the threshold lies just below values[i], so values[i:] are called defective. The threshold above the
    # highest score is left out: its F1 is 0.
    tp = np.cumsum(defective[::-1])[::-1]
    called = np.cumsum(images[::-1])[::-1]
    f1 = 2 * tp / (called + y.sum())
    i = int(np.argmax(f1))  # the first, so the lowest
    return _between(values[i - 1], values[i]) if i else float(np.nextafter(values[0], -np.inf))


def cross_fold(scores_by_fold: Mapping[int, ArrayLike], labels_by_fold: Mapping[int, ArrayLike]) -> dict[int, float]:
    """For every fold, the `best_f` threshold of the pooled test scores of all *other* folds.

    Args:
        scores_by_fold: fold -> (n_fold,) scores.
        labels_by_fold: fold -> (n_fold,) labels of the same images.

    Raises:
        ValueError: fewer than two folds, folds that differ between the arguments, or no defective image in the other
            folds of some fold.
    """
    if len(scores_by_fold) < 2 or set(scores_by_fold) != set(labels_by_fold):
        raise ValueError(f"cross_fold needs two or more folds, got {[*scores_by_fold]} and {[*labels_by_fold]}")
    thresholds = {}
    for fold in sorted(scores_by_fold):
        others = [other for other in sorted(scores_by_fold) if other != fold]
        thresholds[fold] = best_f(
            np.concatenate([np.asarray(scores_by_fold[other]) for other in others]),
            np.concatenate([np.asarray(labels_by_fold[other]) for other in others]),
        )
    return thresholds


def _between(low: float, high: float) -> float:
    """Midpoint of two floats; ``low`` itself where no float lies between them (``score > low`` splits them as well)."""
    middle = float(low / 2 + high / 2)
    return middle if low <= middle < high else float(low)
