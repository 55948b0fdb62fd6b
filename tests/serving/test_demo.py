"""The page in headless Chromium against answers worked out by hand, its pieces, and what the command refuses."""

import base64
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from support.helpers import CHROMIUM, write_image
from support.web_helpers import (
    BROKEN_WIDTH,
    UNWANTED_WIDTH,
    FakeDetector,
    Running,
    card,
    encoded,
    free_port,
    running,
    spotted,
    until,
)

from anomaly_seg.cli import main
from anomaly_seg.inference.model_card import Estimate, Metrics, Quantisation
from anomaly_seg.serving import demo, demo_page
from anomaly_seg.serving import demo_view as view
from anomaly_seg.serving.demo import create_app
from anomaly_seg.serving.samples import MAX_SAMPLES, Sample, generated, samples_of
from anomaly_seg.serving.upload import Limits

sync_api = pytest.importorskip("playwright.sync_api")
sync_api.expect.set_options(timeout=60_000)  # an upper limit: the machine may be busy
browser_test = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")
LIMITS = Limits(max_bytes=200_000, max_pixels=90_000)
UPLOADS, ANSWERS = "**/gradio_api/upload?*", "**/gradio_api/run/predict"
LONG = "another_<b>model</b>_with_a_very_long_name_without_a_single_space"


# --- pieces ---


def fake_at(path: Path, name: str) -> FakeDetector:
    detector = FakeDetector(card(name))
    detector.path = path
    return detector


def test_pictures_hold_every_map_and_the_largest_regions() -> None:
    detector = FakeDetector()
    image = spotted(*((5 * i, 2, 3, i + 1) for i in range(7)))
    html = view.pictures(image, "a.png", detector(image), detector.card)
    assert re.findall(r"<figcaption><b>(.*?)</b>", html) == ["a.png", "heat map", "f1", "f2", "f3", "C", "F"]
    assert "7 regions" in html and "and 2 smaller" in html
    assert re.findall(r"<li>(\d+) px", html) == ["21", "18", "15", "12", "9"]
    assert "21 px at (30, 2), 3 x 7, peak 1.00" in html
    blank = view.pictures(spotted(), "a.png", detector(spotted()), detector.card)
    assert "No region stands out" in blank


def test_pictures_keep_colours() -> None:
    image = np.zeros((48, 400, 3), np.uint8)
    image[:] = (220, 120, 20)  # RGB; no pixel is dark, so there is nothing over it
    html = view.pictures(image, "a.png", FakeDetector()(image), card())
    sources = re.findall(r"base64,(.*?)'", html)[:2]
    for source in sources:
        with Image.open(io.BytesIO(base64.b64decode(source))) as picture:
            assert picture.size == (400, 48)
            assert np.abs(np.asarray(picture).astype(int) - image).max() <= 3  # JPEG


def test_boxes_follow_a_shrunk_image(monkeypatch: pytest.MonkeyPatch) -> None:
    image = spotted((1000, 200, 400, 100), height=600, width=1800)
    seen = []
    monkeypatch.setattr(view, "marked", lambda picture, found: seen.append((picture, found)) or picture)
    view.pictures(image, "a.png", FakeDetector()(image), card())
    picture, found = seen[0]
    assert picture.shape == (300, 900) and found.heat_map.shape == (300, 900)
    assert [(r.x, r.y, r.width, r.height, r.area) for r in found.regions] == [(500, 100, 200, 50, 40_000)]
    assert found.heat_map[125, 600] == 1 and found.heat_map[95, 600] == 0


def test_pictures_warn_of_a_size_far_from_those_trained_on() -> None:
    far, near = spotted(height=129), spotted(height=119)  # trained on 48 to 64 x 32 to 40
    html = view.pictures(far, "a.png", FakeDetector()(far), card())
    assert "The verdict may mislead: the image has 129 x 40 pixels, far from the 48 to 64 x 32 to 40 trained on" in html
    assert "mislead" not in view.pictures(near, "a.png", FakeDetector()(near), card())


@pytest.mark.parametrize(
    ("names", "files", "expected"),
    [
        (("a", "b"), ("x/model.onnx", "y/model.onnx"), ["a", "b"]),
        (("a", "a"), ("x/model.onnx", "x/model-int8.onnx"), ["a (model.onnx)", "a (model-int8.onnx)"]),
        (("a", "a"), ("x/model.onnx", "y/model.onnx"), ["a (x/model.onnx)", "a (y/model.onnx)"]),
        (("a", "a"), ("x/z/model.onnx", "y/z/model.onnx"), ["a (x/z/model.onnx)", "a (y/z/model.onnx)"]),
        (("a",), ("x/model.onnx",), ["a"]),
    ],
)
def test_two_models_of_one_name_are_told_apart_by_their_files(names, files, expected) -> None:
    detectors = [fake_at(Path(file), name) for name, file in zip(names, files, strict=True)]
    assert view.labels(detectors) == expected
    blocks = demo_page.build(detectors, [], LIMITS).blocks.values()
    assert re.findall("<h2>(.*?)</h2>", "".join(str(getattr(block, "value", "")) for block in blocks)) == expected


def test_card_for_people_escapes_what_it_shows() -> None:
    share = Estimate(value=0.9, low=0.555, high=0.9975)
    counts = {"images": 20, "defective": 10, "tp": 9, "fp": 1, "fn": 1, "tn": 9}
    metrics = Metrics(threshold="card", **counts, f1=0.9, average_precision=0.9, recall=share, false_alarm_rate=share)
    html = view.card_text(card().model_copy(update={"network": "<script>", "metrics": metrics}))
    assert "&lt;script&gt;, 7 parameters, onnx float32" in html and "licence: CC0" in html
    assert "0.900 [0.555, 0.998] on 20 images not trained on" in html
    assert "recall" not in view.card_text(card()) and "INT8" not in view.card_text(card())


def test_card_for_people_says_what_eight_bits_cost() -> None:
    cost = Quantisation(
        calibration_images=8, images=20, defective=10, held_out=True, f1_float32=0.9, f1_int8=0.8, verdicts_changed=2
    )
    html = view.card_text(card().model_copy(update={"precision": "int8", "quantisation": cost}))
    assert "INT8</dt><dd>on 20 held-out images: F1 0.8000, in float32 0.9000; 2 verdicts changed</dd>" in html


def test_samples_are_spread_over_the_folder(tmp_path: Path) -> None:
    for i in range(30):
        write_image(tmp_path / f"{i // 10}" / f"{i:02d}.png", spotted((0, 0, i, 1)))
    write_image(tmp_path / "b.bmp", spotted()).rename(tmp_path / "B.BMP")
    (tmp_path / "notes.txt").write_text("no image")
    found = samples_of(tmp_path, LIMITS)
    assert len(found) == MAX_SAMPLES and found[0].name == "0/00.png" and found[-1].name == "B.BMP"
    assert (found[1].pixels(LIMITS) == 0).sum() == int(Path(found[1].name).stem)
    (tmp_path / "B.BMP").write_bytes(b"damaged")
    assert samples_of(tmp_path, LIMITS)[-1].name != "B.BMP"


def test_generated_samples_have_the_model_s_shape_and_kind() -> None:
    contract = card().input
    samples = generated(contract)
    assert [sample.name for sample in samples] == ["crack 1", "good 1", "crack 2", "good 2"]
    assert {sample.pixels(LIMITS).shape for sample in samples} == {(64, 32)}
    large = contract.model_copy(update={"height": 1408, "width": 512, "channels": 3})
    assert {sample.pixels(LIMITS).shape for sample in generated(large)} == {(704, 256, 3)}


# --- the command ---


@pytest.mark.parametrize("case", ["three models", "no such folder", "no images", "unusable images"])
def test_bad_options_are_one_sentence(case: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "unusable").mkdir()
    (tmp_path / "unusable" / "a.png").write_bytes(b"no image")
    (tmp_path / "none").mkdir()
    words = {
        "three models": (["a.onnx", "b.onnx", "c.onnx"], "3 models; give one, or two to compare"),
        "no such folder": (["a.onnx", "--samples", str(tmp_path / "gone")], "gone: no such folder"),
        "no images": (["a.onnx", "--samples", str(tmp_path / "none")], "none: no usable image (.png"),
        "unusable images": (["a.onnx", "--samples", str(tmp_path / "unusable")], "unusable: no usable image"),
    }
    options, sentence = words[case]
    assert main(["demo", *options, "--port", str(free_port())]) == 2
    text = capsys.readouterr().err
    assert text.startswith("anomaly-seg demo: ") and sentence in text


def test_command_shows_one_model_or_two(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(demo, "load", lambda path: FakeDetector(card(path.stem)))
    monkeypatch.setattr(demo, "create_app", lambda *given: given)
    monkeypatch.setattr(demo, "run", lambda app, listener, what: seen.append((app, what)) or 0)
    for models in (["a.onnx"], ["a.onnx", "b.xml"]):
        assert main(["demo", *models, "--port", str(free_port()), "--max-mb", "0.5"]) == 0
    assert [what for _, what in seen] == ["Try a", "Try a and b"]
    detectors, samples, limits, folder = seen[1][0]
    assert [detector.card.name for detector in detectors] == ["a", "b"] and len(samples) == 4
    assert limits.max_bytes == 500_000 and not folder.exists()  # uploads are gone with the page
    monkeypatch.setattr(demo, "load", lambda path: fake_at(path, "a"))
    assert main(["demo", "x.onnx", "y.onnx", "--port", str(free_port())]) == 0
    assert seen[-1][1] == "Try a (x.onnx) and a (y.onnx)"


# --- in the browser ---


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two models: the second gives twice the score, and has a single map and a long name."""
    samples = [
        Sample("blank", spotted()),
        Sample("spots", spotted((3, 5, 4, 2), (20, 30, 6, 7))),  # 50 dark pixels
        Sample("unwanted", spotted(width=UNWANTED_WIDTH)),
        Sample("broken", spotted(width=BROKEN_WIDTH)),
    ]
    detectors = [FakeDetector(), FakeDetector(card(LONG, threshold=200, maps=("mask",)), weight=2)]
    app = create_app(detectors, samples, LIMITS, tmp_path_factory.mktemp("uploads"))
    with running(app) as server:
        server.detectors = detectors
        yield server


def open_page(browser, server: Running, width: int, height: int):
    """The page in a context that reaches nothing but this server. It must raise no error and get no foreign answer."""
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.trouble = []
    page.on("pageerror", lambda error: page.trouble.append(str(error)))
    page.on(
        "response", lambda r: None if r.url.startswith((server.url, "data:", "blob:")) else page.trouble.append(r.url)
    )
    page.goto(server.url)
    page.wait_for_selector("#model-1 .verdict")
    return page


@pytest.fixture(scope="module")
def page(browser, server: Running) -> Iterator["sync_api.Page"]:
    page = open_page(browser, server, 1280, 900)
    yield page
    assert page.trouble == []
    page.context.close()


def verdicts(page, *expected: str) -> None:
    for number, words in enumerate(expected):
        sync_api.expect(page.locator(f"#model-{number} .verdict")).to_contain_text(words)


def choose_file(page, name: str, data: bytes) -> None:
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": data}
    page.locator("#upload input[type=file]").set_input_files(file)


def drag_file(page, name: str, data: bytes) -> None:
    script = """(zone, [name, bytes]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], name));
        zone.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
    }"""
    page.locator("#upload button:has(input)").evaluate(script, [name, list(data)])


def type_threshold(page, model: int, value: str) -> None:
    field = page.locator(f"#model-{model} input[type=number]")
    field.fill(value)
    field.press("Tab")


@browser_test
def test_verdict_in_words(page) -> None:
    def verdict(score: float | None, threshold: float) -> str:
        return page.evaluate("([score, threshold]) => demo.verdict(score, threshold)", [score, threshold])

    assert "Defective" in verdict(10.5, 10) and "score 10.5 is above the threshold 10<" in verdict(10.5, 10)
    assert "Good" in verdict(10, 10) and "score 10 is not above the threshold 10<" in verdict(10, 10)
    assert "score -3.25 is not above the threshold 0" in verdict(-3.25, 0)
    assert "score 10.00001 is above the threshold 10<" in verdict(10.00001, 10)  # and not "10 is above 10"
    assert "score 0.000002 is above the threshold 0.000001" in verdict(2e-6, 1e-6)
    assert "score 5.8e-13 is above the threshold 0<" in verdict(5.8e-13, 0)
    assert "score 123457 is above the threshold 0.1235<" in verdict(123456.7, 0.123456)
    assert "No image yet" in verdict(None, 10)


@browser_test
def test_upload_verdict_and_threshold(page, server: Running) -> None:
    verdicts(page, "No image yet", "No image yet")
    choose_file(page, "part.png", encoded(spotted((3, 5, 4, 2), (20, 30, 6, 7))))
    verdicts(page, "score 50 is above the threshold 10", "score 100 is not above the threshold 200")
    assert page.locator("#model-0 .verdict.defective b").inner_text() == "✕ Defective"
    assert page.locator("#model-1 .verdict.good b").inner_text() == "✓ Good"
    names = [page.locator(f"#model-{i} .maps figcaption").all_inner_texts() for i in (0, 1)]
    assert [[name.strip() for name in row] for row in names] == [["f1", "f2", "f3", "C", "F"], ["mask"]]
    assert page.locator("#model-0 li").first.inner_text() == "42 px at (20, 30), 6 x 7, peak 1.00"
    assert LONG in page.locator("#model-1 h2").inner_text()

    judged = [len(detector.batches) for detector in server.detectors]
    for value, words in (("50", "Good"), ("49.5", "Defective"), ("60", "Good")):
        type_threshold(page, 0, value)
        verdicts(page, words, "threshold 200")
    slider = page.locator("#model-0 input[type=range]")
    slider.focus()
    slider.press("Home")
    verdicts(page, "score 50 is above the threshold 0")
    slider.press("End")
    verdicts(page, "Good")
    assert [len(detector.batches) for detector in server.detectors] == judged  # without a new inference


@browser_test
def test_samples_keep_the_threshold(page) -> None:
    page.locator("#samples button").nth(1).click()  # its score of 50 widens the slider, which ends near 10 before
    verdicts(page, "score 50 ", "score 100 ")
    type_threshold(page, 0, "45")
    page.locator("#samples button").nth(1).click()
    verdicts(page, "score 50 is above the threshold 45", "score 100 is not")
    page.locator("#samples button").nth(0).click()
    verdicts(page, "score 0 is not above the threshold 45", "score 0 is not")


@pytest.fixture
def fresh(browser, server: Running) -> Iterator["sync_api.Page"]:
    """A page with nothing judged, which notes every verdict that the first model shows in `page.shown()`."""
    page = open_page(browser, server, 1280, 900)
    page.evaluate("""() => {
        window.shown = [];
        const model = document.querySelector("#model-0");
        const note = () => shown.push(model.querySelector(".verdict")?.innerText);
        new MutationObserver(note).observe(model, { subtree: true, childList: true, characterData: true });
    }""")
    page.shown = lambda: " | ".join(page.evaluate("shown"))
    yield page
    for detector in server.detectors:
        detector.free.set()
    assert page.trouble == []
    page.context.close()


def hold_answers(server: Running) -> Callable[[], bool]:
    """Keeps both models from answering until `free` is set. Returns whether the first has got an image since."""
    for detector in server.detectors:
        detector.free.clear()
    before = len(server.detectors[0].batches)
    return lambda: len(server.detectors[0].batches) > before


def release_answers(server: Running) -> None:
    for detector in server.detectors:
        detector.free.set()


@browser_test
def test_late_answer_keeps_what_was_typed_and_slid(fresh, server: Running) -> None:
    asked = hold_answers(server)
    fresh.locator("#samples button").nth(1).click()
    until(asked)
    type_threshold(fresh, 0, "45")  # beyond the slider's end of 12.5, which this answer moves
    slider = fresh.locator("#model-1 input[type=range]")
    slider.focus()
    slider.press("Home")
    release_answers(server)
    verdicts(fresh, "score 50 is above the threshold 45", "score 100 is above the threshold 0")
    assert fresh.locator("#model-0 input[type=number]").input_value() == "45"
    assert fresh.locator("#model-1 input[type=number]").input_value() == "0"
    assert "threshold 10" not in fresh.shown()  # not even for a moment

    asked = hold_answers(server)  # and with an image judged before
    fresh.locator("#samples button").nth(0).click()
    until(asked)
    type_threshold(fresh, 0, "55.5")
    verdicts(fresh, "score 50 is not above the threshold 55.5")
    release_answers(server)
    verdicts(fresh, "score 0 is not above the threshold 55.5", "score 0 is not above the threshold 0")


@browser_test
def test_late_answer_to_an_earlier_choice_is_dropped(fresh, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(Sample, "pixels", lambda sample, limits: loaded.append(sample) or sample.image)
    asked = hold_answers(server)
    fresh.locator("#samples button").nth(1).click()
    until(asked)
    judged = len(server.detectors[0].batches)
    fresh.locator("#samples button").nth(2).click()
    fresh.locator("#samples button").nth(0).click()
    until(lambda: len(loaded) == 3)
    release_answers(server)
    verdicts(fresh, "score 0 ", "score 0 ")
    assert "score 50" not in fresh.shown() and fresh.locator("#problem").inner_text().strip() == ""
    assert len(server.detectors[0].batches) == judged + 1  # what was passed over while it waited is not judged


@browser_test
def test_file_replaces_the_sample_that_is_being_judged(fresh, server: Running) -> None:
    asked = hold_answers(server)
    fresh.locator("#samples button").nth(1).click()
    until(asked)
    drag_file(fresh, "part.png", encoded(spotted((0, 0, 5, 6))))
    fresh.wait_for_function("demo.choice === 2")
    release_answers(server)
    verdicts(fresh, "score 30 ", "score 60 ")
    assert "score 50" not in fresh.shown()
    drag_file(fresh, "part.png", encoded(spotted((0, 0, 5, 7))))  # there is room for the next file
    verdicts(fresh, "score 35 ", "score 70 ")


@browser_test
def test_sample_replaces_the_file_that_is_on_its_way(fresh) -> None:
    held = []
    fresh.route(UPLOADS, lambda route: held.append(route))
    choose_file(fresh, "part.png", encoded(spotted((0, 0, 5, 6))))
    fresh.locator("#samples button").nth(1).click()
    verdicts(fresh, "score 50 ", "score 100 ")
    with fresh.expect_response(ANSWERS) as answer:
        held[0].continue_()
    assert answer.value.ok
    fresh.unroute(UPLOADS)
    choose_file(fresh, "next.png", encoded(spotted((0, 0, 5, 7))))
    verdicts(fresh, "score 35 ", "score 70 ")
    assert "score 30" not in fresh.shown()


@browser_test
def test_quick_clicks_end_at_the_last(page) -> None:
    for at in (1, 0, 1):
        page.locator("#samples button").nth(at).click()
    verdicts(page, "score 50 ", "score 100 ")


@browser_test
def test_what_cannot_be_judged_is_a_sentence_and_leaves_no_verdict(page) -> None:
    problem = page.locator("#problem")
    page.locator("#samples button").nth(2).click()
    sync_api.expect(problem).to_contain_text("The model takes no images 13 pixels wide")
    page.locator("#samples button").nth(3).click()
    sync_api.expect(problem).to_contain_text("The model failed on this image; the terminal says why.")
    assert "secret" not in page.content()
    for name, data, words in (
        ("notes.txt", b"words", "This is no PNG, JPEG, BMP or TIFF image; convert it"),
        ("notes.png", b"words", "This is no PNG, JPEG, BMP or TIFF image; convert it"),
        ("cut.png", encoded(spotted())[:-30], "cut.png: does not decode as an image"),
        ("wide.png", encoded(np.zeros((301, 300), np.uint8)), "more than 0.09 million pixels"),
    ):
        choose_file(page, name, data)
        sync_api.expect(problem).to_contain_text(words)
        verdicts(page, "No image yet", "No image yet")
    page.locator("#samples button").nth(1).click()
    verdicts(page, "score 50")
    assert problem.inner_text().strip() == ""


KEEP_TOASTS = """() => {
    window.toasts = []
    const bodies = () => document.querySelectorAll('[data-testid="toast-body"]')
    const look = () => bodies().forEach(body => window.toasts.push(body.textContent))
    new MutationObserver(look).observe(document.body, { childList: true, subtree: true })
}"""


@browser_test
def test_too_large_a_file_is_refused(page, server: Running) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (250, 300, 3), dtype=np.uint8)
    assert len(encoded(noise)) > LIMITS.max_bytes
    page.evaluate(
        KEEP_TOASTS
    )  # Gradio takes its messages away after ten seconds, which a busy machine may sleep through
    choose_file(page, "large.png", encoded(noise))
    page.wait_for_function("window.toasts.some(text => text.includes('maximum allowed size of 195.3 Kb'))")
    file = {"files": ("large.png", encoded(noise))}  # and past the page
    assert httpx.post(f"{server.url}/gradio_api/upload", files=file).status_code == 413


@browser_test
def test_no_file_of_the_machine_is_given_out(server: Running, tmp_path: Path) -> None:
    for path in (write_image(tmp_path / "secret.png", spotted()), Path(__file__), Path("pyproject.toml")):
        answer = httpx.get(f"{server.url}/gradio_api/file={path}")
        assert answer.status_code in (403, 404)
    assert "default-src 'self'" in httpx.get(server.url).headers["Content-Security-Policy"]


@browser_test
def test_phone_shows_everything_without_sideways_scrolling(browser, server: Running) -> None:
    page = open_page(browser, server, 390, 844)
    page.locator("#samples button").nth(1).click()
    verdicts(page, "score 50", "score 100")
    page.wait_for_function("document.documentElement.scrollWidth <= 390")
    assert page.locator("#model-0 input[type=range]").bounding_box()["width"] > 200
    tops = {round(box.bounding_box()["y"]) for box in page.locator("#model-0 .maps figure").all()}
    assert len(tops) == 1  # the five maps side by side
    assert page.trouble == []
    page.context.close()
