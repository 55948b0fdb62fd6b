"""Draw the pictures of the documentation, from generated data only, into pictures/ beside this file.

    python docs/pictures.py [RUNS]

Trains one small One-Stage network on generated surfaces (a minute or two on an idle core) into the folder RUNS
(default: runs), seals it, and draws what it says about two of its test images. A second call uses the finished run.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from anomaly_seg import cli, load
from anomaly_seg.data.dilation import dilate
from anomaly_seg.data.readers import synthetic
from anomaly_seg.data.records import Record, load_mask
from anomaly_seg.inference.overlay import overlay
from anomaly_seg.inference.prediction import Detector

OUT = Path(__file__).parent / "pictures"
HEIGHT, WIDTH, DILATION = 704, 256, 9
DEFECTIVE, GOOD = "part03/view3", "part23/view1"  # test images of fold 0; of its good ones GOOD has the highest score
ROWS = slice(336, 560)  # of the image, around the crack
DILATIONS = (0, 5, 9, 13, 17)
FAINTEST = 1e-9  # on the logarithmic colour scale


def main(runs: str) -> None:
    model = sealed_model(runs)
    dataset = synthetic.read(groups=30, views=4, defective_fraction=0.25, height=HEIGHT, width=WIDTH, seed=0)
    records = {record.name: record for record in dataset.records}
    OUT.mkdir(exist_ok=True)
    plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 9})
    draw_detection(model, [records[DEFECTIVE], records[GOOD]])
    draw_method(model, records[DEFECTIVE])
    draw_suppression(model, [records[DEFECTIVE], records[GOOD]])
    draw_dilation(records[DEFECTIVE])


def sealed_model(runs: str) -> Detector:
    """One-Stage at the laptop scale's size and an eighth of the published channels, trained and sealed."""
    settings = [f"output_dir={runs}", "experiment_name=pictures", f"dilation={DILATION}", "fold=0", "threads=1"]
    size = [f"scale.height={HEIGHT}", f"scale.width={WIDTH}", "scale.width_multiplier=0.125"]
    train = ["train", "data=synthetic", "scale=demo", "augment=none", *size, *settings]
    path = Path(runs) / "pictures" / "model.onnx"
    for words in (train, ["export", str(Path(runs) / "pictures/synthetic/one_stage/D9"), "--out", str(path)]):
        if status := cli.main(words):
            sys.exit(status)
    return load(path)


def draw_detection(model: Detector, records: Sequence[Record]) -> None:
    """Each image as it is, and beside it verdict, heat map and boxes, as `anomaly-seg predict` draws them."""
    panels = []
    for record in records:
        image = record.image.pixels()
        marked = overlay(image, model(image))
        scale = marked.shape[1] // WIDTH
        bar = len(marked) - scale * HEIGHT
        rows = slice(bar + scale * ROWS.start, bar + scale * ROWS.stop)
        plain = cv2.resize(image[ROWS], None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
        plain = cv2.cvtColor(plain, cv2.COLOR_GRAY2BGR)
        plain = np.vstack([np.full((bar, *plain.shape[1:]), 255, np.uint8), plain])
        panels += [plain, np.vstack([marked[:bar], marked[rows]])]
        panels.append(np.full((len(plain), 24, 3), 255, np.uint8))
    strip = np.hstack(panels[:-1])
    cv2.imwrite(str(OUT / "detection.jpg"), cv2.resize(strip, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA))


def draw_method(model: Detector, record: Record) -> None:
    """Input, mask, label and the maps f1, f2, f3, C and F of a defective image."""
    image = record.image.pixels()
    mask, _ = load_mask(record, image.shape[:2])
    maps, label = model(image).maps, dilate(mask, DILATION)
    figure, axes = plt.subplots(1, 8, figsize=(11, 1.75), layout="constrained")
    drawn = {"input": image, "mask": mask, f"label, D = {DILATION}": label}
    for axis, (title, values) in zip(axes[:3], drawn.items(), strict=True):
        show(axis, values, title, cmap="gray", vmin=0, vmax=255 if title == "input" else 1)
    for axis, name in zip(axes[3:], ("f3", "f2", "f1", "C", "F"), strict=True):
        show(axis, maps[name], f"{title_of(name)}, sum {maps[name].sum():,.0f}", cmap="inferno", vmin=0, vmax=1)
    figure.savefig(OUT / "method.png", dpi=120)


def draw_suppression(model: Detector, records: Sequence[Record]) -> None:
    """f1, C and F of both images on a logarithmic colour scale, which shows the background."""
    figure, axes = plt.subplots(2, 4, figsize=(8, 4), layout="constrained")
    norm = LogNorm(FAINTEST, 1)
    for row, record, kind in zip(axes, records, ("defective", "good"), strict=True):
        image = record.image.pixels()
        show(row[0], image, kind, cmap="gray", vmin=0, vmax=255)
        for axis, name in zip(row[1:], ("f1", "C", "F"), strict=True):
            values = model(image).maps[name]
            drawn = show(
                axis,
                np.maximum(values, FAINTEST),
                f"{title_of(name)}, sum {values.sum():,.0f}",
                cmap="inferno",
                norm=norm,
            )
    figure.colorbar(drawn, ax=axes, label="probability of a defect", shrink=0.8)
    figure.savefig(OUT / "suppression.png", dpi=110)


def draw_dilation(record: Record) -> None:
    """The label for each D, by both structuring elements, over the image."""
    image = record.image.pixels()
    mask, _ = load_mask(record, image.shape[:2])
    figure, axes = plt.subplots(2, len(DILATIONS), figsize=(9, 4.1), layout="constrained")
    crop = (slice(408, 504), slice(64, 160))
    for row, element in zip(axes, ("diamond", "square"), strict=True):
        for axis, dilation in zip(row, DILATIONS, strict=True):
            label = dilate(mask, dilation, element)
            axis.imshow(image[crop], cmap="gray", vmin=0, vmax=255)
            axis.imshow(np.ma.masked_equal(label[crop], 0), cmap="Wistia", vmin=0, vmax=1, alpha=0.5)
            axis.set_title(f"{element}, D = {dilation}: {label.sum():,} px", fontsize=8)
            axis.axis("off")
    figure.savefig(OUT / "dilation.png", dpi=110)


def show(axis: Axes, values: np.ndarray, title: str, **how: object) -> matplotlib.image.AxesImage:
    axis.set_title(title)
    axis.axis("off")
    return axis.imshow(values[ROWS], **how)


def title_of(name: str) -> str:
    return f"σ(f{name[1]})" if name.startswith("f") else name


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs")
