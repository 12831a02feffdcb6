"""`worldflux init`: what it asks, what it writes, and that it trains as generated."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium
import pytest

import tests.envs.counting  # noqa: F401 - registers environments
from tests.project.conftest import manifest
from worldflux.cli.init import main
from worldflux.cli.train import main as train
from worldflux.config_loader import load_config

FILES = {
    ".gitignore",
    "README.md",
    "dashboard/index.html",
    "dataset.py",
    "inference.py",
    "local_dashboard.py",
    "train.py",
    "worldflux.toml",
    "worldflux.toml.schema.json",
}


def written(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "family", "sizes"),
    [
        ("cartpole", "dreamer", ((4,), 2, "discrete")),
        ("cartpole", "tdmpc2", ((4,), 2, "discrete")),
        ("pendulum", "dreamer", ((3,), 1, "continuous")),
        ("pendulum", "tdmpc2", ((3,), 1, "continuous")),
    ],
)
def test_every_choice_trains_as_generated(
    environment: str,
    family: str,
    sizes: tuple[tuple[int, ...], int, str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["mine", "--environment", environment, "--model", family, "--yes"]) == 0
    assert written(folder / "mine") == FILES
    config = load_config("mine/worldflux.toml")
    wanted = config.architecture
    assert (wanted.obs_shape, wanted.action_dim, wanted.action_type) == sizes
    assert (config.project_name, config.model_type) == ("mine", family)
    monkeypatch.chdir(folder / "mine")
    # Only shortened, and without the page, which has its own tests.
    words = ["--strict", "--steps", "2", "--override", "visualization.enabled=false"]
    words += ["--override", "training.eval_episodes=1", "--override", "env.time_limit=30"]
    words += ["--override", "data.prefill_steps=200", "--override", "training.num_envs=2"]
    assert train(words) == 0
    told = manifest(folder / "mine")
    assert (told["status"], told["data_mode"]) == ("completed", "online")
    assert (told["degraded_modes"], told["global_step"]) == ([], 2)
    assert told["run_classification"] == "meaningful_local_training"


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts lines into stdin, which is no terminal."""
    return lambda text: monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_numbered_answers_from_a_pipe(
    folder: Path, answer: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    answer("swing\n2\n2\n")
    assert main([]) == 0
    config = load_config("swing/worldflux.toml")
    assert (config.project_name, config.environment) == ("swing", "pendulum")
    assert (config.model, config.data.gym_env) == ("tdmpc2:75k", "Pendulum-v1")
    out = capsys.readouterr().out
    assert "1 cartpole  CartPole-v1" in out and "2 tdmpc2    TD-MPC2" in out
    assert out.endswith("next: cd swing && worldflux train\n")
    answer("\n\n\n")
    assert main(["other"]) == 0, "empty answers are the defaults"
    assert load_config("other/worldflux.toml").model == "dreamer:size250k"
    assert load_config("other/worldflux.toml").project_name == "other"


def test_other_environments_and_none(folder: Path, answer: Callable[[str], None]) -> None:
    answer("acro\n5\nAcrobot-v1\n1\n")
    assert main([]) == 0
    config = load_config("acro/worldflux.toml")
    assert config.architecture.obs_shape == (6,) and config.architecture.action_dim == 3
    assert config.online_collection.max_episode_steps == 500
    assert main(["picture", "--env-id", "Flicker-v0", "--yes"]) == 0
    config = load_config("picture/worldflux.toml")
    assert config.architecture.obs_shape == (3, 64, 64)
    assert (config.model, config.environment) == ("dreamer:size1m", "custom")
    answer("noise\ncustom\n\ndreamer\n3,32,32\n4\n")
    assert main(["--steps", "7"]) == 0
    config = load_config("noise/worldflux.toml")
    assert (config.data.source, config.training.total_steps) == ("random", 7)
    assert (config.architecture.obs_shape, config.architecture.action_dim) == ((3, 32, 32), 4)


def test_nothing_is_overwritten_without_force(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("stays")
    (folder / "mine" / "dataset.py").write_text("mine")
    assert main(["mine", "--yes"]) == 2
    err = capsys.readouterr().err
    assert err == "worldflux init: error: mine has dataset.py already; --force overwrites them\n"
    assert written(folder / "mine") == {"notes.txt", "dataset.py"}
    assert main(["mine", "--yes", "--force"]) == 0
    assert written(folder / "mine") == {"notes.txt", *FILES}
    assert "AS_CONFIGURED" in (folder / "mine" / "dataset.py").read_text()


def test_cancelling_writes_nothing(
    folder: Path,
    answer: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer("swing\n2\n")
    assert main([]) == 2
    assert re.search("no answer to '.+': the input ended.*--yes", capsys.readouterr().err)

    def interrupted(prompt: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupted)
    assert main([]) == 130
    assert written(folder) == set()


MISTAKES = {
    "x --environment atari --yes": "ale_py is not installed; run: pip install 'worldflux[atari]'",
    "x --env-id CartPol-v1 --yes": "no such environment; did you mean 'CartPole-v1'?",
    "x --env-id CartPole-v1 --obs-shape 4 --yes": "are read off the environment; leave them out",
    "x --steps 0 --yes": "total_steps must be >= 1, got 0",
    "x --device tpu --yes": "device must be auto, cpu",
    "x --environment custom --obs-shape 3,x --action-dim 2 --yes": "'3,x' is no shape",
    "x --environment custom --obs-shape 3 --action-dim 0 --yes": "action_dim must be >= 1, got 0",
    "x --name a/b --yes": "a project's name is no path",
    "file --yes": "file is a file, not a folder",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(
    line: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)  # as if it was not installed
    (folder / "file").write_text("")
    assert main(line.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("worldflux init: error: ") and err.count("\n") == 1
    assert MISTAKES[line] in err
    assert written(folder) == {"file"}


def test_an_answer_that_is_none_of_the_numbers(
    folder: Path, answer: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    answer("x\ncartpol\n")
    assert main([]) == 2
    assert "must be 1 to 5 or a name; got 'cartpol'. Did you mean: 'cartpole'?" in (
        capsys.readouterr().err
    )
    assert "Flicker-v0" in gymnasium.registry
