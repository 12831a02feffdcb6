"""worldflux.toml as an experiment of worldflux-run, and back."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.project.conftest import SAMPLES
from worldflux.cli import convert, train
from worldflux.cli import main as runner
from worldflux.config.composition import composed
from worldflux.config_loader import load_config
from worldflux.project.convert import experiment, overrides, to_toml
from worldflux.project.mapping import settings as settings_of
from worldflux.project.schema import parse

SCAFFOLD = Path(convert.__file__).parents[1] / "project" / "scaffold" / "worldflux.toml"
ACCEPTED = [
    *sorted(SAMPLES.glob("*.toml")),
    *(SAMPLES / "bad" / f"{name}.toml" for name in ("00_good", "14_obs_shape_scalar")),
    *(SAMPLES / "bad" / f"{name}.toml" for name in ("26_empty_file", "31_alias_model")),
]


def both_ways(text: str, name: str, tmp_path: Path) -> Any:
    """Checks that train, the experiment and the file made of it are the same run and file."""
    config = parse(text, tmp_path / "worldflux.toml")
    found = settings_of(config)
    run = composed(overrides(found))
    path = tmp_path / "experiment.yaml"
    path.write_text(experiment(found, "a title"), encoding="utf-8")
    again = convert.run_of(path)
    assert again == run
    for key in ("obs_shape", "action_dim", "action_type"):
        assert (key in again.model.explicit) == (key in run.model.explicit)
    back, lost = to_toml(again, name)
    assert lost == []
    assert parse(back, tmp_path / "worldflux.toml") == config
    return run


@pytest.mark.slow
@pytest.mark.parametrize("path", ACCEPTED, ids=lambda path: path.stem)
def test_every_sample_goes_both_ways(path: Path, tmp_path: Path) -> None:
    if not path.is_file():
        pytest.skip(f"the sample files are not there: {SAMPLES}")
    run = both_ways(path.read_text(encoding="utf-8"), path.stem, tmp_path)
    config = load_config(path)
    assert run.training.total_steps == config.training.total_steps
    assert run.visualization == config.visualization
    assert run.data.source == config.data.source


@pytest.mark.slow
def test_what_the_sections_become(tmp_path: Path) -> None:
    run = both_ways(SCAFFOLD.read_text(encoding="utf-8"), "x", tmp_path)
    assert (run.env.id, run.env.time_limit, run.env.solved_return) == ("CartPole-v1", 500, 475)
    assert (run.model.model_name, run.model.hidden_dim) == ("size250k", 64)
    assert (run.data.prefill_steps, run.data.collect_steps_per_update) == (500, 16)
    assert run.training.optimizer == "laprop" and run.data.on_env_failure == "degrade"
    offline = '[data]\nsource = "gym"\ngym_env = "Pendulum-v1"\nnum_episodes = 7\n'
    run = both_ways(offline, "x", tmp_path)
    assert (run.data.prefill_steps, run.data.collect_steps_per_update) == (700, 0)
    assert (run.env.time_limit, run.model.episodic) == (100, True)
    suite = (
        '[data]\nsource = "gym"\ngym_env = "dmc/walker-walk"\n[online_collection]\nenabled = true'
    )
    run = both_ways(suite, "x", tmp_path)
    assert (run.env.suite, run.env.id, run.model.episodic) == ("dmc", "walker-walk", False)
    pictures = "[architecture]\nobs_shape = [3, 32, 32]\n"
    run = both_ways(f'model = "dreamer:ci"\n{offline}{pictures}', "x", tmp_path)
    assert (run.env.obs, run.env.image_size) == ("pixels", (32, 32))


GYM = '[data]\nsource = "gym"\ngym_env = "CartPole-v1"\n'
MANY_TO_ONE = {
    "capacity below what is collected at once": "[training]\nsequence_length = 1\n"
    f"{GYM}buffer_capacity = 10000\nepisode_length = 500\n",
    "default capacity below what is collected at once": f"{GYM}episode_length = 500\n",
    "the kind that noise has anyway": '[architecture]\naction_type = "continuous"\n',
    "the kind that noise of a game has anyway": 'environment = "atari"\nmodel = "dreamer:ci"\n'
    '[architecture]\naction_type = "discrete"\n',
    "the width that the size has anyway": f"{GYM}[architecture]\nhidden_dim = 64\n",
    "an alias of a size": f'model = "dreamer-small"\n{GYM}[online_collection]\nenabled = true\n',
    "another spelling of the size": f'model = "DreamerV3:size12m"\n{GYM}',
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MANY_TO_ONE)
def test_files_of_the_same_run_come_back_as_they_were(name: str, tmp_path: Path) -> None:
    both_ways(MANY_TO_ONE[name], "x", tmp_path)


def test_an_override_goes_before_what_the_file_had(tmp_path: Path) -> None:
    text = MANY_TO_ONE["capacity below what is collected at once"]
    words = overrides(settings_of(parse(text, tmp_path / "worldflux.toml")))
    replaced = {"data.capacity": 70_000, "data.prefill_steps": 5_000, "model/size": "1m"}
    words = [word for word in words if word.partition("=")[0] not in replaced]
    run = composed([*words, *(f"{key}={value}" for key, value in replaced.items())])
    config = parse(to_toml(run, "x")[0], tmp_path / "worldflux.toml")
    assert (config.data.buffer_capacity, config.data.num_episodes) == (70_000, 10)
    assert config.model == "tdmpc2:1m"


TEXT = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8).filter(
    lambda text: "${" not in text and text != "???"
)
COUNT = st.integers(1, 10_000)


@st.composite
def valid_files(draw: Any) -> str:
    """A worldflux.toml that is right, with any of its keys."""
    family, sizes = draw(
        st.sampled_from([("dreamer", ["ci", "size1m"]), ("tdmpc2", ["ci", "5m", "proof_5m"])])
    )
    online = draw(st.booleans())
    length = draw(st.integers(1, 90))
    values: dict[str, Any] = {
        "project_name": draw(TEXT),
        "environment": draw(TEXT),
        "model": f"{family}:{draw(st.sampled_from(sizes))}",
        "architecture": {
            "obs_shape": [draw(st.integers(1, 99))],
            "action_dim": draw(COUNT),
            "action_type": draw(st.sampled_from(["", "discrete", "continuous"])),
        },
        "training": {
            "total_steps": draw(COUNT),
            "batch_size": draw(st.integers(1, 64)),
            "sequence_length": length,
            "learning_rate": draw(st.floats(1e-8, 1.0)),
            "device": draw(st.sampled_from(["cpu", "auto", "cuda:1"])),
            "backend": draw(st.sampled_from(["native_torch", "official_jax_subprocess"])),
            "output_dir": f"./{draw(TEXT)}",
        },
        "data": {
            "source": draw(st.sampled_from(["gym", "random"])),
            "gym_env": draw(
                st.sampled_from(["CartPole-v1", "ALE/Pong-v5", "Acrobot-v1", "a b'\\"])
            ),
            "num_episodes": draw(st.integers(1, 50)),
            "episode_length": draw(st.integers(90, 500)),
            "buffer_capacity": draw(st.integers(10_000, 10**6)),
        },
        "gameplay": {"enabled": draw(st.booleans()), "fps": draw(st.integers(1, 60))},
        "online_collection": {
            "enabled": online,
            "warmup_transitions": draw(st.integers(0, 999)),
            "collect_steps_per_update": draw(COUNT),
            "max_episode_steps": draw(COUNT),
        },
        "inference": {"horizon": draw(COUNT), "checkpoint": draw(TEXT)},
        "verify": {"mode": draw(st.sampled_from(["auto", "quick", "proof"])), "env": draw(TEXT)},
        "flywheel": {"privacy_epsilon": draw(st.floats(-1e9, 1e9))},
    }
    kept = {}
    for key, value in values.items():
        if isinstance(value, dict):
            value = {k: v for k, v in value.items() if k == "gym_env" or draw(st.booleans())}
        if key in ("data", "training") or draw(st.booleans()):
            kept[key] = value
    for limit in ("sequence_length", "buffer_capacity"):
        for section in ("training", "data"):
            if limit in values[section]:
                kept[section][limit] = values[section][limit]
    kept["data"].setdefault("episode_length", 500)
    if "environment" in kept:
        kept.setdefault("model", values["model"])
    return tomlkit.dumps(kept)


@pytest.mark.slow
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=valid_files())
def test_any_right_file_goes_both_ways(text: str, tmp_path: Path) -> None:
    both_ways(text, "x", tmp_path)


def test_the_experiment_runs_to_what_train_runs(
    project: Callable[..., Path], jobs: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = project(SCAFFOLD.read_text(encoding="utf-8"))
    assert train.main([]) == 0
    assert convert.main([]) == 0
    told = capsys.readouterr().out
    command = told.partition("run it with: worldflux-run ")[2].split()
    assert command == ["--config-dir", "conf", "+experiment=my_project"]
    assert runner.main(command) == 0
    (trained, where, _), (ran, *_) = jobs
    assert trained == ran and where == folder / "outputs"
    assert convert.main([]) == 0, "the same content again is no overwriting"


def test_what_the_file_cannot_say_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mine.yaml").write_text(
        "# @package _global_\ntraining:\n  seed: 7\n  grad_clip: 3.0\nmodel:\n  kl_free: 0.5\n"
    )
    assert convert.main(["mine.yaml"]) == 1
    lines = capsys.readouterr().err.splitlines()
    named = {line.split(" = ")[0].rpartition(" ")[2] for line in lines}
    # The recipe's ratio and the limit of CartPole-v1 are said in other words.
    assert named == {
        "training.seed",
        "training.grad_clip",
        "model.kl_free",
        "model.grad_clip",
        "data.on_env_failure",
    }
    config = load_config("worldflux.toml")
    assert (config.project_name, config.data.gym_env) == ("mine", "CartPole-v1")
    assert config.online_collection.max_episode_steps == 500
    assert config.online_collection.collect_steps_per_update == 16


MISTAKES = {
    "nowhere.toml": "Configuration file not found: nowhere.toml",
    "nowhere.yaml": "neither an experiment nor a run folder",
    "worldflux.toml": "conf/experiment/my_project.yaml is there already; --force overwrites it",
    "worldflux.toml --to toml": "is a .toml already",
    "mine.yaml --to yaml": "is no .toml",
    "bad.yaml": "unknown key 'training.stepz'",
    "list.yaml": "holds no configuration",
    "bad.toml": "bad.toml, line 7: inference.horizon must be >= 1, got 0",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes(
    line: str, project: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = project(SCAFFOLD.read_text(encoding="utf-8"))
    (folder / "conf" / "experiment").mkdir(parents=True)
    (folder / "conf" / "experiment" / "my_project.yaml").write_text("mine")
    (folder / "bad.yaml").write_text("# @package _global_\ntraining:\n  stepz: 3\n")
    (folder / "list.yaml").write_text("- 3\n")
    (folder / "bad.toml").write_text(
        "[architecture]\nobs_shape = [3, 84, 84]\n[data]\nsource='gym'\ngym_env='CartPole-v1'\n"
        "[inference]\nhorizon = 0"
    )
    before = sorted(folder.rglob("*"))
    assert convert.main(line.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("worldflux convert: error: ") and err.count("\n") == 1
    assert re.search(MISTAKES[line], err), err
    assert sorted(folder.rglob("*")) == before
