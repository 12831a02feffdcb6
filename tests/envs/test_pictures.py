"""What is a picture: every form of one reaches the agent as the same bytes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from tests.envs.counting import Showing
from worldflux.config.env import EnvConfig
from worldflux.data.buffer import ReplayBuffer
from worldflux.envs.make import make_envs
from worldflux.envs.spaces import ImageFormat, ObservationEncoder
from worldflux.errors import ConfigurationError, TrainingError

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
STACK = RNG.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
PLANES = RNG.integers(0, 2, (16, 16, 4), dtype=np.uint8)


def box(like: np.ndarray, low: float, high: float, dtype: Any = None) -> spaces.Box:
    return spaces.Box(low, high, like.shape, dtype or like.dtype.type)


def encoded(space: spaces.Box, value: Any, **image: Any) -> np.ndarray:
    encoder = ObservationEncoder(space, ImageFormat(**image))
    assert encoder.spaces["obs"].image and not encoder.large
    return encoder(value)["obs"]


FORMS = {
    "uint8": (box(BYTES, 0, 255), BYTES),
    "int32": (box(BYTES, 0, 255, np.int32), BYTES.astype(np.int32)),
    "unit": (box(BYTES, 0, 1, np.float32), (BYTES / 255).astype(np.float32)),
    "symmetric": (box(BYTES, -1, 1, np.float32), (BYTES / 127.5 - 1).astype(np.float32)),
    "depth": (box(BYTES, 0, 10, np.float64), BYTES / 25.5),
    "shifted": (box(BYTES, -128, 127, np.int8), (BYTES.astype(int) - 128).astype(np.int8)),
    "first": (spaces.Box(0, 255, (3, 64, 64), np.uint8), BYTES.transpose(2, 0, 1)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_picture_is_the_same_bytes(form: str) -> None:
    space, value = FORMS[form]
    np.testing.assert_array_equal(encoded(space, value), BYTES.transpose(2, 0, 1))


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_])
def test_planes_of_zeros_and_ones_span_the_whole_scale(dtype: Any) -> None:
    seen = encoded(box(PLANES, 0, 1, dtype), PLANES.astype(dtype))
    np.testing.assert_array_equal(seen, PLANES.transpose(2, 0, 1) * 255)


@pytest.mark.parametrize("image", [{}, {"grayscale": True}, {"size": (32, 32)}])
def test_frames_in_front_are_stacked_along_the_channels(image: dict[str, Any]) -> None:
    one = [encoded(box(BYTES, 0, 255), frame, **image) for frame in STACK]
    seen = encoded(box(STACK, 0, 255), STACK, **image)
    np.testing.assert_array_equal(seen, np.concatenate(one))
    first = np.ascontiguousarray(STACK.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(encoded(box(first, 0, 255), first, **image), seen)


@pytest.mark.parametrize(
    ("space", "large"),
    [
        (spaces.Box(-np.inf, np.inf, (64, 64, 3), np.float32), "12,288 numbers"),
        (spaces.Box(0, np.finfo(np.float32).max, (64, 64, 3), np.float32), "not finite"),
        (spaces.Box(0, 255, (21, 79), np.uint8), "1,659 numbers"),  # NetHack's characters
        (spaces.Box(0, 5976, (21, 79), np.int16), "1,659 numbers"),
        (spaces.Box(0, 9, (40, 40), np.int64), "1,600 numbers"),
        (spaces.Box(0, 255, (5, 5, 3), np.uint8), None),
        (spaces.Box(-np.inf, np.inf, (2000,), np.float32), None),
    ],
)
def test_what_is_no_picture_is_a_vector_and_a_large_one_is_told(
    space: spaces.Box, large: str | None
) -> None:
    encoder = ObservationEncoder(space, ImageFormat())
    assert encoder.spaces["obs"].shape == (int(np.prod(space.shape)),)
    assert (large in encoder.large[0]) if large else encoder.large == []


@pytest.mark.parametrize("value", [1.5, 100.0])
def test_a_picture_beyond_its_bounds_is_refused(value: float) -> None:
    wrong = np.full((64, 64, 3), value, np.float32)
    kwargs = {"observation_space": box(wrong, -1, 1), "observation": wrong}
    config = EnvConfig(id="tests.envs.counting:Showing-v0", kwargs=kwargs)
    envs = make_envs(config)
    try:
        if value < 3:  # as far as interpolation goes
            envs.reset()
        else:
            with pytest.raises(TrainingError, match=r"100\.0 to 100\.0, expected -1 to 1"):
                envs.reset()
    finally:
        envs.close()


def test_an_empty_array_is_left_out() -> None:
    space = spaces.Dict(x=spaces.Box(-1, 1, (3,)), none=spaces.Box(-1, 1, (0,)))
    encoder = ObservationEncoder(space, ImageFormat())
    assert list(encoder.spaces) == ["x"] and encoder.left_out == ["none (empty Box)"]


@pytest.mark.parametrize("stored", [np.uint8, np.float32])
@pytest.mark.parametrize("kind", ["uint8", "int64", "float32", "bool"])
def test_recorded_pictures_are_on_the_same_scale(stored: Any, kind: str) -> None:
    pictures = RNG.integers(0, 256, (5, 3, 64, 64))
    if kind == "bool":
        pictures = pictures // 128 * 255
    value = pictures > 0 if kind == "bool" else pictures.astype(kind)
    if kind == "float32":
        value = value / np.float32(255)
    buffer = ReplayBuffer(10, (3, 64, 64), 2, stored)
    buffer.add_episode(value, np.zeros((5, 2)), np.zeros(5))
    kept = buffer.episodes[0].obs
    assert kept.dtype == stored
    np.testing.assert_allclose(kept, pictures / (1 if stored is np.uint8 else 255), atol=1e-6)


def test_recorded_pictures_beyond_bytes_are_refused() -> None:
    buffer = ReplayBuffer(10, (3, 64, 64), 2, np.uint8)
    with pytest.raises(ConfigurationError, match=r"0\.\.255, got 0 to 300"):
        wrong = np.arange(5).reshape(5, 1, 1, 1) * np.full((1, 3, 64, 64), 75)
        buffer.add_episode(wrong, np.zeros((5, 2)), np.zeros(5))


def notes(observation_space: spaces.Space[Any], action_space: Any = None, **fields: Any) -> Any:
    observation = observation_space.sample()
    kwargs = {
        "observation_space": observation_space,
        "observation": observation,
        "action_space": action_space,
    }
    config = EnvConfig(id="tests.envs.counting:Showing-v0", kwargs=kwargs, **fields)
    envs = make_envs(config)
    envs.close()
    return envs.notes


def test_the_summary_says_what_is_seen_and_done() -> None:
    space = spaces.Dict(rgb=FORMS["uint8"][0], pos=spaces.Box(-1, 1, (3,)), at=spaces.Discrete(4))
    half = spaces.Box(np.float32([0, -1]), np.float32([np.inf, 1]))
    seen = notes(space, half)
    assert seen.summary == (
        "observes rgb (picture 3x64x64), pos (vector of 3), at (1 of 4 classes); acts with action "
        "(2 values within [-1, 2], not bounded on both sides: 1 of the agent is 1 there)"
    )
    assert seen.doubts == ()
    assert "picture 12x64x64" in notes(FORMS["uint8"][0], frame_stack=4).summary
    wide = notes(spaces.Box(-np.inf, np.inf, (64, 64, 3), np.float32))
    assert "12,288 numbers, for an MLP" in wide.doubts[0]


@pytest.mark.parametrize(
    ("fields", "idle"),
    [
        ({"frame_stack": 4}, "env.frame_stack=4"),
        ({"grayscale": True}, "env.grayscale=true"),
        ({"image_size": (32, 32)}, "env.image_size=[32, 32]"),
    ],
)
def test_settings_of_pictures_are_idle_without_one(fields: dict[str, Any], idle: str) -> None:
    assert notes(spaces.Box(-1, 1, (3,)), **fields).idle == (idle,)
    assert notes(FORMS["uint8"][0], **fields).idle == ()


class Frames(Showing):
    """Pictures; keeps the actions it got. start: of its action space."""

    def __init__(self, pictures: bool = True, start: int = 0, discrete: bool = True) -> None:
        space = FORMS["uint8"][0] if pictures else spaces.Box(-1, 1, (3,))
        action = spaces.Discrete(3, start=start) if discrete else spaces.Box(-1, 1, (1,))
        super().__init__(space, space.sample(), action)
        self.all: list[Any] = []

    def step(self, action: Any) -> Any:
        self.all.append(action)
        return super().step(action)


gym.register("Frames-v0", entry_point=Frames, disable_env_checker=True)


def test_idle_frames_take_the_first_action() -> None:
    config = EnvConfig(id="Frames-v0", kwargs={"start": 1}, noop_max=9)
    envs = make_envs(config, seed=1)
    envs.reset()
    taken = envs._envs.envs[0].unwrapped.all  # type: ignore[union-attr]
    envs.close()
    assert taken and set(taken) == {1}


@pytest.mark.parametrize(
    ("fields", "kwargs"),
    [
        ({"noop_max": 3}, {"pictures": False}),
        ({"noop_max": 3}, {"discrete": False}),
        ({"frame_pool": 2, "action_repeat": 2}, {"pictures": False}),
    ],
)
def test_what_is_for_frames_is_refused_elsewhere(
    fields: dict[str, Any], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match=rf"env\.{next(iter(fields))}="):
        make_envs(EnvConfig(id="Frames-v0", kwargs=kwargs, **fields))
