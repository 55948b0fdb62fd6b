"""The sealed network: from raw 8-bit images to score, verdict and maps in one graph. Plain torch, written for export.

Image sizes stay dynamic in all three runtimes, so resizing is arithmetic on indices, not an operator: it is separable,
and the weights of rows and columns are built from the sizes. It gives the grey values that training saw, those of
OpenCV: averages of areas where both sides shrink, else its fixed-point bilinear interpolation.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from anomaly_seg.models.base import Network

Fit = Literal["resize", "pad", "tile"]
COEFFICIENT = 2048.0
"""OpenCV's scale of bilinear weights for 8-bit images (INTER_RESIZE_COEF_BITS = 11)."""


class Prepare(nn.Module):
    """Raw images as the network takes them.

    Args:
        height, width: of the network.
        fit: resize (the whole image to the network's size), pad (keeps the aspect, repeats the last row and column), or
            tile (the image is one tile of the network's size).
        resize: "area" or "nearest", as in training.
    """

    def __init__(self, height: int, width: int, fit: Fit, resize: Literal["area", "nearest"]) -> None:
        super().__init__()
        self.height, self.width, self.fit, self.resize = height, width, fit, resize

    def forward(self, image: UInt8[Tensor, "n h w c"]) -> Float[Tensor, "n c H W"]:
        pixels = image.permute(0, 3, 1, 2).float()
        if self.fit == "tile":
            return pixels / 255
        rows, columns = image.shape[1], image.shape[2]
        tall, wide = (self.height, self.width) if self.fit == "resize" else self._content(rows, columns)
        y, x = Axis(rows, tall, self.height), Axis(columns, wide, self.width)
        if self.resize == "nearest":
            return pixels.index_select(2, y.nearest()).index_select(3, x.nearest()) / 255
        return self._smooth(pixels, y, x) / 255

    def _content(self, rows: int, columns: int) -> tuple[int, int]:
        """Size of the content, round(s * size) with s = min(height / rows, width / columns), in whole numbers."""
        tall = torch.sym_min(self.height, _rounded(rows * self.width, columns))
        wide = torch.sym_min(self.width, _rounded(columns * self.height, rows))
        return torch.sym_max(1, tall), torch.sym_max(1, wide)

    def _smooth(self, pixels: Tensor, y: "Axis", x: "Axis") -> Tensor:
        """Whole grey values. One branch counts; both are computed, for a graph with a condition is slower."""
        shrinks = y.shrinks() & x.shrinks()
        across = torch.where(shrinks, x.area(), x.linear())
        half = pixels @ across.transpose(0, 1)
        area = y.area() @ half
        # Exactly half, OpenCV rounds up in 2 x 2 blocks (it adds whole numbers there), and to even elsewhere.
        area = torch.where(y.halves() & x.halves(), torch.floor(area + 0.5), torch.round(area))
        return torch.where(shrinks, area, _fixed_point(half, y))


class Axis:
    """One axis of a resize: `source` pixels become `content` ones, and the last of them is repeated up to `target`."""

    def __init__(self, source: int, content: int, target: int) -> None:
        self.source, self.content = source, content
        self.at = torch.arange(target)
        if not isinstance(content, int) or content != target:
            self.at = torch.minimum(self.at, torch.ones_like(self.at) * (content - 1))
        self.cells = torch.arange(source)

    def shrinks(self) -> Bool[Tensor, " 1"]:
        return self.cells[-1:] >= torch.ones_like(self.cells[:1]) * (self.content - 1)

    def halves(self) -> Bool[Tensor, " 1"]:
        return self.cells[-1:] + 1 == torch.ones_like(self.cells[:1]) * (2 * self.content)

    def nearest(self) -> Int64[Tensor, " t"]:
        """floor(i * source / content)."""
        return torch.div(self.at * self.source, self.content, rounding_mode="floor")

    def area(self) -> Float[Tensor, "t s"]:
        """Shares of the source's pixels in a target pixel, overlaps of intervals in whole numbers."""
        start, cell = self.at[:, None] * self.source, self.cells[None] * self.content
        overlap = torch.minimum(start + self.source, cell + self.content) - torch.maximum(start, cell)
        overlap = overlap.clamp(min=0)
        # OpenCV leaves out what covers less than a thousandth of a pixel.
        return torch.where(overlap * 1000 > self.content, overlap, torch.zeros_like(overlap)).float() / self.source

    def position(self) -> tuple[Int64[Tensor, " t"], Float[Tensor, " t"]]:
        """Pixel at or before the half-pixel centre of each target pixel, and the rest of the way, in [0, 1)."""
        centre = ((2 * self.at + 1) * self.source - self.content).float() / (2 * self.content)
        centre = torch.minimum(centre.clamp(min=0), self.cells[-1:].float())
        first = torch.floor(centre)
        return first.long(), centre - first

    def linear(self) -> Float[Tensor, "t s"]:
        """OpenCV's bilinear weights, whole numbers of `COEFFICIENT` in all."""
        first, rest = (v[:, None] for v in self.position())
        before, after = torch.round((1 - rest) * COEFFICIENT), torch.round(rest * COEFFICIENT)
        cells = self.cells[None]
        return (cells == first).float() * before + (cells == first + 1).float() * after


def _fixed_point(half: Float[Tensor, "n c s W"], y: Axis) -> Float[Tensor, "n c t W"]:
    """OpenCV's vertical step of bilinear interpolation: 16-bit products, whose lower halves are dropped."""
    first, rest = y.position()
    second = torch.minimum(first + 1, y.cells[-1:])
    coarse = torch.floor(half / 16).int()
    parts = []
    for rows, weight in ((first, 1 - rest), (second, rest)):
        product = coarse.index_select(2, rows) * torch.round(weight * COEFFICIENT).int()[:, None]
        parts.append(torch.div(product, 65536, rounding_mode="floor"))
    return torch.div(parts[0] + parts[1] + 2, 4, rounding_mode="floor").float()


def _rounded(numerator: int, denominator: int) -> int:
    """Nearest whole number of a quotient above 0; half goes up."""
    return (2 * numerator + denominator) // (2 * denominator)


class Sealed(nn.Module):
    """One or several networks behind `Prepare`, pooled and judged.

    Args:
        networks: members, all of one kind; scores and maps are their means.
        prepare: from raw images to the networks' input.
        threshold: the verdict is "defective" where score > threshold.

    Forward:
        image: (n, h, w, c) uint8.
        Returns score (n,) float32, defective (n,) bool, heat_map (n, H, W) and every map (n, H, W) in [0, 1], in the
        order of `names`.
    """

    def __init__(self, networks: Sequence[Network], prepare: Prepare, threshold: float) -> None:
        super().__init__()
        self.networks, self.prepare = nn.ModuleList(networks), prepare
        self.threshold = below(threshold)
        self.maps: list[str] = []
        self.heat_map = ""

    @property
    def names(self) -> list[str]:
        """Of the outputs, in order. Known once `find_maps` has looked."""
        return ["score", "defective", "heat_map", *self.maps]

    @torch.no_grad()
    def find_maps(self, channels: int) -> None:
        """Which maps the networks have, from a pass without numbers."""
        network = cast(Network, self.networks[0])
        image = torch.zeros(1, channels, self.prepare.height, self.prepare.width)
        maps = network.maps(network(image))
        self.maps, self.heat_map = list(maps), network.pixel_map(maps)

    def forward(self, image: UInt8[Tensor, "n h w c"]) -> tuple[Tensor, ...]:
        pixels = self.prepare(image)
        scores, maps = [], []
        for network in cast(Iterable[Network], self.networks):
            output = network(pixels)
            found = network.maps(output)
            scores.append(network.scores(output, found)[network.readout].float())
            maps.append([found[name].squeeze(1) for name in self.maps])
        score = _mean(scores)
        means = [_mean(list(members)) for members in zip(*maps, strict=True)]
        return score, score > self.threshold, means[self.maps.index(self.heat_map)], *means


def _mean(values: list[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(values).mean(dim=0)


def below(threshold: float) -> float:
    """The largest float32 that is not above the threshold: a float32 score exceeds both or neither.

    >>> below(0.5), below(0.1) < 0.1
    (0.5, True)
    """
    single = np.float32(threshold)
    return float(single if float(single) <= threshold else np.nextafter(single, np.float32(-np.inf)))
