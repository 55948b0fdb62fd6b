"""The notebooks run from top to bottom, and what they compute is what their text says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from support.paths import ROOT

FOLDER = ROOT / "notebooks"


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """`execute(name, key=expression)` runs a notebook in an empty folder and returns values after it."""
    monkeypatch.delenv("KOLEKTOR_ROOT", raising=False)  # generated data, whatever the caller looks at
    monkeypatch.delenv("MPLBACKEND", raising=False)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))  # no start-up files of the user's

    def run(name: str, **expressions: str) -> dict[str, Any]:
        notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        values = ", ".join(f"{key!r}: {expression}" for key, expression in expressions.items())
        path = tmp_path / "values.json"
        question = f"import json, pathlib\npathlib.Path({str(path)!r}).write_text(json.dumps({{{values}}}))"
        notebook.cells.append(nbformat.v4.new_code_cell(question))
        resources = {"metadata": {"path": str(tmp_path)}}
        NotebookClient(notebook, kernel_name="python3", timeout=280, resources=resources).execute()
        return json.loads(path.read_text())

    return run


def test_quick_start_learns_and_keeps_its_results(execute: Callable, tmp_path: Path) -> None:
    found = execute(
        "quick_start",
        auroc="result.image.auroc",
        steps="result.training.steps",
        folder="str(folder)",
        again="[str(path) for path in anomaly_seg.train(*further, **choices).folders]",
        picture="picture_name(worst)",
        methods="list(table.method)",
        problems="len(collection.problems)",
    )
    assert found["steps"] == 48
    assert found["auroc"] > 0.75  # 0.5 is chance
    assert found["again"] == [found["folder"]]
    assert (tmp_path / found["folder"] / "pictures" / found["picture"]).stat().st_size > 1000
    assert (found["methods"], found["problems"]) == (["One-Stage"], 2)  # two folds were not run


def test_data_finds_the_planted_duplicate_and_groups_it(execute: Callable) -> None:
    found = execute(
        "data",
        duplicates="[[names[d.a], names[d.b], d.kind] for d in duplicates.closest]",
        planted="[original.name, dataset.records[-1].name]",
        leaks="leaks['identical duplicates in training'].groupby('split').sum().to_dict()",
        area="area.to_dict('list')",
    )
    assert found["duplicates"] == [[*found["planted"], "identical"]]
    assert found["leaks"] == {"published": 2, "grouped": 0, "grouped_near": 0}  # the image and its copy
    diamond, square = found["area"]["diamond"], found["area"]["square"]
    assert diamond[0] == square[0] and all(d < s for d, s in zip(diamond[1:], square[1:], strict=True))
    assert diamond == sorted(set(diamond)) and square == sorted(set(square))


def test_sweep_results_reads_two_networks_at_every_threshold(execute: Callable) -> None:
    found = execute(
        "sweep_results",
        runs="len(collection.runs)",
        images="[len(method.frame) for method in collection.methods]",
        by_hand="list(by_hand)",
        f1="{m: rows.set_index('threshold').F1.to_dict() for m, rows in table.groupby('method')}",
        pairs="len(comparisons)",
    )
    assert (found["runs"], found["images"], found["by_hand"], found["pairs"]) == (6, [18, 18], [0, 1, 2], 2)
    assert set(found["f1"]) == {"One-Stage", "U-Net"}
    for f1 in found["f1"].values():
        assert 1 >= f1["best_f (oracle)"] >= f1["paper"] >= 0  # no single threshold beats the oracle's


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
