"""Recorded numbers of the official implementation, which lie beside the project, not in it."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
RECORDED = ROOT.parent / "shared" / "parity" / "dreamerv3"


@pytest.fixture(scope="session")
def recorded() -> Path:
    if not RECORDED.is_dir():
        pytest.skip(f"the recorded numbers are not there: {RECORDED}")
    return RECORDED


@pytest.fixture
def copy_of(recorded: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a recorded folder, to be spoilt."""
    return lambda name: Path(shutil.copytree(recorded / name, tmp_path / name))


@pytest.fixture(scope="session")
def script() -> ModuleType:
    """scripts/check_parity.py as a module."""
    spec = importlib.util.spec_from_file_location("check_parity", ROOT / "scripts/check_parity.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
