"""Checks of an uploaded image before any pixel of it is decoded."""

import io
import warnings
from dataclasses import dataclass

from PIL import Image

from anomaly_seg.errors import InputError

KINDS = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
"""First bytes of the formats taken. The content decides, not the file's name or the type that a client claims."""

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Limits:
    """Largest upload. max_bytes: of the file. max_pixels: height x width; a file of a few kB can hold billions."""

    max_bytes: int = 32 * MEGABYTE
    max_pixels: int = 64 * MEGABYTE


class UploadError(InputError):
    """An upload that is not taken. status: the HTTP code that says so."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


def too_large(limits: Limits) -> UploadError:
    return UploadError(413, f"The file is larger than {limits.max_bytes / MEGABYTE:g} MB; send a smaller one.")


def check_upload(data: bytes, limits: Limits) -> None:
    """Check the format and the size of an encoded image, from its header alone.

    Raises:
        UploadError: 413: too many bytes or pixels. 415: not one of the formats. 422: empty, or the header is damaged.
    """
    if not data:
        raise UploadError(422, "The file is empty; send a PNG, JPEG, BMP or TIFF image.")
    if len(data) > limits.max_bytes:
        raise too_large(limits)
    kind = next((name for start, name in KINDS.items() if data.startswith(start)), None)
    if kind is None:
        raise UploadError(415, "This is no PNG, JPEG, BMP or TIFF image; convert it to one of them.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images; our own limit comes right after
            with Image.open(io.BytesIO(data), formats=(kind,)) as image:
                width, height = image.size
    except Image.DecompressionBombError:
        raise _too_many_pixels(limits) from None
    except Exception as error:  # a hostile header makes Pillow's readers fail in many ways
        raise UploadError(422, f"The {kind} file is damaged: its header does not decode; send it again.") from error
    if height * width > limits.max_pixels:
        raise _too_many_pixels(limits)


def _too_many_pixels(limits: Limits) -> UploadError:
    return UploadError(413, f"The image has more than {limits.max_pixels / 1e6:g} million pixels; cut it or shrink it.")
