"""The losses of training steps: checked and averaged without waiting for the device at every step."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

READ_EVERY = 10
"""Steps between reads: each waits for a GPU to finish what it was told to do."""


class NotFiniteError(RuntimeError):
    """The loss became NaN or infinite."""


class Step(NamedTuple):
    """A step that nobody has looked at yet. images: (b,) indices; values: on the device, in the order of names."""

    number: int
    images: Tensor
    names: tuple[str, ...]
    values: Tensor


class ReadStep(NamedTuple):
    """One device's part of a step, on the host."""

    images: int
    values: dict[str, float]


class StepLosses:
    """Losses of one epoch, summed on the host.

    Args:
        image_names: by index, to name the image of a loss that is not finite.

    Attributes:
        gather: from a value to the list of those of all devices that share each step; they call it together.
    """

    def __init__(self, image_names: Sequence[str] = ()) -> None:
        self.image_names = list(image_names)
        self.gather: Callable[[Any], list[Any]] = lambda value: [value]
        self.restart()

    def restart(self) -> None:
        """Forget all: an epoch begins."""
        self.unread: list[Step] = []
        self.sums: dict[str, tuple[float, int]] = {}

    def add(self, number: int, images: Tensor, loss: Tensor, terms: Mapping[str, Tensor]) -> None:
        """Take the total and the terms of a step; every READ_EVERY steps, as `read`."""
        # A copy, for a CUDA graph writes the next step's losses into the same memory.
        values = torch.stack([loss.detach(), *terms.values()])
        self.unread.append(Step(number, images, ("loss", *(f"loss/{name}" for name in terms)), values))
        if len(self.unread) == READ_EVERY:
            self.read()

    def read(self) -> None:
        """Look at what has come in. Raises NotFiniteError, naming the first bad step and its images."""
        steps, self.unread = self.unread, []
        if not steps:
            return
        numbers = iter(torch.cat([step.values for step in steps]).tolist())
        read = [ReadStep(len(step.images), {name: next(numbers) for name in step.names}) for step in steps]
        for step, parts in zip(steps, zip(*self.gather(read), strict=True), strict=True):
            for device, (images, values) in enumerate(parts):
                if not math.isfinite(values["loss"]):
                    shown = self.gather(step.images.tolist())[device]
                    raise NotFiniteError(self._complaint(step.number, shown, values))
                for name, value in values.items():
                    total, count = self.sums.get(name, (0.0, 0))
                    self.sums[name] = (total + value * images, count + images)

    def means(self) -> dict[str, float]:
        """By name, over the images of the steps that had such a loss and have been read."""
        return {name: total / count for name, (total, count) in self.sums.items()}

    def _complaint(self, number: int, images: Sequence[int], values: Mapping[str, float]) -> str:
        names = [self.image_names[i] if self.image_names else str(i) for i in images]
        terms = ", ".join(f"{name.removeprefix('loss/')} {value:g}" for name, value in values.items() if name != "loss")
        return (
            f"loss is not finite at step {number}, image {', '.join(names)} ({terms}): "
            "look at that image and mask, lower optimizer.lr, or set trainer.gradient_clip_val=1"
        )
