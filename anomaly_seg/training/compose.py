"""From overrides to the configuration that Hydra composes, and to settings."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from anomaly_seg.errors import InputError
from anomaly_seg.settings import PATHS, Settings
from anomaly_seg.settings_history import todays_words


def config_folder() -> Path:
    """The configuration: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "conf"
    return inside if inside.exists() else package.parent / "conf"


def register_resolvers() -> None:
    """`${suffix:x}` is "-x", or nothing for an empty x: run names without loose ends."""
    OmegaConf.register_new_resolver("suffix", lambda text: f"-{text}" if text else "", replace=True)


def compose(overrides: Sequence[str]) -> DictConfig:
    """The configuration that a `train` with these overrides would run with.

    Raises:
        InputError: an override that does not fit.
    """
    register_resolvers()
    try:
        with hydra.initialize_config_dir(str(config_folder().resolve()), version_base="1.3"):
            return hydra.compose("config", overrides=list(overrides))
    except HydraException as error:
        raise InputError(sentence(error)) from error


def to_plain(config: DictConfig) -> dict[str, Any]:
    """A composed configuration as plain values. Raises InputError for an interpolation of a key that is not there."""
    try:
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise InputError(str(error)) from error


def compose_settings(overrides: Sequence[str]) -> Settings:
    """The checked settings of one run with these overrides. Raises InputError as `compose` and `Settings.of`."""
    return Settings.of(to_plain(compose(overrides)))


def compose_first(overrides: Sequence[str]) -> DictConfig:
    """The configuration of a sweep's first job. Of a mistake in it Hydra only says that sweeps need --multirun.

    Args:
        overrides: "key=value" or "key=a,b"; globs, and what is no list of values, are left to the sweeper.

    Raises:
        InputError: as `compose`.
    """
    words, parser = [], OverridesParser.create()
    for word in overrides:
        try:
            override = parser.parse_override(word)
        except HydraException as error:
            raise InputError(f"{word}: {error}") from error
        if override.is_discrete_sweep() and override.value_type != ValueType.GLOB_CHOICE_SWEEP:
            words.append(f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}")
        elif not override.is_sweep_override():
            words.append(word)
    return compose(words)


TEXTS = ("data.groups", "data.mask_suffix", "data.name", "data.licence", "experiment_name", "variant")
"""Keys whose value is text, or null, beside those of paths."""

PIECE = re.compile(
    r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^\s,:=\[\]{}()'"](?:[^,:=\[\]{}()'"]*[^\s,:=\[\]{}()'"])?"""
)
"""A value without quotes, or one in quotes, between the signs that Hydra's grammar gives a meaning."""


def quote_values(overrides: Sequence[str]) -> list[str]:
    """Overrides with values in quotes where Hydra's grammar has no place for them, or takes a path for something else.

    Letters beyond ASCII are taken as they are in every key: in lists and sweeps each value on its own. A path may look
    like a list or a number (2024_11); the value of another key that is text may hold brackets, or =. Keys of older
    versions get today's names.
    """
    parser = OverridesParser.create()
    return [_with_quotes(word, parser) for word in todays_words(overrides)]


def _with_quotes(word: str, parser: OverridesParser) -> str:
    key, _, value = word.partition("=")
    name, whole = key.lstrip("+"), f"{key}={_quoted(value)}"
    if not value or value[0] in "'\"":
        return word
    if name in PATHS:
        return word if _is_text(word, parser) else whole
    if not value.isascii():
        word = f"{key}={PIECE.sub(lambda piece: piece[0] if piece[0].isascii() else _quoted(piece[0]), value)}"
    return whole if name in TEXTS and not _parses(word, parser) else word


def _is_text(word: str, parser: OverridesParser) -> bool:
    if not _parses(word, parser):
        return False
    parsed = parser.parse_override(word)
    return parsed.is_sweep_override() or isinstance(parsed.value(), str | None)


def _parses(word: str, parser: OverridesParser) -> bool:
    try:
        parser.parse_override(word)
    except HydraException:
        return False
    return True


def _quoted(value: str) -> str:
    """In quotes, unless it has them."""
    return value if value[:1] in tuple("'\"") else quote(value)


def quote(text: str) -> str:
    """The text as a quoted string of Hydra's grammar, in which only quotes and the backslashes before one are escaped.

    >>> print(quote("it's"))
    'it\\'s'
    """
    return "'" + re.sub(r"(\\*)('|\Z)", lambda m: 2 * m[1] + (r"\'" if m[2] else ""), text) + "'"


def sentence(error: HydraException) -> str:
    """What Hydra says, and what OmegaConf said to it."""
    return f"{error}\n{error.__cause__}" if isinstance(error.__cause__, OmegaConfBaseException) else str(error)
