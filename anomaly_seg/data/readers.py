"""The reader that a configuration names."""

from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from anomaly_seg.data.records import Dataset
from anomaly_seg.errors import InputError


def read_dataset(reader: Mapping[str, Any]) -> Dataset:
    """Call the reader of `data.reader`: `_target_` and its arguments.

    Raises:
        InputError: what the reader has against its arguments, without Hydra's wrapping.
    """
    try:
        return instantiate(dict(reader))
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise
