"""The HTTP API: answers worked out by hand, every refusal, what machines ask, and the command."""

import base64
import contextlib
import io
import logging
import signal
import socket
import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from subprocess import PIPE

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from support.paths import TESTS
from support.web_helpers import (
    BROKEN_WIDTH,
    DARK,
    PNG,
    UNWANTED_WIDTH,
    FakeDetector,
    encoded,
    free_port,
    running,
    spotted,
    until,
)

from anomaly_seg.cli import main
from anomaly_seg.serving.api.app import create_app
from anomaly_seg.serving.connections import BoundedProtocol
from anomaly_seg.serving.upload import Limits

LIMITS = Limits(max_bytes=100_000, max_pixels=90_000)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(FakeDetector(), LIMITS), raise_server_exceptions=False) as client:
        yield client


def send(client: TestClient, data: bytes, kind: str = "image/png", **parameters: object) -> httpx.Response:
    return client.post("/predict", content=data, headers={"Content-Type": kind}, params=parameters)


# --- answers ---


def test_answer_is_that_of_the_detector(client: TestClient) -> None:
    image = spotted((3, 5, 4, 2), (20, 30, 6, 7))
    answer = send(client, encoded(image)).json()
    assert answer == {
        "verdict": "defective",
        "score": 50.0,  # 4 x 2 + 6 x 7
        "threshold": 10.0,
        "image": {"height": 48, "width": 40},
        "regions": [
            {"x": 20, "y": 30, "width": 6, "height": 7, "area": 42, "peak": 1.0},
            {"x": 3, "y": 5, "width": 4, "height": 2, "area": 8, "peak": 1.0},
        ],
        "note": None,
        "heat_map": None,
    }


def test_answer_says_that_the_image_is_far_from_the_sizes_trained_on(client: TestClient) -> None:
    answer = send(client, encoded(spotted(height=129, width=40))).json()  # trained on up to 64
    assert answer["note"] == (
        "129 x 40 pixels, far from the 48 to 64 x 32 to 40 trained on: its height is more than 2 times the largest"
    )


def test_threshold_and_heat_map(client: TestClient) -> None:
    data = encoded(spotted((3, 5, 4, 2)))
    assert send(client, data).json()["verdict"] == "good"  # 8 is not above 10
    assert send(client, data, threshold=8).json()["verdict"] == "good"  # nor above 8
    answer = send(client, data, threshold=7.5, heat_map="true").json()
    assert (answer["verdict"], answer["threshold"]) == ("defective", 7.5)
    with Image.open(io.BytesIO(base64.b64decode(answer["heat_map"]))) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (40, 48))
        assert np.array_equal(np.asarray(picture) == 255, spotted((3, 5, 4, 2)) == 0)


@pytest.mark.parametrize(("kind", "mime"), [(".png", "png"), (".jpg", "jpeg"), (".bmp", "bmp"), (".tiff", "tiff")])
@pytest.mark.parametrize("colour", [False, True])
def test_every_format_as_form_and_as_body(client: TestClient, kind: str, mime: str, colour: bool) -> None:
    image = spotted((8, 8, 16, 16))  # whole JPEG blocks: exact
    data = encoded(np.dstack([image] * 3) if colour else image, kind)
    form = client.post("/predict", files={"image": ("part" + kind, data, f"image/{mime}")})
    assert form.json() == send(client, data, f"image/{mime}").json()
    assert form.json()["score"] == 256


def test_16_bits_become_8(client: TestClient) -> None:
    image = spotted((0, 0, 20, 20)).astype(np.uint16) * 257
    image[5:7, :20] = DARK * 257 - 1  # 63 after division by 257; 64 would be no dark pixel
    assert send(client, encoded(image)).json()["score"] == 400


def test_colours_arrive_as_rgb() -> None:
    seen = []

    class Remembers(FakeDetector):
        def batch(self, images, threshold=None):
            seen.extend(images)
            return super().batch(images, threshold)

    with TestClient(create_app(Remembers())) as client:
        red = np.zeros((4, 5, 4), np.uint8)
        red[..., 2], red[..., 3] = 250, 128  # BGRA for OpenCV
        assert send(client, encoded(red)).status_code == 200
    assert seen[0].shape == (4, 5, 3) and seen[0][0, 0].tolist() == [250, 0, 0]


# --- refusals ---


def bomb(height: int, width: int) -> bytes:
    """A PNG whose header promises a huge picture; nothing behind it matters."""
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
    chunk = (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk + encoded(spotted())[33:]


BAD = {
    "empty": (b"", "image/png", 422, "empty"),
    "text": (b"hello", "image/png", 415, "no PNG, JPEG, BMP or TIFF"),
    "gif": (b"GIF89a\x01\x00\x01\x00\x00\x00\x00", "application/octet-stream", 415, "convert it"),
    "content type": (PNG, "text/plain", 415, "Send the image as multipart/form-data"),
    "damaged header": (PNG[:20], "image/png", 422, "header does not decode"),
    "cut short": (PNG[:-20], "image/png", 422, "does not decode as an image"),
    "BMP that is none": (b"BM but not really", "image/bmp", 422, "BMP file is damaged"),
    "floats": (encoded(spotted().astype(np.float32), ".tiff"), "image/tiff", 422, "give an image of 8 or 16 bits"),
    "too many bytes": (PNG + bytes(100_000), "image/png", 413, "larger than 0.1 MB"),
    "pixels": (encoded(np.zeros((301, 300), np.uint8)), "image/png", 413, "more than 0.09 million pixels"),
    "bomb": (bomb(60_000, 60_000), "image/png", 413, "more than 0.09 million pixels"),
    "form without boundary": (PNG, "multipart/form-data", 400, "boundary"),
    "form with a broken part": (b"--b\r\n[]--b--\r\n", "multipart/form-data; boundary=b", 400, "does not parse"),
    "contract": (encoded(spotted(width=UNWANTED_WIDTH)), "image/png", 422, "takes no images 13 pixels wide"),
    "failure": (encoded(spotted(width=BROKEN_WIDTH)), "image/png", 500, "The model failed"),
}


@pytest.mark.parametrize("case", BAD)
def test_refusals_are_one_sentence(client: TestClient, case: str) -> None:
    data, kind, status, words = BAD[case]
    answer = send(client, data, kind)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    sentence = answer.json()["error"]
    assert words in sentence and "secret" not in sentence and "Traceback" not in sentence


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "high", ""])
def test_threshold_that_is_no_number(client: TestClient, value: str) -> None:
    answer = send(client, PNG, threshold=value)
    assert answer.status_code == 422 and answer.json()["error"].startswith("threshold: ")


def test_form_without_the_image(client: TestClient) -> None:
    for fields in ({"files": {"picture": ("a.png", PNG)}}, {"data": {"image": "text"}, "files": {"b": b""}}):
        answer = client.post("/predict", **fields)
        assert answer.status_code == 422 and "no file named 'image'" in answer.json()["error"]
    two = [("image", ("a.png", PNG)), ("image", ("b.png", PNG))]
    answer = client.post("/predict", files=two)
    assert answer.status_code == 400 and "Too many files" in answer.json()["error"]


def test_no_such_page_and_wrong_method(client: TestClient) -> None:
    assert client.get("/nothing").json() == {"error": "There is nothing here; /docs lists what there is."}
    answer = client.get("/predict")
    assert answer.status_code == 405 and answer.headers["Allow"] == "POST" and "method" in answer.json()["error"]


def test_refuses_before_the_body_is_read() -> None:
    with running(create_app(FakeDetector(), LIMITS)) as server:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Type", "image/png")
        connection.putheader("Content-Length", str(10**12))
        connection.endheaders()  # and not a byte of the body
        assert connection.getresponse().status == 413
        connection.close()

        connection = HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Type", "image/png")
        connection.putheader("Transfer-Encoding", "chunked")  # a body of no declared length
        connection.endheaders()
        for _ in range(30):
            connection.send(b"2710\r\n" + bytes(10_000) + b"\r\n")
        assert connection.getresponse().status == 413
        connection.close()


def test_slow_clients_are_refused() -> None:
    with running(create_app(FakeDetector(), read_seconds=0.2)) as server:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Type", "image/png")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"\x89PNG")
        answer = connection.getresponse()
        assert answer.status == 408 and b"within 0.2 seconds" in answer.read()


# --- for machines ---


def test_connections_without_a_request_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedProtocol, "head_seconds", 0.4)
    detector = FakeDetector(seconds=0.8)
    with running(create_app(detector)) as server:
        address = ("127.0.0.1", server.port)
        with socket.create_connection(address, 20) as silent, socket.create_connection(address, 20) as slow:
            slow.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
            assert silent.recv(1) == b""
            until(lambda: _closed_while_dripping(slow))  # a drip does not buy time
        # An answer may take longer than the patience, and the connection serves the next request.
        with httpx.Client(base_url=server.url) as client:
            for _ in range(2):
                assert client.post("/predict", content=PNG, headers={"content-type": "image/png"}).status_code == 200


def _closed_while_dripping(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"x")
    except ConnectionError:
        return True
    return False


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedProtocol, "max_connections", 2)
    with running(create_app(FakeDetector())) as server, contextlib.ExitStack() as stack:
        address = ("127.0.0.1", server.port)
        held = [stack.enter_context(socket.create_connection(address, 20)) for _ in range(2)]
        held[1].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert held[1].recv(12) == b"HTTP/1.1 200"  # so both are in
        with socket.create_connection(address, 20) as third:
            assert third.recv(1) == b""
        held[0].close()
        until(lambda: _answers(address))


def _answers(address: tuple[str, int]) -> bool:
    with socket.create_connection(address, 20) as connection:
        try:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            return connection.recv(12) == b"HTTP/1.1 200"
        except ConnectionError:
            return False


def test_a_client_that_leaves_in_the_middle_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    with running(create_app(FakeDetector())) as server:
        with socket.create_connection(("127.0.0.1", server.port), 20) as client:
            client.sendall(
                b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 99\r\n\r\nabc"
            )
            until(lambda: httpx.get(f"{server.url}/health").json()["waiting"] == 1)
        until(lambda: b'status="400"} 1.0' in httpx.get(f"{server.url}/metrics").content)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_card_health_and_documentation(client: TestClient) -> None:
    assert client.get("/card").json() == FakeDetector().card.model_dump(mode="json")
    assert client.get("/health").json() == {"status": "ok", "model": "fake", "waiting": 0}
    page = client.get("/docs")
    assert page.status_code == 200 and "://" not in page.text.replace("http://www.w3.org", "")  # nothing from elsewhere
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {"/predict", "/card", "/health", "/metrics"}
    assert set(schema["paths"]["/predict"]["post"]["responses"]) == {
        *("200", "400", "408", "413", "415", "422", "500", "503")
    }


def test_metrics_count() -> None:
    with TestClient(create_app(FakeDetector(), LIMITS)) as client:
        for data in (PNG, PNG, encoded(spotted((0, 0, 20, 20))), b"text"):
            send(client, data)
        client.get("/nothing")
        answer = client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    lines = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
    assert float(lines['anomaly_seg_requests_total{path="/predict",status="200"}']) == 3
    assert float(lines['anomaly_seg_requests_total{path="/predict",status="415"}']) == 1
    assert float(lines['anomaly_seg_requests_total{path="other",status="404"}']) == 1
    assert float(lines['anomaly_seg_verdicts_total{verdict="good"}']) == 2
    assert float(lines['anomaly_seg_verdicts_total{verdict="defective"}']) == 1
    assert float(lines["anomaly_seg_judge_seconds_count"]) == 3
    assert float(lines["anomaly_seg_request_seconds_count"]) == 4
    assert float(lines["anomaly_seg_waiting"]) == 0


# --- the command ---

MESSAGES = {
    "missing model": (["gone.onnx"], ["gone.onnx", "no such file", "anomaly-seg export"]),
    "folder": (["."], [".: no sealed model", ".onnx, .xml, .pt2"]),
    "port 0": (["m.onnx", "--port", "0"], ["--port 0", "1 to 65535"]),
    "port too high": (["m.onnx", "--port", "65536"], ["--port 65536", "1 to 65535"]),
    "no size": (["m.onnx", "--max-mb", "0"], ["--max-mb 0", "above 0"]),
    "negative size": (["m.onnx", "--max-mb", "-1"], ["--max-mb -1", "above 0"]),
    "size without end": (["m.onnx", "--max-mb", "inf"], ["--max-mb inf", "above 0"]),
    "no number": (["m.onnx", "--max-mb", "nan"], ["--max-mb nan", "above 0"]),
    "another's address": (["m.onnx", "--host", "192.0.2.1"], ["--host 192.0.2.1", "address of this machine"]),
    "no address": (["m.onnx", "--host", "a b"], ["--host a b", "address of this machine"]),
}


@pytest.mark.parametrize("case", MESSAGES)
@pytest.mark.parametrize("verb", ["serve", "demo"])
def test_bad_options_are_one_sentence(verb: str, case: str, capsys: pytest.CaptureFixture) -> None:
    options, words = MESSAGES[case]
    port = [] if "--port" in options else ["--port", str(free_port())]
    assert main([verb, *options, *port]) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"anomaly-seg {verb}: ") and all(word in text for word in words), text


@pytest.mark.parametrize("verb", ["serve", "demo"])
def test_port_in_use(verb: str, capsys: pytest.CaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main([verb, "m.onnx", "--port", str(port)]) == 2
    assert f"--port {port}: the port is in use; stop what listens there, or choose" in capsys.readouterr().err


@pytest.mark.parametrize(("verb", "module"), [("serve", "fastapi_offline"), ("demo", "gradio")])
def test_missing_extra(verb: str, module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main([verb, "m.onnx"]) == 2
    text = capsys.readouterr().err
    assert f"needs the package '{module}': pip install 'anomaly-seg[{verb}]'" in text


COMMAND = """
import sys
from support import web_helpers
from anomaly_seg.cli import main
from anomaly_seg.serving import serve
serve.load = lambda path: web_helpers.FakeDetector(seconds=0.5)
sys.exit(main(["serve", "m.onnx", "--port", sys.argv[1]]))
"""


def test_command_answers_and_ends_in_order_on_interrupt() -> None:
    port = free_port()
    words = [sys.executable, "-c", COMMAND, str(port)]
    with subprocess.Popen(words, cwd=TESTS, stdout=PIPE, stderr=PIPE, text=True) as process:
        said = process.stdout.readline()
        assert f"fake answers; /docs describes the API: http://127.0.0.1:{port}/" in said
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(httpx.post, f"http://127.0.0.1:{port}/predict", files={"image": PNG}, timeout=20)
            until(lambda: httpx.get(f"http://127.0.0.1:{port}/health").json()["waiting"] == 1)
            process.send_signal(signal.SIGINT)
            assert answer.result().json()["verdict"] == "good"
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
