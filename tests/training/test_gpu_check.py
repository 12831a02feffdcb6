"""scripts/gpu_check.py in its small form on a CPU."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from worldflux.run_folder.manifest import read_manifest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu_check.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass asks for it
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_small_form_measures_and_learns(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--device", "cpu", "--small", "--out", str(tmp_path), "--minutes", "10"]
    assert script.main([*options, "--only", "benchmark", "resume", "learning"]) == 0
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    assert result == json.loads((tmp_path / "gpu_check.json").read_text())
    (figures,) = result["benchmark"].values()
    assert figures["update_ms"] > 0 and figures["device"] == "cpu"
    for family in ("dreamerv3", "tdmpc2"):
        assert result["resume"][family] == {"exact": True, "unequal": []}
    assert result["learning"]["updates"] == 30 and result["learning"]["rc"] == 0
    assert read_manifest(tmp_path / "learning")["status"] == "completed"
    assert any(line.startswith("resume") and "exact" in line for line in lines)


def test_a_part_that_fails_is_said_and_ends_in_1(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A device that is not there."""
    options = ["--device", "cuda:99", "--small", "--out", str(tmp_path), "--only", "machine"]
    assert script.main(options) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("failed: machine: exit code 1") for line in lines)
    assert json.loads(lines[-1])["failures"]


def test_nothing_is_begun_without_time(script: ModuleType, tmp_path: Path) -> None:
    assert script.main(["--device", "cpu", "--out", str(tmp_path), "--minutes", "0"]) == 0
    result = json.loads((tmp_path / "gpu_check.json").read_text())
    skipped = {"skipped": "no time was left"}
    assert all(result[name] == skipped for name in script.PARTS)
