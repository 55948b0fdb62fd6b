"""Settings of a run as one typed model, checked once after Hydra composed them, and what makes two runs the same.

A key's meaning stands beside its default in ``conf/``; its type, its range and the remedy for a wrong value stand here
and in `settings_types`.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails

from anomaly_seg import settings_types as types
from anomaly_seg.data.dilation import StructuringElement
from anomaly_seg.data.image_io import Convert
from anomaly_seg.data.masks import ANY_VALUE
from anomaly_seg.data.preparation import Preparation
from anomaly_seg.data.resize import Fit, Resize
from anomaly_seg.data.splits import Policy
from anomaly_seg.errors import InputError
from anomaly_seg.settings_history import upgrade
from anomaly_seg.settings_identity import NEW_KEYS, relevant

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The safe loader in C, ten times as fast, where PyYAML has it."""

CONFIG = "config.yaml"
"""The file in a run's folder that says with which settings it was made."""

PATHS = ("data.root", "data.annotations", "data.splits", "data.cache_dir", "model.start", "output_dir")
"""Keys whose value is a path, or null."""


class _Section(BaseModel):
    """A part of the settings: frozen, and without keys that nobody reads."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class _OpenSection(_Section):
    """A part that a library, a reader or a network may add keys of its own to."""

    model_config = ConfigDict(extra="allow")

    def extra(self) -> dict[str, Any]:
        """Keys that this model does not name, with their values."""
        return dict(self.model_extra or {})


class PhaseSettings(_Section):
    """One phase of training. length: in units of `epochs`; train: parts that learn, empty = all; weights: by logit."""

    name: str
    length: Any
    train: list[str] = []
    weights: dict[str, float]


class ModelSettings(_Section):
    """A network and how it is trained. network: `_target_` and its arguments, open to any network. start_digest:
    SHA-256 of the file that `start` names, once the run has begun."""

    name: types.Name
    encoder: types.OptionalName = ""
    network: dict[str, Any]
    paper_sigma: Any
    positive_weight: types.Weight
    average: types.Decay
    encoder_lr_factor: types.Rate = 1.0
    norm_momentum: types.Momentum = 0.1  # from here on, defaults are what runs did before there was a choice
    flip_average: types.Switch = False
    start: types.FilePath = None
    start_digest: str | None = None
    phases: list[PhaseSettings]

    @property
    def full_name(self) -> str:
        """Name of the network, and of its encoder if that is not the published one."""
        return f"{self.name}-{self.encoder}" if self.encoder else self.name

    @model_validator(mode="after")
    def _check(self) -> Self:
        sigma = self.paper_sigma
        for value in sigma.values() if isinstance(sigma, Mapping) else [] if sigma is None else [sigma]:
            if not types.is_number(value) or value < 0:
                raise ValueError(
                    f"model.paper_sigma={value}: use null, a number, 0 or more, or such a number for each D"
                )
        return self


class DataSettings(_OpenSection):
    """A data set, its folds and how its images become samples. reader: `_target_` and its arguments."""

    name: types.Name
    root: types.FilePath = None
    annotations: types.FilePath = None
    reader: dict[str, Any]
    folds: types.Positive
    split: Annotated[Policy, types.choice(Policy)]
    split_seed: types.Count
    splits: types.FilePath = None
    structuring_element: Annotated[StructuringElement, types.choice(StructuringElement)]
    resize: Annotated[Resize, types.choice(Resize)]
    convert: Annotated[Convert, types.choice(Convert)]
    channels: types.Channels = 1
    fit: Annotated[Fit, types.choice(Fit)] = "resize"
    mask_threshold: types.MaskThreshold = ANY_VALUE
    tile_overlap: Any = 64
    workers: types.Count = 0
    licence: str | None = None
    cache_dir: types.FilePath = None


class OptimizerSettings(_OpenSection):
    """Name, schedule, and the optimiser's own arguments."""

    name: str
    schedule: str = "none"
    lr: types.Rate


class SamplerSettings(_Section):
    """Order of the training images."""

    kind: str


class TrainerSettings(_OpenSection):
    """Device and speed, and any further argument of Lightning's Trainer."""

    accelerator: str = "auto"
    devices: types.Devices = 1
    precision: Annotated[types.Precision, types.choice(types.Precision)]
    channels_last: types.Switch = False
    compile: types.Compile = False
    gradient_clip_val: Any = None
    deterministic: Any = True
    log_every_n_steps: Any = 10
    enable_progress_bar: types.Switch = True


class LoggerSettings(_OpenSection):
    """Tracker of losses and results, and its own arguments."""

    kind: str


class ScaleSettings(_Section):
    """Input size in pixels, and the fraction of the published channel counts."""

    name: types.Name
    height: types.Positive
    width: types.Positive
    width_multiplier: types.Rate


class Settings(_Section):
    """Everything that is decided about one run."""

    experiment_name: types.Name
    variant: types.OptionalName = ""
    fold: types.Fold
    dilation: types.Dilation
    evaluate_on: Annotated[types.EvaluateOn, types.choice(types.EvaluateOn)] = "test"
    seed: types.Seed
    augment: str
    epochs: types.Positive
    batch_size: types.Positive
    overwrite: types.Switch = False
    pictures: types.Switch = True
    profile: types.Switch = False
    threads: types.Threads
    output_dir: types.FilePath
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
        """Checked settings from a composed configuration, or from a run's config.yaml, also of an older version.

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
        """Number of epochs of all phases together. Raises ValueError: phases that make no whole epoch."""
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
        """Folder of the run's files."""
        return Path(self.output_dir or ".") / self.run_name

    @property
    def preparation(self) -> Preparation:
        """Way from an image to samples of the network's size."""
        data = self.data
        return Preparation(
            self.scale.height, self.scale.width, self.dilation, data.structuring_element, data.resize, data.convert,
            data.channels, data.fit, data.tile_overlap, data.mask_threshold,
        )  # fmt: skip

    @property
    def devices(self) -> int:
        """Number of devices that share each step."""
        devices = self.trainer.devices
        return devices if isinstance(devices, int) else len(devices)

    def digest(self) -> str:
        """Hash of the relevant settings: 16 hexadecimal digits, the same for runs that give the same result."""
        known = {k: v for k, v in self.relevant().items() if k not in NEW_KEYS or v != NEW_KEYS[k]}
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, other: "Settings", ignored: tuple[str, ...] = ()) -> list[str]:
        """Relevant settings in which another run differs, as "key: own -> other's"; none of the keys in `ignored`."""
        a, b = self.relevant(), other.relevant()
        keys = sorted(k for k in a.keys() | b.keys() if k not in ignored and a.get(k) != b.get(k))
        return [f"{k}: {a.get(k)} -> {b.get(k)}" for k in keys]

    def relevant(self) -> dict[str, Any]:
        """Settings that decide a run's result, by dotted key."""
        return relevant(self.model_dump())


def read(record: Path) -> Settings:
    """The settings in a run's config.yaml.

    Raises:
        InputError: it is damaged, cannot be read, or holds no settings of a run.
    """
    try:
        raw = yaml.load(record.read_text(encoding="utf-8"), LOADER)
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
    """Sentence with the key, the value and the remedy of one of pydantic's errors."""
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
