"""One training run as a story: settings, data, network, fit, scores, result."""

import contextlib
import logging
import signal
import sys
import time
import warnings
from pathlib import Path

import torch

from anomaly_seg.data.datamodule import FoldDataModule
from anomaly_seg.evaluation.evaluate import evaluate
from anomaly_seg.models.base import parameter_count
from anomaly_seg.models.encoders.base import Source
from anomaly_seg.quick_lightning import pl
from anomaly_seg.results import run_files
from anomaly_seg.results.schema import Result, Training
from anomaly_seg.settings import Settings
from anomaly_seg.training import memory
from anomaly_seg.training.build import make_data, make_module, make_trainer, read_dataset, start_encoder
from anomaly_seg.training.checkpoint import CHECKPOINT
from anomaly_seg.training.loggers import make_logger
from anomaly_seg.training.module import SegmentationModule
from anomaly_seg.training.outputs import write_outputs, write_pictures
from anomaly_seg.training.precision import resolve_precision
from anomaly_seg.training.run_folder import check_run_folder, compare_data, start_run_folder


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
        same = compare_data(folder, settings)
        left = "; no profile was made: overwrite=true trains again" if settings.profile else ""
        print(f"{folder}: finished before with the same settings{same}{left}", file=sys.stderr)
        return folder
    if settings.threads:
        torch.set_num_threads(settings.threads)
    memory.reset_peak()
    pl.seed_everything(settings.seed, workers=True, verbose=False)
    data = make_data(settings, read_dataset(settings))
    module = make_module(settings, data)
    source = start_encoder(module.network)
    start_run_folder(folder, settings)  # nothing that was there is lost before all of the above is known to work
    checkpoint = folder / CHECKPOINT
    resume = checkpoint if checkpoint.exists() else None
    logger = make_logger(settings, folder, resumed=resume is not None)
    timer = pl.callbacks.Timer()  # its seconds are in the checkpoint: a resumed run counts all of its own
    trainer = make_trainer(settings, folder, logger, timer)
    try:
        _fit(trainer, module, data, resume)
        result = _score(settings, folder, data, module, trainer, timer.time_elapsed("train"), source)
        logger.finish(result, folder)
        run_files.write_result(folder, result)
    finally:
        logger.close(failed=not run_files.finished(folder))
    return folder


def _resolved(settings: Settings) -> Settings:
    """With the precision that this machine has, which decides the result and so belongs to the run's identity."""
    trainer = settings.trainer.model_copy(update={"precision": resolve_precision(settings.trainer)})
    return settings.model_copy(update={"trainer": trainer})


def _score(
    settings: Settings,
    folder: Path,
    data: FoldDataModule,
    module: SegmentationModule,
    trainer: pl.Trainer,
    seconds: float,
    source: Source | None,
) -> Result:
    """Scores, pixel counts and pictures into the folder, and what result.json will say."""
    network, device, started = module.evaluated, trainer.strategy.root_device, time.perf_counter()
    bar = settings.trainer.enable_progress_bar
    evaluation = evaluate(network, data.test_dataloader(), device, bar, data.arrays.place)
    training = Training(
        steps=trainer.global_step,
        epochs=trainer.current_epoch,
        parameters=parameter_count(network),
        train_seconds=seconds,
        test_seconds=time.perf_counter() - started,
        final_loss=module.last_loss,
        peak_memory_mib=memory.peak(),
    )
    result = write_outputs(settings, folder, data, network, evaluation, training, source)
    if settings.pictures:
        write_pictures(folder, data, network, evaluation, result, device)
    return result


def _fit(trainer: pl.Trainer, module: SegmentationModule, data: FoldDataModule, resume: Path | None) -> None:
    """Train, from the last finished epoch where there is one."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    except SystemExit as error:  # how Lightning ends on Ctrl-C, and with it deaf to further ones
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from error


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
        ".*isinstance.treespec, LeafSpec.. is deprecated.*",  # Lightning's own business with torch
    ):
        warnings.filterwarnings("ignore", message)
