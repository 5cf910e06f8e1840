"""A run made by hand (made_run.py), for all tests of this folder."""

from __future__ import annotations

import pytest
from made_run import MadeRun, make

from posttrain.lineage.graph import Graph


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="session")
def graph(made: MadeRun) -> Graph:
    return Graph(made.run())
