"""What a job of SLURM, or a command that asks for one, does otherwise than other runs."""

import os
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from anomaly_seg import settings as run_settings
from anomaly_seg.errors import InputError
from anomaly_seg.settings import CONFIG, Settings
from anomaly_seg.training.compose import to_plain

RESTARTS = "SLURM_RESTART_COUNT"
"""Environment variable with how often SLURM has queued this job again."""


def job_settings(config: DictConfig, folder: Path) -> Settings:
    """The checked settings of a job. What SLURM has queued again goes on where it was, and replaces nothing twice.

    Raises:
        InputError: as `Settings.of`; a launcher for sweeps beside a single run.
    """
    hydra_config = HydraConfig.get() if HydraConfig.initialized() else None
    if hydra_config and hydra_config.mode == RunMode.RUN and hydra_config.launcher._target_.endswith("SlurmLauncher"):
        raise InputError("hydra/launcher=slurm queues the runs of a sweep: add -m, for a single run too")
    settings = Settings.of(to_plain(config))
    if os.environ.get(RESTARTS, "0") != "0" and (folder / CONFIG).exists():
        begun = not run_settings.read(folder / CONFIG).differences(settings)
        settings = settings.model_copy(update={"overwrite": settings.overwrite and not begun})
    return settings
