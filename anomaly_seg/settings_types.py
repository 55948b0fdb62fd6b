"""Types of single settings: each checks a value as it was given, and says what to use instead of a wrong one."""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator


def checked(holds: Callable[[Any], bool], remedy: str) -> BeforeValidator:
    """Check of a value before pydantic could make 1 of true, or 3 of "3". remedy: what to do about one that fails."""

    def check(value: Any) -> Any:
        if not holds(value):
            raise ValueError(remedy)
        return value

    return BeforeValidator(check)


def choice(literal: Any) -> BeforeValidator:
    """Check that a value is one of a Literal's."""
    choices = get_args(literal)
    separator = " or " if len(choices) <= 3 else ", "
    return checked(lambda value: isinstance(value, str) and value in choices, f"choose {separator.join(choices)}")


def is_whole(value: object, lowest: float = -math.inf) -> bool:
    """Whether the value is an int (true and false are none) of at least `lowest`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= lowest


def is_number(value: object) -> bool:
    """Whether the value is a finite int or float (true and false are none)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(lowest: int) -> BeforeValidator:
    return checked(lambda value: is_whole(value, lowest), f"use a whole number, {lowest} or more")


def _are_numbers(values: list[Any]) -> bool:
    """Whether there is a number, and each is a whole one, 0 or more, and no other's."""
    return bool(values) and all(is_whole(value, 0) for value in values) and len(set(values)) == len(values)


def _name(value: Any) -> str:
    """The value as a name: on a command line, 2 is a number. null is none."""
    if value is None:
        raise ValueError("give a name")
    return str(value)


EvaluateOn = Literal["test", "validation"]

Precision = Literal["32-true", "bf16-mixed", "16-mixed", "auto"]

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
"""torch.compile's documented modes."""

Count = Annotated[int, _whole(0)]
Positive = Annotated[int, _whole(1)]
Rate = Annotated[float, checked(lambda value: is_number(value) and value > 0, "use a number above 0")]
Name = Annotated[str, BeforeValidator(_name)]
OptionalName = Annotated[str, BeforeValidator(lambda value: "" if value is None else str(value))]
Switch = Annotated[bool, checked(lambda value: isinstance(value, bool), "use true or false")]
"""Hydra takes other words, such as no, for text, and any text would count as true."""
FilePath = Annotated[
    str | None,
    checked(
        lambda value: isinstance(value, str | None),
        "give a path, in quotes where it looks like a number or a list",
    ),
]
Fold = Annotated[int, checked(is_whole, "use a whole number; several folds need -m")]
Seed = Annotated[
    int, checked(lambda value: is_whole(value, 0) and value < 2**32, "use a whole number from 0 to 4294967295")
]
Dilation = Annotated[
    int,
    checked(
        lambda value: is_whole(value, 0) and (value == 0 or value % 2 == 1),
        "use 0 (as drawn) or an odd number such as 5, 9, 13 or 17",
    ),
]
Channels = Annotated[int, checked(lambda value: value in (1, 3), "use 1 (grey) or 3 (colour)")]
MaskThreshold = Annotated[
    int,
    checked(
        lambda value: is_whole(value, 1) and value <= 255,
        "use a whole number from 1 (any value above 0) to 255; 128 where masks have grey edges",
    ),
]
Threads = Annotated[
    int | None, checked(lambda value: value is None or is_whole(value, 0), "use a whole number, 0 or more")
]
Weight = Annotated[
    float,
    checked(lambda value: is_number(value) and value > 0, "use a number above 0; 1 is the paper's loss"),
]
Decay = Annotated[
    float,
    checked(lambda value: is_number(value) and 0 <= value < 1, "use 0 (off) or a decay below 1 such as 0.9999"),
]
Momentum = Annotated[float, checked(lambda value: is_number(value) and 0 < value <= 1, "use a number above 0, up to 1")]
Devices = Annotated[
    int | list[int],
    checked(
        lambda value: is_whole(value, 1) or (isinstance(value, list) and _are_numbers(value)),
        "use the number of devices, 1 or more, or the list of those to take, such as [1] for the second GPU",
    ),
]
Compile = Annotated[
    bool | CompileMode,
    checked(
        lambda value: isinstance(value, bool) or value in get_args(CompileMode),
        f"choose false, true or {', '.join(get_args(CompileMode))}",
    ),
]
