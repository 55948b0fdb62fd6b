"""The walls of the house, read from its source: who may import whom, and what nobody may know."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from support.paths import ROOT

PACKAGE = ROOT / "anomaly_seg"
Graph = dict[str, set[str]]


def module_name(path: Path) -> str:
    """anomaly_seg/data/cache.py -> anomaly_seg.data.cache"""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}


def statements(body: list[ast.stmt], *, deferred: bool) -> Iterator[ast.stmt]:
    """Statements and those inside them, without the branches for the type checker; deferred: inside functions too."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If) and ast.unparse(statement.test).endswith("TYPE_CHECKING"):
            yield from statements(statement.orelse, deferred=deferred)
        elif deferred or not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            for name in ("body", "orelse", "finalbody"):
                yield from statements(getattr(statement, name, []), deferred=deferred)
            for inner in [*getattr(statement, "handlers", []), *getattr(statement, "cases", [])]:
                yield from statements(inner.body, deferred=deferred)


def imported(tree: ast.Module, *, deferred: bool = False) -> set[str]:
    """Every module that is imported, as the package's files name theirs: in full, never relative."""
    found = set()
    for statement in statements(tree.body, deferred=deferred):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            assert statement.module is not None and statement.level == 0, ast.unparse(statement)
            full = {alias.name: f"{statement.module}.{alias.name}" for alias in statement.names}
            found |= {name if name in TREES else statement.module for name in full.values()}
    return found


IMPORTS: Graph = {name: imported(tree) for name, tree in TREES.items()}


def room(name: str) -> str:
    """The subpackage, or the module itself where it lies loose in the package."""
    return ".".join(name.split(".")[:2])


def modules(*rooms: str) -> list[str]:
    return [name for name in TREES if room(name) in {f"anomaly_seg.{each}" for each in rooms}]


def reached(start: str) -> set[str]:
    """All that an import of the module imports, directly or through modules of the package."""
    found, waiting = set(), [start]
    while waiting:
        for name in IMPORTS.get(waiting.pop(), set()) - found:
            found.add(name)
            waiting.append(name)
    return found


def libraries(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def circle(graph: Graph) -> list[str] | None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_the_reading_of_imports_by_hand() -> None:
    source = """
import os.path
from typing import TYPE_CHECKING
from anomaly_seg import errors, __version__
from anomaly_seg.data.cache import prepare
if TYPE_CHECKING:
    import torch
else:
    import numpy
try:
    import cv2
except ImportError:
    import PIL
class A:
    import json
    def f(self):
        import hydra
"""
    here = {"os.path", "typing", "anomaly_seg.errors", "anomaly_seg", "anomaly_seg.data.cache", "numpy", "cv2", "PIL"}
    assert imported(ast.parse(source)) == here | {"json"}
    assert imported(ast.parse(source), deferred=True) == here | {"json", "hydra"}
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) is None
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) or []) == {"a", "b", "c"}


@pytest.mark.parametrize("name", modules("inference", "serving", "reporting"))
def test_what_runs_in_production_imports_no_torch(name: str) -> None:
    beneath = reached(name) | reached("anomaly_seg")  # which every import of a module in it runs first
    assert libraries(beneath).isdisjoint({"torch", "lightning", "torchmetrics", "hydra", "omegaconf"})


@pytest.mark.parametrize("name", modules("models", "losses"))
def test_networks_and_losses_know_neither_framework_nor_configuration(name: str) -> None:
    inside = imported(TREES[name], deferred=True)
    assert libraries(reached(name) | inside).isdisjoint({"lightning", "hydra", "omegaconf", "wandb", "mlflow"})
    own = {room(module) for module in reached(name) | inside if module in TREES}
    assert own <= {"anomaly_seg.models", "anomaly_seg.losses"}
    texts = [n.value for n in ast.walk(TREES[name]) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    keys = ("model.", "scale.", "data.", "optimizer.", "trainer.")
    assert [text for text in texts if text.startswith(keys)] == []


def test_nothing_imports_the_command_line() -> None:
    users = [name for name, tree in TREES.items() if "anomaly_seg.cli" in imported(tree, deferred=True)]
    assert users == []


def test_no_function_below_the_command_line_takes_its_options() -> None:
    users = [name for name in TREES if "argparse" in imported(TREES[name], deferred=True)]
    assert users == ["anomaly_seg.cli"]


def test_no_circle_between_modules() -> None:
    assert circle({name: names & TREES.keys() for name, names in IMPORTS.items()}) is None
    # Nor by imports inside functions.
    deferred = {name: imported(tree, deferred=True) & TREES.keys() for name, tree in TREES.items()}
    assert circle(deferred) is None


def test_no_circle_between_rooms() -> None:
    rooms: Graph = {room(name): set() for name in TREES}
    for name, names in IMPORTS.items():
        rooms[room(name)] |= {room(other) for other in names & TREES.keys()} - {room(name)}
    assert circle(rooms) is None
