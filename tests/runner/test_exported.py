"""Policies as files: ONNX and torch.export against the original, and a step-by-step player without us."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import worldflux
from tests.cli.conftest import TINY, folder  # noqa: F401
from worldflux.cli.export_model import main
from worldflux.runner import exported
from worldflux.runner.trained import open_trained
from worldflux.training import TrainingConfig

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
SHORT = [*TINY, "env.time_limit=30"]


def needs_onnx() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed: worldflux[export] brings it")


@pytest.fixture
def play() -> Callable[..., float]:
    """The player of the page, which knows onnxruntime and Gymnasium alone."""
    needs_onnx()
    ((code,),) = [re.findall(r"```python\n# play\.py\n(.*?)```", PAGE, re.S)]
    assert "worldflux" not in code
    names: dict[str, Any] = {}
    exec(compile(code, "play.py", "exec"), names)
    return names["play"]


@pytest.mark.slow(30)
@pytest.mark.parametrize(
    "words", [["env=cartpole"], ["env=pendulum", "model=tdmpc2"]], ids=["dreamerv3", "prior"]
)
def test_the_original_and_onnx_alone_play_the_same(
    words: list[str],
    folder: Path,  # noqa: F811
    play: Callable[..., float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = worldflux.train(*SHORT, *words)
    assert main(["policy", str(run.folder), "--out", "out", "--seed", "5"]) == 0
    about = json.loads(Path("out/policy.json").read_text())
    assert about["check"]["largest_difference"] <= 1e-4 and about["check"]["steps"] >= 8
    assert about["check"]["exported_return"] == pytest.approx(about["check"]["return"], abs=1e-3)
    line = capsys.readouterr().out.splitlines()[-1]
    assert re.match(
        r"largest difference \S+ in \d+ steps \(within the tolerance 0.0001\); return", line
    )
    policy = worldflux.load_policy(run)
    original = exported.StepAgent(step := exported.step_of(policy._agent), exported.eager(step))
    env = policy.make_env()
    carry, total, (obs, _), over = original.initial_carry(1), 0.0, env.reset(seed=7), False
    first = True
    while not over:
        row = {**policy._border.encode([obs], np.array([first])), "is_first": np.array([first])}
        carry, flat, _ = original.act(carry, row, False)
        obs, reward, terminated, truncated, _ = env.step(policy._border.decode(flat, False))
        total, first, over = total + float(reward), False, terminated or truncated
    assert play("out", policy.make_env(), seed=7) == pytest.approx(total, abs=1e-3)


@pytest.mark.slow
def test_a_program_of_torch_takes_any_number_of_environments_and_draws(
    folder: Path,  # noqa: F811
) -> None:
    run = worldflux.train(*SHORT, "env=cartpole")
    words = ["policy", str(run.folder), "--out", "out", "--format", "torch_export", "--draws"]
    assert main(words) == 0
    about = json.loads(Path("out/policy.json").read_text())
    assert about["draws"] == [
        {"input": "draw.latent", "distribution": "gumbel"},
        {"input": "draw.action", "distribution": "gumbel"},
    ]
    assert not about["deterministic"] and about["check"]["largest_difference"] < 1e-5
    # The draws of an agent make it what the agent itself does.
    agent = open_trained(run.folder, "best", []).agent("cpu")
    step = exported.step_of(agent, draws=True)
    call = exported.read_policy(step, Path("out/policy.pt2"))
    assert call is not None
    rng = np.random.default_rng(0)
    theirs, ours = agent.initial_carry(3), agent.initial_carry(3)
    other = exported.StepAgent(step, call)
    agent.generator.manual_seed(11)
    other._generator.manual_seed(11)
    for t in range(4):
        row = {"obs": rng.normal(size=(3, 4)).astype(np.float32), "is_first": np.full(3, t == 0)}
        theirs, expected, _ = agent.act(theirs, row, explore=True)
        ours, action, _ = other.act(ours, row, explore=True)
        np.testing.assert_allclose(action, expected, atol=1e-5)
        torch.testing.assert_close(ours["deter"], theirs["deter"], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_planner_is_exported_with_its_iterations(folder: Path) -> None:  # noqa: F811
    torch.manual_seed(0)
    small = dict(num_samples=8, num_elites=3, num_pi_trajs=2, iterations=1, horizon=2)
    model = worldflux.create_world_model("tdmpc2:ci", obs_shape=(3,), action_dim=1, **small)
    agent = model.make_agent(TrainingConfig(device="cpu", compile_model=False))
    step = exported.step_of(agent, planner=True)
    call = exported.read_policy(step, exported.write_policy(step, "torch_export", folder / "out"))
    assert call is not None
    tensors = step.examples(3)
    tensors |= {"obs.obs": torch.randn(3, 3), "is_first": torch.tensor([True, False, False])}
    tensors["carry.mean"] = torch.rand(3, 2, 1)
    for name, value in exported.eager(step)(tensors).items():
        torch.testing.assert_close(call(tensors)[name], value, atol=1e-6, rtol=1e-6)


@pytest.mark.slow
def test_pictures_go_in_as_bytes(folder: Path) -> None:  # noqa: F811
    for family in ("dreamer-ci", "tdmpc2:ci"):
        torch.manual_seed(0)
        more = {"actor_critic": True} if family == "dreamer-ci" else {}
        model = worldflux.create_world_model(family, obs_shape=(3, 64, 64), action_dim=2, **more)
        training = TrainingConfig(device="cpu", compile_model=False)
        step = exported.step_of(model.make_agent(training))
        file = exported.write_policy(step, "torch_export", folder / family.replace(":", "_"))
        call = exported.read_policy(step, file)
        assert call is not None
        tensors = step.examples(5)
        assert tensors["obs.obs"].dtype == torch.uint8
        tensors["obs.obs"] = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)
        for name, value in exported.eager(step)(tensors).items():
            torch.testing.assert_close(call(tensors)[name], value, atol=1e-5, rtol=1e-5)


def test_mistakes_are_one_line(
    folder: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = str(worldflux.train(*SHORT, "env=cartpole").folder)
    Path("there").mkdir()
    Path("there/x").touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for words, line in (
        (["policy", run, "--out", "there"], "--out there is there already"),
        (["policy", run, "--out", "new", "--planner"], "DreamerV3 has no planner"),
        (["policy", run, "--out", "new"], "pip install 'worldflux[export]'"),
        (["policy", "nowhere", "--out", "new"], "no run folder at nowhere"),
    ):
        assert main(words) == 2
        assert line in capsys.readouterr().err
    assert not Path("new").exists()


@pytest.mark.slow
def test_above_the_tolerance_the_exit_code_is_1(
    folder: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = str(worldflux.train(*SHORT, "env=cartpole").folder)
    read = exported.read_policy

    def shifted(step: Any, file: Path) -> Any:
        call = read(step, file)
        assert call is not None
        return lambda tensors: {k: v + 0.5 * (k == "next.deter") for k, v in call(tensors).items()}

    monkeypatch.setattr(exported, "read_policy", shifted)
    assert main(["policy", run, "--out", "out", "--format", "torch_export"]) == 1
    assert "above the tolerance" in capsys.readouterr().out
