"""The files of a data set, and the image that a written path means."""

from pathlib import Path

import pytest

from anomaly_seg.data.files import Names, inventory
from anomaly_seg.errors import InputError

CAMERAS = ("cam1/1.png", "cam2/1.png", "cam2/deep/2.png", "3.png", "cam2/Pr\u00fcf.png")


@pytest.mark.parametrize(
    ("written", "image"),
    [
        ("cam1/1.png", "cam1/1.png"),
        ("/home/u/set/cam1/1.png", "cam1/1.png"),
        ("D:\\set\\cam2\\1.png", "cam2/1.png"),
        ("../cam2/1.png", "cam2/1.png"),
        ("./cam2/../cam1/1.png", "cam1/1.png"),
        ("2.png", "cam2/deep/2.png"),  # no folder is written
        ("deep/2.png", "cam2/deep/2.png"),
        ("cam2/Pru\u0308f.png", "cam2/Pr\u00fcf.png"),  # the same letter in two parts, as macOS writes it
        ("anywhere/3.png", "3.png"),  # the image has no folder
        ("cam1/2.png", None),  # only in another folder
        ("eep/2.png", None),  # no whole folder name
        ("xcam1/1.png", None),
        ("4.png", None),
        ("", None),
        ("..", None),
    ],
)
def test_the_image_meant(written: str, image: str | None) -> None:
    assert Names(CAMERAS).find(written, "t") == image


def test_several_images_could_be_meant() -> None:
    with pytest.raises(InputError, match=r"t: 1\.png could mean cam1/1\.png, cam2/1\.png; write the path below"):
        Names(CAMERAS).find("1.png", "t")


def test_the_path_that_agrees_furthest() -> None:
    names = Names(["1.png", "a/1.png", "b/a/1.png"])
    assert [names.find(path, "t") for path in ("1.png", "x/1.png", "x/a/1.png", "a/1.png", "x/b/a/1.png")] == [
        "1.png", "1.png", "a/1.png", "a/1.png", "b/a/1.png",
    ]  # fmt: skip


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    """root/shelf is a link out; on that shelf lies a link back to it, and in root/a one to root."""
    root, shelf = tmp_path / "root", tmp_path / "elsewhere"
    for file in (root / "a" / "1.png", shelf / "2.png", shelf / "deep" / "3.png", shelf / ".hidden" / "4.png"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    (root / "shelf").symlink_to(shelf)
    (root / "5.png").symlink_to(shelf / "2.png")
    (shelf / "deep" / "back").symlink_to(shelf)
    (root / "a" / "up").symlink_to(root)
    assert list(inventory(root, "").images) == ["5.png", "a/1.png", "shelf/2.png", "shelf/deep/3.png"]
    (tmp_path / "link").symlink_to(root)
    found = inventory(f"{tmp_path / 'link'}/", "")
    assert list(found.images) == ["5.png", "a/1.png", "shelf/2.png", "shelf/deep/3.png"]
