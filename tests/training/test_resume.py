"""Kill -9 and the same command again: the weights end bit for bit where an undisturbed run ends."""

import csv
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from support.tiny_runs import PROCESSES, tiny_settings, train

from anomaly_seg.results import run_files
from anomaly_seg.training.run import CHECKPOINT, run

COMMON = ["augment=light", "sampler=alternating", "optimizer=adam_cosine", "pictures=false"]
CASES = {
    # Steps at which the training dies, one after the other. 8 images make an epoch of 8 steps.
    "one_stage": (["epochs=3"], [12, 23]),
    "balanced batches of 3": (["epochs=3", "sampler=balanced", "batch_size=3", "model.network.norm=group"], [4, 8]),
    "seg_dec over its phase boundary": (["epochs=2", "model=seg_dec"], [13, 17, 27]),
    "seg_dec, the boundary inside an epoch": (
        ["epochs=1", "model=seg_dec", "model.phases.0.length=1.5", "model.phases.1.length=1.5",
         "optimizer=sgd", "optimizer.momentum=0.9"],
        [11, 15],
    ),
    "with a moving average": (["epochs=3", "model.average=0.9"], [9, 20]),
    "with loader processes": (["epochs=2", "data.workers=1"], [12]),
    "on validation images": (["epochs=3", "evaluate_on=validation"], [5, 10]),
}  # fmt: skip


def finish(output: Path, overrides: list[str]) -> Path:
    return run(tiny_settings(output, *overrides))


def state(folder: Path) -> dict:
    return torch.load(folder / CHECKPOINT, weights_only=True)


def assert_equal(a: object, b: object, where: str = "") -> None:
    """Plain values and tensors, however nested, bit for bit."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}/{i}")
    else:
        assert a == b, where


def assert_same_run(resumed: Path, undisturbed: Path) -> None:
    a, b = state(resumed), state(undisturbed)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "last_loss"):
        assert_equal(a[part], b[part], part)
    assert (resumed / "scores.csv").read_bytes() == (undisturbed / "scores.csv").read_bytes()
    rows = [list(csv.DictReader((folder / "metrics.csv").open())) for folder in (resumed, undisturbed)]
    assert rows[0] == rows[1]
    ours, theirs = (run_files.read_result(folder) for folder in (resumed, undisturbed))
    same = {"exclude": {"environment": True, "training": {"train_seconds", "test_seconds", "peak_memory_mib"}}}
    assert ours.model_dump(**same) == theirs.model_dump(**same)


@pytest.mark.parametrize("case", CASES)
def test_killed_at_a_step(case: str, tmp_path: Path) -> None:
    overrides, deaths = CASES[case]
    words = [w for w in COMMON if w.split("=")[0] not in {o.split("=")[0] for o in overrides}] + overrides
    for step in deaths:
        child = PROCESSES.Process(target=train, args=(tmp_path / "killed", words, step))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL, f"did not reach step {step}"
        assert not list((tmp_path / "killed").rglob("result.json"))
    assert_same_run(finish(tmp_path / "killed", words), finish(tmp_path / "undisturbed", words))


def test_killed_at_random_moments(tmp_path: Path) -> None:
    """From outside, wherever it happens to be: in a step, between epochs, writing the checkpoint, scoring."""
    words, moments = [*COMMON, "epochs=4"], random.Random(0)
    for _ in range(3):
        child = PROCESSES.Process(target=train, args=(tmp_path / "killed", words))
        child.start()
        while child.is_alive() and not list((tmp_path / "killed").rglob(CHECKPOINT)):
            time.sleep(0.005)
        child.join(moments.uniform(0.0, 1.2))
        child.kill()
        child.join()
    assert_same_run(finish(tmp_path / "killed", words), finish(tmp_path / "undisturbed", words))
