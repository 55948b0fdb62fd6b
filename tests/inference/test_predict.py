"""`anomaly-seg predict` with a detector that counts dark pixels: every score, box and area is known by hand."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from filelock import FileLock
from support.helpers import write_image
from support.paths import ROOT, TESTS
from support.web_helpers import BROKEN_WIDTH, FakeDetector, card, spotted

from anomaly_seg.cli import main
from anomaly_seg.errors import InputError
from anomaly_seg.inference import predict
from anomaly_seg.inference.find_images import find_images
from anomaly_seg.inference.image_input import read_image
from anomaly_seg.inference.overlay import BARS, BOX, marked, overlay
from anomaly_seg.inference.predict import Judge, judge_all, watch_folders
from anomaly_seg.inference.prediction import Prediction, Region, find_regions
from anomaly_seg.inference.predictions_file import Record
from anomaly_seg.inference.watch import Timing

GOOD, BAD = spotted((3, 4, 2, 2)), spotted((3, 4, 4, 5), (20, 30, 3, 3))  # 4 and 20 + 9 dark pixels; threshold 10
QUICK = Timing(tick=0.02, settle=0.3, give_up=3, rescan=60)


class Detector(FakeDetector):
    """Remembers the files that were read for it, and calls ``during`` before each."""

    def __init__(self, during: Callable[[int], None] = lambda count: None, **options: Any) -> None:
        super().__init__(**options)
        self.asked: list[str] = []
        self.during = during

    def read(self, path: str) -> np.ndarray:
        self.asked.append(path)
        self.during(len(self.asked))
        return read_image(path)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`run(*words)`: predict with a fake model, from inside the test's folder, writing to "out"; `run.detector`."""
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> int:
        loader = SimpleNamespace(load=lambda path: command.detector)
        monkeypatch.setitem(sys.modules, "anomaly_seg.inference.load", loader)
        monkeypatch.setattr(predict, "read_image", lambda path: command.detector.read(path))
        return main(["predict", "fake.onnx", *words, *([] if "--out" in words else ["--out", "out"])])

    command.detector = Detector()
    return command


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """One good and one defective image, and a good one in a folder below."""
    folder = tmp_path / "parts"
    for name, pixels in (("a.png", GOOD), ("b.bmp", BAD), ("late/a.TIFF", GOOD)):
        write_image(folder / name, pixels)
    return folder


def lines(folder: Path = Path("out")) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def table(folder: Path = Path("out")) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_by_hand(run, parts: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("parts") == 3
    assert "3 images: 2 good, 1 defective, 0 unreadable; out/predictions.csv" in capsys.readouterr().out
    paths = ["parts/a.png", "parts/b.bmp", "parts/late/a.TIFF"]
    assert [row["path"] for row in lines()] == [row["path"] for row in table()] == paths
    assert lines()[1] | {"modified": 0, "changed": 0, "inode": 0} == {
        "path": "parts/b.bmp",
        "score": 29.0,
        "threshold": 10.0,
        "verdict": "defective",
        "regions": [
            {"x": 3, "y": 4, "width": 4, "height": 5, "area": 20, "peak": 1.0},
            {"x": 20, "y": 30, "width": 3, "height": 3, "area": 9, "peak": 1.0},
        ],
        "overlay": None,
        "error": None,
        "bytes": (parts / "b.bmp").stat().st_size,
        "modified": 0,
        "changed": 0,
        "inode": 0,
        "note": None,
    }
    assert table()[1] == {
        "path": "parts/b.bmp",
        "score": "29.0",
        "threshold": "10.0",
        "verdict": "defective",
        "defects": "2",
        "area": "29",
        "boxes": "[[3, 4, 4, 5], [20, 30, 3, 3]]",
        "areas": "[20, 9]",
        "overlay": "",
        "error": "",
        "note": "",
    }
    assert [row["verdict"] for row in table()] == ["good", "defective", "good"]


def test_the_threshold_given_replaces_the_models(run, parts: Path) -> None:
    assert run("parts", "--threshold", "29") == 0  # defective only above it
    assert {row["threshold"] for row in lines()} == {29.0}
    assert run("parts", "--threshold", "28.5", "--out", "other") == 3


def test_an_unreadable_file_is_reported_and_the_rest_go_on(run, parts: Path, capsys: pytest.CaptureFixture) -> None:
    (parts / "aa.png").write_text("no image", encoding="utf-8")
    (parts / "ab.png").write_bytes((parts / "a.png").read_bytes()[:60])
    (parts / "ac.png").write_bytes(b"")
    assert run("parts") == 4
    said = capsys.readouterr()
    assert [row["verdict"] for row in table()] == ["good", "", "", "", "defective", "good"]
    for name, row, line in zip(("aa", "ab", "ac"), table()[1:4], lines()[1:4], strict=True):
        message = f"parts/{name}.png: does not decode as an image; give a whole PNG, JPEG, BMP or TIFF, or leave it out"
        assert row["error"] == line["error"] == message
        assert message in said.err and "Traceback" not in said.err
        assert (line["score"], line["verdict"], row["defects"], row["boxes"]) == (None, None, "", "[]")
    assert "2 good, 1 defective, 3 unreadable" in said.out


def test_an_image_the_model_does_not_take_and_a_score_that_is_no_number(run, tmp_path: Path) -> None:
    write_image(tmp_path / "wide.png", spotted(width=13))
    assert run("wide.png") == 4
    assert table()[0]["error"] == "wide.png: The model takes no images 13 pixels wide; send a wider one."
    run.detector.weight = math.nan
    write_image(tmp_path / "a.png", GOOD)
    assert run("a.png", "--out", "nan") == 4
    assert "gives the score nan" in table(Path("nan"))[0]["error"]


def test_a_model_that_fails_on_one_image_judges_the_others(run, parts: Path, capsys) -> None:
    write_image(parts / "aa.png", spotted(width=BROKEN_WIDTH))
    assert run("parts", "--overlays") == 4
    assert [row["verdict"] for row in table()] == ["good", "", "defective", "good"]
    message = "parts/aa.png: the model failed on it (RuntimeError: secret detail); check the image and the model"
    assert table()[1]["error"] == message and message in capsys.readouterr().err


def test_paths(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(parts.parent)
    every = ["parts/a.png", "parts/b.bmp", "parts/late/a.TIFF"]
    write_image(parts / ".hidden/a.png", GOOD)
    write_image(parts / ".a.png", GOOD)
    (parts / "notes.txt").write_text("x", encoding="utf-8")
    (parts / "late/back").symlink_to(parts)  # a loop

    def found(*given: str) -> list[str]:
        return find_images(given, Path("parts/overlays"))

    assert found("parts") == every
    assert found("parts/*.png") == every[:1]
    assert found("parts/**/a.*") == [every[0], every[2]]
    assert found("par*") == every  # a folder by glob
    assert found("parts/late/a.TIFF", "parts", "./parts/a.png", str(parts / "b.bmp"), "parts/late/../a.png") == [
        every[2],
        *every[:2],
    ]
    assert found("parts/notes.txt") == ["parts/notes.txt"]  # named itself: whether it is an image is seen later
    write_image(parts / "x[1].png", GOOD)
    assert found("parts/x[1].png") == ["parts/x[1].png"]
    write_image(parts / "overlays/a_1.jpg", GOOD)
    assert "parts/overlays/a_1.jpg" not in found("parts", "parts/**/*.jpg", "parts/*")
    (parts / "overlays2").mkdir()
    write_image(parts / "overlays2/c.png", GOOD)
    assert found("parts/overlays2") == ["parts/overlays2/c.png"]


def test_a_linked_folder_is_followed(tmp_path: Path, parts: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links/there").symlink_to(parts)
    found = find_images([str(tmp_path / "links")], tmp_path / "out")
    assert [Path(p).name for p in found] == ["a.png", "b.bmp", "a.TIFF"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "nowhere: no such file or folder; check the path"),
        (["parts", "*.gif"], "*.gif: matches no file; check the pattern"),
        (["empty"], "empty: holds no image (.png .jpg"),
        (["parts", "--threshold", "nan"], "--threshold nan: has to be a finite number"),
        (["parts", "--threshold", "inf"], "--threshold inf: has to be a finite number"),
        (["parts/a.png", "--watch"], "parts/a.png: no such folder; --watch takes folders"),
        (["parts", "--out", "parts/a.png"], "parts/a.png: cannot be written"),
        (["parts", "--out", "foreign"], "foreign: holds verdicts of another run (predictions.json is missing"),
    ],
)
def test_unusable_input_is_one_sentence(run, parts: Path, words: list[str], says: str, capsys) -> None:
    Path("empty").mkdir()
    Path("foreign").mkdir()
    (Path("foreign") / "predictions.csv").write_text("mine\n", encoding="utf-8")
    assert run(*words) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"anomaly-seg predict: {says}") and text.count("\n") == 1, text
    assert run.detector.asked == []
    assert (Path("foreign") / "predictions.csv").read_text(encoding="utf-8") == "mine\n"


def test_a_folder_without_rights_is_not_passed_over(run, parts: Path, capsys, monkeypatch) -> None:
    scandir = os.scandir

    def refuse(path):  # rights mean nothing to root, as whom tests may run
        if str(path).endswith("late"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert run("parts") == 2
    assert "parts/late: cannot be read (Permission denied)" in capsys.readouterr().err


def test_the_same_command_again_goes_on(run, parts: Path, capsys) -> None:
    (parts / "c.png").write_text("no image", encoding="utf-8")
    assert run("parts") == 4
    before = lines()
    run.detector.asked.clear()
    assert run("parts") == 4  # what was judged before counts
    assert run.detector.asked == ["parts/c.png"]  # an unreadable file is tried again, and not listed again
    assert lines() == before and [row["path"] for row in table()] == [row["path"] for row in before]
    assert capsys.readouterr().out.count("4 images: 2 good, 1 defective, 1 unreadable") == 2

    write_image(parts / "c.png", GOOD)
    os.utime(parts / "b.bmp", ns=(1, 1))  # another image under an old name
    write_image(parts / "d.png", GOOD)
    assert run(str(parts)) == 3  # in other words, still the same files
    assert run.detector.asked[1:] == [str(parts / name) for name in ("b.bmp", "c.png", "d.png")]
    assert lines()[: len(before)] == before and len(lines()) == len(before) + 3
    assert run("parts/a.png") == 0  # only what is named counts


@pytest.mark.parametrize("change", ["model", "threshold", "overlays", "folder"])
def test_verdicts_of_another_run_are_not_mixed(
    run, parts: Path, change: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    assert run("parts", "--out", str(tmp_path / "out")) == 3
    before, words = (tmp_path / "out/predictions.jsonl").read_bytes(), []
    if change == "model":
        run.detector = Detector(model_card=card("other"))
    elif change == "folder":
        monkeypatch.chdir(parts)
    else:
        words = ["--threshold", "11"] if change == "threshold" else ["--overlays"]
    assert run("." if change == "folder" else "parts", "--out", str(tmp_path / "out"), *words) == 2
    says = {
        "model": "model fake, now other",
        "threshold": "threshold 10.0, now 11.0",
        "overlays": "overlays False, now True",
        "folder": f"relative to {tmp_path}, now {parts}",
    }[change]
    assert f"holds verdicts of another run ({says}); choose another --out, or delete it" in capsys.readouterr().err
    assert (tmp_path / "out/predictions.jsonl").read_bytes() == before


def test_a_model_file_that_changed_is_another_model(run, parts: Path, tmp_path: Path, capsys) -> None:
    run.detector.path = tmp_path / "model.onnx"
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    assert run("parts", "--out", "onnx") == 3
    (tmp_path / "model.bin").write_bytes(b"weights of a model for OpenVINO, exported later")
    assert run("parts", "--out", "onnx") == 3
    assert "holds verdicts" not in capsys.readouterr().err

    run.detector.path = tmp_path / "model.xml"
    (tmp_path / "model.xml").write_bytes(b"graph")
    (tmp_path / "model.bin").write_bytes(b"weights")
    assert run("parts") == 3
    (tmp_path / "model.bin").write_bytes(b"others")
    assert run("parts") == 2
    assert "sha256 " in capsys.readouterr().err


def test_absolute_paths_go_on_from_any_folder(run, parts: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    out, image = str(tmp_path / "out"), str(parts / "a.png")
    assert run(image, "--out", out) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run.detector.asked.clear()
    assert run(image, "--out", out) == 0 and run.detector.asked == []  # the verdict from the other folder counts
    monkeypatch.chdir(tmp_path)
    assert run("parts/b.bmp", "--out", out) == 3  # from now on the rows depend on the folder ...
    assert run(image, "--out", out) == 0
    monkeypatch.chdir(parts)
    assert run(image, "--out", out) == 2  # ... whatever is named later
    assert f"(relative to {tmp_path}, now {parts})" in capsys.readouterr().err


def test_records_of_older_versions_go_on_where_they_were(run, parts: Path, tmp_path: Path, monkeypatch) -> None:
    out = str(tmp_path / "out")
    assert run(str(parts), "--out", out) == 3
    about = json.loads(Path(out, "predictions.json").read_text(encoding="utf-8"))
    Path(out, "predictions.json").write_text(json.dumps(about | {"relative to": str(tmp_path)}), encoding="utf-8")
    run.detector.asked.clear()
    assert run(str(parts), "--out", out) == 3 and run.detector.asked == []
    monkeypatch.chdir(parts)
    assert run(str(parts), "--out", out) == 2  # which of its paths are relative is not known


def test_images_far_from_the_sizes_trained_on_are_said_once_and_noted(run, parts: Path, capsys) -> None:
    write_image(parts / "c.png", spotted(height=129, width=40))  # trained on 48 to 64 x 32 to 40
    write_image(parts / "d.png", spotted(height=48, width=81))
    trained = "pixels, far from the 48 to 64 x 32 to 40 trained on: its"
    notes = {
        "parts/c.png": f"129 x 40 {trained} height is more than 2 times the largest",
        "parts/d.png": f"48 x 81 {trained} width is more than 2 times the largest",
    }
    says = (
        "2 images are far in size from those trained on, so verdicts may mislead (column note of predictions.csv): "
        f"parts/c.png: {notes['parts/c.png']}\n"
    )
    for _ in range(2):  # the second time from the record
        assert run("parts") == 3
        assert capsys.readouterr().err.count(says) == 1
        assert {row["path"]: row["note"] for row in lines() if row["note"]} == notes
        assert {row["path"]: row["note"] for row in table() if row["note"]} == notes
    assert run("parts/a.png", "--out", "other") == 0
    assert "trained on" not in capsys.readouterr().err


def test_rows_of_versions_without_notes_go_on(run, parts: Path) -> None:
    assert run("parts") == 3
    rows = lines()
    for row in rows:
        del row["note"]
    Path("out/predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run.detector.asked.clear()
    assert run("parts") == 3 and run.detector.asked == [] and {row["note"] for row in table()} == {""}


def test_two_predicts_do_not_write_into_one_folder(run, parts: Path, capsys) -> None:
    Path("out").mkdir()
    with FileLock("out/.predictions.jsonl.lock"):
        assert run("parts") == 2
    assert "out: another predict writes there; wait for it, or choose another --out" in capsys.readouterr().err
    assert run("parts") == 3


def test_a_row_is_on_disk_before_the_next_image(run, parts: Path) -> None:
    def rows_so_far(count: int) -> None:
        assert len(lines()) == len(table()) == count - 1

    run.detector.during = rows_so_far
    assert run("parts") == 3
    assert len(run.detector.asked) == 3


KILLED = """
import os, signal, sys
from types import SimpleNamespace
sys.path.insert(0, {tests!r})
from inference.test_predict import Detector
from anomaly_seg.cli import main
from anomaly_seg.inference import predict
detector = Detector(lambda count: os.kill(os.getpid(), signal.SIGKILL) if count == 3 else None)
sys.modules["anomaly_seg.inference.load"] = SimpleNamespace(load=lambda path: detector)
predict.read_image = detector.read
main(["predict", "fake.onnx", "parts", "--out", "out"])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_kill_loses_nothing(run, parts: Path) -> None:
    code = KILLED.format(tests=str(TESTS))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == -signal.SIGKILL
    assert [row["path"] for row in lines()] == ["parts/a.png", "parts/b.bmp"]
    # ... and one that comes in the middle of a line is mended.
    with open("out/predictions.jsonl", "a", encoding="utf-8") as file:
        file.write('{"path": "parts/late/a.TI')
    Path("out/predictions.csv").write_text("path,score\nparts/a.p", encoding="utf-8")
    assert run("parts") == 3
    assert run.detector.asked == ["parts/late/a.TIFF"]
    expected = ["parts/a.png", "parts/b.bmp", "parts/late/a.TIFF"]
    assert [row["path"] for row in lines()] == [row["path"] for row in table()] == expected


@pytest.mark.skipif(sys.platform == "win32", reason="no such pipes there")
def test_a_reader_that_leaves_does_not_end_the_work() -> None:
    """`anomaly-seg predict ... --watch | head -1`"""
    code = (
        "import sys; from anomaly_seg.inference.predict import _say; [_say('x' * 9999, sys.stdout) for _ in range(99)]"
    )
    command = f"{{ '{sys.executable}' -c \"{code}\"; echo $? >&2; }} | true"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True)
    assert done.stderr == "0\n"


def test_predict_needs_no_torch_and_none_of_the_libraries_of_evaluation() -> None:
    heavy = ("torch", "scipy", "sklearn", "pandas", "watchfiles")
    code = f"import sys, anomaly_seg.inference.predict; print([m for m in {heavy} if m in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_damaged_record_is_named(run, parts: Path, capsys) -> None:
    run("parts")
    path = Path("out/predictions.jsonl")
    path.write_text("nonsense\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert run("parts") == 2
    assert "out/predictions.jsonl: line 1 is damaged; choose another --out" in capsys.readouterr().err


def test_a_full_disk_is_a_sentence_and_the_next_run_goes_on(run, parts: Path, monkeypatch, capsys) -> None:
    add = Record.add

    class Full:
        def write(self, text: str) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            raise OSError(28, "No space left on device")

    def second_fails(record: Record, row: Any) -> None:
        if len(run.detector.asked) == 2:
            record._files[0] = Full()
        add(record, row)

    monkeypatch.setattr(Record, "add", second_fails)
    assert run("parts") == 2
    assert "out: cannot be written (No space left on device); free space and run the same" in capsys.readouterr().err
    monkeypatch.setattr(Record, "add", add)
    assert run("parts") == 3
    assert len(lines()) == len(table()) == 3


def test_ctrl_c_finishes_the_row_and_the_same_command_goes_on(run, parts: Path, capsys) -> None:
    before = signal.getsignal(signal.SIGINT)
    run.detector.during = lambda count: signal.raise_signal(signal.SIGINT) if count == 2 else None
    assert run("parts") == 130
    assert "interrupted; the same command goes on from here" in capsys.readouterr().err
    assert len(lines()) == len(table()) == 2
    assert signal.getsignal(signal.SIGINT) is before
    assert run("parts") == 3
    assert len(lines()) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_with_commas_line_breaks_and_bytes_that_are_no_text(run, tmp_path: Path, capsys) -> None:
    names = ["a,b.png", 'a"b.png', "a\nb.png", "ä漢.png", os.fsdecode(b"a\xff.png"), "x" * 250 + ".png"]
    encoded = cv2.imencode(".png", BAD)[1].tobytes()
    for name in names:
        (tmp_path / "odd" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "odd" / name).write_bytes(encoded)
    (tmp_path / "odd" / os.fsdecode(b"b\xfe.png")).write_text("no image", encoding="utf-8")
    assert run("odd", "--overlays") == 4
    expected = sorted([*names, os.fsdecode(b"b\xfe.png")])
    assert [row["path"] for row in lines()] == [row["path"] for row in table()] == [f"odd/{name}" for name in expected]
    assert len(list(Path("out/overlays").iterdir())) == 6
    run.detector.asked.clear()
    assert run("odd", "--overlays") == 4
    assert run.detector.asked == [f"odd/{os.fsdecode(b'b' + bytes([254]) + b'.png')}"]


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", spotted(height=64, width=64))
    for i in range(1, 440):
        os.link(tmp_path / "0.png", tmp_path / f"{i}.png")

    def peak(count: int) -> int:
        with Record(tmp_path / f"out{count}", {}) as record:
            judge = Judge(Detector(), 10, record, None)
            paths = [str(tmp_path / f"{i}.png") for i in range(count)]
            tracemalloc.start()
            judge_all(paths, judge, threading.Event())
            highest = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return highest

    peak(10)  # what is loaded once
    # A kept heat map would be 16 kB each; the record's own row of each image is all that grows.
    assert (peak(440) - peak(40)) / 400 < 2000


def test_an_overlay_longer_than_a_jpeg_may_be_is_shrunk(run) -> None:
    write_image(Path("long.png"), spotted((1, 66_000, 3, 3), height=70_000, width=20))
    assert run("long.png", "--overlays") == 0
    picture = cv2.imread(f"out/{table()[0]['overlay']}")
    assert picture.shape == (65_000, 19, 3)  # 70,000 and the bar's 24 rows, by 65,000 / 70,024


def test_a_large_overlay_is_blended_in_strips() -> None:
    """300 rows are more than one strip: black under full heat is 0.6 of the hottest colour, everywhere."""
    image, heat = np.zeros((300, 400), np.uint8), np.ones((300, 400), np.float32)
    picture = marked(image, Prediction(1.0, 0.0, "defective", heat, ()))
    colour = cv2.applyColorMap(np.full((1, 1), 220, np.uint8), cv2.COLORMAP_TURBO)[0, 0]
    assert (picture == np.rint(np.float32(0.6) * colour)).all()


def test_overlays_of_equal_names_do_not_collide(run, parts: Path) -> None:
    write_image(parts / "late/b.bmp", GOOD)
    write_image(parts / "b.png", GOOD)
    assert run("parts", "--overlays") == 3
    names = [row["overlay"] for row in table()]
    assert len(set(names)) == 5 and all((Path("out") / name).is_file() for name in names)
    assert [Path(name).name.split("_")[0] for name in names] == ["a", "b", "b", "a", "b"]
    run.detector.asked.clear()
    assert run("parts", "--overlays") == 3 and run.detector.asked == []
    assert run("out/../parts", "out", "--overlays") == 2  # "out" holds nothing but overlays, which are not judged


def test_an_overlay_that_is_gone_is_drawn_again(run, parts: Path) -> None:
    assert run("parts", "--overlays") == 3
    pictures = {row["path"]: Path("out") / row["overlay"] for row in table()}
    drawn = pictures["parts/b.bmp"].read_bytes()
    pictures["parts/b.bmp"].unlink()
    run.detector.asked.clear()
    assert run("parts", "--overlays") == 3
    assert run.detector.asked == ["parts/b.bmp"] and pictures["parts/b.bmp"].read_bytes() == drawn
    for picture in pictures.values():
        picture.unlink()
    assert run("parts", "--overlays") == 3 and all(picture.is_file() for picture in pictures.values())
    assert len(run.detector.asked) == 1 + 3


def test_overlay_by_hand() -> None:
    image = np.full((400, 400), 100, np.uint8)
    heat = np.zeros((400, 400), np.float32)
    heat[200:210, 100:120] = 1
    picture = overlay(image, Prediction(200.0, 10.0, "defective", heat, find_regions(heat)))
    bar = len(picture) - 400
    assert 0 < bar < 60 and picture.shape[1:] == (400, 3)
    assert tuple(picture[0, 0]) == BARS["defective"]
    below = picture[bar:]
    assert tuple(below[300, 300]) == (100, 100, 100)  # untouched where the heat map is 0
    turbo = cv2.applyColorMap(np.full((1, 1), 220, np.uint8), cv2.COLORMAP_TURBO)[0, 0]
    assert np.array_equal(below[205, 110], np.rint(0.4 * 100 + 0.6 * turbo))
    for y, x in ((197, 110), (213, 110), (205, 97), (205, 123)):  # 3 px outside the region
        assert tuple(below[y, x]) == BOX
    good = overlay(image, Prediction(0.0, 10.0, "good", np.zeros_like(heat), ()))
    assert tuple(good[0, 0]) == BARS["good"] and (good[bar:] == 100).all()


def test_overlay_keeps_colours() -> None:
    image = np.full((400, 400, 3), (10, 20, 30), np.uint8)  # RGB
    picture = overlay(image, Prediction(0.0, 10.0, "good", np.zeros((400, 400), np.float32), ()))
    assert tuple(picture[-1, -1]) == (30, 20, 10)  # BGR, as OpenCV writes it


def test_a_thin_strip_is_enlarged_no_further_than_jpeg_goes() -> None:
    heat = np.zeros((16_384, 1), np.float32)
    picture = overlay(np.full((16_384, 1), 7, np.uint8), Prediction(0.0, 10.0, "good", heat, ()))
    assert picture.shape == (24 + 3 * 16_384, 3, 3)  # 65,000 / 16,384 = 3.97


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 1), (7, 9, 3), (900, 8)])
def test_overlay_of_any_image(shape: tuple[int, ...]) -> None:
    heat = np.ones(shape[:2], np.float32)
    region = Region(0, 0, shape[1], shape[0], shape[0] * shape[1], 1.0)
    picture = overlay(np.full(shape, 7, np.uint8), Prediction(1e9, -1e-9, "defective", heat, (region,)))
    assert picture.dtype == np.uint8 and picture.shape[1] >= 320 and picture.shape[2] == 3


class Watched:
    """A watch in a thread on the folder "in" of ``root``."""

    def __init__(self, root: Path, timing: Timing = QUICK, overlays: bool = False) -> None:
        self.root, self.detector, self.stop, self.timing = root, Detector(), threading.Event(), timing
        self.pictures = root / "out/overlays" if overlays else None
        (root / "in").mkdir(exist_ok=True)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            with Record(self.root / "out", {}) as record:
                judge = Judge(self.detector, 10, record, self.pictures)
                watch_folders([str(self.root / "in")], judge, self.stop, self.root / "in/overlays", self.timing)
        except BaseException as error:
            self.error = error

    def rows(self, count: int) -> list[dict[str, Any]]:
        """The rows, once there are so many."""
        until = time.monotonic() + 15
        while time.monotonic() < until and self.thread.is_alive():
            path = self.root / "out/predictions.jsonl"
            if path.exists() and len(lines(self.root / "out")) >= count:
                break
            time.sleep(0.01)
        return lines(self.root / "out")

    def finish(self) -> list[dict[str, Any]]:
        self.stop.set()
        self.thread.join(10)
        assert not self.thread.is_alive() and self.error is None, self.error
        assert [row["path"] for row in table(self.root / "out")] == [row["path"] for row in lines(self.root / "out")]
        return lines(self.root / "out")


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Watched]]:
    started: list[Watched] = []
    monkeypatch.setattr(predict, "read_image", lambda path: started[-1].detector.read(path))

    def start(**options: Any) -> Watched:
        started.append(Watched(tmp_path, **options))
        started[-1].thread.start()
        return started[-1]

    yield start
    for one in started:
        one.stop.set()
        one.thread.join(10)


def test_watch_judges_what_is_there_and_what_comes_once(watched, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_image(folder / "first.png", GOOD)
    watch = watched()
    assert [row["score"] for row in watch.rows(1)] == [4.0]
    data = cv2.imencode(".png", BAD)[1].tobytes()
    with open(folder / "slow.png", "wb") as file:  # a camera that writes slowly: pauses, but shorter than `settle`
        for part in (data[:40], data[40:90], data[90:]):
            file.write(part)
            file.flush()
            time.sleep(0.05)
    (folder / "renamed.tmp").write_bytes(data)
    (folder / "renamed.tmp").rename(folder / "renamed.png")
    new = tmp_path / "new"
    write_image(new / "deep/third.png", GOOD)
    new.rename(folder / "new")  # a folder that arrives full
    write_image(folder / "overlays/no.jpg", BAD)
    write_image(folder / ".hidden.png", BAD)
    os.utime(folder / "first.png")  # another state: judged again
    rows = watch.rows(5)
    time.sleep(0.5)  # whatever is too much would come now
    rows = watch.finish()
    assert sorted((Path(row["path"]).name, row["score"]) for row in rows) == [
        ("first.png", 4.0),
        ("first.png", 4.0),
        ("renamed.png", 29.0),
        ("slow.png", 29.0),
        ("third.png", 4.0),
    ]


def test_watch_goes_on_when_a_file_changes_while_it_is_judged(watched, tmp_path: Path) -> None:
    watch = watched(overlays=True)
    watch.rows(0)
    judge = watch.detector._judge

    def camera(image: np.ndarray, threshold: float) -> Prediction:
        if image.shape == GOOD.shape:
            write_image(tmp_path / "in/latest.png", spotted((1, 1, 9, 9), height=60, width=50))
        return judge(image, threshold)

    watch.detector._judge = camera
    write_image(tmp_path / "in/latest.png", GOOD)
    rows = watch.rows(1)
    assert [(row["score"], row["error"]) for row in rows] == [(81.0, None)]
    assert len(watch.finish()) == 1 and len(list((tmp_path / "out/overlays").iterdir())) == 1


def test_watch_keeps_the_verdict_on_an_image_that_is_taken_away_meanwhile(watched, tmp_path: Path) -> None:
    watch = watched()
    watch.rows(0)
    judge = watch.detector._judge

    def robot(image: np.ndarray, threshold: float) -> Prediction:
        (tmp_path / "in/part.png").unlink()
        return judge(image, threshold)

    watch.detector._judge = robot
    write_image(tmp_path / "in/part.png", BAD)
    rows = watch.rows(1)
    assert [(Path(row["path"]).name, row["verdict"], row["error"]) for row in rows] == [("part.png", "defective", None)]
    assert len(watch.finish()) == 1


def test_watch_waits_for_a_file_that_does_not_decode_yet(watched, tmp_path: Path) -> None:
    data = cv2.imencode(".png", BAD)[1].tobytes()
    watch = watched(timing=Timing(tick=0.02, settle=0.05, give_up=2.0, rescan=60))
    watch.rows(0)
    half, broken = tmp_path / "in/half.png", tmp_path / "in/broken.png"
    half.write_bytes(data[:60])
    broken.write_bytes(data[:60])
    time.sleep(0.4)  # longer than `settle`: both were tried by now, to no avail
    assert watch.rows(0) == [] and sorted(Path(p).name for p in watch.detector.asked) == ["broken.png", "half.png"]
    half.write_bytes(data)
    rows = watch.rows(2)
    assert [(Path(row["path"]).name, row["score"]) for row in rows] == [("half.png", 29.0), ("broken.png", None)]
    assert "does not decode" in rows[1]["error"]
    assert len(watch.finish()) == 2


def test_watch_again_does_not_judge_again(watched, tmp_path: Path) -> None:
    write_image(tmp_path / "in/a.png", GOOD)
    watch = watched()
    watch.rows(1)
    watch.finish()
    write_image(tmp_path / "in/b.png", BAD)
    again = watched()
    again.rows(2)
    assert [Path(row["path"]).name for row in again.finish()] == ["a.png", "b.png"]
    assert [Path(p).name for p in again.detector.asked] == ["b.png"]


def test_watch_says_at_once_that_a_size_is_far_from_those_trained_on(watched, tmp_path: Path, capsys) -> None:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name, spotted(height=129))
    watch = watched()
    assert all(row["note"].startswith("129 x 40 pixels") for row in watch.rows(2))
    watch.finish()
    assert capsys.readouterr().err.count("1 image is far in size from those trained on") == 1


def test_watch_draws_an_overlay_that_is_gone_again(watched, tmp_path: Path) -> None:
    write_image(tmp_path / "in/a.png", GOOD)
    watch = watched(overlays=True)
    picture = tmp_path / "out" / watch.rows(1)[0]["overlay"]
    watch.finish()
    picture.unlink()
    again = watched(overlays=True)
    again.rows(2)
    again.finish()
    assert picture.is_file()


def test_watch_finds_by_rescan_what_no_event_told(watched, tmp_path: Path, monkeypatch) -> None:
    import watchfiles

    def silent(*paths: str, stop_event: threading.Event, **options: Any) -> Iterator[set]:
        while not stop_event.wait(0.02):
            yield set()

    monkeypatch.setattr(watchfiles, "watch", silent)
    watch = watched(timing=Timing(tick=0.02, settle=0.05, give_up=0.2, rescan=0.1))
    watch.rows(0)
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name, BAD)
    assert len(watch.rows(2)) == 2
    (tmp_path / "in/a.png").unlink()
    time.sleep(0.3)
    write_image(tmp_path / "in/a.png", GOOD)  # a new image under a name that was free again
    assert [row["score"] for row in watch.rows(3)] == [29.0, 29.0, 4.0]
    assert len(watch.finish()) == 3


def test_a_watched_folder_that_vanishes_is_said_loudly(watched, tmp_path: Path) -> None:
    watch = watched(timing=Timing(tick=0.02, settle=0.05, give_up=0.2, rescan=0.1))
    watch.rows(0)
    (tmp_path / "in").rmdir()
    watch.thread.join(10)
    assert isinstance(watch.error, InputError) and "in: cannot be read (No such file" in str(watch.error)


def test_watch_ends_on_ctrl_c_with_everything_written(run, parts: Path, capsys) -> None:
    run.detector.during = lambda count: signal.raise_signal(signal.SIGINT) if count == 2 else None
    assert run("parts", "--watch") == 3  # its usual end, so no 130
    assert len(lines()) == len(table()) == 2
    said = capsys.readouterr()
    assert "defective  29  parts/b.bmp\n" in said.out and "2 images: 1 good, 1 defective, 0 unreadable" in said.out
    assert "1 files were not complete yet; the same command judges them" in said.err


def test_watch_without_its_library(run, parts: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    assert run("parts", "--watch") == 2
    assert "needs the package 'watchfiles': pip install 'anomaly-seg[watch]'" in capsys.readouterr().err
