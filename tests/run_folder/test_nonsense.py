"""Values that cannot work are refused before a folder exists; a degraded resume keeps its counters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.cli.conftest import folder, refused  # noqa: F401
from worldflux.config.spaces import Space
from worldflux.data.random_source import RandomSource
from worldflux.data.sources import Sequences
from worldflux.models.dreamerv3.config import LOSS_SCALES
from worldflux.models.tdmpc2.config import LOSS_COEFS

ZERO = f"model.loss_scales={{{','.join(f'{name}:0' for name in LOSS_SCALES)}}}"
ZEROS = [f"model.{name}=0" for name in LOSS_COEFS]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["training.seed=18446744073709551616"], "training.seed must be <= "),
        (["training.learning_rate=1e300"], "training.learning_rate must be within 1e+30"),
        (["training.weight_decay=1e300"], "training.weight_decay must be within 1e+30"),
        (["training.env_steps=10"], "training.env_steps must be >= data.prefill_steps"),
        (["data.capacity=900"], "data.capacity must be >= data.prefill_steps"),
        (["training.device=cuda:99"], "training.device is cuda:99, which this machine lacks"),
        (["training.total_steps=100000000000000000000"], "training.total_steps must be within"),
        (["model.decoder_layers=1e22"], "model.decoder_layers must be a whole number"),
        (["model.decoder_layers=1000000000"], "model.decoder_layers must be <= 1000"),
        (["model.hidden_dim=1000000000"], "model.hidden_dim must be within 1_048_576"),
        (["model.deter_dim=1048576", "model.blocks=1"], "GiB, and this machine has a memory of"),
        (["env.image_size=[100000,100000]"], "env.image_size must hold whole numbers up to"),
        (["training.sequence_length=1"], "training.sequence_length must be >= 2 for dreamer"),
        (["training.mixed_precision=-5"], "training.mixed_precision must be true or false, got -5"),
        (
            ["training.eval_interval=0", "env.solved_return=5"],
            "env.solved_return needs evaluations",
        ),
        (["data.train_ratio=1e-9"], "data.train_ratio means"),
        (["visualization.enabled=true", "visualization.host=192.0.2.1"], "visualization.host="),
        (["init_from="], "init_from must name a folder"),
        (["env.kwargs=[1]"], "env.kwargs: Cannot merge"),
        (["training.seed=1", "model.cnn_mults.x=[1]"], "model.cnn_mults.x=[1]: does not fit"),
        (["env.image_size.x=3"], "env.image_size.x=3: does not fit"),
        ([ZERO], "model.loss_scales are all 0"),
        (["model=tdmpc2", *ZEROS], "all other coefficients of losses are 0"),
        (["hydra.verbose=5"], "hydra.verbose must be true, false or names of loggers"),
        (["+hydra.foo=1"], "unknown key 'hydra.foo'"),
        (["hydra.runtime.cwd=/tmp"], "is what Hydra notes about a run"),
        (["+hydra.callbacks.x._target_=no_such_module.X"], "no_such_module"),
        (["-m", "training.seed=range(1,2,0)"], "must not be zero"),
        (["-m", "training.learning_rate=interval(0,1)"], "has no list of values"),
        (["-m", "+hydra.sweeper.x=5", "training.seed=1,2"], "unknown key 'hydra.sweeper.x'"),
    ],
)
def test_refused_in_one_line(
    refused: Callable[..., str],  # noqa: F811
    words: list[str],
    line: str,
) -> None:
    rest = ["env=cartpole", "model/size=ci", "training.batch_size=2", "data.prefill_steps=1000"]
    assert line in refused(*rest, *words)


def test_several_options_of_a_group(refused: Callable[..., str]) -> None:  # noqa: F811
    assert "env must name an option" in refused("env=[cartpole,pendulum]")


def test_bounds_of_the_discount_contradict_each_other(
    refused: Callable[..., str],  # noqa: F811
) -> None:
    line = refused(
        "model=tdmpc2", "env=pendulum", "model.discount_min=0.99", "model.discount_max=0.5"
    )
    assert "discount_min must be <= discount_max (0.5), got 0.99" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="has the device")
def test_precision_that_the_processor_lacks(refused: Callable[..., str]) -> None:  # noqa: F811
    words = ("training.mixed_precision=true", "training.mixed_precision_dtype=float16")
    assert "float16 needs CUDA, which this machine lacks" in refused("env=cartpole", *words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there(refused: Callable[..., str]) -> None:  # noqa: F811
    assert "this machine lacks" in refused("env=cartpole", "training.device=cuda")


def test_noise_after_an_environment_keeps_the_counters() -> None:
    spaces = {"obs": Space((3,))}
    like = Sequences(spaces, {"action": Space((1,))}, {}, batch_size=1, sequence_length=2)
    source = RandomSource(like, fallback=True)
    source.load_state_dict({"collector": {"env_steps": 70}, "degraded_modes": ["before"]})
    assert source.env_steps == 70
    again = RandomSource(like)
    again.load_state_dict(source.state_dict())
    assert (again.env_steps, again.degraded_modes) == (70, source.degraded_modes)
    assert again.degraded_modes[0] == "before" and len(again.degraded_modes) == 3
