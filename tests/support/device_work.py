"""What the processes of `on_devices` do in its tests. Each writes its number and process id into the folder first."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

from anomaly_seg.errors import InputError
from anomaly_seg.training import devices


def arrive(device: int, folder: Path) -> None:
    """Wait for the other of two devices, so that both are at work when anything happens."""
    (folder / f"{device}.part").write_text(str(os.getpid()))
    (folder / f"{device}.part").rename(folder / str(device))
    while not (folder / str(1 - device)).exists():
        time.sleep(0.01)


def note(device: int, folder: Path) -> None:
    arrive(device, folder)
    seen = [os.environ[name] for name in ("LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "ANOMALY_SEG_TEST")]
    seen += [os.getcwd(), multiprocessing.get_start_method()]
    (folder / f"note{device}").write_text(" ".join(seen))


def refuse(device: int, folder: Path) -> None:
    """Device 1 finds its input unusable; device 0 stumbles over its absence, and stays deaf to interrupts."""
    if device == 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    arrive(device, folder)
    if device == 1:
        raise InputError("data.root=x: not there")
    time.sleep(100)


def stumble(device: int, folder: Path) -> None:
    """Device 1 has an error, device 0 one that follows from it."""
    arrive(device, folder)
    if device == 0:
        time.sleep(0.3)
        raise ConnectionError("peer is gone")
    raise RuntimeError("no memory left")


def die(device: int, folder: Path) -> None:
    """Device 1 is killed, of which device 0 learns first."""
    arrive(device, folder)
    if device == 0:
        raise ConnectionError("peer is gone")
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def work_on(device: int, folder: Path) -> None:
    """Until interrupted, which is noted."""
    try:
        arrive(device, folder)
        time.sleep(100)
    finally:
        (folder / f"ended{device}").touch()


def parent(folder: Path) -> None:
    """A process that has two devices at work."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)  # where its fork server finds this module
    devices.on_devices(2, work_on, folder)
