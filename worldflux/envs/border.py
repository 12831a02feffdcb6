"""Between an environment's own values and the step dict, for who steps the environment themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces as gs
from gymnasium.vector.utils import concatenate, create_empty_array

from worldflux.config.env import EnvConfig
from worldflux.config.spaces import Space
from worldflux.envs.gate import checker
from worldflux.envs.make import one_line_errors, prepared
from worldflux.envs.spaces import SINGLE_KEY, ActionDecoder, leaves
from worldflux.envs.suites import GymEnv
from worldflux.envs.tasks import OneOfTasks, TaskLayout, task_of
from worldflux.envs.wrappers import FlattenVectors, FrameStack, ResumableEpisodes
from worldflux.errors import ValidationError

Encode = Callable[[Any], dict[str, np.ndarray]]


class Border:
    """Observations as an environment gives them in, actions as it takes them out; of one
    environment, or of a batch as Gymnasium's vector environments have them.

    observation_space, action_space: of one environment. N rows, A flat action width.
    """

    def __init__(self, observation: gs.Space[Any], encode: Encode, decode: ActionDecoder) -> None:
        self.observation_space = observation
        self.action_space = decode.space
        self._encode, self._decode = encode, decode
        self._flatten: FlattenVectors | None = None
        self._place: OneOfTasks | None = None
        self._stack: Callable[[], FrameStack] | None = None
        self._stacks: list[FrameStack] = []

    @classmethod
    def of_env(cls, config: EnvConfig, layout: TaskLayout | None = None) -> Border:
        """That of a configured environment, which is made to look at. layout: the tasks that the
        agent knows, of which it is one. Errors as those of `make_envs`."""
        with one_line_errors(config):
            env = prepared(config, render=False)
            try:
                border = cls(env.env.observation_space, env.encode, env.decode)
                if layout is not None:
                    border._place = OneOfTasks(env, layout.index(task_of(config, env)), layout)
                border._flatten = _flatten_in(env)
            finally:
                ResumableEpisodes(env, 0, 0, config.id).close()
        spaces, frames = env.encode.spaces, config.frame_stack
        if frames > 1:
            border._stack = lambda: FrameStack(spaces, frames)
        return border

    @classmethod
    def of_model(cls, obs: Mapping[str, Space], actions: Mapping[str, Space]) -> Border:
        """That of a model by itself: observations as it takes them (pictures `[C, H, W]` uint8),
        continuous actions in [-1, 1]."""
        keys = list(obs)

        def encode(value: Any) -> dict[str, np.ndarray]:
            values = value if len(keys) > 1 else {keys[0]: value}
            return {key: np.array(values[key], obs[key].dtype) for key in keys}

        return cls(_joined(obs, np.inf), encode, ActionDecoder(_joined(actions, 1.0)))

    def rows(self, observation: Any) -> tuple[list[Any], bool]:
        """The observations of N environments, and whether there was a batch of them;
        ValidationError names what is wrong."""
        space = self.observation_space
        if isinstance(observation, Mapping) and self._flatten is not None:
            space = self._flatten.env.observation_space
        parts = [
            (leaf, check) for leaf in leaves(space, SINGLE_KEY) if (check := checker(leaf.space))
        ]
        first, _ = parts[0]
        try:
            whole = np.asarray(first.take(observation))
        except (LookupError, TypeError, ValueError) as error:
            raise ValidationError(f"observation {first.name!r} is missing") from error
        batch = whole.ndim == len(first.space.shape or ()) + 1
        if batch and not len(whole):
            raise ValidationError("the batch holds no observation")
        rows = [_row(space, observation, i) for i in range(len(whole))] if batch else [observation]
        for row in rows:
            for leaf, check in parts:
                try:
                    reason = check(leaf.take(row))
                except (LookupError, TypeError) as error:
                    raise ValidationError(f"observation {leaf.name!r} is missing") from error
                if reason:
                    raise ValidationError(f"observation {leaf.name!r} {reason}")
        return rows, batch

    def encode(self, rows: Sequence[Any], is_first: np.ndarray) -> dict[str, np.ndarray]:
        """Observation keys `[N, ...]` of the step dict. is_first `[N]`: where an episode begins,
        and with it the pictures that are stacked."""
        if self._stack is not None and len(self._stacks) != len(rows):
            self._stacks = [self._stack() for _ in rows]
        encoded = []
        for index, row in enumerate(rows):
            if isinstance(row, Mapping) and self._flatten is not None:
                row = self._flatten.observation(row)
            obs = self._encode(row)
            if self._stack is not None:
                obs = self._stacks[index](obs, first=bool(is_first[index]))
            encoded.append(obs if self._place is None else self._place.padded(obs))
        return {key: np.stack([obs[key] for obs in encoded]) for key in encoded[0]}

    def actions(self) -> list[dict[str, Any]]:
        """How a flat action `[A]` becomes the environment's; see `ActionDecoder.described`."""
        return self._decode.described()

    def decode(self, flat: np.ndarray, batch: bool) -> Any:
        """Actions of the environments from flat ones `[N, A]`; of the only one unless in a batch."""
        actions = [self._decode(row[: self._decode.flat_dim]) for row in flat]
        if not batch:
            return actions[0]
        empty: Any = create_empty_array(self.action_space, len(actions))
        return concatenate(self.action_space, actions, empty)


def plain_env(config: EnvConfig, render: bool) -> GymEnv:
    """One environment as the agent meets it, with repeats and limits, but with its own
    observations and actions. Errors as those of `make_envs`."""
    with one_line_errors(config):
        env: GymEnv = prepared(config, render).env
        return env


def _flatten_in(env: GymEnv) -> FlattenVectors | None:
    layer: Any = env
    while layer is not None:
        if isinstance(layer, FlattenVectors):
            return layer
        layer = vars(layer).get("env")
    return None


def _row(space: gs.Space[Any], batch: Any, index: int) -> Any:
    """One environment's part of a batch, which has the batch axis in its arrays."""
    if isinstance(space, gs.Dict):
        named = space.spaces.items()
        return {key: _row(child, batch[key], index) for key, child in named if key in batch}
    if isinstance(space, gs.Tuple):
        return tuple(_row(child, batch[i], index) for i, child in enumerate(space.spaces))
    return batch[index]


def _joined(spaces: Mapping[str, Space], bound: float) -> gs.Space[Any]:
    """The gymnasium space of named arrays; of a single one without its name."""
    named = {key: _gym_space(space, bound) for key, space in spaces.items()}
    return gs.Dict(named) if len(named) > 1 else next(iter(named.values()))


def _gym_space(space: Space, bound: float) -> gs.Space[Any]:
    if space.discrete:
        return (
            gs.MultiDiscrete(list(space.classes)) if space.shape else gs.Discrete(space.classes[0])
        )
    if space.dtype == "uint8":
        return gs.Box(0, 255, space.shape, np.uint8)
    return gs.Box(-bound, bound, space.shape, np.float32)
