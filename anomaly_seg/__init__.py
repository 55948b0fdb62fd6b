"""Supervised surface-anomaly segmentation from few labelled images: One-Stage, Seg-Dec and U-Net.

>>> from anomaly_seg import load
>>> model = load("model.onnx")        # doctest: +SKIP
>>> model("part.png").verdict         # doctest: +SKIP
'good'
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anomaly_seg.inference.load import load as load

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load`, imported when it is asked for: the command line imports this package and has to start at once."""
    if name == "load":
        from anomaly_seg.inference.load import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
