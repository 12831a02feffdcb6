"""dataset.py and local_dashboard.py beside a worldflux.toml, in the style of older projects too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.project.conftest import manifest
from worldflux.cli.train import main

OLD = """\
environment = "mujoco"
model = "dreamer:ci"
[architecture]
obs_shape = [39]
action_dim = 6
[training]
total_steps = 3
batch_size = 2
sequence_length = 8
[data]
source = "gym"
gym_env = "NoLongerThere-v0"
num_episodes = 2
episode_length = 30
"""
# Fills a buffer with episodes of its own, as older projects do.
DATASET = """\
import numpy as np

from worldflux.config_loader import load_config
from worldflux.training import ReplayBuffer


def build_training_data(model_config, frame_callback=None, phase_callback=None):
    config = load_config("worldflux.toml")
    length, rng = config.data.episode_length, np.random.default_rng(0)
    buffer = ReplayBuffer(500, model_config.obs_shape, model_config.action_dim)
    phase_callback("collecting", "own episodes")
    for episode in range(config.data.num_episodes):
        obs = rng.normal(size=(length, *model_config.obs_shape)).astype("float32")
        actions = rng.uniform(-1, 1, (length, model_config.action_dim)).astype("float32")
        buffer.add_episode(obs, actions, np.ones(length, "float32"))
        if frame_callback is not None:
            frame_callback(np.zeros((8, 8, 3), "uint8"), episode, 0, 1.0, False)
    return buffer, lambda: open("cleaned", "w").close(), "offline"
"""


def test_data_of_an_older_project_is_trained_on(project: Callable[..., Path]) -> None:
    folder = project(OLD, dataset_py=DATASET)
    assert main([]) == 0
    told = manifest(folder)
    assert (told["data_mode"], told["degraded_modes"]) == ("offline", [])
    assert told["run_classification"] == "meaningful_local_training"
    assert told["data_provenance"]["file"] == "dataset.py"
    assert told["model_config"]["obs_shape"] == [39] and told["global_step"] == 3
    assert (folder / "cleaned").exists()


FAILING = {
    "raises": (
        "def build_training_data(model_config, frame_callback=None, phase_callback=None):\n"
        "    return 1 / 0\n",
        "dataset.py, line 2: ZeroDivisionError: division by zero",
        ["scaffold_runtime_fallback", "random_replay_fallback"],
    ),
    "cannot be imported": (
        "import no_such_package\n",
        "dataset.py, line 1: ModuleNotFoundError: No module named 'no_such_package'",
        ["scaffold_runtime_fallback", "random_replay_fallback"],
    ),
    "says that it is noise": (
        DATASET.replace('"offline"', '"random"'),
        "dataset.py could not collect in NoLongerThere-v0: its data is random noise",
        ["env_collection_unavailable", "random_replay_fallback"],
    ),
    "says that there is no environment": (
        DATASET.replace('"collecting", "own episodes"', '"unavailable", "no licence"'),
        "dataset.py could not collect in NoLongerThere-v0: no licence",
        ["env_collection_unavailable", "random_replay_fallback"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILING)
def test_a_failing_dataset_degrades_by_name_or_is_an_error(
    name: str, project: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    source, line, modes = FAILING[name]
    # The environment is one that can be evaluated in, or fails too.
    toml = OLD if "NoLonger" in line else OLD.replace("NoLongerThere-v0", "Pendulum-v1")
    toml = toml.replace("obs_shape = [39]\naction_dim = 6", "obs_shape = 3\naction_dim = 1")
    folder = project(toml, dataset_py=source)
    assert main(["--strict"]) == 2
    assert f"worldflux train: error: {line}" in capfd.readouterr().err
    assert not (folder / "outputs").exists()
    assert main(["--override", "training.eval_episodes=1"]) == 0
    told = manifest(folder)
    assert told["degraded_modes"] == modes
    assert told["run_classification"] == "contract_smoke"
    out, err = capfd.readouterr()
    assert line in out + err and f"DEGRADED: {', '.join(modes)}" in out


def test_a_dataset_that_returns_nonsense_is_named(
    project: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    build = "def build_training_data(model_config, frame_callback=None, phase_callback=None):\n"
    for body, line in {
        f"{build}    return 3\n": "must return (data, cleanup, mode)",
        f"{build}    return [], None, 'onlin'\n": "must say online, offline, random as mode",
        "x = 1\n": "dataset.py has no function build_training_data",
        "def f(:\n": "dataset.py, line 1: SyntaxError",
    }.items():
        project(OLD, dataset_py=body)
        assert main(["--strict"]) == 2
        assert line in capfd.readouterr().err


AS_CONFIGURED = """\
import gymnasium
from worldflux.project import AS_CONFIGURED

if "Own-v0" not in gymnasium.registry:
    gymnasium.register("Own-v0", "tests.envs.counting:Counting", kwargs={"length": 6})


def build_training_data(model_config, frame_callback=None, phase_callback=None):
    return AS_CONFIGURED, lambda: None, "online"
"""


def test_as_configured_collects_in_an_environment_of_the_project(
    project: Callable[..., Path],
) -> None:
    toml = OLD.replace("obs_shape = [39]\naction_dim = 6", "obs_shape = 3\naction_dim = 3")
    toml = toml.replace("NoLongerThere-v0", "Own-v0")
    toml += "[online_collection]\nenabled = true\nwarmup_transitions = 20\n"
    toml += "collect_steps_per_update = 4\n"
    folder = project(toml, dataset_py=AS_CONFIGURED)
    assert main(["--strict", "--override", "training.eval_episodes=2"]) == 0
    told = manifest(folder)
    assert (told["data_mode"], told["degraded_modes"]) == ("online", [])
    assert told["env_steps"] >= 28 and "data_provenance" not in told
    assert told["run_classification"] == "meaningful_local_training"
    assert (told["scores"]["last"], told["env"]["id"]) == (21.0, "Own-v0")


# The classes that an older project's local_dashboard.py has, with what they were called with.
DASHBOARD = """\
import json

from worldflux.training.callbacks import Callback

CALLS = []


def note(name, *args, **kwargs):
    CALLS.append(name)
    with open("calls.json", "w") as file:
        json.dump(CALLS, file)


class MetricBuffer:
    def __init__(self, max_points=2000):
        note(f"points {max_points}")

    def __getattr__(self, name):
        if not name.startswith(("set_", "append")):
            raise AttributeError(name)
        return lambda *args, **kwargs: note(f"metrics.{name}")


class GameplayBuffer:
    def __init__(self, max_frames=512, fps=8):
        note(f"frames {max_frames} {fps}")

    def append_frame(self, frame, *, episode, episode_step, reward, done):
        note("frame")

    def set_phase(self, phase, detail=""):
        note(f"gameplay.{phase}")

    def set_status(self, status):
        note(f"gameplay status {status}")


class MetricsDashboardServer:
    url = "http://127.0.0.1:1/"

    def __init__(self, *, metric_buffer, gameplay_buffer, host, start_port, dashboard_root,
                 refresh_ms, max_port_tries=100):
        assert (dashboard_root / "index.html").is_file()
        note(f"server {host}:{start_port} {refresh_ms}")

    def start(self):
        note("start")

    def open_browser(self):
        note("browser")

    def stop(self):
        note("stop")


class DashboardCallback(Callback):
    def __init__(self, buffer, jsonl_path):
        self.path = jsonl_path

    def on_step_end(self, trainer):
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": trainer.state.global_step}) + "\\n")
"""


def test_an_older_projects_own_dashboard_is_used(project: Callable[..., Path]) -> None:
    toml = (
        OLD + "[visualization]\nenabled = true\nport = 8799\n[gameplay]\nenabled = true\nfps = 5\n"
    )
    late = DATASET.replace(
        "return buffer", "buffer = Later(buffer, frame_callback)\n    return buffer"
    )
    late += (
        "\n\nclass Later:\n"
        "    data_mode = 'offline'\n"
        "    def __init__(self, buffer, frame): self.buffer, self.frame = buffer, frame\n"
        "    def sample(self, **wanted):\n"
        "        self.frame(np.zeros((8, 8, 3), 'uint8'), 1, 2, 0.5, True)\n"
        "        return self.buffer.sample(**wanted)\n"
    )
    folder = project(
        toml, dataset_py=late, local_dashboard_py=DASHBOARD, dashboard__index_html="<html>"
    )
    assert main([]) == 0
    calls = json.loads((folder / "calls.json").read_text())
    assert calls[:2] == ["points 2000", "frames 512 5"]
    assert "server 127.0.0.1:8799 1000" in calls and "start" in calls and calls[-1] == "stop"
    assert calls.count("frame") == 3, "one for each update"
    own = (folder / "outputs" / "dashboard_metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in own] == [1, 2, 3]
    records = (folder / "outputs" / "metrics.jsonl").read_text().splitlines()
    assert all("metrics" in json.loads(line) for line in records)
    assert manifest(folder)["degraded_modes"] == []


def test_a_broken_dashboard_file_is_named(project: Callable[..., Path]) -> None:
    toml = OLD + "[visualization]\nenabled = true\nport = 8798\n"
    files = {"local_dashboard_py": "import no_such_package\n", "dashboard__index_html": "<html>"}
    folder = project(toml, dataset_py=DATASET, **files)
    assert main([]) == 0
    told = manifest(folder)
    assert told["degraded_modes"] == ["dashboard_unavailable"]
    assert told["run_classification"] == "meaningful_local_training"
