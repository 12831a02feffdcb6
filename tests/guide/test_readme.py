"""What the README shows runs as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from worldflux.cli.main import main

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", README, re.S)
    exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "my_model" / "model.safetensors").is_file()
    assert (tmp_path / "my_run" / "run_manifest.json").is_file()


def test_the_mistake_is_told_as_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, line = re.findall(r"```text\n\$ worldflux-run (.*)\n(.*)\n```", README)[0]
    monkeypatch.setattr("sys.argv", ["worldflux-run", *command.split()])
    assert main() == 2
    assert capsys.readouterr().err.splitlines()[-1] == line
