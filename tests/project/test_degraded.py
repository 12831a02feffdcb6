"""Every fallback of `worldflux train` is provoked, appears by name and is told loudly."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.project.conftest import manifest
from worldflux.cli import convert
from worldflux.cli import main as runner
from worldflux.cli.train import main

TOML = """\
model = "dreamer:ci"
[architecture]
obs_shape = 3
action_dim = 3
action_type = "discrete"
[training]
total_steps = 6
batch_size = 2
sequence_length = 8
[data]
source = "gym"
gym_env = "ENVIRONMENT"
[online_collection]
enabled = true
warmup_transitions = 40
collect_steps_per_update = 16
"""
# Environments of the project: they work, refuse to start, break at once or half-way.
DATASET = """\
import gymnasium

for name, kwargs in {
    "Fine-v0": {},
    "Refuses-v0": {"fail_to_make": True},
    "BreaksAtOnce-v0": {"fail_at": 2, "length": 99},
    "BreaksLater-v0": {"fail_at": 9, "length": 99},
}.items():
    if name not in gymnasium.registry:
        gymnasium.register(name, "tests.envs.counting:Counting", kwargs=kwargs)

from worldflux.project import AS_CONFIGURED


def build_training_data(model_config, frame_callback=None, phase_callback=None):
    return AS_CONFIGURED, lambda: None, "online"
"""
QUICK = ["--override", "training.eval_episodes=1"]
NOISE = ["env_collection_unavailable", "random_replay_fallback"]
CASES = {
    # environment: degraded modes, data mode, what is told, exit code of --strict
    "ALE/Pong-v5": (NOISE, "random", "pip install 'worldflux[atari]'", 2),
    "Refuses-v0": (NOISE, "random", "no licence", 2),
    "BreaksAtOnce-v0": (
        [*NOISE, "evaluation_unavailable"],
        "random",
        "the robot fell over",
        3,
    ),
    "BreaksLater-v0": (
        ["env_collection_unavailable", "evaluation_unavailable"],
        "online",
        "the robot fell over",
        3,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_collected(
    name: str,
    project: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modes, data_mode, reason, code = CASES[name]
    monkeypatch.setitem(sys.modules, "ale_py", None)  # as if it was not installed
    toml = TOML.replace("ENVIRONMENT", name)
    if name.startswith("ALE/"):
        toml = toml.replace("obs_shape = 3", "obs_shape = [3, 64, 64]")
    if name == "BreaksLater-v0":
        toml = toml.replace("warmup_transitions = 40", "warmup_transitions = 64")
        toml = toml.replace("sequence_length = 8", "sequence_length = 2")
    folder = project(toml, dataset_py=DATASET)
    assert main(["--strict", *QUICK]) == code
    assert reason in capfd.readouterr().err
    if code == 2:
        assert not (folder / "outputs").exists()
    assert main(QUICK) == 0
    told = manifest(folder)
    assert (told["degraded_modes"], told["data_mode"]) == (modes, data_mode)
    assert (told["status"], told["global_step"]) == ("completed", 6)
    assert told["run_classification"] == "contract_smoke"
    lines = capfd.readouterr().out.splitlines()
    (first,) = (i for i, line in enumerate(lines) if reason in line and "training goes on" in line)
    (last,) = (i for i, line in enumerate(lines) if f"DEGRADED: {', '.join(modes)};" in line)
    assert first < last == len(lines) - 1


def test_worldflux_run_is_strict_unless_it_is_told_to_degrade(
    project: Callable[..., Path], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    words = ["model/size=ci", "env=atari100k", "training.total_steps=1", "training.batch_size=2"]
    words += ["training.sequence_length=4", "model.obs_shape=[3,64,64]", "model.action_dim=6"]
    folder = project("")
    assert runner.main(words) == 2
    assert "pip install 'worldflux[atari]'" in capfd.readouterr().err
    words += ["data.on_env_failure=degrade", "hydra.run.dir=outputs", "model.action_type=discrete"]
    assert runner.main(words) == 0
    assert manifest(folder)["degraded_modes"] == NOISE


def test_a_deliberate_random_source_is_no_degradation(project: Callable[..., Path]) -> None:
    folder = project(
        TOML.replace('"gym"', '"random"').replace("total_steps = 6", "total_steps = 1")
    )
    assert convert.main(["-o", "experiment.yaml"]) == 0
    assert main(["--strict"]) == 0
    told = manifest(folder)
    assert (told["data_mode"], told["degraded_modes"]) == ("random", [])
    assert told["run_classification"] == "contract_smoke"


def test_what_is_only_shown_does_not_lower_the_run(
    project: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        page = f"[visualization]\nenabled = true\nport = {port}\n[gameplay]\nenabled = true\n"
        toml = TOML.replace("ENVIRONMENT", "Unseen-v0") + page
        blind = DATASET.replace('"Fine-v0": {}', '"Unseen-v0": {}').replace(
            "counting:Counting", "counting:Blind"
        )
        folder = project(toml, dataset_py=blind)
        assert main(QUICK) == 0
    told = manifest(folder)
    assert set(told["degraded_modes"]) == {"dashboard_port_taken", "gameplay_unavailable"}
    assert (told["data_mode"], told["status"]) == ("online", "completed")
    assert told["run_classification"] == "meaningful_local_training"
    assert "DEGRADED" not in capfd.readouterr().out
