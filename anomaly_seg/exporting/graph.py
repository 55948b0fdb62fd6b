"""The sealed network: from raw 8-bit images to score, verdict and maps in one graph. Plain torch, written for export.

Image sizes stay dynamic in all three runtimes, so resizing is arithmetic on indices, not an operator: it is separable,
and the weights of rows and columns are built from the sizes. It gives the grey values that training saw, those of
OpenCV: averages of areas along sides that shrink, then its fixed-point bilinear interpolation along those that grow.
All of it is done in whole numbers, so that every runtime gives the network the same image. (Whole numbers are divided
by floor_divide: torch.div with a rounding mode becomes a division of float32 in ONNX.)
"""

from collections.abc import Iterable, Sequence
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from anomaly_seg.inference.runtimes import MEMBER_SCORES
from anomaly_seg.models.base import Network

Fit = Literal["resize", "pad", "tile"]
COEFFICIENT = 2048
"""OpenCV's scale of bilinear weights for 8-bit images (INTER_RESIZE_COEF_BITS = 11)."""

FINEST = 12
"""Bits of a float32 between 1 and 2 that are finer than one part of `COEFFICIENT`: 23 - 11."""


class Preprocess(nn.Module):
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
        if self.resize == "nearest":
            y, x = ResizeAxis(rows, tall, self.height), ResizeAxis(columns, wide, self.width)
            return pixels.index_select(2, y.nearest()).index_select(3, x.nearest()) / 255
        # What is averaged has the network's size too, its last row and column repeated: a size that depends on the
        # image's in yet another way is beyond the exporter.
        lower, narrower = torch.sym_min(rows, tall), torch.sym_min(columns, wide)
        pixels = _average(pixels, ResizeAxis(rows, lower, self.height), ResizeAxis(columns, narrower, self.width))
        y, x = ResizeAxis(lower, tall, self.height, self.height), ResizeAxis(narrower, wide, self.width, self.width)
        return _interpolate(pixels, y, x) / 255

    def _content(self, rows: int, columns: int) -> tuple[int, int]:
        """Size of the content, round(s * size) with s = min(height / rows, width / columns), in whole numbers."""
        tall = torch.sym_min(self.height, _rounded(rows * self.width, columns))
        wide = torch.sym_min(self.width, _rounded(columns * self.height, rows))
        return torch.sym_max(1, tall), torch.sym_max(1, wide)


class ResizeAxis:
    """One axis of a resize: `source` pixels become `content` ones, and the last of them is repeated up to `target`.

    Of `held` pixels there may be more than `source`: the rest is left alone.
    """

    def __init__(self, source: int, content: int, target: int, held: int | None = None) -> None:
        self.source, self.content = source, content
        self.at = torch.arange(target)
        if not isinstance(content, int) or content != target:
            self.at = torch.minimum(self.at, torch.ones_like(self.at) * (content - 1))
        self.cells = torch.arange(source if held is None else held)
        self.last = torch.ones_like(self.cells[:1]) * (source - 1)

    def halves(self) -> Bool[Tensor, " 1"]:
        return self.last + 1 == torch.ones_like(self.cells[:1]) * (2 * self.content)

    def nearest(self) -> Int64[Tensor, " t"]:
        """floor(i * source / content)."""
        return torch.floor_divide(self.at * self.source, self.content)

    def overlaps(self) -> Float[Tensor, "t s"]:
        """Of target pixels with the source's, in parts of a pixel of which there are `content`: whole numbers."""
        start, cell = self.at[:, None] * self.source, self.cells[None] * self.content
        overlap = torch.minimum(start + self.source, cell + self.content) - torch.maximum(start, cell)
        overlap = overlap.clamp(min=0)
        # OpenCV leaves out what covers less than a thousandth of a pixel.
        return torch.where(overlap * 1000 > self.content, overlap, torch.zeros_like(overlap)).float()

    def weights(self) -> tuple[Int64[Tensor, " t"], Int64[Tensor, " t"]]:
        """Of bilinear interpolation: the pixel at or before a target pixel's centre, and its successor's weight.

        The weight is OpenCV's, in parts of `COEFFICIENT`. OpenCV rounds the centre to float32 first, which matters
        where a weight is near a half; here that is done in whole numbers, for runtimes divide in different ways.
        """
        whole = 2 * self.content
        centre = ((2 * self.at + 1) * self.source - self.content).clamp(min=0)
        centre = torch.minimum(centre, self.last * whole)
        first = torch.floor_divide(centre, whole)
        scaled = (centre - first * whole) * COEFFICIENT
        weight = torch.floor_divide(scaled, whole)
        # Steps of float32 in one unit of weight, at this distance from 0.
        steps = torch.tensor([2**k for k in range(FINEST, -1, -1)])
        steps = steps[(first[:, None] >= torch.tensor([2**k for k in range(1, FINEST + 1)])).sum(dim=1)]
        done = torch.floor_divide(2 * (scaled - weight * whole) * steps + whole, 2 * whole)
        up = (2 * done > steps) | ((2 * done == steps) & (weight % 2 == 1))
        return first, weight + up.long()

    def linear(self) -> Float[Tensor, "t s"]:
        """The bilinear weights as a matrix."""
        first, after = (v[:, None] for v in self.weights())
        cells = self.cells[None]
        return (cells == first).float() * (COEFFICIENT - after).float() + (cells == first + 1).float() * after.float()


def _average(pixels: Float[Tensor, "n c h w"], y: ResizeAxis, x: ResizeAxis) -> Float[Tensor, "n c H W"]:
    """Means of areas, rounded to whole grey values. Along a side that keeps its size, every pixel is an area.

    Runtimes add in different orders, and a sum near a half must not become one grey value here and another there. So
    all sums are of whole numbers below 2^24, which float32 adds exactly, in two digits of base 1024 (up to 67 million
    pixels and 16,400 rows), and the quotient is mended by its exact remainder in 32 bits, which is what OpenVINO has.
    """
    half, rows = pixels @ x.overlaps().transpose(0, 1), y.overlaps()
    top = torch.floor(half / 1024)
    high, low = rows @ top, rows @ (half - 1024 * top)
    area = y.source * x.source
    quotient = torch.floor((high * 1024 + low) / area).int()
    rest = (high.int() - quotient * (area // 1024)) * 1024 + (low.int() - quotient * (area % 1024))
    short = torch.floor_divide(rest, area).int()  # -1, 0 or 1
    quotient, twice = quotient + short, 2 * (rest - short * area)
    # Exactly half, OpenCV rounds up in 2 x 2 blocks (it adds whole numbers there), and to even elsewhere.
    up = (twice > area) | ((twice == area) & ((y.halves() & x.halves()) | (quotient % 2 == 1)))
    return (quotient + up.int()).float()


def _interpolate(pixels: Float[Tensor, "n c h w"], y: ResizeAxis, x: ResizeAxis) -> Float[Tensor, "n c H W"]:
    """OpenCV's bilinear interpolation; its vertical step is of products of 16 bits, whose lower halves are dropped.

    In two digits of base 256, so that float32 holds every product. Along a side that keeps its size nothing changes.
    """
    half = pixels @ x.linear().transpose(0, 1)
    first, after = y.weights()
    second = torch.minimum(first + 1, y.last)
    high = torch.floor(half / 4096)
    low = torch.floor(half / 16) - 256 * high
    parts = []
    for rows, weight in ((first, COEFFICIENT - after), (second, after)):
        share = weight.float()[:, None]
        dropped = torch.floor(low.index_select(2, rows) * share / 256)
        parts.append(torch.floor((high.index_select(2, rows) * share + dropped) / 256))
    return torch.floor((parts[0] + parts[1] + 2) / 4)


def _rounded(numerator: int, denominator: int) -> int:
    """Nearest whole number of a quotient above 0; half goes up."""
    return (2 * numerator + denominator) // (2 * denominator)


class InferenceGraph(nn.Module):
    """One or several networks behind `Preprocess`, pooled and judged.

    Args:
        networks: members, all of one kind; scores and maps are their means.
        prepare: from raw images to the networks' input.
        threshold: the verdict is "defective" where score > threshold.

    Forward:
        image: (n, h, w, c) uint8.
        Returns score (n,) float32, defective (n,) bool, heat_map (n, H, W) and every map (n, H, W) in [0, 1], in the
        order of `names`; of several networks also what each of them scores, (n, networks).
    """

    def __init__(self, networks: Sequence[Network], prepare: Preprocess, threshold: float) -> None:
        super().__init__()
        self.networks, self.prepare = nn.ModuleList(networks), prepare
        self.threshold = below(threshold)
        self.maps: list[str] = []
        self.heat_map = ""
        self.summed = False

    @property
    def names(self) -> list[str]:
        """Of the outputs, in order. Known once `find_maps` has looked."""
        return ["score", "defective", "heat_map", *self.maps, *([MEMBER_SCORES] if len(self.networks) > 1 else [])]

    @torch.no_grad()
    def find_maps(self, channels: int) -> None:
        """Look which maps the networks have, and whether the score is a sum of pixels, by a pass without numbers."""
        network = cast(Network, self.networks[0])
        image = torch.zeros(1, channels, self.prepare.height, self.prepare.width)
        maps = network.maps(network(image))
        self.maps, self.heat_map = list(maps), network.pixel_map(maps)
        self.summed = network.tile_join(network.readout, maps) == "sum"

    @property
    def pooled(self) -> str | None:
        """The map whose pixels add up to the score, if it is such a sum. Known once `find_maps` has looked."""
        readout = cast(Network, self.networks[0]).readout
        return readout if self.summed and readout in self.maps else None

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
        each = [torch.stack(scores, dim=1)] if len(scores) > 1 else []
        return score, score > self.threshold, means[self.maps.index(self.heat_map)], *means, *each


def _mean(values: list[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(values).mean(dim=0)


def below(threshold: float) -> float:
    """The largest float32 that is not above the threshold: a float32 score exceeds both or neither.

    >>> below(0.5), below(0.1) < 0.1
    (0.5, True)
    """
    single = np.float32(threshold)
    return float(single if float(single) <= threshold else np.nextafter(single, np.float32(-np.inf)))
