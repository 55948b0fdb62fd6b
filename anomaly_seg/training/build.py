"""From settings to the objects of a run: data, network, LightningModule, Trainer."""

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from anomaly_seg.data.datamodule import FoldDataModule
from anomaly_seg.data.preparation import Preparation
from anomaly_seg.data.records import Dataset
from anomaly_seg.data.tiling import ALIGN
from anomaly_seg.data.transforms import recipe
from anomaly_seg.errors import InputError
from anomaly_seg.instantiate import instantiate
from anomaly_seg.losses import Phase, check_phases
from anomaly_seg.models.base import Network
from anomaly_seg.models.heads import prior_log_odds
from anomaly_seg.quick_lightning import LightningEnvironment, pl
from anomaly_seg.settings import ModelSettings, Settings
from anomaly_seg.training.checkpoint import CHECKPOINT, CheckpointFile
from anomaly_seg.training.devices import SyncLearningNorms, check_devices
from anomaly_seg.training.loggers import RunLogger
from anomaly_seg.training.module import SegmentationModule
from anomaly_seg.training.precision import resolve_precision
from anomaly_seg.training.profiling import ProfileSteps
from anomaly_seg.training.start import load_start


class LossBar(pl.callbacks.TQDMProgressBar):
    """Lightning's bar with the epoch's mean loss so far."""

    def get_metrics(self, trainer: pl.Trainer, module: SegmentationModule) -> dict[str, Any]:  # type: ignore[override]
        means = module.step_losses.means()
        return {"loss": f"{means['loss']:.3g}"} if means else {}


def read_dataset(settings: Settings) -> Dataset:
    """The data set of `data.reader`. Raises InputError: what the reader has against its arguments, or its files."""
    return instantiate(settings.data.reader, "data.reader")


def make_data(settings: Settings, dataset: Dataset) -> FoldDataModule:
    """The fold's DataModule; what the reader has to say about the data is said once."""
    data = settings.data
    for note in dataset.notes:
        _say(f"{dataset.name}: {note}")
    return FoldDataModule(
        dataset,
        settings.preparation,
        settings.fold,
        folds=data.folds,
        split=data.split,
        split_seed=data.split_seed,
        sampler=settings.sampler.kind,
        augmentation=settings.augment,
        batch_size=settings.batch_size,
        workers=data.workers,
        seed=settings.seed,
        cache_dir=data.cache_dir,
        evaluate_on=settings.evaluate_on,
        splits=data.splits,
    )


@cache
def _say(text: str) -> None:
    """A line on the screen, the first time in this process: the jobs of a sweep share their data."""
    print(text, file=sys.stderr)


def make_network(model: ModelSettings, head_bias: float = 0.0) -> Network:
    """The network, with weights that mean nothing yet.

    Args:
        model: its settings.
        head_bias: what stands for `head_bias: prior`; any number where trained weights follow.

    Weights that an encoder begins with are not read: see `training.start`.

    Raises:
        InputError: arguments that the network refuses, under their key.
    """
    arguments = dict(model.network)
    if arguments.get("head_bias") == "prior":
        arguments["head_bias"] = head_bias
    if arguments.get("encoder") is None:  # the published one; a network of the user's own may know no other
        arguments.pop("encoder", None)
    return instantiate(arguments, "model.network")


def make_network_for(settings: Settings, data: FoldDataModule) -> Network:
    """The network to train on these data, whose heads start at the log-odds of the training labels if so set.

    Raises:
        InputError: as `make_network`; or a size that the network cannot take.
    """
    prior = prior_log_odds(data.defect_fraction()) if settings.model.network.get("head_bias") == "prior" else 0.0
    network = make_network(settings.model, prior)
    check_network(network, data.preparation)
    return network


def check_model(settings: Settings) -> list[str]:
    """What `train` refuses about the network, its phases, the optimiser and the augmentation, whatever the data are."""
    try:
        network = make_network(settings.model)
        check_network(network, settings.preparation)
        _module(settings, network, [])
        if settings.model.start is not None:
            load_start(network, settings.model.start)
        check_devices(settings, network)
        recipe(settings.augment)
    except InputError as error:
        return [str(error)]
    return []


def check_network(network: Network, preparation: Preparation) -> None:
    """Refuse a size that the network cannot take. Raises InputError."""
    try:
        network.check_size(torch.zeros(1, preparation.channels, preparation.height, preparation.width, device="meta"))
    except ValueError as error:
        raise InputError(f"{error} (set scale.height and scale.width)") from error
    if preparation.fit == "tile" and ALIGN % network.size_multiple:
        raise InputError(
            f"data.fit=tile: tiles start on multiples of {ALIGN}, but this network pools by {network.size_multiple}; "
            "use a smaller depth of the network or its encoder, or data.fit=resize or pad"
        )


def make_phases(model: ModelSettings) -> list[Phase]:
    """The phases of the training. Raises InputError for phases that make no sense."""
    phases = [Phase(p.name, float(p.length), tuple(p.train), dict(p.weights)) for p in model.phases]
    try:
        check_phases(phases)
    except ValueError as error:
        raise InputError(f"model.phases: {error}") from error
    return phases


def make_module(settings: Settings, data: FoldDataModule) -> SegmentationModule:
    """The network in its LightningModule."""
    return _module(settings, make_network_for(settings, data), data.sample_names())


def _module(settings: Settings, network: Network, image_names: list[str]) -> SegmentationModule:
    model = settings.model
    return SegmentationModule(
        network,
        make_phases(model),
        settings.optimizer,
        positive_weight=model.positive_weight,
        image_names=image_names,
        channels_last=settings.trainer.channels_last,
        average=model.average,
        norm_momentum=model.norm_momentum,
        flip_average=model.flip_average,
        compiled=settings.trainer.compile,
        encoder_lr_factor=model.encoder_lr_factor,
    )


def make_trainer(
    settings: Settings, folder: Path, logger: RunLogger, watching: Sequence[pl.Callback] = (), device: int = 0
) -> pl.Trainer:
    """Lightning's Trainer with callbacks that watch it; one checkpoint, after every epoch.

    Of several devices the first alone shows a bar and makes a profile.
    """
    checkpoint = pl.callbacks.ModelCheckpoint(
        folder, CHECKPOINT.removesuffix(".ckpt"), enable_version_counter=False, save_on_train_epoch_end=True
    )
    callbacks: list[pl.Callback] = [*watching, checkpoint]
    if settings.profile and device == 0:
        callbacks.append(ProfileSteps(folder))
    options = _trainer_options(settings)
    options["enable_progress_bar"] &= device == 0
    if options["enable_progress_bar"]:
        callbacks.append(LossBar(refresh_rate=1 if sys.stderr.isatty() else 100))
    return pl.Trainer(
        max_epochs=settings.all_epochs,
        logger=logger.lightning,
        callbacks=callbacks,
        # Inside a job of SLURM Lightning would find that out, count devices by tasks, and requeue on its own.
        plugins=[CheckpointFile(), LightningEnvironment(), SyncLearningNorms()],
        default_root_dir=folder,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )


def _trainer_options(settings: Settings) -> dict[str, Any]:
    """The arguments of Lightning's own; the rest is the LightningModule's."""
    trainer = settings.trainer
    options = trainer.model_dump(exclude={"channels_last", "compile"})
    options["precision"] = resolve_precision(trainer)
    # "warn", because bilinear up-sampling has no deterministic gradient on CUDA.
    options["deterministic"] = "warn" if trainer.deterministic else False
    if settings.devices > 1:
        # A phase leaves parameters out, and so may the weights of its losses.
        options["strategy"] = pl.strategies.DDPStrategy(find_unused_parameters=True)
        options["use_distributed_sampler"] = False  # `DeviceBatches` splits the batches
    return options
