"""Networks that compute in float64, so that sums in another order give the same weights to many digits."""

import multiprocessing
import os
import signal
from typing import Any

from torch import Tensor

from anomaly_seg.models.base import Output
from anomaly_seg.models.one_stage import OneStage
from anomaly_seg.models.seg_dec import SegDec

KILL, INTERRUPT = "ANOMALY_SEG_TEST_KILL", "ANOMALY_SEG_TEST_INTERRUPT"
"""Variables with the number of a training step, from 1: before it, the second device of One-Stage is killed, or the
first of Seg-Dec interrupts the process that has started it."""


class DoubleOneStage(OneStage):
    """One-Stage in float64; its losses are float32 as ever."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.double()
        self.passes = 0

    def forward(self, image: Tensor) -> Output:
        self.passes += self.training
        device, now = os.environ.get("LOCAL_RANK"), str(self.passes)
        if device == "1" and os.environ.get(KILL) == now:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(image.double())


class DoubleSegDec(SegDec):
    """Seg-Dec in float64; its losses are float32 as ever."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.double()
        self.passes = 0

    def forward(self, image: Tensor) -> Output:
        self.passes += self.training
        device, now = os.environ.get("LOCAL_RANK"), str(self.passes)
        if device == "0" and os.environ.get(INTERRUPT) == now:
            parent = multiprocessing.parent_process()
            assert parent is not None and parent.pid is not None
            os.kill(parent.pid, signal.SIGINT)
        return super().forward(image.double())
