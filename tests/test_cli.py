"""The command line: help, exit codes, messages, and the wheel."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.paths import ROOT

from anomaly_seg.cli import VERBS, main
from anomaly_seg.training.compose import compose, quote_values


def command(*words: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """Run `anomaly-seg` in a process of its own."""
    env = os.environ | environment
    return subprocess.run(
        [sys.executable, "-m", "anomaly_seg.cli", *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=240
    )


def test_help_is_quick_and_imports_nothing_heavy():
    started = time.perf_counter()
    done = command("--help")
    assert done.returncode == 0 and time.perf_counter() - started < 1
    assert all(verb in done.stdout for verb in VERBS)
    code = (
        "import sys, anomaly_seg.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'lightning', 'hydra', 'numpy', 'cv2', 'pandas') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0 and "example: anomaly-seg " + verb in " ".join(text.split())


def test_no_verb_prints_the_help(capsys: pytest.CaptureFixture):
    assert main([]) == 2
    assert "VERB" in capsys.readouterr().out


def test_unknown_key_names_it_without_traceback():
    done = command("train", "dilaton=9")
    assert done.returncode == 2 and "dilaton" in done.stderr and "Traceback" not in done.stderr


def test_unknown_option_lists_the_choices(capsys: pytest.CaptureFixture):
    assert main(["train", "model=one_stag"]) == 2
    assert "one_stage" in capsys.readouterr().err


def test_switch_may_stand_between_overrides(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["train", "fold=0,9", "-m", f"output_dir={tmp_path}", "data.folds=3", "seed=-1"]) == 2
    text = capsys.readouterr().err
    assert text.count("seed=-1") >= 2 and "unrecognized" not in text


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["seed=-1"], ["seed=-1", "0 to 4294967295"]),
        (["dilation=4"], ["dilation=4", "odd"]),
        (["fold=3"], ["fold=3", "0 to 2"]),
        (["data=kolektor"], ["data.root", "zip"]),
        (["data=kolektor", "data.root=/nowhere"], ["/nowhere", "data.root"]),
    ],
)
def test_bad_values_are_one_clear_sentence(
    overrides: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
):
    small = [f"output_dir={tmp_path}", "scale=demo", f"data.cache_dir={tmp_path}"]
    assert main(["train", *small, *overrides]) == 2
    text = capsys.readouterr().err
    assert all(word in text for word in words) and "Traceback" not in text, text


def test_check_prints_tables(tmp_path: Path, capsys: pytest.CaptureFixture):
    code = main(["check", "scale=demo", "dilation=5", "data.reader.groups=6", f"data.cache_dir={tmp_path}"])
    text = capsys.readouterr().out
    assert code == 0 and "defective" in text and "24" in text, text  # 6 groups x 4 views


def test_check_takes_the_words_of_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture):
    small = ["scale=demo", "data.reader.groups=6", f"data.cache_dir={tmp_path}"]
    assert main(["check", *small, "dilation=5,9", "-m", "fold=0,1"]) == 0
    said = capsys.readouterr()
    assert "the first of several values" in said.err and "24 images" in said.out
    assert "D = 5" in said.out and "D = 9" not in said.out


@pytest.mark.parametrize("words", [["-m", "--cfg", "job"], ["--cfg=job", "--multirun"], ["--info", "-m"]])
def test_switches_that_clash_are_one_clear_sentence(words: list[str], capsys: pytest.CaptureFixture):
    assert main(["train", "fold=0,1", *words]) == 2
    text = capsys.readouterr().err
    assert "shows one configuration: leave out -m" in text and len(text.splitlines()) == 1


@pytest.mark.parametrize("place", ["notes.txt", "notes.txt/runs"])
@pytest.mark.parametrize("words", [[], ["fold=0,1", "-m"]])
def test_a_file_in_the_place_of_the_output_folder_is_named(
    place: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
):
    (tmp_path / "notes.txt").touch()
    assert main(["train", f"output_dir={tmp_path / place}", *words]) == 2
    text = capsys.readouterr().err
    assert f"{tmp_path / 'notes.txt'} is a file: choose a folder" in text and len(text.splitlines()) == 1


@pytest.mark.parametrize("words", [[], ["fold=0,1", "-m"]])
def test_an_output_folder_that_cannot_be_written_is_named(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    assert main(["train", f"output_dir={tmp_path}/new/runs", *words]) == 2
    text = capsys.readouterr().err
    assert f"{tmp_path} cannot be written: choose another folder" in text and len(text.splitlines()) == 1


@pytest.mark.parametrize(
    "name",
    ["Gehäuse", "parts (new)", "a=b", "it's", "100%", "2024_11", "[x]", "{a: 1}", "true", r"a\b (c)", r"it\'s"],
)
def test_any_name_of_a_folder_can_be_given(name: str, tmp_path: Path):
    """As it is, as far as Hydra's grammar allows, and in quotes elsewhere; what is read is the name."""
    words = quote_values([f"data.root={tmp_path}/{name}", "fold=0,1", "-m"])
    assert words[1:] == ["fold=0,1", "-m"]
    assert compose(["data=folder", words[0]]).data.root == f"{tmp_path}/{name}"
    alone = quote_values([f"data.root={name}"])  # Hydra takes 2024_11 for 202411, and [x] for a list
    assert compose(["data=folder", *alone]).data.root == name


def test_no_path_can_still_be_said():
    assert compose(quote_values(["data=folder", "data.root=null"])).data.root is None


def test_a_plain_path_is_left_alone():
    words = ["data.root=parts/a-b_c.zip", "data.root='parts (new)'", "data.root=${oc.env:HOME}/x", "variant=a"]
    assert quote_values(words) == words


def test_check_refuses_what_train_does(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["check", "data=synthetic", "batch_size=0", f"data.cache_dir={tmp_path}"]) == 2
    assert "batch_size=0: use a whole number" in capsys.readouterr().err


def test_report_of_nothing_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["report", str(tmp_path / "missing")]) == 2
    text = capsys.readouterr().err
    assert "missing" in text and "Traceback" not in text


def test_wheel_works_from_an_empty_folder(tmp_path: Path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next(tmp_path.glob("*.whl"))
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(pip, check=True, capture_output=True)
    assert (site / "hydra_plugins/anomaly_seg_slurm.py").exists()
    words = [
        "train",
        "scale=demo",
        "data.reader.groups=6",
        "epochs=1",
        "trainer.enable_progress_bar=false",
        "threads=1",
    ]
    done = command(*words, cwd=empty, PYTHONPATH=str(site), ANOMALY_SEG_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert (empty / "runs/train/synthetic/one_stage/D9/fold0/seed0/result.json").exists()
    where = [sys.executable, "-c", "import anomaly_seg; print(anomaly_seg.__file__)"]
    found = subprocess.run(where, cwd=empty, env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True, text=True)
    assert found.stdout.startswith(str(site))


def test_profile_switches_the_profile_on(capsys: pytest.CaptureFixture):
    main(["train", "--profile", "--cfg", "job"])
    assert "\nprofile: true" in capsys.readouterr().out
    main(["train", "--cfg", "job"])
    assert "\nprofile: false" in capsys.readouterr().out
