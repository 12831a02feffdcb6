"""Errors are fields that each reporter renders; nobody reads a text."""

from __future__ import annotations

import pickle

import pytest

from worldflux.config.composition import composed
from worldflux.config.data import DataConfig
from worldflux.config.slurm import slurm_config
from worldflux.config.training import TrainingConfig
from worldflux.errors import (
    CheckpointError,
    ConfigurationError,
    EnvironmentUnavailableError,
    MissingDependencyError,
    UnknownParameterError,
    UnknownPresetError,
    WorldFluxError,
)
from worldflux.models.dreamerv3.config import DreamerV3Config


def test_one_text_is_enough() -> None:
    error = ConfigurationError("leave out --x")
    assert (str(error), error.reason, error.key, error.hint) == (
        str(error.reason),
        *error.args,
        "",
        "",
    )


def test_fields_are_rendered_as_one_line() -> None:
    error = ConfigurationError("must be one of a, b; got 'c'.", key="x", hint=" Did you mean: 'a'?")
    assert str(error) == "x must be one of a, b; got 'c'. Did you mean: 'a'?"
    assert str(error.within("env")) == "env." + str(error)
    assert str(ConfigurationError("=Nope-v1: no such environment", key="env.id")) == (
        "env.id=Nope-v1: no such environment"
    )
    assert str(ConfigurationError("needs CUDA", key="a", hint="use b")) == "a needs CUDA; use b"
    assert (
        str(ConfigurationError("all images differ").within("model")) == "model: all images differ"
    )


def test_a_class_names_the_field_and_others_the_place() -> None:
    with pytest.raises(ConfigurationError) as caught:
        DreamerV3Config(model_name="mine", hidden_dim=0)
    error = caught.value
    assert (error.key, error.reason, error.label) == (
        "hidden_dim",
        "must be >= 1, got 0",
        "[mine] ",
    )
    assert str(error) == "[mine] hidden_dim must be >= 1, got 0"
    assert str(error.within("model")) == "model.hidden_dim must be >= 1, got 0"
    assert str(error.about("--width").labelled("job a=1: ")).startswith("job a=1: [mine] --width")


@pytest.mark.parametrize("overrides", [["training.batch_size=0"], ["data.capacity=9"]])
def test_a_run_names_the_key(overrides: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        composed(overrides)
    assert caught.value.key == overrides[0].split("=")[0]


def test_a_launcher_names_its_key() -> None:
    with pytest.raises(ConfigurationError) as caught:
        slurm_config({"additional_parameters": {"comment": "x"}})
    assert caught.value.key == "hydra.launcher.additional_parameters.comment"


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("must be >= 1", key="a.b", hint="leave it out").labelled(
            "file, line 3: "
        ),
        UnknownParameterError("Unknown parameter 'x'.", hint="Did you mean: 'y'?"),
        UnknownPresetError("no such size", key="model/size"),
        EnvironmentUnavailableError("=x cannot be made", key="env.id"),
        CheckpointError("damaged").labelled("rank 1: "),
    ],
)
def test_errors_cross_processes(error: WorldFluxError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error) and vars(again) == vars(error)


def test_errors_keep_their_other_base() -> None:
    assert isinstance(UnknownPresetError("x"), ValueError)
    assert isinstance(EnvironmentUnavailableError("x"), MissingDependencyError)
    with pytest.raises(TypeError) as caught:
        TrainingConfig.from_dict({"batch_sise": 3})
    assert isinstance(caught.value, UnknownParameterError)
    assert caught.value.hint == "Did you mean: 'batch_size'?"
    with pytest.raises(ConfigurationError) as other:
        DataConfig(source="gmy")
    assert other.value.hint == "Did you mean: 'gym'?"
