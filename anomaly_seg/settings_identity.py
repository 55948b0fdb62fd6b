"""Which settings make two runs the same: those that decide the result."""

from collections.abc import Mapping
from typing import Any

IRRELEVANT = (
    "output_dir", "run_name", "overwrite", "pictures", "profile", "logger", "threads", "data.workers", "data.cache_dir",
    "data.root", "data.reader.root", "data.licence", "trainer.enable_progress_bar", "trainer.log_every_n_steps",
)  # fmt: skip
"""Keys that change where, how fast or how loudly a run works, but not its result."""

START_DIGEST = "model.start_digest"
"""Key of the content of the file that training began with; the folds of one model may differ in it."""

NEW_KEYS = {
    "data.mask_threshold": 1, "model.encoder": "", "model.encoder_lr_factor": 1.0, "model.network.encoder": None,
    "model.start": False, START_DIGEST: None, "trainer.devices": 1,
}  # fmt: skip
"""Keys that digests of older versions lack, with what runs did then: at that value they are left out of a digest."""


def relevant(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Values of nested settings that decide a run's result, by dotted key.

    A start file counts wherever it lies; of the devices their number counts.
    """
    flat = _flat(settings)
    flat["model.start"] = flat["model.start"] is not None
    if isinstance(flat["trainer.devices"], list):
        flat["trainer.devices"] = len(flat["trainer.devices"])
    return {k: v for k, v in flat.items() if not any(k == i or k.startswith(f"{i}.") for i in IRRELEVANT)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by dotted key; lists stay whole."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[prefix + str(key)] = value
    return out
