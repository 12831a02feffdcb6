"""The table of groups: what may change on resume, and what makes no other job."""

from __future__ import annotations

import dataclasses

import pytest

from worldflux.config.composition import composed
from worldflux.config.data import DataConfig
from worldflux.config.env import EnvConfig
from worldflux.config.groups import (
    CHOICES,
    OF_TRAINING,
    free_mappings,
    is_machine,
    keys_of,
    may_change,
    schemas,
)
from worldflux.config.page import Visualization
from worldflux.config.presets import conf_dir
from worldflux.config.training import TrainingConfig
from worldflux.errors import ConfigurationError, UnknownParameterError
from worldflux.models.tdmpc2.config import TDMPC2Config

WHOLE_GROUPS = {"logger", "run", "gameplay", "visualization"}
MACHINE = {"device", "env_mode", "keep_memory", "log_interval", "output_dir"}
MACHINE |= {"save_interval", "save_seconds"}
RESUMABLE = {"total_steps", "env_steps", "compile_model", "mixed_precision"}
RESUMABLE |= {
    "mixed_precision_dtype",
    "eval_interval",
    "eval_episodes",
    "eval_envs",
    "eval_time_limit",
    "model_eval_interval",
    "video_interval",
}


def every_key() -> set[str]:
    return {f"{group}.{key}" for group, cls in schemas().items() for key in keys_of(cls)}


def test_what_may_change_on_resume_and_what_makes_no_other_job() -> None:
    whole = {key for key in every_key() if key.split(".")[0] in WHOLE_GROUPS}
    machine = whole | {f"training.{key}" for key in MACHINE} | {"env.call_timeout", "data.record"}
    assert {key for key in every_key() if is_machine(key)} == machine
    more = {f"training.{key}" for key in RESUMABLE} | {"data.on_env_failure", "data.path"}
    more |= {"env.solved_return", "env.terminates"}
    assert {key for key in every_key() if may_change(key)} == machine | more
    for key in ("project", "dashboard", "hydra/launcher", "hydra.run.dir", "project.verify.mode"):
        assert is_machine(key), key
    for key in ("model", "model/size", "env", "experiment", "resume", "env.kwargs.seed"):
        assert not is_machine(key) and not may_change(key), key


def test_options_and_mappings() -> None:
    assert all((conf_dir() / folder).is_dir() for folder in CHOICES)
    assert OF_TRAINING == ("learning_rate", "grad_clip", "device")
    assert {"env.kwargs", "project", "hydra.launcher.additional_parameters"} <= free_mappings()
    assert {"model.observation_modalities", "model.loss_scales"} <= free_mappings()


def test_what_a_run_decides_elsewhere() -> None:
    run = composed(["model=tdmpc2", "env=cartpole", "training.learning_rate=0.5"])
    assert isinstance(run.model, TDMPC2Config) and run.model.episodic
    assert run.model.learning_rate == 0.5 and "num_tasks" not in run.model.explicit
    with pytest.raises(ConfigurationError) as caught:
        composed(["model.learning_rate=1"])
    assert (caught.value.key, caught.value.hint) == (
        "model.learning_rate",
        "set training.learning_rate",
    )


def test_limits_are_part_of_the_json_schema() -> None:
    training = TrainingConfig.json_schema()["properties"]
    size = training["batch_size"]
    assert (size["type"], size["minimum"], size["default"]) == ("integer", 1, 16)
    assert size["description"].startswith("Sequences in a batch.")
    assert training["optimizer"]["enum"] == ["laprop", "adamw", "adam", "sgd"]
    assert training["beta1"]["exclusiveMaximum"] == 1 and "pattern" in training["device"]
    limit = DataConfig.json_schema()["properties"]["train_ratio"]
    assert limit["anyOf"] == [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]
    # A family that gives another default keeps the limits.
    clip = TDMPC2Config.json_schema()["properties"]["grad_clip"]
    assert (clip["type"], clip["minimum"], clip["default"]) == ("number", 0, 20.0)


def test_classes_know_what_was_named_and_frozen_ones_stay_so() -> None:
    page = Visualization(host=" ", port=80)
    assert page.explicit == {"host", "port"} and page.host == "127.0.0.1"
    with pytest.raises(dataclasses.FrozenInstanceError):
        page.port = 3  # type: ignore[misc]
    with pytest.raises(UnknownParameterError, match="Did you mean: 'port'"):
        Visualization(prot=80)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="port must be <= 65535, got a number of"):
        Visualization(port=10**400)
    with pytest.raises(ConfigurationError, match="learning_rate must be finite"):
        TrainingConfig(learning_rate=10**400)
    assert EnvConfig(id="Pendulum-v1").explicit == {"id"}
