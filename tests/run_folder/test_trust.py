"""A run of somebody else is data: nothing that its files name is imported or executed."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import folder, jobs, refused  # noqa: F401
from tests.cli.test_resume import begun  # noqa: F401
from worldflux.errors import ConfigurationError
from worldflux.run_folder.manifest import SCHEMA, read_manifest, write_manifest
from worldflux.run_folder.trust import check_modules, is_signed
from worldflux.training.manifest import git_commit

CONFIG = {"env": {"id": "a.b:X-v0", "import_module": "c"}, "visualization": {"enabled": False}}


def change(run: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    path = run / "run_manifest.json"
    content = json.loads(path.read_text())
    edit(content)
    content.pop("config_sha256", None)  # as the run of another user, whose own would fit
    path.write_text(json.dumps(content))


def test_a_manifest_is_signed_by_who_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    write_manifest(tmp_path, {"schema_version": SCHEMA, "config": CONFIG})
    manifest = read_manifest(tmp_path)
    assert is_signed(manifest)
    assert stat.S_IMODE(os.stat(tmp_path / "state/worldflux/key").st_mode) == 0o600
    check_modules(tmp_path, manifest, CONFIG)
    write_manifest(tmp_path, {**manifest, "status": "failed"})  # noted by a sweep
    assert is_signed(read_manifest(tmp_path))

    change(tmp_path, lambda m: m["config"]["env"].update(import_module="d"))
    foreign = read_manifest(tmp_path)
    assert not is_signed(foreign)
    with pytest.raises(ConfigurationError, match=r"'d'.*not signed"):
        check_modules(tmp_path, foreign, foreign["config"], ["a.b"])
    check_modules(tmp_path, foreign, foreign["config"], ["a.b", "d"])
    write_manifest(tmp_path, {**foreign, "status": "failed"})
    assert not is_signed(read_manifest(tmp_path))

    change(tmp_path, lambda m: m.pop("signature"))
    write_manifest(tmp_path, read_manifest(tmp_path))
    assert not is_signed(read_manifest(tmp_path)), "reading and writing is no signing"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    write_manifest(tmp_path / "state", {"schema_version": SCHEMA, "config": CONFIG})
    assert is_signed(read_manifest(tmp_path / "state"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert not is_signed(read_manifest(tmp_path / "state"))


def test_without_a_key_runs_are_unsigned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    write_manifest(tmp_path, {"schema_version": SCHEMA, "config": CONFIG})
    assert read_manifest(tmp_path)["signature"] is None


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("import_module", "evil_module", "env.import=evil_module"),
        ("id", "evil_module:X-v0", "env.id=evil_module:X-v0"),
    ],
)
def test_resume_imports_what_the_command_line_names(
    begun: Callable[..., Path],  # noqa: F811
    refused: Callable[..., str],  # noqa: F811
    field: str,
    value: str,
    word: str,
) -> None:
    run = begun("env=cartpole")
    change(run, lambda m: m["config"]["env"].update({field: value}))
    line = refused(f"resume={run}")
    assert "'evil_module'" in line and "not signed" in line
    assert "not signed" not in refused(f"resume={run}", word)


def test_git_is_not_asked_about_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = git_commit()
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x"]
    (tmp_path / "a").write_text("a")
    for words in (["init", "-q"], ["add", "a"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    with open(tmp_path / ".git/config", "a") as file:
        file.write(f'[core]\n\tfsmonitor = "touch {tmp_path}/CANARY; false"\n')
    assert git_commit() == before
    assert not (tmp_path / "CANARY").exists()
