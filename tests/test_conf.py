"""Every option of every group composes, builds, and takes one training step through to a result; what the configuration
says is what runs.
"""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from support.helpers import box_mask, picture, write_dagm, write_image, write_kolektor, write_kolektor2

from anomaly_seg.cli import main
from anomaly_seg.data.readers.kolektor import published_folds
from anomaly_seg.results import run_files
from anomaly_seg.settings import Settings
from anomaly_seg.training.compose import compose, compose_settings, config_folder
from anomaly_seg.training.run import run

CONF = config_folder()
FILES = sorted(path for path in CONF.glob("*/*.yaml"))
ELSEWHERE = {"encoder=timm"} if importlib.util.find_spec("timm") is None else set()
"""Options that only `make test-timm` has the library for."""
OPTIONS = [f"{path.parent.name}={path.stem}" for path in FILES if path.parent.name != "common"]
OPTIONS = [option for option in OPTIONS if option not in ELSEWHERE]
LAUNCHERS = sorted((CONF / "hydra" / "launcher").glob("*.yaml"))
CHANGES = [option for option in OPTIONS if option.startswith("change=")]
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
    if option == "encoder=timm":
        return [option, "model.network.encoder.name=resnet18", "model.network.encoder.weights=null"]
    if option == "logger=wandb":
        return [option, "logger.mode=offline"]
    if option == "trainer=ddp":
        return [option, "batch_size=2"]
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
    groups = {"change", "data", "encoder", "experiment", "logger", "model", "optimizer", "recipe", "sampler", "scale"}
    assert {option.split("=")[0] for option in OPTIONS} == groups | {"trainer"}


@pytest.mark.parametrize("path", [*FILES, *LAUNCHERS], ids=lambda p: f"{p.parent.name}={p.stem}")
def test_an_option_says_what_it_is_for(path: Path) -> None:
    first = next(line for line in path.read_text().splitlines() if not line.startswith("# @package"))
    assert first.startswith("# ") and len(first) > 10


def keys(path: Path) -> Iterator[tuple[str, Any, bool]]:
    """Each key of a file, dotted as composed, its value, and whether a sentence stands on its line or on that of a key
    around it. Left out are sections, targets, and values that are another key's.
    """
    lines = path.read_text().splitlines()
    package = "" if path.parent == CONF else path.parent.name
    if lines[0].startswith("# @package "):
        package = lines[0].removeprefix("# @package ").removeprefix("_global_")

    def below(node: yaml.MappingNode, prefix: str, said: bool) -> Iterator[tuple[str, Any, bool]]:
        for key, value in node.value:
            name = f"{prefix}.{key.value}".lstrip(".")
            here = said or " # " in lines[key.start_mark.line]
            if isinstance(value, yaml.MappingNode):
                yield from below(value, name, here)
            elif key.value not in ("defaults", "_target_") and not str(value.value).startswith("${data."):
                yield name, yaml.safe_load(yaml.serialize(value)), here

    yield from below(yaml.compose("\n".join(lines)), package, False)


def test_every_key_says_what_it_is_for() -> None:
    seen = [(key, said) for path in (CONF / "config.yaml", *FILES, *LAUNCHERS) for key, _, said in keys(path)]
    explained = {key for key, said in seen if said}
    assert len(explained) > 80
    assert {key for key, _ in seen} - explained == set()


@pytest.mark.parametrize("scale", ["paper", "laptop", "demo"])
def test_what_the_files_say_is_what_runs(scale: str) -> None:
    composed = compose([f"scale={scale}"])
    chosen = ["model/one_stage", "data/synthetic", f"recipe/{scale}", f"scale/{scale}", "trainer/default", "logger/csv"]
    for name in ("config", *chosen):
        for key, value, _ in keys(CONF / f"{name}.yaml"):
            if value == "???":
                assert key in ("augment", "epochs", "threads")
            elif "${" not in str(value) and not key.startswith("hydra."):
                assert OmegaConf.select(composed, key) == value, key


RECIPES = {
    "paper": {
        "optimizer": {"name": "adam", "lr": 0.001, "schedule": "none", "fused": True},
        "sampler": "uniform", "augment": "none", "epochs": 25, "threads": None, "precision": "32-true",
    },
    "laptop": {
        "optimizer": {"name": "adam", "lr": 0.001, "schedule": "cosine", "fused": True},
        "sampler": "alternating", "augment": "none", "epochs": 6, "threads": None, "precision": "auto",
    },
    "native": {
        "optimizer": {"name": "adam", "lr": 0.001, "schedule": "cosine", "fused": True},
        "sampler": "alternating", "augment": "none", "epochs": 3, "threads": None, "precision": "auto",
    },
    "demo": {
        "optimizer": {"name": "adam", "lr": 0.001, "schedule": "cosine", "fused": True},
        "sampler": "alternating", "augment": "light", "epochs": 6, "threads": 1, "precision": "32-true",
    },
}  # fmt: skip
SIZES = {"paper": (1408, 512, 1.0), "native": (1408, 512, 1.0), "laptop": (704, 256, 0.25), "demo": (256, 96, 0.125)}
PUBLISHED = {
    "optimizer": {"name": "sgd", "lr": 0.1, "schedule": "none", "momentum": 0.0, "weight_decay": 0.0},
    "sampler": "alternating", "augment": "none", "epochs": 25,
}  # fmt: skip


def recipe_of(settings: Settings) -> dict[str, Any]:
    return {
        "optimizer": settings.optimizer.model_dump(),
        "sampler": settings.sampler.kind,
        "augment": settings.augment,
        "epochs": settings.epochs,
        "threads": settings.threads,
        "precision": settings.trainer.precision,
    }


def size_of(settings: Settings) -> tuple[int, int, float]:
    return settings.scale.height, settings.scale.width, settings.scale.width_multiplier


@pytest.mark.parametrize("scale", SIZES)
def test_a_scale_brings_its_recipe(scale: str) -> None:
    settings = compose_settings([f"scale={scale}"])
    assert recipe_of(settings) == RECIPES[scale]
    assert size_of(settings) == SIZES[scale]


def test_laptop_is_the_default() -> None:
    settings = compose_settings([])
    assert (recipe_of(settings), size_of(settings)) == (RECIPES["laptop"], SIZES["laptop"])


def test_an_experiment_s_scale_brings_its_recipe_too() -> None:
    assert recipe_of(compose_settings(["experiment=demo"])) == RECIPES["demo"]
    assert recipe_of(compose_settings(["experiment=demo", "scale=laptop"])) == RECIPES["laptop"]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("scale", SIZES)
def test_any_recipe_at_any_scale(scale: str, recipe: str) -> None:
    settings = compose_settings([f"scale={scale}", f"recipe={recipe}"])
    assert (recipe_of(settings), size_of(settings)) == (RECIPES[recipe], SIZES[scale])


@pytest.mark.parametrize("scale", SIZES)
def test_seg_dec_s_published_recipe(scale: str) -> None:
    settings = compose_settings(["model=seg_dec", "recipe=seg_dec_published", f"scale={scale}"])
    own = {key: RECIPES[scale][key] for key in ("threads", "precision")}
    assert recipe_of(settings) == PUBLISHED | own
    assert (settings.model.average, settings.model.network["head_bias"]) == (0.9999, 0.0)
    assert (settings.variant, size_of(settings)) == ("published", SIZES[scale])


def test_what_is_chosen_by_hand_wins_over_the_recipe() -> None:
    words = ["optimizer=sgd", "sampler=balanced", "augment=flips", "epochs=3", "threads=2", "trainer.precision=32-true"]
    recipe = recipe_of(compose_settings(words))
    assert (recipe.pop("optimizer")["name"], *recipe.values()) == ("sgd", "balanced", "flips", 3, 2, "32-true")
    gpu = compose_settings(["recipe=paper", "trainer=gpu"])
    assert (gpu.trainer.precision, gpu.trainer.compile) == ("auto", "reduce-overhead")


FUSED = {"f1": 1.0, "f2": 1.0, "f3": 1.0, "C": 0.0, "F": 1.0}
CHANGED: dict[str, dict[str, Any]] = {
    "baseline": {},
    "balanced": {"sampler.kind": "balanced"},
    "batch_norm": {"model.network.norm": "batch"},
    "batch_norm_momentum_001": {"model.network.norm": "batch", "model.norm_momentum": 0.01},
    "bias_zero": {"model.network.head_bias": 0.0},
    "brightness": {"augment": "brightness"},
    "constant_lr": {"optimizer.schedule": "none"},
    "double_epochs": {"epochs": 12},
    "double_size_half_channels": {"scale.height": 1408, "scale.width": 512, "scale.width_multiplier": 0.125},
    "ema": {"model.average": 0.999},
    "flip_average": {"model.flip_average": True},
    "flips": {"augment": "flips"},
    "flips_brightness": {"augment": "light"},
    "fused_loss": {"model.phases": [{"name": "segmentation", "length": 1.0, "train": [], "weights": FUSED}]},
    "group_norm": {"model.network.norm": "group"},
    "half_size_double_channels": {"scale.height": 352, "scale.width": 128, "scale.width_multiplier": 0.5},
    "more_resolution": {"scale.height": 1408, "scale.width": 512},
    "more_width": {"scale.width_multiplier": 0.5},
    "positive_weight": {"model.positive_weight": 3.0},
    "uniform": {"sampler.kind": "uniform"},
}
FOLLOW_SCALE = {"data.reader.height", "data.reader.width", "model.network.width_multiplier"}


@pytest.mark.parametrize("option", CHANGES)
def test_a_change_changes_what_its_name_says_and_nothing_else(option: str) -> None:
    name = option.removeprefix("change=")
    before, after = (compose_settings(words).relevant() for words in ([], [option]))
    changed = {key: after[key] for key in after.keys() - FOLLOW_SCALE if after[key] != before[key]}
    assert before.keys() == after.keys()
    assert changed == {"variant": name, **CHANGED[name]}


def test_files_that_others_share_are_no_options(capsys: pytest.CaptureFixture) -> None:
    assert main(["train", "model=nonsense", "--cfg", "job"]) == 2
    said = capsys.readouterr().err
    assert {"one_stage", "unet"} <= set(said.split()) and "common" not in said and "training" not in said.split()


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
