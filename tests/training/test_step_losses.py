"""Losses read now and then: means by hand, and the first bad step by name."""

import math

import pytest
import torch

from anomaly_seg.training.step_losses import READ_EVERY, NotFiniteError, ReadStep, StepLosses


def add(losses: StepLosses, number: int, images: list[int], **terms: float) -> None:
    values = {name: torch.tensor(value) for name, value in terms.items()}
    losses.add(number, torch.tensor(images), torch.stack([*values.values()]).sum(), values)


def test_means_are_over_images() -> None:
    losses = StepLosses()
    add(losses, 0, [0, 1], f1=1.0, f2=3.0)
    add(losses, 1, [2], f1=4.0, f2=0.5)  # the last batch of an epoch may be smaller
    assert losses.means() == {}
    losses.read()
    assert losses.means() == pytest.approx({"loss": (2 * 4 + 4.5) / 3, "loss/f1": 2.0, "loss/f2": 6.5 / 3})
    losses.restart()
    assert losses.means() == {}
    losses.read()  # nothing has come in


def test_means_are_over_the_images_of_all_devices() -> None:
    other = StepLosses(["a", "b", "c"])  # of a device that has 2 images, and in the second step none
    add(other, 0, [0, 1], f1=1.0)
    add(other, 1, [], f1=9.0)
    seen: list[list] = []
    other.gather = lambda value: (seen.append(value), [value])[1]
    other.read()
    losses = StepLosses()
    losses.gather = lambda value: [value, *seen]
    add(losses, 0, [2], f1=4.0)
    add(losses, 1, [2], f1=2.0)
    losses.read()
    assert losses.means() == pytest.approx({"loss": (4 + 2 * 1 + 2) / 4, "loss/f1": 2.0})


def test_the_bad_image_of_another_device_is_told() -> None:
    losses = StepLosses(["a", "b", "c"])
    theirs = {"ReadStep": [ReadStep(1, {"loss": math.nan, "loss/f1": math.nan})], "int": [2]}
    losses.gather = lambda value: [value, theirs[type(value[0]).__name__]]
    add(losses, 4, [0], f1=1.0)
    with pytest.raises(NotFiniteError, match=r"step 4, image c \(f1 nan\)"):
        losses.read()


def test_a_phase_that_ends_inside_an_epoch_has_means_of_its_own_steps() -> None:
    losses = StepLosses()
    for step in range(3):
        add(losses, step, [step], mask=float(step))
    add(losses, 3, [3], decision=8.0)
    losses.read()
    assert losses.means() == pytest.approx({"loss": 11 / 4, "loss/mask": 1.0, "loss/decision": 8.0})


def test_they_are_read_every_few_steps_and_kept_as_they_were() -> None:
    losses, value = StepLosses(), torch.tensor(1.0)
    for step in range(READ_EVERY):
        assert losses.means() == {}
        losses.add(step, torch.tensor([0]), value, {"map": value})
        value.add_(1.0)  # as the next step of a CUDA graph writes into the same memory
    assert losses.means() == pytest.approx({name: (READ_EVERY + 1) / 2 for name in ("loss", "loss/map")})


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_bad_step_is_told(bad: float) -> None:
    losses = StepLosses(["a", "b", "c"])
    add(losses, 6, [0], f1=1.0, f2=1.0)
    add(losses, 7, [2, 1], f1=0.25, f2=bad)
    add(losses, 8, [0], f1=math.nan, f2=1.0)
    with pytest.raises(NotFiniteError, match=rf"step 7, image c, b \(f1 0\.25, f2 {bad:g}\): look at that image"):
        losses.read()
