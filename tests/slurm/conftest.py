"""The cluster that these tests share. They run by `make test-slurm`, and not with the others: they need SLURM."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.one_node_slurm import Slurm, one_node_slurm


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with one_node_slurm(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all nodes see."""
    return tmp_path_factory.mktemp("shared")
