"""Steps an agent through environments and puts what it sees into the replay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from worldflux.config.spaces import Space
from worldflux.data.recorder import Recorder
from worldflux.data.replay import SequenceReplay
from worldflux.envs.vector import VectorEnv

if TYPE_CHECKING:
    from worldflux.core.agent import Agent, Carry


@dataclass(frozen=True)
class Episode:
    """A finished episode: its undiscounted, unclipped return and its length in agent steps.

    env: which of the environments, and task its task, where there are several. env_steps: the
    collector's count when it ended.
    """

    return_: float
    length: int
    env_steps: int
    env: int
    terminated: bool
    truncated: bool
    task: str | None = None


# Called after each step with the environments, their newest row `[N, ...]`, how many episodes have
# ended, and how many steps environment 0 has taken in its present one. It must change nothing.
Watcher = Callable[[VectorEnv, Mapping[str, np.ndarray], int, int], None]


def random_actions(
    spaces: Mapping[str, Space], num_envs: int, rng: np.random.Generator
) -> np.ndarray:
    """Uniform flat actions `[N, A]`: one-hot per discrete entry, [-1, 1] for continuous ones."""
    parts: list[np.ndarray] = []
    for _, space in sorted(spaces.items()):
        if space.discrete:
            for classes in space.classes:
                drawn = rng.integers(classes, size=num_envs)
                parts.append(np.eye(classes, dtype=np.float32)[drawn])
        else:
            parts.append(rng.uniform(-1, 1, (num_envs, space.size)).astype(np.float32))
    return np.concatenate(parts, axis=1)


class Collector:
    """Drives a vector environment; between calls it keeps the agent's carry and the open episodes.

    Each step goes into the replay together with the action taken after it and the agent's
    entries; on an episode's last step, after which nothing is taken, the action is zero.
    env_steps counts executed environment steps (an autoreset row is none), action repeat once.
    watcher: is called after each step. recorder: keeps the episodes, where it is set.

    Environments in processes of their own take the last step of a `collect` while its caller goes
    on: that step is counted at once, its row goes into the replay with the next action as always,
    so the data are those of environments that are waited for. `settle` waits for it.
    """

    def __init__(self, envs: VectorEnv, replay: SequenceReplay, *, seed: int = 0) -> None:
        self.envs = envs
        self.replay = replay
        self.env_steps = 0
        self.episodes = 0
        self.watcher: Watcher | None = None
        self.recorder: Recorder | None = None
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._carry: Carry | None = None
        self._stored_carry: Mapping[str, Any] | None = None  # from load_state_dict, any device
        self._return = np.zeros(envs.num_envs, np.float64)
        self._length = np.zeros(envs.num_envs, np.int64)
        self._in_flight: int | None = None  # environment steps of the step not received yet
        self._ended: list[Episode] = []  # not returned yet
        self._entries = {
            key: np.zeros((envs.num_envs, *replay.spaces[key].shape), replay.spaces[key].dtype)
            for key in replay.entries
        }

    def collect(
        self,
        agent: Agent | None,
        env_steps: int,
        *,
        explore: bool = True,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[Episode]:
        """Takes at least `env_steps` environment steps; returns the episodes seen to end.

        agent None: uniformly random actions and zero entries. An agent that takes over in the
        middle of an episode begins with its initial carry. should_stop: asked before each step;
        true ends it early.
        """
        target = self.env_steps + env_steps
        if not self.envs.last:
            self.envs.reset()
        while self.env_steps < target and not should_stop():
            self._receive()
            row = self.envs.last
            action, entries = self._act(agent, row, explore)
            self.replay.add({**row, **entries, "action": action})
            if self.recorder is not None:
                self.recorder.add(row, action, self.envs.raw_reward)
            self.envs.send(action)
            self._in_flight = self.envs.num_envs - int(row["is_last"].sum())
            self.env_steps += self._in_flight
            if not self.envs.in_processes:
                self._receive()
        return self._take_ended()

    def settle(self) -> list[Episode]:
        """Waits for the step that `collect` left under way; returns the episodes that it ended."""
        self._receive()
        return self._take_ended()

    def _receive(self) -> None:
        if self._in_flight is None:
            return
        steps, self._in_flight = self._in_flight, None
        try:
            row = self.envs.receive()
        except BaseException:
            self.env_steps -= steps
            raise
        self._ended += self._count(row)
        if self.watcher is not None:
            self.watcher(self.envs, row, self.episodes, int(self._length[0]))

    def _take_ended(self) -> list[Episode]:
        ended, self._ended = self._ended, []
        return ended

    def _act(
        self, agent: Agent | None, row: Mapping[str, np.ndarray], explore: bool
    ) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        if agent is None:
            action = random_actions(self.envs.action_spaces, self.envs.num_envs, self._rng)
            action *= self.envs.action_mask
            entries: Mapping[str, np.ndarray] = self._entries
            self._carry = self._stored_carry = None
        else:
            obs = {key: row[key] for key in (*self.envs.obs_spaces, "is_first")}
            self._carry, action, entries = agent.act(self._agent_carry(agent), obs, explore)
        return np.where(row["is_last"][:, None], np.float32(0), action), entries

    def _agent_carry(self, agent: Agent) -> Carry:
        if self._carry is not None:
            return self._carry
        fresh = agent.initial_carry(self.envs.num_envs)
        if self._stored_carry is None:
            return fresh
        stored, self._stored_carry = self._stored_carry, None
        import torch

        return {key: torch.as_tensor(stored[key]).to(fresh[key]) for key in fresh}

    def _count(self, row: Mapping[str, np.ndarray]) -> list[Episode]:
        first, last = row["is_first"], row["is_last"]
        self._return[first] = 0.0
        self._return += self.envs.raw_reward
        self._length = np.where(first, 0, self._length + 1)
        self.episodes += int(last.sum())
        return [
            Episode(
                return_=float(self._return[index]),
                length=int(self._length[index]),
                env_steps=self.env_steps,
                env=int(index),
                terminated=bool(row["is_terminal"][index]),
                truncated=not row["is_terminal"][index],
                task=self.envs.task_name(int(index)),
            )
            for index in np.flatnonzero(last)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the replay: counters, random stream, carry and the environments."""
        self._receive()
        carry = self._carry or self._stored_carry or {}
        return {
            "env_steps": self.env_steps,
            "episodes": self.episodes,
            "rng": self._rng.bit_generator.state,
            "return": self._return.copy(),
            "length": self._length.copy(),
            "carry": dict(carry),
            "ended": [asdict(episode) for episode in self._ended],
            "envs": self.envs.state_dict() if self.envs.last else {},
            **({} if self.recorder is None else {"recorder": self.recorder.state_dict()}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> np.ndarray:
        """Restores `state_dict`. Returns `[N]` bool: which environments came back as they were.

        The others begin a new episode, their open one is abandoned.
        """
        self._receive()
        self.env_steps, self.episodes = int(state["env_steps"]), int(state["episodes"])
        self._rng.bit_generator.state = state["rng"]
        self._return = np.asarray(state["return"], np.float64).copy()
        self._length = np.asarray(state["length"], np.int64).copy()
        self._ended = [Episode(**episode) for episode in state.get("ended", [])]
        self._carry, self._stored_carry = None, dict(state["carry"]) or None
        if self.recorder is not None and "recorder" in state:
            self.recorder.load_state_dict(state["recorder"])
        if not state["envs"]:
            return np.ones(self.envs.num_envs, bool)
        restored = self.envs.load_state_dict(state["envs"])
        if not restored.all():
            self.envs.reset_where(~restored)
            if self.recorder is not None:
                self.recorder.abandon(~restored)
            self._return[~restored] = 0.0
            self._length[~restored] = 0
        return restored
