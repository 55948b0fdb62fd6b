"""The page in headless Chromium, offline: what the slider shows against counts worked out by hand."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_runs import write_run
from support.helpers import CHROMIUM

from anomaly_seg.reporting.report import build

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")
LABELS = [0, 0, 1, 1]
LONG = "a_very_long_name_of_a_variant_without_a_single_space_in_it"


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for dilation in (5, 9):
        about = {"dilation": dilation, "folds": 2}
        write_run(root, [1, 2, 40, 60], LABELS, pictures=True, fold=0, **about)
        write_run(root, [3, 50, 20, 80], LABELS, pictures=True, fold=1, **about)
        for fold in (0, 1):
            write_run(root, [0.1, 0.2, 0.8, 0.9], LABELS, fold=fold, model="seg_dec", variant=LONG, **about)
    return build(root).html


def open_page(browser, html: Path, width: int, height: int):
    """The page in an offline context; it must raise no error and ask for nothing but itself."""
    context = browser.new_context(viewport={"width": width, "height": height}, offline=True)
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.trouble = []
    page.on("pageerror", lambda error: page.trouble.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else page.trouble.append(r.url))
    page.goto(html.as_uri())
    page.wait_for_selector("#cards b")
    return page


@pytest.fixture
def page(browser, html: Path) -> Iterator["sync_api.Page"]:
    page = open_page(browser, html, 1280, 900)
    yield page
    assert page.trouble == []
    page.context.close()


def counts(page) -> dict[str, str]:
    cards = page.locator("#cards div").all()
    return {card.get_attribute("data-measure"): card.locator("b").inner_text() for card in cards}


def drag(page, fraction: float) -> None:
    """Drag the slider's thumb (16 px wide) to a fraction of its way."""
    slider = page.locator("#slider")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    at = int(slider.input_value()) / 1000
    x, y = (lambda f: box["x"] + 8 + f * (box["width"] - 16)), box["y"] + box["height"] / 2
    page.mouse.move(x(at), y)
    page.mouse.down()
    page.mouse.move(x((at + fraction) / 2), y)
    page.mouse.move(x(fraction), y)
    page.mouse.up()


def test_starts_at_the_oracle_and_draws_the_figures(page) -> None:
    assert page.locator("#threshold").input_value() == "11.5"
    found = counts(page)
    assert (found["TP"], found["FP"], found["FN"], found["TN"]) == ("4", "1", "0", "3")
    assert (found["P"], found["R"], found["F1"]) == ("0.800", "1.000", "0.889")
    # cross_fold judges fold 1 at 21, so its image at 20 is a miss there.
    assert page.locator("#flip-count").inner_text() == "1 image flips"
    assert page.locator("#flips li").all_inner_texts() == ["kos01/Part2.jpg (fold 1, score 20): miss → hit"]

    # The figures: five measures against D, and the scores of each method.
    assert page.locator(".dilation .js-plotly-plot").count() == 5
    assert page.locator(".dilation .js-plotly-plot").first.locator(".xtick").all_text_contents() == ["5", "9"]
    page.select_option(".dilation select", "best_f")
    assert page.locator(".dilation .js-plotly-plot").count() == 5
    page.click(".methods summary")
    page.wait_for_selector(".methods .js-plotly-plot")
    assert page.locator(".methods .js-plotly-plot").count() == 2


def test_dragging_the_threshold_counts_anew(page) -> None:
    low, high = math.asinh(1), math.asinh(80)
    room = 0.04 * (high - low)
    drag(page, (math.asinh(55) - low + room) / (high - low + 2 * room))
    assert 50 <= float(page.locator("#threshold").input_value()) < 60
    found = counts(page)  # 60 and 80 remain
    assert (found["TP"], found["FP"], found["FN"], found["TN"]) == ("2", "0", "2", "4")
    assert (found["P"], found["R"], found["F1"]) == ("1.000", "0.500", "0.667")
    assert [line.split(" (")[0] for line in page.locator("#flips li").all_inner_texts()] == [
        "kos01/Part1.jpg",  # false alarm at cross_fold (50 > 21), passed now
        "kos00/Part2.jpg",  # hit at cross_fold (40 > 11.5), missed now
    ]
    badges = page.locator("#gallery figure .badge").all_inner_texts()
    assert badges == ["miss", "miss", "hit", "hit"]  # what is wrong comes first
    page.select_option("#reference", "best_f")
    assert page.locator("#flip-count").inner_text() == "3 images flip"  # 20, 40, 50
    drag(page, 1.0)
    assert [counts(page)[n] for n in ("TP", "FP", "FN", "TN", "P", "F1")] == ["0", "0", "4", "4", "n/a", "0.000"]
    drag(page, 0.0)
    assert [counts(page)[n] for n in ("TP", "FP", "FN", "TN")] == ["4", "4", "0", "0"]


def test_buttons_and_number(page) -> None:
    page.click("#more")  # past the image at 20
    assert page.locator("#threshold").input_value() == "30"
    assert [counts(page)[n] for n in ("TP", "FP", "FN", "TN")] == ["3", "1", "1", "3"]
    page.click("#fewer")
    page.click("#fewer")  # past 20 and 3
    assert page.locator("#threshold").input_value() == "2.5"
    page.fill("#threshold", "3")  # equal to a score: that image is not above it
    assert [counts(page)[n] for n in ("TP", "FP", "FN", "TN")] == ["4", "1", "0", "3"]
    page.click("#jumps button[data-kind=paper]")
    assert page.locator("#threshold").input_value() == "25"


def test_choosing_fold_and_method(page) -> None:
    page.select_option("#choose-fold select", "1")
    assert page.locator("#threshold").input_value() == "21"  # a single fold has a single cross_fold threshold
    assert [counts(page)[n] for n in ("TP", "FP", "FN", "TN")] == ["1", "1", "1", "1"]
    assert page.locator("#gallery figure").count() == 2
    page.click("#per-image summary")
    page.wait_for_selector("#images tbody tr")
    assert page.locator("#images tbody tr").count() == 4
    page.select_option("#choose-method select", f"Seg-Dec ({LONG})")
    page.select_option("#choose-fold select", "all")
    assert page.locator("#threshold").input_value() == "0.5"
    assert [counts(page)[n] for n in ("TP", "FP", "FN", "TN")] == ["4", "0", "0", "4"]
    assert page.locator("#jumps button[data-kind=paper]").count() == 0  # nothing was published
    assert "No pictures" in page.locator("#picture-note").inner_text()


def test_phone_shows_everything_without_sideways_scrolling(browser, html: Path) -> None:
    page = open_page(browser, html, 390, 844)
    for summary in page.locator("summary").all():
        summary.click()
    page.wait_for_selector(".methods .js-plotly-plot")  # drawn by the last of the events that the clicks sent
    page.wait_for_function("document.documentElement.scrollWidth <= 390")
    assert page.locator("#slider").bounding_box()["width"] > 200
    assert page.trouble == []
    page.context.close()
