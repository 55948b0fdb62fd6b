"""One training run as a story: settings, data, network, fit, scores, result."""

import contextlib
import io
import logging
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import torch

from anomaly_seg.data.datamodule import FoldDataModule
from anomaly_seg.evaluation.evaluate import evaluate
from anomaly_seg.models.base import parameter_count
from anomaly_seg.quick_lightning import SIGTERMException, pl
from anomaly_seg.results import run_files
from anomaly_seg.results.schema import Result, Training
from anomaly_seg.settings import Settings
from anomaly_seg.training import memory
from anomaly_seg.training.build import make_data, make_module, make_trainer, read_dataset
from anomaly_seg.training.checkpoint import CHECKPOINT
from anomaly_seg.training.devices import check_devices, on_devices
from anomaly_seg.training.learning import WatchLearning
from anomaly_seg.training.loggers import make_logger
from anomaly_seg.training.module import SegmentationModule
from anomaly_seg.training.outputs import write_outputs, write_pictures
from anomaly_seg.training.precision import resolve_precision
from anomaly_seg.training.run_folder import check_run_folder, compare_data, start_run_folder
from anomaly_seg.training.start import begin, with_start_digest


def run(settings: Settings) -> Path:
    """Train and score one fold, unless its folder holds the finished result of the same settings.

    Returns:
        The run's folder: config.yaml, scores.csv, pixels.csv, pictures/, checkpoint.ckpt; result.json comes last.

    Raises:
        InputError: settings, data or folder that cannot be used.
    """
    _quiet()
    settings = _resolved(settings)
    folder = settings.folder
    finished = check_run_folder(folder, settings)
    with contextlib.suppress(NotADirectoryError):  # which is said when the folder is begun
        (folder / run_files.FAILURE).unlink(missing_ok=True)  # the folder is this run's, and it is tried again
    if finished:
        _say_finished(folder, settings)
        return folder
    parts = _prepare(settings, replaced=settings.overwrite)
    check_devices(settings, parts.module.network)
    start_run_folder(folder, settings)  # nothing that was there is lost before all of the above is known to work
    if settings.devices == 1:
        _train_and_score(settings, parts)
    else:
        on_devices(settings.devices, train_on_device, settings)
    return folder


def train_on_device(device: int, settings: Settings) -> None:
    """What the process of one of several devices does: train with the others; the first, device 0, writes and scores.

    Raises:
        InputError: as `run`.
    """
    _quiet()
    if settings.threads:
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)  # else Lightning divides the cores among the processes
    with contextlib.redirect_stderr(io.StringIO()):  # the run has said it all before it started this process
        # What was to be replaced in the run's folder is gone by now: a checkpoint is this run's own.
        parts = _prepare(settings)
    _train_and_score(settings, parts, device)


class Parts(NamedTuple):
    """What a run trains with: data, network, and the checkpoint that it goes on from, if it does."""

    data: FoldDataModule
    module: SegmentationModule
    resume: Path | None


def _prepare(settings: Settings, replaced: bool = False) -> Parts:
    """Data and network, in a process with the threads and the seed that the settings ask for.

    Args:
        settings: of the run.
        replaced: whether what lies in the run's folder is to be replaced.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    memory.reset_peak()
    pl.seed_everything(settings.seed, workers=True, verbose=False)
    data = make_data(settings, read_dataset(settings))
    module = make_module(settings, data)
    checkpoint = settings.folder / CHECKPOINT
    resume = checkpoint if checkpoint.exists() and not replaced else None
    if resume is None:  # else the checkpoint says with what it began
        module.start = begin(settings, module.network, data)
    return Parts(data, module, resume)


def _train_and_score(settings: Settings, parts: Parts, device: int = 0) -> None:
    """Train, from the last finished epoch where there is one. The first device writes all files, result.json last."""
    folder, (data, module, resume) = settings.folder, parts
    logger = make_logger(settings, folder, resume is not None, device)
    timer = pl.callbacks.Timer()  # its seconds are in the checkpoint: a resumed run counts all of its own
    learning = WatchLearning(data)
    trainer = make_trainer(settings, folder, logger, [timer, learning], device)
    try:
        _fit(trainer, module, data, resume)
        if settings.devices > 1:
            torch.distributed.destroy_process_group()  # together: the others end here
        if device:
            return
        result = _score(settings, folder, data, module, trainer, timer, learning)
        logger.finish(result, folder)
        run_files.write_result(folder, result)
    finally:
        logger.close(failed=not run_files.finished(folder))


def _say_finished(folder: Path, settings: Settings) -> None:
    same = compare_data(folder, settings)
    left = "; no profile was made: overwrite=true trains again" if settings.profile else ""
    print(f"{folder}: finished before with the same settings{same}{left}", file=sys.stderr)


def _resolved(settings: Settings) -> Settings:
    """With what else decides the result, and so belongs to the run's identity: this machine's precision, and the digest
    of the weights to begin with."""
    trainer = settings.trainer.model_copy(update={"precision": resolve_precision(settings.trainer)})
    return with_start_digest(settings.model_copy(update={"trainer": trainer}))


def _score(
    settings: Settings,
    folder: Path,
    data: FoldDataModule,
    module: SegmentationModule,
    trainer: pl.Trainer,
    timer: pl.callbacks.Timer,
    learning: WatchLearning,
) -> Result:
    """Scores, pixel counts and pictures into the folder, and what result.json will say."""
    network, device, started = module.evaluated, trainer.strategy.root_device, time.perf_counter()
    bar = settings.trainer.enable_progress_bar
    evaluation = evaluate(network, data.test_dataloader(), device, bar, data.arrays.place)
    training = Training(
        steps=trainer.global_step,
        epochs=trainer.current_epoch,
        parameters=parameter_count(network),
        train_seconds=timer.time_elapsed("train"),
        test_seconds=time.perf_counter() - started,
        final_loss=module.last_loss,
        peak_memory_mib=memory.peak(),
        phases=learning.phases,
    )
    result = write_outputs(settings, folder, data, network, evaluation, training, module.start)
    if settings.pictures:
        write_pictures(folder, data, network, evaluation, result, device)
    return result


def _fit(trainer: pl.Trainer, module: SegmentationModule, data: FoldDataModule, resume: Path | None) -> None:
    """Lightning's fit, whose Ctrl-C is everybody's."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    except SystemExit as error:  # how Lightning ends on Ctrl-C, and with it deaf to further ones, and on SIGTERM
        signal.signal(signal.SIGINT, handler)
        if isinstance(error.__context__, KeyboardInterrupt) or isinstance(error, SIGTERMException):
            raise KeyboardInterrupt from error
        raise  # another's: a job of SLURM whose time is up ends this way, once it is queued again


def _quiet() -> None:
    """Lightning's tips and progress notes, and its warnings about what is meant as it is, stay off the screen."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # data.workers is the user's choice, and the cache is fast
        ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run's
        ".*The dirpath has changed.*",  # a run folder that was moved
        ".*smaller than the logging interval.*",  # losses are logged by epoch
        ".*Total length of `list` across ranks is zero.*",  # without validation images
        ".*`srun` command is available.*",  # on a machine with SLURM, whoever starts the run
        ".*sync_dist=True.*",  # losses are gathered by `StepLosses`
        ".*isinstance.treespec, LeafSpec.. is deprecated.*",  # Lightning's own business with torch
    ):
        warnings.filterwarnings("ignore", message)
