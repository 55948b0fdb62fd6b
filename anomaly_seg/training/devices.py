"""Several devices for one run: a process for each, started, watched and ended together.

The processes belong to the run: a sweep starts new ones for each of its runs, and nothing starts the command again.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from multiprocessing import connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import nn

from anomaly_seg.errors import InputError
from anomaly_seg.models.encoders.base import Encoder
from anomaly_seg.quick_lightning import TorchSyncBatchNorm
from anomaly_seg.settings import Settings

GRACE_SECONDS = 15.0
"""How long a process may take to let go of its logger before it is killed."""

CAUSE_SECONDS = 2.0
"""How long to wait, after one process has ended by an error, for the one whose end may be the reason."""

SETTLED = ("num_nodes", "strategy", "sync_batchnorm", "use_distributed_sampler")
"""Arguments of Lightning's Trainer that several devices leave no choice in."""


class DeviceError(RuntimeError):
    """The process of one device ended before its work was done."""


class Failure(NamedTuple):
    """What a process says about its error: when, whether it is an InputError, the message, and the traceback."""

    time: float
    unusable_input: bool
    message: str
    trace: str


class Worker(NamedTuple):
    """The process of one device, and where its Failure comes from."""

    process: BaseProcess
    failures: connection.Connection


class SyncLearningNorms(TorchSyncBatchNorm):
    """Batch normalisation by the statistics of the whole batch while several devices train on parts of it.

    An encoder's frozen statistics are left alone: no batch changes them.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        for name, part in model.named_children():
            if isinstance(part, nn.BatchNorm2d):
                if type(part) is not nn.BatchNorm2d:  # timm's have an activation inside, which torch would drop
                    raise InputError(
                        f"{type(part).__name__} whose statistics learn cannot be shared by several devices: use "
                        "model.network.encoder.statistics=frozen, or one device"
                    )
                setattr(model, name, nn.SyncBatchNorm.convert_sync_batchnorm(part))
            elif not (isinstance(part, Encoder) and part.frozen_statistics):
                self.apply(part)
        return model


def check_devices(settings: Settings, network: nn.Module) -> None:
    """Refuse several devices where they cannot share the steps of a run.

    Raises:
        InputError: a batch that cannot be split, devices that are not there, a network that normalises by batches on
            the CPU, or processes that something else has started already.
    """
    count, devices = settings.devices, settings.trainer.devices
    if count == 1:
        return
    if settings.batch_size % count:
        raise InputError(
            f"batch_size={settings.batch_size} with trainer.devices={devices}: the images of each step are split over "
            f"the devices, so use a multiple of {count} (another batch size is another recipe); to use several devices "
            "for many runs, start the sweep on each with trainer.devices=1"
        )
    for key in SETTLED:
        if key in settings.trainer.extra():
            raise InputError(
                f"trainer.{key} with trainer.devices={devices}: leave it out; a run takes devices of one machine, and "
                "the way they share a step is settled"
            )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # torchrun's
        raise InputError(
            f"trainer.devices={devices} in one of {os.environ['WORLD_SIZE']} processes that share a job (WORLD_SIZE is "
            "set, as by torchrun): the run starts a process for each device itself; start it once, as anomaly-seg train"
        )
    _check_hardware(settings, network)


def _check_hardware(settings: Settings, network: nn.Module) -> None:
    accelerator, devices = settings.trainer.accelerator, settings.trainer.devices
    norms = [
        part for part in SyncLearningNorms().apply(deepcopy(network)).modules() if isinstance(part, nn.SyncBatchNorm)
    ]
    there = torch.cuda.device_count()
    if accelerator == "cpu" or (accelerator == "auto" and not there):
        if isinstance(devices, list):
            raise InputError(f"trainer.devices={devices}: CPUs have no numbers; use trainer.devices={len(devices)}")
        if norms:
            raise InputError(
                f"model.network.norm=batch with trainer.devices={devices}: torch shares the statistics of a batch "
                "between GPUs only; use norm=instance or group, or one device"
            )
    elif max([settings.devices - 1, *(devices if isinstance(devices, list) else [])]) >= there:
        raise InputError(f"trainer.devices={devices}: this machine has {there} GPUs; take what is there")


def on_devices(count: int, work: Callable[..., None], *arguments: Any) -> None:
    """Call `work(device, *arguments)` in a process for each device, numbered from 0, and wait for all.

    The first error, or an interrupt, ends all of them.

    Args:
        count: number of devices.
        work: a function of a module; torch.distributed finds its peers from the environment, as Lightning reads it.
        arguments: that can be pickled.

    Raises:
        InputError: `work` raised it.
        DeviceError: `work` raised anything else, or a process was killed.
    """
    context, method = _context(work.__module__), multiprocessing.get_start_method()
    # The meeting point is this process's, so that its port is known to be free.
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    peers = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "NODE_RANK": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # no word about parameters that some phase, but not this one, leaves out
    }  # fmt: skip
    workers: list[Worker] = []
    try:
        for device in range(count):
            receiver, sender = context.Pipe(duplex=False)
            place = {**os.environ, **peers, "LOCAL_RANK": str(device)}
            process = context.Process(
                target=_work, args=(place, os.getcwd(), method, sender, work, (device, *arguments))
            )
            workers.append(Worker(process, receiver))
            # The main module is not needed, and one without `if __name__ == "__main__"` would start its run again.
            with mock.patch.dict(sys.modules, __main__=ModuleType("__main__")), mock.patch.dict(os.environ, peers):
                process.start()
            sender.close()
        _wait(workers)
    finally:
        _end(workers)


def _context(module: str) -> ForkServerContext | SpawnContext:
    """How processes are started: where there is a fork server, it imports the module once for all of them."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    return context


def _work(
    environment: Mapping[str, str],
    folder: str,
    method: str,
    failures: connection.Connection,
    work: Callable[..., None],
    arguments: Sequence[Any],
) -> None:
    """The life of one process. Its own process group keeps Ctrl-C away: it is the parent's to end it."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    # Loader processes are to be this one's own: a fork server's would not notice that it has been killed.
    multiprocessing.set_start_method(method, force=True)
    os.chdir(folder)
    os.environ.clear()  # a fork server has that of the time when it was started
    os.environ.update(environment)
    try:
        work(*arguments)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        unusable_input = isinstance(error, InputError)
        message = str(error) if unusable_input else f"{type(error).__name__}: {error}"
        # Short enough for the pipe's buffer: nobody reads it before this process has ended.
        failures.send(Failure(time.time(), unusable_input, message[:5000], traceback.format_exc()[-20000:]))
        sys.exit(1)


def _die_with_parent() -> None:
    """A process without its parent would hold its device for ever, waiting for the others."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)


def _wait(workers: Sequence[Worker]) -> None:
    """Until all have ended, or one by an error, which is raised."""
    left = {worker.process.sentinel: worker.process for worker in workers}
    while left:
        for sentinel in connection.wait(list(left)):
            left.pop(sentinel).join()  # type: ignore[arg-type]
        if any(worker.process.exitcode for worker in workers):
            for process in left.values():
                process.join(CAUSE_SECONDS)
            raise _error(workers)


def _error(workers: Sequence[Worker]) -> Exception:
    """The error that came first: without one, a process was killed, and the others' errors are that it was gone."""
    said: list[tuple[Failure, int]] = []
    for number, (process, failures) in enumerate(workers, 1):
        if not process.exitcode:
            continue
        with contextlib.suppress(EOFError):
            if failures.poll():
                said.append((failures.recv(), number))
                continue
        code = process.exitcode
        how = f"was killed by signal {-code} (9: often for want of memory)" if code < 0 else f"ended with code {code}"
        return DeviceError(f"device {number} of {len(workers)}: its process {how}")
    failure, number = min(said)
    if failure.unusable_input:
        return InputError(failure.message)
    error = DeviceError(f"device {number} of {len(workers)}: {failure.message}")
    error.add_note(f"In the process of that device:\n{failure.trace}")
    return error


def _end(workers: Sequence[Worker]) -> None:
    """Interrupt what still works, and kill what does not heed it: none is left."""
    begun = [worker.process for worker in workers if worker.process.pid is not None]
    try:
        deadline = time.monotonic() + GRACE_SECONDS
        for process in begun:
            if process.pid is not None and process.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGINT)
        for process in begun:
            process.join(max(0.0, deadline - time.monotonic()))
    finally:
        for process in begun:
            process.kill()
            process.join()
