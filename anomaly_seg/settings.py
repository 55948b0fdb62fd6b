"""Settings of a run as one typed model, checked once after Hydra composed them, and what makes two runs the same.

A key's meaning stands beside its default in ``conf/``; here stand its type, its range and the remedy for a wrong value.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails

from anomaly_seg.data.dilation import StructuringElement
from anomaly_seg.data.image_io import Convert
from anomaly_seg.data.preparation import Preparation
from anomaly_seg.data.resize import Fit, Resize
from anomaly_seg.data.splits import Policy
from anomaly_seg.errors import InputError
from anomaly_seg.settings_history import upgrade

CONFIG = "config.yaml"
"""The file in a run's folder that says with which settings it was made."""

PATHS = ("data.root", "data.annotations", "data.splits", "data.cache_dir", "output_dir")
"""Keys whose value is a path, or null."""

IRRELEVANT = (
    "output_dir", "run_name", "overwrite", "pictures", "profile", "logger", "threads", "data.workers", "data.cache_dir",
    "data.root", "data.reader.root", "data.licence", "trainer.enable_progress_bar", "trainer.log_every_n_steps",
    "trainer.devices",
)  # fmt: skip
"""Keys that change where, how fast or how loudly a run works, but not its result."""

EvaluateOn = Literal["test", "validation"]

Precision = Literal["32-true", "bf16-mixed", "16-mixed", "auto"]

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
"""torch.compile's documented modes."""


def _checked(holds: Callable[[Any], bool], remedy: str) -> BeforeValidator:
    """A check of the value as it was given, before pydantic could make 1 of true or 3 of "3"."""

    def check(value: Any) -> Any:
        if not holds(value):
            raise ValueError(remedy)
        return value

    return BeforeValidator(check)


def _is_whole(value: object, lowest: float = -math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= lowest


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(lowest: int) -> BeforeValidator:
    return _checked(lambda value: _is_whole(value, lowest), f"use a whole number, {lowest} or more")


def _choice(literal: Any) -> BeforeValidator:
    choices = get_args(literal)
    separator = " or " if len(choices) <= 3 else ", "
    return _checked(lambda value: isinstance(value, str) and value in choices, f"choose {separator.join(choices)}")


def _name(value: Any) -> Any:
    """On a command line, 2 is a number and null is nothing; both make a name."""
    if value is None:
        raise ValueError("give a name")
    return str(value)


Count = Annotated[int, _whole(0)]
Positive = Annotated[int, _whole(1)]
Name = Annotated[str, BeforeValidator(_name)]
Switch = Annotated[bool, _checked(lambda value: isinstance(value, bool), "use true or false")]
"""Hydra takes other words, such as no, for text, and any text would count as true."""
FilePath = Annotated[
    str | None,
    _checked(
        lambda value: isinstance(value, str | None),
        "give a path, in quotes where it looks like a number or a list",
    ),
]
Rate = Annotated[float, _checked(lambda value: _is_number(value) and value > 0, "use a number above 0")]


class _Section(BaseModel):
    """A part of the settings: frozen, and without keys that nobody reads."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class _OpenSection(_Section):
    """A part that a library, a reader or a network may add keys of its own to."""

    model_config = ConfigDict(extra="allow")

    def extra(self) -> dict[str, Any]:
        """The keys that this model does not name."""
        return dict(self.model_extra or {})


class PhaseSettings(_Section):
    """What trains when: length in units of `epochs`; train: the parts that learn, empty = all; weights: by logit."""

    name: str
    length: Any
    train: list[str] = []
    weights: dict[str, float]


class ModelSettings(_Section):
    """A network and how it is trained. network: `_target_` and its arguments, open to any network."""

    name: Name
    network: dict[str, Any]
    paper_sigma: Any
    positive_weight: Any
    average: Any
    norm_momentum: Any = 0.1  # from here on, defaults are what runs did before there was a choice
    flip_average: Switch = False
    phases: list[PhaseSettings]

    @model_validator(mode="after")
    def _check(self) -> Self:
        sigma = self.paper_sigma
        for value in sigma.values() if isinstance(sigma, Mapping) else [] if sigma is None else [sigma]:
            if not _is_number(value) or value < 0:
                raise ValueError(
                    f"model.paper_sigma={value}: use null, a number, 0 or more, or such a number for each D"
                )
        if not _is_number(self.average) or not 0 <= self.average < 1:
            raise ValueError(f"model.average={self.average}: use 0 (off) or a decay below 1 such as 0.9999")
        if not _is_number(self.norm_momentum) or not 0 < self.norm_momentum <= 1:
            raise ValueError(f"model.norm_momentum={self.norm_momentum}: use a number above 0, up to 1")
        if not _is_number(self.positive_weight) or self.positive_weight <= 0:
            raise ValueError(
                f"model.positive_weight={self.positive_weight}: use a number above 0; 1 is the paper's loss"
            )
        return self


class DataSettings(_OpenSection):
    """A data set, its folds and how its images become samples. reader: `_target_` and its arguments."""

    name: Name
    root: FilePath = None
    annotations: FilePath = None
    reader: dict[str, Any]
    folds: Positive
    split: Annotated[Policy, _choice(Policy)]
    split_seed: Count
    splits: FilePath = None
    structuring_element: Annotated[StructuringElement, _choice(StructuringElement)]
    resize: Annotated[Resize, _choice(Resize)]
    convert: Annotated[Convert, _choice(Convert)]
    channels: Annotated[int, _checked(lambda value: value in (1, 3), "use 1 (grey) or 3 (colour)")] = 1
    fit: Annotated[Fit, _choice(Fit)] = "resize"
    tile_overlap: Any = 64
    workers: Count = 0
    licence: str | None = None
    cache_dir: FilePath = None


class OptimizerSettings(_OpenSection):
    """Name, schedule, and the optimiser's own arguments."""

    name: str
    schedule: str = "none"
    lr: Rate


class SamplerSettings(_Section):
    """Order of the training images."""

    kind: str


class TrainerSettings(_OpenSection):
    """Device and speed, and any further argument of Lightning's Trainer."""

    accelerator: str = "auto"
    devices: Any = 1
    precision: Annotated[Precision, _choice(Precision)]
    channels_last: Switch = False
    compile: Any = False
    gradient_clip_val: Any = None
    deterministic: Any = True
    log_every_n_steps: Any = 10
    enable_progress_bar: Switch = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.devices == 1 or (isinstance(self.devices, list) and len(self.devices) == 1)):
            raise ValueError(
                f"trainer.devices={self.devices}: a run takes one device: 1, or a list with its number, such as [1]; "
                "to use several, start a sweep on each, over other folds or models"
            )
        if not isinstance(self.compile, bool) and self.compile not in get_args(CompileMode):
            modes = ", ".join(get_args(CompileMode))
            raise ValueError(f"trainer.compile={self.compile}: choose false, true or {modes}")
        return self


class LoggerSettings(_OpenSection):
    """Where losses and results are tracked."""

    kind: str


class ScaleSettings(_Section):
    """Input size in pixels, and the fraction of the published channel counts."""

    name: Name
    height: Positive
    width: Positive
    width_multiplier: Rate


_Seed = Annotated[int, _checked(lambda v: _is_whole(v, 0) and v < 2**32, "use a whole number from 0 to 4294967295")]
_Dilation = Annotated[
    int,
    _checked(
        lambda v: _is_whole(v, 0) and (v == 0 or v % 2 == 1),
        "use 0 (as drawn) or an odd number such as 5, 9, 13 or 17",
    ),
]


class Settings(_Section):
    """Everything that is decided about one run."""

    experiment_name: Name
    variant: Annotated[str, BeforeValidator(lambda value: "" if value is None else str(value))] = ""
    fold: Annotated[int, _checked(_is_whole, "use a whole number; several folds need -m")]
    dilation: _Dilation
    evaluate_on: Annotated[EvaluateOn, _choice(EvaluateOn)] = "test"
    seed: _Seed
    augment: str
    epochs: Positive
    batch_size: Positive
    overwrite: Switch = False
    pictures: Switch = True
    profile: Switch = False
    threads: Annotated[int | None, _checked(lambda v: v is None or _is_whole(v, 0), "use a whole number, 0 or more")]
    output_dir: FilePath
    run_name: str
    model: ModelSettings
    data: DataSettings
    optimizer: OptimizerSettings
    sampler: SamplerSettings
    trainer: TrainerSettings
    logger: LoggerSettings
    scale: ScaleSettings

    @classmethod
    def of(cls, composed: Mapping[str, Any]) -> Self:
        """From a composed configuration, or from the record of a run, of older versions too.

        Raises:
            InputError: for every wrong value its key, the value and what to use instead.
        """
        try:
            return cls.model_validate(upgrade(composed))
        except ValidationError as error:
            raise InputError("\n".join(dict.fromkeys(map(_sentence, error.errors())))) from None

    @model_validator(mode="after")
    def _check(self) -> Self:
        trainer = self.trainer
        if trainer.precision == "16-mixed" and trainer.gradient_clip_val and self.optimizer.extra().get("fused"):
            raise ValueError(
                "trainer.gradient_clip_val with trainer.precision=16-mixed: a fused optimiser scales gradients "
                "itself, so they cannot be clipped; set optimizer.fused=false, or use trainer.precision=bf16-mixed"
            )
        self.all_epochs  # noqa: B018  # raises for phases that make no epoch
        return self

    @property
    def all_epochs(self) -> int:
        """Epochs of all phases together."""
        lengths = [phase.length for phase in self.model.phases]
        try:
            total = round(self.epochs * sum(float(length) for length in lengths))
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"model.phases: lengths {lengths}: give each phase a number above 0") from error
        if total < 1:
            raise ValueError(
                f"epochs={self.epochs} times the lengths {lengths} of model.phases make no whole epoch: raise one"
            )
        return total

    @property
    def folder(self) -> Path:
        """Where the run's files go."""
        return Path(self.output_dir or ".") / self.run_name

    @property
    def preparation(self) -> Preparation:
        """How images become samples of the network's size."""
        data = self.data
        return Preparation(
            self.scale.height, self.scale.width, self.dilation, data.structuring_element, data.resize, data.convert,
            data.channels, data.fit, data.tile_overlap,
        )  # fmt: skip

    def flat(self) -> dict[str, Any]:
        """All values by dotted key."""
        return _flat(self.model_dump())

    def digest(self) -> str:
        """Short name of everything that decides a run's result."""
        return hashlib.sha256(json.dumps(self.relevant(), sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, other: "Settings", ignored: tuple[str, ...] = ()) -> list[str]:
        """The keys that make two runs different, as "key: own -> other's"."""
        a, b = self.relevant(), other.relevant()
        keys = sorted(k for k in a.keys() | b.keys() if k not in ignored and a.get(k) != b.get(k))
        return [f"{k}: {a.get(k)} -> {b.get(k)}" for k in keys]

    def relevant(self) -> dict[str, Any]:
        """The values that decide a run's result, by dotted key."""
        return {k: v for k, v in self.flat().items() if not any(k == i or k.startswith(f"{i}.") for i in IRRELEVANT)}


def read(record: Path) -> Settings:
    """The settings in a run's config.yaml.

    Raises:
        InputError: it is damaged, cannot be read, or holds no settings of a run.
    """
    try:
        raw = yaml.safe_load(record.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        raw = None
    if not isinstance(raw, dict):
        raise InputError(
            f"{record}: cannot be read, or damaged; copy it again, set overwrite=true to replace the run, or delete "
            "its folder"
        )
    try:
        return Settings.of(raw)
    except InputError as error:
        raise InputError(f"{record}: not the settings of a run; copy it again, or run again ({error})") from error


def _sentence(error: ErrorDetails) -> str:
    """One sentence with the key, the value and the remedy."""
    key = ".".join(str(place) for place in error["loc"])
    message = str(error["ctx"]["error"]) if error["type"] == "value_error" else error["msg"]
    if error["type"] == "missing":
        return f"{key}: missing; every run needs it"
    if error["type"] == "extra_forbidden":
        return f"{key}: no such key; see `anomaly-seg train --cfg job`"
    if error["type"] == "value_error" and isinstance(error["input"], Mapping | BaseModel):
        return message  # of several keys together: the sentence names them
    value = "null" if error["input"] is None else error["input"]
    return f"{key}={value}: {message}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[prefix + str(key)] = value
    return out
