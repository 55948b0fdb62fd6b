"""The one LightningModule: it wraps any network with its losses, optimiser and phases."""

import math
import sys
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from anomaly_seg.data.datamodule import Batch
from anomaly_seg.errors import InputError
from anomaly_seg.losses import Phase, network_loss, phase_at
from anomaly_seg.models.base import Network
from anomaly_seg.models.encoders.base import Encoder
from anomaly_seg.models.flip_tta import FlipAverage
from anomaly_seg.quick_lightning import pl
from anomaly_seg.results.schema import StartWeights
from anomaly_seg.settings import OptimizerSettings
from anomaly_seg.training.checkpoint import check_fits
from anomaly_seg.training.step_losses import StepLosses

OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


def compiled_as(function: Callable[..., Any], mode: bool | str) -> Callable[..., Any]:
    """The function itself (mode: False), or compiled in torch's default mode (True) or a mode of torch.compile."""
    if mode is False:
        return function
    # Each network, size and phase has code of its own; past torch's usual limit of 8 it would run uncompiled, unasked.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    return torch.compile(function, mode=None if mode is True else mode, dynamic=False)


@cache
def make_loss(mode: bool | str) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    """`network_loss`, `compiled_as` asked: one function for all runs of a process, so that they share its code."""
    return compiled_as(network_loss, mode)


class SegmentationModule(pl.LightningModule):
    """Training of one network.

    Args:
        network: what is trained.
        phases: what is trained when, with which loss weights.
        optimizer: name ("adam" or "sgd"), schedule ("none" or "cosine"), lr and the optimiser's own arguments.
        positive_weight: factor on the defect term of every loss.
        image_names: by index, to name the image of a loss that is not finite.
        channels_last: memory layout of network and images; same numbers, other speed.
        average: decay of the moving average of the weights that is evaluated (Seg-Dec: 0.9999); 0 turns it off.
        norm_momentum: weight of the newest batch in batch normalisation's running statistics. At batch size 1, torch's
            0.1 makes them those of about the last ten images.
        flip_average: whether to score by the mean over the image and its mirror images; training is untouched.
        compiled: whether torch.compile makes the training step, or in which of its modes.
        encoder_lr_factor: share of the rate at which the encoder learns.
    """

    def __init__(
        self,
        network: Network,
        phases: Sequence[Phase],
        optimizer: OptimizerSettings,
        positive_weight: float = 1.0,
        image_names: Sequence[str] = (),
        channels_last: bool = False,
        average: float = 0.0,
        norm_momentum: float = 0.1,
        flip_average: bool = False,
        compiled: bool | str = False,
        encoder_lr_factor: float = 1.0,
    ) -> None:
        super().__init__()
        for part in network.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.momentum = norm_momentum
        self.network = network
        self.phases, self.optimizer_settings, self.positive_weight = list(phases), optimizer, positive_weight
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.decay, self.flip_average, self.encoder_lr_factor = average, flip_average, encoder_lr_factor
        self.last_loss = float("nan")  # mean over the last finished epoch; a run that is resumed after it knows it too
        self.start: StartWeights | None = None  # what the weights were before training; None: random
        self.averaged = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=self._average) if average else None
        if self.averaged is not None:
            self.averaged.requires_grad_(False)  # or several devices would wait for its gradients
        self.loss = make_loss(compiled)
        self.step_losses = StepLosses(image_names)
        self.prepared: Phase | None = None  # whose parts learn now
        self.network.to(memory_format=self.layout)  # type: ignore[call-overload]
        self._check_parts()
        self._optimizer()  # so that a mistake in its settings is found before any work is done

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        image = batch.image.contiguous(memory_format=self.layout)
        weights = self.phase.weights
        try:
            loss, terms = self.loss(self.network, image, batch.mask, batch.label, weights, self.positive_weight)
        except ValueError as error:  # a loss on a logit that the network does not have
            raise InputError(f"model.phases: {error}") from error
        if self.trainer.world_size == 1:
            self.step_losses.add(self.global_step, batch.index, loss, terms)
            return loss
        share = self.trainer.train_dataloader.batch_sampler.share(batch_index)  # type: ignore[union-attr]
        self.step_losses.add(self.global_step, batch.index[: share.images], loss, terms)
        return loss * share.weight  # of which the gradients are averaged over the devices

    @property
    def phase(self) -> Phase:
        return phase_at(self.phases, self.global_step, self.total_steps).phase

    @cached_property
    def total_steps(self) -> int:
        """Optimisation steps of the whole run."""
        return int(self.trainer.estimated_stepping_batches)

    def on_validation_epoch_start(self) -> None:
        from torchmetrics import MetricCollection
        from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision, BinaryF1Score, BinaryJaccardIndex

        own: dict[str, Any] = {"sync_on_compute": False}  # each of several devices sees all validation images
        # On the CPU: float64.
        self.judges = MetricCollection({"AP": BinaryAveragePrecision(**own), "AUROC": BinaryAUROC(**own)})
        pixel_judges = MetricCollection({"IoU": BinaryJaccardIndex(**own), "Dice": BinaryF1Score(**own)})
        self.pixel_judges = pixel_judges.to(self.device)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Image-level ranking and, at probability 1/2, pixel-level overlap of the validation images."""
        network = self.evaluated
        output = network(batch.image.contiguous(memory_format=self.layout))
        maps = network.maps(output)
        score = network.scores(output, maps)[network.readout]
        pixels = maps[network.pixel_map(maps)]
        if network.tile_join(network.readout, maps) == "sum":  # of pixels; torchmetrics wants probabilities
            score = score / pixels[0].numel()
        self.judges.update(score.cpu(), batch.label.int().cpu())
        self.pixel_judges.update(pixels, batch.mask.int())

    def on_validation_epoch_end(self) -> None:
        for prefix, judges in (("validation", self.judges), ("validation_pixel", self.pixel_judges)):
            self.log_dict({f"{prefix}/{k}": v for k, v in judges.compute().items()})

    def on_train_start(self) -> None:
        if self.trainer.world_size > 1:
            self.step_losses.gather = self._gather

    def on_train_epoch_start(self) -> None:
        self.step_losses.restart()
        self.prepared = None  # what came between two epochs may have changed modes

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        if self.prepared is not (phase := self.phase):
            self._freeze(phase)
            self.prepared = phase

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_index: int) -> None:
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)

    def on_train_epoch_end(self) -> None:  # Lightning writes the checkpoint after this
        self.step_losses.read()
        means = self.step_losses.means()
        self.log_dict(means)  # Lightning's own averaging takes a millisecond a step (bench/step_overhead.py)
        self.last_loss = means["loss"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["last_loss"] = self.last_loss
        checkpoint["start"] = self.start.model_dump() if self.start else None
        checkpoint["threads"] = torch.get_num_threads()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_fits(self.trainer.ckpt_path, checkpoint["state_dict"], self)
        self.last_loss, start = checkpoint["last_loss"], checkpoint.get("start")  # older checkpoints do not say
        self.start = StartWeights(**start) if start else None
        before, now = checkpoint.get("threads"), torch.get_num_threads()  # older checkpoints do not say
        if before not in (None, now) and self.trainer.is_global_zero:
            print(
                f"the run began with {before} CPU threads and goes on with {now}: sums are rounded in another order, "
                f"so its weights will differ a little from an uninterrupted run's; threads={before} keeps them equal",
                file=sys.stderr,
            )

    @property
    def evaluated(self) -> Network:
        """The network to score with: the moving average where one is kept, asked four times if so chosen."""
        network: Network = self.averaged.module if self.averaged is not None else self.network  # type: ignore[assignment]
        return FlipAverage(network) if self.flip_average else network

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer()
        if self.optimizer_settings.schedule == "none":
            return optimizer
        cosine = torch.optim.lr_scheduler.LambdaLR(optimizer, self._cosine)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}

    def _optimizer(self) -> torch.optim.Optimizer:
        name, schedule = self.optimizer_settings.name, self.optimizer_settings.schedule
        arguments = {"lr": self.optimizer_settings.lr, **self.optimizer_settings.extra()}
        if name not in OPTIMIZERS:
            raise InputError(f"optimizer.name={name}: choose {' or '.join(OPTIMIZERS)}")
        if schedule not in ("none", "cosine"):
            raise InputError(f"optimizer.schedule={schedule}: choose none or cosine")
        try:
            return OPTIMIZERS[name](self._parameter_groups(), **arguments)
        except (TypeError, ValueError) as error:  # an argument it does not have, or a value that it refuses
            raise InputError(f"optimizer {arguments}: {error}") from error

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """All parameters, or the encoder's apart where it learns at a rate of its own."""
        factor = self.encoder_lr_factor
        encoder = [p for part in self.network.modules() if isinstance(part, Encoder) for p in part.parameters()]
        if factor == 1 or not encoder:
            return [{"params": list(self.network.parameters())}]
        rest = [p for p in self.network.parameters() if not any(p is e for e in encoder)]
        return [{"params": rest}, {"params": encoder, "lr": self.optimizer_settings.lr * factor}]

    def _cosine(self, step: int) -> float:
        """From 1 to 0 over each phase: what a later phase trains starts fresh, and needs a full rate."""
        _, start, end = phase_at(self.phases, step, self.total_steps)
        return 0.5 * (1 + math.cos(math.pi * (step - start) / max(1, end - start)))

    def _gather(self, value: Any) -> list[Any]:
        """What each device has, in the order of devices; all of them call it."""
        values = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def _freeze(self, phase: Phase) -> None:
        """Only the phase's parts learn. Frozen ones are in evaluation mode, or their normalisation would move on."""
        for name, part in self.network.named_children():
            learns = not phase.train or name in phase.train
            part.train(learns)
            for parameter in part.parameters():
                parameter.requires_grad_(learns)
                if not learns:
                    parameter.grad = None

    def _check_parts(self) -> None:
        parts = {name for name, _ in self.network.named_children()}
        for phase in self.phases:
            unknown = set(phase.train) - parts
            if unknown:
                raise InputError(
                    f"model.phases, '{phase.name}': no part {sorted(unknown)}; choose from {sorted(parts)}"
                )

    def _average(self, average: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        # As tf.train.ExponentialMovingAverage: early on a smaller decay, or the start would dominate a short run.
        n = int(count)
        decay = min(self.decay, (1 + n) / (10 + n))
        for mean, value in zip(average, current, strict=True):
            mean.copy_(torch.lerp(value, mean, decay))
