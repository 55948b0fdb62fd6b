"""Sources and decoding: what a file, a zip and a mask may hold, and what is said when they hold something else."""

import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps
from support.helpers import ArraySource, picture, write_image

from anomaly_seg.data.image_io import FileSource, ZipSource, decode, load_image, open_archive, to_8_bit
from anomaly_seg.data.masks import JoinedMask
from anomaly_seg.data.records import Record, load_mask
from anomaly_seg.errors import InputError


def record(image: np.ndarray, mask: np.ndarray | None) -> Record:
    return Record(
        "a/0", "a", ArraySource("a/0.jpg", image), None if mask is None else ArraySource("a/0_label.bmp", mask)
    )


def encoded(kind: str) -> bytes:
    big = cv2.GaussianBlur(
        picture("photo", 300, 200), (0, 0), 3
    )  # like a photograph, so that a JPEG is more than headers
    return cv2.imencode(kind, big)[1].tobytes()


def zip_with(path: Path, data: bytes, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("kos01/Part0.png", data)
    return path


def test_grey_8_bit_is_read_as_stored(tmp_path: Path) -> None:
    pixels = picture("x")
    source = FileSource(write_image(tmp_path / "x.png", pixels))
    np.testing.assert_array_equal(load_image(source), pixels)


def test_a_file_and_its_copy_in_a_zip_are_the_same(tmp_path: Path) -> None:
    data = encoded(".png")
    (tmp_path / "x.png").write_bytes(data)
    file, member = FileSource(tmp_path / "x.png"), ZipSource(zip_with(tmp_path / "x.zip", data), "kos01/Part0.png")
    assert file.fingerprint() == member.fingerprint()
    np.testing.assert_array_equal(file.pixels(), member.pixels())
    (tmp_path / "x.png").write_bytes(data + b"\0")
    assert file.fingerprint() != member.fingerprint()


COLOUR = np.full((4, 3, 3), (10, 20, 30), np.uint8)  # blue, green, red
ALPHA = np.full((4, 3, 4), (10, 20, 30, 99), np.uint8)
DEEP = np.array([[0, 256, 257], [1799, 65534, 65535]], np.uint16)  # 1799 = 7 * 257


@pytest.mark.parametrize(
    ("pixels", "kind", "expected"),
    [
        (COLOUR, "RGB, 8 bit", np.full((4, 3), 22)),  # 0.114 * 10 + 0.587 * 20 + 0.299 * 30 = 21.85
        (ALPHA, "RGBA, 8 bit", np.full((4, 3), 22)),
        (DEEP, "grey, 16 bit", np.array([[0, 0, 1], [7, 254, 255]])),
        (COLOUR.astype(np.uint16) * 257, "RGB, 16 bit", np.full((4, 3), 22)),
        (ALPHA.astype(np.uint16) * 257, "RGBA, 16 bit", np.full((4, 3), 22)),
    ],
)
def test_other_formats_are_refused_or_converted(
    tmp_path: Path, pixels: np.ndarray, kind: str, expected: np.ndarray
) -> None:
    source = FileSource(write_image(tmp_path / "x.png", pixels))
    with pytest.raises(InputError, match=rf"x\.png: {kind}, .*data\.convert=grey8"):
        load_image(source)
    converted = load_image(source, "grey8")
    assert converted.dtype == np.uint8
    np.testing.assert_array_equal(converted, expected)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (COLOUR, np.full((4, 3, 3), (30, 20, 10))),  # RGB
        (ALPHA, np.full((4, 3, 3), (30, 20, 10))),
        (DEEP[:, :1].astype(np.uint8) + np.uint8(9), np.full((2, 1, 3), [[[9]], [[16]]])),  # grey, repeated; 1799 = 7
    ],
)
def test_colour_is_kept_and_grey_repeated(tmp_path: Path, pixels: np.ndarray, expected: np.ndarray) -> None:
    loaded = load_image(FileSource(write_image(tmp_path / "x.png", pixels)), channels=3)
    assert loaded.dtype == np.uint8
    np.testing.assert_array_equal(loaded, expected)


@pytest.mark.parametrize("kind", ["jpg", "png", "bmp", "tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_format_gives_the_colours_that_another_library_wrote(tmp_path: Path, kind: str, channels: int) -> None:
    """Written by Pillow; a JPEG of one colour is off by a few grey values."""
    path = tmp_path / f"x.{kind}"
    Image.fromarray(np.full((16, 24, 3), (200, 30, 90), np.uint8)).save(path)
    loaded = load_image(FileSource(path), "grey8", channels)
    expected = (200, 30, 90) if channels == 3 else 0.299 * 200 + 0.587 * 30 + 0.114 * 90
    np.testing.assert_allclose(loaded, np.broadcast_to(expected, loaded.shape), atol=3 if kind == "jpg" else 0.5)
    assert loaded.shape == (16, 24) + ((3,) if channels == 3 else ())


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_16_bit_colour_is_refused_or_converted(tmp_path: Path, kind: str) -> None:
    source = FileSource(write_image(tmp_path / f"x.{kind}", COLOUR.astype(np.uint16) * 257))
    with pytest.raises(
        InputError, match=rf"x\.{kind}: RGB, 16 bit, not 8-bit; convert it, or set data\.convert=grey8$"
    ):
        load_image(source, channels=3)
    np.testing.assert_array_equal(load_image(source, "grey8", 3), np.full((4, 3, 3), (30, 20, 10)))
    deep = FileSource(write_image(tmp_path / "y.png", DEEP))
    np.testing.assert_array_equal(load_image(deep, "grey8", 3)[..., 2], [[0, 0, 1], [7, 254, 255]])


def test_where_grey_is_wanted_the_message_for_colour_offers_to_keep_it(tmp_path: Path) -> None:
    source = FileSource(write_image(tmp_path / "x.png", COLOUR))
    with pytest.raises(InputError, match=r"or set data\.convert=grey8, or data\.channels=3 to keep the colour$"):
        load_image(source)


def test_floating_point_cannot_be_converted() -> None:
    with pytest.raises(InputError, match=r"x\.tiff: grey, 32 bit, not grey 8-bit; convert it$"):
        load_image(ArraySource("x.tiff", np.zeros((4, 3), np.float32)), "grey8")
    with pytest.raises(InputError, match=r"x\.tiff: 2-channel, 8 bit, not 8-bit; convert it$"):
        load_image(ArraySource("x.tiff", np.zeros((4, 3, 2), np.uint8)), "grey8", 3)


@pytest.mark.parametrize("kind", [".jpg", ".png", ".bmp", ".tiff"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.98])
def test_a_file_cut_short_does_not_decode(tmp_path: Path, kind: str, kept: float) -> None:
    data = encoded(kind)
    path = tmp_path / f"x{kind}"
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(InputError, match=rf"x\{kind}: does not decode as an image; give a whole PNG"):
        FileSource(path).pixels()


SEGMENT = b"\xff\xe1\x00\x06\xff\xd9\xff\xda"
"""Notes of four bytes that look like an end mark and a scan's mark, as a small picture within them does."""


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.98])
@pytest.mark.parametrize("progressive", [0, 1])
def test_marks_within_a_jpegs_notes_and_after_its_end_mean_nothing(kept: float, progressive: int) -> None:
    pixels = cv2.GaussianBlur(picture("photo", 300, 200), (0, 0), 3)
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive, cv2.IMWRITE_JPEG_RST_INTERVAL, 3]
    plain = cv2.imencode(".jpg", pixels, options)[1].tobytes()
    data = plain[:2] + SEGMENT + plain[2:]
    for trailer in (b"", b"camera\xff\xda\x00", SEGMENT + plain[: len(plain) // 2]):
        np.testing.assert_array_equal(decode(data + trailer, "x"), cv2.imdecode(np.frombuffer(plain, np.uint8), -1))
    with pytest.raises(InputError, match="x: does not decode as an image"):
        decode(data[: int(kept * len(data))], "x")


def tiff(*pages: np.ndarray, thumbnail: bool = False, **options: object) -> bytes:
    """Pages in one file; thumbnail: the further ones say that they are smaller copies (tag 254)."""
    file, first, *others = io.BytesIO(), *(Image.fromarray(page) for page in pages)
    for other in others:
        other.encoderinfo = {"tiffinfo": {254: 1}} if thumbnail else {}
    first.save(file, "TIFF", save_all=True, append_images=others, **options)
    return file.getvalue()


def test_several_pictures_in_one_file() -> None:
    """Only the first would be judged: a defect on another would be missed."""
    page = picture("x")
    animation = io.BytesIO()
    Image.fromarray(page).save(animation, "PNG", save_all=True, append_images=[Image.fromarray(255 - page)])
    for data, pages in ((tiff(page, page, page), 3), (tiff(page, page, big_tiff=True), 2), (animation.getvalue(), 2)):
        with pytest.raises(InputError, match=rf"^x: holds {pages} pictures, of which only the first would be seen"):
            decode(data, "x")
    for data in (tiff(page), tiff(page, big_tiff=True), tiff(page, page[::2, ::2], thumbnail=True)):
        np.testing.assert_array_equal(decode(data, "x"), page)


def test_a_chain_of_pages_that_turns_in_a_circle() -> None:
    data = bytearray(tiff(picture("x")))
    at = struct.unpack("<I", data[4:8])[0]
    entries = struct.unpack("<H", data[at : at + 2])[0]
    data[at + 2 + 12 * entries : at + 6 + 12 * entries] = struct.pack("<I", at)
    np.testing.assert_array_equal(decode(bytes(data), "x"), picture("x"))


def test_more_pixels_than_opencv_takes() -> None:
    """A PNG that says 40,000 x 40,000, more than 2^30 = 32,768 x 32,768, and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    with pytest.raises(InputError, match=r"big\.png: .* more than 2\^30 pixels .*OPENCV_IO_MAX_IMAGE_PIXELS.*; cut"):
        decode(data, "big.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright_as_annotation_tools_show_them(tmp_path: Path, kind: str, orientation: int) -> None:
    picture = Image.fromarray(np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40, np.ones((16, 16), np.uint8)))
    notes = Image.Exif()
    notes[ExifTags.Base.Orientation] = orientation
    notes[ExifTags.Base.ImageDescription] = "exif"  # the word alone, in a TIFF, turned it twice
    for name in ("PNG", kind):
        picture.save(tmp_path / name, name, exif=notes)
    with Image.open(tmp_path / "PNG") as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored)).astype(int)
    assert np.abs(FileSource(tmp_path / kind).pixels() - upright).max() <= 2, "but for JPEG's losses"
    assert upright.shape == ((32, 48) if orientation < 5 else (48, 32))


def test_damaged_notes_leave_the_picture_as_it_is(tmp_path: Path) -> None:
    picture = Image.fromarray(np.full((16, 24), 7, np.uint8))
    notes = Image.Exif()
    notes[ExifTags.Base.Orientation] = 6
    picture.save(tmp_path / "x.jpg", exif=notes)
    data = (tmp_path / "x.jpg").read_bytes()
    at = data.index(b"Exif") + 6
    (tmp_path / "x.jpg").write_bytes(data[:at] + b"\xff" * 8 + data[at + 8 :])
    assert FileSource(tmp_path / "x.jpg").pixels().shape == (16, 24)


def test_a_text_file_does_not_decode(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("<html>404 Not Found</html>")
    with pytest.raises(InputError, match=r"x\.jpg: does not decode"):
        load_image(FileSource(tmp_path / "x.jpg"))


def test_a_file_that_vanished_is_named(tmp_path: Path) -> None:
    source = FileSource(tmp_path / "gone.jpg")
    for use in (source.pixels, source.fingerprint):
        with pytest.raises(InputError, match=r"gone\.jpg: cannot be read"):
            use()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_damaged_inside_a_zip(tmp_path: Path, compression: int) -> None:
    path = zip_with(tmp_path / "x.zip", encoded(".png"), compression)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF  # in the middle of the only member
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"x\.zip!kos01/Part0\.png: damaged inside the zip .*download the zip again"):
        ZipSource(path, "kos01/Part0.png").pixels()


def test_a_member_that_is_no_image_is_named_with_its_zip(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "x.zip", b"no image")
    with pytest.raises(InputError, match=r"x\.zip!kos01/Part0\.png: does not decode"):
        ZipSource(path, "kos01/Part0.png").pixels()


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "x.zip", encoded(".png"))
    data = bytearray(path.read_bytes())
    data[6] |= 1  # flags of the local header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # and of the directory
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"x\.zip!kos01/Part0\.png: .*encrypted"):
        ZipSource(path, "kos01/Part0.png").pixels()


def test_a_zip_cut_short_or_missing(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "x.zip", encoded(".png"))
    path.write_bytes(path.read_bytes()[:-30])
    for broken in (path, tmp_path / "none.zip"):
        with pytest.raises(InputError, match=rf"{broken.name}: not a complete zip archive .*download it again"):
            open_archive(broken)


def test_a_zip_replaced_by_another_is_opened_anew(tmp_path: Path) -> None:
    source = ZipSource(zip_with(tmp_path / "x.zip", b"first"), "kos01/Part0.png")
    before = source.fingerprint()
    zip_with(tmp_path / "x.zip", b"other")
    os.utime(tmp_path / "x.zip", ns=(1, 1))  # same size; a coarse clock could give the same time
    assert source.fingerprint() != before


def test_any_value_above_zero_is_defect() -> None:
    stored = np.array([[0, 1, 85], [254, 255, 0]], np.uint8)
    mask, odd = load_mask(record(np.zeros((2, 3), np.uint8), stored), (2, 3))
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[0, 1, 1], [1, 1, 0]]
    assert odd == {1, 85, 254}


def test_a_threshold_takes_values_from_itself_on() -> None:
    stored = np.array([[0, 1, 127], [128, 129, 255]], np.uint8)
    mask, odd = load_mask(record(np.zeros((2, 3), np.uint8), stored), (2, 3), 128)
    assert mask.tolist() == [[0, 0, 0], [1, 1, 1]] and odd == {1, 127, 128, 129}


def test_a_threshold_is_of_255_in_masks_of_16_bits_too() -> None:
    """65535 * 128 / 255 = 32896; by default any value above 0 is defect."""
    stored = record(np.zeros((1, 3), np.uint8), np.array([[1, 32895, 32896]], np.uint16))
    assert load_mask(stored, (1, 3), 128)[0].tolist() == [[0, 0, 1]]
    assert load_mask(stored, (1, 3))[0].tolist() == [[1, 1, 1]]


def test_values_without_a_known_range_take_no_threshold() -> None:
    stored = record(np.zeros((1, 2), np.uint8), np.array([[0.0, 0.4]], np.float32))
    assert load_mask(stored, (1, 2))[0].tolist() == [[0, 1]]
    with pytest.raises(InputError, match=r"a mask of float32 values, of which data\.mask_threshold=128 of 255 says"):
        load_mask(stored, (1, 2), 128)


def test_joined_masks_take_a_threshold_whatever_their_depths() -> None:
    """Each pixel is as bright as its brightest part: 100 of 255 is 25700 of 65535, 200 is 51400."""
    eight, sixteen = np.array([[100, 200, 0, 0]], np.uint8), np.array([[0, 0, 32895, 32896]], np.uint16)
    joined = JoinedMask([ArraySource("a", eight), ArraySource("b", sixteen)])
    assert joined.pixels().tolist() == [[25700, 51400, 32895, 32896]]
    source = Record("a", "a", ArraySource("a", np.zeros((1, 4), np.uint8)), joined)
    assert load_mask(source, (1, 4), 128)[0].tolist() == [[0, 1, 0, 1]]
    assert load_mask(source, (1, 4))[0].tolist() == [[1, 1, 1, 1]]


def test_a_clean_mask_and_no_mask_have_no_odd_values() -> None:
    image = np.zeros((1, 2), np.uint8)
    assert load_mask(record(image, np.array([[0, 255]], np.uint8)), (1, 2))[1] == set()
    mask, odd = load_mask(record(image, None), (1, 2))
    assert mask.tolist() == [[0, 0]] and odd == set()


def test_colour_masks_count_any_colour_but_not_alpha() -> None:
    stored = np.zeros((1, 3, 4), np.uint8)
    stored[0, :, 3] = 255
    stored[0, 1, 2] = 255
    mask, odd = load_mask(record(np.zeros((1, 3), np.uint8), stored), (1, 3))
    assert mask.tolist() == [[0, 1, 0]] and odd == set()


def test_a_mask_of_another_size_is_named_with_its_image() -> None:
    wrong = record(np.zeros((4, 6), np.uint8), np.zeros((4, 5), np.uint8))
    with pytest.raises(InputError, match=r"a/0_label\.bmp: mask of 4x5 for an image of 4x6 \(a/0\.jpg\); export it at"):
        load_mask(wrong, (4, 6))


def test_one_rule_makes_8_bits_of_16() -> None:
    """`np.uint8` levels 0 to 255 as 16 bits are level * 257 and come back; training and inference share the rule."""
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_8_bit(levels.astype(np.uint16) * 257), levels)
    assert to_8_bit(DEEP).tolist() == [[0, 0, 1], [7, 254, 255]] and to_8_bit(DEEP).dtype == np.uint8
    assert to_8_bit(levels) is levels
