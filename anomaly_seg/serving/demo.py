"""`anomaly-seg demo`: try a sealed model, or compare two, on a page in the browser."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anomaly_seg.errors import InputError
from anomaly_seg.extras import need
from anomaly_seg.inference.load import load
from anomaly_seg.inference.prediction import Detector
from anomaly_seg.serving.demo_view import labels
from anomaly_seg.serving.samples import Sample, generated, samples_of
from anomaly_seg.serving.server import limits_of, listen, run
from anomaly_seg.serving.upload import Limits

POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'"
"""Content-Security-Policy: the browser asks nobody but this server, whatever Gradio would load from elsewhere."""


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
