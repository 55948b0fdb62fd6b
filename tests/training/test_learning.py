"""A run that does not learn: its loss beside that of a constant guess, against numbers by hand and by minimising."""

import contextlib
import io
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from support.helpers import in_memory
from support.tiny_runs import tiny_settings

from anomaly_seg.data.datamodule import FoldDataModule
from anomaly_seg.data.preparation import Preparation
from anomaly_seg.losses import Phase, binary_cross_entropy
from anomaly_seg.models.base import Network
from anomaly_seg.results import run_files
from anomaly_seg.results.schema import PhaseLoss
from anomaly_seg.training.build import make_data, make_network, read_dataset
from anomaly_seg.training.learning import WatchLearning
from anomaly_seg.training.run import run


class Trained:
    """A tiny run: its folder, what it said on the screen, and what result.json says of its phases."""

    def __init__(self, place: Path, *overrides: str) -> None:
        self.settings, screen = tiny_settings(place, "pictures=false", *overrides), io.StringIO()
        with contextlib.redirect_stderr(screen):
            self.folder = run(self.settings)
        self.screen = screen.getvalue()
        self.phases = run_files.read_result(self.folder).training.phases


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Trained:
    """Seg-Dec that never moves, for two epochs a phase."""
    return Trained(tmp_path_factory.mktemp("still"), "model=seg_dec", "epochs=2", "optimizer.lr=1e-12")


def test_a_run_that_does_not_move_is_marked_in_each_phase(still: Trained) -> None:
    assert [(p.phase, p.learned) for p in still.phases] == [("segmentation", False), ("decision", False)]
    losses = run_files.read_result(still.folder).training.final_loss
    assert still.phases[1].loss == pytest.approx(losses)


def test_it_is_said_once_a_phase_and_what_to_try(still: Trained) -> None:
    said = [line for line in still.screen.splitlines() if "constant guess" in line]
    assert [line.split(":")[0] for line in said] == ["epoch 2, phase 'segmentation'", "epoch 4, phase 'decision'"]
    for word in ("optimizer.lr than 1e-12", "a pretrained encoder", "sampler=alternating", "a larger scale"):
        assert word in said[0]


def test_the_guess_is_the_best_constant_logit_on_the_samples_as_drawn(still: Trained) -> None:
    """Seg-Dec's averaged target at an eighth of the size, of which no logit gets below the mean of the entropies."""
    data = make_data(still.settings, read_dataset(still.settings))
    network, drawn = make_network(still.settings.model), data.sampler.order(1)  # the phase's last epoch
    masks = [torch.from_numpy(np.array(data.arrays.masks[i], np.float32))[None, None] for i in drawn]
    target = torch.cat([network.target("mask", mask, torch.zeros(1)) for mask in masks]).double()

    def loss(logit: float) -> float:
        return binary_cross_entropy(torch.full_like(target, logit), target).item()

    best = minimize_scalar(loss, bounds=(-10, 0), method="bounded")
    entropies = torch.distributions.Bernoulli(target.clamp(1e-12, 1 - 1e-7)).entropy()
    assert still.phases[0].constant_guess == pytest.approx(best.fun, rel=1e-5)
    assert still.phases[0].lowest_possible == pytest.approx(entropies.mean().item(), rel=1e-4)
    assert 0 < still.phases[0].lowest_possible < 0.5 * still.phases[0].constant_guess
    # Half of the images are drawn from the defective ones, and a label is 0 or 1.
    assert still.phases[1].constant_guess == pytest.approx(math.log(2))
    assert still.phases[1].lowest_possible == 0


def test_a_run_that_learns_is_not_marked(tmp_path: Path) -> None:
    learning = Trained(tmp_path, "model=unet", "epochs=2", "optimizer.lr=0.01")
    assert [p.learned for p in learning.phases] == [True] and "constant guess" not in learning.screen
    assert learning.phases[0].loss < 0.8 * learning.phases[0].constant_guess


class Halting:
    """What a callback sees of a training with one loss an epoch."""

    def __init__(self, cache: Path, groups: int = 8, views: int = 4, **phase: float) -> None:
        dataset = in_memory(groups=groups, views=views)
        self.data = FoldDataModule(dataset, Preparation(26, 10, 5), 0, cache_dir=cache)
        self.watch, self.steps = WatchLearning(self.data), len(self.data.sampler)
        self.phase = Phase("all", 1.0, (), phase or {"map": 1.0})

    def epochs(self, *losses: float, of: int, positive_weight: float = 1.0) -> list[PhaseLoss]:
        """What is known of the phases after the first epochs of `of`."""
        for epoch, loss in enumerate(losses):
            means = {f"loss/{name}": loss for name, weight in self.phase.weights.items() if weight}
            module = SimpleNamespace(
                network=Network(),
                phases=[self.phase],
                positive_weight=positive_weight,
                device=torch.device("cpu"),
                total_steps=of * self.steps,
                step_losses=SimpleNamespace(read=lambda: None, means=lambda means=means: means),
                optimizer_settings=SimpleNamespace(lr=0.001),
            )
            trainer = SimpleNamespace(global_step=(epoch + 1) * self.steps, current_epoch=epoch, is_global_zero=True)
            self.watch.on_train_epoch_end(trainer, module)  # type: ignore[arg-type]
        return self.watch.phases


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_the_guess_by_hand(cache: Path, weight: float) -> None:
    """A label of 60 of 260 pixels (the box of 4x5, dilated by a diamond of radius 2) in a quarter of the images."""
    q = 60 / 260 / 4
    p = weight * q / (weight * q + 1 - q)
    by_hand = -weight * q * math.log(p) - (1 - q) * math.log(1 - p)
    halting = Halting(cache, f1=1.0, f2=0.5, C=0.0)
    (found,) = halting.epochs(0.1, of=1, positive_weight=weight)
    assert found.constant_guess == pytest.approx(1.5 * by_hand) and found.lowest_possible == 0
    assert found.loss == pytest.approx(0.15)


GUESS = 0.2206
"""Of one logit, by the numbers above."""


@pytest.mark.parametrize(
    ("losses", "learned"),
    [
        ([0.221, 0.221, 0.203, 0.195], False),  # as One-Stage on Magnetic tiles: 0.534, 0.534, 0.49, 0.47 of 0.534
        ([0.221, 0.221, 0.190, 0.178], False),
        ([0.221, 0.221, 0.190, 0.175], True),  # a fifth below
        ([0.700, 0.500, 0.360, 0.340], True),  # a head that began far off, and is on its way
        ([0.700, 0.700, 0.700, 0.700], False),
        ([0.100, 0.200, 0.300, 0.400], False),  # it diverges
    ],
)
def test_the_rule(cache: Path, losses: list[float], learned: bool) -> None:
    (found,) = Halting(cache).epochs(*losses, of=4)
    assert found.learned is learned and found.constant_guess == pytest.approx(GUESS, abs=1e-4)


def test_it_is_said_from_half_of_a_phase_on(cache: Path, capsys: pytest.CaptureFixture) -> None:
    halting = Halting(cache)
    for done, said in ((1, 0), (2, 0), (3, 1), (6, 1)):
        halting.epochs(*[0.22] * done, of=6)
        assert len(halting.watch.warned) == said
    assert capsys.readouterr().err.count("constant guess") == 1
    for done, of, said in ((1, 2, 0), (1, 1, 1)):  # half of two epochs is one, which says little
        short = Halting(cache)
        short.epochs(*[0.22] * done, of=of)
        assert len(short.watch.warned) == said


def test_a_resumed_run_knows_what_it_has_seen_and_said(cache: Path, capsys: pytest.CaptureFixture) -> None:
    halting, resumed = Halting(cache), Halting(cache)
    halting.epochs(0.7, 0.6, of=4)
    resumed.watch.load_state_dict(halting.watch.state_dict())
    assert resumed.watch.phases == halting.watch.phases and resumed.watch.warned == [0]
    assert resumed.epochs(0.3, of=4)[0].learned  # less than half of 0.7, which the first part began with
    assert capsys.readouterr().err.count("constant guess") == 1


def test_without_a_defect_there_is_nothing_to_learn(cache: Path) -> None:
    halting = Halting(cache)
    halting.data.arrays.masks = np.zeros_like(halting.data.arrays.masks)
    assert halting.epochs(0.2, of=1) == [] and not halting.watch.warned


def test_old_checkpoints_without_its_state_go_on(configure: Callable) -> None:
    settings = configure("model=unet", "epochs=1", "pictures=false")
    folder = run(settings)
    checkpoint = torch.load(folder / "checkpoint.ckpt", weights_only=True)
    assert checkpoint["callbacks"].pop("WatchLearning")
    torch.save(checkpoint, folder / "checkpoint.ckpt")
    (folder / run_files.RESULT).unlink()
    assert run_files.read_result(run(settings)).training.phases == []
