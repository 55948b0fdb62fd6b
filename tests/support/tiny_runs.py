"""Runs of a second or two: 12 synthetic images of 128x64, a sixteenth of the width. Imported by child processes too."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from anomaly_seg.cli import main
from anomaly_seg.settings import Settings
from anomaly_seg.training.compose import compose_settings

# One process imports everything, and each training is forked from it: a child to kill, without the start-up time.
PROCESSES = multiprocessing.get_context("forkserver")
LATE = [
    "anomaly_seg.training.sweep",
    "anomaly_seg.models.one_stage",
    "albumentations",
    "scipy.stats",
    "sklearn.metrics",
]
"""What the package imports when it is first needed."""
PROCESSES.set_forkserver_preload(["support.tiny_runs", "anomaly_seg.training.run", *LATE])

TINY = [
    "scale=demo", "scale.height=128", "scale.width=64", "scale.width_multiplier=0.0625", "data.reader.groups=6",
    "data.reader.views=2", "epochs=1", "threads=1", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false",
]  # fmt: skip


def tiny_words(output: Path, *overrides: str) -> list[str]:
    """The command's words for a tiny run below `output`; an override wins over the same key of TINY."""
    keys = {o.lstrip("+~").split("=")[0] for o in overrides}
    words = [w for w in TINY if w.split("=")[0] not in keys]
    if any(o.startswith("data=") and o != "data=synthetic" for o in overrides):  # which take what they find
        words = [w for w in words if not w.startswith("data.reader.")]
    words += [] if "output_dir" in keys else [f"output_dir={output}"]
    return [*words, *overrides]


def tiny_settings(output: Path, *overrides: str) -> Settings:
    """The settings of such a run."""
    return compose_settings(tiny_words(output, *overrides))


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


def train_command(words: list[str], screen: Path, pad: float = 0.0, fits: Path | None = None) -> None:
    """`anomaly-seg train` in a child process and a process group of its own, its screen in a file.

    Args:
        words: of the command line.
        screen: file for what it prints.
        pad: seconds that each training step sleeps, in place of a busy GPU.
        fits: file that gets a line for each training: when it began (`time.time`), and the run's folder.
    """
    from anomaly_seg.quick_lightning import pl
    from anomaly_seg.training.module import SegmentationModule

    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    with screen.open("ab") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    step, fit = SegmentationModule.training_step, pl.Trainer.fit

    def padded(self: SegmentationModule, *args: Any) -> Any:
        time.sleep(pad)
        return step(self, *args)

    def noted(self: pl.Trainer, *args: Any, **keywords: Any) -> None:
        if fits:
            with fits.open("a") as file:
                file.write(f"{time.time()} {self.default_root_dir}\n")
        fit(self, *args, **keywords)

    SegmentationModule.training_step, pl.Trainer.fit = padded, noted  # type: ignore[method-assign]
    sys.exit(main(["train", *words]))
