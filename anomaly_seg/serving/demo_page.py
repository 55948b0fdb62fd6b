"""The page of `anomaly-seg demo`, in Gradio: what stands where, and what happens when."""

import logging
import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from anomaly_seg.errors import InputError
from anomaly_seg.inference.prediction import Detector
from anomaly_seg.serving import demo_view as view
from anomaly_seg.serving.demo import Sample, read
from anomaly_seg.serving.upload import MEGABYTE, Limits

log = logging.getLogger(__name__)
CSS = (Path(__file__).parent / "demo.css").read_text(encoding="utf-8")
THUMBNAIL = 160
DIRECT: dict[str, Any] = {"queue": False, "api_visibility": "private"}
"""One request, one answer: through Gradio's queue an answer was lost now and then when clicks came quickly."""
FAILED = "The model failed on this image; the terminal says why."


def theme() -> gr.themes.Base:
    """System fonts: Gradio's own themes fetch theirs from the web."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    return gr.themes.Base(primary_hue="blue", font=fonts, font_mono=["ui-monospace", "monospace"])


def build(detectors: list[Detector], samples: list[Sample], limits: Limits) -> gr.Blocks:
    """The page.

    Args:
        detectors: one, or two that get the same images.
        samples: to choose from.
        limits: of an upload.
    """
    with gr.Blocks(title="anomaly-seg", analytics_enabled=False, delete_cache=(600, 600), fill_width=True) as page:
        gr.HTML("<h1>anomaly-seg</h1><p>Is this part good? Drop a picture of it, or choose a sample.</p>")
        with gr.Row(elem_id="desk"):
            with gr.Column(scale=1, min_width=260):
                upload, gallery = _choice(samples, limits)
                problem = gr.HTML(view.message(""), elem_id="problem")
            with gr.Column(scale=3, min_width=320), gr.Row():
                columns = [_Column(detector, i) for i, detector in enumerate(detectors)]
        turn = threading.Lock()  # one image at a time, whoever asks
        outputs = [upload, problem, *(part for column in columns for part in column.outputs)]

        def show(name: str, load: Callable[[], np.ndarray], thresholds: Sequence[float]) -> list[Any]:
            try:
                image = load()
                with turn:
                    shown = [c.judge(image, name, threshold) for c, threshold in zip(columns, thresholds, strict=True)]
                return [None, "", *(value for part in shown for value in part)]  # None: room for the next file
            except InputError as error:
                return blank(str(error))
            except Exception:
                log.exception("an image could not be judged")
                return blank(FAILED)

        def blank(sentence: str) -> list[Any]:
            return [None, view.message(sentence), *(value for column in columns for value in column.blank())]

        def dropped(path: str, *thresholds: float) -> list[Any]:
            return show(Path(path).name, lambda: read(Path(path), limits), thresholds)

        def chosen(event: gr.SelectData, *thresholds: float) -> list[Any]:
            sample = samples[event.index]
            return show(sample.name, lambda: sample.pixels(limits), thresholds)

        sliders = [column.slider for column in columns]
        upload.upload(dropped, [upload, *sliders], outputs, **DIRECT, trigger_mode="multiple", show_progress="minimal")
        gallery.select(chosen, sliders, outputs, **DIRECT, trigger_mode="multiple", show_progress="minimal")
        for column in columns:
            column.follow()
    return page


def _choice(samples: list[Sample], limits: Limits) -> tuple[gr.File, gr.Gallery]:
    """Where an image comes from. The file's content is checked when it is read, whatever its name says."""
    upload = gr.File(label="Image", file_types=None, height=150, elem_id="upload")
    gr.HTML(f"<p class='hint'>PNG, JPEG, BMP or TIFF, up to {limits.max_bytes / MEGABYTE:g} MB</p>")
    thumbnails = [(view.shrunk(sample.pixels(limits), THUMBNAIL)[0], sample.name) for sample in samples]
    shown: dict[str, Any] = {"columns": 4, "object_fit": "cover", "buttons": []}
    gallery = gr.Gallery(thumbnails, label="Samples", allow_preview=False, elem_id="samples", format="png", **shown)
    return upload, gallery


class _Column:
    """One model: verdict, threshold, pictures, card."""

    def __init__(self, detector: Detector, index: int) -> None:
        self.detector, self.threshold = detector, detector.card.threshold.value
        with gr.Column(min_width=300, elem_id=f"model-{index}", elem_classes="model"):
            gr.HTML(view.title(detector.card, detector.path.name))
            self.banner = gr.HTML(view.banner(None, self.threshold))
            spread = _spread(self.threshold)
            self.slider = gr.Slider(**spread, value=self.threshold, label="Threshold", buttons=["reset"])
            self.pictures = gr.HTML("")
            with gr.Accordion("About this model", open=False):
                gr.HTML(view.card_text(detector.card))
            self.score = gr.State(None)
        self.outputs = [self.banner, self.slider, self.pictures, self.score]

    def follow(self) -> None:
        """The verdict follows the threshold without the model: score and threshold are all it takes."""
        inputs = [self.score, self.slider]
        self.slider.change(
            view.banner, inputs, self.banner, **DIRECT, trigger_mode="always_last", show_progress="hidden"
        )

    def judge(self, image: np.ndarray, name: str, threshold: float) -> list[Any]:
        """Values of the outputs. threshold: where the slider stands, which stays."""
        found = self.detector(image)
        slider = gr.update(**_spread(found.score, threshold, self.threshold), value=threshold)
        shown = view.pictures(image, name, found, self.detector.card)
        return [view.banner(found.score, threshold), slider, shown, found.score]

    def blank(self) -> list[Any]:
        return [view.banner(None, self.threshold), gr.update(), "", None]


def _spread(*values: float) -> dict[str, Any]:
    """Ends and step of a slider that has room on either side of all the values; the ends are round numbers."""
    low, high = min(*values, 0), max(*values, 0)
    step = 10.0 ** (math.floor(math.log10(high - low or 1)) - 2)
    room = 0.25 * (high - low or 1)
    ends = (math.floor((low - room) / step) if low < 0 else 0, math.ceil((high + room) / step))
    return {"minimum": round(ends[0] * step, 9), "maximum": round(ends[1] * step, 9), "step": step}
