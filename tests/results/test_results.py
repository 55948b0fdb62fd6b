"""Result files: exact round trips, atomic writes, and an error that names the file for everything that is broken."""

import json
import multiprocessing
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.fake_runs import DEFAULTS, PIXELS, fake_result, write_run

from anomaly_seg.errors import InputError
from anomaly_seg.reporting.collect import collect_runs
from anomaly_seg.results import run_files, schema

SCORES, LABELS = np.array([1.0, 2.0, 30.0, 40.0]), np.array([0, 0, 1, 1])


@pytest.fixture
def result() -> schema.Result:
    return fake_result(schema.Run(**DEFAULTS), SCORES, LABELS, {"C": SCORES + 1})


def test_result_round_trip(tmp_path: Path, result: schema.Result) -> None:
    assert not run_files.finished(tmp_path)
    path = run_files.write_result(tmp_path, result)
    assert run_files.finished(tmp_path)
    assert run_files.read_result(path) == run_files.read_result(tmp_path) == result
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]  # no temporary file stays behind


def test_values_of_a_result_by_hand(result: schema.Result) -> None:
    assert result.sigma == 25.0  # 100 at a quarter of the pixels
    paper, best = result.thresholds["paper"], result.thresholds["best_f"]
    assert (paper.tp, paper.fp, paper.fn, paper.tn, paper.f1, paper.oracle) == (2, 0, 0, 2, 1.0, False)
    assert (best.value, best.f1, best.oracle) == (16.0, 1.0, True)
    assert result.readouts["C"].background_median == 2.5
    assert (result.pixel.iou, result.pixel.dice, result.pixel.threshold_dice) == (0.6, 0.75, 0.5)
    # By hand: recall 3/8 at precision 1, 3/8 more at 6/8, 1/8 more at 7/14, and the last 1/8 at 8/100.
    assert result.pixel.ap == pytest.approx(3 / 8 * 1 + 3 / 8 * 6 / 8 + 1 / 8 * 7 / 14 + 1 / 8 * 8 / 100)


def test_a_test_part_without_defects_has_no_oracle() -> None:
    empty = fake_result(schema.Run(**DEFAULTS), np.array([1.0]), np.array([0]), {"C": np.array([1.0])})
    assert set(empty.thresholds) == {"paper"}
    assert empty.readouts["C"].best_f is None
    assert (empty.image.ap, empty.image.auroc, empty.image.fp_at_fn0) == (None, None, None)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda raw: raw | {"schema_version": 2}, "schema_version is 2, this version reads 1"),
        (lambda raw: {}, "schema_version is None"),
        (lambda raw: [], "schema_version is None"),
        (lambda raw: raw | {"extra": 1}, "key extra"),
        (lambda raw: raw | {"sigma": "much"}, "key sigma"),
        (lambda raw: raw | {"run": raw["run"] | {"split": "random"}}, "key run.split"),
        (lambda raw: raw | {"counts": raw["counts"] | {"test_images": -1}}, "key counts.test_images"),
        (lambda raw: raw | {"image": raw["image"] | {"ap": float("nan")}}, "key image.ap"),
    ],
)
def test_a_broken_result_names_file_and_key(tmp_path: Path, result: schema.Result, change, says: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(change(result.model_dump())), encoding="utf-8")
    with pytest.raises(InputError, match=says) as error:
        run_files.read_result(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "text", ["", '{"schema_version": 1', "\ud800", "[" * 100_000, '{"schema_version": ' + "1" * 5000 + "}"]
)
def test_a_result_cut_short(tmp_path: Path, text: str) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match=r"result\.json: (not JSON|cannot be read)"):
        run_files.read_result(path)


def test_a_missing_result(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        run_files.read_result(tmp_path)


def test_models_refuse_nan_and_unknown_fields(result: schema.Result) -> None:
    with pytest.raises(ValidationError, match="finite"):
        schema.Training(**{**result.training.model_dump(), "final_loss": float("nan")})
    with pytest.raises(ValidationError, match="Extra inputs"):
        schema.Counts(**{**result.counts.model_dump(), "train": 1})


def test_a_disk_without_room_is_an_input_error(tmp_path: Path, result: schema.Result, monkeypatch) -> None:
    run_files.write_result(tmp_path, result)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"result\.json: cannot be written \(No space left on device\)"):
        run_files.write_result(tmp_path, result.model_copy(update={"config_digest": "new"}))
    assert run_files.read_result(tmp_path) == result  # the old file is whole
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_folder_that_takes_no_file_is_an_input_error(tmp_path: Path, result: schema.Result) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be written"):
        run_files.write_result(tmp_path / "file", result)


def _rewrite_for_ever(folder: Path, result: schema.Result) -> None:
    while True:
        run_files.write_result(folder, result)


def test_a_reader_never_sees_half_a_file(tmp_path: Path, result: schema.Result) -> None:
    run_files.write_result(tmp_path, result)
    writer = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn").Process(
        target=_rewrite_for_ever, args=(tmp_path, result), daemon=True
    )
    writer.start()
    try:
        for _ in range(200):
            assert run_files.read_result(tmp_path) == result
    finally:
        writer.kill()
        writer.join()
    assert run_files.read_result(tmp_path) == result


# File names may hold commas, quotes and any script, though no carriage return survives a text file.
names = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1), min_size=1, unique=True)


@settings(max_examples=40)
@given(names, st.data())
def test_scores_round_trip_exactly(tmp_path_factory: pytest.TempPathFactory, images: list[str], data) -> None:
    folder = tmp_path_factory.mktemp("run")
    column = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=len(images), max_size=len(images))
    score, other = np.array(data.draw(column)), np.array(data.draw(column), dtype=np.float64)
    label = np.array(data.draw(st.lists(st.integers(0, 1), min_size=len(images), max_size=len(images))))
    run_files.write_scores(folder, run_files.Scores(images, images, label, score, {"F": other}))
    back = run_files.read_scores(folder)
    assert (back.image, back.group) == (images, images)
    assert np.array_equal(back.label, label)
    assert np.array_equal(back.score, score)
    assert np.array_equal(back.readouts["F"], other)


def test_scores_of_float32_keep_their_value(tmp_path: Path) -> None:
    score = np.array([0.1], dtype=np.float32)
    path = run_files.write_scores(tmp_path, run_files.Scores(["a"], ["a"], np.array([1]), score))
    assert path.read_text(encoding="utf-8") == "image,group,representative,label,score\na,a,a,1,0.10000000149011612\n"
    assert np.float32(run_files.read_scores(path).score[0]) == score[0]


def test_pixels_round_trip(tmp_path: Path) -> None:
    back = run_files.read_pixels(run_files.write_pixels(tmp_path, PIXELS))
    for name in ("threshold", "tp", "fp", "fn", "tn"):
        assert np.array_equal(getattr(back, name), getattr(PIXELS, name))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "column image, group, label, score is missing"),
        ("image,group,label\na,a,1\n", "column score is missing"),
        ("image,group,label,score\na,a,1\n", "row 2 has 3 of 4 values"),
        ("image,group,label,score\na,a,1,high\n", "column score: .*high"),
        ("image,group,label,score\na,a,1,inf\n", "column score holds a value that is not finite"),
        ("image,group,label,score\na,a,2,0.5\n", "column label holds values other than 0 and 1"),
        ("image,group,label,score\na,a,1,0.5\na,a,1,0.5\n", "an image is listed twice"),
        ("image,group,label,score,score_F\na,a,1,0.5,x\n", "column score_F"),
        ("image,group,label,score\n", "holds no rows"),
        ("image,group,label,score\na,a,1,0.5\nb,b,0,0.2", "cut short"),
        ('image,group,label,score\n"a,a,1,0.5\nb,b,0,0.25\n', "not CSV"),
        ('image,group,label,score\n"a,a,1,0.5\n' + "b,b,0,0.25\n" * 20_000, "not CSV"),
    ],
)
def test_broken_scores_name_file_and_column(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "scores.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=says) as error:
        run_files.read_scores(tmp_path)
    assert str(tmp_path / "scores.csv") in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("\n0.5,6,2,2,90", "\n0.5,6,2,3,90", r"TP \+ FN and FP \+ TN have to be the same"),
        ("\n0.25,7,7,1,85\n0.5,6,2,2,90\n0.75,3,0,5,92", "", "holds no rows"),
        ("\n0.75,3,0,5,92\n", "\n0.75,3,0,5,9", "cut short"),
    ],
)
def test_broken_pixel_counts_name_the_file(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = run_files.write_pixels(tmp_path, PIXELS)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError, match=rf"pixels\.csv: .*{says}"):
        run_files.read_pixels(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("Part2.jpg,kos00,kos00,1,", "Part2.jpg,kos00,kos00,0,", "defective images: 1, in result.json 2"),
        ("kos00,1,40.0", "kos00,1,1.5", "AP: 0.8333333333333333, in result.json 1.0"),  # (1 + 2/3) / 2
        ("kos00/Part3.jpg,kos00,kos00,1,60.0,110.0,61.0,60.0\n", "", "images: 3, in result.json 4"),
    ],
)
def test_scores_that_are_not_those_of_the_result_are_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    damaged, _ = (write_run(tmp_path, [1, 2, 40, 60], LABELS, folds=2, fold=fold) for fold in (0, 1))
    file = damaged / "scores.csv"
    whole = file.read_text(encoding="utf-8")
    assert old in whole
    file.write_text(whole.replace(old, new), encoding="utf-8")
    problems = collect_runs(tmp_path).problems
    assert problems[1:] == [f"Unreadable: {file.relative_to(tmp_path)}: {says}: {run_files.AGAIN}"]


def test_columns_of_unequal_length_are_a_bug_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zip"):
        run_files.write_scores(tmp_path, run_files.Scores(["a", "b"], ["a"], np.array([1]), np.array([0.5])))


def test_committed_schema_is_current() -> None:
    committed = Path(schema.__file__).with_name("result.schema.json").read_text(encoding="utf-8")
    assert committed == schema.schema(), "run: python -m anomaly_seg.results.schema"


def test_result_validates_against_the_schema(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    run = write_run(tmp_path, SCORES, LABELS)
    jsonschema.validate(json.loads((run / "result.json").read_text(encoding="utf-8")), json.loads(schema.schema()))


def test_a_perfect_detector_has_a_result(tmp_path: Path) -> None:
    """Scores whose area under the ROC curve scikit-learn sums to 1.0000000000000002, in a file and back."""
    scores, labels = np.array([9.0, *np.repeat(np.arange(8.0), [14, 3, 1, 2, 3, 1, 1, 2])]), np.array([1] + [0] * 27)
    perfect = fake_result(schema.Run(**DEFAULTS), scores, labels, {"C": scores})
    run_files.write_result(tmp_path, perfect)
    image = run_files.read_result(tmp_path).image
    assert (image.auroc, image.ap, image.fp_at_fn0) == (1.0, 1.0, 0)
