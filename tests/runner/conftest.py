from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import worldflux
from tests.cli.conftest import TINY


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[worldflux.Run]:
    """A run of two updates that Python started."""
    folder, before = tmp_path_factory.mktemp("trained"), Path.cwd()
    os.chdir(folder)
    try:
        yield worldflux.train("env=pendulum", "env.time_limit=12", *TINY)
    finally:
        os.chdir(before)
