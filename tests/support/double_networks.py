"""Networks that compute in float64, so that sums in another order give the same weights to many digits."""

import multiprocessing
import os
import signal
from typing import Any

from torch import Tensor

from anomaly_seg.models.base import Network, Output
from anomaly_seg.models.one_stage import OneStage
from anomaly_seg.models.seg_dec import SegDec

KILL, INTERRUPT = "ANOMALY_SEG_TEST_KILL", "ANOMALY_SEG_TEST_INTERRUPT"
"""Variables with the number of a training step, from 1: before it, the second device of One-Stage is killed, or the
first of Seg-Dec interrupts the process that has started it."""


class Double(Network):
    """A network in float64; its losses are float32 as ever."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.double()
        self.passes = 0

    def forward(self, image: Tensor) -> Output:
        self.passes += self.training
        self.before(os.environ.get("LOCAL_RANK"), str(self.passes))
        return super().forward(image.double())

    def before(self, device: str | None, now: str) -> None:
        """What happens before a pass of this number on this device."""


class DoubleOneStage(Double, OneStage):
    def before(self, device: str | None, now: str) -> None:
        if device == "1" and os.environ.get(KILL) == now:
            os.kill(os.getpid(), signal.SIGKILL)


class DoubleSegDec(Double, SegDec):
    def before(self, device: str | None, now: str) -> None:
        if device == "0" and os.environ.get(INTERRUPT) == now:
            parent = multiprocessing.parent_process()
            assert parent is not None and parent.pid is not None
            os.kill(parent.pid, signal.SIGINT)
