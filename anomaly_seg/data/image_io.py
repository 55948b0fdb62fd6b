"""Pixels from image files, on disk or inside a zip: decoding, orientation, and 8-bit grey or colour."""

import io
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np

from anomaly_seg.data.decoder import imdecode
from anomaly_seg.data.image_formats import (
    HEAD,
    PHOTOMETRIC,
    RAW_SUFFIXES,
    SUBFILE_TYPE,
    TIFF,
    WHITE_IS_ZERO,
    count_pictures,
    image_format,
    tiff_pages,
)
from anomaly_seg.errors import InputError

LEVELS_16_PER_8_BIT = 257
"""16-bit grey levels that become one 8-bit level: 65535 becomes 255."""

DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, struct.error)
"""What zipfile raises for a damaged member."""

Convert = Literal["error", "grey8"]


class Source(Protocol):
    """Somewhere pixels come from."""

    @property
    def name(self) -> str:
        """For messages: the file, or the file inside an archive."""
        ...

    def fingerprint(self) -> str:
        """Changes when the content changes; the same for a file and for its copy in a zip."""
        ...

    def pixels(self) -> np.ndarray:
        """(h, w) or (h, w, c) as stored."""
        ...


@dataclass(frozen=True)
class FileSource:
    """An image file."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def fingerprint(self) -> str:
        data = self.read()
        return f"{zlib.crc32(data):08x}-{len(data)}"

    def pixels(self) -> np.ndarray:
        return decode(self.read(), self.name)

    def read(self, count: int = -1) -> bytes:
        """The first bytes, or all. Raises InputError where they cannot be read."""
        try:
            with self.path.open("rb") as file:
                return file.read(count)
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be read ({error.strerror}); check the file and its rights"
            ) from error


@lru_cache(maxsize=8)
def _archive(path: Path, _changed: int, _size: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def open_archive(path: Path) -> zipfile.ZipFile:
    """A zip, opened once per process, and anew if the file changes.

    Raises:
        InputError: the file is no complete zip, or cannot be read.
    """
    try:
        stat = path.stat()
        return _archive(path, stat.st_mtime_ns, stat.st_size)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path}: not a complete zip archive ({error}); copy or download it again") from error


@dataclass(frozen=True)
class ZipSource:
    """An image inside a zip, read without unpacking."""

    archive: Path
    member: str

    @property
    def name(self) -> str:
        return f"{self.archive}!{self.member}"

    def fingerprint(self) -> str:
        info = open_archive(self.archive).getinfo(self.member)
        return f"{info.CRC:08x}-{info.file_size}"

    def pixels(self) -> np.ndarray:
        return decode(self.read(), self.name)

    def read(self, count: int = -1) -> bytes:
        """The first bytes, or all. Raises InputError where they cannot be read."""
        try:
            with open_archive(self.archive).open(self.member) as file:
                return file.read(count)
        except RuntimeError as error:  # encrypted, or of a compression that Python does not know
            raise InputError(
                f"{self.name}: cannot be read ({error}); copy or download the zip again, or unpack it"
            ) from error
        except (*DAMAGED, OSError) as error:
            raise InputError(
                f"{self.name}: damaged inside the zip ({error}); copy or download the zip again"
            ) from error


def decode(data: bytes, name: str) -> np.ndarray:
    """Pixels as stored, upright, from the bytes of an image file.

    A camera's note of how it was held (Exif) is followed, as annotation tools and browsers do, so that outlines drawn
    there lie where they were drawn.

    Raises:
        InputError: not an image, damaged inside as far as `decoder.imdecode` can notice, several in one file, or one of
            more pixels than OpenCV takes.
    """
    usable = image_format(data[:HEAD]) is not None and not name.lower().endswith(RAW_SUFFIXES)
    usable = usable and not (data.startswith(b"\xff\xd8") and _cut_short(data))
    try:
        pixels, complaint = imdecode(data) if usable else (None, None)
    except cv2.error as error:
        limit = "more than 2^30 pixels (the environment variable OPENCV_IO_MAX_IMAGE_PIXELS sets another limit)"
        reason = limit if "CV_IO_MAX_IMAGE" in error.err else error.err
        raise InputError(f"{name}: does not decode, {reason}; cut the picture into parts") from error
    if pixels is None:
        raise InputError(f"{name}: does not decode as an image; give a whole PNG, JPEG, BMP or TIFF, or leave it out")
    if complaint:
        raise InputError(
            f"{name}: damaged inside ({complaint}), so that pixels are wrong; copy it again, or save it anew as PNG if "
            "it looks right"
        )
    pictures = count_pictures(data)
    if pictures > 1:
        raise InputError(
            f"{name}: holds {pictures} pictures, of which only the first would be seen; save each as a file"
        )
    return _upright(_positive(pixels, data, name), data)


def _positive(pixels: np.ndarray, data: bytes, name: str) -> np.ndarray:
    """Pixels of a TIFF in which 0 is white, with 0 as black; OpenCV turns only those of up to 8 bits.

    Raises:
        InputError: the first page, which OpenCV reads, is a smaller copy.
    """
    first = next(iter(tiff_pages(data)), {}) if data.startswith(TIFF) else {}
    if first.get(SUBFILE_TYPE, 0) & 1:
        raise InputError(f"{name}: begins with a small preview of its picture; save it as a TIFF of one page, or PNG")
    negative = first.get(PHOTOMETRIC) == WHITE_IS_ZERO and pixels.dtype in (np.uint16, np.uint32)
    return np.iinfo(pixels.dtype).max - pixels if negative else pixels


JPEG_MARK = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
"""Between segments, and after a scan's data, in which 255 is followed by 0 or by a restart mark of 208 to 215."""


def _cut_short(jpeg: bytes) -> bool:
    """Whether the end mark is missing: OpenCV 4 fills up what is missing with grey and says nothing."""
    at = 2
    while mark := JPEG_MARK.search(jpeg, at):
        if mark[0] == b"\xff\xd9":
            return False
        at = mark.end() + int.from_bytes(jpeg[mark.end() : mark.end() + 2])
    return True


UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda p: np.rot90(p, 2),
    4: np.flipud,
    5: lambda p: np.flipud(np.rot90(p)),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.fliplr(np.rot90(p)),
    8: np.rot90,
}
"""What turns pixels as stored upright, by Exif's orientation; 1 is upright."""


def _upright(pixels: np.ndarray, data: bytes) -> np.ndarray:
    if data.startswith(TIFF) or b"exif" not in data[:EXIF_REACH].lower():
        return pixels
    from PIL import ExifTags, Image

    try:
        with Image.open(io.BytesIO(data)) as picture:
            turn = UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # decodes, but its notes do not
        return pixels
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


EXIF_REACH = 1 << 16
"""Bytes in which a file says whether it has such notes."""


def load_image(source: Source, convert: Convert = "error", channels: int = 1) -> np.ndarray:
    """8-bit image from a source: `to_image` of its pixels."""
    return to_image(source.pixels(), source.name, convert, channels)


def to_image(pixels: np.ndarray, name: str, convert: Convert = "error", channels: int = 1) -> np.ndarray:
    """8-bit image: (h, w) uint8 grey, or (h, w, 3) uint8 RGB.

    Args:
        pixels: as stored, from `Source.pixels`.
        name: of the source, for messages.
        convert: "error" refuses 16 bit, and colour where grey is wanted; "grey8" turns 16-bit to 8-bit (65535 becomes
            255) and, where grey is wanted, colour to grey.
        channels: 1 = grey; 3 = colour, where grey images are repeated and an alpha channel is dropped.

    Raises:
        InputError: colour or 16-bit with `convert="error"`, or another depth.
    """
    found = stored_channels(pixels)
    deep = pixels.dtype != np.uint8
    usable = pixels.dtype in (np.uint8, np.uint16) and found in (1, 3, 4)
    if not usable or (convert == "error" and (deep or (found > 1 and channels == 1))):
        raise InputError(_unusable(name, pixels.dtype, found, channels, usable))
    pixels = to_8_bit(pixels)
    if found == 1:
        grey = pixels.reshape(pixels.shape[:2])
        return grey if channels == 1 else np.repeat(grey[:, :, None], 3, axis=2)
    grey_code, colour_code = (
        (cv2.COLOR_BGR2GRAY, cv2.COLOR_BGR2RGB) if found == 3 else (cv2.COLOR_BGRA2GRAY, cv2.COLOR_BGRA2RGB)
    )
    return cv2.cvtColor(pixels, grey_code if channels == 1 else colour_code)


def stored_channels(pixels: np.ndarray) -> int:
    """1 for (h, w), c for (h, w, c)."""
    return 1 if pixels.ndim == 2 else pixels.shape[2]


def to_8_bit(pixels: np.ndarray) -> np.ndarray:
    """16-bit pixels (uint16, any shape) as 8-bit ones (uint8); those of another type as they are."""
    return (pixels // LEVELS_16_PER_8_BIT).astype(np.uint8) if pixels.dtype == np.uint16 else pixels


def _unusable(name: str, dtype: np.dtype, found: int, channels: int, convertible: bool) -> str:
    kind = {1: "grey", 3: "RGB", 4: "RGBA"}.get(found, f"{found}-channel")
    wanted = "grey 8-bit" if channels == 1 else "8-bit"
    remedy = "convert it, or set data.convert=grey8" if convertible else "convert it"
    if convertible and channels == 1 and found > 1 and dtype == np.uint8:
        remedy += ", or data.channels=3 to keep the colour"
    return f"{name}: {kind}, {dtype.itemsize * 8} bit, not {wanted}; {remedy}"
