"""Every option of every group composes, builds, and takes one training step through to a result."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support.helpers import box_mask, picture, write_dagm, write_image, write_kolektor, write_kolektor2

from anomaly_seg.data.readers.kolektor import published_folds
from anomaly_seg.results import run_files
from anomaly_seg.training.compose import config_folder
from anomaly_seg.training.run import run

CONF = config_folder()
OPTIONS = sorted(f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml"))
NEEDS = {"experiment=search": "optuna", "logger=wandb": "wandb", "logger=tensorboard": "tensorboard"}
ONE_STEP = ["++trainer.max_steps=1", "++trainer.limit_train_batches=1", "pictures=false"]


def write_own(folder: Path) -> Path:
    """Six images, three of them with a mask."""
    for i in range(6):
        write_image(folder / f"{i}.png", picture(f"{i}"))
        if i % 2:
            write_image(folder / f"{i}_mask.png", box_mask())
    return folder


OWN_DATA = {"data=folder": write_own, "data=dagm": write_dagm, "data=kolektor2": write_kolektor2}


def words(option: str, tmp_path: Path) -> list[str]:
    """What an option needs beside itself."""
    needed = NEEDS.get(option)
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"needs {needed}")
    if option == "data=kolektor":
        folds = published_folds()
        groups = [group for fold in range(3) for group in [i for i in folds if folds[i] == fold][:2]]
        return [option, f"data.root={write_kolektor(tmp_path / 'KolektorSDD', groups)}"]
    if option in OWN_DATA:
        return [option, f"data.root={OWN_DATA[option](tmp_path / 'data')}", "data.folds=3"]
    if option.startswith("experiment="):
        return [option, "data=synthetic"]
    if option == "logger=wandb":
        return [option, "logger.mode=offline"]
    return [option, "model=seg_dec"] if option == "recipe=seg_dec_published" else [option]


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_takes_a_step(option: str, configure: Callable, tmp_path: Path) -> None:
    folder = run(configure(*words(option, tmp_path), *ONE_STEP, f"output_dir={tmp_path}/runs"))
    result = run_files.read_result(folder)
    assert result.training.steps == 1
    assert result.readout in result.readouts
    if option in ("data=dagm", "data=kolektor2"):  # their test part is the only fold
        assert (result.run.folds, result.counts.train_images, result.counts.test_images) == (1, 6, 6)


def test_all_groups_are_seen() -> None:
    groups = {"data", "experiment", "logger", "model", "optimizer", "recipe", "sampler", "scale", "trainer"}
    assert {option.split("=")[0] for option in OPTIONS} >= groups


@pytest.mark.parametrize("path", sorted(CONF.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}={p.stem}")
def test_an_option_says_what_it_is_for(path: Path) -> None:
    first = next(line for line in path.read_text().splitlines() if not line.startswith("# @package"))
    assert first.startswith("# ") and len(first) > 10


def grid(path: Path) -> dict[str, list[str]]:
    """The values that an experiment sweeps, by key; the ranges of a search left out."""
    sweeper = yaml.safe_load(path.read_text()).get("hydra", {}).get("sweeper", {})
    swept = {key: values for key, values in sweeper.get("params", {}).items() if "(" not in values}
    return {key: [value.strip() for value in values.split(",")] for key, values in swept.items()}


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_jobs_of_an_experiment_exist_and_have_folders_of_their_own(
    path: Path, configure: Callable, tmp_path: Path
) -> None:
    option = f"experiment={path.stem}"
    for key, values in grid(path).items():
        if (CONF / key).is_dir():
            assert {f"{key}={value}" for value in values} <= set(OPTIONS)
        jobs = [configure(*words(option, tmp_path), f"{key}={value}") for value in values[:2]]
        assert {job.experiment_name for job in jobs} == {path.stem}
        assert len({job.run_name for job in jobs}) == len(jobs)
