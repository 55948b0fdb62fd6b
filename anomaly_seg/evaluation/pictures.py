"""Pictures of test images: input, mask and maps side by side. Plain torch."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anomaly_seg.data.datamodule import Batch
from anomaly_seg.data.tiling import TileGrid
from anomaly_seg.errors import InputError
from anomaly_seg.evaluation.evaluate import Places, predictions
from anomaly_seg.models.base import Network
from anomaly_seg.models.classifier import pooled_score

PICTURE_SIDE = 1408
"""Largest side of a picture's panel, in pixels; the paper's input is drawn as it is."""


def draw(
    network: Network,
    batches: Iterable[Batch],
    name: Callable[[int], str],
    folder: Path,
    device: torch.device | str,
    places: Places | None = None,
) -> None:
    """One PNG an image: input, mask and maps side by side, each under its name; large images are shrunk.

    Args:
        network, batches, device, places: as in `evaluate`.
        name: file name by index of the image.
        folder: made if need be.

    Raises:
        InputError: a picture cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error}); set output_dir, or pictures=false") from error
    for picture in _pictures(network, batches, device, places):
        panels = {caption: _shrunk(panel) for caption, panel in picture.panels().items()}
        path = folder / f"{name(picture.image)}.png"
        if not cv2.imwrite(str(path), _strip(panels)):
            raise InputError(f"{path}: cannot be written; free space, or set output_dir or pictures=false")


@dataclass
class Picture:
    """image: index. input (h, w) or (h, w, 3) RGB, mask (h, w), maps (h, w) by name: uint8. sums: of a map's pixels."""

    image: int
    input: np.ndarray
    mask: np.ndarray
    maps: dict[str, np.ndarray]
    sums: dict[str, float]

    def panels(self) -> dict[str, np.ndarray]:
        """By caption, as they are drawn."""
        return {"input": self.input, "mask": self.mask} | {
            f"{name} {self.sums[name]:.4g}": values for name, values in self.maps.items()
        }

    def enlarged(self, grid: TileGrid) -> "Picture":
        """The same as the size of the grid's image, all 0 but for what `put` will put there."""
        size = (grid.height, grid.width)
        whole, mask = (np.zeros(size + a.shape[2:], np.uint8) for a in (self.input, self.mask))
        maps = {name: np.zeros(size, np.uint8) for name in self.maps}
        return Picture(self.image, whole, mask, maps, dict.fromkeys(maps, 0.0))

    def put(self, tile: "Picture", where: tuple[slice, slice]) -> None:
        """Draw the inner region of a tile in its place, and add its sums."""
        self.input[where], self.mask[where] = tile.input, tile.mask
        for name, values in tile.maps.items():
            self.maps[name][where] = values
            self.sums[name] += tile.sums[name]


def _pictures(
    network: Network, batches: Iterable[Batch], device: torch.device | str, places: Places | None
) -> Iterator[Picture]:
    """A picture an image, put together from the inner regions of its tiles where it has tiles."""
    whole: Picture | None = None
    for batch, maps, _ in predictions(network, batches, device, None, places):
        drawn = network.drawn(maps)
        sums = {name: pooled_score(values).tolist() for name, values in drawn.items()}
        for i, sample in enumerate(batch.index.tolist()):
            image, mask = _bytes(batch.image[i]), _bytes(batch.mask[i])[..., 0]
            panels = {name: _bytes(values[i])[..., 0] for name, values in drawn.items()}
            image = image[..., 0] if image.shape[2] == 1 else image
            picture = Picture(sample, image, mask, panels, {name: values[i] for name, values in sums.items()})
            if places is None:
                yield picture
                continue
            picture.image, grid, tile = places(sample)
            if whole is None or whole.image != picture.image:
                whole = picture.enlarged(grid)
            whole.put(picture, grid.inner(tile))
            if tile == grid.tiles[-1]:
                yield whole


def _bytes(values: Float[Tensor, "c h w"]) -> np.ndarray:
    """(h, w, c) uint8 from values in [0, 1]."""
    return (values.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def _shrunk(panel: np.ndarray) -> np.ndarray:
    """At most PICTURE_SIDE pixels high and wide, the aspect kept."""
    scale = PICTURE_SIDE / max(panel.shape[:2])
    if scale >= 1:
        return panel
    height, width = (max(1, round(side * scale)) for side in panel.shape[:2])
    return cv2.resize(panel, (width, height), interpolation=cv2.INTER_AREA)


def _strip(panels: dict[str, np.ndarray]) -> np.ndarray:
    """Panels (h, w) or (h, w, 3) side by side under their captions, (h + 22, ..., 3) BGR; maps in false colour."""
    columns = []
    for caption, values in panels.items():
        if values.ndim == 3:
            coloured = cv2.cvtColor(values, cv2.COLOR_RGB2BGR)
        elif caption in ("input", "mask"):
            coloured = cv2.cvtColor(values, cv2.COLOR_GRAY2BGR)
        else:
            coloured = cv2.applyColorMap(values, cv2.COLORMAP_INFERNO)
        head = np.full((22, values.shape[1], 3), 255, np.uint8)
        cv2.putText(head, caption, (3, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
        columns += [np.vstack([head, coloured]), np.full((values.shape[0] + 22, 2, 3), 255, np.uint8)]
    return np.hstack(columns[:-1])
