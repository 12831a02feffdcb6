"""The wheel carries its configuration; `.ci/run` runs what README.md prints."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from worldflux import __version__

ROOT = Path(__file__).resolve().parents[2]
STATIC = [ROOT / "worldflux" / room / "static" for room in ("dashboard", "report")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="building a wheel needs the dev extra")
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "-o",
        str(out),
        str(ROOT),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked into a folder that stands in for site-packages."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_installed(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    script = "import sys; from worldflux.cli.main import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-P", "-c", script, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


@pytest.mark.slow
def test_every_configuration_file_is_in_the_wheel(wheel: Path) -> None:
    inside = {n for n in zipfile.ZipFile(wheel).namelist() if n.startswith("worldflux/conf/")}
    files = {
        f"worldflux/conf/{p.relative_to(ROOT / 'conf')}" for p in (ROOT / "conf").rglob("*.yaml")
    }
    assert files and inside == files


@pytest.mark.slow
def test_the_page_is_in_the_wheel(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    assets = {str(p.relative_to(ROOT)) for folder in STATIC for p in folder.iterdir()}
    assert len(assets) > 8 and assets <= inside


@pytest.mark.slow
def test_the_wheel_says_who_may_use_it(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    facts = f"worldflux-{__version__}.dist-info"
    assert archive.read(f"{facts}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    metadata = archive.read(f"{facts}/METADATA").decode()
    assert "License-Expression: Apache-2.0\n" in metadata
    assert "Author: The WorldFlux authors\n" in metadata
    assert "worldflux/py.typed" in archive.namelist()


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (__version__, "Apache-2.0")
    assert [paper["year"] for paper in citation["references"]] == [2025, 2024]


@pytest.mark.slow
def test_a_project_is_made_from_the_wheel(wheel: Path, site: Path, tmp_path: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    scaffold = Path("worldflux") / "project" / "scaffold"
    files = {p.relative_to(ROOT) for p in (ROOT / scaffold).rglob("*") if p.is_file()}
    assert {str(p) for p in files if "__pycache__" not in p.parts} <= inside
    script = "import sys; from worldflux.cli.verbs import main; sys.exit(main())"
    command = [sys.executable, "-P", "-c", script, "init", "mine", "--yes"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine" / "worldflux.toml").is_file()


@pytest.mark.slow
def test_the_wheel_runs_from_any_folder(site: Path, tmp_path: Path) -> None:
    done = run_installed(site, tmp_path, "--cfg", "job", "--resolve", "model/size=size50m")
    assert "model_name: size50m" in done.stdout, done.stderr
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    recipe = "# @package _global_\ntraining:\n  seed: 77\n"
    (tmp_path / "mine" / "experiment" / "fast.yaml").write_text(recipe)
    done = run_installed(site, tmp_path, "--cfg", "job", "-cd", "mine", "+experiment=fast")
    assert "seed: 77" in done.stdout, done.stderr
    done = run_installed(site, tmp_path, "training.batch_size=0")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_entry_points_and_extras() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for target in project["scripts"].values():
        module, _, name = target.partition(":")
        done = subprocess.run(
            [sys.executable, "-c", f"from {module} import {name}"], capture_output=True
        )
        assert done.returncode == 0, done.stderr
    # An error line that names an extra must name one there is.
    for path in (ROOT / "worldflux").rglob("*.py"):
        for extra in re.findall(r"worldflux\[(\w+)\]", path.read_text()):
            assert extra in project["optional-dependencies"], (path, extra)


def test_constraints_pin_plain_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in pins)
    assert "torch==2.13.0" in pins


def ci(folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(folder / ".ci" / "run"), "--print"]
    return subprocess.run(command, capture_output=True, text=True)


def marked(readme: str) -> str:
    """The line that README.md prints as the test command."""
    found = re.search(r"^<!-- command: test -->\n+```\w*\n(.+)\n", readme, re.M)
    assert found, "README.md has no marked test command"
    return found.group(1)


def test_ci_runs_the_command_that_the_readme_prints() -> None:
    command = marked((ROOT / "README.md").read_text())
    assert "pytest" in command
    assert ci(ROOT).stdout == command + "\n"


@pytest.mark.parametrize(
    ("readme", "printed"),
    [
        (
            "x\n<!-- command: test -->\n```bash\npip install . && pytest\n```\n",
            "pip install . && pytest",
        ),
        ("<!-- command: test -->\n\n```\none\ntwo\n```\n", "one"),
        ("<!-- command: train -->\n```\nrun\n```\n", None),
        ("<!-- command: test -->\nsome text\n```\nrun\n```\n", None),
        ("<!-- command: test -->\n", None),
    ],
)
def test_ci_finds_the_command_by_its_marker(
    readme: str, printed: str | None, tmp_path: Path
) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "README.md").write_text(readme)
    done = ci(tmp_path)
    if printed is None:
        assert done.returncode != 0 and "no code block" in done.stderr
    else:
        assert (done.returncode, done.stdout) == (0, printed + "\n")
