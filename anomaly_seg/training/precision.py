"""Which precision `trainer.precision=auto` stands for on this machine."""

import re
from pathlib import Path

import torch

from anomaly_seg.settings import TrainerSettings
from anomaly_seg.settings_types import Precision


def resolve_precision(trainer: TrainerSettings) -> Precision:
    """`auto` becomes bf16-mixed where the hardware has bf16 arithmetic, and 32-true elsewhere."""
    if trainer.precision != "auto":
        return trainer.precision
    cuda = torch.cuda.is_available() and trainer.accelerator != "cpu"
    return "bf16-mixed" if has_bf16_hardware(torch.cuda.is_bf16_supported() if cuda else None) else "32-true"


def has_bf16_hardware(cuda_has_bf16: bool | None, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether bf16 arithmetic is done by the hardware: the GPU's word, or the processor's flags on Linux."""
    if cuda_has_bf16 is not None:
        return cuda_has_bf16
    return cpuinfo.exists() and bool(re.search(r"\b(avx512_bf16|amx_bf16)\b", cpuinfo.read_text(errors="ignore")))
