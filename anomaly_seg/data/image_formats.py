"""Formats of image files, told by their first bytes: what is decoded, and what only looks like an image."""

import io
import re
from collections.abc import Mapping
from typing import Any

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif", ".jp2", ".avif",
    ".pbm", ".pgm", ".ppm", ".pnm", ".pam",
)  # fmt: skip
"""How the names of image files end, in lower case: what is taken for an image inside a folder or a zip."""

RAW_SUFFIXES = (".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".sr2", ".orf", ".pef", ".raf", ".rw2", ".srw", ".raw")
"""Camera files. Some are TIFFs whose first picture is a small preview."""

UNDECODED_SUFFIXES = (
    *RAW_SUFFIXES, ".heic", ".heif", ".jxl", ".jxr", ".j2k", ".jpx", ".svg", ".svgz", ".psd", ".psb", ".xcf", ".kra",
    ".ai", ".eps", ".dcm", ".dicom", ".exr", ".hdr", ".pfm", ".tga", ".pcx", ".ico", ".ras", ".sgi", ".fits", ".npy",
    ".npz", ".mat", ".nii", ".nrrd", ".mha", ".emf", ".wmf", ".mp4", ".avi", ".mov", ".mkv",
)  # fmt: skip
"""Endings of pictures of other kinds: never passed over in silence."""

UNFINISHED_SUFFIXES = (".part", ".partial", ".tmp", ".temp", ".crdownload", ".filepart", ".download", "~")
"""Endings of files that a program is still writing, or keeps as a copy: their content does not make them images."""

HEAD = 512
"""First bytes of a file that tell its format."""

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_DECODED: Mapping[str, re.Pattern[bytes]] = {
    name: re.compile(pattern, re.DOTALL)
    for name, pattern in {
        "PNG": rb"\x89PNG\r\n\x1a\n",
        "JPEG": rb"\xff\xd8\xff",
        "BMP": rb"BM....\0\0\0\0",
        "TIFF": rb"II[*+]\0|MM\0[*+]",
        "WEBP": rb"RIFF....WEBP",
        "GIF": rb"GIF8[79]a",
        "JPEG 2000": rb"\0\0\0\x0cjP  \r\n\x87\n",
        "AVIF": rb"....ftypavi[fs]",
        "PNM": rb"P[1-6]\s|P7\n",
    }.items()
}
_UNDECODED = re.compile(
    rb"....ftyp(?:hei|hev|mif1|msf1|crx )|8BPS|gimp xcf|v/1\x01|#\?RADIANCE|P[fF]\s|\x59\xa6\x6a\x95|\x93NUMPY|"
    rb"\0\0\0\x0cJXL |\xff\x4f\xff\x51|SIMPLE  =|.{128}DICM|(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?"
    rb"(?:<!DOCTYPE svg[^>]*>\s*)?<svg",
    re.DOTALL,
)


def image_format(head: bytes) -> str | None:
    """Name of the format that the first HEAD bytes begin, if it is one that is decoded.

    >>> image_format(b"GIF89a..."), image_format(b"plain text")
    ('GIF', None)
    """
    return next((name for name, pattern in _DECODED.items() if pattern.match(head)), None)


def looks_like_image(name: str, head: bytes) -> bool:
    """Whether a file is an image, of a kind that is decoded or not, by its name or its first HEAD bytes."""
    lower = name.lower()
    if lower.endswith((*IMAGE_SUFFIXES, *UNDECODED_SUFFIXES)):
        return True
    unfinished = lower.endswith(UNFINISHED_SUFFIXES)
    return not unfinished and (image_format(head) is not None or _UNDECODED.match(head) is not None)


def lossy(head: bytes) -> bool:
    """Whether the format may have changed pixel values when it was written: JPEG and its kin."""
    kind = image_format(head)
    return kind in ("JPEG", "JPEG 2000", "AVIF") or (kind == "WEBP" and head[12:16] != b"VP8L" and b"VP8L" not in head)


# TIFF


SUBFILE_TYPE, PHOTOMETRIC, SAMPLES = 254, 262, 277
"""Tags of a page. Bit 0 of the first: a smaller copy of another page, such as a thumbnail."""

COMPRESSION, DEFLATE = 259, (8, 32946)
OFFSETS, LENGTHS = (273, 324), (279, 325)
"""Tags of where a page's strips or tiles are in the file, and of how many bytes each has."""

_TAGS = (SUBFILE_TYPE, PHOTOMETRIC, SAMPLES, COMPRESSION, *OFFSETS, *LENGTHS)

WHITE_IS_ZERO = 0
BIG = 43
"""Third byte of a TIFF with offsets of 8 bytes."""


def tiff_pages(data: bytes) -> list[dict[int, Any]]:
    """Of every page the tags above that it has; a damaged chain ends where it is damaged."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    file, seen, pages = io.BytesIO(data), {0}, list[dict[int, Any]]()
    try:
        directory = ImageFileDirectory_v2(data[: 16 if data[2] == BIG else 8])
        while directory.next not in seen:
            seen.add(directory.next)
            file.seek(directory.next)
            directory.load(file)
            pages.append({tag: directory[tag] for tag in _TAGS if tag in directory})
    except Exception:  # whatever a damaged chain makes the reader stumble over: OpenCV has read its first
        pass
    return pages


def count_pictures(data: bytes) -> int:
    """Full-size pictures in the file: a TIFF's pages, an animation's frames."""
    kind = image_format(data[:HEAD])
    if kind == "PNG":
        _, control, frames = data[: data.find(b"IDAT")].partition(b"acTL")
        return int.from_bytes(frames[:4]) if control else 1
    if kind == "TIFF":
        return sum(not page.get(SUBFILE_TYPE, 0) & 1 for page in tiff_pages(data))
    if kind not in ("GIF", "WEBP", "AVIF"):
        return 1
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as picture:
            return int(getattr(picture, "n_frames", 1))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):  # OpenCV has decoded it
        return 1
