"""MLflow: what a sweep leaves in its SQLite file, and its UI in a browser."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import CHROMIUM
from mlflow.tracking import MlflowClient
from tiny_runs import tiny_config

from anomaly_seg.loggers import summary
from anomaly_seg.results import read_result
from anomaly_seg.run import run
from anomaly_seg.settings import relevant


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """Two folds under logger=mlflow."""
    output = tmp_path_factory.mktemp("tracked")
    for fold in (0, 1):
        run(tiny_config(output, f"fold={fold}", "logger=mlflow", "epochs=2"))
    return output


def test_one_run_a_job_with_everything(tracked: Path) -> None:
    client = MlflowClient(f"sqlite:///{tracked}/mlflow.db")
    experiment = client.get_experiment_by_name("train")
    assert experiment is not None
    found = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    names = [f"train/synthetic/one_stage/D9/fold{fold}/seed0" for fold in (0, 1)]
    assert sorted(found) == names
    for name in names:
        logged, result = found[name], read_result(tracked / name)
        for metric, value in summary(result).items():
            assert logged.data.metrics[metric] == pytest.approx(value)
        history = client.get_metric_history(logged.info.run_id, "loss")
        assert len(history) == 2 and history[-1].value == pytest.approx(result.training.final_loss)
        assert logged.data.params["model.name"] == "one_stage" and logged.data.params["fold"] == name[-7]
        assert logged.data.tags["dilation"] == "D9" and logged.info.status == "FINISHED"
        pictures = {p.stem for p in (tracked / name / "pictures").glob("*.png")}
        shown = {Path(a.path).stem for a in client.list_artifacts(logged.info.run_id, "pictures")}
        assert pictures and shown == pictures


def test_settings_that_decide_are_logged(tracked: Path) -> None:
    config = tiny_config(tracked, "logger=mlflow")
    assert "optimizer.lr" in relevant({"optimizer": dict(config.optimizer)})


@pytest.fixture
def ui(tracked: Path) -> Iterator[str]:
    """The address of `mlflow ui` on a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["ui", "--backend-store-uri", f"sqlite:///{tracked}/mlflow.db", "--port", str(port), "--workers", "1"]
    env = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    address, deadline = f"http://127.0.0.1:{port}", time.time() + 120
    try:
        while True:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5)
                break
            except (urllib.error.URLError, OSError):
                assert time.time() < deadline and server.poll() is None, "mlflow ui did not start"
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


@pytest.mark.skipif(CHROMIUM is None, reason="needs the system's Chromium")
def test_ui_shows_the_runs(browser, ui: str, tracked: Path, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    client = MlflowClient(f"sqlite:///{tracked}/mlflow.db")
    experiment = client.get_experiment_by_name("train")
    assert experiment is not None
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.route("**/*", lambda route: route.continue_() if ui in route.request.url else route.abort())
    page.goto(f"{ui}/#/experiments/{experiment.experiment_id}/runs")
    for fold in (0, 1):
        name = f"train/synthetic/one_stage/D9/fold{fold}/seed0"
        expect(page.get_by_text(name).first).to_be_visible(timeout=60_000)
    page.screenshot(path=str(Path(os.environ.get("ANOMALY_SEG_SCREENSHOTS", tmp_path)) / "mlflow.png"))
    page.close()
