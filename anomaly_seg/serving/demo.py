"""`anomaly-seg demo`: try a sealed model, or compare two, on a page in the browser."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anomaly_seg.data.image_formats import IMAGE_SUFFIXES
from anomaly_seg.data.readers.synthetic_surface import MIN_SIDE, surface
from anomaly_seg.errors import InputError
from anomaly_seg.extras import need
from anomaly_seg.inference.image_input import from_bytes
from anomaly_seg.inference.load import load
from anomaly_seg.inference.model_card import InputContract
from anomaly_seg.inference.prediction import Detector
from anomaly_seg.serving.demo_view import labels
from anomaly_seg.serving.server import limits_of, listen, run
from anomaly_seg.serving.upload import Limits, check_upload

MAX_SAMPLES = 12
GENERATED_SIDE = 704
"""Longest side of a generated sample, in pixels."""
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'"
"""Content-Security-Policy: the browser asks nobody but this server, whatever Gradio would load from elsewhere."""


@dataclass(frozen=True)
class Sample:
    """An image offered on the page. image: (h, w) grey or (h, w, 3) RGB uint8, or the file that holds it."""

    name: str
    image: np.ndarray | Path

    def pixels(self, limits: Limits) -> np.ndarray:
        """Raises InputError if the file is gone or no usable image."""
        return self.image if isinstance(self.image, np.ndarray) else read(self.image, limits)


def demo(models: Sequence[Path], *, samples: Path | None, host: str, port: int, max_mb: float) -> None:
    """Serve the page until interrupted.

    Raises:
        InputError: more than two models, no such model, no images among the samples, a port out of range or in use, a
            size limit that is no size, a missing extra.
    """
    limits = limits_of(port, max_mb)
    if not 1 <= len(models) <= 2:
        raise InputError(f"{len(models)} models; give one, or two to compare")
    chosen = samples_of(samples, limits) if samples else []
    need("demo", "gradio", "fastapi", "uvicorn")
    with listen(host, port) as listener, tempfile.TemporaryDirectory("anomaly-seg") as folder:
        detectors = [load(path) for path in models]
        app = create_app(detectors, chosen or generated(detectors[0].card.input), limits, Path(folder))
        run(app, listener, "Try " + " and ".join(labels(detectors)))


def create_app(detectors: list[Detector], samples: list[Sample], limits: Limits, folder: Path) -> Any:
    """Build the application that serves the page.

    Args:
        detectors: one, or two side by side.
        samples: to choose from.
        limits: of an upload.
        folder: where uploads lie while the page is served.
    """
    # Read when Gradio is imported, and when a file is stored.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(folder)}
    import gradio as gr
    from fastapi import FastAPI, Request, Response

    from anomaly_seg.serving.demo_page import CSS, SCRIPT, build, theme

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def add_policy(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    page = build(detectors, samples, limits)
    script = f"<script>{SCRIPT}</script>"
    look: dict[str, Any] = {"theme": theme(), "css": CSS, "head": script, "footer_links": []}
    safe: dict[str, Any] = {"allowed_paths": [], "max_file_size": limits.max_bytes, "mcp_server": False}
    plain: dict[str, Any] = {"ssr_mode": False, "pwa": False, "enable_monitoring": False, "show_error": True}
    return gr.mount_gradio_app(app, page, path="", **look, **safe, **plain)


def read(path: Path, limits: Limits) -> np.ndarray:
    """An image file as (h, w) grey or (h, w, 3) RGB uint8. Raises InputError if it is not usable."""
    try:
        with open(path, "rb") as file:
            data = file.read(limits.max_bytes + 1)
    except OSError as error:
        raise InputError(f"{path.name}: cannot be read ({error.strerror}).") from error
    check_upload(data, limits)
    return from_bytes(data, path.name)


def samples_of(folder: Path, limits: Limits) -> list[Sample]:
    """Choose up to 12 images, spread over all that the folder and those below it hold.

    Raises:
        InputError: no such folder, or no usable image in it.
    """
    if not folder.is_dir():
        raise InputError(f"--samples {folder}: no such folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    samples = []
    for i in np.unique(np.linspace(0, len(paths) - 1, min(len(paths), MAX_SAMPLES)).round().astype(int)):
        sample = Sample(paths[i].relative_to(folder).as_posix(), paths[i])
        try:
            sample.pixels(limits)
        except InputError:  # one bad file must not keep the page from starting
            continue
        samples.append(sample)
    if not samples:
        raise InputError(f"--samples {folder}: no usable image ({', '.join(IMAGE_SUFFIXES)}) in it")
    return samples


def generated(contract: InputContract) -> list[Sample]:
    """Four synthetic surfaces in the shape the model takes, every other one with a crack."""
    scale = min(1.0, GENERATED_SIDE / max(contract.height, contract.width))
    height, width = (max(MIN_SIDE, round(scale * side)) for side in (contract.height, contract.width))
    samples = []
    for group in range(4):
        image, _ = surface(0, group, 0, group % 2 == 0, height, width)
        name = f"{'crack' if group % 2 == 0 else 'good'} {group // 2 + 1}"
        samples.append(Sample(name, image if contract.channels == 1 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)))
    return samples
