"""The image that a written path means."""

import pytest

from anomaly_seg.data.tree import Names
from anomaly_seg.errors import InputError

CAMERAS = ("cam1/1.png", "cam2/1.png", "cam2/deep/2.png", "3.png")


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
