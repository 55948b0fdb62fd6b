"""Draw One-Stage's data flow for the README, as network.svg and network.png beside this file.

    python experiments/figures/network.py [FOLDER]

Coordinates are those of the picture at 900 pixels width, y downwards. The small maps are schematic, but C and F are
computed from f1, f2 and f3 by the paper's Equations 1 and 4.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

WIDTH, HEIGHT = 900, 496
SIZES = ((1408, 512), (704, 256), (352, 128), (176, 64))  # of the four levels, height x width
ENCODER = (("2 × conv 5×5", 32), ("3 × conv 5×5", 64), ("4 × conv 5×5", 64), ("conv 15×15", 1024))
DECODER = (("2 × conv 5×5", 32), ("2 × conv 5×5", 64), ("2 × conv 5×5", 64))

# Okabe and Ito's colours, which colour-blind readers tell apart, and light tints of them.
INK, GREY = "#1f2933", "#5b6770"
BLUE, BLUE_TINT = "#0072B2", "#dcecf6"
ORANGE, ORANGE_TINT = "#B87A00", "#fbeed2"
GREEN, GREEN_TINT = "#00805F", "#d9efe7"
RED = "#C24E00"

LEVELS = (92, 208, 324, 440)  # y of the four levels' centres
BOX = (112, 60)
ENCODER_X, DECODER_X, HEAD_X, MAP_X = 122, 300, 430, 522
SUM_X, SUM_Y = 598, 208
C_X, TIMES_X, F_X, VERDICT_X = 655, 712, 769, 852
LOSS_X, MASK_X = 696, 838
PANEL = (30, 82)


def main(folder: Path) -> None:
    plt.rcParams.update({"font.family": "DejaVu Sans", "svg.hashsalt": "network"})
    figure = plt.figure(figsize=(WIDTH / 100, HEIGHT / 100), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    axes.axis("off")
    maps = schematic_maps()
    trunk(axes, maps["image"])
    side_outputs(axes, maps)
    suppression(axes, maps)
    verdict(axes)
    loss(axes, maps["mask"])
    figure.savefig(folder / "network.svg", metadata={"Date": None})
    figure.savefig(folder / "network.png", dpi=200)


def trunk(axes: Axes, image: np.ndarray) -> None:
    """Input, encoder and decoder."""
    panel(axes, 32, LEVELS[0], image, "input", "gray")
    arrow(axes, (48, LEVELS[0]), (ENCODER_X - 57, LEVELS[0]))
    text(axes, ENCODER_X, 22, "encoder", BLUE, 10.5, weight="bold")
    text(axes, DECODER_X, 22, "decoder", ORANGE, 10.5, weight="bold")
    for level, ((layers, channels), y) in enumerate(zip(ENCODER, LEVELS, strict=True)):
        box(axes, ENCODER_X, y, BLUE, BLUE_TINT, layers, f"{channels} channels", size(level))
        if level:
            arrow(axes, (ENCODER_X, LEVELS[level - 1] + 31), (ENCODER_X, y - 31), BLUE)
            text(axes, ENCODER_X + 7, (LEVELS[level - 1] + y) / 2, "max-pool 2×2", GREY, 8, ha="left")
    for level, ((layers, channels), y) in enumerate(zip(DECODER, LEVELS[:3], strict=True)):
        box(axes, DECODER_X, y, ORANGE, ORANGE_TINT, layers, f"{channels} channels", size(level))
        arrow(axes, (ENCODER_X + 57, y), (DECODER_X - 57, y), BLUE)
        text(axes, (ENCODER_X + DECODER_X) / 2, y - 9, "concat", GREY, 8)
        if level < 2:
            arrow(axes, (DECODER_X, LEVELS[level + 1] - 31), (DECODER_X, y + 31), ORANGE)
            text(axes, DECODER_X + 7, (LEVELS[level + 1] + y) / 2, "transposed conv 2×2", GREY, 8, ha="left")
    elbow(axes, [(ENCODER_X + 57, LEVELS[3]), (DECODER_X, LEVELS[3]), (DECODER_X, LEVELS[2] + 31)], ORANGE)
    text(axes, DECODER_X + 7, (LEVELS[3] + LEVELS[2]) / 2, "transposed conv 2×2", GREY, 8, ha="left")


def side_outputs(axes: Axes, maps: dict[str, np.ndarray]) -> None:
    """A 1x1 convolution for each decoder level, brought to input size."""
    text(axes, (HEAD_X + MAP_X) / 2, 22, "side outputs", GREEN, 10.5, weight="bold")
    for k, y in enumerate(LEVELS[:3], start=1):
        second = "" if k == 1 else f"up-sample ×{2 ** (k - 1)}"
        arrow(axes, (DECODER_X + 57, y), (HEAD_X - 47, y), ORANGE)
        box(axes, HEAD_X, y, GREEN, GREEN_TINT, "conv 1×1", second, width=92, height=42)
        arrow(axes, (HEAD_X + 47, y), (MAP_X - 17, y), GREEN)
        panel(axes, MAP_X, y, sigmoid(maps[f"f{k}"]), f"$f_{k}$")
    text(axes, MAP_X, LEVELS[2] + 54, "1 channel", GREY, 8)
    text(axes, MAP_X, LEVELS[2] + 69, size(0), GREY, 8)


def suppression(axes: Axes, maps: dict[str, np.ndarray]) -> None:
    """C and F."""
    text(axes, (SUM_X + F_X) / 2, 22, "background suppression", INK, 10.5, weight="bold")
    for k, y in ((1, LEVELS[0]), (3, LEVELS[2])):
        elbow(axes, [(MAP_X + 17, y), (SUM_X, y), (SUM_X, SUM_Y + (13 if k == 3 else -13))], GREEN)
    arrow(axes, (MAP_X + 17, SUM_Y), (SUM_X - 13, SUM_Y), GREEN)
    node(axes, SUM_X, SUM_Y, "+")
    arrow(axes, (SUM_X + 13, SUM_Y), (C_X - 17, SUM_Y))
    panel(axes, C_X, SUM_Y, maps["C"], "$C$")
    arrow(axes, (C_X + 17, SUM_Y), (TIMES_X - 13, SUM_Y))
    elbow(axes, [(SUM_X, LEVELS[0]), (TIMES_X, LEVELS[0]), (TIMES_X, SUM_Y - 13)], GREEN)
    node(axes, TIMES_X, SUM_Y, "×")
    arrow(axes, (TIMES_X + 13, SUM_Y), (F_X - 17, SUM_Y))
    panel(axes, F_X, SUM_Y, maps["F"], "$F$")
    axes.add_patch(plt.Circle((SUM_X, LEVELS[0]), 3.2, color=GREEN, linewidth=0, zorder=3))
    text(axes, (SUM_X + TIMES_X) / 2, LEVELS[0] - 12, "sigmoid($f_1$)³", INK, 9)
    text(axes, SUM_X + 16, 296, "coarse:  $C$ = sigmoid($f_1 + f_2 + f_3$)", INK, 9, ha="left")
    text(axes, SUM_X + 16, 318, "fine:  $F$ = $C$ · sigmoid($f_1$)³", INK, 9, ha="left")


def verdict(axes: Axes) -> None:
    """The classifier without parameters."""
    text(axes, VERDICT_X, 22, "verdict", INK, 10.5, weight="bold")
    arrow(axes, (F_X + 17, LEVELS[1]), (VERDICT_X - 39, LEVELS[1]))
    box(axes, VERDICT_X, LEVELS[1], INK, "#eef1f4", "pixel sum", "> σ ?", width=76, height=46)
    for side, word in ((-1, "defective"), (1, "good")):
        y = LEVELS[1] + side * 66
        arrow(axes, (VERDICT_X, LEVELS[1] + side * 23), (VERDICT_X, y - side * 12))
        text(axes, VERDICT_X, y, word, INK, 9.5, weight="bold")
        text(axes, VERDICT_X + 6, LEVELS[1] + side * 39, "yes" if side < 0 else "no", GREY, 8, ha="left")


def loss(axes: Axes, mask: np.ndarray) -> None:
    """What training compares."""
    rail, y = MAP_X + 42, LEVELS[3]
    for level in LEVELS[:3]:
        line(axes, [(MAP_X + 16, level + 26), (rail, level + 26)], RED, dashed=True)
    line(axes, [(rail, LEVELS[0] + 26), (rail, y)], RED, dashed=True)
    arrow(axes, (rail, y), (LOSS_X - 86, y), RED, dashed=True)
    box(
        axes, LOSS_X, y, RED, "white", "loss, in training only", "sum of cross-entropies", "of sigmoid($f_k$) and mask",
        width=172, height=64, dashed=True,
    )  # fmt: skip
    arrow(axes, (MASK_X - 17, y), (LOSS_X + 86, y), RED, dashed=True)
    panel(axes, MASK_X, y, mask, "dilated mask", "gray")


def schematic_maps() -> dict[str, np.ndarray]:
    """An image with its dilated mask, logits f1, f2, f3 (finest to coarsest), and C and F by the paper's equations."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:164, 0:60]
    path = 84 + 7 * np.sin(x / 9) + 4 * np.sin(x / 3.7)
    distance = np.where((x > 8) & (x < 48), np.abs(y - path), 60.0)  # from the crack, in pixels
    specks = np.zeros(distance.shape)
    for cy, cx in rng.uniform((6, 4), (158, 56), (13, 2)):
        specks = np.maximum(specks, np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 5))
    grain = rng.normal(0, 1, distance.shape)
    logits = {
        "f1": 12 * np.exp(-((distance / 3) ** 2)) + 9 * specks + 0.8 * grain - 5,
        "f2": 11 * np.exp(-((distance / 8) ** 2)) + 3 * smooth(specks, 3) + 0.5 * smooth(grain, 2) - 6,
        "f3": 10 * np.exp(-((distance / 15) ** 2)) + 0.5 * smooth(grain, 4) - 6,
    }
    coarse = sigmoid(sum(logits.values()))
    fine = coarse * sigmoid(logits["f1"]) ** 3
    image = 0.72 + 0.05 * grain - 0.45 * np.exp(-((distance / 1.3) ** 2)) - 0.5 * specks
    return logits | {"C": coarse, "F": fine, "image": image, "mask": (distance < 4).astype(float)}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def smooth(x: np.ndarray, radius: int) -> np.ndarray:
    """Average over a window of 2 * radius + 1, along both axes, scaled back to the contrast of x."""
    window = np.ones(2 * radius + 1) / (2 * radius + 1)
    for axis in (0, 1):
        x = np.apply_along_axis(np.convolve, axis, x, window, mode="same")
    return x * (2 * radius + 1)


def panel(axes: Axes, x: float, y: float, values: np.ndarray, name: str, colours: str = "inferno") -> None:
    """A small map with its name above."""
    w, h = PANEL
    extent = (x - w / 2, x + w / 2, y + h / 2, y - h / 2)
    axes.imshow(
        values, cmap=colours, vmin=0, vmax=1, extent=extent, aspect="auto", interpolation="antialiased", zorder=3
    )
    axes.add_patch(plt.Rectangle((x - w / 2, y - h / 2), w, h, fill=False, edgecolor=INK, linewidth=0.8, zorder=4))
    text(axes, x, y - h / 2 - 9, name, INK, 9)


def box(
    axes: Axes, x: float, y: float, edge: str, fill: str, *lines: str, width: float = BOX[0], height: float = BOX[1],
    dashed: bool = False,
) -> None:  # fmt: skip
    """A box with lines of text; the first is the operation, the others are quieter."""
    style = {"boxstyle": "round,pad=0,rounding_size=5", "linestyle": (0, (4, 2.5)) if dashed else "solid"}
    corner = (x - width / 2, y - height / 2)
    axes.add_patch(
        FancyBboxPatch(corner, width, height, edgecolor=edge, facecolor=fill, linewidth=1.4, zorder=3, **style)
    )
    step = 17
    lines = tuple(one for one in lines if one)
    for i, one in enumerate(lines):
        weight, colour = ("bold", INK) if i == 0 else ("normal", INK)
        text(axes, x, y + (i - (len(lines) - 1) / 2) * step, one, colour, 9 if i == 0 else 8.5, weight=weight)


def node(axes: Axes, x: float, y: float, sign: str) -> None:
    """A pixel-wise operation."""
    axes.add_patch(plt.Circle((x, y), 12, edgecolor=INK, facecolor="white", linewidth=1.3, zorder=3))
    text(axes, x, y, sign, INK, 13)


def line(axes: Axes, points: list[tuple[float, float]], colour: str = INK, dashed: bool = False) -> None:
    """A line with corners."""
    axes.plot(
        *zip(*points, strict=True),
        color=colour,
        linewidth=1.4,
        linestyle=(0, (4, 2.5)) if dashed else "solid",
        zorder=2,
    )


def arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = INK, dashed: bool = False
) -> None:
    """A line whose head is always solid."""
    line(axes, [start, end], colour, dashed)
    dx, dy = np.subtract(end, start) / np.hypot(*np.subtract(end, start))
    tip = np.array(end, dtype=float)
    wing = np.array([-dy, dx]) * 3.6
    back = tip - 8 * np.array([dx, dy])
    axes.add_patch(plt.Polygon([tip, back + wing, back - wing], closed=True, color=colour, linewidth=0, zorder=4))


def elbow(axes: Axes, points: list[tuple[float, float]], colour: str = INK) -> None:
    """A line with corners that ends in an arrow."""
    line(axes, points[:-1], colour)
    arrow(axes, points[-2], points[-1], colour)


def text(
    axes: Axes,
    x: float,
    y: float,
    words: str,
    colour: str = INK,
    points: float = 9,
    ha: str = "center",
    weight: str = "normal",
) -> None:
    axes.text(x, y, words, color=colour, fontsize=points, ha=ha, va="center", weight=weight, zorder=5)


def size(level: int) -> str:
    return "{} × {}".format(*SIZES[level])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
