"""What the README and the pages of docs/ show runs as printed, with shorter trainings."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import worldflux
from tests.cli.conftest import TINY
from worldflux.cli.help import help_text
from worldflux.cli.main import main
from worldflux.cli.verbs import VERBS
from worldflux.errors import WorldFluxError

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


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


def run_blocks(page: str, **changes: str) -> dict[str, Any]:
    """The names that all Python of a page leaves, one block after the other."""
    done: dict[str, Any] = {}
    for block in blocks(DOCS / page, "python"):
        for old, new in changes.items():
            block = block.replace(old, new)
        exec(compile(block, page, "exec"), done)
    return done


@pytest.mark.slow(6)
def test_every_example_of_the_page_on_python_runs(short: None) -> None:
    done = run_blocks("python.md", **{"2_004": "3"})
    assert done["config"].training.total_steps == 2_000
    assert done["run"].manifest["global_step"] == 3
    assert done["actions"].shape == (4, 1) and done["action"].shape == (4,)


def test_the_page_on_recorded_data_trains_from_a_file(short: None) -> None:
    done = run_blocks("dataset.md")
    buffer, _, mode = done["build_training_data"](None)
    assert len(buffer) == 102 and mode == "offline"  # with the observation after each last action
    assert Path("offline_model/config.json").is_file()


def test_the_environment_of_its_page_trains(short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    (module,) = blocks(DOCS / "own_environment.md", "python")
    (option,) = blocks(DOCS / "own_environment.md", "yaml")
    Path("point.py").write_text(module)
    Path("my_conf/env").mkdir(parents=True)
    Path("my_conf/env/point.yaml").write_text(option)
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.delitem(sys.modules, "point", raising=False)
    config = worldflux.compose("env=point", config_dir="my_conf")
    assert (config.env.id, config.env.time_limit) == ("Point-v0", 20)
    words = next(line for line in lines(DOCS / "own_environment.md") if "env.id=" in line)
    run = worldflux.train(*words.split()[1:])
    assert run.manifest["env"]["id"] == "Point-v0"


def test_the_mistake_is_told_as_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (DOCS / "command_line.md").read_text(encoding="utf-8")
    command, line = re.findall(r"```text\n\$ worldflux-run (.*)\n(.*)\n```", page)[0]
    monkeypatch.setattr("sys.argv", ["worldflux-run", *command.split()])
    assert main() == 2
    assert capsys.readouterr().err.splitlines()[-1] == line


# === Command lines ============================================================================


def lines(page: Path) -> Iterator[str]:
    """The commands of a page."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            yield line.partition(" #")[0].strip()


def called(program: str) -> list[str]:
    return sorted({line for page in PAGES for line in lines(page) if f"{program} " in line})


def composed(line: str) -> list[str]:
    """The overrides of a command line, of a sweep those of its first job."""
    words = shlex.split(line)
    words = words[words.index("worldflux-run") + 1 :]
    if "-m" not in words:
        return words
    ranged = [re.sub(r"range\(\d+\)|interval\(.*\)", "1", word) for word in words if word != "-m"]
    return [re.sub(r",(?![^\[]*\]).*", "", word) for word in ranged]


# What cannot be composed where the test runs: a run, files or a package of the reader's own, and flags
# that compose nothing.
READERS = re.compile(r"resume=|init_from=|my_conf|third| -sc | --(help|cfg) ?")


@pytest.mark.slow(7)
def test_every_command_that_trains_can_be_composed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = {}
    tried = [line for line in called("worldflux-run") if not READERS.search(line)]
    for line in tried:
        words = [word for word in composed(line) if not word.startswith(("sweep", "hydra"))]
        try:
            worldflux.compose(*words)
        except WorldFluxError as error:
            wrong[line] = str(error)
    assert wrong == {}
    assert len(tried) >= 25


def test_every_verb_is_called_as_it_is_parsed() -> None:
    seen = set()
    for line in called("worldflux"):
        for command in re.split(r"&&|;", line):
            words = shlex.split(command)
            if words[:1] == ["worldflux"]:
                module, _ = VERBS[words[1]]
                importlib.import_module(module).parser().read(words[2:])
                seen.add(words[1])
    assert seen == set(VERBS)


def test_a_shell_reads_every_command() -> None:
    """An unquoted parenthesis of `range(3)` would be an error of the shell."""
    wrong = {}
    examples = re.findall(r"^  (worldflux-run .*?)(?:  .*)?$", help_text(None), re.M)
    assert len(examples) >= 10
    pages = [*PAGES, ROOT / "CONTRIBUTING.md"]
    for text in (*examples, *(block for page in pages for block in blocks(page, "bash"))):
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        if done.returncode:
            wrong[text] = done.stderr
    assert wrong == {}


# === The README ================================================================================


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 110
    targets = re.findall(r"\]\(([^)#]+)|src=\"([^\"]+)\"", text)
    missing = [one for pair in targets for one in pair if one and not (ROOT / one).exists()]
    assert missing == []


def test_links_to_headings_lead_somewhere() -> None:
    """As the site names them: small letters, words joined by hyphens."""
    missing = []
    for page in PAGES:
        links = re.findall(r"\]\((?!\w+:)([^)#\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
        for file, anchor in links:
            target = page.parent / file if file else page
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M)
            names = {
                re.sub(r"[^\w]+", "-", re.sub(r"[^\w\s-]", "", title.lower())) for title in titles
            }
            if anchor not in names:
                missing.append(f"{page.name}: {file}#{anchor}")
    assert missing == []
