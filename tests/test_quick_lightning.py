"""Importing Lightning in haste leaves no trace: scipy.signal is whole for whoever asks for it later."""

import subprocess
import sys

from support.paths import ROOT

PROGRAM = """
import sys
{before}
import anomaly_seg.quick_lightning
print("scipy.signal" in sys.modules)
import scipy.signal
print(scipy.signal.convolve([1, 2], [1, 1]).tolist(), scipy.signal.windows.hann(3).tolist())
"""


def said(before: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(before=before)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_scipy_signal_is_not_imported_and_whole_afterwards() -> None:
    assert said("") == ["False", "[1, 3, 2] [0.0, 1.0, 0.0]"]


def test_what_was_imported_before_stays() -> None:
    assert said("import scipy.signal") == ["True", "[1, 3, 2] [0.0, 1.0, 0.0]"]
