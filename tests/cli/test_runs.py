"""What reaches a job, sweeps, resuming and how a run can end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.cli.conftest import TINY
from worldflux import DreamerV3Config, WorldModelConfig
from worldflux.cli.main import main
from worldflux.config.run import keys_of
from worldflux.errors import TrainingError


def test_the_default_run(jobs: list[Any], folder: Path) -> None:
    assert main([]) == 0
    ((config, run_dir),) = jobs
    assert config.env.id == "CartPole-v1"
    assert (config.model.model_type, config.model.actor_critic) == ("dreamer", True)
    assert config.training.optimizer == "laprop"
    assert config.resume is None
    assert run_dir.parent.parent == folder / "outputs"
    assert (run_dir / ".hydra" / "config.yaml").is_file()


def test_python_and_the_command_line_read_the_same_presets(jobs: list[Any]) -> None:
    assert main(["model/size=size50m", "model.kl_free=0.5"]) == 0
    model = jobs[0][0].model
    same = DreamerV3Config.from_size(
        "size50m",
        kl_free=0.5,
        actor_critic=True,
        device=model.device,
        learning_rate=model.learning_rate,
        grad_clip=model.grad_clip,
    )
    assert model == same


def test_overrides_and_free_mappings(jobs: list[Any]) -> None:
    words = ["training.total_steps=20_000", "training.learning_rate=1e-4", "model.hidden_dim=320"]
    words += ["env=pendulum", "+env.kwargs.g=9.0", "env.import=math", "model.obs_shape=[3]"]
    assert main(words) == 0
    config = jobs[0][0]
    assert (config.training.total_steps, config.training.learning_rate) == (20_000, 1e-4)
    assert (config.model.hidden_dim, config.model.learning_rate) == (320, 1e-4)
    assert (config.env.kwargs, config.env.import_module) == ({"g": 9.0}, "math")


def test_a_users_folder_adds_options(jobs: list[Any], folder: Path) -> None:
    (folder / "mine" / "experiment").mkdir(parents=True)
    recipe = "# @package _global_\ntraining:\n  seed: 77\n"
    (folder / "mine" / "experiment" / "fast.yaml").write_text(recipe)
    assert main(["--config-dir", "mine", "+experiment=fast"]) == 0
    assert jobs[0][0].training.seed == 77


def test_a_sweep_runs_every_job(jobs: list[Any], folder: Path) -> None:
    assert main(["-m", "training.seed=range(2)", "model/size=ci,size1m"]) == 0
    found = {(c.training.seed, c.model.model_name) for c, _ in jobs}
    assert found == {(0, "ci"), (0, "size1m"), (1, "ci"), (1, "size1m")}
    assert len({run_dir for _, run_dir in jobs}) == 4
    assert all((folder / "outputs" / "multirun") in run_dir.parents for _, run_dir in jobs)


def test_both_families_take_the_default_task(jobs: list[Any]) -> None:
    assert main(["-m", "model=dreamerv3,tdmpc2"]) == 0
    tdmpc2 = next(c.model for c, _ in jobs if c.model.model_type == "tdmpc2")
    assert tdmpc2.episodic
    assert main(["model=tdmpc2", "env=pendulum"]) == 0
    assert not jobs[-1][0].model.episodic


@pytest.mark.slow
def test_a_recipe_that_is_a_sweep(jobs: list[Any]) -> None:
    assert main(["-m", "+experiment=classic_control"]) == 0
    assert [c.env.id for c, _ in jobs][:2] == ["CartPole-v1", "Acrobot-v1"]


def test_training_that_stops_itself_gives_3(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(config: Any, run_dir: Path, parts: Any = None) -> float:
        raise TrainingError("loss 'rew' is not finite at update 7")

    monkeypatch.setattr("worldflux.runner.run.run", run)
    assert main(["training.seed=1"]) == 3
    err = capfd.readouterr().err
    assert err.splitlines()[-1] == "worldflux-run: error: loss 'rew' is not finite at update 7"
    assert "Traceback" not in err


def test_ctrl_c_gives_130(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(config: Any, run_dir: Path, parts: Any = None) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr("worldflux.runner.run.run", run)
    assert main([]) == 130
    assert capfd.readouterr().err == "worldflux-run: interrupted\n"


def test_a_bug_keeps_its_traceback_without_hydras_frames(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(config: Any, run_dir: Path, parts: Any = None) -> float:
        return {}["a bug"]

    monkeypatch.setattr("worldflux.runner.run.run", run)
    assert main([]) == 1
    err = capfd.readouterr().err
    assert "KeyError: 'a bug'" in err and "Traceback" in err
    assert "site-packages/hydra" not in err


def test_a_real_run_and_its_continuation(folder: Path) -> None:
    assert main(TINY) == 0
    (run_dir,) = (folder / "outputs").glob("*/*")
    assert main([f"resume={run_dir}", "training.total_steps=4"]) == 0
    manifest = json.loads((run_dir / "run_manifest.json").read_text())
    assert (manifest["status"], manifest["global_step"]) == ("completed", 4)
    assert (run_dir / "run.log").read_text().count("evaluation return") >= 2


@dataclass
class RiverConfig(WorldModelConfig):
    model_type: str = "river"


class River(torch.nn.Linear):
    config_class = RiverConfig

    def __init__(self, config: RiverConfig) -> None:
        super().__init__(config.hidden_dim, 1)


def test_a_family_of_another_package_runs(
    jobs: list[Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint("river", f"{__name__}:River", "worldflux.models")
    monkeypatch.setattr("worldflux.models.families.entry_points", lambda group: [point])
    (folder / "mine" / "model").mkdir(parents=True)
    keys = {k: v for k, v in RiverConfig().to_dict().items() if k in keys_of(RiverConfig)}
    links = {key: f"${{training.{key}}}" for key in ("learning_rate", "grad_clip", "device")}
    missing = {key: "???" for key in ("obs_shape", "action_dim", "action_type")}
    derived = {"observation_modalities": {}, "action_spec": {}}
    text = yaml.safe_dump({**keys, **links, **missing, **derived, "hidden_dim": 8})
    (folder / "mine" / "model" / "river.yaml").write_text(text)
    words = ["--config-dir", "mine", "model=river", "data=dreamerv3", "training=dreamerv3"]
    assert main(words) == 0
    assert type(jobs[0][0].model).__name__ == "RiverConfig" and jobs[0][0].model.hidden_dim == 8
