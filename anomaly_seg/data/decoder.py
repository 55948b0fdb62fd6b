"""OpenCV's decoder, with what the libraries below it say about damaged data."""

import os
import re
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import cv2
import numpy as np

from anomaly_seg.data.image_formats import COMPRESSION, DEFLATE, LENGTHS, OFFSETS, TIFF, tiff_pages

COMPLAINT = re.compile(
    rb"^(?:Corrupt JPEG data|Premature end of JPEG|Invalid SOS parameters|Inconsistent progression)[^\n]*"
    rb"|^\[[^\n]*TIFF_(?:Error |Warning (?=[^\n]*(?:Decode:|JPEGLib: Corrupt)))[^\n]*",
    re.MULTILINE,
)
"""What libjpeg and libtiff say where pixels are wrong; other warnings, as of unknown tags, are passed on."""

CHUNK = 1 << 20
"""Bytes decompressed at a time."""

_LOG_HEAD = re.compile(r"^\[.*?TIFF_\w+ ")
_LOG_WARNINGS = 3
_one_at_a_time = threading.Lock()  # file descriptor 2 belongs to the whole process


def imdecode(data: bytes) -> tuple[np.ndarray | None, str | None]:
    """Pixels as stored, None where the bytes do not decode; and what is damaged inside, None where nothing shows.

    Where JPEG or TIFF data are damaged, libjpeg and libtiff go on with wrong pixels and say so on standard error alone,
    which is therefore read while they decode; whatever else is written there meanwhile is passed on. PNG and Deflate
    have checksums: OpenCV decodes no PNG whose sum is wrong, and those of a TIFF are looked at here.

    What nobody can notice is damage after which the data are still valid codes that end where they should:

    - JPEG: values changed without a change of the codes' lengths, and codes that fall into step again, or end at most
      8 bytes before the end, which libjpeg has then read ahead. Of 8 bytes overwritten in files of KolektorSDD about
      one damage in four goes unnoticed.
    - TIFF: LZW or PackBits codes that stand for other pixels of the same number, and all without compression.
    - BMP, PNM, JPEG 2000 and WEBP, which have no checksums; some damage of GIF.

    Raises:
        cv2.error: more pixels than OpenCV takes.
    """
    encoded = np.frombuffer(data, np.uint8)
    if not data.startswith((b"\xff\xd8", *TIFF)):
        return cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED), None
    with _one_at_a_time, _scratch() as written:
        with _standard_error_into(written):
            pixels = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
        written.seek(0)
        text = written.read()
    complaints = [said.decode(errors="replace").strip() for said in COMPLAINT.findall(text)]
    if complaints or pixels is None:
        return pixels, _LOG_HEAD.sub("", complaints[0]) if complaints else None
    return pixels, _wrong_checksum(data, (1 << 26) + 16 * pixels.nbytes)


def _wrong_checksum(data: bytes, most: int) -> str | None:
    """What is wrong with the Deflate streams of a TIFF's first page; libtiff stops short of their checksums.

    Args:
        data: the file.
        most: bytes that they may hold together; a few kB can say that they hold billions.
    """
    page = next(iter(tiff_pages(data)), {}) if data.startswith(TIFF) else {}
    if page.get(COMPRESSION) not in DEFLATE:
        return None
    offsets, lengths = (next((page[tag] for tag in tags if tag in page), ()) for tags in (OFFSETS, LENGTHS))
    try:
        for offset, length in zip(offsets, lengths, strict=True):
            stream, rest = zlib.decompressobj(), data[offset : offset + length]
            while not stream.eof:
                piece = stream.decompress(rest, CHUNK)
                rest, most = stream.unconsumed_tail, most - len(piece)
                if most < 0 or not (piece or rest):
                    return f"Deflate: a stream {'of too many bytes' if most < 0 else 'without its end'}"
    except (zlib.error, ValueError) as error:
        return f"Deflate: {error}"
    return None


def _scratch() -> BinaryIO:
    """A file in memory where the system has such, for a container may have no place to write to."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("standard error"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


@contextmanager
def _standard_error_into(file: BinaryIO) -> Iterator[None]:
    """Redirect file descriptor 2, with OpenCV's log at a level that warns; pass on what is no complaint."""
    try:
        kept = os.dup(2)
    except OSError:  # a process without standard error
        yield
        return
    level = cv2.utils.logging.getLogLevel()
    try:
        os.dup2(file.fileno(), 2)
        cv2.utils.logging.setLogLevel(max(level, _LOG_WARNINGS))
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
        os.dup2(kept, 2)
        os.close(kept)
        file.seek(0)
        if other := COMPLAINT.sub(b"", file.read()).strip(b"\n"):
            os.write(2, other + b"\n")
