"""Real runs, small: real environments, the real agent at size ci, the real command's pieces."""

import io
import json
import os
import signal

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.training.test_resume_exact import assert_equal, content
from tests.training.test_trainer import pointer
from worldflux.cli import evaluate as eval_command
from worldflux.config.data import DataConfig
from worldflux.config.env import EnvConfig
from worldflux.config.loggers import LoggerConfig
from worldflux.config.run import RunConfig
from worldflux.config.training import TrainingConfig
from worldflux.models.dreamerv3.agent import DreamerV3Agent
from worldflux.models.dreamerv3.config import DreamerV3Config
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.metrics import read_metrics
from worldflux.runner.run import run


class Cue(gym.Env):
    """The observation tells which of two actions is rewarded; ten steps. Random play: 5 of 10."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._cue(), {}

    def step(self, action):
        reward = float(action == self.side)
        self.t += 1
        return self._cue(), reward, False, self.t >= 10, {}

    def render(self):
        return np.full((500, 250, 3), 20 * self.t, np.uint8)

    def _cue(self):
        self.side = int(self.np_random.integers(2))
        return np.eye(2, dtype=np.float32)[self.side]


gym.register("Cue-v0", Cue)


def settings(env_id="CartPole-v1", resume=None, num_envs=1, **training) -> RunConfig:
    values = dict(
        total_steps=14,
        batch_size=3,
        sequence_length=8,
        optimizer="laprop",
        learning_rate=1e-3,
        grad_clip=0.0,
        agc=0.3,
        log_interval=4,
        eval_interval=6,
        eval_episodes=3,
        save_interval=5,
        device="cpu",
        seed=3,
        num_envs=num_envs,
    )
    return RunConfig(
        model=DreamerV3Config.from_size("ci", imagination_horizon=5, actor_critic=True),
        env=EnvConfig(id=env_id),
        data=DataConfig(prefill_steps=60, collect_steps_per_update=2.5),
        training=TrainingConfig(**{**values, **training}),
        logger=LoggerConfig(tensorboard=False),
        resume=resume,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return folder, run(settings(), folder)


def test_a_run_leaves_all_that_it_is_in_its_folder(finished):
    folder, score = finished
    records = read_metrics(folder)
    evaluations = [r["metrics"]["eval/return"] for r in records if "eval/return" in r["metrics"]]
    assert len(evaluations) == 3 and score == evaluations[-1]
    names = {name for record in records for name in record["metrics"]}
    assert {"train/loss/dyn", "train/loss/rep", "train/loss/policy", "episode/return"} <= names
    assert {"episode/length", "eval/return", "fps/env", "fps/update"} <= names
    manifest = read_manifest(folder)
    assert manifest["status"] == "completed" and manifest["data_mode"] == "online"
    assert manifest["env"]["id"] == "CartPole-v1" and manifest["model_config"]["action_dim"] == 2
    model = manifest["config"]["model"]  # as it met the environment
    assert model == manifest["model_config"]
    assert (model["obs_shape"], model["action_dim"], model["action_type"]) == ([4], 2, "discrete")
    assert manifest["collect_steps_per_update"] == 2.5
    assert manifest["train_ratio"] == pytest.approx(3 * 8 / 2.5)
    assert manifest["scores"]["last"] == score
    assert manifest["env_steps"] == records[-1]["env_steps"] >= 60
    assert (folder / "report" / "learning_curve.png").stat().st_size > 5000
    episodes = [r for r in records if "episode/return" in r["metrics"]]
    ends = [r["env_steps"] for r in episodes]
    lengths = [r["metrics"]["episode/length"] for r in episodes]
    assert ends == np.cumsum(lengths).tolist()  # one environment: an episode ends where it ends


@pytest.mark.parametrize("num_envs", [1, 3])
def test_a_stopped_and_resumed_run_equals_one_never_stopped(
    tmp_path, monkeypatch, finished, num_envs
):
    whole = finished[0]
    if num_envs > 1:
        whole = tmp_path / "whole"
        run(settings(num_envs=num_envs), whole)
    update, done = DreamerV3Agent.update, []

    def interrupted(agent, batch, carry):
        done.append(1)
        if len(done) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(agent, batch, carry)

    folder = tmp_path / "stopped"
    monkeypatch.setattr(DreamerV3Agent, "update", interrupted)
    with pytest.raises(SystemExit):
        run(settings(num_envs=num_envs), folder)
    monkeypatch.undo()
    assert read_manifest(folder)["status"] == "stopped"
    run(settings(num_envs=num_envs, resume=str(folder)), tmp_path / "unused")
    assert not (tmp_path / "unused").exists()
    (a, a_metrics), (b, b_metrics) = content(folder), content(whole)
    assert a_metrics == b_metrics
    assert_equal(a.agent, b.agent)
    assert_equal(a.state["rng"], b.state["rng"])
    assert_equal(a.state["source"]["collector"], b.state["source"]["collector"])
    assert read_manifest(folder)["degraded_modes"] == []


def test_a_damaged_replay_costs_only_the_way_to_the_save_before(tmp_path, finished):
    folder = tmp_path / "run"
    run(settings(), folder)
    newest = max((folder / "replay").glob("steps-*.npz"))
    newest.write_bytes(newest.read_bytes()[:-100])
    run(settings(resume=str(folder)), folder)
    assert content(folder)[1] == content(finished[0])[1]
    assert_equal(content(folder)[0].agent, content(finished[0])[0].agent)
    assert read_manifest(folder)["damaged_checkpoints"] == ["step_000000014"]


def test_the_same_seed_gives_the_same_run(tmp_path, finished):
    score = run(settings(), tmp_path)
    assert score == finished[1]
    assert content(tmp_path)[1] == content(finished[0])[1]
    assert_equal(content(tmp_path)[0].agent, content(finished[0])[0].agent)


@pytest.mark.slow(20)
def test_the_agent_learns_what_the_cue_means(tmp_path):
    learned = settings(
        "Cue-v0",
        total_steps=260,
        batch_size=8,
        sequence_length=16,
        learning_rate=3e-3,
        eval_interval=20,
        eval_episodes=10,
        save_interval=1000,
    )
    learned.data = DataConfig(prefill_steps=200, collect_steps_per_update=4.0)
    score = run(learned, tmp_path)
    records = read_metrics(tmp_path)
    first = next(r["metrics"]["eval/return"] for r in records if "eval/return" in r["metrics"])
    assert first <= 7.5  # hardly better than chance, which is 5
    assert score >= 8.5


def test_eval_tells_the_mean_of_the_best_checkpoint(finished, capsys):
    folder, _ = finished
    assert eval_command.main([str(folder), "--episodes", "4", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["checkpoint"] == pointer(folder, "best")
    assert len(report["returns"]) == report["episodes"] == 4
    assert report["mean_return"] == pytest.approx(np.mean(report["returns"]))
    low, high = report["interval"]
    assert low <= report["mean_return"] <= high
    again = eval_command.main([str(folder), "--episodes", "4", "--json"])
    assert again == 0 and json.loads(capsys.readouterr().out) == report
    latest = folder / "checkpoints" / "step_000000014"
    assert eval_command.main([str(latest), "--episodes", "1", "--at-least", "1000"]) == 1
    assert "step_000000014" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["{}/nowhere"], "no run folder at"),
        (["{}/checkpoints"], "is not a run folder"),
        (
            ["{}", "--checkpoint", "step_7"],
            "has no checkpoint 'step_7'; it has best, latest, step_",
        ),
        (["{}", "--device", "tpu"], "device must be"),
    ],
)
def test_eval_tells_a_mistake_in_one_line(finished, capsys, arguments, text):
    words = [argument.format(finished[0]) for argument in arguments]
    assert eval_command.main(words) == 2
    told = capsys.readouterr().err
    assert text in told and told.count("\n") == 1


def test_eval_records_a_video(tmp_path, capsys):
    folder = tmp_path / "run"
    run(settings("Cue-v0", total_steps=2), folder)
    assert eval_command.main([str(folder), "--episodes", "1", "--video"]) == 0
    (path,) = (folder / "videos").iterdir()
    assert str(path) in capsys.readouterr().out
    video = Image.open(path)
    assert video.n_frames == 11 and video.size == (200, 400)  # scaled down from 250 x 500
    assert eval_command.main([str(folder), "--episodes", "1", "--video", "x.avi"]) == 2
    assert "expected a name ending in .gif or .webp" in capsys.readouterr().err


def test_a_pixel_run_shows_what_the_model_imagines(tmp_path):
    config = settings("Cue-v0", total_steps=3, eval_episodes=1)
    config.env = EnvConfig(id="Cue-v0", obs="pixels", image_size=(32, 32))
    config.logger = LoggerConfig(tensorboard=True)
    run(config, tmp_path)
    pictures = EventAccumulator(str(tmp_path / "pictures"))
    pictures.Reload()
    tags = set(pictures.Tags()["images"])
    assert "report/openloop/reward" in tags
    (tag,) = tags - {"report/openloop/reward"}
    assert tag.startswith("report/openloop")
    (shown,) = pictures.Images(tag)
    assert shown.step == read_manifest(tmp_path)["env_steps"]
    assert shown.height == 3 * 32  # true, model, error
    with Image.open(io.BytesIO(shown.encoded_image_string)) as gif:
        assert gif.format == "GIF"


def test_random_data_is_told_as_random(tmp_path):
    config = settings(total_steps=2)
    config.data = DataConfig(source="random")
    run(config, tmp_path)
    manifest = read_manifest(tmp_path)
    assert (manifest["data_mode"], manifest["degraded_modes"]) == ("random", [])
    assert manifest["run_classification"] == "contract_smoke"
    assert torch.isfinite(torch.tensor(manifest["scores"]["last"]))


class Forgetful(Cue):
    """Its observations depend on how many of it were ever made: its seed does not bring it back."""

    made = 0

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        Forgetful.made += 1
        self.shift = 0.01 * Forgetful.made

    def _cue(self):
        return super()._cue() * (1 - self.shift)


gym.register("Forgetful-v0", Forgetful)


def test_an_environment_that_cannot_be_replayed_is_named_and_begins_anew(
    tmp_path, monkeypatch, caplog
):
    update, done = DreamerV3Agent.update, []

    def interrupted(agent, batch, carry):
        done.append(1)
        if len(done) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(agent, batch, carry)

    monkeypatch.setattr(DreamerV3Agent, "update", interrupted)
    short = dict(total_steps=5, eval_episodes=1)
    with pytest.raises(SystemExit):
        run(settings("Forgetful-v0", **short), tmp_path)
    assert read_manifest(tmp_path)["degraded_modes"] == []
    run(settings("Forgetful-v0", resume=str(tmp_path), **short), tmp_path)
    manifest = read_manifest(tmp_path)
    assert manifest["degraded_modes"] == ["env_restore_reset"]
    assert manifest["run_classification"] == "contract_smoke"
    assert "did not come back to their stored observation and were reset" in caplog.text
