"""The one checkpoint of a run: written whole or not at all, and read without trusting it."""

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anomaly_seg import atomic
from anomaly_seg.errors import InputError
from anomaly_seg.quick_lightning import pl

CHECKPOINT = "checkpoint.ckpt"
"""The file in a run's folder that holds its weights, and what resuming needs."""

NEEDED = ("state_dict", "optimizer_states", "loops", "last_loss")


class CheckpointFile(pl.plugins.TorchCheckpointIO):
    """How Lightning writes and reads the checkpoint file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write through a temporary file in the same folder. Lightning's goes to the system's temporary folder, from
        where it is copied to another disk: a kill in between would leave half a checkpoint.

        Raises:
            InputError: the folder takes no file.
        """
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            atomic.write(Path(path), content.getbuffer())
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); free space, or set output_dir") from error

    def load_checkpoint(
        self, path: str | Path, map_location: Callable | None = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Tensors and plain values only, whatever the caller asked for.

        Raises:
            InputError: not a checkpoint of a run, cut short, or with anything in it that would run code.
        """
        try:
            found = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except Exception as error:  # whatever a foreign file makes the reader stumble over
            raise InputError(f"{path}: {_REFUSED} ({_first_line(error)}); {_REMEDY}") from error
        missing = [key for key in NEEDED if not isinstance(found, dict) or key not in found]
        if missing:
            raise InputError(f"{path}: {_REFUSED} (no {', '.join(missing)}); {_REMEDY}")
        return found | {"state_dict": _todays_names(found["state_dict"])}


def _todays_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the names of today: the path down of a U-Net is an encoder now."""
    is_unet = any(name.endswith(".down.0.0.0.weight") for name in state) and "network.head.reduce.weight" in state
    return {re.sub(r"\.down\.", ".encoder.stages.", name, count=1) if is_unet else name: v for name, v in state.items()}


def check_fits(path: object, state: Mapping[str, Tensor], module: nn.Module) -> None:
    """Refuse the weights of another network.

    Args:
        path: of the checkpoint, for the message.
        state: its weights by name.
        module: what they are to be loaded into.

    Raises:
        InputError: names or shapes differ.
    """
    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    other = {name: tuple(value.shape) for name, value in state.items()}
    if own != other:
        name = min(n for n in own.keys() | other.keys() if own.get(n) != other.get(n))
        raise InputError(
            f"{path}: checkpoint of another network ({name} is {other.get(name, 'absent')} there and "
            f"{own.get(name, 'absent')} here); {_REMEDY}"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


_REFUSED = "damaged, or not a checkpoint that this program wrote"
_REMEDY = "delete the file to train from the start, or set experiment_name or variant to train elsewhere"
