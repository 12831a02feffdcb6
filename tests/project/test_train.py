"""`worldflux train`: flags, where values come from, mistakes, and the run folder."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.project.conftest import SAMPLES, manifest
from tests.project.test_schema import almost_files
from worldflux.cli.train import main
from worldflux.errors import CheckpointError
from worldflux.run_folder.checkpoints import checkpoint_at

# A run of a second or two on noise.
NOISE = """\
model = "dreamer:ci"
[architecture]
obs_shape = 4
action_dim = 2
[training]
total_steps = 2
batch_size = 2
sequence_length = 8
"""
CARTPOLE = """\
model = "dreamer:ci"

[training]
total_steps = 300
sequence_length = 16

[data]
source = "gym"
gym_env = "CartPole-v1"

[online_collection]
enabled = true
"""


def test_flags_go_before_the_file(project: Callable[..., Path], jobs: list[Any]) -> None:
    folder = project(CARTPOLE)
    words = ["--steps", "6000", "--device", "auto", "--output-dir", "elsewhere", "--strict"]
    words += ["--seed", "3", "--num-envs", "2", "--override", "training.eval_episodes=4"]
    words += ["--override", "data.prefill_steps=77"]
    assert main(words) == 0
    ((config, run_dir, _),) = jobs
    training = config.training
    assert (training.total_steps, training.device, training.seed) == (6000, "auto", 3)
    assert (training.num_envs, training.eval_episodes) == (2, 4)
    assert training.eval_interval == 200, "it follows the steps of the flag"
    assert (config.data.on_env_failure, config.data.prefill_steps) == ("error", 77)
    assert run_dir == folder / "elsewhere" and training.output_dir == "elsewhere"


def test_the_shown_configuration_says_where_each_value_is_from(
    project: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = project(CARTPOLE)
    assert main(["--show", "--device", "auto", "--override", "training.log_interval=9"]) == 0
    shown = dict(re.findall(r"^(\S+ = .*?) +# (.*)$", capsys.readouterr().out, re.M))
    assert shown["training.total_steps = 300"] == "worldflux.toml, line 4"
    assert shown["env.id = CartPole-v1"] == "worldflux.toml, line 9"
    assert shown["training.batch_size = 16"] == "default of worldflux.toml (training.batch_size)"
    assert shown["training.device = auto"] == "flag --device"
    assert shown["training.log_interval = 9"] == "flag --override training.log_interval=9"
    assert shown["training.optimizer = laprop"] == "training=dreamerv3"
    assert shown["model.deter_dim = 64"] == "preset model/size=ci"
    assert shown["env.solved_return = 475.0"] == "env=cartpole"
    assert shown["model.unimix = 0.01"] == "default"
    assert shown["training.eval_interval = 100"].startswith("worldflux train: total_steps / 30")
    assert "the environment" in {v for k, v in shown.items() if k.startswith("model.obs_shape")}
    assert sorted(folder.rglob("*")) == [folder / "worldflux.toml"]


LINES = {
    "--steps 0": "--steps must be >= 1, got 0",
    "--device tpu": "--device must be auto, cpu, cuda.*got 'tpu'",
    "--config other.toml": "Configuration file not found: other.toml.*`worldflux init`",
    "--override training.stepz=3": "unknown key 'training.stepz'.*'total_steps'",
    "--override training.batch_size=0": "training.batch_size must be >= 1",
    "--resume-from nowhere": "nothing to resume: there is no checkpoint at nowhere",
    "--resume-from outputs/checkpoint_final.pt": "outputs has no checkpoint yet",
    "--num-envs 0": "training.num_envs must be >= 1, got 0",
    "--stpes 3": "unknown flag --stpes. Did you mean: '--steps'",
    "--steps many": "argument --steps: invalid int value: 'many'",
    "--cloud": "--cloud: runs are local",
    "more": "'more' is one word too many",
    "--override training.nproc=2": "training.nproc must be 1",
}


@pytest.fixture
def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command line that must fail as the user's mistake: gives its one line."""

    def run(*words: str) -> str:
        before = sorted(folder.rglob("*"))
        assert main(list(words)) == 2
        told = capsys.readouterr()
        assert told.out == "" and told.err.startswith("worldflux train: error: ")
        assert told.err.count("\n") == 1, told.err
        assert sorted(folder.rglob("*")) == before, "something was written"
        return told.err.removeprefix("worldflux train: error: ").strip()

    return run


@pytest.mark.parametrize("line", LINES)
def test_a_wrong_flag_is_one_line(
    line: str, project: Callable[..., Path], refused: Callable[..., str]
) -> None:
    project(CARTPOLE)
    assert re.search(LINES[line], refused(*line.split()))


FILES = {
    "contradicts": (
        CARTPOLE + "[architecture]\nobs_shape = [39]\n",
        r"worldflux.toml, line 14: architecture.obs_shape is \(39,\), but the environment has \(4,\)",
    ),
    "actions": (
        CARTPOLE + "[architecture]\naction_dim = 6\n",
        "line 14: architecture.action_dim is 6, but the environment has 2",
    ),
    "environment": (
        CARTPOLE.replace("CartPole", "CartPol"),
        "worldflux.toml, line 9: data.gym_env=CartPol-v1: no such environment.*'CartPole-v1'",
    ),
    "capacity": (
        CARTPOLE.replace("[online", "buffer_capacity = 20\n[online"),
        "worldflux.toml, line 11: data.buffer_capacity must be >= 144 for a batch",
    ),
    "family": ('model = "jepa:base"\n', "worldflux.toml, line 1: model: unknown family 'jepa'"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_only_the_whole_run_shows_is_told_with_the_line_too(
    name: str, project: Callable[..., Path], refused: Callable[..., str]
) -> None:
    text, expected = FILES[name]
    project(text)
    assert re.search(expected, refused())


@pytest.mark.parametrize(
    "path", sorted((SAMPLES / "bad").glob("*.toml")), ids=lambda path: path.stem
)
def test_bad_samples_end_with_2_and_nothing_written(
    path: Path, folder: Path, jobs: list[Any], refused: Callable[..., str]
) -> None:
    if path.stem in ("00_good", "14_obs_shape_scalar", "26_empty_file", "31_alias_model"):
        assert main(["-c", str(path)]) == 0 and len(jobs) == 1
        return
    assert refused("-c", str(path)).startswith(f"{path}, line ")
    assert jobs == []


@pytest.mark.slow
def test_runs_in_output_dir_follow_one_another_and_resume(
    project: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = project(NOISE + "backend_profile = 'x'\n[cloud]\nspot = true\n")
    assert main([]) == 0
    out, err = capfd.readouterr()
    assert 'asks for [cloud], training.backend_profile = "x": ignored' in err
    assert "RANDOM DATA, as asked for; this run counts as contract_smoke" in out
    told = manifest(folder)
    assert (told["status"], told["global_step"], told["degraded_modes"]) == ("completed", 2, [])
    assert (told["data_mode"], told["run_classification"]) == ("random", "contract_smoke")
    assert told["config_origins"]["training.batch_size"] == "worldflux.toml, line 7"
    assert main(["--resume-from", "outputs/checkpoint_final.pt", "--steps", "3"]) == 0
    assert manifest(folder)["global_step"] == 3
    capfd.readouterr()
    (folder / "worldflux.toml").write_text(NOISE.replace("total_steps = 2", "total_steps = 9"))
    assert main(["--resume-from", "outputs"]) == 0
    assert "training.total_steps stays 3 in a run that continues" in capfd.readouterr().err
    (folder / "worldflux.toml").write_text(NOISE)
    assert main(["--resume-from", "outputs", "--output-dir", "x"]) == 2
    assert "resumed in its own folder" in capfd.readouterr().err
    for name in ("outputs", "outputs/checkpoint_best.pt", "outputs/checkpoints/latest"):
        assert checkpoint_at(name).name == "step_000000003"
    with pytest.raises(CheckpointError, match=r"no checkpoint .step_000000009.; it has best"):
        checkpoint_at("outputs/checkpoint_9.pt")
    assert main([]) == 0
    (before,) = (folder / "outputs" / "previous").iterdir()
    assert (before / "run_manifest.json").is_file() and (before / ".hydra").is_dir()
    assert manifest(folder)["global_step"] == 2


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=almost_files())
def test_any_file_runs_or_is_one_line(
    text: str, folder: Path, jobs: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        (Path(name) / "worldflux.toml").write_text(text, encoding="utf-8")
        words = ["-c", f"{name}/worldflux.toml", "--output-dir", f"{name}/outputs"]
        code, ran = main(words), len(jobs)
        err = capfd.readouterr().err
        if code == 0:
            assert ran == 1
        else:
            assert (code, ran) == (2, 0)
            assert err.splitlines()[-1].startswith("worldflux train: error: ")
            assert "Traceback" not in err
            assert [path.name for path in Path(name).iterdir()] == ["worldflux.toml"]
        jobs.clear()
