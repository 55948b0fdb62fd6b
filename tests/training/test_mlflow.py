"""MLflow: what a sweep leaves in its SQLite file, and its UI in a browser."""

import multiprocessing
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from support.helpers import CHROMIUM
from support.tiny_runs import tiny_settings

from anomaly_seg.results.run_files import read_result
from anomaly_seg.settings import Settings
from anomaly_seg.training.loggers import make_logger, summary
from anomaly_seg.training.run import run


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """Two folds under logger=mlflow."""
    output = tmp_path_factory.mktemp("tracked")
    for fold in (0, 1):
        run(tiny_settings(output, f"fold={fold}", "logger=mlflow", "epochs=2"))
    return output


def runs_of(output: Path, name: str = "train") -> list[Run]:
    """Of one experiment."""
    client = MlflowClient(f"sqlite:///{output}/mlflow.db")
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def plain(output: Path, *overrides: str) -> Settings:
    """The settings of a tiny run under logger=mlflow."""
    return tiny_settings(output, "logger=mlflow", *overrides)


def test_one_run_a_job_with_everything(tracked: Path) -> None:
    client = MlflowClient(f"sqlite:///{tracked}/mlflow.db")
    found = {r.info.run_name: r for r in runs_of(tracked)}
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


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_run_that_did_not_end_well_says_so(
    tracked: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object) -> None:
        raise error

    name = f"train_{error.__name__}"
    monkeypatch.setattr("anomaly_seg.training.run.evaluate", stop)
    with pytest.raises(error):
        run(tiny_settings(tracked, "logger=mlflow", f"experiment_name={name}"))
    (logged,) = runs_of(tracked, name)
    assert logged.info.status == "FAILED"


def test_settings_that_decide_are_logged(tracked: Path) -> None:
    first = next(r for r in runs_of(tracked) if r.data.params["fold"] == "0")
    record = yaml.safe_load((tracked / first.info.run_name / "config.yaml").read_text())
    assert first.data.params == {key: str(value) for key, value in Settings.of(record).relevant().items()}
    assert (first.data.params["optimizer.lr"], first.data.params["epochs"]) == ("0.001", "2")
    assert "output_dir" not in first.data.params


def start_logging(settings: Settings, both: Barrier) -> None:
    """What a job does before it trains, at the same moment as another one; in a process of its own."""
    both.wait(200)
    make_logger(settings, settings.folder).close(failed=False)


def test_two_jobs_may_be_the_first_at_once(tmp_path: Path) -> None:
    # A fork has imported everything already, so that the two really meet.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    both = context.Barrier(2)
    settings = [plain(tmp_path, f"fold={fold}") for fold in (0, 1)]
    jobs = [context.Process(target=start_logging, args=(chosen, both)) for chosen in settings]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(300)
    assert [job.exitcode for job in jobs] == [0, 0]  # without a lock, one finds the other's half-made tables
    assert sorted(r.data.params["fold"] for r in runs_of(tmp_path)) == ["0", "1"]


def test_artifacts_go_beside_the_runs_unless_a_server_has_its_own_place(tracked: Path) -> None:
    address = f"sqlite:///{tracked}/mlflow.db"
    client = MlflowClient(address)
    local = client.get_experiment_by_name("train")
    assert local is not None and local.artifact_location == f"file://{tracked}/mlflow-artifacts"
    chosen = plain(tracked, f"logger.tracking_uri={address}", "experiment_name=served")
    make_logger(chosen, tracked / "served").close(failed=False)
    served = client.get_experiment_by_name("served")
    assert served is not None and served.artifact_location.endswith(f"/mlruns/{served.experiment_id}")  # its default


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
