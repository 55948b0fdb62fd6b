"""The schema of ``result.json``: what one finished run says about itself.

The JSON schema of `Result` is committed as ``result.schema.json`` beside this file; after a change of the models,
``python -m anomaly_seg.results.schema`` writes it anew.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from anomaly_seg.evaluation import guarantee, metrics, thresholds

SCHEMA_VERSION: Literal[1] = 1

Basis = Annotated[guarantee.Basis, BeforeValidator(lambda value: "duplicates" if value == "twins" else value)]
"""Older results call duplicates twins."""

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class _StrictModel(BaseModel):
    """Every part refuses unknown fields and numbers that JSON cannot hold."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, populate_by_name=True)


class Run(_StrictModel):
    """Which run this is. ``model`` is the network (one_stage, unet, ...), ``variant`` what was changed about it."""

    experiment: str
    data: str
    model: str
    variant: str = ""
    dilation: Count
    fold: Count
    folds: Annotated[int, Field(ge=1)]
    split: Literal["published", "grouped", "grouped_near"]
    seed: Count
    scored: Literal["test", "validation"] = "test"
    scale: str
    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]


class Counts(_StrictModel):
    """Number of images, and of defective ones, in the training and the test part."""

    train_images: Count
    train_defective: Count
    test_images: Count
    test_defective: Count


class AtThreshold(_StrictModel):
    """Verdicts at one threshold; ``oracle`` says that the threshold was chosen on the very images it is judged on."""

    value: float
    tp: Count
    fp: Count
    fn: Count
    tn: Count
    precision: Share | None
    recall: Share | None
    f1: Share | None
    oracle: bool

    @classmethod
    def of(cls, scores: ArrayLike, labels: ArrayLike, value: float, *, oracle: bool) -> Self:
        """Counts and measures of ``score > value``. Raises as `metrics.confusion`."""
        c = metrics.confusion(scores, labels, value)
        measures = {"precision": c.precision, "recall": c.recall, "f1": c.f1}
        return cls(value=value, tp=c.tp, fp=c.fp, fn=c.fn, tn=c.tn, oracle=oracle, **measures)

    @classmethod
    def best_f(cls, scores: ArrayLike, labels: ArrayLike) -> Self | None:
        """At the oracle threshold of these scores; None without a defective image. Raises as `metrics.confusion`."""
        if not metrics.checked(scores, labels)[1].any():
            return None
        return cls.of(scores, labels, thresholds.best_f(scores, labels), oracle=True)


class ImageLevel(_StrictModel):
    """Threshold-free measures of the score that classifies; None where the test images do not define them."""

    ap: Share | None
    auroc: Share | None
    fp_at_fn0: Count | None

    @classmethod
    def of(cls, scores: ArrayLike, labels: ArrayLike) -> Self:
        return cls(
            ap=metrics.average_precision(scores, labels),
            auroc=metrics.auroc(scores, labels),
            fp_at_fn0=metrics.fp_at_fn0(scores, labels),
        )


class Readout(_StrictModel):
    """One score that the trained network gives without further training; ``background_median``: of good images."""

    ap: Share | None
    auroc: Share | None
    best_f: AtThreshold | None
    background_median: float | None

    @classmethod
    def of(cls, scores: ArrayLike, labels: ArrayLike) -> Self:
        s, defective = metrics.checked(scores, labels)
        return cls(
            ap=metrics.average_precision(scores, labels),
            auroc=metrics.auroc(scores, labels),
            best_f=AtThreshold.best_f(scores, labels),
            background_median=None if defective.all() else float(np.median(s[~defective])),
        )


class PixelLevel(_StrictModel):
    """`metrics.PixelMeasures` of the readout map against the undilated mask; IoU and Dice at their best thresholds."""

    ap: Share | None
    iou: Share | None
    dice: Share | None
    threshold_iou: float | None
    threshold_dice: float | None


class Training(_StrictModel):
    steps: Count
    epochs: Count
    parameters: Count
    train_seconds: Annotated[float, Field(ge=0)]
    test_seconds: Annotated[float, Field(ge=0)]
    final_loss: float
    peak_memory_mib: Annotated[float, Field(ge=0)] | None = None


class StartWeights(_StrictModel):
    """Weights that the training began with: what they are, the digest of their file, and their licence."""

    name: str
    sha256: str
    licence: str


class GuaranteeResult(_StrictModel):
    """One guarantee, see `evaluation.guarantee`, or why it cannot be given.

    ``defective``: independent samples (groups, where a group has several images); ``needed``: how many it takes.
    ``threshold``, ``misses_allowed`` and ``false_alarms`` are None with too few; ``smallest_miss_rate`` is what they do
    allow at that confidence. ``says``: the same for people.
    """

    miss_rate: Share
    confidence: Share
    basis: Basis
    defective: Count
    needed: Count
    smallest_miss_rate: Share
    misses_allowed: Count | None
    threshold: float | None
    false_alarms: Count | None
    good: Count
    says: str

    @classmethod
    def every(cls, scores: ArrayLike, labels: ArrayLike, groups: Sequence[str], basis: guarantee.Basis) -> list[Self]:
        """All `guarantee.GUARANTEES` for these held-out scores; ``groups``: of each image. Raises as there."""
        return [cls._of(scores, labels, groups, basis, *wanted) for wanted in guarantee.GUARANTEES]

    @classmethod
    def _of(
        cls,
        scores: ArrayLike,
        labels: ArrayLike,
        groups: Sequence[str],
        basis: guarantee.Basis,
        miss_rate: float,
        confidence: float,
    ) -> Self:
        at: dict[str, Any] = {"misses_allowed": None, "threshold": None, "false_alarms": None}
        try:
            kept = guarantee.guarantee(scores, labels, miss_rate, confidence, groups, basis)
            defective, says = kept.defective, kept.sentence
            at = {name: getattr(kept, name) for name in at}
        except guarantee.NotEnoughError as error:
            defective, says = error.defective, str(error)
        return cls(
            miss_rate=miss_rate,
            confidence=confidence,
            basis=basis,
            defective=defective,
            needed=guarantee.needed(miss_rate, confidence),
            smallest_miss_rate=guarantee.smallest_miss_rate(defective, confidence),
            good=int(np.sum(np.asarray(labels) == 0)),
            says=says,
            **at,
        )


class DuplicatesAcrossSplit(_StrictModel):
    """Test images with a byte-identical, or near-identical, image in the training part."""

    identical: Count
    near: Count


class Environment(_StrictModel):
    commit: str
    dirty: bool
    date: str
    versions: dict[str, str]
    hardware: dict[str, str | int | float]


class NetworkFacts(_StrictModel):
    """What the network says about itself, for the report; see `models.base.Network`.

    ``title``: its name, empty for that of the configuration; ``maps``: what pictures show, in order; ``meanings``: what
    each readout is, in the order of the report; readouts need not have one.
    """

    title: str = ""
    maps: list[str] = []
    meanings: dict[str, str] = {}


class Result(_StrictModel):
    """One finished run. ``readout`` names the score that classifies; ``sigma`` is scaled to this input size;
    ``guarantees`` are for this run's model on its own held-out images; ``data_digest`` names the images, masks and
    folds; ``network`` is what the network says about itself (all three absent in results of older versions); ``start``:
    None where the weights began at random."""

    schema_version: Literal[1] = SCHEMA_VERSION
    run: Run
    readout: str
    network: NetworkFacts | None = None
    counts: Counts
    sigma: float | None
    image: ImageLevel
    thresholds: dict[Literal["paper", "best_f"], AtThreshold]
    guarantees: list[GuaranteeResult] = Field(default=[], validation_alias=AliasChoices("guarantees", "promises"))
    readouts: dict[str, Readout]
    pixel: PixelLevel
    training: Training
    start: StartWeights | None = None
    duplicates_across_split: DuplicatesAcrossSplit = Field(
        validation_alias=AliasChoices("duplicates_across_split", "twins_across_split")
    )
    config_digest: str
    data_digest: str = ""
    environment: Environment


def schema() -> str:
    """The JSON schema of ``result.json``, as committed in ``result.schema.json``."""
    return json.dumps(Result.model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("result.schema.json").write_text(schema(), encoding="utf-8")
