"""What the README and its page on Python show runs as printed, with shorter trainings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import worldflux
from tests.cli.conftest import TINY
from worldflux.cli.main import main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and trainings of two updates."""
    monkeypatch.chdir(tmp_path)
    train = worldflux.train
    monkeypatch.setattr(
        "worldflux.runner.api.train", lambda *words: train(*_without_steps(words), *TINY)
    )


def _without_steps(words: Sequence[str]) -> list[str]:
    return [word for word in words if not word.startswith("training.total_steps=")]


def test_the_python_example_ends_in_an_agent_that_acts(short: None, tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.S)
    done: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), done)
    assert done["terminated"] or done["truncated"]
    assert (done["run"].folder / "run_manifest.json").is_file()


def test_every_example_of_the_page_on_python_runs(short: None, tmp_path: Path) -> None:
    page = (DOCS / "python.md").read_text(encoding="utf-8").replace("2_004", "3")
    done: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(compile(block, "python.md", "exec"), done)
    assert done["config"].training.total_steps == 2_000
    assert done["run"].manifest["global_step"] == 3
    assert done["actions"].shape == (4, 1) and done["action"].shape == (4,)


def test_the_mistake_is_told_as_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, line = re.findall(r"```text\n\$ worldflux-run (.*)\n(.*)\n```", README)[0]
    monkeypatch.setattr("sys.argv", ["worldflux-run", *command.split()])
    assert main() == 2
    assert capsys.readouterr().err.splitlines()[-1] == line
