"""Figures for Prometheus."""

import time
from collections.abc import Callable

from fastapi import Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATHS = ("/predict", "/card", "/health", "/metrics")
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one application, in a registry of their own.

    judge_seconds: time of the model for one image.

    Args:
        waiting: images that are being read or judged, or wait for it.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Gauge("anomaly_seg_waiting", "Images being read, judged or waiting", registry=registry).set_function(waiting)
        self._requests = Counter("anomaly_seg_requests", "Answers", ["path", "status"], registry=registry)
        self._seconds = Histogram("anomaly_seg_request_seconds", "Of /predict", buckets=SECONDS, registry=registry)
        self._verdicts = Counter("anomaly_seg_verdicts", "Images judged", ["verdict"], registry=registry)
        self.judge_seconds = Histogram("anomaly_seg_judge_seconds", "Of one image", buckets=SECONDS, registry=registry)

    def verdict(self, verdict: str) -> None:
        self._verdicts.labels(verdict).inc()

    def exposition(self) -> Response:
        return Response(generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Wrap the application so that its answers are counted by path and status."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            started, path = time.perf_counter(), scope["path"] if scope["path"] in PATHS else "other"

            async def note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    self._requests.labels(path, str(message["status"])).inc()
                    if path == "/predict":
                        self._seconds.observe(time.perf_counter() - started)
                await send(message)

            await app(scope, receive, note)

        return counted
