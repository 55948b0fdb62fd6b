"""Small labelled folders in every way of labelling, and what `check` says about them without a process of its own."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from support.helpers import picture, write_image

from anomaly_seg.data.check import check
from anomaly_seg.data.preparation import Preparation
from anomaly_seg.data.readers import folder
from anomaly_seg.data.records import Dataset, load_mask
from anomaly_seg.errors import InputError

SIDE = 32
BOX4 = [[10, 10], [26, 10], [26, 18], [10, 18]]
DEFECT = 16 * 8
"""Pixels of every defect."""
IMAGES, DEFECTIVE = 8, 4
STEMS = tuple(f"part{i:02d}" for i in range(IMAGES))
Reader = Callable[..., Dataset]


def bar() -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[10:18, 10:26] = 255
    return mask


def encoded(pixels: np.ndarray, kind: str = ".png", *options: int) -> bytes:
    whole, data = cv2.imencode(kind, pixels, list(options))
    assert whole
    return data.tobytes()


def shape(kind: str = "polygon", points: Any = None, label: Any = "crack", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": BOX4 if points is None else points, "shape_type": kind, "flags": {}} | more


def labelme(shapes: list, image: str, **more: Any) -> dict[str, Any]:
    about = {"version": "5.4.1", "flags": {}, "imagePath": image, "imageData": None}
    return about | {"shapes": shapes, "imageHeight": SIDE, "imageWidth": SIDE} | more


def coco_of(stems: Sequence[str], first: dict[str, Any]) -> dict[str, Any]:
    """A COCO file with a defect on the first images; `first` replaces entries of the first annotation."""
    images = [{"id": i, "file_name": f"{stem}.png", "height": SIDE, "width": SIDE} for i, stem in enumerate(stems)]
    flat = [value for point in BOX4 for value in point]
    notes = [{"id": i + 1, "image_id": i, "category_id": 1, "segmentation": [flat]} for i in range(DEFECTIVE)]
    notes[0] |= first
    return {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "crack"}]}


def cvat_of(stems: Sequence[str], first: str) -> str:
    """A CVAT file with a box on the first images; `first` replaces the first one's."""
    box = '<box label="crack" xtl="10" ytl="10" xbr="26" ybr="18"/>'
    inside = [first, *[box] * (DEFECTIVE - 1), *[""] * (len(stems) - DEFECTIVE)]
    rows = [
        f'<image name="{s}.png" width="{SIDE}" height="{SIDE}">{i}</image>' for s, i in zip(stems, inside, strict=True)
    ]
    return f"<annotations><version>1.1</version>{''.join(rows)}</annotations>"


PLACES = {
    "beside": ("{0}.png", "{0}_mask.png"),
    "parallel": ("images/{0}.png", "masks/{0}.png"),
    "mvtec": ("test/crack/{0}.png", "ground_truth/crack/{0}_mask.png"),
    "jpeg": ("{0}.jpg", "{0}.png"),
}
"""Image and mask in each layout with masks."""


@dataclass(frozen=True)
class FieldSet:
    """A folder of IMAGES images, the first DEFECTIVE of them labelled in one way."""

    root: Path
    how: str
    stems: Sequence[str] = STEMS

    def image(self, number: int) -> Path:
        place = PLACES.get(self.how, ("{0}.png",))[0]
        if self.how == "mvtec" and number >= DEFECTIVE:
            place = "train/good/{0}.png"
        return self.root / place.format(self.stems[number])

    def label(self, number: int) -> Path:
        """The mask, or the annotation file."""
        if self.how == "labelme":
            return self.root / f"{self.stems[number]}.json"
        return self.root / PLACES[self.how][1].format(self.stems[number])

    def write(self, order: Sequence[int] = range(IMAGES)) -> "FieldSet":
        for i in order:
            write_image(self.image(i), picture(self.stems[i], SIDE, SIDE))
            if i < DEFECTIVE and self.how in PLACES:
                write_image(self.label(i), bar())
            elif i < DEFECTIVE and self.how == "labelme":
                self.label(i).write_text(json.dumps(labelme([shape()], f"{self.stems[i]}.png")))
        return self


@dataclass(frozen=True)
class Heard:
    """What `check` says.

    text: all of it. refused: nothing was counted, for files cannot be used. problems: how many. pixels: of every
    image's defect, by its name.
    """

    text: str
    refused: bool
    problems: int
    pixels: dict[str, int]

    @property
    def defective(self) -> int:
        return sum(count > 0 for count in self.pixels.values())

    def names(self, *words: str) -> bool:
        return all(word in self.text for word in words)

    def complains(self, *words: str) -> bool:
        return (self.refused or self.problems > 0) and self.names(*words)


def listen(root: Path, cache: Path, reader: Reader = folder.read, split: str = "grouped", **settings: Any) -> Heard:
    """`check` on a folder, with a reader's settings."""
    try:
        dataset = reader(root, **settings)
        preparation = Preparation(SIDE, SIDE, convert="grey8")
        found = check(dataset, preparation, cache, folds=2, split=split)  # type: ignore[arg-type]
    except InputError as error:
        return Heard(" ".join(str(error).split()), True, 1, {})
    text = " ".join(found.text.split())
    return Heard(text, " defective (" not in text, found.problems, _pixels(dataset))


def _pixels(dataset: Dataset) -> dict[str, int]:
    """Where a mask cannot be used, the report has said so: -1."""
    found = {}
    for record in dataset.records:
        try:
            found[record.name] = int(load_mask(record, record.image.pixels().shape[:2])[0].sum())
        except InputError:
            found[record.name] = -1
    return found
