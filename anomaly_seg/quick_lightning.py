"""Lightning, imported without scipy.signal.

Lightning imports torchmetrics, and torchmetrics imports scipy.signal only to give it a name that an old package looks
for. That takes 0.8 s of every process (`experiments/bench/start_up.py`), so a stand-in that has the name is there
meanwhile. Import Lightning's things from here, not from Lightning.
"""

import sys
from types import ModuleType

import scipy

NAME = "scipy.signal"

_stand_in = ModuleType(NAME)
_stand_in.hamming = None  # type: ignore[attr-defined]
if NAME not in sys.modules:
    sys.modules[NAME] = _stand_in
try:
    import torchmetrics  # noqa: F401
finally:
    if sys.modules.get(NAME) is _stand_in:
        del sys.modules[NAME]
        vars(scipy).pop("signal", None)
import lightning.pytorch as pl  # noqa: E402
from lightning.fabric.plugins.environments import LightningEnvironment  # noqa: E402
from lightning.pytorch.loggers.logger import DummyLogger  # noqa: E402
from lightning.pytorch.plugins import TorchSyncBatchNorm  # noqa: E402
from lightning.pytorch.utilities.exceptions import SIGTERMException  # noqa: E402

__all__ = ["DummyLogger", "LightningEnvironment", "SIGTERMException", "TorchSyncBatchNorm", "pl"]
