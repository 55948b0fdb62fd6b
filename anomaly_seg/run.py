"""One training run as a story: settings, data, network, fit, scores, result."""

import logging
import os
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import lightning as L
import torch
import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint, Timer, TQDMProgressBar
from omegaconf import DictConfig, OmegaConf

from anomaly_seg import memory, results, settings
from anomaly_seg.checkpoint import CHECKPOINT, CheckpointFile
from anomaly_seg.data.cache import Preparation, default_cache
from anomaly_seg.data.datamodule import FoldDataModule
from anomaly_seg.data.readers import read_dataset
from anomaly_seg.errors import InputError
from anomaly_seg.evaluate import evaluate
from anomaly_seg.loggers import RunLogger, make_logger
from anomaly_seg.losses import make_phases
from anomaly_seg.models.base import Network, parameter_count
from anomaly_seg.models.one_stage import prior_log_odds
from anomaly_seg.module import SegmentationModule
from anomaly_seg.outputs import write_outputs, write_pictures
from anomaly_seg.profiling import ProfileSteps
from anomaly_seg.schema import Result, Training
from anomaly_seg.settings import CONFIG
from anomaly_seg.tiling import ALIGN


class LossBar(TQDMProgressBar):
    """Lightning's bar with the epoch's mean loss so far."""

    def get_metrics(self, trainer: L.Trainer, module: SegmentationModule) -> dict[str, Any]:  # type: ignore[override]
        means = module.step_losses.means()
        return {"loss": f"{means['loss']:.3g}"} if means else {}


def run(config: DictConfig) -> Path:
    """Train and score one fold, unless its folder holds the finished result of the same settings.

    Returns:
        The run's folder: config.yaml, scores.csv, pixels.csv, pictures/, checkpoint.ckpt; result.json comes last.

    Raises:
        InputError: settings, data or folder that cannot be used.
    """
    chosen: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    settings.name(chosen)
    settings.check(chosen)
    settings.check_training(chosen)
    _quiet()
    chosen["trainer"]["precision"] = _precision(chosen["trainer"])
    folder = Path(chosen["output_dir"]) / chosen["run_name"]
    if claim(folder, chosen):
        same = compare_data(folder, chosen)
        left = "; no profile was made: overwrite=true trains again" if chosen["profile"] else ""
        print(f"{folder}: finished before with the same settings{same}{left}", file=sys.stderr)
        return folder
    if chosen["threads"]:
        torch.set_num_threads(int(chosen["threads"]))
    memory.reset_peak()
    L.seed_everything(chosen["seed"], workers=True, verbose=False)
    data = make_data(chosen, read_dataset(chosen["data"]["reader"]))
    module = make_module(chosen, data)
    begin(folder, chosen)  # nothing that was there is lost before all of the above is known to work
    checkpoint = folder / CHECKPOINT
    resume = checkpoint if checkpoint.exists() else None
    logger = make_logger(chosen, folder, resumed=resume is not None)
    timer = Timer()  # its seconds are in the checkpoint: a resumed run counts all of its own
    trainer = make_trainer(chosen, folder, logger, timer)
    try:
        _fit(trainer, module, data, resume)
        result = _score(chosen, folder, data, module, trainer, timer.time_elapsed("train"))
        logger.finish(result, folder)
        results.write_result(folder, result)
    finally:
        logger.close(failed=not results.finished(folder))
    return folder


def _score(
    chosen: dict[str, Any],
    folder: Path,
    data: FoldDataModule,
    module: SegmentationModule,
    trainer: L.Trainer,
    seconds: float,
) -> Result:
    """Scores, pixel counts and pictures into the folder, and what result.json will say."""
    network, device, started = module.evaluated, trainer.strategy.root_device, time.perf_counter()
    bar = chosen["trainer"]["enable_progress_bar"]
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
    result = write_outputs(chosen, folder, data, network, evaluation, training)
    if chosen["pictures"]:
        write_pictures(folder, data, network, evaluation, result, device)
    return result


def _fit(trainer: L.Trainer, module: SegmentationModule, data: FoldDataModule, resume: Path | None) -> None:
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


def claim(folder: Path, chosen: dict[str, Any]) -> bool:
    """Whether the folder holds this very run, finished. Changes nothing.

    Raises:
        InputError: the folder belongs to a run with other settings, or to none.
    """
    record, finished = folder / CONFIG, results.finished(folder)
    try:
        if chosen["overwrite"]:
            if folder.exists() and not record.exists() and any(folder.iterdir()):
                raise InputError(
                    f"{folder}: holds files but no {CONFIG}, so it is no run's; overwrite=true leaves it alone"
                )
            return False
        # A run that failed before its first epoch ended has nothing to lose: mend the settings and start again.
        if record.exists() and (finished or (folder / CHECKPOINT).exists()):
            changed = settings.differences(settings.read(record), chosen)
            if changed:
                raise InputError(
                    f"{folder} holds a run with other settings ({'; '.join(changed[:8])}): set experiment_name or "
                    "variant to keep both, or overwrite=true to replace it"
                )
        elif finished and results.read_result(folder).config_digest != settings.digest(chosen):
            raise InputError(f"{folder} holds a run with other settings, and its {CONFIG} is gone: move it away")
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error}); set output_dir") from error
    return finished


def begin(folder: Path, chosen: dict[str, Any]) -> None:
    """Make the folder this run's: empty it if the run is to be replaced, and write its settings.

    Raises:
        InputError: it cannot be written.
    """
    try:
        if chosen["overwrite"] and folder.exists():
            for path in folder.iterdir():  # the settings last: without them a folder is no run's
                if path.name != CONFIG:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        results.write_whole(folder / CONFIG, yaml.safe_dump(chosen, sort_keys=False))
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error}); free space, or set output_dir") from error


def compare_data(folder: Path, chosen: dict[str, Any]) -> str:
    """Nothing if a finished run was made from the data that the settings name, else why that cannot be said.

    Raises:
        InputError: it was made from other data.
    """
    recorded = results.read_result(folder).data_digest
    if not recorded:
        return " (by an older version, which did not record its data)"
    try:
        data = make_data(chosen, read_dataset(chosen["data"]["reader"]))
    except InputError as error:
        return f" (its data cannot be compared: {error})"
    if data.digest != recorded:
        raise InputError(
            f"{folder} holds a run on other data (images, masks, folds or their preparation have changed since): set "
            "data.name or variant to keep both, or overwrite=true to replace it"
        )
    return ""


def make_data(chosen: dict[str, Any], dataset: Any) -> FoldDataModule:
    """The fold's DataModule from plain settings."""
    data = chosen["data"]
    return FoldDataModule(
        dataset,
        Preparation.of(chosen),
        chosen["fold"],
        folds=data["folds"],
        split=data["split"],
        split_seed=data["split_seed"],
        sampler=chosen["sampler"]["kind"],
        augmentation=chosen["augment"],
        batch_size=chosen["batch_size"],
        workers=data["workers"],
        seed=chosen["seed"],
        cache_dir=data["cache_dir"] or default_cache(),
        evaluate_on=chosen.get("evaluate_on", "test"),
        splits=data.get("splits"),  # runs from before there was a choice have no key for it
    )


def make_network(chosen: dict[str, Any], data: FoldDataModule) -> Network:
    """The network from plain settings, with `head_bias: prior` replaced by the log-odds of the training labels."""
    arguments = dict(chosen["model"]["network"])
    if arguments.get("head_bias") == "prior":
        arguments["head_bias"] = prior_log_odds(data.defect_fraction())
    try:
        network = instantiate(arguments, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):  # without Hydra's wrapping
            raise error.__cause__ from None
        raise
    image = torch.zeros(1, data.how.channels, data.how.height, data.how.width, device="meta")
    network.check_size(image)
    if data.how.fit == "tile" and ALIGN % network.size_multiple:
        raise InputError(
            f"data.fit=tile: tiles start on multiples of {ALIGN}, but this network pools by {network.size_multiple}; "
            "use a smaller model.network.depth, or data.fit=resize or pad"
        )
    return network


def make_module(chosen: dict[str, Any], data: FoldDataModule) -> SegmentationModule:
    """The network in its LightningModule."""
    model, network = chosen["model"], make_network(chosen, data)
    return SegmentationModule(
        network,
        make_phases(model["phases"]),
        chosen["optimizer"],
        positive_weight=model["positive_weight"],
        image_names=data.sample_names(),
        channels_last=chosen["trainer"]["channels_last"],
        average=model["average"],
        norm_momentum=model["norm_momentum"],
        flip_average=model["flip_average"],
        compiled=chosen["trainer"]["compile"],
    )


def make_trainer(chosen: dict[str, Any], folder: Path, logger: RunLogger, timer: Timer) -> L.Trainer:
    """Lightning's Trainer from plain settings; one checkpoint, after every epoch."""
    options = {k: v for k, v in chosen["trainer"].items() if k not in ("channels_last", "compile")}
    # "warn", because bilinear up-sampling has no deterministic gradient on CUDA.
    options["deterministic"] = "warn" if options["deterministic"] else False
    checkpoint = ModelCheckpoint(
        folder, CHECKPOINT.removesuffix(".ckpt"), enable_version_counter=False, save_on_train_epoch_end=True
    )
    callbacks: list[L.Callback] = [timer, checkpoint]
    if chosen["profile"]:
        callbacks.append(ProfileSteps(folder))
    if options["enable_progress_bar"]:
        callbacks.append(LossBar(refresh_rate=1 if sys.stderr.isatty() else 100))
    return L.Trainer(
        max_epochs=settings.all_epochs(chosen),
        logger=logger.lightning,
        callbacks=callbacks,
        plugins=[CheckpointFile()],
        default_root_dir=folder,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )


def _precision(trainer: dict[str, Any]) -> str:
    """`auto` becomes bf16-mixed where the hardware has bf16 arithmetic, and 32-true elsewhere."""
    if trainer["precision"] != "auto":
        return str(trainer["precision"])
    cuda = torch.cuda.is_available() and trainer["accelerator"] != "cpu"
    return "bf16-mixed" if settings.bf16_hardware(torch.cuda.is_bf16_supported() if cuda else None) else "32-true"
