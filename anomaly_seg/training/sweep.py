"""What a sweep adds to a run: one failing job never stops the rest, a live line, a summary, an exit code.

Jobs talk to the command through a journal, because Hydra's launchers run them in this process (basic), in others
(joblib) or on other machines, and return nothing.
"""

import gc
import math
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from anomaly_seg import locks
from anomaly_seg.errors import InputError
from anomaly_seg.results.run_files import FAILURE, finished
from anomaly_seg.settings import CONFIG
from anomaly_seg.training import journal, sharing
from anomaly_seg.training.compose import compose_first, config_folder, register_resolvers, sentence, to_plain
from anomaly_seg.training.journal import JOURNAL
from anomaly_seg.training.slurm_job import job_settings

FULL_ERROR = "HYDRA_FULL_ERROR"
MULTIRUN = {"-m", "--multirun"}


@dataclass(frozen=True)
class Failure:
    """A run that ended with an error.

    Attributes:
        run: its place below the output folder.
        error: the message, on one line or several.
        traceback: the file that holds it; None where the message is enough on its own.
        unusable_input: whether settings or data cannot be used, so that the remedy lies with them.
    """

    run: str
    error: str
    traceback: Path | None
    unusable_input: bool


@dataclass(frozen=True)
class Training:
    """What became of one run, or of all runs of a sweep.

    Attributes:
        folders: of the finished runs, those finished before included, in the order in which they ended.
        failures: the others.
        elsewhere: those among `folders` that another command finished while this one was at work.
    """

    folders: tuple[Path, ...]
    failures: tuple[Failure, ...]
    elsewhere: tuple[Path, ...] = ()

    @property
    def exit_code(self) -> int:
        """0: every run is finished, 1: one failed, 2: only such failed as had input that cannot be used."""
        if not self.failures:
            return 0
        return 2 if all(failure.unusable_input for failure in self.failures) else 1


def check_words(overrides: Sequence[str]) -> None:
    """Refuse, with a sentence, what Hydra ends on with a traceback: switches that clash, and an output folder that is a
    file or cannot be written.

    Raises:
        InputError: see above.
    """
    for word in overrides:
        name, _, value = word.partition("=")
        if name in ("--cfg", "-c", "--info", "-i") and MULTIRUN & set(overrides):
            raise InputError(f"{name} shows one configuration: leave out -m, and give one value for each key")
        if name == "output_dir":
            given = value.strip("\"'")
            place = Path(given).absolute()
            there = next(path for path in (place, *place.parents) if path.exists())
            if there.is_file():
                raise InputError(f"output_dir={given}: {there} is a file: choose a folder, or move the file away")
            if not os.access(there, os.W_OK | os.X_OK):
                raise InputError(f"output_dir={given}: {there} cannot be written: choose another folder")


def train(overrides: Sequence[str]) -> Training:
    """Run Hydra on `job`, once or for every combination of a sweep.

    Raises:
        InputError: overrides that give no configuration; as `check_words`; a single run that cannot use its input.
    """
    register_resolvers()
    check_words(overrides)
    if any("," in word for word in overrides) and not any(word.startswith("-") for word in overrides):
        compose_first(overrides)
    with _journal():
        _launch(overrides)
        _come_back()
        lines = journal.read()
    folders = tuple(Path(line["folder"]) for line in lines if line["status"] == "done")
    elsewhere = tuple(Path(line["folder"]) for line in lines if line.get("elsewhere"))
    failed = [line for line in lines if line["status"] == "failed"]
    failures = tuple(
        Failure(f["run"], f["error"], Path(f["trace"]) if f["trace"] else None, f["input"]) for f in failed
    )
    if len(lines) == 1 and failures and failures[0].unusable_input:
        raise InputError(failures[0].error)
    return Training(folders, failures + _silent(lines, len(folders) + len(failures)), elsewhere)


def _silent(lines: Sequence[dict[str, Any]], said: int) -> tuple[Failure, ...]:
    """Runs of which the journal has no end, as where the disk was full: nobody may take them for finished."""
    total = next((line["total"] for line in lines if line["status"] == "start"), None) or said
    if said >= total:
        return ()
    error = f"no word of how they ended ({said} of {total} runs left one): look into their folders, or run again"
    return (Failure(f"{total - said} of {total} runs", error, None, False),)


@contextmanager
def _journal() -> Iterator[None]:
    """A journal for the block: a temporary one, until `Announce` knows the output folder."""
    with tempfile.TemporaryDirectory(prefix="anomaly-seg-") as folder:
        os.environ[JOURNAL] = folder
        try:
            yield
        finally:
            shutil.rmtree(os.environ.pop(JOURNAL), ignore_errors=True)
            _end_workers()


def _end_workers() -> None:
    """End joblib's workers: those that a second sweep of this process met would write to the journal of the first."""
    if loky := sys.modules.get("joblib.externals.loky"):
        loky.get_reusable_executor().shutdown()


def _launch(overrides: Sequence[str]) -> None:
    """Hydra's command line, with these words for its own."""
    switches = [word for word in overrides if word in MULTIRUN]  # Hydra takes none between overrides
    words = [word for word in overrides if word not in switches]
    argv, asked = sys.argv, os.environ.get(FULL_ERROR)
    sys.argv = ["anomaly-seg train", *switches, *words]
    os.environ[FULL_ERROR] = "1"  # else Hydra prints its errors itself, and exits
    try:
        hydra.main(version_base="1.3", config_path=str(config_folder().resolve()), config_name="config")(job)()
    except HydraException as error:
        if asked:
            raise
        raise InputError(sentence(error)) from error
    except ValueError:
        if not any(line["status"] == "failed" for line in journal.read()):
            raise  # and else it is Optuna's, who has no best trial where all failed
    finally:
        sys.argv = argv
        del os.environ[FULL_ERROR]
        if asked is not None:
            os.environ[FULL_ERROR] = asked


def job(config: DictConfig) -> float | None:
    """One job of a sweep, or the only one: a run whose failure is written down instead of raised.

    A sweep that shares its runs leaves one that another process holds for later.

    Returns:
        AP of the scored images, for sweepers that optimise (on validation images); None on failure.
    """
    register_resolvers()  # a worker of joblib has not
    folder = _folder(config)
    with _written_down(config):
        lock, alone = sharing.run_lock(folder), sharing.shared_since() is None
        held = locks.take(lock, f"{folder}: another process is at it, waiting") if alone else locks.try_take(lock)
        if held is not None:
            with held:
                return _train(config)
        print(f"{folder}: another process is at it, passed by for now", file=sys.stderr, flush=True)
        journal.append({"run": config.run_name, "status": "held", "config": to_plain(config)})
    return None


def _folder(config: DictConfig) -> Path:
    return Path(config.output_dir) / config.run_name


@contextmanager
def _written_down(config: DictConfig) -> Iterator[None]:
    """What goes wrong in the block is written down, not raised; then memory is cleaned, and the live line printed."""
    folder, trains = _folder(config), True
    with suppress(OSError):  # of which the run has a sentence
        trains = config.overwrite or not finished(folder)
    try:
        yield
    except Exception as error:
        _fail(config.run_name, folder, error)
    finally:
        if trains:  # to clean takes longer than to find a run finished
            _clean()
        live_line()


def _train(config: DictConfig) -> float | None:
    """Train the run whose lock is held, or find it finished; returns as `job`."""
    from anomaly_seg.results.run_files import read_result
    from anomaly_seg.training.run import run

    folder = _folder(config)
    elsewhere = sharing.finished_elsewhere(config.run_name, folder)
    if not (folder / CONFIG).exists():  # nobody's yet, so an earlier failure was this run's; else `run` decides
        (folder / FAILURE).unlink(missing_ok=True)
    run(job_settings(config, folder))
    journal.append({"run": config.run_name, "status": "done", "folder": str(folder), "elsewhere": elsewhere})
    return read_result(folder).image.ap


def _come_back() -> None:
    """Settle the runs that were passed by."""
    passed = [OmegaConf.create(line["config"]) for line in journal.read() if line["status"] == "held"]
    for index, held in sharing.as_they_come_free([_folder(config) for config in passed]):
        with _written_down(passed[index]), held:
            _train(passed[index])


class Announce(Callback):
    """Tells the journal how many jobs a sweep has, before the first starts."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        Path(config.output_dir).mkdir(parents=True, exist_ok=True)  # where the storage of a search goes
        journal.open_below(Path(config.output_dir))
        since = sharing.disk_time(Path(config.output_dir)) if sharing.is_shared(config) else None
        journal.append({"status": "start", "total": count_jobs(config), "time": time.time(), "shared_since": since})


def count_jobs(config: DictConfig) -> int | None:
    """Jobs of a grid: the product of its swept values, the command line replacing the experiment's. None if unknown."""
    sweeper = config.hydra.sweeper
    if "n_trials" in sweeper:
        return int(sweeper.n_trials)
    grid = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    state = GlobalHydra.instance()  # knows the options that a glob stands for
    parser = OverridesParser.create(state.config_loader() if state.is_initialized() else None)
    parsed = parser.parse_overrides([*grid, *config.hydra.overrides.task])
    # In this order: of two values for one key Hydra takes the later.
    sizes = {o.get_key_element(): len(list(o.sweep_string_iterator())) if o.is_sweep_override() else 1 for o in parsed}
    return math.prod(sizes.values())


def _fail(name: str, folder: Path, error: Exception) -> None:
    """Traceback into the run's folder at once, one line into the journal, and one on the screen.

    Input that cannot be used leaves nothing in the folder: its message is enough. The screen is left to `train` where
    it raises the error.
    """
    where = ""
    known = isinstance(error, InputError | OmegaConfBaseException)  # the latter of an interpolation of no key
    try:
        if not known:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / FAILURE).write_text("".join(traceback.format_exception(error)), encoding="utf-8")
            where = str(folder / FAILURE)
    except OSError:
        pass
    message = str(error) if known else f"{type(error).__name__}: {error}"
    journal.append({"run": name, "status": "failed", "error": message, "trace": where, "input": known})
    if not known or JOURNAL not in os.environ or journal.start_line() is not None:
        print(f"anomaly-seg train: {message}" + f"\n  traceback: {where}" * bool(where), file=sys.stderr)


def _clean() -> None:
    """Nothing of a job stays in memory for the next one."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def live_line() -> None:
    """Jobs done, left and failed, and the time left at the pace so far."""
    start = journal.start_line()
    if start is not None:
        seconds = time.time() - start["time"]
        print(sharing.progress(journal.read(), start["total"], seconds), file=sys.stderr, flush=True)
