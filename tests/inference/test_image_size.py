"""Sizes far from those trained on, by hand: trained on 100 to 120 x 50 to 60 pixels, for a network of 64 x 32."""

import pytest

from anomaly_seg.inference.image_size import size_note
from anomaly_seg.inference.model_card import InputContract

TRAINED = "far from the 100 to 120 x 50 to 60 trained on: "
SMALL, LARGE = "less than 1/2 of the smallest", "more than 2 times the largest"


def contract(fit: str, **changes: object) -> InputContract:
    sizes = {"native_height": (100, 120), "native_width": (50, 60)}
    return InputContract(channels=1, height=64, width=32, fit=fit, resize="area", **sizes | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fit", "height", "width", "reason"),
    [
        ("resize", 100, 50, None),
        ("resize", 50, 25, None),  # just half of the smallest
        ("resize", 240, 120, None),  # just twice the largest
        ("resize", 49, 25, f"its height is {SMALL}"),
        ("resize", 241, 120, f"its height is {LARGE}"),
        ("resize", 50, 24, f"its width is {SMALL}"),
        ("resize", 240, 121, f"its width is {LARGE}"),
        # Aspects of training lie between 100 / 60 and 120 / 50: near from 1.11 to 3.6.
        ("resize", 180, 50, None),
        ("resize", 181, 50, "it is stretched over 1.5 times further than any image trained on"),
        ("resize", 100, 90, None),
        ("resize", 100, 91, "it is stretched over 1.5 times further than any image trained on"),
        # 64 x 32: a pixel of the network covers 100 / 64 = 1.5625 (50 / 32 too) to 120 / 64 = 1.875 of the image.
        ("pad", 240, 20, None),  # 3.75, whatever the aspect
        ("pad", 241, 20, f"the factor it is shrunk by is {LARGE}"),
        ("pad", 10, 121, f"the factor it is shrunk by is {LARGE}"),  # 121 / 32 = 3.78
        ("pad", 50, 25, None),  # 0.78125
        ("pad", 49, 24, f"the factor it is shrunk by is {SMALL}"),  # 49 / 64 = 0.766
        ("pad", 50, 10, None),
        # Areas of training: 5000 to 7200.
        ("tile", 1440, 10, None),  # 14400, whatever the sides
        ("tile", 1441, 10, f"its area is {LARGE}"),
        ("tile", 50, 50, None),
        ("tile", 49, 51, f"its area is {SMALL}"),  # 2499
    ],
)
def test_by_hand(fit: str, height: int, width: int, reason: str | None) -> None:
    expected = None if reason is None else f"{height} x {width} pixels, {TRAINED}{reason}"
    assert size_note(height, width, contract(fit)) == expected


def test_one_size_of_training_is_named_once() -> None:
    note = size_note(10, 50, contract("resize", native_height=(100, 100), native_width=(50, 50)))
    assert note == f"10 x 50 pixels, far from the 100 x 50 trained on: its height is {SMALL}"


def test_a_card_without_sizes_calls_nothing_far() -> None:
    assert size_note(1, 1, contract("resize", native_height=None)) is None
    assert size_note(1, 1, contract("tile", native_width=None)) is None
