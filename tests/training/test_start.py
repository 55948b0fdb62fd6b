"""A training that begins with an earlier run's weights: what is taken over, what is refused, and what is recorded."""

import contextlib
import hashlib
import io
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from support.tiny_runs import tiny_settings

from anomaly_seg import settings as run_settings
from anomaly_seg.errors import InputError
from anomaly_seg.exporting.ensemble import read_members
from anomaly_seg.exporting.export import _starts
from anomaly_seg.reporting.collect import collect_runs
from anomaly_seg.reporting.text import facts
from anomaly_seg.results import run_files
from anomaly_seg.training import build, start
from anomaly_seg.training.checkpoint import CHECKPOINT
from anomaly_seg.training.run import run

UNET = ("model=unet", "pictures=false", "encoder=paper")
STILL = "optimizer.lr=1e-30"
"""A rate at which no weight moves: what was taken over is what is saved."""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / CHECKPOINT, weights_only=True)["state_dict"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Runs:
    """An earlier run, one that began with it, and what that said on the screen."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.earlier = run(tiny_settings(place, *UNET, "optimizer.lr=0.01"))
        screen = io.StringIO()
        with contextlib.redirect_stderr(screen):
            self.later = self.train(f"model.start={self.earlier}")
        self.screen = screen.getvalue()

    def train(self, *overrides: str) -> Path:
        return run(tiny_settings(self.place, *UNET, STILL, "variant=later", *overrides))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Runs:
    return Runs(tmp_path_factory.mktemp("start"))


def test_the_weights_are_taken_over_the_heads_bias_too(runs: Runs) -> None:
    assert run_settings.read(runs.later / "config.yaml").model.network["head_bias"] == "prior"
    before, after = weights(runs.earlier), weights(runs.later)
    assert "network.head.reduce.bias" in before and same(before, after)
    scores = [run_files.read_scores(folder).score.tolist() for folder in (runs.earlier, runs.later)]
    assert scores[0] == scores[1]


def test_path_digest_and_licence_are_recorded(runs: Runs) -> None:
    digest = hashlib.sha256((runs.earlier / CHECKPOINT).read_bytes()).hexdigest()
    result = run_files.read_result(runs.later)
    assert result.start is not None
    assert (result.start.name, result.start.sha256) == (str(runs.earlier), digest)
    assert result.start.licence == "none needed (generated pictures)"
    assert run_files.read_result(runs.earlier).start is None
    (card,) = _starts(read_members(runs.later))
    assert (card.name, card.sha256, card.licence) == (str(runs.earlier), digest, result.start.licence)
    assert yaml.safe_load((runs.later / "config.yaml").read_text())["model"]["start_digest"] == digest


def test_images_that_the_earlier_run_held_out_are_told_from_others(runs: Runs) -> None:
    """The same fold was held out; of another fold, all test images were trained on."""
    same_fold = run_files.read_result(runs.later).start
    assert same_fold is not None and same_fold.test_images_seen == 0 and "held out" not in runs.screen
    screen = io.StringIO()
    with contextlib.redirect_stderr(screen):
        other = runs.train(f"model.start={runs.earlier}", "fold=1", "experiment_name=other")
    found = run_files.read_result(other).start
    assert found is not None and found.test_images_seen == 4
    assert "4 of 4 test images were not held out from that run" in screen.getvalue()
    assert "fold${fold}/seed0" in screen.getvalue()
    (method,) = collect_runs(runs.place / "other").methods
    assert any("1 of 1 runs began with the weights of an earlier run" in fact for fact in facts([method]))
    again = runs.train(f"model.start={other}", "experiment_name=third", "fold=1")  # which knows what the first one saw
    third = run_files.read_result(again).start
    assert third is not None and third.test_images_seen == 4


def test_the_file_counts_by_its_content(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    moved = shutil.copy(runs.earlier / CHECKPOINT, tmp_path / "last_month.ckpt")
    assert runs.train(f"model.start={moved}") == runs.later
    assert "finished before with the same settings" in capsys.readouterr().err
    changed = torch.load(moved, weights_only=True)
    changed["state_dict"]["network.head.reduce.bias"] += 1
    torch.save(changed, moved)
    with pytest.raises(InputError, match=r"other settings \(model\.start_digest: [0-9a-f]{64} -> "):
        runs.train(f"model.start={moved}")
    with pytest.raises(InputError, match=r"other settings \(model\.start: True -> False"):
        runs.train()


def test_neither_a_resumed_run_nor_export_reads_it(runs: Runs, tmp_path: Path, monkeypatch) -> None:
    copy = Runs.__new__(Runs)
    copy.place = tmp_path
    gone = tmp_path / "gone.ckpt"
    shutil.copy(runs.earlier / CHECKPOINT, gone)
    later = copy.train(f"model.start={gone}")
    kept, before = weights(later), run_files.read_result(later).start
    gone.unlink()
    (later / run_files.RESULT).unlink()
    monkeypatch.setattr(start, "load_start", None)
    assert copy.train(f"model.start={gone}") == later
    assert same(weights(later), kept) and run_files.read_result(later).start == before
    assert before is not None and before.test_images_seen is None and before.licence == "unknown"
    assert len(read_members(later)) == 1


def test_folds_with_a_start_of_their_own_are_one_model(runs: Runs) -> None:
    earlier = run(tiny_settings(runs.place, *UNET, STILL, "fold=1"))
    runs.train(f"model.start={earlier}", "fold=1")
    folder = runs.later.parents[1]
    assert len(read_members(folder)) == 2 and len(_starts(read_members(folder))) == 2
    assert len(collect_runs(folder).runs) == 2


class Hostile:
    """A pickle that would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model=one_stage"], r"weights of another network \(\S+ is absent there and \(.*\) here\); choose model"),
        (
            ["scale.width_multiplier=0.125"],
            r"weights of another shape \(\S+ is \(.*\) there and \(.*\) here\); set scale",
        ),
        (
            ["data.channels=3", "data.convert=grey8"],
            r"weights of another shape \(\S+ is \(4, 1, 3, 3\) there and \(4, 3",
        ),
    ],
)
def test_weights_that_do_not_fit(runs: Runs, tmp_path: Path, overrides: list[str], says: str) -> None:
    words = [*UNET, f"model.start={runs.earlier}", *overrides]
    settings = tiny_settings(tmp_path, *[w for w in words if not (w == "model=unet" and "model=one_stage" in words)])
    with pytest.raises(InputError, match=says):
        start.load_start(build.make_network(settings.model), str(runs.earlier))
    assert any("model.start=" in problem for problem in build.check_model(settings))


def test_files_that_are_no_checkpoint(runs: Runs, tmp_path: Path) -> None:
    network = build.make_network(run_settings.read(runs.earlier / "config.yaml").model)
    whole = (runs.earlier / CHECKPOINT).read_bytes()
    files = {
        "cut.ckpt": whole[: len(whole) // 2],
        "text.ckpt": b"hello",
        "hostile.ckpt": pickle.dumps({"state_dict": Hostile(tmp_path / "touched")}),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            InputError, match=rf"model\.start: .*{name}: damaged, or not a checkpoint.*; give the folder"
        ):
            start.load_start(network, str(tmp_path / name))
    torch.save({"state_dict": {}}, tmp_path / "bare.ckpt")
    with pytest.raises(InputError, match=r"bare\.ckpt: damaged, or not a checkpoint .*no optimizer_states"):
        start.load_start(network, str(tmp_path / "bare.ckpt"))
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "nowhere",
            r"model\.start=.*nowhere: no such file; give the folder of an earlier run, or its checkpoint\.ckpt",
        ),
        ("", r"model\.start=.*: holds no checkpoint\.ckpt; give the folder"),
        (
            "model.onnx",
            r"model\.onnx: a sealed model, in which layers are merged .* cannot be trained on; give the fold",
        ),
    ],
)
def test_what_is_no_run(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        run(tiny_settings(tmp_path / "runs", *UNET, f"model.start={tmp_path / name}"))
    assert not list(tmp_path.rglob("config.yaml"))


def test_a_run_does_not_begin_with_itself(runs: Runs) -> None:
    with pytest.raises(InputError, match=r"the run's own folder; set experiment_name or variant"):
        run(tiny_settings(runs.place, *UNET, "optimizer.lr=0.01", f"model.start={runs.earlier}", "overwrite=true"))
    assert (runs.earlier / CHECKPOINT).exists()
