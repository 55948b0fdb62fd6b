"""What a mask file means: which of its pixels somebody drew as defect."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from anomaly_seg.data.image_formats import HEAD, SAMPLES, image_format, lossy, tiff_pages
from anomaly_seg.data.image_io import LEVELS_16_PER_8_BIT, FileSource, Source, ZipSource
from anomaly_seg.errors import InputError

BRIGHT = 128
"""Values of a lossy mask from here on are defect: compression leaves faint ones all around its edges."""

FAINT = 8
"""Values of a lossy mask below this, beside a bright part anywhere, are what compression leaves of 0."""

REACH = 33
"""Pixels: side of the square within which compression leaves values around an edge; blocks have 16 at most."""

ANY_VALUE = 1
"""Default of `data.mask_threshold`: any value above 0 is defect, in masks of any depth."""

REDRAW = "save it anew as a grey PNG, 0 for the ground and 255 for the defect"


def mask_file(source: Source) -> Source:
    """The source of a mask's file, told by its content: as it is, or wrapped where its pixels are not its meaning."""
    if isinstance(source, FileSource | ZipSource):
        head = source.read(HEAD)
        if lossy(head):
            return LossyMask(source)
        if _may_hide(head):
            return LayeredMask(source)
    return source


def _may_hide(head: bytes) -> bool:
    """Whether colours could say less than is stored: a palette, or an alpha channel that OpenCV drops."""
    kind = image_format(head)
    return kind in ("GIF", "TIFF") or (kind == "PNG" and head[25:26] == b"\x03") or (kind == "BMP" and head[28] <= 8)


@dataclass(frozen=True)
class LossyMask:
    """A mask in a format such as JPEG, of which only the brighter half of the values counts."""

    source: FileSource | ZipSource

    @property
    def name(self) -> str:
        return self.source.name

    def fingerprint(self) -> str:
        return f"lossy-{self.source.fingerprint()}"

    def pixels(self) -> np.ndarray:
        """(h, w) uint8 of 0 and 255.

        Raises:
            InputError: values that are neither clearly ground nor defect, further from a defect than compression goes.
        """
        stored = drawn_levels(self.source.pixels(), self.name)
        levels = (
            stored if stored.dtype == np.uint8 else (stored * (255.0 / np.iinfo(stored.dtype).max)).astype(np.uint8)
        )
        bright = (levels >= BRIGHT).astype(np.uint8)
        around = cv2.dilate(bright, np.ones((REACH, REACH), np.uint8))
        faint = FAINT if bright.any() else 1  # where all is 0, compression changes nothing
        doubtful = int(((levels >= faint) & (around == 0)).sum())
        if doubtful:
            raise InputError(
                f"{self.name}: a mask in a format that changes values, with {doubtful} pixels of which nobody can say "
                f"whether they are defect; {REDRAW}"
            )
        return bright * np.uint8(255)


@dataclass(frozen=True)
class LayeredMask:
    """A mask whose stored values are looked at beside the colours that they are shown as."""

    source: FileSource | ZipSource

    @property
    def name(self) -> str:
        return self.source.name

    def fingerprint(self) -> str:
        return self.source.fingerprint()

    def pixels(self) -> np.ndarray:
        """As shown.

        Raises:
            InputError: what is shown as ground is not all of one stored value, or an alpha channel beside grey.
        """
        data, shown = self.source.read(), self.source.pixels()
        pages = tiff_pages(data) if image_format(data[:HEAD]) == "TIFF" else []
        if pages and pages[0].get(SAMPLES) == 2:
            raise InputError(f"{self.name}: a TIFF of grey with alpha; {REDRAW}")
        stored = _palette_indices(data)
        ground = drawn_levels(shown, self.name) == 0
        if stored is not None and stored.shape == ground.shape and len(np.unique(stored[ground])) > 1:
            raise InputError(
                f"{self.name}: its palette shows different values as the same black, so what is drawn cannot be seen; "
                f"{REDRAW}"
            )
        return shown


def _palette_indices(data: bytes) -> np.ndarray | None:
    """(h, w) places in the palette as stored, or None where there is no palette."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture) if picture.mode == "P" else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # OpenCV decides what it is
        return None


def drawn_levels(pixels: np.ndarray, name: str) -> np.ndarray:
    """(h, w) of the pixels' type, above 0 where something is drawn.

    Args:
        pixels: (h, w), (h, w, 1), (h, w, 3) or (h, w, 4) with alpha, as decoded. Of colours the brightest
            channel counts.
        name: of the mask, for messages.

    Raises:
        InputError: values below 0 or not finite, or an alpha channel of which one cannot say what it means.
    """
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise InputError(f"{name}: a mask with values that are no numbers; {REDRAW}")
    if pixels.dtype.kind in "if" and pixels.size and pixels.min() < 0:
        raise InputError(f"{name}: a mask with values below 0; {REDRAW}")
    if pixels.ndim == 2:
        return pixels
    colour = pixels[:, :, :3].max(axis=2)
    return _with_alpha(pixels, colour, name) if pixels.shape[2] == 4 else colour


def is_defect(levels: np.ndarray, threshold: int, name: str) -> np.ndarray:
    """(h, w) bool of the pixels that are defect.

    Args:
        levels: (h, w), from `drawn_levels`.
        threshold: value from which on they are, of 255 (of 16-bit masks this share of 65535). ANY_VALUE: any above 0.
        name: of the mask, for messages.

    Raises:
        InputError: another threshold than ANY_VALUE for values whose range nobody knows, such as floats.
    """
    if threshold == ANY_VALUE:
        return levels > 0
    if levels.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"{name}: a mask of {levels.dtype} values, of which data.mask_threshold={threshold} of 255 says nothing; "
            f"{REDRAW}"
        )
    return levels >= threshold * (LEVELS_16_PER_8_BIT if levels.dtype == np.uint16 else 1)


def _with_alpha(pixels: np.ndarray, colour: np.ndarray, name: str) -> np.ndarray:
    """What is drawn where there is an alpha channel: colours on opaque ground, or one colour on transparent ground."""
    alpha = pixels[:, :, 3]
    opaque, transparent = bool(alpha.all()), not alpha.any()
    if opaque and (alpha == alpha.flat[0]).all():
        return colour
    visible = pixels[alpha > 0][:, :3]
    if transparent and (colour == colour.flat[0]).all():
        return alpha
    if not transparent and not opaque and ((visible == visible[0]).all() or ((colour > 0) == (alpha > 0)).all()):
        return alpha
    raise InputError(
        f"{name}: a mask with an alpha channel, of which one cannot say whether the colours or the transparency are "
        f"the drawing; {REDRAW}"
    )


@dataclass(frozen=True)
class JoinedMask:
    """Several masks of one image: a pixel is defect where any of them says so."""

    parts: Sequence[Source]

    @property
    def name(self) -> str:
        return " and ".join(part.name for part in self.parts)

    def fingerprint(self) -> str:
        return "+".join(part.fingerprint() for part in self.parts)

    def pixels(self) -> np.ndarray:
        """(h, w) the highest of the parts' values. Raises InputError for parts of different sizes."""
        drawn = [drawn_levels(part.pixels(), part.name) for part in self.parts]
        for part, mask in zip(self.parts, drawn, strict=True):
            if mask.shape != drawn[0].shape:
                raise InputError(f"{part.name}: of another size than {self.parts[0].name}; export both at one size")
        if any(mask.dtype == np.uint16 for mask in drawn):  # of which 65535 is what 255 is of 8 bits
            drawn = [m.astype(np.uint16) * LEVELS_16_PER_8_BIT if m.dtype == np.uint8 else m for m in drawn]
        return np.maximum.reduce(drawn)
