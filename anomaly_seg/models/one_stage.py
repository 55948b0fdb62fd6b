"""One-Stage network with background suppression.

Liu, Yang, Guo, Guo, Chen: "A One-Stage Approach for Surface Anomaly Detection with Background Suppression Strategies",
Sensors 20(7), 1829, 2020. Sections and equations below are that paper's.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor, nn

from anomaly_seg.models.base import Network, Output, TileJoin
from anomaly_seg.models.blocks import Backend, Init, Norm, UpBlock, initialise, scale_channels
from anomaly_seg.models.classifier import pooled_score
from anomaly_seg.models.encoders.segdec import SegDecEncoder
from anomaly_seg.models.heads import SideOutput, init_head_bias

Map = Float[Tensor, "b 1 h w"]


def coarse_suppression(logits: Sequence[Map]) -> Map:
    """C = sigmoid(f1 + f2 + f3), Eq. 1: background that the semantic maps deny is pulled to zero."""
    return torch.sigmoid(torch.stack(list(logits)).sum(dim=0))


def fine_suppression(coarse: Map, bottom: Map, multiplications: int = 3) -> Map:
    """F = C * sigmoid(f1)^3, Eq. 4: pixel-wise multiplication by the bottom map, repeated.

    Args:
        coarse: C in [0, 1].
        bottom: logit of the map with the most detail (f1).
        multiplications: how often; 0 returns C.
    """
    return coarse * torch.sigmoid(bottom) ** multiplications


def fine_logit(coarse_logit: Map, bottom: Map, multiplications: int) -> Map:
    """logit(F), from logits, so that a loss on F neither overflows nor loses its gradient up to logits of 80."""
    log_f = nnf.logsigmoid(coarse_logit.float()) + multiplications * nnf.logsigmoid(bottom.float())
    log_f = log_f.clamp(max=-1e-36)  # F = 1 would make log(1 - F) infinite; 1e36 is still a float32 gradient
    return log_f - torch.log(-torch.expm1(log_f))


class OneStage(Network):
    """Encoder-decoder with three side outputs, coarse and fine background suppression.

    Args:
        in_channels: 1 for grey images.
        width_multiplier: fraction of the published channel counts; 1 is the paper's.
        norm: normalisation after each convolution (silent in the paper; see `blocks.normalisation`).
        decoder_widths: channels of the decoder at 1/4, 1/2 and full size, before `width_multiplier` (silent in the
            paper: those of the encoder stage joined).
        transposed_kernel: kernel of the transposed convolutions (silent: 2).
        upsampling: how side outputs reach input size (silent: bilinear).
        bottom: which logit plays the "bottom" layer in Eq. 4 (our reading: f1, the finest).
        multiplications: how often Eq. 4 multiplies (paper: 3).
        side_outputs: which maps exist; [1] alone is the plain encoder-decoder.
        readout: the map that the classifier pools: F, C, f1, or fine (fine suppression without coarse).
        head_bias: start of the side outputs' bias; the log-odds of a defect pixel spares the first epoch.
        init: see `blocks.initialise`.
        large_kernel: see `SegDecEncoder`.

    Input: (b, in_channels, h, w) in [0, 1], h and w multiples of 8 and at least 16.
    """

    smallest_size = 16  # one value per channel, at 1/8 size, has no statistics to normalise by
    title = "One-Stage"
    shown_maps = ("f1", "C", "F")
    meanings: Mapping[str, str] = {
        "f1": "sum of F_1, the finest side output (Eq. 2), without suppression",
        "C": "coarse suppression alone (Eq. 1)",
        "F": "coarse and fine suppression (Eq. 4), as configured",
        **{f"F{n}": f"F with {n} multiplication{'s' * (n != 1)}" for n in range(6)},
        "F_f1": "F with f1 as the bottom layer",
        "F_f2": "F with f2 as the bottom layer",
        "F_f3": "F with f3 as the bottom layer",
        "f2": "sum of F_2, the side output at half size",
        "f3": "sum of F_3, the side output at quarter size",
        "fine": "fine suppression alone (Eq. 4 with the bottom map for C)",
    }

    def __init__(
        self,
        in_channels: int = 1,
        width_multiplier: float = 1.0,
        norm: Norm = "batch",
        decoder_widths: Sequence[int] = (64, 64, 32),
        transposed_kernel: int = 2,
        upsampling: Literal["bilinear", "nearest"] = "bilinear",
        bottom: str = "f1",
        multiplications: int = 3,
        side_outputs: Sequence[int] = (1, 2, 3),
        readout: str = "F",
        head_bias: float = 0.0,
        init: Init = "default",
        large_kernel: Backend = "direct",
    ) -> None:
        super().__init__()
        self._check(bottom, multiplications, side_outputs, readout, upsampling, decoder_widths)
        self.encoder = SegDecEncoder(in_channels, width_multiplier, norm, large_kernel)
        c1, c2, c3, c4 = self.encoder.widths
        d3, d2, d1 = (scale_channels(c, width_multiplier) for c in decoder_widths)
        self.up3 = UpBlock(c4, c3, d3, 5, norm, transposed_kernel)
        self.up2 = UpBlock(d3, c2, d2, 5, norm, transposed_kernel)
        self.up1 = UpBlock(d2, c1, d1, 5, norm, transposed_kernel)
        shapes = {1: (d1, 1), 2: (d2, 2), 3: (d3, 4)}
        self.side = nn.ModuleDict({f"f{k}": SideOutput(*shapes[k], upsampling) for k in side_outputs})
        initialise(self, init)
        for head in self.side.values():
            init_head_bias(head_bias, head.reduce)  # type: ignore[arg-type]
        self.bottom, self.multiplications, self.readout = bottom, multiplications, readout
        if len(side_outputs) == 1:
            self.title = "Encoder-decoder"

    def forward(self, image: Float[Tensor, "b c h w"]) -> Output:
        self.check_size(image)
        x1, x2, x3, x4 = self.encoder(image)
        e3 = self.up3(x4, x3)
        e2 = self.up2(e3, x2)
        e1 = self.up1(e2, x1)
        maps = {"f1": e1, "f2": e2, "f3": e3}
        return Output({name: head(maps[name]) for name, head in self.side.items()})

    def maps(self, output: Output) -> dict[str, Map]:
        """F_k = sigmoid(f_k) (Eq. 2) under the names f1..f3, C (Eq. 1), F (Eq. 4); fine is F with F_1 for C."""
        logits = {name: value.float() for name, value in output.logits.items()}
        maps = {name: torch.sigmoid(value) for name, value in logits.items()}
        bottom = logits[self.bottom]
        maps["fine"] = fine_suppression(maps[self.bottom], bottom, self.multiplications)
        if len(logits) > 1:
            maps["C"] = coarse_suppression(list(logits.values()))
            maps["F"] = fine_suppression(maps["C"], bottom, self.multiplications)
        return maps

    def scores(self, output: Output, maps: dict[str, Tensor]) -> dict[str, Float[Tensor, " b"]]:
        """G of every map, and the readouts that need no training.

        F0..F5 is Eq. 4 with 0 to 5 multiplications; F_f2 and the like take another map for the bottom layer.
        """
        scores = super().scores(output, maps)
        if "C" in maps:
            logits = {name: value.float() for name, value in output.logits.items()}
            scores |= {f"F{n}": pooled_score(fine_suppression(maps["C"], logits[self.bottom], n)) for n in range(6)} | {
                f"F_{name}": pooled_score(fine_suppression(maps["C"], value, self.multiplications))
                for name, value in logits.items()
                if name != self.bottom
            }
        return scores

    def tile_join(self, readout: str, maps: Container[str]) -> TileJoin:
        """Every score is a sum over the pixels of a map, those of no map in `maps` too."""
        return "sum"

    def supervised(self, output: Output, names: Iterable[str]) -> dict[str, Tensor]:
        """Logits of f1..f3 and, where asked for, of the fused maps C and F."""
        wanted = list(names)
        known = dict(output.logits)
        if {"C", "F"} & set(wanted) and len(known) > 1:
            known["C"] = torch.stack(list(output.logits.values())).sum(dim=0)
            if "F" in wanted:
                known["F"] = fine_logit(known["C"], output.logits[self.bottom], self.multiplications)
        return {name: self._known(known, name) for name in wanted}

    @staticmethod
    def _check(
        bottom: str,
        multiplications: int,
        sides: Sequence[int],
        readout: str,
        upsampling: str,
        decoder_widths: Sequence[int],
    ) -> None:
        names = [f"f{k}" for k in sides]
        if not sides or any(k not in (1, 2, 3) for k in sides) or len(set(sides)) != len(sides):
            raise ValueError(f"side_outputs={list(sides)}: choose from 1, 2 and 3, each once")
        if bottom not in names:
            raise ValueError(f"bottom={bottom}: choose one of the side outputs, {', '.join(names)}")
        if len(decoder_widths) != 3 or any(not isinstance(c, int) or c < 1 for c in decoder_widths):
            raise ValueError(f"decoder_widths={list(decoder_widths)}: use three whole numbers, each 1 or more")
        if not isinstance(multiplications, int) or multiplications < 0:
            raise ValueError(f"multiplications={multiplications}: use a whole number, 0 or more")
        readouts = [*names, "fine", *(["C", "F"] if len(sides) > 1 else [])]
        if readout not in readouts:
            raise ValueError(f"readout={readout}: these side outputs give {', '.join(readouts)}")
        if upsampling not in ("bilinear", "nearest"):
            raise ValueError(f"upsampling={upsampling}: choose bilinear or nearest")
