"""Images of 16 bits that hold the values of fewer."""

from pathlib import Path

import numpy as np
import pytest
from support.helpers import in_memory

from anomaly_seg.data.cache import prepare
from anomaly_seg.data.preparation import Preparation
from anomaly_seg.data.quality import problems
from anomaly_seg.data.records import Dataset


def dim(cache: Path, dataset: Dataset) -> list[str]:
    found = problems(dataset, prepare(dataset, Preparation(26, 10, convert="grey8"), cache))
    return [problem for problem in found if problem.startswith("16-bit images")]


def test_cameras_of_fewer_bits_than_their_files(tmp_path: Path) -> None:
    """12 bits: 4095 // 257 = 15, so levels 0 to 15 of 256; 16 bits are 2^4 = 16 times as many. The last image has 8."""
    dataset = in_memory()
    for i, record in enumerate(dataset.records):
        twelve = np.linspace(0, 4095 - 5 * i, 260).reshape(26, 10).astype(np.uint16)
        record.image.array = (twelve // 257).astype(np.uint8) if i == 11 else twelve  # type: ignore[attr-defined]
    assert dim(tmp_path, dataset) == [
        "16-bit images that use less than a quarter of the range: p0/v0, p0/v1, p1/v0, p1/v1, p2/v0, p2/v1 and 5 more; "
        "the highest value is 4095 of 65535, which leaves 16 of 256 grey levels; if the camera has 12 bits, multiply "
        "its values by 16, also where the model is used"
    ]
    for record in dataset.records[:11]:
        record.image.array = record.image.array * np.uint16(16)  # type: ignore[attr-defined]
    assert dim(tmp_path, dataset) == []


@pytest.mark.parametrize(("highest", "said"), [(16383, True), (16384, False)])
def test_a_quarter_of_the_range(tmp_path: Path, highest: int, said: bool) -> None:
    dataset = in_memory()
    for record in dataset.records:
        record.image.array = record.image.array.astype(np.uint16) * 60  # type: ignore[attr-defined]  # to 235 * 60
        record.image.array[3, 4] = highest  # type: ignore[attr-defined]
    found = dim(tmp_path, dataset)
    assert len(found) == said
    assert not said or "p2/v1 and 6 more; the highest value is 16383 of 65535, which leaves 64 of 256" in found[0]
