"""What a network needs of its encoder, and how weights from elsewhere are read."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

PROBE = 128
"""Side, in pixels, of the image that a module without `widths` and `strides` is asked with."""


class Source(NamedTuple):
    """Where the weights that a training began with come from.

    name: what they are. sha256: of their file. licence: of the weights.
    """

    name: str
    sha256: str
    licence: str


class Encoder(nn.Module):
    """From an image to maps of features, finest first.

    Attributes:
        title: its name in the report; empty for the published one of a network.
        in_channels: of the image: 1 (grey) or 3 (colour).
        widths: channels of each map.
        strides: pixels of the image to one of each map: powers of two, rising by 2.
    """

    title: str = ""
    in_channels: int
    widths: tuple[int, ...]
    strides: tuple[int, ...]

    def forward(self, image: Float[Tensor, "b c h w"]) -> Sequence[Tensor]:
        """Maps of an image in [0, 1]; normalisation of the image belongs to the encoder."""
        raise NotImplementedError

    def start(self) -> Source | None:
        """Take the weights that training begins with; by default there are none but those of the initialisation.

        Raises:
            ValueError: their file is missing, damaged, or of another network.
        """
        return None

    def check_channels(self, image: Tensor) -> None:
        """Raises ValueError for an image with another number of channels."""
        if image.shape[1] != self.in_channels:
            raise ValueError(
                f"encoder.in_channels={self.in_channels}: the images have {image.shape[1]} channel(s); set both to 1 "
                "(grey) or 3 (colour) by data.channels"
            )


class Shape(NamedTuple):
    """Channels and strides of an encoder's maps, finest first."""

    widths: tuple[int, ...]
    strides: tuple[int, ...]


def shape_of(encoder: nn.Module, in_channels: int) -> Shape:
    """Channels and strides of any module's maps: declared, or found by a pass of one image.

    Raises:
        ValueError: it does not give at least two maps, finest first, each half the size of the one before.
    """
    if isinstance(encoder, Encoder):
        return Shape(encoder.widths, encoder.strides)
    training = encoder.training
    with torch.no_grad():
        maps = encoder.eval()(torch.zeros(1, in_channels, PROBE, PROBE))
    encoder.train(training)
    shapes = [tuple(getattr(m, "shape", ())) for m in maps] if isinstance(maps, list | tuple) else []
    strides = tuple(PROBE // shape[2] if len(shape) == 4 and shape[2] else 0 for shape in shapes)
    if len(shapes) < 2 or strides[0] < 1 or any(b != 2 * a for a, b in zip(strides, strides[1:], strict=False)):
        raise ValueError(
            f"encoder: {type(encoder).__name__} gives maps of shapes {shapes} for an image of {PROBE}x{PROBE}; an "
            "encoder gives a list of maps (b, c, h, w), finest first, each half the size of the one before"
        )
    return Shape(tuple(shape[1] for shape in shapes), strides)


def read_weights(path: Path, sha256: str | None, remedy: str) -> tuple[dict[str, Tensor], str]:
    """Weights of a file, read without running anything in it, and the file's digest.

    Args:
        path: of a state dict that torch.save wrote.
        sha256: what the digest has to be; None takes any.
        remedy: what to do about a bad file.

    Raises:
        ValueError: it cannot be read, holds something else, or is not the file expected.
    """
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    if sha256 not in (None, digest):
        raise ValueError(f"{path}: damaged, or another file (SHA-256 {digest[:12]}..., not {sha256[:12]}...); {remedy}")
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign file makes the reader stumble over
        raise ValueError(f"{path}: holds no weights that can be read safely; {remedy}") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path}: holds no weights by name; {remedy}")
    return found, digest
