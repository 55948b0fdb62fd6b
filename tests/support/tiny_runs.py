"""Runs of a second or two: 12 synthetic images of 128x64, a sixteenth of the width. Imported by child processes too."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

from anomaly_seg.cli import main
from anomaly_seg.settings import Settings
from anomaly_seg.training.compose import compose_settings

# One process imports everything, and each training is forked from it: a child to kill, without the start-up time.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["support.tiny_runs", "anomaly_seg.training.run"])

TINY = [
    "scale=demo", "scale.height=128", "scale.width=64", "scale.width_multiplier=0.0625", "data.reader.groups=6",
    "data.reader.views=2", "epochs=1", "threads=1", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false",
]  # fmt: skip


def tiny_settings(output: Path, *overrides: str) -> Settings:
    """The settings of a tiny run below `output`; an override wins over the same key of TINY."""
    keys = {o.lstrip("+~").split("=")[0] for o in overrides}
    words = [w for w in TINY if w.split("=")[0] not in keys]
    if any(o.startswith("data=") and o != "data=synthetic" for o in overrides):  # which take what they find
        words = [w for w in words if not w.startswith("data.reader.")]
    words += [] if "output_dir" in keys else [f"output_dir={output}"]
    return compose_settings([*words, *overrides])


def train(output: Path, overrides: list[str], kill_at: int | None = None) -> None:
    """Train in a child process that kills itself, as by `kill -9`, just before it takes step `kill_at`."""
    from anomaly_seg.training.module import SegmentationModule
    from anomaly_seg.training.run import run

    step = SegmentationModule.training_step

    def deadly(self: SegmentationModule, *args: Any) -> Any:
        if self.global_step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *args)

    SegmentationModule.training_step = deadly  # type: ignore[method-assign]
    run(tiny_settings(output, *overrides))


def train_command(words: list[str], screen: Path) -> None:
    """`anomaly-seg train` in a child process and a process group of its own, its screen in a file."""
    os.setsid()
    with screen.open("ab") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.exit(main(["train", *words]))
