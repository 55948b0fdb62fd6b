"""`anomaly-seg export`: from finished runs to one sealed model file."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anomaly_seg.data.preparation import Preparation
from anomaly_seg.errors import InputError
from anomaly_seg.exporting import choose_threshold, formats
from anomaly_seg.exporting.ensemble import HeldOut, Member, held_out, read_members, read_network
from anomaly_seg.exporting.graph import InferenceGraph, Preprocess
from anomaly_seg.exporting.int8 import Pictures, compare, find_pictures, quantise
from anomaly_seg.exporting.optimize import optimize
from anomaly_seg.exporting.verify import IMAGES, check_equal, noise
from anomaly_seg.inference.model_card import Data, InputContract, ModelCard, Start
from anomaly_seg.version import __version__


@dataclass(frozen=True)
class Exported:
    """A sealed model.

    Attributes:
        files: the model, and what its format keeps beside it (OpenVINO: the weights).
        card: what the model says about itself; it lies inside the file too.
    """

    files: tuple[Path, ...]
    card: ModelCard


def export(
    run: Path,
    *,
    to: formats.Format,
    out: Path | None,
    threshold: str | float,
    miss_rate: float,
    confidence: float,
    int8: bool,
    licence: str | None,
) -> Exported:
    """Write a run, or the runs of all folds, as one model file. For the arguments see `anomaly_seg.export`.

    Raises:
        InputError: runs, data, threshold, format or place that cannot be used; or a network that the file does not
            compute as the run did.
    """
    members = read_members(run)
    path = _target(run, to, out, threshold, int8)
    scores = held_out(members)
    limit = choose_threshold.choose(threshold, members, scores, int8=int8, miss_rate=miss_rate, confidence=confidence)
    pictures = _pictures(members[0], needed=int8)
    sealed, preparation = seal(members, limit.value, fewer=not int8)
    card = make_card(to, licence, members, scores, limit, preparation, sealed, pictures)
    model = make_model(sealed, preparation.channels, to)
    _verify(model, card, sealed.names, members, pictures)
    if int8 and pictures is not None:
        model, card = _quantised(model, card, members, pictures, sealed.names)
    return Exported(tuple(formats.write(model, to, sealed.names, card.model_dump_json(indent=2), path)), card)


def seal(members: Sequence[Member], threshold: float, fewer: bool = True) -> tuple[InferenceGraph, Preparation]:
    """The runs' networks as one, and how it takes images. fewer: see `optimize`.

    Raises:
        InputError: as `read_network`; or tiles whose scores cannot be put together from the network's maps.
    """
    preparation = members[0].settings.preparation
    networks = [optimize(read_network(member), fewer) for member in members]
    sealed = InferenceGraph(
        networks, Preprocess(preparation.height, preparation.width, preparation.fit, preparation.resize), threshold
    ).eval()
    sealed.find_maps(preparation.channels)
    if preparation.fit == "tile" and sealed.summed and sealed.pooled is None:
        readout = members[0].result.readout
        raise InputError(
            f"{members[0].folder}: the score '{readout}' is a sum over pixels, but not of a map of that name, so tiles "
            "cannot be put together; name the map in the network's `maps`, or train with data.fit=resize or pad"
        )
    return sealed, preparation


def make_model(sealed: InferenceGraph, channels: int, kind: formats.Format) -> Any:
    """The model in memory, as `formats.write` takes it."""
    program = formats.trace(sealed, channels)
    if kind == "torch":
        return program
    model = formats.onnx_model(program, sealed.names)
    return model if kind == "onnx" else formats.openvino_model(model)


def _verify(
    model: Any, card: ModelCard, names: list[str], members: Sequence[Member], pictures: Pictures | None
) -> None:
    """Write the float32 model beside nobody's files and compare it with the runs' networks, on images of theirs.

    Raises:
        InputError: it computes something else.
    """
    preparation = members[0].settings.preparation
    images = noise(preparation)
    if pictures is not None:
        tested = pictures.compared
        images = [pictures.sample(int(i)) for i in tested[:: max(1, len(tested) // IMAGES)][:IMAGES]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{formats.SUFFIX[card.format]}"
        formats.write(model, card.format, names, card.model_dump_json(), path)
        check_equal(path, [read_network(member) for member in members], images, preparation)


def _pictures(member: Member, needed: bool) -> Pictures | None:
    """The data of a run; where nothing but the card's ranges depends on them, they may be gone."""
    try:
        return find_pictures(member)
    except InputError:
        if needed:
            raise
        return None


def _quantised(
    model: Any, card: ModelCard, members: Sequence[Member], pictures: Pictures, names: list[str]
) -> tuple[Any, ModelCard]:
    """In 8 bits, with the metrics of its own scores; with none where it did not score all held-out images."""
    small = quantise(model, card.format, pictures.batches())
    cost, scores = compare(model, small, card, members, pictures, names)
    complete = cost.held_out and cost.images == len(pictures.data.split.test)
    found = choose_threshold.judge(card.threshold, scores) if complete else None
    return small, card.model_copy(update={"precision": "int8", "quantisation": cost, "metrics": found})


def _target(run: Path, to: formats.Format, out: Path | None, threshold: str | float, int8: bool) -> Path:
    """Where the model goes, before any work is done for it. Raises InputError if it cannot be made, or not there."""
    if to not in formats.SUFFIX:
        raise InputError(f"--to {to}: choose {', '.join(formats.SUFFIX)}")
    suffix = formats.SUFFIX[to]
    if int8 and to == "torch":
        raise InputError("--int8: choose --to onnx or openvino; torch.export files are written in float32 only")
    if int8 and threshold == "guarantee":
        raise InputError(
            "--int8: a guarantee holds for the scores it was computed from, which are float32; leave --int8 out, or "
            "choose another --threshold"
        )
    path = out or run / f"model{suffix}"
    if path.suffix != suffix:
        raise InputError(f"--out {path}: a model for --to {to} is named *{suffix}")
    formats.check_place(path)
    return path


def make_card(
    to: formats.Format,
    licence: str | None,
    members: Sequence[Member],
    scores: HeldOut,
    limit: choose_threshold.Threshold,
    preparation: Preparation,
    sealed: InferenceGraph,
    pictures: Pictures | None = None,
) -> ModelCard:
    """What the model says about itself.

    Args:
        to: its format.
        licence: of the training data; None takes what the run's settings say.
        members, scores, limit: the runs, their held-out scores, and the threshold from them.
        preparation, sealed: how the model takes images, and the model.
        pictures: the data it was trained on, where they are still there.
    """
    first = members[0]
    run = first.result.run
    variant = f"-{run.variant}" if run.variant else ""
    native = pictures.sizes() if pictures else (None, None)
    return ModelCard(
        name=f"{run.data}-{run.model}{variant}-D{run.dilation}",
        network=run.model,
        format=to,
        precision="float32",
        members=len(members),
        parameters=sum(member.result.training.parameters for member in members),
        maps=sealed.maps,
        heat_map=sealed.heat_map,
        pooled=sealed.pooled,
        pixel_threshold=choose_threshold.pixel_threshold(members),
        threshold=limit,
        metrics=choose_threshold.judge(limit, scores),
        data=_data(licence, members),
        starts=_starts(members),
        input=InputContract(
            channels=1 if preparation.channels == 1 else 3, height=preparation.height, width=preparation.width,
            fit=preparation.fit, resize=preparation.resize,
            tile_overlap=preparation.overlap if preparation.fit == "tile" else 0, native_height=native[0],
        native_width=native[1], ),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        package_version=__version__,
        commit=first.result.environment.commit,
    )  # fmt: skip


def _starts(members: Sequence[Member]) -> list[Start]:
    """The weights that the members began with, each once."""
    begun = [member.result.start for member in members if member.result.start is not None]
    return [Start(name=s.name, sha256=s.sha256, licence=s.licence) for s in {s.sha256: s for s in begun}.values()]


def _data(licence: str | None, members: Sequence[Member]) -> Data:
    run = members[0].result.run
    counts = [member.result.counts for member in members]
    folds = sorted({member.result.run.fold for member in members})
    # What one fold tests, another one trained on: two folds have seen everything.
    everything = len(folds) > 1 and run.scored == "test"
    return Data(
        name=run.data,
        licence=licence or members[0].settings.data.licence or "unknown",
        train_images=max(c.train_images + everything * c.test_images for c in counts),
        train_defective=max(c.train_defective + everything * c.test_defective for c in counts),
        folds=folds,
        split=run.split,
        dilation=run.dilation,
    )


def summary(card: ModelCard) -> str:
    """The card in four lines."""
    members = "" if card.members == 1 else f", mean of {card.members} runs"
    lines = [f"{card.name}: {card.parameters:,} parameters{members}, {card.precision}"]
    lines.append(f"threshold {card.threshold.value:.6g}: {card.threshold.how}")
    if card.metrics is not None:
        alone = ", each judged by its own fold's runs" if len(card.data.folds) > 1 else ""
        m, low, high = card.metrics, card.metrics.recall.low, card.metrics.recall.high
        lines.append(
            f"on {m.images} held-out images{alone}, {m.defective} of them defective: F1 {m.f1 or 0:.4f}, "
            f"{m.fp} false alarms, {m.fn} missed (recall {m.recall.value:.3f}, 95 % interval {low:.3f} to {high:.3f})"
        )
    if card.quantisation is not None:
        lines.append(f"INT8 {card.quantisation.sentence}")
    lines.append(f"licence of the data: {card.data.licence}")
    return "\n".join(lines)
