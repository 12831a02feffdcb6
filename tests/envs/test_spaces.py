"""Observations and actions of every kind of space."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces as gs
from PIL import Image

import tests.envs.counting  # noqa: F401  (registers the environments)
from worldflux.config.env import EnvConfig
from worldflux.config.spaces import Space
from worldflux.envs.make import make_envs
from worldflux.envs.spaces import ActionDecoder, ImageFormat, ObservationEncoder
from worldflux.errors import ConfigurationError


def see(space: gs.Space[Any], observation: Any, **config: Any) -> tuple[dict[str, Space], Any]:
    """House spaces and first row of an environment that shows one observation."""
    envs = make_envs(
        EnvConfig(
            id="Showing-v0",
            kwargs={"observation_space": space, "observation": observation},
            **config,
        )
    )
    row = envs.reset()
    envs.close()
    return envs.obs_spaces, {key: row[key][0] for key in envs.obs_spaces}


def test_vectors_are_flat_float32() -> None:
    matrix = np.arange(6, dtype=np.float64).reshape(2, 3)
    found, row = see(gs.Box(-9, 9, (2, 3), np.float64), matrix)
    assert found == {"obs": Space((6,), "float32")}
    assert row["obs"].dtype == np.float32
    np.testing.assert_array_equal(row["obs"], [0, 1, 2, 3, 4, 5])
    found, row = see(gs.Box(-9, 9, (), np.float32), np.float32(4))
    assert found["obs"].shape == (1,) and row["obs"] == [4]


def test_small_symbol_grids_are_vectors_not_pictures() -> None:
    grid = np.arange(147, dtype=np.uint8).reshape(7, 7, 3)
    found, row = see(gs.Box(0, 255, (7, 7, 3), np.uint8), grid)
    assert found == {"obs": Space((147,), "float32")}
    np.testing.assert_array_equal(row["obs"], np.arange(147))


def test_discrete_observations_are_counted_from_zero() -> None:
    found, row = see(gs.Discrete(4, start=10), np.int64(12))
    assert found == {"obs": Space((), "int64", (4,))} and row["obs"] == 2
    found, row = see(gs.MultiDiscrete([2, 5], start=[0, -1]), np.array([1, 3]))
    assert found == {"obs": Space((2,), "int64", (2, 5))}
    np.testing.assert_array_equal(row["obs"], [1, 4])
    found, row = see(gs.MultiBinary(3), np.array([1, 0, 1], np.int8))
    assert found == {"obs": Space((3,), "int64", (2, 2, 2))}
    np.testing.assert_array_equal(row["obs"], [1, 0, 1])


def test_images_become_channels_first() -> None:
    picture = np.random.default_rng(0).integers(256, size=(32, 48, 3), dtype=np.uint8)
    box = gs.Box(0, 255, picture.shape, np.uint8)
    found, row = see(box, picture)
    assert found == {"obs": Space((3, 32, 48), "uint8")} and row["obs"].dtype == np.uint8
    np.testing.assert_array_equal(row["obs"], picture.transpose(2, 0, 1))
    stacked = picture.transpose(2, 0, 1)
    found, row = see(gs.Box(0, 255, stacked.shape, np.uint8), stacked)
    np.testing.assert_array_equal(row["obs"], stacked)
    found, row = see(gs.Box(0, 255, (32, 48), np.uint8), picture[:, :, 0])
    np.testing.assert_array_equal(row["obs"], picture[None, :, :, 0])
    found, row = see(gs.Box(0, 1, picture.shape, np.float32), picture / np.float32(255))
    assert found["obs"].dtype == "uint8"
    np.testing.assert_array_equal(row["obs"], picture.transpose(2, 0, 1))


def test_images_are_resized_and_grayed_as_pillow_does() -> None:
    picture = np.random.default_rng(0).integers(256, size=(60, 40, 3), dtype=np.uint8)
    box = gs.Box(0, 255, picture.shape, np.uint8)
    found, row = see(box, picture, image_size=(16, 32))
    assert found == {"obs": Space((3, 16, 32), "uint8")}
    small = Image.fromarray(picture).resize((32, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(row["obs"], np.asarray(small).transpose(2, 0, 1))
    found, row = see(box, picture, grayscale=True)
    luma = picture @ np.array([0.299, 0.587, 0.114])
    assert found == {"obs": Space((1, 60, 40), "uint8")}
    assert np.abs(row["obs"][0] - luma).max() < 1
    # A plane that is uniform stays so, whatever the number of channels.
    four = np.broadcast_to(np.array([10, 20, 30, 40], np.uint8), (64, 64, 4))
    _, row = see(gs.Box(0, 255, four.shape, np.uint8), four, image_size=(16, 16))
    np.testing.assert_array_equal(row["obs"][:, 3, 5], [10, 20, 30, 40])
    with pytest.raises(ConfigurationError, match=r"env\.grayscale.*4 channels"):
        see(gs.Box(0, 255, four.shape, np.uint8), four, grayscale=True)


def test_nested_dicts_and_tuples_are_named_by_their_path() -> None:
    space = gs.Dict(
        {
            "camera": gs.Box(0, 255, (16, 16, 3), np.uint8),
            "arm": gs.Dict({"left": gs.Box(-1, 1, (2,)), "grip": gs.Discrete(3)}),
            "pair": gs.Tuple((gs.Box(-1, 1, (1,)), gs.MultiBinary(2))),
        }
    )
    observation = {
        "camera": np.full((16, 16, 3), 7, np.uint8),
        "arm": {"left": np.array([0.1, 0.2], np.float32), "grip": 2},
        "pair": (np.array([0.5], np.float32), np.array([0, 1], np.int8)),
    }
    found, row = see(space, observation)
    assert {key: space.shape for key, space in found.items()} == {
        "camera": (3, 16, 16),
        "arm/left": (2,),
        "arm/grip": (),
        "pair/0": (1,),
        "pair/1": (2,),
    }
    assert row["arm/grip"] == 2 and row["camera"].max() == 7 and row["pair/0"] == [0.5]
    np.testing.assert_array_equal(row["pair/1"], [0, 1])


@pytest.mark.parametrize("key", ["reward", "action", "is_first", "is_last", "is_terminal"])
def test_keys_of_the_step_are_refused(key: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{key!r} is reserved"):
        ObservationEncoder(gs.Dict({key: gs.Box(0, 1, (2,))}), ImageFormat())


def test_what_cannot_be_learned_from_is_left_out_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    space = gs.Dict({"mission": gs.Text(9), "view": gs.Box(0, 1, (2,))})
    found, _ = see(space, {"mission": "get key", "view": np.zeros(2, np.float32)})
    assert list(found) == ["view"] and "not observed: mission (Text)" in caplog.text
    with pytest.raises(ConfigurationError, match="nothing to learn from"):
        ObservationEncoder(gs.Dict({"words": gs.Text(5)}), ImageFormat())
    with pytest.raises(ConfigurationError, match="'action' is a Text space"):
        ActionDecoder(gs.Text(5))


def flat(*parts: Any) -> np.ndarray:
    return np.concatenate([np.atleast_1d(np.asarray(p, np.float32)) for p in parts])


def test_continuous_actions_are_rescaled_to_finite_bounds() -> None:
    low, high = np.array([-2, 0, -np.inf], np.float32), np.array([2, 10, np.inf], np.float32)
    decode = ActionDecoder(gs.Box(low, high))
    assert decode.spaces == {"action": Space((3,), "float32")}
    np.testing.assert_allclose(decode(flat(1, -1, 0.5)), [2, 0, 0.5])
    np.testing.assert_allclose(decode(flat(0, 0, -1)), [0, 5, -1])
    np.testing.assert_allclose(decode(flat(3, -7, 3)), [2, 0, 3])  # what a policy overshoots
    assert decode(flat(0, 0, 0)).dtype == np.float32
    own = ActionDecoder(gs.Box(low, high), rescale=False)
    np.testing.assert_allclose(own(flat(1.5, 20, -4)), [1.5, 10, -4])
    whole = ActionDecoder(gs.Box(0, 10, (2, 1), np.int32))
    np.testing.assert_array_equal(whole(flat(0.5, -1)), [[8], [0]])


def test_discrete_actions_are_one_hot_with_their_offset() -> None:
    decode = ActionDecoder(gs.Discrete(3, start=-1))
    assert decode.flat_dim == 3 and decode(flat(0, 0, 1)) == 1 and decode(flat(1, 0, 0)) == -1
    multi = ActionDecoder(gs.MultiDiscrete([2, 3], start=[5, 0]))
    assert multi.spaces == {"action": Space((2,), "int64", (2, 3))}
    np.testing.assert_array_equal(multi(flat(0, 1, 0, 0, 1)), [6, 2])
    binary = ActionDecoder(gs.MultiBinary(2))
    np.testing.assert_array_equal(binary(flat(1, 0, 0, 1)), [0, 1])
    grid = ActionDecoder(gs.MultiDiscrete([[2, 2], [2, 2]]))
    assert grid(np.zeros(8, np.float32)).shape == (2, 2)


def test_dict_actions_are_sorted_by_name() -> None:
    space = gs.Dict({"turn": gs.Box(-3, 3, (1,)), "gear": gs.Discrete(2)})
    decode = ActionDecoder(space)
    assert list(decode.spaces) == ["gear", "turn"] and decode.flat_dim == 3
    action = decode(flat(0, 1, -1))
    assert action["gear"] == 1 and action["turn"] == [-3]
    assert space.contains(action)


def test_sampled_actions_reach_the_environment_through_the_vector() -> None:
    space = gs.Dict({"turn": gs.Box(-3, 3, (2,)), "gear": gs.MultiDiscrete([2, 4])})
    config = EnvConfig(
        id="Showing-v0",
        kwargs={
            "observation_space": gs.Discrete(2),
            "observation": 0,
            "action_space": space,
        },
    )
    envs = make_envs(config)
    envs.reset()
    envs.step(flat(1, 0, 0, 0, 1, 0, 0.5, -1)[None])
    taken = envs._envs.get_attr("taken")[0]
    assert space.contains(taken)
    np.testing.assert_array_equal(taken["gear"], [0, 2])
    np.testing.assert_allclose(taken["turn"], [1.5, -3])
    envs.close()


@pytest.mark.parametrize("env_id", ["Acrobot-v1", "Taxi-v4", "Blackjack-v1", "Pendulum-v1"])
def test_gymnasium_environments_run_as_they_come(env_id: str) -> None:
    envs = make_envs(EnvConfig(id=env_id), num_envs=2)
    row = envs.reset()
    for _ in range(5):
        row = envs.step(np.zeros((2, envs.action_dim), np.float32))
    for key, space in envs.obs_spaces.items():
        assert row[key].shape == (2, *space.shape) and row[key].dtype == space.dtype
        if space.discrete:
            assert (row[key] >= 0).all() and (row[key].reshape(2, -1) < space.classes).all()
    envs.close()
    assert gym.spec(env_id) is not None
