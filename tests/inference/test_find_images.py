"""What counts as an image in a folder, and when a file is another image than before."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from support.field_sets import encoded
from support.helpers import picture

from anomaly_seg.errors import InputError
from anomaly_seg.inference.find_images import PassedOver, find_images, is_image
from anomaly_seg.inference.image_input import read_image
from anomaly_seg.inference.predict import Judge, judge_all
from anomaly_seg.inference.predictions_file import Record, Row
from anomaly_seg.inference.watch import state_of

GREY = picture("part", 40, 40)
COLOUR = np.dstack([GREY] * 3)
DECODED = {
    "a.png": encoded(GREY),
    "b.JPG": encoded(GREY, ".jpg"),
    "c.jfif": encoded(GREY, ".jpg"),
    "d.webp": encoded(GREY, ".webp"),
    "e.gif": encoded(COLOUR, ".gif"),
    "f.jp2": encoded(GREY, ".jp2"),
    "g.pgm": b"P5\n40 40\n255\n" + GREY.tobytes(),
    "h.ppm": b"P6 40 40 255\n" + COLOUR.tobytes(),
    "i.avif": encoded(GREY, ".avif"),
    "j.dib": encoded(GREY, ".bmp"),
    "k": encoded(GREY),
    "l.dat": encoded(GREY, ".tif"),
}
"""Files that are judged, some by their content alone."""
UNREAD = {
    "a.heic": b"\0\0\0\x18ftypheic",
    "b.svg": b"<svg/>",
    "c.cr2": b"II*\0",
    "d.dcm": bytes(128) + b"DICM",
    "e.psd": b"8BPS",
    "f.raw": b"\1\2\3",
    "g": b"\0\0\0\x18ftypheic",
    "h.xml": b"<?xml version='1.0'?>\n<svg/>",
    "i.png": b"",
    "j.exr": b"v/1\x01",
    "k.npy": b"\x93NUMPY",
}
"""Files that are images, but cannot be judged."""
OTHERS = {"a.txt": b"x", "b.csv": b"BM,1", "c.json": b"{}", "d.png.part": encoded(GREY), "e": b"", "f.zip": b"PK\3\4"}
"""Files that are no images."""


def put(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("name", DECODED)
def test_a_file_that_decodes_is_judged(tmp_path: Path, name: str) -> None:
    folder = put(tmp_path / "d", {name: DECODED[name]})
    assert find_images([str(folder)], tmp_path / "none") == [str(folder / name)]
    assert read_image(folder / name).shape[:2] == (40, 40)


@pytest.mark.parametrize("name", UNREAD)
def test_an_image_of_another_kind_is_unreadable_not_passed_over(tmp_path: Path, name: str) -> None:
    folder = put(tmp_path / "d", {name: UNREAD[name]})
    assert find_images([str(folder)], tmp_path / "none") == [str(folder / name)]
    with pytest.raises(InputError, match="does not decode"):
        read_image(folder / name)


def test_files_that_are_no_images_are_told(tmp_path: Path) -> None:
    folder, passed_over = put(tmp_path / "d", OTHERS | {"z.png": encoded(GREY)}), PassedOver()
    assert find_images([str(folder)], tmp_path / "none", passed_over) == [str(folder / "z.png")]
    assert passed_over.others == [str(folder / name) for name in sorted(OTHERS)]


def test_links_to_nowhere_are_images_that_cannot_be_read(tmp_path: Path) -> None:
    folder = put(tmp_path / "d", {})
    for name in ("part.png", "batch7"):
        (folder / name).symlink_to("gone")
        assert is_image(str(folder / name)) and state_of(str(folder / name)) is not None
    assert len(find_images([str(folder)], tmp_path / "none")) == 2


def write_anew(path: Path) -> None:
    path.write_bytes(encoded(255 - GREY, ".bmp"))


def replace(path: Path) -> None:
    path.with_name("next").write_bytes(encoded(255 - GREY, ".bmp"))
    os.replace(path.with_name("next"), path)


@pytest.mark.parametrize("change", [write_anew, replace])
def test_another_image_of_the_same_size_and_time(tmp_path: Path, change) -> None:
    path = tmp_path / "camera.bmp"
    path.write_bytes(encoded(GREY, ".bmp"))
    os.utime(path, ns=(10**18, 10**18))
    before = state_of(str(path))
    change(path)
    os.utime(path, ns=(10**18, 10**18))
    after = state_of(str(path))
    assert before is not None and after is not None and before[:2] == after[:2] and before != after


def test_two_files_that_swap_their_names_are_judged_again(tmp_path: Path) -> None:
    class Seen(Judge):
        """Judges nothing; lists what it is asked about."""

        def __init__(self, record: Record) -> None:
            super().__init__(None, 0.5, record, None)  # type: ignore[arg-type]
            self.asked: list[str] = []

        def look(self, path: str) -> Row:
            self.asked.append(Path(path).name)
            state = state_of(path)
            assert state is not None
            return Row(path, 0.0, 0.5, "good", (), None, None, *state)

    def asked(paths: Sequence[Path]) -> list[str]:
        with Record(tmp_path / "out", {"model": "none"}) as record:
            judge = Seen(record)
            judge_all([str(path) for path in paths], judge, threading.Event())
            return judge.asked

    paths = [tmp_path / name for name in ("a.bmp", "b.bmp")]
    for path, pixels in zip(paths, (GREY, 255 - GREY), strict=True):
        path.write_bytes(encoded(pixels, ".bmp"))
        os.utime(path, ns=(10**18, 10**18))
    assert asked(paths) == ["a.bmp", "b.bmp"]
    assert asked(paths) == []
    paths[0].rename(tmp_path / "c")
    paths[1].rename(paths[0])
    (tmp_path / "c").rename(paths[1])
    assert asked(paths) == ["a.bmp", "b.bmp"]
