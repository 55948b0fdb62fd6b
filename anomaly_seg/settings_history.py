"""Names of older versions, in a run's config.yaml and in commands that people have written down, and today's names."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

MOVED_TARGETS = {
    f"anomaly_seg.data.{name}.read": f"anomaly_seg.data.readers.{name}.read"
    for name in ("dagm", "folder", "kolektor", "kolektor2", "synthetic")
}

RENAMED = {
    "data": {"element": "structuring_element"},
    "scale": {"width_factor": "width_multiplier"},
}

RENAMED_ARGUMENTS = {
    ("model", "network"): {"width": "width_multiplier"},
    ("data", "reader"): {"items": "groups"},
}

RENAMED_CHANGES = {
    "averaged": "ema", "light": "flips_brightness", "resolution": "double_size_half_channels",
    "slow_norm": "batch_norm_momentum_001", "width": "half_size_double_channels",
}  # fmt: skip
"""Options of `recipe` that are options of `change` now, under another name; the others of `STUDY` kept theirs."""

STUDY = frozenset(RENAMED_CHANGES) | {
    "balanced", "baseline", "batch_norm", "bias_zero", "brightness", "constant_lr", "double_epochs", "flip_average",
    "flips", "fused_loss", "group_norm", "more_resolution", "more_width", "positive_weight", "uniform",
}  # fmt: skip


def todays_words(overrides: Sequence[str]) -> list[str]:
    """Overrides of older versions under today's names. What is renamed is said on stderr.

    A network of the user's own may have a `width` that means something else: beside `model.network._target_`, or with
    a model that is not ours, that word is left as it is.
    """
    keys = {f"{section}.{old}": f"{section}.{new}" for section, names in RENAMED.items() for old, new in names.items()}
    keys["data.reader.items"] = "data.reader.groups"
    if all(word.split("=")[1] in OUR_MODELS for word in overrides if word.startswith("model=")) and not any(
        word.lstrip("+").startswith("model.network._target_=") for word in overrides
    ):
        keys["model.network.width"] = "model.network.width_multiplier"
    return [_todays_word(word, keys) for word in overrides]


OUR_MODELS = ("one_stage", "one_stage_fused", "encoder_decoder", "seg_dec", "unet")


def _todays_word(word: str, keys: Mapping[str, str]) -> str:
    key, equals, value = word.partition("=")
    name, options = keys.get(key, key), value.split(",")
    if key == "recipe" and set(options) <= STUDY:
        name, value = "change", ",".join(RENAMED_CHANGES.get(option, option) for option in options)
    now = f"{name}{equals}{value}"
    if now != word:
        print(f"{word} is {now} now", file=sys.stderr)
    return now


def upgrade(record: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings under today's names; the record is left as it is."""
    out = dict(record)
    for section, names in RENAMED.items():
        if isinstance(out.get(section), Mapping):
            out[section] = {names.get(key, key): value for key, value in out[section].items()}
    for (section, part), names in RENAMED_ARGUMENTS.items():
        arguments = out[section].get(part) if isinstance(out.get(section), Mapping) else None
        if isinstance(arguments, Mapping):
            out[section] = {**out[section], part: _without_default(_renamed(arguments, names))}
    return out


def _without_default(arguments: dict[str, Any]) -> dict[str, Any]:
    """One-Stage's decoder as it was before there was a choice of encoders: the widths that null stands for."""
    old = str(arguments.get("_target_", "")).endswith(".OneStage") and "encoder" not in arguments
    return arguments | {"decoder_widths": None} if old and arguments.get("decoder_widths") == [64, 64, 32] else arguments


def _renamed(arguments: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Arguments under today's names. Only of our own targets: another's `width` may mean something else."""
    target = arguments.get("_target_")
    if not str(target).startswith("anomaly_seg."):
        return dict(arguments)
    new = {names.get(key, key): value for key, value in arguments.items()}
    return new | {"_target_": MOVED_TARGETS.get(target, target)}  # type: ignore[arg-type]
