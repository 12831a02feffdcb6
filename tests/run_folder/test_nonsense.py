"""Values that cannot work are refused before a folder exists; a degraded resume keeps its counters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.cli.conftest import folder, refused  # noqa: F401
from worldflux.config.spaces import Space
from worldflux.data.random_source import RandomSource
from worldflux.data.sources import Sequences


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["training.seed=18446744073709551616"], "training.seed must be <= "),
        (["training.learning_rate=1e300"], "training.learning_rate must be within 1e+30"),
        (["training.weight_decay=1e300"], "training.weight_decay must be within 1e+30"),
        (["training.env_steps=10"], "training.env_steps must be >= data.prefill_steps"),
        (["data.capacity=900"], "data.capacity must be >= data.prefill_steps"),
        (["training.device=cuda:99"], "training.device is cuda:99, which this machine lacks"),
    ],
)
def test_refused_in_one_line(
    refused: Callable[..., str],  # noqa: F811
    words: list[str],
    line: str,
) -> None:
    rest = ["env=cartpole", "model/size=ci", "training.batch_size=2", "data.prefill_steps=1000"]
    assert line in refused(*rest, *words)


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
