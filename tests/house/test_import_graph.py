"""The rules of docs/architecture.md hold: no circles, no import that runs up, families in their places."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "import_graph.py"


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("import_graph", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_package_keeps_the_rules(checker: ModuleType) -> None:
    assert checker.violations(checker.files(checker.PACKAGE)) == []


BROKEN = {
    "core/math.py": "from worldflux.cli.main import main",
    "core/optim.py": "import worldflux.training.trainer",
    "envs/make.py": "from worldflux.envs import vector, dmc\nx = 'tdmpc2'",
    "training/meter.py": "def f():\n    from worldflux.runner import run",
}
REPORTED = (
    "runs up: core/math.py -> cli",
    "runs up: core/optim.py -> training",
    "envs/make.py, line 2: tdmpc2",
    "training/meter.py -> runner/run.py",
)


def test_broken_rules_are_reported(checker: ModuleType) -> None:
    sources = checker.files(checker.PACKAGE)
    violations = checker.violations({**sources, **BROKEN})
    assert [one for one in REPORTED if not any(one in line for line in violations)] == []
    assert "no such room" in checker.violations({**sources, "attic/box.py": ""})[0]


def test_a_circle_is_reported(checker: ModuleType) -> None:
    sources = {
        "core/one.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import worldflux.core.two",
        "core/two.py": "from worldflux.core import three",
        "core/three.py": "from . import one",
        "core/four.py": "from worldflux.core.one import x",
    }
    assert checker.violations(sources) == ["circle: core/one.py <-> core/three.py <-> core/two.py"]
