"""What every network of the framework offers to losses, evaluation and pictures."""

from collections.abc import Container, Iterable, Mapping
from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from anomaly_seg.models.classifier import pooled_score

TileJoin = Literal["sum", "max"]
"""How the scores of an image's tiles become the image's. sum: the inner regions of the tiles are added, as a sum over
the pixels of the stitched map is. max: each tile is scored as an image of its own, and the highest counts."""


class Output(NamedTuple):
    """Result of one forward pass: what the losses supervise, by name.

    logits: name -> (b, 1, h, w), unbounded; One-Stage "f1".."f3", U-Net "map", Seg-Dec "mask" (at 1/8 size).
    decision: (b,) logit of "this image is defective", for networks with a decision part of their own.
    """

    logits: dict[str, Tensor]
    decision: Tensor | None = None


class Network(nn.Module):
    """Base of all networks. A new one defines `forward` and `maps`, and may refine the rest.

    What losses, evaluation, pictures, export and report need to know of it stands here; they hold no names of networks
    or maps of their own.

    Attributes:
        size_multiple: height and width of the input must be multiples of it.
        smallest_size: and at least this.
        readout: name of the score, one of those in `scores`, that classifies the image.
        title: its name in the report; empty: the name of its configuration.
        shown_maps: the maps that pictures show, from left to right; empty: all.
        meanings: for the report, what each score of `scores` is, by name and in the order of the report; may be empty.
    """

    size_multiple: int = 8
    smallest_size: int = 8
    readout: str = "map"
    title: str = ""
    shown_maps: tuple[str, ...] = ()
    meanings: Mapping[str, str] = {}

    def maps(self, output: Output) -> dict[str, Float[Tensor, "b 1 h w"]]:
        """Named probability maps in [0, 1] at input size. They are what is pooled, drawn and scored by pixel."""
        raise NotImplementedError

    def scores(self, output: Output, maps: dict[str, Tensor]) -> dict[str, Float[Tensor, " b"]]:
        """Image scores by readout; by default each map through the parameter-free classifier's pooling (Eq. 5).

        A score that is not a sum over the pixels of a map lies in [0, 1].
        """
        return {name: pooled_score(value) for name, value in maps.items()}

    def tile_join(self, readout: str, maps: Container[str]) -> TileJoin:
        """How the tiles of a large image give this score; maps: the names of the network's maps.

        By default "sum" for the score of a map, which then has to be a sum over its pixels, and "max" for any other.
        """
        return "sum" if readout in maps else "max"

    def drawn(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The maps to draw, in order."""
        return {name: maps[name] for name in self.shown_maps or maps if name in maps}

    def pixel_map(self, maps: dict[str, Tensor]) -> str:
        """The map judged by pixel: the one that is pooled, or the only one where a decision of its own classifies."""
        return self.readout if self.readout in maps else next(iter(maps))

    def supervised(self, output: Output, names: Iterable[str]) -> dict[str, Tensor]:
        """The logits that carry a loss, by name.

        Raises:
            ValueError: a name this network does not have.
        """
        known = dict(output.logits)
        if output.decision is not None:
            known["decision"] = output.decision
        return {name: self._known(known, name) for name in names}

    def target(self, name: str, mask: Float[Tensor, "b 1 h w"], label: Float[Tensor, " b"]) -> Tensor:
        """What the logit `name` should become: by default the (dilated) mask itself."""
        return mask

    @property
    def size_rule(self) -> str:
        """What heights and widths it takes, in words."""
        return f"multiples of {self.size_multiple} of at least {self.smallest_size}"

    def nearest_size(self, height: int, width: int) -> tuple[int, int]:
        """The input size nearest to this one that the network takes."""
        step = self.size_multiple
        good = [max(step, self.smallest_size, round(n / step) * step) for n in (height, width)]
        return good[0], good[1]

    def check_size(self, image: Tensor) -> None:
        """Raises ValueError, naming the nearest good size, for an image that the network cannot take."""
        height, width = image.shape[-2:]
        good = self.nearest_size(height, width)
        if good != (height, width):
            raise ValueError(
                f"input of {height}x{width} (height x width): {type(self).__name__} needs {self.size_rule}; "
                f"the nearest good size is {good[0]}x{good[1]}"
            )

    def _known(self, known: dict[str, Tensor], name: str) -> Tensor:
        if name not in known:
            raise ValueError(f"loss on '{name}': {type(self).__name__} has {', '.join(known)}")
        return known[name]


def titled(network: str, encoder: nn.Module) -> str:
    """Name of a network for the report, with that of its encoder where it is not the published one."""
    return ", ".join(word for word in (network, getattr(encoder, "title", type(encoder).__name__)) if word)


def parameter_count(module: nn.Module) -> int:
    """Number of parameters, those that a phase has frozen included."""
    return sum(p.numel() for p in module.parameters())
