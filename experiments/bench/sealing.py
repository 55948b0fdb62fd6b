"""A sealed network in all formats, for the benchmarks."""

from typing import Any

from anomaly_seg.exporting import formats
from anomaly_seg.exporting.graph import InferenceGraph

Models = dict[str, tuple[Any, formats.Format]]


def convert(sealed: InferenceGraph, channels: int) -> Models:
    """A sealed network in the three formats, by runtime."""
    program = formats.trace(sealed, channels)
    onnx = formats.onnx_model(program, sealed.names)
    openvino = formats.openvino_model(onnx)
    return {"torch.export": (program, "torch"), "ONNX Runtime": (onnx, "onnx"), "OpenVINO": (openvino, "openvino")}
