"""The model card inside a sealed model: what it was trained on, how good it is, what it takes and gives."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

CARD_VERSION: Literal[1] = 1

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class _StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Threshold(_StrictModel):
    """value: the verdict is "defective" above it. kind: how it was chosen; how: the same as a sentence, the promise of
    a guarantee included. oracle: chosen on the very scores that the metrics are computed from."""

    value: float
    kind: Literal["held_out", "paper", "best_f", "guarantee", "given"]
    how: str
    oracle: bool


class Estimate(_StrictModel):
    """A share with its exact (Clopper-Pearson) 95 % interval."""

    value: Share
    low: Share
    high: Share


class Metrics(_StrictModel):
    """On held-out images, each scored by the members that had it not in training (several seeds: their mean). Of one
    fold's members this is the very model; a model of several folds has seen every image, and this is its estimate.
    tp, fp, fn, tn: verdicts at the card's threshold, or, where `threshold` says "cross_fold", each fold at the
    threshold of the others."""

    threshold: Literal["card", "cross_fold"]
    images: Count
    defective: Count
    tp: Count
    fp: Count
    fn: Count
    tn: Count
    f1: Share | None
    average_precision: Share | None
    recall: Estimate
    false_alarm_rate: Estimate


class Data(_StrictModel):
    """What it was trained on. licence: of the data, as the reader knows it; "unknown" where nobody said."""

    name: str
    licence: str
    train_images: Count
    train_defective: Count
    folds: list[int]
    split: str
    dilation: Count


class Start(_StrictModel):
    """Weights that a member's training began with: what they are, or the path of an earlier run; SHA-256 of their
    file; their licence."""

    name: str
    sha256: str
    licence: str


class InputContract(_StrictModel):
    """What `image` may be. fit: how it becomes the network's size (resize, pad or tile). With tile, the graph takes one
    tile of height x width, and `load` cuts and stitches with `tile_overlap`. native: (height, width) ranges of the
    training images, as (lowest, highest); None where the data were gone when the model was exported."""

    dtype: Literal["uint8"] = "uint8"
    channels: Literal[1, 3]
    height: int
    width: int
    fit: Literal["resize", "pad", "tile"]
    resize: Literal["area", "nearest"]
    tile_overlap: Count = 0
    native_height: tuple[int, int] | None = None
    native_width: tuple[int, int] | None = None


class Quantisation(_StrictModel):
    """What INT8 cost, the float32 model against the INT8 one at the card's threshold, on the same images. held_out:
    whether no member had these images in training; f1: of the verdicts."""

    calibration_images: Count
    images: Count
    defective: Count
    held_out: bool
    f1_float32: Share | None
    f1_int8: Share | None
    verdicts_changed: Count

    @property
    def sentence(self) -> str:
        kind = "held-out images" if self.held_out else "images that some of the members were trained on"
        return (
            f"on {self.images} {kind}: F1 {self.f1_int8 or 0:.4f}, in float32 {self.f1_float32 or 0:.4f}; "
            f"{self.verdicts_changed} verdicts changed"
        )


class ModelCard(_StrictModel):
    """The card. maps: names of the network's maps. heat_map: which of them is it. pooled: the map whose pixels
    are summed to the score; None where the score is no such sum, as a decision of the network's own. pixel_threshold:
    the heat map above it is "defect" when regions are drawn. members: runs whose mean score it gives (1 = no
    ensemble). commit: of the code that trained; package_version: of the code that exported. metrics: None where the
    held-out images lack good or defective ones, and for an INT8 model that has not scored all of them. starts: what the
    members' weights began with, where that was not at random."""

    card_version: Literal[1] = CARD_VERSION
    name: str
    network: str
    format: Literal["onnx", "openvino", "torch"]
    precision: Literal["float32", "int8"]
    members: Annotated[int, Field(ge=1)]
    parameters: Count
    maps: list[str]
    heat_map: str
    pooled: str | None = None
    pixel_threshold: Share
    threshold: Threshold
    metrics: Metrics | None
    quantisation: Quantisation | None = None
    data: Data
    starts: list[Start] = []
    input: InputContract
    created: str
    package_version: str
    commit: str
