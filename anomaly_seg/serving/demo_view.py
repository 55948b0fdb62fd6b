"""A prediction as pieces of HTML: banner, overlay, maps, and what the model's card says. Numpy in, text out."""

import base64
from collections.abc import Sequence
from dataclasses import replace
from html import escape

import cv2
import numpy as np

from anomaly_seg.inference.image_size import size_note
from anomaly_seg.inference.model_card import Estimate, ModelCard
from anomaly_seg.inference.overlay import marked
from anomaly_seg.inference.prediction import Detector, Prediction

PICTURE_SIDE, MAP_SIDE = 900, 480
"""Longest sides, in pixels, of the pictures sent to the page."""
MAX_REGIONS = 5
MEANINGS = {
    "f1": "f1 to f3: side maps, fine to coarse",
    "C": "C: coarse background suppression",
    "fine": "fine: fine suppression without C",
    "F": "F: both",
}


def number(value: float) -> str:
    """Four significant digits, and all digits of a larger number, whose exponent would hide what differs.

    >>> number(0.123456), number(123456.7), number(5.8e-13)
    ('0.1235', '123457', '0')
    """
    if abs(value) < 5e-4:
        return "0"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def message(sentence: str) -> str:
    """An error or a warning for the user, or nothing."""
    return f"<div class='problem' role='alert'>{escape(sentence)}</div>" if sentence else ""


def pictures(image: np.ndarray, name: str, prediction: Prediction, card: ModelCard) -> str:
    """The image, the same with heat map and boxes, and the network's maps under their names.

    Args:
        image: (h, w) or (h, w, 3) RGB uint8, as it was judged.
        name: of the image.
    """
    small, scale = shrunk(image, PICTURE_SIDE)
    boxed = marked(small, _scaled(prediction, small.shape[1], small.shape[0], scale))
    plain = cv2.cvtColor(small, cv2.COLOR_RGB2BGR if small.ndim == 3 else cv2.COLOR_GRAY2BGR)
    pair = _figure(name, plain) + _figure("heat map", boxed, "defects boxed")
    names = [key for key in card.maps if key in prediction.maps]
    figures = "".join(_figure(key, _coloured(prediction.maps[key])) for key in names)
    maps = f"<div class='maps' style='--count: {len(names)}'>{figures}</div>" if names else ""
    meaning = "; ".join(text for key, text in MEANINGS.items() if key in names)
    legend = f"<p class='legend'>0 <i></i> 1: how surely a pixel is defect. {meaning}</p>" if maps else ""
    note = size_note(image.shape[0], image.shape[1], card.input)
    warning = message(f"The verdict may mislead: the image has {note}.") if note else ""
    return f"{warning}<div class='pair'>{pair}</div>{_regions(prediction)}{maps}{legend}"


def card_text(card: ModelCard) -> str:
    """What the card says, for people."""
    threshold, data, metrics, about = card.threshold, card.data, card.metrics, card.input
    kind = "grey" if about.channels == 1 else "colour"
    rows = [
        ("network", f"{card.network}, {card.parameters:,} parameters, {card.format} {card.precision}"),
        ("threshold", f"{number(threshold.value)}: {threshold.how}"),
        ("data", f"{data.name}, {data.train_images} images, {data.train_defective} defective; licence: {data.licence}"),
        ("takes", f"{kind} images of any size ({about.fit}, {about.height} x {about.width})"),
    ]
    if metrics:
        rows.append(("recall", f"{_estimate(metrics.recall)} on {metrics.images} images not trained on"))
        rows.append(("false alarms", _estimate(metrics.false_alarm_rate)))
    if card.quantisation:
        rows.append(("INT8", card.quantisation.sentence))
    lines = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in rows)
    return f"<dl class='about'>{lines}</dl>"


def _estimate(share: Estimate) -> str:
    return f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}]"


def _regions(prediction: Prediction) -> str:
    if not prediction.regions:
        return "<p class='regions'>No region stands out.</p>"
    shown = [
        f"<li>{r.area} px at ({r.x}, {r.y}), {r.width} x {r.height}, peak {r.peak:.2f}</li>"
        for r in prediction.regions[:MAX_REGIONS]
    ]
    count = len(prediction.regions)
    more = f"<li>and {count - MAX_REGIONS} smaller</li>" if count > MAX_REGIONS else ""
    return f"<p class='regions'>{count} {'region' if count == 1 else 'regions'}</p><ul>{''.join(shown)}{more}</ul>"


def _figure(name: str, image: np.ndarray, caption: str = "") -> str:
    """image: (h, w, 3) BGR."""
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
    source = "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")
    words = f"<b>{escape(name)}</b> {escape(caption)}"
    return f"<figure><img alt='{escape(name)}' src='{source}'><figcaption>{words}</figcaption></figure>"


def shrunk(image: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    """The image with its longest side at most `side`, and the factor."""
    scale = min(1.0, side / max(image.shape[:2]))
    size = max(1, round(scale * image.shape[1])), max(1, round(scale * image.shape[0]))
    return (image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)), scale


def _scaled(prediction: Prediction, width: int, height: int, scale: float) -> Prediction:
    """Scale heat map and regions to the shrunk image: drawing on the whole one could need gigabytes."""
    heat_map = cv2.resize(prediction.heat_map, (width, height), interpolation=cv2.INTER_AREA)
    sides = ("x", "y", "width", "height")
    regions = (replace(r, **{side: round(scale * getattr(r, side)) for side in sides}) for r in prediction.regions)
    return replace(prediction, heat_map=heat_map, regions=tuple(regions))


def _coloured(heat_map: np.ndarray) -> np.ndarray:
    levels = np.rint(255 * np.clip(shrunk(heat_map, MAP_SIDE)[0], 0, 1)).astype(np.uint8)
    return cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)


def title(label: str, file: str) -> str:
    return f"<h2>{escape(label)}</h2><p class='file'>{escape(file)}</p>"


def labels(detectors: Sequence[Detector]) -> list[str]:
    """Names of the models; of equal names each is followed by its file, with the folders needed to tell them apart."""
    names = [detector.card.name for detector in detectors]
    if len(set(names)) == len(names):
        return names
    parts = [detector.path.absolute().parts for detector in detectors]
    for length in range(1, max(map(len, parts)) + 1):
        files = ["/".join(part[-length:]) for part in parts]
        if len(set(files)) == len(files):
            break
    return [f"{name} ({file})" for name, file in zip(names, files, strict=True)]
