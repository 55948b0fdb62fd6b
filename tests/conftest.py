"""What all tests share: one thread, a cache of their own, and tiny runs."""

import os
import signal
import sys

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # what was started in the background is deaf to Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # read when torch is imported; small tests lose by threads
    os.environ.setdefault(variable, "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("project", deadline=None)  # a busy machine fails no test
settings.load_profile("project")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests of whole sweeps, which take half a minute each, to the front: at the end one core would wait."""
    items.sort(key=lambda item: item.path.name not in ("test_sweep.py", "test_sharing.py"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread for each test, whatever a run in the one before chose: two on a busy machine wait for each other."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder for this session, so that no test reads or fills the user's."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("ANOMALY_SEG_CACHE")
    os.environ["ANOMALY_SEG_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["ANOMALY_SEG_CACHE"]
    else:
        os.environ["ANOMALY_SEG_CACHE"] = before


@pytest.fixture
def configure(tmp_path: Path) -> Callable:
    """`configure(*overrides)` composes a tiny run with its folders below this test's temporary one."""
    from support.tiny_runs import tiny_settings

    return lambda *overrides: tiny_settings(tmp_path / "runs", *overrides)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, for the tests of pages that need one."""
    from playwright.sync_api import sync_playwright
    from support.helpers import CHROMIUM, CHROMIUM_FLAGS

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()
