"""Imagination beside reality: on the right step, of the right thing, in a file."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.test_end_to_end_run import settings
from worldflux.cli import imagine as command
from worldflux.config.data import DataConfig
from worldflux.config.env import EnvConfig
from worldflux.core.state import ModelOutput, State
from worldflux.models.tdmpc2.config import TDMPC2Config
from worldflux.report.imagination import errors, imagine, play, real, returns_to_come
from worldflux.runner.run import run

LENGTH, DISCOUNT = 23, 0.9


class Counter(gym.Env):
    """Counts its steps; the reward is the count plus ten times the action. Ends after LENGTH."""

    observation_space = gym.spaces.Box(0, 100, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        obs = np.array([self.t], np.float32)
        return obs, float(self.t + 10 * action), self.t >= LENGTH, False, {}


gym.register("Counter-v0", Counter)


class Oracle:
    """Knows Counter: its state is [count, last action, reward of the policy's next action]."""

    obs_spaces = {"obs": None}  # noqa: RUF012

    def __init__(self, decoder: bool) -> None:
        self.decoder = decoder

    def supports(self, name):
        return self.decoder and name == "obs_decoder"

    def encode(self, obs):
        count = torch.as_tensor(obs["obs"])[:, 0]
        return State({"count": count, "action": policy(count - 1)})

    def transition(self, state, action):
        return State({"count": state.tensors["count"] + 1, "action": action[:, 1]})

    def rollout_reward(self, state, action, after):
        return state.tensors["count"] + 1 + 10 * action[:, 1]

    def decode(self, state):
        count, action = state.tensors["count"], state.tensors["action"]
        value = torch.tensor([float(value_at(int(c))) for c in count])
        if self.decoder:
            reward = torch.where(count > 0, count + 10 * action, 0.0)
            found = {"obs": count[:, None], "reward": reward[:, None], "value": value[:, None]}
        else:
            found = {"q_values": torch.stack([value - 1, value + 1])[..., None]}
        return ModelOutput(found, state)


def policy(count):
    return (count % 3 == 1).float() if isinstance(count, torch.Tensor) else float(count % 3 == 1)


def value_at(count):
    """By another road than the code: the sum written out."""
    steps = range(count, LENGTH)
    return sum(DISCOUNT ** (s - count) * (s + 1 + 10 * policy(s)) for s in steps)


class Player:
    """Acts by `policy`; keeps no memory."""

    def __init__(self, decoder):
        self.model = Oracle(decoder)

    def initial_carry(self, n):
        return {}

    def act(self, carry, row, explore):
        right = policy(row["obs"][0, 0])
        return carry, np.array([[1 - right, right]], np.float32), {}


@pytest.mark.parametrize("decoder", [True, False])
@pytest.mark.parametrize("horizon", [1, 5, 40])
def test_who_knows_the_world_imagines_what_happens(decoder, horizon):
    agent = Player(decoder)
    episode = play(agent, EnvConfig(id="Counter-v0"), seed=0, discount=DISCOUNT)
    assert len(episode) == LENGTH + 1 and not episode.truncated
    imagination = imagine(agent.model, episode, horizon, seed=0)
    assert imagination.starts.tolist() == list(range(0, LENGTH, horizon))
    latents = {"latent/count", "latent/action"}
    wanted = {"reward", "value", *({"obs"} if decoder else latents)}
    assert set(imagination.predicted) == wanted
    for name, predicted in imagination.predicted.items():
        truth = real(episode, imagination, name)
        inside = ~np.isnan(predicted)
        assert inside[:, 1:].sum() == LENGTH, name
        np.testing.assert_allclose(predicted[inside], truth[inside], rtol=1e-5)
        if name not in latents:
            off, guess = errors(episode, imagination)[name]
            assert off < 1e-4 < guess


def test_the_return_to_come_is_discounted():
    np.testing.assert_allclose(returns_to_come(np.array([5.0, 1, 2, 4]), 0.5), [3, 4, 4, 0])


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pendulum")
    config = settings("Pendulum-v1", total_steps=2, eval_episodes=1, optimizer="adam", agc=0.0)
    config.model = TDMPC2Config.from_size("ci", num_samples=32, num_elites=4, num_pi_trajs=4)
    config.env = EnvConfig(id="Pendulum-v1", time_limit=40)
    config.data = DataConfig(prefill_steps=60, collect_steps_per_update=1)
    run(config, folder)
    return folder


@pytest.mark.slow
def test_a_family_without_decoder_shows_reward_and_value(pendulum, tmp_path, capsys):
    assert command.main([str(pendulum), "--horizon", "7", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "40 steps, return -" in out and "cut off" in out
    assert "reward: off by" in out and "value: off by" in out and "obs:" not in out
    image = Image.open(tmp_path / "imagination.png")
    assert image.width == 1300 and len(set(image.convert("L").tobytes())) > 20
    assert [path.name for path in tmp_path.iterdir()] == ["imagination.png"]


class Screen(Counter):
    """The same, seen as a picture that grows brighter."""

    observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        return self._picture(), {}

    def step(self, action):
        return self._picture(), *super().step(action)[1:]

    def _picture(self):
        return np.full((64, 64, 3), 10 * self.t, np.uint8)


gym.register("Screen-v0", Screen)


@pytest.mark.slow
def test_pictures_give_a_film_of_reality_above_imagination(tmp_path, monkeypatch, capsys):
    run(settings("Screen-v0", total_steps=1, eval_episodes=1), tmp_path / "outputs")
    (tmp_path / "worldflux.toml").write_text(
        'model = "dreamer:ci"\n[inference]\nhorizon = 6\ncheckpoint = "outputs"\n'
    )
    monkeypatch.chdir(tmp_path)
    assert command.main(["--episodes", "2"]) == 0
    assert "over 6 imagined steps" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "outputs" / "report").glob("imagination*"))
    assert names == [f"imagination_{n}.{kind}" for n in (0, 1) for kind in ("gif", "png")]
    film = Image.open(tmp_path / "outputs" / "report" / "imagination_0.gif")
    assert film.n_frames == LENGTH + 1
    brightness = []
    for t in range(film.n_frames):
        film.seek(t)
        frame = np.asarray(film.convert("RGB")).astype(int)
        brightness.append(frame[40, frame.shape[1] // 2, 0])
        red, green, _ = frame[frame.shape[0] - 1, frame.shape[1] // 2]
        assert (green > red) == (t % 6 == 0), "the border tells what is imagined"
    # The environment returns the picture of before its count goes up.
    assert np.abs(np.diff(brightness[1:]) - 10).max() <= 8 and brightness[-1] > 200


def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main([]) == 2
    assert "worldflux.toml" in capsys.readouterr().err
    assert command.main(["nowhere"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "nowhere" in err
