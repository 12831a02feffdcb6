"""Every key and flag says what it means, and docs/reference says the same."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from worldflux.cli.verbs import VERBS
from worldflux.reference import entries

SCRIPT = Path(__file__).parents[2] / "scripts" / "reference.py"


def test_every_key_has_a_sentence() -> None:
    silent = [entry.key for entry in entries() if not re.fullmatch(r".+ .+ .+\.", entry.help)]
    assert silent == [], 'option(..., help="...") says what a researcher needs to know'


def test_every_flag_has_a_sentence() -> None:
    for verb, (module, _) in VERBS.items():
        parser = importlib.import_module(module).parser()
        silent = [action.dest for action in parser._actions if not action.help]
        assert silent == [], f"worldflux {verb}"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_those_that_the_code_gives(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["reference.py", "--check"])
    stale = script.main()
    assert not stale, capsys.readouterr().out


def test_a_stale_page_is_named(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(script, "FOLDER", tmp_path / "reference")
    monkeypatch.setattr("sys.argv", ["reference.py"])
    assert script.main() == 0
    page = tmp_path / "reference" / "data.md"
    page.write_text(page.read_text().replace("the oldest steps", "the newest steps"))
    (tmp_path / "reference" / "gone.md").write_text("of a group that is no more")
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["reference.py", "--check"])
    assert script.main() == 1
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "docs/reference/data.md",
        "docs/reference/gone.md",
    ]


def test_official_names_are_of_keys_that_there_are() -> None:
    from worldflux.models.families import OURS

    known = {entry.key for entry in entries()}
    for family in OURS:
        assert set(family.config_class().official_names) <= known
