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

from anomaly_seg.models.base import Network, Output, TileJoin, titled
from anomaly_seg.models.blocks import Backend, Init, Norm, UpBlock, decode, initialise, scale_channels
from anomaly_seg.models.classifier import pooled_score
from anomaly_seg.models.encoders.base import shape_of
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
        encoder: gives the maps that the decoder joins; None is the published one. The side outputs are those of the
            three finest maps, whatever their size.
        width_multiplier: fraction of the published channel counts; 1 is the paper's.
        norm: normalisation after each convolution (silent in the paper; see `blocks.normalisation`); another encoder
            has its own.
        decoder_widths: channels of the decoder, deepest stage first, before `width_multiplier` (silent in the paper);
            None: those of the encoder's map joined.
        transposed_kernel: kernel of the transposed convolutions (silent: 2).
        upsampling: how side outputs reach input size (silent: bilinear).
        bottom: which logit plays the "bottom" layer in Eq. 4 (our reading: f1, the finest).
        multiplications: how often Eq. 4 multiplies (paper: 3).
        side_outputs: which maps exist; [1] alone is the plain encoder-decoder.
        readout: the map that the classifier pools: F, C, f1, or fine (fine suppression without coarse).
        head_bias: start of the side outputs' bias; the log-odds of a defect pixel spares the first epoch.
        init: see `blocks.initialise`.
        large_kernel: see `SegDecEncoder`.

    Input: (b, in_channels, h, w) in [0, 1], h and w multiples of the deepest map's stride and at least twice that
    (published encoder: 8 and 16).
    """

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
        "f2": "sum of F_2, the second finest side output",
        "f3": "sum of F_3, the third finest side output",
        "fine": "fine suppression alone (Eq. 4 with the bottom map for C)",
    }

    def __init__(
        self,
        in_channels: int = 1,
        encoder: nn.Module | None = None,
        width_multiplier: float = 1.0,
        norm: Norm = "batch",
        decoder_widths: Sequence[int] | None = None,
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
        self._check(bottom, multiplications, side_outputs, readout, upsampling)
        if encoder is None:
            encoder = SegDecEncoder(in_channels, width_multiplier, norm, large_kernel)
        self.encoder = encoder
        widths, strides = shape_of(self.encoder, in_channels)
        if max(side_outputs) > len(widths):
            raise ValueError(f"side_outputs={list(side_outputs)}: an encoder of {len(widths)} maps gives {len(widths)}")
        self.size_multiple, self.smallest_size = strides[-1], 2 * strides[-1]  # one value has no statistics
        decoder = self._decoder_widths(decoder_widths, widths, width_multiplier)
        self.stages = [f"up{k}" for k in range(1, len(widths))]
        for k in reversed(range(len(decoder))):
            below = [*decoder, widths[-1]][k + 1]
            self.add_module(self.stages[k], UpBlock(below, widths[k], decoder[k], 5, norm, transposed_kernel))
        self.side = nn.ModuleDict(
            {f"f{k}": SideOutput([*decoder, widths[-1]][k - 1], strides[k - 1], upsampling) for k in side_outputs}
        )
        initialise(self, init)
        for head in self.side.values():
            init_head_bias(head_bias, head.reduce)  # type: ignore[arg-type]
        self.bottom, self.multiplications, self.readout = bottom, multiplications, readout
        self.title = titled("Encoder-decoder" if len(side_outputs) == 1 else self.title, self.encoder)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Output:
        self.check_size(image)
        stages = [self.get_submodule(name) for name in self.stages]
        finest = decode(stages, self.encoder(image))
        return Output({name: head(finest[int(name[1:]) - 1]) for name, head in self.side.items()})

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
    def _decoder_widths(given: Sequence[int] | None, joined: Sequence[int], width_multiplier: float) -> list[int]:
        """Channels of the decoder's stages, finest first."""
        if given is None:
            return list(joined[:-1])
        if len(given) != len(joined) - 1 or any(not isinstance(c, int) or c < 1 for c in given):
            raise ValueError(f"decoder_widths={list(given)}: use {len(joined) - 1} whole numbers, each 1 or more")
        return [scale_channels(c, width_multiplier) for c in reversed(given)]

    @staticmethod
    def _check(
        bottom: str,
        multiplications: int,
        sides: Sequence[int],
        readout: str,
        upsampling: str,
    ) -> None:
        names = [f"f{k}" for k in sides]
        if not sides or any(k not in (1, 2, 3) for k in sides) or len(set(sides)) != len(sides):
            raise ValueError(f"side_outputs={list(sides)}: choose from 1, 2 and 3, each once")
        if bottom not in names:
            raise ValueError(f"bottom={bottom}: choose one of the side outputs, {', '.join(names)}")
        if not isinstance(multiplications, int) or multiplications < 0:
            raise ValueError(f"multiplications={multiplications}: use a whole number, 0 or more")
        readouts = [*names, "fine", *(["C", "F"] if len(sides) > 1 else [])]
        if readout not in readouts:
            raise ValueError(f"readout={readout}: these side outputs give {', '.join(readouts)}")
        if upsampling not in ("bilinear", "nearest"):
            raise ValueError(f"upsampling={upsampling}: choose bilinear or nearest")
