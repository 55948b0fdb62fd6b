"""Keys and targets that older versions wrote into a run's config.yaml, and what they are called now."""

from collections.abc import Mapping
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


def upgrade(record: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings under today's names; the record is left as it is."""
    out = dict(record)
    for section, names in RENAMED.items():
        if isinstance(out.get(section), Mapping):
            out[section] = {names.get(key, key): value for key, value in out[section].items()}
    for (section, part), names in RENAMED_ARGUMENTS.items():
        arguments = out[section].get(part) if isinstance(out.get(section), Mapping) else None
        if isinstance(arguments, Mapping):
            out[section] = {**out[section], part: _renamed(arguments, names)}
    return out


def _renamed(arguments: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Arguments under today's names. Only of our own targets: another's `width` may mean something else."""
    target = arguments.get("_target_")
    if not str(target).startswith("anomaly_seg."):
        return dict(arguments)
    new = {names.get(key, key): value for key, value in arguments.items()}
    return new | {"_target_": MOVED_TARGETS.get(target, target)}  # type: ignore[arg-type]
