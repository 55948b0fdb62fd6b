"""Every option of every group composes, builds, and takes one training step through to a result."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from helpers import write_kolektor

from anomaly_seg import results
from anomaly_seg.cli import config_folder
from anomaly_seg.data.kolektor import published_folds
from anomaly_seg.run import run

CONF = config_folder()
OPTIONS = sorted(f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml"))
NEEDS = {"experiment=search": "optuna", "logger=wandb": "wandb", "logger=tensorboard": "tensorboard"}
ONE_STEP = ["++trainer.max_steps=1", "++trainer.limit_train_batches=1", "pictures=false"]


def words(option: str, tmp_path: Path) -> list[str]:
    """What an option needs beside itself."""
    needed = NEEDS.get(option)
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"needs {needed}")
    if option == "data=kolektor":
        folds = published_folds()
        items = [item for fold in range(3) for item in [i for i in folds if folds[i] == fold][:2]]
        return [option, f"data.root={write_kolektor(tmp_path / 'KolektorSDD', items)}"]
    if option.startswith("experiment="):
        return [option, "data=synthetic"]
    if option == "logger=wandb":
        return [option, "logger.mode=offline"]
    return [option, "model=seg_dec"] if option == "recipe=seg_dec_published" else [option]


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_takes_a_step(option: str, configure: Callable, tmp_path: Path) -> None:
    folder = run(configure(*words(option, tmp_path), *ONE_STEP, f"output_dir={tmp_path}/runs"))
    result = results.read_result(folder)
    assert result.training.steps == 1
    assert result.readout in result.readouts


def test_all_groups_are_seen() -> None:
    groups = {"data", "experiment", "logger", "model", "optimizer", "recipe", "sampler", "scale", "trainer"}
    assert {option.split("=")[0] for option in OPTIONS} >= groups


@pytest.mark.parametrize("path", sorted(CONF.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}={p.stem}")
def test_an_option_says_what_it_is_for(path: Path) -> None:
    first = [line for line in path.read_text().splitlines() if not line.startswith("# @package")][0]
    assert first.startswith("# ") and len(first) > 10


def grid(path: Path) -> list[str]:
    """The values that an experiment sweeps, one override each, ranges of a search left out."""
    sweeper = yaml.safe_load(path.read_text()).get("hydra", {}).get("sweeper", {})
    swept = {k: v for k, v in sweeper.get("params", {}).items() if "(" not in v}
    return [f"{key}={value.strip()}" for key, values in swept.items() for value in values.split(",")]


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_value_of_an_experiment_s_grid_composes(path: Path, configure: Callable, tmp_path: Path) -> None:
    extra = words(f"experiment={path.stem}", tmp_path)
    places = set()
    for value in grid(path):
        config = configure(*extra, value)
        assert config.experiment_name == path.stem
        places.add(config.run_name)
    swept = [v.split("=") for v in grid(path)]
    defaults = sum(
        v == str(configure(*extra).get(k, "one_stage")) for k, v in swept if k in ("fold", "dilation", "seed", "model")
    )
    assert len(places) == len(swept) - max(0, defaults - 1), "two values of the grid share a folder"
