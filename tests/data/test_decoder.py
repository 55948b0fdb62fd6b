"""Damage inside image files: refused wherever a decoder or a checksum can notice it, never silently other pixels."""

import io
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.helpers import picture

from anomaly_seg.data.decoder import _standard_error_into, imdecode
from anomaly_seg.data.image_io import FileSource, decode
from anomaly_seg.errors import InputError

HEIGHT, WIDTH = 160, 120
REFUSED = r"^x: (?:damaged inside \(.+\), so that pixels are wrong; copy it again|does not decode)"


def scene() -> np.ndarray:
    """A smooth picture with a little noise, as of a camera."""
    noise = picture("scene", HEIGHT, WIDTH).astype(np.float64)
    return np.clip(6 * (cv2.GaussianBlur(noise, (0, 0), 4) - 128) + 128 + noise / 32, 0, 255).astype(np.uint8)


def encoded(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(scene()).save(file, kind, **options)
    return file.getvalue()


JPEGS = {
    "baseline": encoded("JPEG", quality=90),
    "progressive": encoded("JPEG", quality=90, progressive=True),
    "with restarts": cv2.imencode(".jpg", scene(), [cv2.IMWRITE_JPEG_RST_INTERVAL, 4])[1].tobytes(),
}
TIFFS = {
    "LZW": encoded("TIFF", compression="tiff_lzw"),
    "LZW in strips": cv2.imencode(".tif", scene())[1].tobytes(),
    "Deflate": encoded("TIFF", compression="tiff_adobe_deflate"),
    "PackBits": encoded("TIFF", compression="packbits"),
}
PNGS = {f"level {level}": encoded("PNG", compress_level=level) for level in (0, 1, 9)}


def overwritten(data: bytes, at: int, by: bytes) -> bytes:
    return data[:at] + by + data[at + len(by) :]


def test_whole_files_are_read_as_pillow_reads_them() -> None:
    for data in (*JPEGS.values(), *TIFFS.values(), *PNGS.values()):
        with Image.open(io.BytesIO(data)) as reference:
            np.testing.assert_array_equal(decode(data, "x"), np.asarray(reference))


@given(kind=st.sampled_from(sorted(JPEGS)), where=st.floats(0, 0.95), marker=st.sampled_from([0xC0, 0xC4, 0xDB, 0xFE]))
def test_a_marker_inside_a_jpeg_scan(kind: str, where: float, marker: int) -> None:
    """Whatever stands behind it is no data of the scan, whose rest libjpeg then makes up."""
    data = JPEGS[kind]
    first, last = data.index(b"\xff\xda") + 10, data.rindex(b"\xff\xd9")
    with pytest.raises(InputError, match=REFUSED):
        decode(overwritten(data, first + int(where * (last - first)), bytes((0xFF, marker))), "x")


def test_random_bytes_inside_a_jpeg() -> None:
    """Most damage puts the decoder out of step; what ends in step again cannot be noticed."""
    rng, data = np.random.default_rng(0), JPEGS["baseline"]
    scan, refused = data.index(b"\xff\xda") + 10, 0
    for _ in range(300):
        damage = rng.integers(0, 256, 8, dtype=np.uint8).tobytes()
        try:
            decode(overwritten(data, int(rng.integers(scan, len(data) - 10)), damage), "x")
        except InputError:
            refused += 1
    assert refused > 120


@pytest.mark.parametrize("kind", sorted(JPEGS))
def test_bytes_behind_the_last_jpeg_code(kind: str) -> None:
    """As a decoder leaves them that got out of step; two end marks are no more than one."""
    data = JPEGS[kind]
    with pytest.raises(InputError, match=r"^x: damaged inside \(Corrupt JPEG data: .* extraneous bytes before marker"):
        decode(data[:-2] + bytes(32) + data[-2:], "x")
    np.testing.assert_array_equal(decode(data + bytes(32), "x"), decode(data, "x"))


@given(kind=st.sampled_from(sorted(TIFFS)), where=st.floats(0.1, 0.9), by=st.binary(min_size=1, max_size=16))
def test_damage_inside_a_tiff(kind: str, where: float, by: bytes) -> None:
    """What Pillow refuses is refused; Deflate has a checksum, so none of its damage passes."""
    data = overwritten(TIFFS[kind], int(where * len(TIFFS[kind])), by)
    try:
        with Image.open(io.BytesIO(data)) as reference:
            expected = scene() if kind == "Deflate" else np.asarray(reference)
            np.asarray(reference)
    except OSError:
        with pytest.raises(InputError, match=REFUSED):
            decode(data, "x")
        return
    try:
        np.testing.assert_array_equal(decode(data, "x"), expected)
    except InputError:
        assert kind in ("PackBits", "Deflate")  # libtiff only warns of surplus, and stops short of the checksum


@given(kind=st.sampled_from(sorted(PNGS)), where=st.floats(0, 1), by=st.binary(min_size=1, max_size=16))
def test_damage_inside_a_png(kind: str, where: float, by: bytes) -> None:
    data = PNGS[kind]
    first, last = data.index(b"IDAT") + 4, data.index(b"IEND") - 8 - len(by)
    try:
        found = decode(overwritten(data, first + int(where * (last - first)), by), "x")
    except InputError as error:
        assert str(error).startswith("x: ")
    else:
        np.testing.assert_array_equal(found, scene())


def test_a_checksum_that_libtiff_does_not_reach() -> None:
    """Zeros in the middle end in a stream that is too long, of which libtiff takes the beginning."""
    data = TIFFS["Deflate"]
    with pytest.raises(InputError, match=r"^x: damaged inside \(Deflate: "):
        decode(overwritten(data, len(data) // 2, bytes(16)), "x")


def test_a_stream_of_far_too_many_bytes() -> None:
    """A checksum is not worth decompressing what no picture of this size holds; libtiff takes what it needs."""
    stream = zlib.compress(bytes(1 << 27), 9)
    with io.BytesIO() as file:
        Image.new("L", (200, 200)).save(file, "TIFF", compression="tiff_adobe_deflate")
        data = file.getvalue()
    with Image.open(io.BytesIO(data)) as picture:
        offset, length = picture.tag_v2[273][0], picture.tag_v2[279][0]
    entries = [
        (struct.pack("<HHII", 273, 4, 1, offset), struct.pack("<HHII", 273, 4, 1, len(data))),
        (struct.pack("<HHII", 279, 4, 1, length), struct.pack("<HHII", 279, 4, 1, len(stream))),
    ]
    for before, after in entries:
        assert data.count(before) == 1
        data = data.replace(before, after)
    with pytest.raises(InputError, match=r"^x: damaged inside \(Deflate: a stream of too many bytes\)"):
        decode(data + stream, "x")


def test_warnings_of_no_consequence(capfd: pytest.CaptureFixture[str]) -> None:
    """A tag that libtiff does not know: it warns, and the warning is passed on."""
    info = {65000: "made by a camera"}
    data = encoded("TIFF", compression="tiff_lzw", tiffinfo=info)
    np.testing.assert_array_equal(decode(data, "x"), scene())
    assert "65000" in capfd.readouterr().err


def test_what_others_write_meanwhile_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with io.FileIO(os.memfd_create("test"), "w+") as file, _standard_error_into(file):
        os.write(2, b"step 1\nCorrupt JPEG data: bad Huffman code\nstep 2\n")
    assert capfd.readouterr().err.split() == ["step", "1", "step", "2"]


def test_a_silenced_log(capfd: pytest.CaptureFixture[str]) -> None:
    """OPENCV_LOG_LEVEL=SILENT hides nothing from us, and stays."""
    data = TIFFS["LZW"]
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        with pytest.raises(InputError, match=r"^x: damaged inside \(.*[Cc]ode"):
            decode(overwritten(data, len(data) // 2, b"\xff" * 16), "x")
        assert cv2.utils.logging.getLogLevel() == cv2.utils.logging.LOG_LEVEL_SILENT
    finally:
        cv2.utils.logging.setLogLevel(level)
    assert capfd.readouterr().err == ""


def test_no_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_: int) -> int:
        raise OSError("Bad file descriptor")

    monkeypatch.setattr(os, "dup", closed)
    pixels, complaint = imdecode(JPEGS["baseline"])
    assert pixels is not None and pixels.shape == (HEIGHT, WIDTH) and complaint is None


def test_threads_hear_of_their_own_image_only() -> None:
    good = JPEGS["baseline"]
    bad = good[:-2] + bytes(32) + good[-2:]
    with ThreadPoolExecutor(4) as pool:
        complaints = [complaint for _, complaint in pool.map(imdecode, [good, bad] * 50)]
    assert [complaint is None for complaint in complaints] == [True, False] * 50


def test_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEGS["baseline"][:-2] + bytes(32) + b"\xff\xd9")
    with pytest.raises(InputError, match=r"a\.jpg: damaged inside .*; copy it again, or save it anew as PNG if it"):
        FileSource(path).pixels()
