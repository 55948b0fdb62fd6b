"""The page of `anomaly-seg demo`, in Gradio: what stands where, and what happens when."""

import logging
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from anomaly_seg.errors import InputError
from anomaly_seg.inference.prediction import Detector
from anomaly_seg.serving import demo_view as view
from anomaly_seg.serving.samples import Sample, read
from anomaly_seg.serving.upload import MEGABYTE, Limits

log = logging.getLogger(__name__)
CSS, SCRIPT = ((Path(__file__).parent / name).read_text(encoding="utf-8") for name in ("demo.css", "demo.js"))
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
    named = list(zip(detectors, view.labels(detectors), strict=True))
    with gr.Blocks(title="anomaly-seg", analytics_enabled=False, delete_cache=(600, 600), fill_width=True) as page:
        gr.HTML("<h1>anomaly-seg</h1><p>Is this part good? Drop a picture of it, or choose a sample.</p>")
        with gr.Row(elem_id="desk"):
            with gr.Column(scale=1, min_width=260):
                upload, gallery = _image_sources(samples, limits)
                problem = gr.HTML("", elem_id="problem")
            with gr.Column(scale=3, min_width=320), gr.Row():
                columns = [_Column(detector, label, i) for i, (detector, label) in enumerate(named)]
        _connect(upload, gallery, problem, columns, samples, limits)
    return page


def _connect(
    upload: gr.File,
    gallery: gr.Gallery,
    problem: gr.HTML,
    columns: "list[_Column]",
    samples: list[Sample],
    limits: Limits,
) -> None:
    """Say what happens on an upload and on a click on a sample: the server answers, the browser shows the answer."""
    file, answer, number = gr.File(visible=False), gr.JSON(visible=False), gr.Number(visible=False)
    numbers = gr.State([])  # of the choices in one browser page that have reached the server
    judge = _Judge(columns)

    def judge_file(path: str, number: int, numbers: list[int]) -> Any:
        return judge(number, numbers, Path(path).name, lambda: read(Path(path), limits))

    def judge_sample(number: int, numbers: list[int], event: gr.SelectData) -> Any:
        sample = samples[event.index]
        return judge(number, numbers, sample.name, lambda: sample.pixels(limits))

    progress: dict[str, Any] = {"show_progress": "minimal", "show_progress_on": [column.verdict for column in columns]}
    request: dict[str, Any] = {**DIRECT, **progress, "trigger_mode": "multiple"}
    # First of the two that follow an upload: the file moves on, which leaves room for the next one.
    upload.upload(None, upload, [upload, file], js="(file) => [null, file]")
    number_file = "(file) => [file, demo.chooseFile(), null]"
    judged_file = upload.upload(judge_file, [file, number, numbers], answer, js=number_file, **request)
    number_sample = "() => [demo.chooseSample(), null]"
    judged_sample = gallery.select(judge_sample, [number, numbers], answer, js=number_sample, **request)
    outputs = [problem, *(part for column in columns for part in (column.verdict, column.slider, column.pictures))]
    for judged in (judged_file, judged_sample):
        judged.then(None, [answer, *(column.slider for column in columns)], outputs, js="demo.show")


class _Judge:
    """Every model's answer to one image at a time, whoever asks."""

    def __init__(self, columns: "list[_Column]") -> None:
        self.columns, self.lock = columns, threading.Lock()

    def __call__(self, number: int, numbers: list[int], name: str, load: Callable[[], np.ndarray]) -> Any:
        """What `demo.show` takes, or no update if the user has chosen another image since.

        Args:
            number: of this choice of an image.
            numbers: of the choices that have come from the same browser page; this one is added.
        """
        numbers.append(number)
        problem, models = "", [column.blank() for column in self.columns]
        try:
            image = load()
            with self.lock:
                if number == max(numbers):
                    models = [column.judge(image, name) for column in self.columns]
        except InputError as error:
            problem = str(error)
        except Exception:
            log.exception("an image could not be judged")
            problem = FAILED
        if number < max(numbers):
            return gr.skip()
        return {"number": number, "problem": view.message(problem), "models": models}


def _image_sources(samples: list[Sample], limits: Limits) -> tuple[gr.File, gr.Gallery]:
    """Where an image comes from. The file's content is checked when it is read, whatever its name says."""
    upload = gr.File(label="Image", file_types=None, height=150, elem_id="upload")
    gr.HTML(f"<p class='hint'>PNG, JPEG, BMP or TIFF, up to {limits.max_bytes / MEGABYTE:g} MB</p>")
    thumbnails = [(view.shrunk(sample.pixels(limits), THUMBNAIL)[0], sample.name) for sample in samples]
    shown: dict[str, Any] = {"columns": 4, "object_fit": "cover", "buttons": []}
    gallery = gr.Gallery(thumbnails, label="Samples", allow_preview=False, elem_id="samples", format="png", **shown)
    return upload, gallery


class _Column:
    """One model: verdict, threshold, pictures, card."""

    def __init__(self, detector: Detector, label: str, index: int) -> None:
        self.detector, self.threshold = detector, detector.card.threshold.value
        with gr.Column(min_width=300, elem_id=f"model-{index}", elem_classes="model"):
            gr.HTML(view.title(label, detector.path.name))
            # Score (the value) and threshold change independently; the browser words the verdict anew after either.
            template = "${demo.verdict(value, threshold)}"
            self.verdict = gr.HTML(None, html_template=template, threshold=self.threshold)
            ends = _slider_ends(self.threshold)
            self.slider = gr.Slider(**ends, value=self.threshold, label="Threshold", buttons=["reset"])
            self.pictures = gr.HTML("")
            with gr.Accordion("About this model", open=False):
                gr.HTML(view.card_text(detector.card))
        self.slider.change(None, self.slider, self.verdict, js="demo.judgeAnew")

    def judge(self, image: np.ndarray, name: str) -> dict[str, Any]:
        """One model's part of an answer."""
        prediction = self.detector(image)
        pictures = view.pictures(image, name, prediction, self.detector.card)
        return {"score": prediction.score, "pictures": pictures, "ends": _slider_ends(prediction.score, self.threshold)}

    def blank(self) -> dict[str, Any]:
        """The same without a verdict."""
        return {"score": None, "pictures": "", "ends": _slider_ends(self.threshold)}


def _slider_ends(*values: float) -> dict[str, Any]:
    """Ends and step of a slider that has room on either side of all the values; the ends are round numbers."""
    low, high = min(*values, 0), max(*values, 0)
    step = 10.0 ** (math.floor(math.log10(high - low or 1)) - 2)
    room = 0.25 * (high - low or 1)
    ends = (math.floor((low - room) / step) if low < 0 else 0, math.ceil((high + room) / step))
    return {"minimum": round(ends[0] * step, 9), "maximum": round(ends[1] * step, 9), "step": step}
