"""A new user's way: own images and LabelMe files, then check, train, export, predict as the README has them."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.helpers import write_image

from anomaly_seg import load
from anomaly_seg.cli import main

HEIGHT, WIDTH = 64, 48
SMALL = ["scale.height=64", "scale.width=48", "scale.width_multiplier=0.0625", "epochs=5", "threads=1", "dilation=5",
         "pictures=false", "trainer.enable_progress_bar=false"]  # fmt: skip


def surface(number: int, defect: tuple[int, int] | None) -> np.ndarray:
    """Light grain of its own, with a dark blot of 10 x 10 pixels at (x, y) if defective."""
    image = np.random.default_rng(number).normal(170, 12, (HEIGHT, WIDTH))
    if defect is not None:
        x, y = defect
        image[y : y + 10, x : x + 10] -= 110
    return np.clip(image, 0, 255).astype(np.uint8)


def write_parts(folder: Path) -> None:
    """12 parts, two views each; of every second part the second view is defective and has its LabelMe file."""
    rng = np.random.default_rng(0)
    for part in range(12):
        for view in range(2):
            defect = (int(rng.integers(2, 36)), int(rng.integers(2, 52))) if view and part % 2 else None
            name = folder / f"part{part:02d}_{view}.png"
            write_image(name, surface(10 * part + view, defect))
            if defect is not None:
                x, y = defect
                corners = [[x, y], [x + 10, y], [x + 10, y + 10], [x, y + 10]]
                shape = {"label": "blot", "points": corners, "shape_type": "polygon"}
                about = {"imagePath": name.name, "imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": [shape]}
                name.with_suffix(".json").write_text(json.dumps(about))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A folder with parts/, in which the first three commands have run."""
    home = tmp_path_factory.mktemp("user")
    write_parts(home / "parts")
    data = ["data=folder", f"data.root={home}/parts", "data.name=parts", r"data.groups='(part\d+)_'"]
    assert main(["check", *data, *SMALL]) == 0
    assert main(["train", *data, *SMALL, "data.folds=2", "fold=0,1", "-m", f"output_dir={home}/runs"]) == 0
    folds = home / "runs/train/parts/one_stage-efficientnet_lite0/D5"
    assert main(["export", str(folds), "--out", str(home / "model.onnx"), "--licence", "ours"]) == 0
    return home


def digest_of_the_first_weights(home: Path) -> str:
    result = home / "runs/train/parts/one_stage-efficientnet_lite0/D5/fold1/seed0/result.json"
    return json.loads(result.read_text())["start"]["sha256"]


def test_the_verdict_on_new_images(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    write_image(home / "new/blot.png", surface(501, (20, 30)))
    write_image(home / "new/clean.png", surface(502, None))
    assert main(["predict", "model.onnx", "new", "--out", "verdicts", "--overlays"]) == 3
    rows = {Path(row["path"]).name: row for row in csv.DictReader((home / "verdicts/predictions.csv").open())}
    assert rows["blot.png"]["verdict"] == "defective" and rows["clean.png"]["verdict"] == "good"
    found = [json.loads(line) for line in (home / "verdicts/predictions.jsonl").read_text().splitlines()]
    (blot,) = (line for line in found if line["path"].endswith("blot.png"))
    region = blot["regions"][0]
    left, right, top, bottom = region["x"], region["x"] + region["width"], region["y"], region["y"] + region["height"]
    assert left < 30 and right > 20 and top < 40 and bottom > 30  # the box meets the blot at (20, 30) to (30, 40)
    assert len(list((home / "verdicts").glob("overlays/*.jpg"))) == 2


def test_the_same_verdicts_from_python(home: Path) -> None:
    model = load(home / "model.onnx")
    blot, clean = model(surface(501, (20, 30))), model(surface(502, None))
    assert (blot.verdict, clean.verdict) == ("defective", "good")
    assert digest_of_the_first_weights(home) == "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    assert blot.score > blot.threshold > clean.score
    assert blot.heat_map.shape == (HEIGHT, WIDTH)
    y, x = np.unravel_index(int(cv2.GaussianBlur(blot.heat_map, (0, 0), 2).argmax()), blot.heat_map.shape)
    assert 20 <= x < 30 and 30 <= y < 40
    card = model.card
    assert card.members == 2 and card.data.name == "parts" and card.data.licence == "ours"
    assert card.data.folds == [0, 1] and card.metrics is not None and card.metrics.images == 24
