"""A wrapper of the user's own, by configuration: the example of docs/wrappers.md."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import worldflux
from tests.cli.conftest import TINY, folder, jobs, refused  # noqa: F401
from worldflux.envs.make import make_envs
from worldflux.errors import ConfigurationError

PAGE = (Path(__file__).parents[2] / "docs" / "wrappers.md").read_text(encoding="utf-8")
WORD = re.search(r"'(\+env\.wrappers.*)'", PAGE).group(1)  # type: ignore[union-attr]
SHORT = ["env=pendulum", "env.time_limit=12", *TINY]


@pytest.fixture
def module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """The file of the page, in the current folder, which Python looks into."""
    (code,) = re.findall(r"```python\n# scaled.py\n(.*?)```", PAGE, re.S)
    (folder / "scaled.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "scaled", raising=False)
    return folder / "scaled.py"


def first(config: Any) -> np.ndarray:
    envs = make_envs(config.env, seed=0)
    row = envs.reset()
    envs.close()
    return row["obs"]


def test_it_stands_around_the_environment(module: Path) -> None:
    plain, scaled = (worldflux.compose("env=pendulum", *words) for words in ([], [WORD]))
    assert np.array_equal(first(scaled), np.float32(0.5) * first(plain))


def test_several_from_yaml_the_first_one_innermost(module: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    (module.parent / "conf" / "experiment").mkdir(parents=True)
    file = module.parent / "conf" / "experiment" / "mine.yaml"
    file.write_text(f"# @package _global_\n{text}")
    config = worldflux.compose("env=pendulum", "+experiment=mine", config_dir="conf")
    assert list(config.env.wrappers) == ["scaled", "limited"]
    envs = make_envs(config.env, seed=0)
    assert envs.episode_length == 50
    envs.close()


@pytest.mark.slow
def test_a_run_keeps_its_wrappers_and_a_foreign_ones_are_not_imported(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = worldflux.train(*SHORT, WORD)
    env = worldflux.load_policy(run).make_env()
    assert type(env.get_wrapper_attr("env")).__name__ and env.get_wrapper_attr("factor") == 0.5
    policy = worldflux.load_policy(run, "env.time_limit=3")
    assert policy.make_env().get_wrapper_attr("factor") == 0.5
    assert worldflux.resume(run, "training.total_steps=3").manifest["status"] == "completed"

    foreign = module.parent / "foreign"
    shutil.copytree(run.folder, foreign)
    manifest = json.loads((foreign / "run_manifest.json").read_text())
    manifest["config"]["env"]["wrappers"]["scaled"]["factor"] = 2.0  # no longer as it was signed
    (foreign / "run_manifest.json").write_text(json.dumps(manifest))
    monkeypatch.delitem(sys.modules, "scaled")
    for opened in (
        lambda: worldflux.load_policy(foreign),
        lambda: worldflux.load_policy(foreign, "env.time_limit=3"),
        lambda: worldflux.resume(foreign, "training.total_steps=4"),
    ):
        with pytest.raises(ConfigurationError, match=r"names the module 'scaled'"):
            opened()
    assert "scaled" not in sys.modules
    named = "++env.wrappers.scaled._target_=scaled.Scaled"
    assert worldflux.load_policy(foreign, named).make_env().get_wrapper_attr("factor") == 2.0


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("+env.wrappers.a={_target_: nowhere.B}", "env.wrappers.a._target_ =nowhere.B: No module"),
        ("+env.wrappers.a={_target_: scaled.Scalde}", "has no class or function 'Scalde'."),
        (
            "+env.wrappers.a={_target_: scaled.Scaled, facto: 2}",
            "env.wrappers.a has no argument 'facto', only factor. Did you mean: 'factor'?",
        ),
        (
            "+env.wrappers.a={_target_: scaled.Scaled, factor: x}",
            "a.factor must be a number, got 'x'",
        ),
        ("+env.wrappers.a={_target_: builtins.id}", "must give a Gymnasium environment, got int"),
        ("+env.wrappers.a=scaled.Scaled", "env.wrappers.a must be {_target_: module.Class"),
        ("+env.wrappers.a={_target_: Scaled}", "env.wrappers.a must be {_target_: module.Class"),
    ],
)
def test_a_mistake_is_one_line(module: Path, refused: Any, word: str, line: str) -> None:  # noqa: F811
    assert line.replace(" =", "=") in refused("env=pendulum", word)
