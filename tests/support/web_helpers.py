"""A detector whose answers are worked out by hand, and a server on loopback that runs it."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anomaly_seg.errors import InputError
from anomaly_seg.inference.model_card import Data, InputContract, ModelCard, Threshold
from anomaly_seg.inference.prediction import Prediction, find_regions
from anomaly_seg.serving.server import server_config

DARK = 64
UNWANTED_WIDTH, BROKEN_WIDTH = 13, 17
"""The contract of the fake takes no image of the first width; one of the second makes it fail."""


def card(name: str = "fake", threshold: float = 10, maps: tuple[str, ...] = ("f1", "f2", "f3", "C", "F")) -> ModelCard:
    return ModelCard(
        name=name,
        network="one_stage",
        format="onnx",
        precision="float32",
        members=1,
        parameters=7,
        maps=list(maps),
        heat_map=maps[-1],
        pixel_threshold=0.5,
        threshold=Threshold(value=threshold, kind="given", how="by hand", oracle=False),
        metrics=None,
        data=Data(
            name="made_up", licence="CC0", train_images=4, train_defective=2, folds=[0], split="grouped", dilation=5
        ),
        input=InputContract(
            channels=1,
            height=64,
            width=32,
            fit="resize",
            resize="area",
            native_height=(48, 64),
            native_width=(32, 40),
        ),
        created="2026-01-01T00:00:00+00:00",
        package_version="0.0",
        commit="0" * 40,
    )


class FakeDetector:
    """score = the number of pixels darker than 64; the heat map is 1 there.

    seconds: that a batch takes. free: while it is not set, batches wait. batches: sizes of those judged.
    """

    def __init__(self, model_card: ModelCard | None = None, seconds: float = 0, weight: float = 1) -> None:
        self.card, self.path, self.seconds, self.weight = model_card or card(), Path("fake.onnx"), seconds, weight
        self.batches: list[int] = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, image: Any, threshold: float | None = None) -> Prediction:
        return self.batch([image], threshold)[0]

    def batch(self, images: list[np.ndarray], threshold: float | None = None) -> list[Prediction]:
        self.batches.append(len(images))
        time.sleep(self.seconds)
        assert self.free.wait(60)
        return [self._judge(image, self.card.threshold.value if threshold is None else threshold) for image in images]

    def _judge(self, image: np.ndarray, threshold: float) -> Prediction:
        if image.shape[1] == UNWANTED_WIDTH:
            raise InputError(f"The model takes no images {UNWANTED_WIDTH} pixels wide; send a wider one.")
        if image.shape[1] == BROKEN_WIDTH:
            raise RuntimeError("secret detail")
        grey = image if image.ndim == 2 else image.mean(axis=2)
        heat_map = (grey < DARK).astype(np.float32)
        score = self.weight * float(heat_map.sum())
        if not np.isfinite(score):
            raise FloatingPointError(f"{self.path}: gives the score {score}")
        maps = {name: heat_map * (i + 1) / len(self.card.maps) for i, name in enumerate(self.card.maps)}
        verdict = "defective" if score > threshold else "good"
        return Prediction(score, threshold, verdict, heat_map, find_regions(heat_map), maps)


def spotted(*boxes: tuple[int, int, int, int], height: int = 48, width: int = 40) -> np.ndarray:
    """Light grey with a black box at each (x, y, width, height)."""
    image = np.full((height, width), 200, np.uint8)
    for x, y, wide, tall in boxes:
        image[y : y + tall, x : x + wide] = 0
    return image


def encoded(image: np.ndarray, kind: str = ".png") -> bytes:
    done, data = cv2.imencode(kind, image)
    assert done
    return data.tobytes()


PNG = encoded(spotted())


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Running:
    """A server in a thread of its own."""

    def __init__(self, app: Any) -> None:
        import uvicorn

        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(self.listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.server = uvicorn.Server(server_config(app))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.should_exit = True

    def join(self) -> None:
        self.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()
        self.listener.close()


@contextlib.contextmanager
def running(app: Any) -> Iterator[Running]:
    server = Running(app)
    try:
        yield server
    finally:
        server.join()
