"""Whether a run learns: its loss beside that of a constant guess, which the training labels tell beforehand.

The constant guess gives one logit to all pixels of all training samples, as often as the sampler draws them: the best
such logit is the log-odds of the mean target, and its loss the entropy of that mean. Targets between 0 and 1 (Seg-Dec's
averaged mask) leave a loss that no network gets below, the mean of their own entropies.
"""

import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from anomaly_seg.data.datamodule import FoldDataModule
from anomaly_seg.losses import lowest_cross_entropy, phase_at
from anomaly_seg.quick_lightning import pl
from anomaly_seg.results.schema import PhaseLoss
from anomaly_seg.training.module import SegmentationModule

MIN_GAIN = 0.2
"""Share of the way from the constant guess's loss to the lowest possible one below which nothing was learnt. Of 261
runs on KolektorSDD all but three had gone 0.79 of it or more by their last epoch, those of the demo 0.53 or more;
One-Stage on Magnetic tiles, which found hardly a defect, 0.12."""

FALLEN = 0.5
"""A loss that has fallen to this share of its first epoch's is on its way: heads that do not start at the log-odds of a
defect (`head_bias: 0`) begin far above the constant guess. The three other runs are of that kind, and ranked well."""

JUDGED_FROM = 0.5
"""Share of a phase's steps from which on it is said that a run does not learn; not after a first epoch of several."""


class TargetStatistics(NamedTuple):
    """Of one logit's target, by sample: its mean, and the lowest possible loss; (t,) each, 0 where nothing trains."""

    means: np.ndarray
    floors: np.ndarray


def target_statistics(
    module: SegmentationModule, data: FoldDataModule, names: Iterable[str]
) -> dict[str, TargetStatistics]:
    """What each logit is to become, over the training samples. Masks of good samples are empty, and not read."""
    labels, masks = data.arrays.sample_labels, data.arrays.masks
    training = data.sampler.indices
    bad, good = training[labels[training] == 1], training[labels[training] == 0]
    found = {name: TargetStatistics(np.zeros(len(labels)), np.zeros(len(labels))) for name in names}
    for samples in [good, *bad[:, None]]:
        if not len(samples):
            continue
        mask = torch.from_numpy(np.array(masks[samples[0]], np.float32))[None, None].to(module.device)
        label = torch.tensor([float(labels[samples[0]])], device=module.device)
        for name, statistics in found.items():
            target = module.network.target(name, mask, label)
            statistics.means[samples] = target.double().mean().item()
            statistics.floors[samples] = lowest_cross_entropy(target, module.positive_weight).double().mean().item()
    return found


class WatchLearning(pl.Callback):
    """Notes each phase's loss beside the constant guess's, and says once in a phase where they stay alike.

    Args:
        data: what is trained on.
    """

    def __init__(self, data: FoldDataModule) -> None:
        self.data = data
        self.statistics: Mapping[str, TargetStatistics] = {}
        self.first: dict[int, float] = {}
        self.last: dict[int, PhaseLoss] = {}
        self.warned: list[int] = []

    @property
    def phases(self) -> list[PhaseLoss]:
        """What result.json says of each phase, as of its last finished epoch."""
        return [self.last[number] for number in sorted(self.last)]

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for the checkpoint."""
        last = {number: phase.model_dump() for number, phase in self.last.items()}
        return {"first": self.first, "last": last, "warned": self.warned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.first, self.warned = state["first"], state["warned"]
        self.last = {number: PhaseLoss(**phase) for number, phase in state["last"].items()}

    def on_train_epoch_end(self, trainer: pl.Trainer, module: SegmentationModule) -> None:  # type: ignore[override]
        module.step_losses.read()
        phase, start, end = phase_at(module.phases, trainer.global_step - 1, module.total_steps)
        number = module.phases.index(phase)
        terms = module.step_losses.means()
        weights = {name: w for name, w in phase.weights.items() if w and f"loss/{name}" in terms}
        loss = sum(w * terms[f"loss/{name}"] for name, w in weights.items())
        guess, floor = self._reference(module, weights, trainer.current_epoch)
        if guess <= floor:  # without a defect in training, for one: there is nothing to learn
            return
        later = number in self.first
        first = self.first.setdefault(number, loss)
        learned = guess - loss >= MIN_GAIN * (guess - floor) or loss <= FALLEN * first
        self.last[number] = PhaseLoss(
            phase=phase.name, loss=loss, constant_guess=guess, lowest_possible=floor, learned=learned
        )
        done = (trainer.global_step - start) / (end - start)
        due = done >= 1 or (done >= JUDGED_FROM and later)
        if due and not learned and number not in self.warned:
            self.warned.append(number)
            if trainer.is_global_zero:  # of several devices, which all know it
                _say(self.last[number], module.optimizer_settings.lr, trainer.current_epoch + 1)

    def _reference(self, module: SegmentationModule, weights: Mapping[str, float], epoch: int) -> tuple[float, float]:
        """Loss of the best constant guess over the samples of an epoch, and the lowest possible one."""
        if new := weights.keys() - self.statistics.keys():
            self.statistics = {**self.statistics, **target_statistics(module, self.data, new)}
        drawn, guess, floor = self.data.sampler.order(epoch), 0.0, 0.0
        for name, weight in weights.items():
            means, floors = self.statistics[name]
            mean = torch.tensor(means[drawn].mean(), dtype=torch.float64)
            guess += weight * lowest_cross_entropy(mean, module.positive_weight).item()
            floor += weight * float(floors[drawn].mean())
        return guess, floor


def _say(phase: PhaseLoss, rate: float, epoch: int) -> None:
    print(
        f"epoch {epoch}, phase '{phase.phase}': the loss of {phase.loss:.3g} is hardly better than a constant guess, "
        f"which has {phase.constant_guess:.3g}, so this run does not learn so far. Try another optimizer.lr than "
        f"{rate:g} (a third, three times), a pretrained encoder, sampler=alternating, or a larger scale",
        file=sys.stderr,
    )
