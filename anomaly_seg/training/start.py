"""What training begins with: the weights of an earlier run (`model.start`), or those that the encoder brings."""

import hashlib
import sys
from pathlib import Path

from anomaly_seg import settings as run_settings
from anomaly_seg.data.datamodule import FoldDataModule
from anomaly_seg.errors import InputError
from anomaly_seg.models.base import Network
from anomaly_seg.models.encoders.base import Encoder, Source
from anomaly_seg.results import run_files
from anomaly_seg.results.schema import StartWeights
from anomaly_seg.settings import CONFIG, Settings
from anomaly_seg.training.checkpoint import CHECKPOINT, CheckpointFile, evaluated_weights, misfit

SEALED = (".onnx", ".xml", ".bin", ".pt2")
REMEDY = f"give the folder of an earlier run, or its {CHECKPOINT}"


def start_file(start: str) -> Path:
    """The checkpoint that `model.start` names.

    Raises:
        InputError: there is none, or it is a sealed model.
    """
    path = Path(start).expanduser()
    if path.suffix in SEALED and not path.is_dir():
        raise InputError(
            f"model.start={start}: a sealed model, in which layers are merged for speed, so that its weights cannot be "
            f"trained on; {REMEDY} of which it was made"
        )
    file = path / CHECKPOINT if path.is_dir() else path
    if not file.is_file():
        missing = f"holds no {CHECKPOINT}" if path.is_dir() else "no such file"
        raise InputError(f"model.start={start}: {missing}; {REMEDY}")
    return file


def with_start_digest(settings: Settings) -> Settings:
    """Settings with the digest of the start file, by which it counts for the run's identity.

    Of a run that has begun, the file may be gone: then the digest is the recorded one.

    Raises:
        InputError: no such file, or it is the run's own.
    """
    start = settings.model.start
    digest = None
    if start is not None:
        try:
            file = start_file(start)
            if file.parent.resolve() == settings.folder.resolve():
                raise InputError(
                    f"model.start={start}: the run's own folder; set experiment_name or variant to train elsewhere"
                )
            digest = _sha256(file)
        except InputError:
            digest = _recorded(settings)
            if digest is None:
                raise
    return settings.model_copy(update={"model": settings.model.model_copy(update={"start_digest": digest})})


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"model.start: {file} cannot be read ({error.strerror}); {REMEDY}") from error


def _recorded(settings: Settings) -> str | None:
    """Digest in the run's config.yaml, if it began with a file of this name."""
    record = settings.folder / CONFIG
    if settings.overwrite or not record.is_file():
        return None
    model = run_settings.read(record).model
    return model.start_digest if model.start == settings.model.start else None


def load_start(network: Network, start: str) -> None:
    """Take over the weights that an earlier run scored with, whatever the network began with.

    Raises:
        InputError: no such file, a damaged one, one with anything in it that would run code, or weights of another
            network or shape.
    """
    file = start_file(start)
    try:
        found = evaluated_weights(CheckpointFile().load_checkpoint(file, remedy=REMEDY)["state_dict"])
    except InputError as error:
        raise InputError(f"model.start: {error}") from error
    if (difference := misfit(found, network)) is not None:
        name, there, here = difference
        if None in (there, here):
            raise InputError(
                f"model.start={start}: weights of another network ({name} is {there or 'absent'} there and "
                f"{here or 'absent'} here); choose model and encoder as in its {CONFIG}"
            )
        raise InputError(
            f"model.start={start}: weights of another shape ({name} is {there} there and {here} here); set scale, "
            f"data.channels and model.network as in its {CONFIG}"
        )
    network.load_state_dict(found)


def start_encoder(network: Network) -> Source | None:
    """Read the weights that the network's encoder begins with.

    Raises:
        InputError: their file is missing, damaged, or of another network.
    """
    for part in network.modules():
        if isinstance(part, Encoder):
            try:
                return part.start()
            except ValueError as error:
                raise InputError(
                    f"model.network.{error}" if str(error).startswith("encoder.") else str(error)
                ) from error
    return None


def begin(settings: Settings, network: Network, data: FoldDataModule) -> StartWeights | None:
    """Read the weights that training begins with; None where they are random.

    Raises:
        InputError: as `load_start` and `start_encoder`.
    """
    start, digest = settings.model.start, settings.model.start_digest
    if start is None or digest is None:
        source = start_encoder(network)
        return None if source is None else StartWeights(**source._asdict())
    load_start(network, start)
    folder = start_file(start).parent
    seen = _test_images_seen(folder, settings, data)
    if seen:
        print(
            f"model.start={start}: {seen} of {len(data.split.test)} {settings.evaluate_on} images were not held out "
            "from that run, which may have trained on them, so scores on them may be too good; start each fold from "
            "the run of its fold ('model.start=.../fold${fold}/seed0')",
            file=sys.stderr,
        )
    return StartWeights(name=start, sha256=digest, licence=_licence(folder), test_images_seen=seen)


def _test_images_seen(folder: Path, settings: Settings, data: FoldDataModule) -> int | None:
    """Images to be scored that an earlier run on the same data may have trained on; None where that cannot be told."""
    try:
        result, scores = run_files.read_result(folder), run_files.read_scores(folder)
    except InputError:
        return None
    if result.run.data != settings.data.name:
        return None
    held_out = set() if result.start is not None and result.start.test_images_seen else set(scores.image)
    return sum(data.dataset.records[i].name not in held_out for i in data.split.test)


def _licence(folder: Path) -> str:
    """Licence of an earlier run's data, and of the weights that it began with in turn."""
    try:
        licences = [run_settings.read(folder / CONFIG).data.licence or "unknown"]
        before = run_files.read_result(folder).start
        licences += [before.licence] if before is not None else []
    except InputError:
        return "unknown"
    return ", ".join(dict.fromkeys(licences))
