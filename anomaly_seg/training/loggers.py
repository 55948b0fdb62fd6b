"""Tracking: csv, TensorBoard, Weights & Biases or MLflow behind three calls."""

import csv
import io
import os
import uuid
from pathlib import Path
from typing import Any

from filelock import FileLock

from anomaly_seg.errors import InputError
from anomaly_seg.extras import missing
from anomaly_seg.quick_lightning import DummyLogger, pl
from anomaly_seg.results import run_files
from anomaly_seg.results.schema import Result
from anomaly_seg.settings import Settings


class RunLogger:
    """A Lightning logger, what to add when the run is done, and how to let go of it."""

    def __init__(self, lightning: pl.loggers.Logger) -> None:
        self.lightning = lightning

    def finish(self, result: Result, folder: Path) -> None:
        """Send the final figures and pictures."""

    def close(self, failed: bool) -> None:
        """Let go: the next run of this process must not write here. failed: an error or an interrupt ended the run."""
        self.lightning.finalize("failed" if failed else "success")


class CsvHistory(pl.loggers.Logger):
    """metrics.csv, a row a logged step. A resumed run goes on with the rows it finds, where Lightning's deletes them.

    Args:
        path: of the file.
        resumed: whether to keep what stands there; a step that is trained again replaces its row.
    """

    name, version = "", ""

    def __init__(self, path: Path, resumed: bool) -> None:
        super().__init__()
        self.path = path
        self.rows: dict[int, dict[str, Any]] = {}
        if resumed and path.exists():
            with open(path, newline="", encoding="utf-8") as file:
                self.rows = {int(row["step"]): row for row in csv.DictReader(file)}

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml is the one record."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Raises InputError if the folder takes no file."""
        row = self.rows.setdefault(step or 0, {"step": step or 0})
        row.update(metrics)
        columns = list(dict.fromkeys(key for row in self.rows.values() for key in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows[k] for k in sorted(self.rows))
        run_files.write_whole(self.path, text.getvalue())


class TensorBoardRun(RunLogger):
    """Figures as scalars, pictures as images."""

    def finish(self, result: Result, folder: Path) -> None:
        import cv2

        writer = self.lightning.experiment  # type: ignore[attr-defined]
        for name, value in summary(result).items():
            writer.add_scalar(name, value, 0)
        for path in sorted((folder / "pictures").glob("*.png")):
            picture = cv2.imread(str(path))
            if picture is not None:
                writer.add_image(f"pictures/{path.stem}", picture[:, :, ::-1].copy(), dataformats="HWC")


class WandbRun(RunLogger):
    """One W&B run a job; it is finished in any case, or it would swallow the whole sweep."""

    def finish(self, result: Result, folder: Path) -> None:
        import wandb

        run = self.lightning.experiment  # type: ignore[attr-defined]
        run.summary.update(summary(result))
        table = wandb.Table(
            columns=["threshold", "value", "TP", "FP", "FN", "TN", "precision", "recall", "F1", "oracle"]
        )
        for name, at in result.thresholds.items():
            table.add_data(name, at.value, at.tp, at.fp, at.fn, at.tn, at.precision, at.recall, at.f1, at.oracle)
        pictures = [wandb.Image(str(p), caption=p.stem) for p in sorted((folder / "pictures").glob("*.png"))]
        run.log({"thresholds": table} | ({"pictures": pictures} if pictures else {}))

    def close(self, failed: bool) -> None:
        import wandb

        wandb.finish(exit_code=int(failed))


class MlflowRun(RunLogger):
    """One MLflow run a job, in a local SQLite file unless `tracking_uri` says otherwise."""

    def finish(self, result: Result, folder: Path) -> None:
        client, run_id = self.lightning.experiment, self.lightning.run_id  # type: ignore[attr-defined]
        for name, value in summary(result).items():
            client.log_metric(run_id, name, value)
        client.log_artifact(run_id, str(folder / run_files.SCORES))
        if (folder / "pictures").exists():
            client.log_artifacts(run_id, str(folder / "pictures"), "pictures")


def summary(result: Result) -> dict[str, float]:
    """The figures a dashboard's table and parallel coordinates compare runs by."""
    figures = {
        "image/AP": result.image.ap,
        "image/AUROC": result.image.auroc,
        "image/FP_at_FN0": result.image.fp_at_fn0,
    }
    for name, at in result.thresholds.items():
        label = f"{name}_oracle" if at.oracle else name
        figures |= {f"{label}/F1": at.f1, f"{label}/FP": at.fp, f"{label}/FN": at.fn}
    figures |= {"pixel/AP": result.pixel.ap, "pixel/IoU": result.pixel.iou, "pixel/Dice": result.pixel.dice}
    return {k: float(v) for k, v in figures.items() if v is not None}


def make_logger(settings: Settings, folder: Path, resumed: bool = False, device: int = 0) -> RunLogger:
    """The logger that the settings ask for, on the first device of the run; on the others one that logs nothing.

    Args:
        settings: of the run.
        folder: of the run.
        resumed: whether the run goes on from a checkpoint.
        device: number of this process's device among the run's, from 0.

    Raises:
        InputError: unknown kind, or its package is not installed.
    """
    if device:
        return RunLogger(DummyLogger())
    kind = settings.logger.kind
    makers = {"csv": _csv, "tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}
    if kind not in makers:
        raise InputError(f"logger.kind={kind}: choose {', '.join(makers)}")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return makers[kind](settings, folder, resumed)
    except ModuleNotFoundError as error:
        raise missing(error.name or kind, kind) from error


def _csv(settings: Settings, folder: Path, resumed: bool) -> RunLogger:
    return RunLogger(CsvHistory(folder / "metrics.csv", resumed))


def _tensorboard(settings: Settings, folder: Path, resumed: bool) -> RunLogger:
    return TensorBoardRun(pl.loggers.TensorBoardLogger(folder, name="", version="tensorboard"))


def _wandb(settings: Settings, folder: Path, resumed: bool) -> RunLogger:
    options = settings.logger.extra()
    mode = options["mode"]
    if mode == "auto":
        mode = "online" if os.environ.get("WANDB_API_KEY") or _logged_in() else "offline"
    # Under the id of the run it goes on with, a resumed job stays one run.
    kept = folder / "wandb-id"
    if not (resumed and kept.exists()):
        kept.write_text(uuid.uuid4().hex[:8])
    logger = pl.loggers.WandbLogger(
        project=options["project"], entity=options["entity"], name=settings.run_name, save_dir=folder,
        config=settings.model_dump(),
        group=settings.experiment_name, job_type=settings.model.full_name, mode=mode, reinit="finish_previous",
        tags=_tags(settings), id=kept.read_text(), resume="allow",
    )  # fmt: skip
    return WandbRun(logger)


def _mlflow(settings: Settings, folder: Path, resumed: bool) -> RunLogger:
    import mlflow

    output = Path(settings.output_dir or ".").resolve()
    server, kept = settings.logger.extra()["tracking_uri"], folder / "mlflow-id"
    with FileLock(output / ".mlflow.lock"):  # two jobs at once would both make the tables, or the experiment
        logger = pl.loggers.MLFlowLogger(
            experiment_name=settings.experiment_name, run_name=settings.run_name, synchronous=True,
            tracking_uri=server or f"sqlite:///{output}/mlflow.db",
            tags=dict(zip(("data", "scale", "dilation", "fold"), _tags(settings), strict=True)),
            artifact_location=None if server else f"file://{output}/mlflow-artifacts",  # a server has its own place
            run_id=kept.read_text() if resumed and kept.exists() else None,
        )  # fmt: skip
        _ = logger.experiment  # made when first asked for
    if not (resumed and kept.exists()):
        longest = mlflow.utils.validation.MAX_PARAM_VAL_LENGTH
        logger.log_hyperparams({k: str(v)[:longest] for k, v in settings.relevant().items()})
        kept.write_text(str(logger.run_id))
    return MlflowRun(logger)


def _tags(settings: Settings) -> list[str]:
    return [settings.data.name, settings.scale.name, f"D{settings.dilation}", f"fold{settings.fold}"]


def _logged_in() -> bool:
    """Whether `wandb login` left a key for its host in the user's netrc."""
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return netrc.exists() and "api.wandb.ai" in netrc.read_text(errors="ignore")
