"""Settings of a run: what makes two runs the same, and the checks that need no data."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from anomaly_seg.errors import InputError

IRRELEVANT = (
    "output_dir", "run_name", "overwrite", "pictures", "profile", "logger", "threads", "data.workers", "data.cache_dir",
    "data.root", "data.reader.root", "data.licence", "trainer.enable_progress_bar", "trainer.log_every_n_steps",
    "trainer.devices",
)  # fmt: skip
"""Keys that change where, how fast or how loudly a run works, but not its result."""

LATER = {
    "data.channels": 1, "data.fit": "resize", "data.tile_overlap": 64, "model.norm_momentum": 0.1,
    "model.flip_average": False,
}  # fmt: skip
"""Keys that the first runs did not have, and what they ran with: at that value a key makes no difference."""

CONFIG = "config.yaml"
"""The file in a run's folder that says with which settings it was made."""

SWITCHES = (
    "overwrite", "pictures", "profile", "model.flip_average", "trainer.channels_last", "trainer.enable_progress_bar",
)  # fmt: skip
"""Keys that are true or false: Hydra takes other words, such as no, for text, and any text would count as true."""

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "auto")

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""torch.compile's documented modes."""


PATHS = ("data.root", "data.annotations", "data.splits", "data.cache_dir", "output_dir")
"""Keys whose value is a path, or null."""

NAMES = ("experiment_name", "variant", "data.name", "model.name", "scale.name")


def name(settings: dict[str, Any]) -> None:
    """Make all names text, in place: on a command line, 2 is a number and null is nothing.

    Raises:
        InputError: a name other than the variant's is null.
    """
    for dotted in NAMES:
        *groups, key = dotted.split(".")
        part = settings[groups[0]] if groups else settings
        if part[key] is None and dotted != "variant":
            raise InputError(f"{dotted}=null: give a name")
        part[key] = "" if part[key] is None else str(part[key])


def check(settings: Mapping[str, Any]) -> None:
    """Refuse values that no run can have.

    Raises:
        InputError: seed, epochs, dilation, fold, sizes or numbers of the folds out of range.
    """
    values = flat(settings)
    for key in PATHS:
        if not isinstance(values.get(key), str | None):
            raise InputError(f"{key}={values[key]}: give a path, in quotes where it looks like a number or a list")
    for key, lowest in {"scale.height": 1, "scale.width": 1, "data.folds": 1, "data.split_seed": 0}.items():
        _whole(key, values[key], lowest)
    seed, epochs, dilation = settings["seed"], settings["epochs"], settings["dilation"]
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InputError(f"seed={seed}: use a whole number from 0 to 4294967295")
    if not isinstance(epochs, int) or epochs < 1:
        raise InputError(f"epochs={epochs}: use a whole number, 1 or more")
    if not isinstance(dilation, int) or dilation < 0 or (dilation and dilation % 2 == 0):
        raise InputError(f"dilation={dilation}: use 0 (as drawn) or an odd number such as 5, 9, 13 or 17")
    if not isinstance(settings["fold"], int):
        raise InputError(f"fold={settings['fold']}: use a whole number; several folds need -m")


def check_training(settings: Mapping[str, Any]) -> None:
    """Raises InputError for what no run can be trained with."""
    values = flat(settings)
    for key in SWITCHES:
        if not isinstance(values.get(key, False), bool):  # runs from before there was a choice have no key for it
            raise InputError(f"{key}={values[key]}: use true or false")
    for key, lowest in {"batch_size": 1, "data.workers": 0}.items():
        _whole(key, values[key], lowest)
    if values["threads"] is not None:
        _whole("threads", values["threads"], 0)
    for key in ("scale.width_factor", "optimizer.lr"):
        if isinstance(values[key], bool) or not isinstance(values[key], int | float) or not 0 < values[key] < math.inf:
            raise InputError(f"{key}={values[key]}: use a number above 0")
    all_epochs(settings)
    sigma = settings["model"]["paper_sigma"]
    for value in sigma.values() if isinstance(sigma, Mapping) else [] if sigma is None else [sigma]:
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise InputError(f"model.paper_sigma={value}: use null, a number, 0 or more, or such a number for each D")
    trainer = settings["trainer"]
    if trainer["precision"] not in PRECISIONS:
        raise InputError(f"trainer.precision={trainer['precision']}: choose {', '.join(PRECISIONS)}")
    devices = trainer.get("devices", 1)  # runs from before there was a choice have no key for it
    if not (devices == 1 or (isinstance(devices, list) and len(devices) == 1)):
        raise InputError(
            f"trainer.devices={devices}: a run takes one device: 1, or a list with its number, such as [1]; to use "
            "several, start a sweep on each, over other folds or models"
        )
    if trainer["precision"] == "16-mixed" and trainer["gradient_clip_val"] and settings["optimizer"].get("fused"):
        raise InputError(
            "trainer.gradient_clip_val with trainer.precision=16-mixed: a fused optimiser scales gradients itself, so "
            "they cannot be clipped; set optimizer.fused=false, or use trainer.precision=bf16-mixed"
        )
    if not isinstance(trainer["compile"], bool) and trainer["compile"] not in COMPILE_MODES:
        raise InputError(f"trainer.compile={trainer['compile']}: choose false, true or {', '.join(COMPILE_MODES)}")


def _whole(key: str, value: object, lowest: int) -> None:
    if not isinstance(value, int) or value < lowest:
        raise InputError(f"{key}={'null' if value is None else value}: use a whole number, {lowest} or more")


def all_epochs(settings: Mapping[str, Any]) -> int:
    """Epochs of all phases together.

    Raises:
        InputError: none, or a phase whose length is no number.
    """
    lengths = [phase.get("length") for phase in settings["model"]["phases"] or ()]
    try:
        total = round(settings["epochs"] * sum(float(length) for length in lengths))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"model.phases: lengths {lengths}: give each phase a number above 0") from error
    if total < 1:
        raise InputError(
            f"epochs={settings['epochs']} times the lengths {lengths} of model.phases make no whole epoch: raise one"
        )
    return total


def read(record: Path) -> dict[str, Any]:
    """The settings that a run's folder was claimed with, from its config.yaml.

    Raises:
        InputError: it is damaged, or cannot be read.
    """
    try:
        found = yaml.safe_load(record.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        found = None
    if not isinstance(found, dict):
        raise InputError(
            f"{record}: cannot be read, or damaged; copy it again, set overwrite=true to replace the run, or delete "
            "its folder"
        )
    return found


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys."""
    out: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[prefix + str(key)] = value
    return out


def relevant(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The dotted keys that decide a run's result."""
    return {
        k: v
        for k, v in flat(settings).items()
        if not any(k == i or k.startswith(f"{i}.") for i in IRRELEVANT) and not (k in LATER and v == LATER[k])
    }


def digest(settings: Mapping[str, Any]) -> str:
    """Short name of everything that decides a run's result."""
    return hashlib.sha256(json.dumps(relevant(settings), sort_keys=True).encode()).hexdigest()[:16]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys that make two runs different, as "key: old -> new"."""
    a, b = ({**LATER, **relevant(settings)} for settings in (old, new))
    return [f"{k}: {a.get(k)} -> {b.get(k)}" for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]


def bf16_hardware(cuda_has_bf16: bool | None, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether bf16 arithmetic is done by the hardware: the GPU's word, or the processor's flags on Linux."""
    if cuda_has_bf16 is not None:
        return cuda_has_bf16
    return cpuinfo.exists() and bool(re.search(r"\b(avx512_bf16|amx_bf16)\b", cpuinfo.read_text(errors="ignore")))
