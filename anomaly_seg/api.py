"""The Python API: one function for each verb of the command line, which only parses, calls these, and prints.

Nothing heavy is imported before a function is called, so that `import anomaly_seg` takes no time.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from anomaly_seg.errors import InputError

if TYPE_CHECKING:
    from anomaly_seg.data.check import Report as DataReport
    from anomaly_seg.exporting.export import Exported
    from anomaly_seg.inference.predict import Predictions
    from anomaly_seg.reporting.report import Report
    from anomaly_seg.training.sweep import Training

__all__ = ["check", "demo", "export", "predict", "report", "serve", "train"]

KEYS = {"root": "data.root", "name": "experiment_name"}
"""Keywords of `train` and `check` whose key in the configuration has another name."""


def train(
    *overrides: str,
    data: str | Sequence[str] | None = None,
    root: str | Path | None = None,
    model: str | Sequence[str] | None = None,
    scale: str | Sequence[str] | None = None,
    recipe: str | Sequence[str] | None = None,
    change: str | Sequence[str] | None = None,
    experiment: str | None = None,
    fold: int | Sequence[int] | None = None,
    dilation: int | Sequence[int] | None = None,
    seed: int | Sequence[int] | None = None,
    epochs: int | Sequence[int] | None = None,
    name: str | None = None,
    output_dir: str | Path | None = None,
    profile: bool = False,
) -> "Training":
    """Train and score one fold, or every combination of the values given.

    A sequence of values makes a sweep: one run for each combination. The same call again resumes it, and finished runs
    are skipped. Progress goes to standard error.

    Args:
        overrides: any further key as "key=value", or "key=value,value" together with "-m" (Hydra's grammar).
        data: data set, one of the files in conf/data, such as "kolektor" or "folder".
        root: folder or zip of the data set.
        model: network, one of the files in conf/model.
        scale: size of the input and of the network, one of the files in conf/scale.
        recipe: training recipe, one of the files in conf/recipe.
        change: one change to it, one of the files in conf/change.
        experiment: a whole study, one of the files in conf/experiment; it may bring a sweep of its own.
        fold: number of the fold to test, from 0.
        dilation: D of the labels in pixels: 0 (as drawn) or an odd number.
        seed: of weights, sampling and augmentation, from 0.
        epochs: passes over the training images.
        name: first part of the runs' folders (experiment_name).
        output_dir: where the runs' folders go.
        profile: write where a step's time goes into the run's folder.

        None, for each of them: what the configuration says.

    Returns:
        The folders of the finished runs, and the failures. A run of a sweep that fails stops no other.

    Raises:
        InputError: values that give no configuration, or a single run whose settings, data or folder cannot be used.
        KeyboardInterrupt: Ctrl-C; the same call goes on from there.

    >>> from anomaly_seg import train
    >>> training = train(data="synthetic", scale="demo", fold=[0, 1, 2])        # doctest: +SKIP
    >>> [folder.name for folder in training.folders], training.failures         # doctest: +SKIP
    (['seed0', 'seed0', 'seed0'], ())
    """
    from anomaly_seg.training import sweep

    return sweep.train(
        _words(
            overrides, data=data, root=root, model=model, scale=scale, recipe=recipe, change=change,
            experiment=experiment, fold=fold, dilation=dilation, seed=seed, epochs=epochs, name=name,
            output_dir=output_dir, profile=profile or None,
        )
    )  # fmt: skip


def check(
    *overrides: str,
    data: str | Sequence[str] | None = None,
    root: str | Path | None = None,
    model: str | Sequence[str] | None = None,
    scale: str | Sequence[str] | None = None,
    recipe: str | Sequence[str] | None = None,
    change: str | Sequence[str] | None = None,
    experiment: str | None = None,
    fold: int | Sequence[int] | None = None,
    dilation: int | Sequence[int] | None = None,
    seed: int | Sequence[int] | None = None,
    epochs: int | Sequence[int] | None = None,
    name: str | None = None,
    output_dir: str | Path | None = None,
    profile: bool = False,
) -> "DataReport":
    """Look at a data set before training: counts, sizes, defects, folds, near-duplicates, problems.

    Takes what `train` takes, and looks at the first run of a sweep.

    Returns:
        The tables as text, and the number of problems. Files that cannot be used are problems, not errors.

    Raises:
        InputError: values that give no configuration, no data set, or a cache folder that cannot be written.
    """
    from anomaly_seg.data import check as data_check
    from anomaly_seg.settings import Settings
    from anomaly_seg.training.build import check_model, read_dataset
    from anomaly_seg.training.compose import compose, compose_first, to_plain
    from anomaly_seg.training.sweep import MULTIRUN

    given = _words(
        overrides, data=data, root=root, model=model, scale=scale, recipe=recipe, change=change,
        experiment=experiment, fold=fold, dilation=dilation, seed=seed, epochs=epochs, name=name,
        output_dir=output_dir, profile=profile or None,
    )  # fmt: skip
    words = [word for word in given if word not in MULTIRUN]
    settings = Settings.of(to_plain(compose_first(words) if len(words) < len(given) else compose(words)))
    about = settings.data
    return data_check.check(
        read_dataset(settings),
        settings.preparation,
        about.cache_dir,
        about.folds,
        about.split,
        about.split_seed,
        about.splits,
        data_check.TrainingPlan(settings.fold, settings.evaluate_on, settings.sampler.kind, check_model(settings)),
    )


def report(folder: str | Path, out: str | Path | None = None) -> "Report":
    """Pool the folds of all runs below a folder into tables, figures and one page, from their result files alone.

    Args:
        folder: with runs in it.
        out: where report.md, report.html, tables/ and figures/ go; None: the folder itself.

    Returns:
        The files written, and one sentence for every run that is missing, unfinished, failed or unreadable.

    Raises:
        InputError: no finished run, or a folder that cannot be written.
    """
    from anomaly_seg.reporting.report import build

    return build(Path(folder), None if out is None else Path(out))


def export(
    run: str | Path,
    *,
    to: Literal["onnx", "openvino", "torch"] = "onnx",
    out: str | Path | None = None,
    threshold: str | float = "held_out",
    miss_rate: float = 0.1,
    confidence: float = 0.9,
    int8: bool = False,
    licence: str | None = None,
) -> "Exported":
    """Seal a trained run, or the folds of one, into a model file that needs nothing else.

    Args:
        run: folder of a finished run, or one that holds one run for each fold.
        to: format.
        out: file to write; None: model.onnx, model.xml or model.pt2 in `run`.
        threshold: "held_out" (best F1 over the held-out scores of all folds), "paper", "guarantee", or a number.
        miss_rate: with "guarantee": largest share of defects missed, in (0, 1).
        confidence: with "guarantee": of the promise, in (0, 1).
        int8: compute in 8 bits, calibrated on training images.
        licence: of the training data, for the model card; None: what the run's settings say.

    Returns:
        The files written, and the model card.

    Raises:
        InputError: runs, data, threshold, format or place that cannot be used, or a missing extra.
    """
    from anomaly_seg.exporting import export as exporting

    return exporting.export(
        Path(run), to=to, out=None if out is None else Path(out), threshold=threshold, miss_rate=miss_rate,
        confidence=confidence, int8=int8, licence=licence,
    )  # fmt: skip


def predict(
    model: str | Path,
    paths: str | Path | Sequence[str | Path],
    *,
    out: str | Path = "predictions",
    threshold: float | None = None,
    overlays: bool = False,
    watch: bool = False,
) -> "Predictions":
    """Judge images with a sealed model, and write the verdicts to files. For a single image in memory see `load`.

    Args:
        model: a file that `export` wrote.
        paths: images, folders, or globs; with watch: folders.
        out: folder to write. The same call again goes on there: what it has a verdict on is not judged again.
        threshold: instead of the model's own.
        overlays: draw a picture with the defects marked for every image.
        watch: stay, and judge what appears in the folders, until Ctrl-C; each verdict is printed.

    Returns:
        Counts of verdicts, and the table with one row an image.

    Raises:
        InputError: no such path, no image, or a model or a folder that cannot be used.
        KeyboardInterrupt: Ctrl-C, unless watching, which is how that ends.
    """
    from anomaly_seg.inference import predict as prediction

    named = [paths] if isinstance(paths, str | Path) else paths
    return prediction.predict(
        Path(model), [str(path) for path in named], out=Path(out), threshold=threshold, overlays=overlays, watch=watch
    )


def demo(
    model: str | Path | Sequence[str | Path],
    *,
    samples: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    max_mb: float = 32,
) -> None:
    """Try a sealed model, or compare two, on a page in the browser. Serves until it is interrupted.

    Args:
        model: a file that `export` wrote, or two.
        samples: folder of images to choose from; None: generated ones.
        host: address to listen on; the default is this machine only.
        port: 1 to 65535.
        max_mb: largest upload in MB.

    Raises:
        InputError: more than two models, no such model, no images among the samples, a port out of range or in use, a
            size limit that is no size, or a missing extra.
    """
    from anomaly_seg.serving import demo as page

    models = [model] if isinstance(model, str | Path) else model
    place = None if samples is None else Path(samples)
    page.demo([Path(one) for one in models], samples=place, host=host, port=port, max_mb=max_mb)


def serve(model: str | Path, *, host: str = "127.0.0.1", port: int = 8000, max_mb: float = 32) -> None:
    """Answer over HTTP with a sealed model's verdicts. Serves until it is interrupted.

    Args:
        model: a file that `export` wrote.
        host: address to listen on; the default is this machine only.
        port: 1 to 65535.
        max_mb: largest upload in MB.

    Raises:
        InputError: no such model, a port out of range or in use, a size limit that is no size, or a missing extra.
    """
    from anomaly_seg.serving import serve as service

    service.serve(Path(model), host=host, port=port, max_mb=max_mb)


def _words(overrides: Sequence[str], **keywords: object) -> list[str]:
    """Hydra's words for a call: the overrides, then the keywords, which win over an override of the same key.

    Raises:
        InputError: a sequence without a value.
    """
    from anomaly_seg.training.compose import quote_values
    from anomaly_seg.training.sweep import MULTIRUN

    given = {keyword: value for keyword, value in keywords.items() if value is not None}
    words = [*quote_values(overrides), *(_word(keyword, value) for keyword, value in given.items())]
    sweep = any(_is_sequence(value) for value in given.values()) and MULTIRUN.isdisjoint(words)
    return [*words, "--multirun"] if sweep else words


def _word(keyword: str, value: object) -> str:
    """One keyword as an override. Text is quoted, so that Hydra takes none of it for its grammar."""
    from anomaly_seg.training.compose import quote

    values = list(value) if isinstance(value, Sequence) and _is_sequence(value) else [value]
    if not values:
        raise InputError(f"{keyword}={value}: give at least one value")
    texts = (quote(str(one)) if isinstance(one, str | Path) else str(one) for one in values)
    return f"{KEYS.get(keyword, keyword)}={','.join(texts)}"


def _is_sequence(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
