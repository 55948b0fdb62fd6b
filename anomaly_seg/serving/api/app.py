"""The HTTP API: one image in, a verdict out; what it accepts is bounded, and every refusal is a sentence."""

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated

import cv2
import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from anomaly_seg.errors import InputError
from anomaly_seg.inference.image_input import from_bytes
from anomaly_seg.inference.image_size import size_note
from anomaly_seg.inference.model_card import InputContract, ModelCard
from anomaly_seg.inference.prediction import Detector, Prediction
from anomaly_seg.serving.api.body import declared_size, read_image
from anomaly_seg.serving.api.metrics import Metrics
from anomaly_seg.serving.api.schema import PREDICT, PROBLEMS, Answer, Box, Health, Size
from anomaly_seg.serving.upload import Limits, UploadError, check_upload
from anomaly_seg.version import __version__

log = logging.getLogger(__name__)
MAX_WAITING = 64
MAX_WAITING_FILES = 8
"""Files of the largest size that may wait at once: the bound on memory. Smaller ones may be more, up to MAX_WAITING."""
SENTENCES = {404: "There is nothing here; /docs lists what there is.", 405: "Use the method that /docs names."}
BUSY = "Too many images are waiting; send this one again in a second."


class Room:
    """Requests that may be read, wait and be judged at once, counted before a byte of the body is read."""

    def __init__(self, requests: int, size: int) -> None:
        self.requests, self.bytes = requests, size
        self.used = 0

    @contextmanager
    def enter(self, size: int) -> Iterator[None]:
        """Raises UploadError (503) without room for one more request of `size` bytes. For one event loop only."""
        if self.requests < 1 or self.bytes < size:
            raise UploadError(503, BUSY, retry_after=1)
        self.requests, self.bytes, self.used = self.requests - 1, self.bytes - size, self.used + 1
        try:
            yield
        finally:
            self.requests, self.bytes, self.used = self.requests + 1, self.bytes + size, self.used - 1


def create_app(
    detector: Detector, limits: Limits | None = None, max_waiting: int = MAX_WAITING, read_seconds: float = 30
) -> FastAPI:
    """The application.

    Args:
        detector: judges one image after the other, in a thread of its own.
        limits: of an upload.
        max_waiting: requests at once; more are refused with 503.
        read_seconds: for a client to send its image; slower ones are refused with 408.
    """
    limits = limits or Limits()
    room = Room(max_waiting, MAX_WAITING_FILES * limits.max_bytes)
    metrics = Metrics(lambda: room.used)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ThreadPoolExecutor(1, "judge") as app.state.worker:  # its queue is bounded by `room`
            yield

    def judge(data: bytes) -> Prediction:
        image = from_bytes(data, "image")  # decoded here, so that no more than one image ever is
        with metrics.judge_seconds.time():
            return detector(image)

    about = f"Judges images with the sealed model `{detector.card.name}`."
    app = FastAPIOffline(title="anomaly-seg", version=__version__, description=about, lifespan=lifespan, redoc_url=None)
    app.add_middleware(metrics.middleware)
    _answer_errors(app)

    @app.post("/predict", response_model=Answer, responses=PROBLEMS, openapi_extra=PREDICT, summary="Judge one image")
    async def predict(
        request: Request,
        threshold: Annotated[float | None, Query(allow_inf_nan=False, description="instead of the model's own")] = None,
        heat_map: Annotated[bool, Query(description="put the heat map into the answer")] = False,
    ) -> Answer:
        """The image as the form field `image`, or as the whole body."""
        with room.enter(declared_size(request, limits)):
            data = await read_image(request, limits, read_seconds)
            await run_in_threadpool(check_upload, data, limits)
            with _model_errors():
                prediction = await asyncio.get_running_loop().run_in_executor(app.state.worker, judge, data)
            answer = await run_in_threadpool(_answer, prediction, detector.card.input, threshold, heat_map)
        metrics.verdict(answer.verdict)
        return answer

    @app.get("/card", summary="The model card")
    async def card() -> ModelCard:
        return detector.card

    @app.get("/health", summary="State of the server")
    async def health() -> Health:
        return Health(status="ok", model=detector.card.name, waiting=room.used)

    @app.get("/metrics", summary="For Prometheus", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        return metrics.exposition()

    return app


@contextmanager
def _model_errors() -> Iterator[None]:
    """Turn what decoding or judging raised into an answer to the client."""
    try:
        yield
    except InputError as error:
        raise UploadError(422, str(error)) from error
    except Exception as error:
        log.exception("an image could not be judged")
        raise UploadError(500, "The model failed on this image; the server's log says why.") from error


def _answer(prediction: Prediction, contract: InputContract, threshold: float | None, heat_map: bool) -> Answer:
    limit = prediction.threshold if threshold is None else threshold
    height, width = prediction.heat_map.shape
    return Answer(
        verdict="defective" if prediction.score > limit else "good",
        score=prediction.score,
        threshold=limit,
        image=Size(height=height, width=width),
        regions=[Box(**vars(region)) for region in prediction.regions],
        note=size_note(height, width, contract),
        heat_map=_png(prediction.heat_map) if heat_map else None,
    )


def _png(heat_map: np.ndarray) -> str:
    """Base64 of an 8-bit grey PNG, 255 = 1."""
    levels = np.rint(np.clip(heat_map, 0, 1) * 255).astype(np.uint8)
    return base64.b64encode(cv2.imencode(".png", levels)[1].tobytes()).decode("ascii")


def _answer_errors(app: FastAPI) -> None:
    """Every refusal has the one form {"error": sentence}."""

    def problem(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": sentence}, status, headers)

    @app.exception_handler(UploadError)
    async def refused(_: Request, error: UploadError) -> JSONResponse:
        headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
        if error.status == 408:
            headers["Connection"] = "close"  # or the rest of the body would be waited for
        return problem(error.status, str(error), headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return problem(422, "; ".join(f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors()))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        sentence = SENTENCES.get(error.status_code, str(error.detail))
        return problem(error.status_code, sentence, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return problem(500, "The server failed; its log says why.")
