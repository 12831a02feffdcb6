"""What is wrong about a launcher's values is told in one line, before anything is written."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cli.conftest import folder, refused
from worldflux.config.slurm import SlurmConfig, slurm_config
from worldflux.errors import ConfigurationError

__all__ = ["folder", "refused"]
SLURM = ("-m", "hydra/launcher=slurm")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["hydra.launcher.partion=gpu"],
            "unknown key 'hydra.launcher.partion'. Did you mean: 'partition'?",
        ),
        (
            ["hydra.launcher.timeout_min=soon"],
            "hydra.launcher.timeout_min must be a whole number, got 'soon'",
        ),
        (
            ["hydra.launcher.name=mine"],
            "unknown key 'hydra.launcher.name': jobs are named after their sweep",
        ),
    ],
)
def test_keys(refused: Callable[..., str], words: list[str], line: str) -> None:
    assert refused(*SLURM, *words) == line


def test_keys_without_the_launcher(refused: Callable[..., str]) -> None:
    line = refused("-m", "hydra.launcher.partition=gpu", "training.seed=1,2")
    assert line == "hydra.launcher.partition is a key of hydra/launcher=slurm, which was not chosen"


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"timeout_min": 0}, "timeout_min must be >= 1"),
        (
            {"signal_delay_s": 60, "timeout_min": 1},
            "signal_delay_s must be less than the time limit",
        ),
        ({"mem_gb": 0.0}, "mem_gb must be > 0"),
        ({"additional_parameters": {"comment": "x"}}, "comment cannot be set"),
        ({"additional_parameters": {"cpus-per-task": 2}}, "has a key of its own: cpus_per_task"),
    ],
)
def test_values(values: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^hydra\.launcher\..*{complaint}"):
        slurm_config(values)


def test_what_is_asked_of_sbatch() -> None:
    asked = SlurmConfig(timeout_min=90, mem_gb=1.5, cpus_per_task=4, tasks_per_node=2).sbatch()
    assert asked["time"] == 90
    assert asked["mem"] == "1536M"
    assert asked["ntasks_per_node"] == 2
    assert asked["additional_parameters"] == {"requeue": True}
    assert "--cpus-per-task=4" in asked["srun_args"]
    assert "partition" not in asked
