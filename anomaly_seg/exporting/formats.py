"""A sealed network as a file: ONNX, OpenVINO or torch.export, its model card inside. Written whole or not at all."""

import hashlib
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch.export import Dim, ExportedProgram

from anomaly_seg import atomic
from anomaly_seg.errors import InputError
from anomaly_seg.exporting.graph import InferenceGraph
from anomaly_seg.extras import imported
from anomaly_seg.inference.runtimes import CARD_KEY, OUTPUTS, WEIGHTS_KEY

Format = Literal["onnx", "openvino", "torch"]

SUFFIX: dict[str, str] = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
OPSET = 20
"""Of ONNX: known to ONNX Runtime since 1.17."""


def trace(sealed: InferenceGraph, channels: int) -> ExportedProgram:
    """The graph of a sealed network; n, h and w stay open (with fit "tile" only n)."""
    height, width = sealed.prepare.height, sealed.prepare.width
    tile = sealed.prepare.fit == "tile"
    # Sizes unlike any other in the network, or torch would take their being equal for a rule.
    size = (height, width) if tile else (height + 11, width + 13)
    open_sides = {0: Dim("n", min=1)} if tile else {i: Dim(name, min=1) for i, name in enumerate("nhw")}
    image = torch.zeros(2, *size, channels, dtype=torch.uint8)
    try:
        with torch.no_grad():
            return torch.export.export(sealed, (image,), dynamic_shapes={"image": open_sides})
    except Exception as error:  # of many kinds, for what torch cannot write as a graph
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"the network cannot be sealed: torch.export says: {reason}. Its forward pass, maps and scores have to be "
            "made of torch operations alone, without branches that depend on the image"
        ) from error


def onnx_model(program: ExportedProgram, names: list[str]) -> Any:
    """The graph as an ONNX model in memory, its sizes by name."""
    imported("onnx", "onnx"), imported("onnxscript", "onnx")
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)  # torchvision's operators
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        written = torch.onnx.export(
            program,
            f=None,
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=names,
            verbose=False,
            custom_translation_table={torch.ops.aten.sigmoid.default: _sigmoid()},
        )
    assert written is not None
    model = written.model_proto
    sides = [side.dim_param for side in model.graph.input[0].type.tensor_type.shape.dim]
    renamed = {old: new for old, new in zip(sides, "nhw", strict=False) if old}
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param in renamed:
                side.dim_param = renamed[side.dim_param]
    return model


def _sigmoid() -> Callable[[Any], Any]:
    """The logistic function by an exponential. ONNX Runtime's own gives a fixed value below a logit of -18, but maps of
    good images are smaller, and so are their sums."""
    op = imported("onnxscript", "onnx").opset20

    def sigmoid(self: Any) -> Any:
        one = op.CastLike(1.0, self)
        return op.Div(one, op.Add(one, op.Exp(op.Neg(self))))

    return sigmoid


def openvino_model(onnx: Any) -> Any:
    """The graph of an ONNX model as an OpenVINO model in memory."""
    openvino = imported("openvino", "openvino")
    return openvino.Core().read_model(onnx.SerializeToString(), b"")


def write(model: Any, kind: Format, names: list[str], card: str, path: Path) -> list[Path]:
    """Write a model of this kind with its card.

    Returns:
        The files: path, and for OpenVINO the weights beside it.

    Raises:
        InputError: the folder takes no file.
    """
    check_place(path)
    weights = [path.with_suffix(".bin")] if kind == "openvino" else []
    try:
        with atomic.writing(*weights, path) as temporary:  # what the model needs takes its place before it
            WRITE[kind](model, names, card, temporary[-1])
    except OSError as error:
        raise _unwritable(path, str(error.strerror)) from error
    return [path, *weights]


def check_place(path: Path) -> None:
    """Make the folder for a model and try whether it takes a file. Raises InputError, with the reason."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except FileExistsError as error:
        raise _unwritable(path, f"{path.parent} is a file") from error
    except OSError as error:
        raise _unwritable(path, str(error.strerror)) from error
    if path.is_dir():
        raise _unwritable(path, "it is a folder")


def _unwritable(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: cannot be written ({reason}); free space, or set --out to another place")


def _write_onnx(model: Any, names: list[str], card: str, path: Path) -> None:
    del model.metadata_props[:]
    model.metadata_props.add(key=CARD_KEY, value=card)
    model.producer_name, model.producer_version = "anomaly-seg", ""
    path.write_bytes(model.SerializeToString())


def _write_openvino(model: Any, names: list[str], card: str, path: Path) -> None:
    openvino = imported("openvino", "openvino")
    model.set_rt_info(card, CARD_KEY)
    openvino.save_model(model, path, compress_to_fp16=False)
    # Only the files say what the weights are; written once more, the graph names them.
    model.set_rt_info(hashlib.sha256(path.with_suffix(".bin").read_bytes()).hexdigest(), WEIGHTS_KEY)
    openvino.save_model(model, path, compress_to_fp16=False)


def _write_torch(model: Any, names: list[str], card: str, path: Path) -> None:
    torch.export.save(model, path, extra_files={f"{CARD_KEY}.json": card, OUTPUTS: " ".join(names)})


WRITE: dict[str, Callable[[Any, list[str], str, Path], None]] = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "torch": _write_torch,
}
