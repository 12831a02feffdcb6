"""Runs from Python: as from the command line, and the process stays as it was."""

from __future__ import annotations

import json
import logging
import math
import random
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig

import worldflux
from tests.cli.conftest import TINY, folder  # noqa: F401
from worldflux.cli.main import main as worldflux_run
from worldflux.cli.verbs import main as verbs
from worldflux.errors import CheckpointError, ConfigurationError, MissingDependencyError
from worldflux.runner.caller import callers_logging


def test_importing_and_composing_load_no_torch() -> None:
    script = (
        "import sys, worldflux\n"
        "config = worldflux.compose('model=dreamerv3', 'model/size=size12m', 'env=pendulum')\n"
        "assert 'torch' not in sys.modules\n"
        "print(config.model.model_name, config.env.id, config.training.total_steps)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split()[:2] == ["size12m", "Pendulum-v1"], done.stderr


def test_a_run_can_be_read(trained: worldflux.Run) -> None:
    scores = json.loads((trained.folder / "run_manifest.json").read_text())["scores"]
    assert trained.score == scores["last"] < 0
    table = trained.metrics()
    assert table["step"].tolist() == [2] * len(table["step"])
    assert {len(column) for column in table.values()} == {len(table["step"])}
    returns = table["eval/return"]
    assert returns[~np.isnan(returns)].tolist() == [trained.score]
    assert not np.isnan(table["train/loss/total"][0])
    if "pandas" not in sys.modules:
        with pytest.raises(MissingDependencyError, match=r"Run\.metrics\(\) does without"):
            trained.frame()


def test_every_command_opens_it(
    trained: worldflux.Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.folder.parents[2])
    run = str(trained.folder)
    assert (trained.folder / ".hydra" / "overrides.yaml").read_text().startswith("- env=pendulum")
    assert (trained.folder / "run.log").stat().st_size > 0
    assert verbs(["eval", run, "--episodes", "1"]) == 0
    assert verbs(["report", run]) == 0
    assert verbs(["verify", "--target", run, "--mode", "quick", "--episodes", "2"]) in (0, 1)
    assert "nothing was learned" not in capsys.readouterr().err


def test_the_same_run_as_from_the_command_line(
    trained: worldflux.Run,
    folder: Path,  # noqa: F811
) -> None:
    line = ["env=pendulum", "env.time_limit=12", *TINY, "hydra.run.dir=line"]
    assert worldflux_run(line) == 0
    ours, theirs = worldflux.load_model(trained), worldflux.load_model("line")
    for (name, a), (_, b) in zip(
        ours.state_dict().items(), theirs.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name
    assert worldflux.Run(Path("line")).score == trained.score


def test_a_run_goes_on_and_the_command_line_goes_on_with_it(
    trained: worldflux.Run,
    folder: Path,  # noqa: F811
) -> None:
    shutil.copytree(trained.folder, "a=b,c")
    run = worldflux.resume("a=b,c", "training.total_steps=3")
    assert run.folder == (folder / "a=b,c").resolve()
    assert (run.manifest["status"], run.manifest["global_step"]) == ("completed", 3)
    assert worldflux_run(["resume=a=b,c", "training.total_steps=4"]) == 0
    assert run.manifest["global_step"] == 4
    assert worldflux.compose("resume=a=b,c", "training.total_steps=5").env.id == "Pendulum-v1"
    with pytest.raises(ConfigurationError, match=r"model\.hidden_dim cannot change on resume"):
        worldflux.resume(run, "model.hidden_dim=77")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["training.batchsize=8"], "unknown key 'training.batchsize'. Did you mean: 'batch_size'?"),
        (["training.seed=1,2"], "training.seed=1,2 has several values: add -m to sweep over them"),
        (["env.id=Nope-v1"], "env.id=Nope-v1: no such environment"),
        (["resume=nowhere"], "resume=nowhere is no run: there is no such folder"),
        (["model/size=5m"], "got '5m'. '5m' is a size of tdmpc2."),
    ],
)
def test_a_mistake_is_raised_before_anything_is_written(
    folder: Path,  # noqa: F811
    words: list[str],
    line: str,
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        worldflux.train(*words)
    assert line in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert list(folder.iterdir()) == []


def test_your_own_files_are_found(folder: Path) -> None:  # noqa: F811
    (folder / "mine" / "experiment").mkdir(parents=True)
    file = folder / "mine" / "experiment" / "short.yaml"
    file.write_text("# @package _global_\ntraining:\n  total_steps: 7\n")
    config = worldflux.compose("+experiment=short", config_dir="mine")
    assert config.training.total_steps == 7


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replaces the training: collects configuration, folder and the log's handlers."""
    started: list[Any] = []

    def run(config: Any, run_dir: Path, parts: Any = None) -> float:
        random.random(), np.random.random(), torch.rand(1)
        logging.getLogger("worldflux").warning("inside")
        started.append((config, run_dir, list(logging.getLogger().handlers)))
        return 1.0

    monkeypatch.setattr("worldflux.runner.run.run", run)
    return started


def test_another_hydra_application_stays_as_it_was(
    folder: Path,  # noqa: F811
    no_training: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folder / "app").mkdir()
    (folder / "app" / "config.yaml").write_text(
        "defaults: [base_config, _self_]\nhydra:\n  run: {dir: theirs}\n"
    )
    store, log = ConfigStore.instance(), logging.getLogger("their.app")
    before = dict(store.repo)
    store.store("base_config", {"theirs": 1})
    node = store.repo["base_config.yaml"]

    @hydra.main(str(folder / "app"), "config", version_base="1.3")
    def app(cfg: Any) -> None:
        log.info("before")
        handlers = list(logging.getLogger().handlers)
        runs = [worldflux.train("env=pendulum", "hydra.run.dir=ours", *TINY) for _ in range(2)]
        assert worldflux.compose("model=tdmpc2").model.model_type == "tdmpc2"
        assert HydraConfig.get().job.name == "app" and cfg.theirs == 1
        assert HydraConfig.get().runtime.output_dir == str(folder / "theirs")
        assert logging.getLogger().handlers == handlers
        assert store.repo["base_config.yaml"] is node or store.repo["base_config.yaml"] == node
        assert [run.folder.name for run in runs] == ["ours", "ours"]
        log.info("after")

    monkeypatch.setattr(sys, "argv", ["app.py", "hydra.job.name=app"])
    try:
        with callers_logging("test"):
            app()
    finally:
        store.repo = before
    theirs, ours = (folder / "theirs/config.log"), folder / "ours/run.log"
    logs = [*(folder / "theirs").glob("*.log")]
    assert len(logs) == 1, theirs
    text = logs[0].read_text()
    assert "before" in text and "after" in text and "inside" not in text
    assert "inside" in ours.read_text() and "after" not in ours.read_text()


def test_the_process_stays_as_it_was(folder: Path, no_training: list[Any]) -> None:  # noqa: F811
    torch.rand(300, 300) @ torch.rand(300, 300)  # its threads run
    root, level = logging.getLogger(), logging.getLogger().level
    handlers = list(root.handlers)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.random(), float(torch.rand(1))
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    out = sys.stdout, sys.stderr
    first, second = (worldflux.train("env=pendulum", *TINY) for _ in range(2))
    assert first.folder != second.folder  # also within a second
    assert (random.random(), np.random.random(), float(torch.rand(1))) == expected
    assert (root.handlers, root.level) == (handlers, level)
    assert (sys.stdout, sys.stderr) == out


def test_python_m_worldflux(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["worldflux", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("worldflux", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"worldflux {worldflux.__version__}\n"


# === Models that were saved =====================================================================


@pytest.mark.parametrize("where", ["", "checkpoints/step_000000002", "checkpoints/best"])
def test_models_load_from_runs_and_checkpoints(trained: worldflux.Run, where: str) -> None:
    path = trained.folder / where
    model = worldflux.load_model(path)
    weights = worldflux.load_model(trained, checkpoint="latest").state_dict()
    others = [
        worldflux.create_world_model(str(path)),
        type(model).from_pretrained(path),
    ]
    for one in (model, *others):
        state = one.state_dict()
        assert all(torch.equal(state[key], value) for key, value in weights.items())
    assert worldflux.get_config(str(path)) == model.config
    with pytest.raises((FileNotFoundError, ConfigurationError), match=r"worldflux\.load_model\("):
        worldflux.WorldModelConfig.load(path)


def test_a_loaded_model_encodes_rolls_out_and_decodes(trained: worldflux.Run) -> None:
    world = worldflux.load_model(trained)
    state = world.encode(torch.tensor([[1.0, 0.0, 0.0]] * 4))
    dream = world.rollout(state, torch.zeros(5, 4, 1))
    assert dream.rewards is not None and dream.rewards.shape == (5, 4)
    assert world.decode(dream.states[-1]).predictions["obs"].shape == (4, 3)


def test_tdmpc2_encodes_and_rolls_out_but_decodes_no_observation(tmp_path: Path) -> None:
    made = worldflux.create_world_model("tdmpc2:ci", obs_shape=(3,), action_dim=1)
    made.save_pretrained(tmp_path / "td")
    world = worldflux.load_model(tmp_path / "td")
    dream = world.rollout(world.encode(torch.zeros(2, 3)), torch.zeros(3, 2, 1))
    assert dream.rewards is not None and dream.rewards.shape == (3, 2)
    assert set(world.decode(dream.states[-1]).predictions) == {
        *("reward", "continue", "q_values", "action")
    }
    assert not world.supports("obs_decoder")


def test_what_cannot_be_loaded_is_one_line(trained: worldflux.Run, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no configuration at"):
        worldflux.load_model(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(trained.folder, copy)
    weights = copy / "checkpoints" / "step_000000002" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    for load in (worldflux.load_model, worldflux.load_policy):
        with pytest.raises(CheckpointError, match=r"damaged: checksum of model\.safetensors"):
            load(copy)
    with pytest.raises(CheckpointError, match="has no checkpoint 'step_7'"):
        worldflux.load_model(trained, checkpoint="step_7")


def test_nothing_was_evaluated(tmp_path: Path) -> None:
    (tmp_path / "run_manifest.json").write_text(
        json.dumps({"schema_version": "worldflux.training.run_manifest.v1", "status": "failed"})
    )
    assert math.isnan(worldflux.Run(tmp_path).score)
    assert worldflux.Run(tmp_path).metrics()["step"].tolist() == []


# === A run of somebody else =====================================================================


@pytest.fixture
def foreign(
    trained: worldflux.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """A run that names a module which writes a file when it is imported, and that file."""
    run, mark = tmp_path / "foreign", tmp_path / "imported"
    shutil.copytree(trained.folder, run)
    manifest = json.loads((run / "run_manifest.json").read_text())
    manifest["config"]["env"]["import_module"] = "module_of_the_run"
    (run / "run_manifest.json").write_text(json.dumps(manifest))
    module = tmp_path / "modules" / "module_of_the_run.py"
    module.parent.mkdir()
    module.write_text(f"open({str(mark)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(module.parent)
    monkeypatch.delitem(sys.modules, module.stem, raising=False)
    return run, mark


def test_a_foreign_runs_modules_are_imported_only_with_trust(foreign: tuple[Path, Path]) -> None:
    run, mark = foreign
    with pytest.raises(ConfigurationError, match=r"module_of_the_run.*trust=True"):
        worldflux.load_policy(run)
    with pytest.raises(ConfigurationError, match=r"module_of_the_run.*trust=True"):
        worldflux.resume(run, "training.total_steps=3")
    worldflux.load_model(run)
    assert not mark.exists()
    worldflux.load_policy(run, trust=True)
    assert mark.exists()


def test_a_foreign_run_goes_on_with_trust(
    foreign: tuple[Path, Path], no_training: list[Any]
) -> None:
    run, mark = foreign
    worldflux.resume(run, "training.total_steps=3", trust=True)
    assert mark.exists() and no_training[0][0].env.import_module == "module_of_the_run"
