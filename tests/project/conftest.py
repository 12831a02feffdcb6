"""Sample files that lie beside the project, not in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

OWN_FILES = ("dataset", "local_dashboard")
SAMPLES = Path(__file__).parents[2].parent / "shared" / "toml"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory; modules of a project that was in it are forgotten."""
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), {name: sys.modules.get(name) for name in OWN_FILES}
    yield tmp_path
    sys.path[:] = path
    for name, module in modules.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module
    GlobalHydra.instance().clear()


@pytest.fixture
def project(folder: Path) -> Callable[..., Path]:
    """Writes files of a project into the working directory; gives the folder."""

    def write(toml: str, **files: str) -> Path:
        (folder / "worldflux.toml").write_text(toml, encoding="utf-8")
        for name, content in files.items():
            path = folder / name.replace("__", "/").replace("_py", ".py").replace("_html", ".html")
            path.parent.mkdir(exist_ok=True)
            path.write_text(content, encoding="utf-8")
        return folder

    return write


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replaces training: collects the arguments of every run instead."""
    found: list[Any] = []

    def run(*arguments: Any) -> float:
        found.append(arguments)
        return 0.0

    monkeypatch.setattr("worldflux.runner.run.run", run)
    return found


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the run in the project's output_dir."""
    return dict(json.loads((folder / "outputs" / "run_manifest.json").read_text()))
