"""A family of another package, pip-installed, in every command that a family of ours has."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

pytestmark = pytest.mark.slow(30)  # an environment of its own, and what runs in it
PACKAGE = Path(__file__).parent / "package"
ROOT = Path(__file__).parents[2]

# One process for many commands: importing torch costs more than most of them.
SERVER = """
import contextlib, io, json, os, sys, traceback
from worldflux.cli.main import main as run
from worldflux.cli.verbs import main as verb
replies = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    folder, words = json.loads(line)
    os.chdir(folder)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if words[0] == "python":
                exec(words[1], {})
                code = 0
            else:
                code = (run if words[0] == "worldflux-run" else verb)(words[1:])
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
            code = -1
    replies.write(json.dumps([code, out.getvalue(), err.getvalue()]) + "\\n")
    replies.flush()
"""


def short(**changes: int) -> list[str]:
    """Overrides for a run of a second."""
    training = {"total_steps": 12, "eval_interval": 12, "save_interval": 6}
    training |= {"eval_episodes": 1, **changes}
    words = [f"training.{name}={value}" for name, value in training.items()]
    rest = ["data.prefill_steps=40", "env.time_limit=30"]
    return [*words, *rest, "logger=jsonl"]


@dataclass
class Done:
    code: int
    out: str
    err: str


class Shell:
    """Commands in an environment that has the package; paths are relative to `folder`."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.python, self.folder = python, folder
        self.environment = {**os.environ, "PYTHONPATH": ""}
        self.server = subprocess.Popen(
            [python, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=self.environment,
        )

    def __call__(self, *words: str, inside: str = ".", code: int | None = 0) -> Done:
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write(json.dumps([str(self.folder / inside), words]) + "\n")
        self.server.stdin.flush()
        done = Done(*json.loads(self.server.stdout.readline()))
        assert code is None or done.code == code, done
        return done

    def begin(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        """A process of Python of its own."""
        return subprocess.Popen(
            [self.python, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={**self.environment, **environment},
        )

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait()


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    home = tmp_path_factory.mktemp("environment")
    venv.create(home / "venv", with_pip=False)
    python = home / "venv" / "bin" / "python"
    (site,) = (home / "venv" / "lib").glob("python*/site-packages")
    # Everything else comes from the environment that runs the tests.
    outer = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    (site / "outer.pth").write_text("\n".join(outer) + "\n")
    shutil.copytree(PACKAGE, home / "package")  # building writes beside the sources
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", home / "package"], check=True)
    shell = Shell(python, tmp_path_factory.mktemp("work"))
    yield shell
    shell.close()


@pytest.fixture(scope="module")
def run(shell: Shell) -> str:
    """A finished run on CartPole."""
    steps = {"total_steps": 300, "eval_interval": 300, "save_interval": 300, "log_interval": 10}
    words = short(**steps, eval_episodes=3)
    shell("worldflux-run", "model=third", *words, "hydra.run.dir=cart")
    return "cart"


def manifest(shell: Shell, run: str) -> Any:
    return json.loads((shell.folder / run / "run_manifest.json").read_text())


def metrics(shell: Shell, run: str, name: str) -> list[float]:
    lines = (shell.folder / run / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line)["metrics"] for line in lines]
    return [record[name] for record in records if name in record]


def test_help_lists_it_without_importing_torch(shell: Shell) -> None:
    code = (
        "import sys; from worldflux.cli.main import main; main(['--help']); "
        "assert not {'torch', 'third'} & set(sys.modules)"
    )
    out, err = shell.begin("-c", code).communicate()
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "model dreamerv3, tdmpc2, third" in lines, err
    assert "third tiny, small" in lines and not err


@pytest.mark.parametrize(
    ("line", "word"),
    [("worldflux-run model=", "model=third"), ("worldflux-run model/size=ti", "model/size=tiny")],
)
def test_the_shell_completes_it(shell: Shell, line: str, word: str) -> None:
    environment = {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    process = shell.begin("-m", "worldflux.cli.main", "-sc", "query=bash", **environment)
    out, err = process.communicate()
    assert word in out.split(), err


def test_models_lists_its_sizes(shell: Shell) -> None:
    models = json.loads(shell("worldflux", "models", "-f", "json").out)["models"]
    rows = {row["id"]: row for row in models if row["id"].startswith("third")}
    assert list(rows) == ["third:tiny", "third:small"]
    assert 0 < rows["third:tiny"]["parameters"] < rows["third:small"]["parameters"]


def test_it_learns(shell: Shell, run: str) -> None:
    loss = metrics(shell, run, "train/loss/total")
    assert sum(loss[-3:]) < 0.5 * sum(loss[:3])
    assert manifest(shell, run)["model_config"]["model_type"] == "third"


def test_continuous_actions_with_a_size_of_its_own(shell: Shell) -> None:
    words = ["model=third", "model/size=tiny", "env=pendulum", *short()]
    shell("worldflux-run", *words, "hydra.run.dir=pendulum")
    config = manifest(shell, "pendulum")["model_config"]
    assert (config["model_name"], config["hidden_dim"], config["obs_shape"]) == ("tiny", 16, [3])


def test_its_yaml_holds_only_its_own_keys_and_mistakes_are_one_line(shell: Shell) -> None:
    for path in (PACKAGE / "third" / "conf" / "model").rglob("*.yaml"):
        assert not {"obs_shape", "action_dim", "learning_rate", "device"} & set(
            line.partition(":")[0] for line in path.read_text().splitlines()
        )
    words = ["worldflux-run", "model=third", "hydra.run.dir=wrong"]
    for override, complaint in [
        ("model.horizon=0", "model.horizon must be >= 1, got 0"),
        ("model.horzon=5", "model.horzon"),
        ("model/size=size12m", "third takes the sizes tiny, small; got 'size12m'"),
    ]:
        err = shell(*words, override, code=2).err
        assert complaint in err and len(err.splitlines()) == 1
    assert not (shell.folder / "wrong").exists()


def test_a_sweep_over_families_ends_in_one_table(shell: Shell) -> None:
    words = [*short(total_steps=2, batch_size=2, sequence_length=8), "model.hidden_dim=16"]
    out = shell("worldflux-run", "-m", "sweep=two", "model=dreamerv3,third", *words).out
    assert "model=third" in out and "model=dreamerv3" in out
    rows = (shell.folder / "outputs/multirun/two/sweep.csv").read_text().splitlines()
    assert len(rows) == 3


def test_a_killed_run_goes_on_exactly(shell: Shell) -> None:
    steps = short(total_steps=100, eval_interval=100, save_interval=20)
    words = ["model=third", "model/size=tiny", *steps]
    shell("worldflux-run", *words, "hydra.run.dir=whole")
    process = shell.begin("-m", "worldflux.cli.main", *words, "hydra.run.dir=killed")
    checkpoints = shell.folder / "killed" / "checkpoints"
    while not (checkpoints / "step_000000020").is_dir() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert manifest(shell, "killed")["status"] == "running"
    shell("worldflux-run", "resume=killed")
    for name in ("model", "optimizer"):
        whole, again = (
            load_file(shell.folder / folder / f"checkpoints/step_000000100/{name}.safetensors")
            for folder in ("whole", "killed")
        )
        assert whole.keys() == again.keys()
        assert all((whole[key] == again[key]).all() for key in whole)


def test_eval_imagine_and_report(shell: Shell, run: str) -> None:
    assert "return" in shell("worldflux", "eval", run, "--episodes", "2").out
    out = shell("worldflux", "imagine", run).out
    assert "obs: off by" in out and "reward: off by" in out
    assert (shell.folder / run / "report" / "imagination.png").is_file()
    assert "third small" in shell("worldflux", "report", run).out


def test_verify_checks_the_run(shell: Shell, run: str) -> None:
    words = ["verify", "--target", run, "--mode", "quick", "--output", "verified.json"]
    code = "import json, sys; from worldflux.cli.verbs import main; main(sys.argv[1:])"
    shell("python", f"import sys; sys.argv[1:] = {words}; {code}")
    result = json.loads((shell.folder / "verified.json").read_text())
    checks = {check["name"]: check["status"] for check in result["checks"]}
    assert checks.pop("better than random") in ("passed", "failed")  # 300 updates are few
    assert set(checks.values()) == {"passed"}


def test_a_project_of_its_own(shell: Shell) -> None:
    words = ["--model", "third", "--env-id", "CartPole-v1", "--yes", "--steps", "20"]
    shell("worldflux", "init", "project", *words)
    toml = shell.folder / "project" / "worldflux.toml"
    text = toml.read_text()
    assert 'model = "third:tiny"' in text and 'model_type = "third"' in text
    toml.write_text(text.replace("enabled = true\nhost", "enabled = false\nhost"))
    shell("worldflux", "train", inside="project")
    assert manifest(shell, "project/outputs")["global_step"] == 20
    shell("worldflux", "convert", "worldflux.toml", inside="project")
    words = ["--config-dir", "conf", "+experiment=project", "--cfg", "job"]
    assert "model_type: third" in shell("worldflux-run", *words, inside="project").out
    shell("worldflux", "convert", "outputs", "--to", "toml", "--out", "b.toml", inside="project")
    assert 'model = "third:tiny"' in (shell.folder / "project" / "b.toml").read_text()


def test_suites_have_a_stated_default_for_it(shell: Shell) -> None:
    words = ["worldflux-run", "model=third", "env=dmc", "env.id=walker-walk"]
    assert "flatten: true" in shell(*words, "--cfg", "job").out
    words = ["worldflux-run", "model=third", "env=pixels", "env.id=CartPole-v1"]
    assert "frame_stack: 1" in shell(*words, "--cfg", "job").out
    err = shell(*words, "hydra.run.dir=pixels", code=2).err
    assert "observations must be one vector of numbers, got obs (3, 64, 64)" in err
    assert len(err.splitlines()) == 1 and not (shell.folder / "pixels").exists()


def test_it_trains_on_a_task_of_the_control_suite(shell: Shell) -> None:
    pytest.importorskip("dm_control", reason="needs the extra dmc")
    words = ["model=third", "model/size=tiny", "env=dmc", "env.id=cartpole-swingup", *short()]
    shell("worldflux-run", *words, "hydra.run.dir=dmc")
    assert manifest(shell, "dmc")["model_config"]["obs_shape"] == [5]


PYTHON = """
import torch
from worldflux import create_world_model
from worldflux.models.world_model import WorldModel
model = create_world_model("third:small", obs_shape=(3,), action_dim=2, horizon=4)
assert type(model).__name__ == "Third" and model.config.horizon == 4
model.save_pretrained("saved")
again = create_world_model("saved")
obs, actions = torch.randn(5, 3), torch.randn(6, 5, 2)
one, two = (m.rollout(m.encode(obs), actions).to_tensor("obs") for m in (model, again))
assert one.shape == (7, 5, 3) and torch.equal(one, two)
assert type(model).from_pretrained("saved").config == model.config
"""


def test_python_makes_saves_and_loads_it(shell: Shell) -> None:
    shell("python", PYTHON)
    assert {"config.json", "model.safetensors"} <= set(os.listdir(shell.folder / "saved"))


def test_a_run_begins_with_the_weights_of_another(shell: Shell, run: str) -> None:
    shell(
        "worldflux-run",
        "model=third",
        f"init_from={run}",
        *short(log_interval=4),
        "hydra.run.dir=second",
    )
    first, second = (
        metrics(shell, run, "train/loss/total")[0],
        metrics(shell, "second", "train/loss/total")[0],
    )
    assert second < first
    err = shell("worldflux-run", f"init_from={run}", *short(), "hydra.run.dir=other", code=2).err
    assert "holds a 'third' model" in err
