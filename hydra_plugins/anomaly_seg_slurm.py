"""Hydra's door to `anomaly_seg.training.slurm`: launchers are only looked for in this namespace.

Hydra imports it at every start, so that it imports nothing else.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SlurmLauncher(Launcher):
    """Runs of a sweep as jobs of SLURM; see conf/hydra/launcher/slurm.yaml.

    Args:
        poll_s: seconds between two questions to SLURM, at most.
        array_size: jobs of one array, at most.
        parameters: what hydra-submitit-launcher takes.
    """

    def __init__(self, *, poll_s: float, array_size: int, **parameters: Any) -> None:
        self.poll_s, self.array_size, self.parameters = poll_s, array_size, parameters

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Refuse what cannot work on this machine, before anything else is done. Raises InputError."""
        from anomaly_seg.training.slurm import submitit_launcher

        self.job = submitit_launcher(self.parameters)
        self.job.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Queue what is not finished and wait for it. Raises InputError for what SLURM refuses."""
        from anomaly_seg.training.slurm import launch

        return launch(self.job, job_overrides, initial_job_idx, poll_s=self.poll_s, array_size=self.array_size)
