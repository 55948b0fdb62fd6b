"""An image with its heat map, its defects boxed, and the verdict above it."""

import cv2
import numpy as np

from anomaly_seg.inference.prediction import Prediction

SMALLEST = 320  # px; a narrower image is enlarged, so that the verdict fits above it
TALLEST = 65_000  # px a side; JPEG takes few more, and a thin strip must not grow to gigabytes
STRIP = 256  # rows blended at a time: the sums are in float32, which takes four times an image and more
LABELLED = 20  # the largest defects get their area written beside them
HOTTEST = 220  # of 255 on the colour map: bright red, before it darkens
BOX = (0, 230, 255)  # BGR, yellow
BARS = {"good": (60, 130, 40), "defective": (40, 40, 200)}


def overlay(image: np.ndarray, prediction: Prediction) -> np.ndarray:
    """`marked`, with a bar on top that says verdict and score; shrunk where a side is longer than a JPEG's may be."""
    canvas = marked(image, prediction)
    canvas = np.vstack([_bar(canvas.shape[1], prediction), canvas])
    height, width = canvas.shape[:2]
    if max(height, width) <= TALLEST:
        return canvas
    shrink = TALLEST / max(height, width)
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    return cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)


def marked(image: np.ndarray, prediction: Prediction) -> np.ndarray:
    """The picture, (h', w', 3) uint8 BGR: heat map and boxes on the image, enlarged if it is narrow.

    Args:
        image: (h, w), (h, w, 1) or (h, w, 3, RGB) uint8.
        prediction: of the same image.
    """
    canvas = _blend(_colour(image), prediction.heat_map)
    scale = max(1, min(-(-SMALLEST // canvas.shape[1]), TALLEST // canvas.shape[0]))
    if scale > 1:
        canvas = cv2.resize(canvas, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    _boxes(canvas, prediction, scale)
    return canvas


def _colour(image: np.ndarray) -> np.ndarray:
    grey = image.ndim == 2 or image.shape[2] == 1
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR if grey else cv2.COLOR_RGB2BGR)


def _blend(image: np.ndarray, heat_map: np.ndarray) -> np.ndarray:
    """Where the heat map is 0 the image stays as it is, where it is 1 the colour covers 60 % of it."""
    blended = np.empty_like(image)
    for top in range(0, len(image), STRIP):
        rows = slice(top, top + STRIP)
        heat = np.clip(heat_map[rows], 0, 1)
        colours = cv2.applyColorMap(np.rint(HOTTEST * heat).astype(np.uint8), cv2.COLORMAP_TURBO)
        alpha = 0.6 * heat[:, :, None]
        blended[rows] = np.rint(image[rows] * (1 - alpha) + colours * alpha)
    return blended


def _boxes(canvas: np.ndarray, prediction: Prediction, scale: int) -> None:
    height, width = canvas.shape[:2]
    line = max(1, round(min(height, width) / 400))
    gap = 3 * line  # the line stays off the defect
    for number, region in enumerate(prediction.regions):
        left, top = region.x * scale - gap, region.y * scale - gap
        right, bottom = (region.x + region.width) * scale + gap, (region.y + region.height) * scale + gap
        left, top, right, bottom = max(left, 0), max(top, 0), min(right, width - 1), min(bottom, height - 1)
        cv2.rectangle(canvas, (left, top), (right, bottom), BOX, line)
        if number < LABELLED:
            _label(canvas, f"{region.area} px", left, top, bottom, line)


def _label(canvas: np.ndarray, text: str, left: int, top: int, bottom: int, line: int) -> None:
    """Above the box, or below it where there is no room."""
    size = 0.45 * line
    (wide, tall), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, line)
    left = max(0, min(left, canvas.shape[1] - wide))
    base = top - 2 * line if top - 2 * line >= tall else min(bottom + tall + 3 * line, canvas.shape[0] - 1)
    cv2.rectangle(canvas, (left, base - tall - line), (left + wide, base + line), (0, 0, 0), -1)
    cv2.putText(canvas, text, (left, base), cv2.FONT_HERSHEY_SIMPLEX, size, BOX, line, cv2.LINE_AA)


def _bar(width: int, prediction: Prediction) -> np.ndarray:
    text = f"{prediction.verdict.upper()}  score {prediction.score:.4g}  threshold {prediction.threshold:.4g}"
    (wide, tall), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1, 2)
    height = min(max(24, width // 16), 60)  # the same for all images of a width
    size = min(0.96 * width / wide, 0.5 * height / tall)
    bar = np.full((height, width, 3), BARS[prediction.verdict], np.uint8)
    place, line = (round(0.02 * width), round((height + size * tall) / 2)), max(1, round(2 * size))
    cv2.putText(bar, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), line, cv2.LINE_AA)
    return bar
