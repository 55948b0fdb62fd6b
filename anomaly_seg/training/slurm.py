"""Runs of a sweep as jobs of SLURM: queue what is not finished, wait until all have ended, say what became of each.

hydra-submitit-launcher knows what a job does on its node, and submitit how it is queued, told of its end, and queued
again. The waiting is done here, by result files and `squeue`: submitit asks SLURM's accounting, which many clusters do
not have, and ends at the first dead job.
"""

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, open_dict

from anomaly_seg import extras
from anomaly_seg import settings as run_settings
from anomaly_seg.errors import InputError
from anomaly_seg.results import run_files
from anomaly_seg.settings import CONFIG, Settings
from anomaly_seg.training import journal, slurm_queue, sweep
from anomaly_seg.training.compose import to_plain
from anomaly_seg.training.slurm_queue import Job

PLUGIN = "hydra_plugins.hydra_submitit_launcher"
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")


@dataclass(frozen=True)
class Run:
    """A run of the sweep, before it is queued.

    number: its place in the grid, from 0.
    """

    config: DictConfig
    overrides: tuple[str, ...]
    number: int

    @property
    def name(self) -> str:
        return self.config.run_name

    @property
    def folder(self) -> Path:
        return Path(self.config.output_dir) / self.config.run_name

    @property
    def log_link(self) -> Path:
        """Beside the run's folder, which a run may empty; it names the last job that had the run."""
        return self.folder.parent / f"{self.folder.name}.slurm.log"


def submitit_launcher(parameters: Mapping[str, Any]) -> Any:
    """hydra-submitit-launcher's object for a job.

    Raises:
        InputError: the extra, or a command of SLURM, is missing.
    """
    extras.need("slurm", "submitit", PLUGIN)
    absent = [command for command in COMMANDS if shutil.which(command) is None]
    if absent:
        raise InputError(
            f"hydra/launcher: this machine has no {', '.join(absent)} on its PATH: start the command where SLURM's "
            "commands are (a login node), or leave hydra/launcher out"
        )
    return extras.imported(f"{PLUGIN}.submitit_launcher", "slurm").SlurmLauncher(**parameters)


def launch(
    launcher: Any, job_overrides: Sequence[Sequence[str]], first: int, *, poll_s: float, array_size: int
) -> list[JobReturn]:
    """Run the jobs on SLURM and wait for them, as Hydra's launchers do; finished runs are not queued.

    Args:
        launcher: from `submitit_launcher`, set up.
        job_overrides: of each job.
        first: number of the first.
        poll_s: seconds between two questions to SLURM, at most.
        array_size: jobs of one array, at most.

    Returns:
        What each job returned: the AP, or None.

    Raises:
        InputError: SLURM does not take the jobs.
        KeyboardInterrupt: Ctrl-C; the jobs are cancelled.
    """
    runs = [_run(launcher, overrides, first + index) for index, overrides in enumerate(job_overrides)]
    new = [run for run in runs if not _settled_here(run)]
    queued = _still_running(new)
    new = [run for run in new if run.name not in {job.run for job in queued}]
    try:
        for start in range(0, len(new), array_size):
            queued += _submit(launcher, new[start : start + array_size])
        slurm_queue.watch(queued, poll_s, sweep.live_line)
    except BaseException:
        slurm_queue.cancel(queued)
        raise
    return [_returned(run) for run in runs]


def _run(launcher: Any, overrides: Sequence[str], number: int) -> Run:
    config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
    with open_dict(config):
        del config["hydra"]  # as Hydra does before it runs a job
    return Run(config, tuple(overrides), number)


def _settled_here(run: Run) -> bool:
    """Whether the run needs no job: it is finished, or has settings that cannot be used. Then it is settled here."""
    try:
        settings = Settings.of(to_plain(run.config))
    except InputError:
        sweep.job(run.config)
        return True
    if settings.overwrite or not run_files.finished(run.folder):
        return False
    config = run.config.copy()
    with contextlib.suppress(InputError, OSError), open_dict(config):
        if settings.trainer.precision == "auto":  # which the node has decided, and not this machine
            config.trainer.precision = run_settings.read(run.folder / CONFIG).trainer.precision
    sweep.job(config)
    return True


def _still_running(runs: Sequence[Run]) -> list[Job]:
    """Jobs of an earlier command, such as one whose terminal was closed, that have some of these runs in hand."""
    alive = {job for job, state in (slurm_queue.states() or {}).items() if not state.ended}
    last = {run.name: run.log_link.resolve() for run in runs if run.log_link.is_symlink()}
    jobs = [Job(last[r.name].parent.name, r.name, r.folder, last[r.name]) for r in runs if r.name in last]
    jobs = [job for job in jobs if job.id in alive]
    if jobs:
        print(f"slurm: {len(jobs)} jobs of an earlier command go on", file=sys.stderr, flush=True)
    return jobs


def _submit(launcher: Any, runs: Sequence[Run]) -> list[Job]:
    """Queue the runs as one array. Raises InputError with SLURM's words where it does not take them."""
    submitit = extras.imported("submitit", "slurm")
    base = submitit.AutoExecutor._typed_parameters()
    own = {"submitit_folder", "max_num_timeout"}
    given = {k if k in base else f"slurm_{k}": v for k, v in launcher.params.items() if k not in own}
    state = Singleton.get_state()
    calls = [([*run.overrides], "hydra.sweep.dir", run.number, f"job_id_for_{run.number}", state) for run in runs]
    try:
        executor = submitit.AutoExecutor(
            launcher.params["submitit_folder"],
            cluster="slurm",
            slurm_max_num_timeout=launcher.params["max_num_timeout"],
        )
        executor.update_parameters(**given, stderr_to_stdout=True)
        with contextlib.redirect_stderr(io.StringIO()):  # where submitit repeats what it raises
            jobs = executor.map_array(launcher, *zip(*calls, strict=True))
    except submitit.core.utils.FailedJobError as error:
        raise InputError(_refusal(str(error))) from error
    except (AssertionError, NameError, ValueError) as error:
        raise InputError(f"hydra.launcher: {error}") from error
    queued = [Job(job.job_id, run.name, run.folder, job.paths.stdout) for job, run in zip(jobs, runs, strict=True)]
    names = ", ".join(sorted({job.id.partition("_")[0] for job in queued}))
    print(f"slurm: {len(queued)} jobs queued as {names}; Ctrl-C cancels them", file=sys.stderr, flush=True)
    for run, job in zip(runs, queued, strict=True):
        _link(run.log_link, job.log)
        print(f"  {job.id}: {run.name}", file=sys.stderr, flush=True)
    return queued


def _link(link: Path, log: Path) -> None:
    """Put the link to a job's log in place of that to an earlier job's."""
    with contextlib.suppress(OSError):  # a disk without links: the log is where it is
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(log, link.parent))


def _refusal(said: str) -> str:
    """SLURM's words on one line, and the keys that decide."""
    words = "; ".join(line.removeprefix("sbatch: error: ").strip() for line in said.splitlines() if line.strip())
    return (
        f"SLURM does not take the jobs ({words}): look at hydra.launcher.partition, account, qos, mem_gb, "
        "cpus_per_task, timeout_min, array_size, and at what sinfo offers"
    )


def _returned(run: Run) -> JobReturn:
    lines = [line for line in journal.read() if line.get("run") == run.name]
    value = JobReturn(overrides=run.overrides, cfg=run.config, status=JobStatus.COMPLETED)
    if lines and lines[-1]["status"] == "done":
        value.return_value = run_files.read_result(run.folder).image.ap
    return value
