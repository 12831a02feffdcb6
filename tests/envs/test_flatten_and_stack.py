"""Vectors joined into one, pictures stacked over time."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces as gs

from worldflux.config.env import EnvConfig
from worldflux.envs.make import make_envs
from worldflux.errors import ConfigurationError

SHOWING = "tests.envs.counting:Showing-v0"
COUNTING = "tests.envs.counting:Counting-v0"
STAY = np.eye(3, dtype=np.float32)[:1]


def test_flatten_joins_in_the_environments_order() -> None:
    numbers = gs.Box(-9, 9, (2, 2))
    space = gs.Dict([("z", numbers), ("a", gs.Box(-9, 9, ())), ("m", gs.Box(-9, 9, (1,)))])
    shown = {"z": np.arange(4.0).reshape(2, 2), "a": 4.0, "m": np.array([5.0])}
    kwargs = {"observation_space": space, "observation": shown}
    envs = make_envs(EnvConfig(id=SHOWING, kwargs=kwargs, flatten=True))
    assert {key: s.shape for key, s in envs.obs_spaces.items()} == {"obs": (6,)}
    np.testing.assert_array_equal(envs.reset()["obs"], [[0, 1, 2, 3, 4, 5]])
    envs.close()


@pytest.mark.parametrize(
    ("space", "shown"),
    [
        (gs.Dict(n=gs.Discrete(3)), {"n": 1}),
        (gs.Dict(eye=gs.Box(0, 255, (32, 32, 3), np.uint8)), {"eye": np.zeros((32, 32, 3))}),
    ],
)
def test_what_is_no_vector_cannot_be_flattened(space: gs.Dict, shown: dict) -> None:
    kwargs = {"observation_space": space, "observation": shown}
    with pytest.raises(ConfigurationError, match=f"env.flatten=true.*{next(iter(shown))!r}"):
        make_envs(EnvConfig(id=SHOWING, kwargs=kwargs, flatten=True))


def test_stacked_pictures_are_the_newest_oldest_first() -> None:
    config = EnvConfig(
        id=COUNTING, kwargs={"length": 4}, obs="pixels", frame_stack=3, image_size=(20, 30)
    )
    envs = make_envs(config)
    assert envs.obs_spaces["obs"].shape == (9, 20, 30)
    rows = [envs.reset(), *[envs.step(STAY) for _ in range(5)]]
    shown = [row["obs"][0, ::3, 0, 0].tolist() for row in rows]
    # Counting's frames show the step of the episode, whose fifth row begins the next one.
    assert shown == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [0, 0, 0]]
    assert rows[5]["is_first"][0]
    again = make_envs(config)
    envs.step(STAY)
    assert again.load_state_dict(envs.state_dict()).all()
    np.testing.assert_array_equal(again.step(STAY)["obs"], envs.step(STAY)["obs"])
    envs.close()
    again.close()


def test_a_repeat_draws_only_its_last_frame() -> None:
    config = EnvConfig(id=COUNTING, kwargs={"length": 9}, obs="pixels", action_repeat=3)
    envs = make_envs(config)
    envs.reset()
    rows = [envs.step(STAY) for _ in range(3)]
    envs.close()
    assert [int(row["obs"][0, 0, 0, 0]) for row in rows] == [3, 6, 9]
    assert [row["reward"][0] for row in rows] == [6, 15, 24]


def test_gray_pictures_are_stacked_too() -> None:
    config = EnvConfig(id=COUNTING, obs="pixels", grayscale=True, frame_stack=2)
    envs = make_envs(config)
    assert envs.reset()["obs"].shape == (1, 2, 40, 60)
    envs.close()


def test_vectors_are_not_stacked() -> None:
    envs = make_envs(EnvConfig(id=COUNTING, frame_stack=3))
    assert envs.reset()["obs"].shape == (1, 3)
    envs.close()
    with pytest.raises(ConfigurationError, match="frame_stack must be"):
        EnvConfig(frame_stack=0)
