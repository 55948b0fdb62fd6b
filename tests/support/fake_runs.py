"""Fake run folders for the report's tests, written with the package's own writers: no network, no training."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from support.tiny_runs import tiny_settings

from anomaly_seg.evaluation import thresholds
from anomaly_seg.reporting.collect import picture_name
from anomaly_seg.results import run_files, schema

SIGMA = {"one_stage": 100.0, "unet": 1300.0, "seg_dec": None}
READOUT = {"one_stage": "F", "unet": "map", "seg_dec": "decision"}


def write_run(
    root: Path,
    scores: Sequence[float],
    labels: Sequence[int],
    *,
    pictures: bool = False,
    duplicates: int = 0,
    **run: object,
) -> Path:
    """One finished run: image ``i`` of fold ``k`` is ``kos0k/Part<i>.jpg``; ``run`` overrides `schema.Run`'s fields."""
    about = schema.Run(**({**DEFAULTS, **run}))
    score, label = np.asarray(scores, dtype=float), np.asarray(labels)
    group = f"kos{about.fold:02d}"
    images = [f"{group}/Part{i}.jpg" for i in range(len(score))]
    readouts = {"f1": score + 50, "C": score + 1, "F": score} if about.model == "one_stage" else {}
    study = root / about.experiment / about.data / about.split / about.scored
    folder = study / f"{about.model}{about.variant}" / f"d{about.dilation}" / f"fold{about.fold}_seed{about.seed}"
    run_files.write_scores(folder, run_files.Scores(images, [group] * len(score), label, score, readouts))
    run_files.write_pixels(folder, PIXELS)
    if pictures:
        write_pictures(folder, [image for image, y in zip(images, label, strict=True) if y], label[label == 1])
    write_settings(folder)
    run_files.write_result(folder, fake_result(about, score, label, readouts, duplicates))
    return folder


@cache
def _plain_settings() -> dict:
    return tiny_settings(Path("runs")).model_dump()


def write_settings(folder: Path, **changes: object) -> None:
    """A config.yaml as a run leaves it."""
    (folder / "config.yaml").write_text(yaml.safe_dump(_plain_settings() | changes), encoding="utf-8")


def fake_result(
    about: schema.Run, score: np.ndarray, label: np.ndarray, readouts: dict[str, np.ndarray], duplicates: int = 0
) -> schema.Result:
    """What a run with these test scores would say about itself."""
    published = SIGMA.get(about.model)
    sigma = None if published is None else thresholds.paper(published, about.height, about.width)
    at: dict = {"best_f": schema.AtThreshold.best_f(score, label)}
    if sigma is not None:
        at["paper"] = schema.AtThreshold.of(score, label, sigma, oracle=False)
    return schema.Result(
        run=about,
        readout=READOUT.get(about.model, "map"),
        counts=schema.Counts(
            train_images=20, train_defective=4, test_images=len(score), test_defective=int(label.sum())
        ),
        sigma=sigma,
        image=schema.ImageLevel.of(score, label),
        thresholds={name: verdicts for name, verdicts in at.items() if verdicts is not None},
        readouts={name: schema.Readout.of(values, label) for name, values in readouts.items()},
        pixel=PIXELS.measures(),
        training=schema.Training(
            steps=1200, epochs=6, parameters=1_030_000, train_seconds=780.5, test_seconds=12.25, final_loss=0.03
        ),
        duplicates_across_split=schema.DuplicatesAcrossSplit(identical=duplicates, near=duplicates),
        config_digest="0" * 16,
        environment=schema.Environment(
            commit="abc1234", dirty=False, date="2026-01-02T03:04:05+00:00", versions={"python": "3.11"},
            hardware={"device": "cpu", "cores": 2},
        ),
    )  # fmt: skip


def write_pictures(folder: Path, images: Sequence[str], labels: np.ndarray, width: int = 48, height: int = 120) -> None:
    """Strips of five panels: input, mask, f1, C, F."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        rng = np.random.default_rng(i)
        grain = rng.normal(120, 15, (height, width)).clip(0, 255).astype(np.uint8)
        mask = np.zeros_like(grain)
        if label:
            row = int(rng.integers(20, height - 20))
            mask[row : row + 4, 8:40] = 255
            grain = np.where(mask > 0, 40, grain).astype(np.uint8)
        panels = [grain, mask, grain // 3 + mask // 2, mask // 2, mask]
        Image.fromarray(np.hstack(panels)).save(folder / "pictures" / picture_name(image))


def write_sweep(
    root: Path,
    *,
    models: Sequence[str] = ("one_stage", "seg_dec", "unet"),
    dilations: Sequence[int] = (0, 5, 9, 13, 17),
    folds: int = 3,
    images: int = 133,
    defective: int = 17,
    pictures: bool = False,
) -> list[Path]:
    """A grid of runs with plausible random scores."""
    runs = []
    for m, model in enumerate(models):
        for dilation in dilations:
            for fold in range(folds):
                rng = np.random.default_rng([m, dilation, fold])
                label = (np.arange(images) < defective).astype(int)
                score = np.where(label == 1, rng.lognormal(4.5, 1.0, images), rng.lognormal(0.0 + m, 1.3, images))
                if model == "seg_dec":
                    score = score / (score + 20)
                about = {"model": model, "dilation": dilation, "fold": fold, "folds": folds}
                runs.append(write_run(root, score, label, pictures=pictures and dilation == 9, **about))
    return runs


DEFAULTS = {
    "experiment": "comparison",
    "data": "kolektor",
    "model": "one_stage",
    "variant": "",
    "dilation": 9,
    "fold": 0,
    "folds": 3,
    "split": "grouped",
    "seed": 0,
    "scale": "laptop",
    "height": 704,
    "width": 256,
}
# Eight defective pixels of 100: at 0.5, TP 6, FP 2, FN 2 (IoU 6/10, Dice 12/16).
PIXELS = run_files.Pixels(
    np.array([0.25, 0.5, 0.75]), np.array([7, 6, 3]), np.array([7, 2, 0]), np.array([1, 2, 5]), np.array([85, 90, 92])
)
