"""Supervised surface-anomaly segmentation from few labelled images: One-Stage, Seg-Dec and U-Net.

>>> import anomaly_seg
>>> training = anomaly_seg.train(data="synthetic", scale="demo", fold=[0, 1, 2])   # doctest: +SKIP
>>> exported = anomaly_seg.export(training.folders[0])                             # doctest: +SKIP
>>> model = anomaly_seg.load(exported.files[0])                                    # doctest: +SKIP
>>> model("part.png").verdict                                                      # doctest: +SKIP
'good'
"""

from typing import TYPE_CHECKING, Any

from anomaly_seg.api import check, demo, export, predict, report, serve, train
from anomaly_seg.version import __version__ as __version__

if TYPE_CHECKING:
    from anomaly_seg.inference.load import load

__all__ = ["check", "demo", "export", "load", "predict", "report", "serve", "train"]


def __getattr__(name: str) -> Any:
    """`load`, imported when it is asked for: the command line imports this package and has to start at once."""
    if name == "load":
        from anomaly_seg.inference.load import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
