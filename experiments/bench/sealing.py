"""What the benchmarks of sealed models share."""

from typing import Any

import torch
from torch import Tensor

from anomaly_seg.detector import formats
from anomaly_seg.detector.sealed import Sealed
from anomaly_seg.models.base import Network

Models = dict[str, tuple[Any, formats.Format]]


def settle(network: Network, pixels: Tensor) -> Network:
    """A network of random weights with the running statistics of one image, so that no map is 0 or 1 throughout."""
    for norm in (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(pixels)
    return network.eval()


def convert(sealed: Sealed, channels: int) -> Models:
    """A sealed network in the three formats, by runtime."""
    program = formats.trace(sealed, channels)
    onnx = formats.onnx_model(program, sealed.names)
    openvino = formats.openvino_model(onnx)
    return {"torch.export": (program, "torch"), "ONNX Runtime": (onnx, "onnx"), "OpenVINO": (openvino, "openvino")}
