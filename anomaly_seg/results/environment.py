"""Where a result comes from: commit, versions, hardware."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from anomaly_seg.results.schema import Environment
from anomaly_seg.version import __version__

REPORTED = ("torch", "lightning", "torchmetrics", "hydra-core", "albumentations", "opencv-python-headless", "numpy")


def describe() -> Environment:
    """The environment of this process."""
    commit = _git("rev-parse", "HEAD")
    versions = {"anomaly_seg": __version__, "python": platform.python_version()} | {n: version(n) for n in REPORTED}
    hardware: dict[str, str | int | float] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        hardware["gpu"] = torch.cuda.get_device_name()
    return Environment(
        commit=commit or "unknown", dirty=bool(commit and _git("status", "--porcelain", "--untracked-files=no")),
        date=datetime.now(UTC).isoformat(timespec="seconds"), versions=versions, hardware=hardware,
    )  # fmt: skip


def _git(*words: str) -> str:
    """Output of a git command in the package's checkout; empty outside one."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text(errors="ignore")) if info.exists() else None
    return found[1].strip() if found else platform.processor() or "unknown"
