"""The journal of a sweep: one file a line below the output folder, never fatal, swept away when its command is gone."""

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
from joblib.externals.loky import get_reusable_executor

from anomaly_seg.training import journal, sweep
from anomaly_seg.training.sweep import Failure, train


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(journal.JOURNAL, str(tmp_path / "nowhere"))
    journal.open_below(tmp_path)
    return Path(os.environ[journal.JOURNAL])


def test_one_file_a_line_in_order(opened: Path, tmp_path: Path) -> None:
    assert opened.parent == tmp_path
    for number in range(3):
        journal.append({"status": "done", "run": number})
    assert [line["run"] for line in journal.read()] == [0, 1, 2]
    assert [json.loads(path.read_text())["run"] for path in sorted(opened.iterdir())] == [0, 1, 2]


def test_a_line_that_cannot_be_written_or_read_is_left_out(opened: Path) -> None:
    journal.append({"status": "done"})
    (opened / "0.json").write_text("{", encoding="utf-8")
    (opened / "1.json").mkdir()
    assert journal.read() == [{"status": "done"}]
    for path in opened.glob("*.json"):
        path.rmdir() if path.is_dir() else path.unlink()
    opened.rmdir()  # as where a later command has swept it away
    journal.append({"status": "done"})
    assert journal.read() == [] and not opened.exists()


def test_joblibs_workers_end_with_their_sweep() -> None:
    # They keep the environment they began with, so a second sweep's runs would write to the journal of the first.
    with sweep._journal():
        first = get_reusable_executor(max_workers=1).submit(os.getenv, journal.JOURNAL).result(timeout=60)
        assert first == os.environ[journal.JOURNAL]
    with sweep._journal():
        second = get_reusable_executor(max_workers=1).submit(os.getenv, journal.JOURNAL).result(timeout=60)
        assert second == os.environ[journal.JOURNAL] != first


def test_without_a_place_the_journal_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(journal.JOURNAL, str(tmp_path))
    journal.open_below(tmp_path / "no folder")
    assert os.environ[journal.JOURNAL] == str(tmp_path)


def made(output_dir: Path, pid: int, host: str, days: float) -> str:
    folder = output_dir / f"{journal.PREFIX}{pid}-{host}-{days}"
    folder.mkdir()
    (folder / "0.json").touch()
    os.utime(folder, (time.time() - days * 86_400,) * 2)
    return folder.name


def test_journals_of_commands_that_are_gone_are_swept_away(tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    dead, here = process.pid, socket.gethostname()
    kept = [made(tmp_path, dead, here, 0.5), made(tmp_path, os.getpid(), here, 20), made(tmp_path, dead, "node7", 20)]
    made(tmp_path, dead, "node8", 31)
    made(tmp_path, dead, here, 2)
    (tmp_path / ".journal-x").mkdir()
    journal.prune(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, ".journal-x"}


def test_a_run_without_a_word_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(words: list[str]) -> None:
        journal.append({"status": "start", "total": 3, "time": 0.0})
        journal.append({"status": "done", "run": "a", "folder": "a"})

    monkeypatch.setattr("anomaly_seg.training.sweep._launch", launch)
    training = train([])
    assert training.folders == (Path("a"),) and training.exit_code == 1
    assert training.failures == (
        Failure(
            "2 of 3 runs",
            "no word of how they ended (1 of 3 runs left one): look into their folders, or run again",
            None,
            False,
        ),
    )
