"""The benchmark of the runtimes' equality refuses folders that it cannot judge, before it works for hours."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.helpers import load_script
from support.paths import ROOT
from support.sealed_runs import write_run

from anomaly_seg.errors import InputError

SCRIPT = ROOT / "experiments" / "bench" / "equality.py"


@pytest.fixture
def equality(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return load_script(SCRIPT)


@pytest.mark.parametrize(("places", "folds"), [(["fold=0"], r"\[0\]"), (["fold=1", "fold=1 seed=1"], r"\[1, 1\]")])
def test_one_run_for_each_fold(
    equality: ModuleType, places: list[str], folds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    for place in ("fold=0", "fold=1"):
        write_run(good, "model=unet", place)
    for place in places:
        write_run(bad, "model=unet", *place.split())
    monkeypatch.setattr(equality, "trained", None)
    monkeypatch.setattr(sys, "argv", ["equality.py", str(good), str(bad), "--out", str(tmp_path / "out.json")])
    with pytest.raises(InputError, match=rf"bad: runs of folds {folds}; give a folder with one run for each fold"):
        equality.main()
    assert [m.result.run.fold for m in equality.read_folds(good)] == [0, 1]
