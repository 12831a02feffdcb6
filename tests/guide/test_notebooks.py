"""The notebooks of the documentation run from their first cell to their last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

from worldflux.run_folder.manifest import read_manifest

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"


def executed(name: str, folder: Path) -> list[Any]:
    """The last text that each cell of code shows."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "committed without outputs"
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    shown = []
    for cell in notebook.cells:
        texts = [
            one.get("text") or one["data"].get("text/plain", "") for one in cell.get("outputs", ())
        ]
        shown += [texts[-1] if texts else ""] * (cell.cell_type == "code")
    return shown


@pytest.mark.slow(8)
def test_train_and_look(tmp_path: Path) -> None:
    shown = executed("train_and_look.ipynb", tmp_path)
    assert shown[1] == "('CartPole-v1', 'dreamer', 10)"
    assert shown[-1].startswith("('completed', 12, ")
    (run,) = tmp_path.glob("outputs/*/*")
    assert read_manifest(run)["global_step"] == 12


@pytest.mark.slow(8)
def test_own_environment(tmp_path: Path) -> None:
    shown = executed("own_environment.ipynb", tmp_path)
    assert shown[2].startswith("(20, -")
    assert shown[3].startswith("observation 'obs'") and "nan" in shown[3]
    (run,) = tmp_path.glob("outputs/*/*")
    manifest = read_manifest(run)
    assert (manifest["status"], manifest["config"]["env"]["import_module"]) == (
        "completed",
        "point",
    )
