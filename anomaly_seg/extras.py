"""Optional libraries: imported where they are used, and one sentence with the remedy where one is missing."""

import importlib
import importlib.util
from typing import Any

from anomaly_seg.errors import InputError


def missing(module: str, extra: str | None) -> InputError:
    """What to raise where `module` cannot be imported; `extra` is the group of requirements with it, if any."""
    grouped = f"'anomaly-seg[{extra}]' (in a checkout: pip install -e '.[{extra}]')"
    return InputError(f"needs the package {module.partition('.')[0]!r}: pip install {grouped if extra else module}")


def imported(module: str, extra: str | None = None) -> Any:
    """The module. Raises InputError where it cannot be imported."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(module, extra) from error


def need(extra: str, *modules: str) -> None:
    """Raises InputError where one of these modules is not there; imports none, which for some takes seconds."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise missing(module, extra)
