"""Several devices for one run, as two processes on the CPU: the weights of one, one writer, and nothing left behind."""

import csv
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from omegaconf import OmegaConf
from support import device_work
from support.double_networks import INTERRUPT, KILL
from support.tiny_runs import PROCESSES, tiny_settings, tiny_words

from anomaly_seg.cli import main
from anomaly_seg.errors import InputError
from anomaly_seg.models.encoders.efficientnet_lite0 import EfficientNetLite0
from anomaly_seg.models.one_stage import OneStage
from anomaly_seg.models.unet import UNet
from anomaly_seg.results import run_files
from anomaly_seg.settings import Settings
from anomaly_seg.training import devices
from anomaly_seg.training.devices import DeviceError, SyncLearningNorms, check_devices, on_devices
from anomaly_seg.training.run import CHECKPOINT, run

COMMON = [
    "optimizer=sgd", "sampler=alternating", "augment=light", "pictures=false",
    "data.reader.views=3",
]  # fmt: skip
ONE_STAGE = [  # 9 training images are batches of 4, 4 and 1: the last leaves one device without an image
    *COMMON, "batch_size=4", "optimizer.lr=0.01", "optimizer.momentum=0.9", "epochs=2", "model.average=0.9",
    "model.network._target_=support.double_networks.DoubleOneStage", "data.reader.groups=5",
]  # fmt: skip
SEG_DEC = [  # batches of 6 and 3, of which the devices take 1 and 2; the second phase begins inside the second epoch
    *COMMON, "batch_size=6", "optimizer.lr=0.0001", "epochs=1", "model=seg_dec", "evaluate_on=validation",
    "model.network._target_=support.double_networks.DoubleSegDec", "data.reader.groups=9",
    "model.phases.0.length=1.5", "model.phases.1.length=1.5",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> None:
    """The tests' own, which has imported everything, before `on_devices` starts one that has not."""
    process = PROCESSES.Process(target=int)
    process.start()
    process.join()


def changed(settings: Settings, change: str) -> Settings:
    merged = OmegaConf.merge(settings.model_dump(), OmegaConf.from_dotlist(change.split()))
    return Settings.of(OmegaConf.to_container(merged))  # type: ignore[arg-type]


def pids(folder: Path) -> list[int]:
    """Of both devices, once they are at work."""
    while not all((folder / name).exists() for name in "01"):
        time.sleep(0.01)
    return [int((folder / name).read_text()) for name in "01"]


def assert_gone(*processes: int) -> None:
    for pid in processes:
        deadline = time.monotonic() + 30
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, f"process {pid} is left"
            time.sleep(0.05)


class TestProcesses:
    def test_each_device_knows_its_number_and_the_place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("ANOMALY_SEG_TEST", "today's")  # the fork server is older
        method = multiprocessing.get_start_method()  # for loader processes, which must not be a fork server's
        on_devices(2, device_work.note, tmp_path)
        for number in "01":
            assert (tmp_path / f"note{number}").read_text() == f"{number} 0 127.0.0.1 today's {tmp_path} {method}"
        assert_gone(*pids(tmp_path))
        assert "MASTER_ADDR" not in os.environ and "LOCAL_RANK" not in os.environ

    def test_unusable_input_stays_that_and_the_deaf_are_killed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(devices, "GRACE_SECONDS", 0.1)
        with pytest.raises(InputError, match=r"^data\.root=x: not there$"):
            on_devices(2, device_work.refuse, tmp_path)
        assert_gone(*pids(tmp_path))

    def test_the_first_error_is_told_with_its_traceback(self, tmp_path: Path) -> None:
        with pytest.raises(DeviceError, match=r"^device 2 of 2: RuntimeError: no memory left") as error:
            on_devices(2, device_work.stumble, tmp_path)
        assert "device_work.py" in error.value.__notes__[0]

    def test_a_kill_is_told_rather_than_what_follows(self, tmp_path: Path) -> None:
        with pytest.raises(DeviceError, match=r"^device 2 of 2: its process was killed by signal 9"):
            on_devices(2, device_work.die, tmp_path)
        assert_gone(*pids(tmp_path))

    def test_an_interrupt_ends_all(self, tmp_path: Path) -> None:
        def interrupt() -> None:
            pids(tmp_path)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            on_devices(2, device_work.work_on, tmp_path)
        assert all((tmp_path / f"ended{number}").exists() for number in "01")
        assert_gone(*pids(tmp_path))

    def test_none_outlives_the_process_that_started_them(self, tmp_path: Path) -> None:
        process = PROCESSES.Process(target=device_work.parent, args=(tmp_path,))
        process.start()
        both = pids(tmp_path)
        process.kill()
        assert_gone(*both)


class TestRefusals:
    @pytest.fixture(scope="class")
    def two(self, tmp_path_factory: pytest.TempPathFactory) -> Settings:
        return tiny_settings(tmp_path_factory.mktemp("refused"), "trainer=ddp", "batch_size=2")

    @pytest.mark.parametrize(
        ("change", "gpus", "says"),
        [
            ("batch_size=1", 0, r"batch_size=1 with trainer\.devices=2: .* use a multiple of 2"),
            ("batch_size=3", 0, "batch_size=3 .*multiple of 2"),
            ("trainer.num_nodes=2", 0, r"trainer\.num_nodes with trainer\.devices=2: leave it out; .* of one machine"),
            ("trainer.strategy=fsdp", 0, r"trainer\.strategy .*leave it out"),
            ("trainer.devices=[0,1]", 0, r"trainer\.devices=\[0, 1\]: CPUs have no numbers; use trainer\.devices=2"),
            ("trainer.accelerator=gpu", 0, r"trainer\.devices=2: this machine has 0 GPUs"),
            ("trainer.accelerator=auto", 1, r"trainer\.devices=2: this machine has 1 GPUs"),
            ("trainer.accelerator=gpu trainer.devices=[1,4]", 4, r"trainer\.devices=\[1, 4\]: this machine has 4 GPUs"),
            ("model.network.norm=batch", 4, r"model\.network\.norm=batch .* between GPUs only"),
        ],
    )
    def test_what_several_devices_cannot_do(
        self, two: Settings, change: str, gpus: int, says: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        settings = changed(two, change)
        with pytest.raises(InputError, match=says):
            check_devices(settings, OneStage(width_multiplier=1 / 16, norm=settings.model.network["norm"]))

    @pytest.mark.parametrize(
        "change",
        [
            "trainer.devices=1 batch_size=1",
            "trainer.accelerator=auto",
            "trainer.accelerator=gpu trainer.devices=[1,3] model.network.norm=batch",
        ],
    )
    def test_what_they_can(self, two: Settings, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
        settings = changed(two, change)
        check_devices(settings, OneStage(width_multiplier=1 / 16, norm=settings.model.network["norm"]))

    def test_torchrun(self, two: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(InputError, match=r"one of 2 processes that share a job .* start it once"):
            check_devices(two, OneStage(width_multiplier=1 / 16))

    def test_the_number_of_devices_is_part_of_the_identity(self, two: Settings) -> None:
        one, second = changed(two, "trainer.devices=1"), changed(two, "trainer.devices=[1]")
        assert one.differences(second) == [] and one.digest() == second.digest() != two.digest()
        assert one.differences(two) == ["trainer.devices: 1 -> 2"]


def trained(folder: Path) -> dict:
    return torch.load(folder / CHECKPOINT, weights_only=True)


def assert_same_training(two: Path, one: Path, tolerance: float) -> None:
    """These networks compute in float64, where the order of a sum hardly matters; their losses are float32."""
    a, b = trained(two), trained(one)
    assert a["global_step"] == b["global_step"] > 0 and a["epoch"] == b["epoch"]
    assert a["state_dict"].keys() == b["state_dict"].keys()
    for name, value in b["state_dict"].items():
        torch.testing.assert_close(a["state_dict"][name], value, rtol=0, atol=tolerance, msg=name)
    rows = [list(csv.DictReader((folder / "metrics.csv").open())) for folder in (two, one)]
    assert len(rows[0]) == len(rows[1]) > 1
    for ours, theirs in zip(*rows, strict=True):  # losses are float32, and are means over all devices
        assert {k: float(v or -1) for k, v in ours.items()} == pytest.approx(
            {k: float(v or -1) for k, v in theirs.items()}, abs=1e-6
        )
    scores = [run_files.read_scores(folder) for folder in (two, one)]
    assert scores[0].image == scores[1].image  # each test image once
    for name, values in scores[1].readouts.items():
        assert scores[0].readouts[name] == pytest.approx(values, rel=1e-6)
    results = [run_files.read_result(folder) for folder in (two, one)]
    assert results[0].counts == results[1].counts and results[0].image == results[1].image


def command(output: Path, overrides: list[str], *more: str) -> int:
    return main(["train", *tiny_words(output, *overrides, "trainer=ddp"), *more])


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.rglob(pattern)
    return found


def test_a_device_is_killed_and_a_sweep_goes_on_with_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv(KILL, "5")  # in the second epoch of three steps
    assert command(tmp_path, ONE_STAGE) == 1
    text = capfd.readouterr().err
    assert (
        "DeviceError: device 2 of 2: its process was killed by signal 9" in text
        and multiprocessing.active_children() == []
    )
    assert trained(only(tmp_path, CHECKPOINT).parent)["global_step"] == 3
    assert not list(tmp_path.rglob("result.json")) and only(tmp_path, "failure.txt")
    monkeypatch.delenv(KILL)
    assert command(tmp_path, ONE_STAGE, "seed=0,1", "-m") == 0
    assert "sweep: 2 done, 0 failed, 0 left of 2" in capfd.readouterr().err
    one = run(tiny_settings(tmp_path / "one", *ONE_STAGE))
    assert_same_training(only(tmp_path / "train", "seed0"), one, tolerance=1e-9)
    assert {path.name for path in only(tmp_path / "train", "seed1").iterdir()} == {path.name for path in one.iterdir()}


def test_seg_dec_s_phases_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv(INTERRUPT, "5")  # in the third epoch of two steps
    assert command(tmp_path, SEG_DEC) == 130
    assert "interrupted; the same command goes on from here" in capfd.readouterr().err
    assert multiprocessing.active_children() == []
    assert trained(only(tmp_path, CHECKPOINT).parent)["global_step"] == 4
    monkeypatch.delenv(INTERRUPT)
    assert command(tmp_path, SEG_DEC) == 0
    one = run(tiny_settings(tmp_path / "one", *SEG_DEC))
    assert_same_training(only(tmp_path / "train", "seed0"), one, tolerance=1e-7)


def test_only_statistics_that_learn_are_shared() -> None:
    encoder = EfficientNetLite0(weights=None, depth=8)
    count = sum(isinstance(part, torch.nn.BatchNorm2d) for part in encoder.modules())
    plugin = SyncLearningNorms()
    network = plugin.apply(UNet(encoder=encoder, norm="batch"))
    kinds = [type(part) for part in network.modules()]
    assert kinds.count(torch.nn.BatchNorm2d) == count > 0 and kinds.count(torch.nn.SyncBatchNorm) > 0
    assert not any(part.training for part in encoder.train().modules() if isinstance(part, torch.nn.BatchNorm2d))
    assert torch.nn.SyncBatchNorm not in map(type, plugin.revert(network).modules())
    learning = plugin.apply(EfficientNetLite0(weights=None, depth=8, statistics="learning"))
    assert [type(part) for part in learning.modules()].count(torch.nn.SyncBatchNorm) == count


def test_a_norm_that_does_more_is_refused(tmp_path: Path) -> None:
    class NormAndActivation(torch.nn.BatchNorm2d):
        """As timm's."""

    network = OneStage(width_multiplier=1 / 16)
    network.extra = NormAndActivation(4)
    with pytest.raises(InputError, match=r"NormAndActivation .*encoder\.statistics=frozen"):
        check_devices(tiny_settings(tmp_path, "trainer=ddp", "batch_size=2"), network)
