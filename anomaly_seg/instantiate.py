"""Readers and networks named by `_target_` in a configuration, made by Hydra, with errors that a user can act on."""

from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate as hydra_instantiate

from anomaly_seg.errors import InputError


def instantiate(target: Mapping[str, Any], key: str) -> Any:
    """Call what `_target_` names with the other entries as arguments.

    Args:
        target: `_target_` and arguments.
        key: of the configuration, such as "model.network", for messages.

    Raises:
        InputError: what the target has against its arguments (its own InputError as it is; a ValueError under the key),
            or why it cannot be found or called.
    """
    try:
        return hydra_instantiate(dict(target), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, InputError):
            raise cause from None
        if isinstance(cause, ValueError):
            raise InputError(f"{key}.{cause}") from error
        raise InputError(f"{key}: {str(cause or error).splitlines()[0]}") from error
