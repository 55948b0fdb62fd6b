"""The folder of a run: whose it is, whether it is finished, and with which data."""

import shutil
from pathlib import Path

import yaml

from anomaly_seg import settings as run_settings
from anomaly_seg.errors import InputError
from anomaly_seg.results import run_files
from anomaly_seg.settings import CONFIG, Settings
from anomaly_seg.training.build import make_data, read_dataset
from anomaly_seg.training.checkpoint import CHECKPOINT


def check_run_folder(folder: Path, settings: Settings) -> bool:
    """Whether the folder holds this very run, finished. Changes nothing.

    Raises:
        InputError: the folder belongs to a run with other settings, or to none.
    """
    record, finished = folder / CONFIG, run_files.finished(folder)
    try:
        if settings.overwrite:
            if folder.exists() and not record.exists() and any(folder.iterdir()):
                raise InputError(
                    f"{folder}: holds files but no {CONFIG}, so it is no run's; overwrite=true leaves it alone"
                )
            return False
        # A run that failed before its first epoch ended has nothing to lose: mend the settings and start again.
        if record.exists() and (finished or (folder / CHECKPOINT).exists()):
            changed = run_settings.read(record).differences(settings)
            if changed:
                raise InputError(
                    f"{folder} holds a run with other settings ({'; '.join(changed[:8])}): set experiment_name or "
                    "variant to keep both, or overwrite=true to replace it"
                )
        elif finished and run_files.read_result(folder).config_digest != settings.digest():
            raise InputError(f"{folder} holds a run with other settings, and its {CONFIG} is gone: move it away")
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error}); set output_dir") from error
    return finished


def start_run_folder(folder: Path, settings: Settings) -> None:
    """Make the folder this run's: empty it if the run is to be replaced, and write its settings.

    Raises:
        InputError: it cannot be written.
    """
    try:
        if settings.overwrite and folder.exists():
            for path in folder.iterdir():  # the settings last: without them a folder is no run's
                if path.name != CONFIG:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        run_files.write_whole(folder / CONFIG, yaml.safe_dump(settings.model_dump(), sort_keys=False))
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error}); free space, or set output_dir") from error


def compare_data(folder: Path, settings: Settings) -> str:
    """Nothing if a finished run was made from the data that the settings name, else why that cannot be said.

    Raises:
        InputError: it was made from other data.
    """
    recorded = run_files.read_result(folder).data_digest
    if not recorded:
        return " (by an older version, which did not record its data)"
    try:
        data = make_data(settings, read_dataset(settings))
    except InputError as error:
        return f" (its data cannot be compared: {error})"
    if data.digest != recorded:
        raise InputError(
            f"{folder} holds a run on other data (images, masks, folds or their preparation have changed since): set "
            "data.name or variant to keep both, or overwrite=true to replace it"
        )
    return ""
