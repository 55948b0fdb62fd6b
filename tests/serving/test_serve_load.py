"""The HTTP API under load: room, one worker, fifty clients at once, shutdown, and fuzzed requests."""

import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import cv2
import httpx
import numpy as np
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from support.web_helpers import (
    BROKEN_WIDTH,
    PNG,
    UNWANTED_WIDTH,
    FakeDetector,
    Running,
    encoded,
    running,
    spotted,
    until,
)

from anomaly_seg.serving.api.app import Room, create_app
from anomaly_seg.serving.upload import Limits, UploadError

LIMITS = Limits(max_bytes=100_000, max_pixels=90_000)


# --- room ---


def test_too_many_waiting() -> None:
    detector = FakeDetector()
    detector.free.clear()
    with (
        running(create_app(detector, max_waiting=2)) as server,
        ThreadPoolExecutor(2) as pool,
        httpx.Client() as client,
    ):
        accepted = [pool.submit(httpx.post, server.url + "/predict", files={"image": PNG}) for _ in range(2)]
        until(lambda: client.get(server.url + "/health").json()["waiting"] == 2)
        refused = client.post(server.url + "/predict", files={"image": PNG})
        detector.free.set()
        assert refused.status_code == 503 and refused.headers["Retry-After"] == "1"
        assert refused.json()["error"].startswith("Too many images are waiting")
        assert [answer.result().status_code for answer in accepted] == [200, 200]
        assert client.post(server.url + "/predict", files={"image": PNG}).status_code == 200  # there is room again


def test_room_counts_bytes_and_requests() -> None:
    room = Room(requests=3, size=100)
    with room.enter(60):
        with pytest.raises(UploadError, match="Too many images"), room.enter(41):
            pass
        with room.enter(40), room.enter(0), pytest.raises(UploadError), room.enter(0):
            pass
        assert room.used == 1
    with room.enter(100):
        pass


# --- the worker ---


def test_one_image_is_judged_at_a_time_and_a_bad_one_fails_alone() -> None:
    detector = FakeDetector()
    detector.free.clear()
    images = [spotted((0, 0, i, 1)) for i in range(9)]
    images[3], images[5] = spotted(width=UNWANTED_WIDTH), spotted(width=BROKEN_WIDTH)
    with running(create_app(detector)) as server, ThreadPoolExecutor(9) as pool:
        url, headers = server.url + "/predict", {"Content-Type": "image/png"}
        posts = [pool.submit(httpx.post, url, content=encoded(i), headers=headers, timeout=60) for i in images]
        until(lambda: httpx.get(server.url + "/health").json()["waiting"] == 9)
        assert len(detector.batches) <= 1
        detector.free.set()
        answers = [post.result() for post in posts]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 422, 200, 500, 200, 200, 200]
    assert [a.json()["score"] for a in answers if a.status_code == 200] == [0, 1, 2, 4, 6, 7, 8]
    assert detector.batches == [1] * 9


# --- under load ---

CLIENTS, EACH = 50, 8


def numbered(number: int) -> tuple[bytes, float]:
    """An image of its own for each number, and its score: the number is in its size and in its dark pixels."""
    height, dark = 40 + number % 7, number + 1
    image = np.full((height, 40), 200, np.uint8)
    image.flat[:dark] = number % DARKEST
    return encoded(image), float(dark)


DARKEST = 60


def ask(server: Running, numbers: range) -> list[tuple[int, float, float]]:
    """(status, score, seconds) of each, over one connection."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    found = []
    for number in numbers:
        started = time.perf_counter()
        connection.request("POST", "/predict?heat_map=true", numbered(number)[0], {"Content-Type": "image/png"})
        answer = connection.getresponse()
        body = json.loads(answer.read())
        heat = cv2.imdecode(np.frombuffer(base64.b64decode(body["heat_map"]), np.uint8), cv2.IMREAD_UNCHANGED)
        assert (heat > 0).sum() == body["score"] and heat.shape == (body["image"]["height"], 40)
        found.append((answer.status, body["score"], time.perf_counter() - started))
    connection.close()
    return found


def test_fifty_clients_lose_nothing_and_mix_nothing_up() -> None:
    detector = FakeDetector(seconds=0.005)
    with running(create_app(detector)) as server, ThreadPoolExecutor(CLIENTS) as pool:
        ask(server, range(0, 1))
        before = psutil.Process().memory_info().rss
        ranges = [range(1 + i * EACH, 1 + (i + 1) * EACH) for i in range(CLIENTS)]
        answers = [a for found in pool.map(lambda numbers: ask(server, numbers), ranges) for a in found]
        grown = psutil.Process().memory_info().rss - before
        assert httpx.get(server.url + "/health").json()["waiting"] == 0
    expected = [numbered(number)[1] for numbers in ranges for number in numbers]
    assert [(status, score) for status, score, _ in answers] == [(200, score) for score in expected]
    assert len(set(expected)) == CLIENTS * EACH == 400
    assert detector.batches == [1] * 401
    assert grown < 64 * 2**20, grown


def test_shutdown_answers_what_was_accepted() -> None:
    detector = FakeDetector()
    detector.free.clear()
    with running(create_app(detector)) as server, ThreadPoolExecutor(20) as pool:
        numbers = [pool.submit(ask, server, range(i, i + 1)) for i in range(20)]
        until(lambda: httpx.get(server.url + "/health").json()["waiting"] == 20)
        server.stop()
        detector.free.set()
        assert [number.result()[0][:2] for number in numbers] == [(200, float(i + 1)) for i in range(20)]
        server.thread.join(20)
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url + "/health")


# --- fuzzing ---

schemathesis.serializer("image/bmp", "image/tiff")(lambda _, value: value if isinstance(value, bytes) else repr(value))
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", create_app(FakeDetector(), LIMITS))


@SCHEMA.parametrize()
@settings(max_examples=25, derandomize=True, suppress_health_check=list(HealthCheck))
def test_fuzzed_requests_get_documented_answers(case: schemathesis.Case) -> None:
    # The schema cannot say what makes bytes an image, so it cannot say which must be accepted.
    case.call_and_validate(excluded_checks=[positive_data_acceptance])
