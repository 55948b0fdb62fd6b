"""Sweeps of tiny runs in processes of their own, and what they leave."""

import csv
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from support.tiny_runs import PROCESSES, train_command

SMALL = [
    "scale=demo", "scale.height=64", "scale.width=64", "scale.width_multiplier=0.0625", "data.reader.groups=6",
    "data.reader.views=2", "data.reader.defective_fraction=0.5", "dilation=5", "epochs=2", "threads=1",
    "pictures=false", "trainer.enable_progress_bar=false",
]  # fmt: skip


def small(tmp_path: Path, name: str = "runs") -> list[str]:
    return [*SMALL, f"output_dir={tmp_path / name}", f"data.cache_dir={tmp_path / 'cache'}"]


def start(words: list[str], tmp_path: Path, **options: Any) -> BaseProcess:
    """The command in a process group of its own, its screen in a file; options: of `train_command`."""
    process = PROCESSES.Process(target=train_command, args=(words, tmp_path / "screen.txt"), kwargs=options)
    process.start()
    return process


def end(process: BaseProcess, seconds: float = 200) -> int | None:
    """The exit status; None where it has not ended by then."""
    process.join(seconds)
    return process.exitcode


def tables(folder: Path) -> dict[str, list[list[str]]]:
    """scores.csv and pixels.csv of every run, by place."""
    found = sorted([*folder.rglob("scores.csv"), *folder.rglob("pixels.csv")])
    return {str(p.relative_to(folder)): list(csv.reader(p.open())) for p in found}
