"""Models of the library timm (Wightman: "PyTorch Image Models", 2019) as encoders, by their names there."""

import difflib
import hashlib
import importlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from anomaly_seg.models.encoders.base import PROBE, Encoder, Source, read_weights

Statistics = Literal["frozen", "learning"]

COUNTER = "num_batches_tracked"
"""A buffer of batch normalisation that older files lack and that nothing here reads."""


class TimmEncoder(Encoder):
    """The maps of a `features_only` model of timm down to one of its strides; the layers behind that are left out.

    The image is normalised by the mean and standard deviation of the model's own weights. A grey image stands for three
    equal channels, each normalised by its own mean: since layers pad with zeros behind that, a first convolution summed
    over its channels would differ at the image's edge, so the first convolution keeps its three.

    Args:
        name: of the model in timm, with or without the tag of its weights: resnet34, resnet34.a1_in1k.
        in_channels: 1 (grey) or 3 (red, green, blue).
        weights: hub (timm's own download), the path of a file that holds the state dict of timm's whole model of this
            name, or None (random).
        statistics: of batch normalisation. frozen: those that came with the weights. learning: running ones.
        depth: stride of the deepest map.

    Raises:
        ValueError: a value that is not one of these; timm or its torchvision cannot be imported; a model that is not
            there, gives no maps, or maps whose strides do not double.
    """

    mean: Float[Tensor, "1 3 1 1"]
    std: Float[Tensor, "1 3 1 1"]
    body: Any  # timm's module, with what it knows of its maps

    def __init__(
        self,
        name: str,
        in_channels: int = 1,
        weights: str | None = "hub",
        statistics: Statistics = "frozen",
        depth: int = 16,
    ) -> None:
        super().__init__()
        _check("in_channels", in_channels, (1, 3))
        _check("statistics", statistics, get_args(Statistics))
        self.title, self.in_channels, self.weights = name, in_channels, weights
        self.frozen_statistics = statistics == "frozen"
        self.body = _features(name)
        kept = self._maps_to(depth)
        if len(kept) < len(self.body.out_indices):
            self.body = _features(name, out_indices=kept)  # without the layers behind the last of them
        self.widths = tuple(self.body.feature_info.channels())
        self.strides = tuple(self.body.feature_info.reduction())
        for statistic in ("mean", "std"):
            values = torch.tensor(self.body.pretrained_cfg[statistic])
            self.register_buffer(statistic, values.reshape(1, -1, 1, 1))
        self._check_maps()

    def forward(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        self.check_channels(image)
        return self.body((image - self.mean) / self.std)

    def start(self) -> Source | None:
        """See `Encoder.start`. The digest of the hub's weights is that of their names and bytes."""
        if self.weights is None:
            return None
        if self.weights == "hub":
            state, licence = self._from_hub()
            source = Source(f"{self.title}, of timm's hub", _digest(state), licence)
        else:
            path = Path(self.weights)
            state, digest = self._from_file(path)
            source = Source(f"{self.title}, {path.name}", digest, "unknown")
        self.body.load_state_dict(state)
        return source

    def _maps_to(self, depth: int) -> list[int]:
        """Indices of the maps down to a stride. Raises ValueError if strides do not double or none is this one."""
        name, strides = self.title, self.body.feature_info.reduction()
        given = ", ".join(map(str, strides))
        if any(b != 2 * a for a, b in pairwise(strides)):
            raise ValueError(f"encoder.name={name}: maps of strides {given}; an encoder's double from map to map")
        _check("depth", depth, strides[1:], f"{name} gives maps of strides {given}; ")
        return [i for i, stride in zip(self.body.out_indices, strides, strict=True) if stride <= depth]

    def _check_maps(self) -> None:
        """Raises ValueError for a model of one image size, or whose maps are not of the image's size by the stride."""
        expected = [(1, width, PROBE // s, PROBE // s) for width, s in zip(self.widths, self.strides, strict=True)]
        refusal = f"encoder.name={self.title}: takes no image of {PROBE}x{PROBE}"
        self.eval()
        try:
            with torch.no_grad():
                maps = [tuple(each.shape) for each in self(torch.zeros(1, self.in_channels, PROBE, PROBE))]
        except Exception as error:  # whatever a model of one size makes of another
            raise ValueError(f"{refusal} ({error}); an encoder takes images of any size") from error
        self.train()
        if maps != expected:
            raise ValueError(f"{refusal} without loss at its edge: it gives maps {maps}, not {expected}")

    def _from_hub(self) -> tuple[dict[str, Tensor], str]:
        """Weights by our names, and their licence."""
        if not _timm().is_model_pretrained(self.title):
            raise ValueError(f"encoder.weights=hub: timm has no weights of {self.title}; set a file, or null")
        try:
            there = _features(self.title, out_indices=self.body.out_indices, pretrained=True)
        except Exception as error:  # of the download: one of several libraries', by the network's state
            raise ValueError(
                f"encoder.weights=hub: no download of {self.title} ({error}); set encoder.weights to a file, or null"
            ) from error
        return there.state_dict(), there.pretrained_cfg.get("license") or "unknown"

    def _from_file(self, path: Path) -> tuple[dict[str, Tensor], str]:
        """Weights by our names, and the file's digest."""
        found, digest = read_weights(path, None, "set encoder.weights")
        own: dict[str, Tensor] = self.body.state_dict()
        for name, value in own.items():
            source = name.partition(".")[2]
            given = found.get(source, value if source.endswith(COUNTER) else None)
            if given is None or given.shape != value.shape:
                raise ValueError(
                    f"{path}: no weights of timm's {self.title} ({source} missing or misshapen); set encoder.weights"
                )
            own[name] = given
        return own, digest


def _timm() -> Any:
    """The library. Raises ValueError where it, or its torchvision, cannot be imported."""
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ValueError(
            f"encoder: needs the package {error.name or 'timm'!r}: pip install 'anomaly-seg[timm]' "
            "(in a checkout: pip install -e '.[timm]')"
        ) from error
    except RuntimeError as error:
        raise ValueError(
            f"encoder: timm needs the torchvision that was built for torch {torch.__version__} ({error})"
        ) from error


def _features(name: str, **arguments: Any) -> Any:
    """The model as one that gives a list of maps. Raises ValueError if there is none of that name, or none with maps.

    timm's getter leaves the layers behind the last map out, and keeps the names of the whole model's weights, behind
    "model.".
    """
    timm = _timm()
    names = timm.list_models(include_tags="." in name)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=5)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists them"
        raise ValueError(f"encoder.name={name}: timm {timm.__version__} has no such model; {hint}")
    try:
        return timm.create_model(name, features_only=True, feature_cls="getter", **arguments)
    except Exception as error:
        if arguments.get("pretrained"):
            raise
        raise ValueError(f"encoder.name={name}: has no features_only in timm ({error}); choose another") from error


def _check(name: str, value: object, allowed: Sequence[object], why: str = "") -> None:
    """Raises ValueError for a value that is not allowed."""
    if value not in allowed:
        raise ValueError(f"encoder.{name}={value}: {why}choose {', '.join(map(str, allowed))}")


def _digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of names and values."""
    digest = hashlib.sha256()
    for name, value in state.items():
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
