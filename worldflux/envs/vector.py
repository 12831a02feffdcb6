"""Several environments stepped together, as the step dict."""

from __future__ import annotations

import atexit
import logging
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Self

import numpy as np
from gymnasium import spaces as gs
from gymnasium.error import DependencyNotInstalled
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from worldflux.config.spaces import Space, Task, flat_action_dim
from worldflux.envs.failures import EnvironmentFailed, NoAnswer, dependency_error, time_limit
from worldflux.envs.notes import Notes
from worldflux.envs.process_state import process_state
from worldflux.envs.waiting import Waiting
from worldflux.errors import TrainingError, WorldFluxError

MOST_ACTIONS = 1_000_000  # of one episode, beyond which it cannot be resumed in its middle
CLOSE_SECONDS = 30.0  # more than one environment takes to give up, see ResumableEpisodes.close

log = logging.getLogger(__name__)


class VectorEnv:
    """N environments in gymnasium's NEXT_STEP autoreset: one row for each per call.

    A row has the observation keys `[N, ...]`, `reward [N]` float32 (arrived with the observation)
    and `is_first`, `is_last`, `is_terminal` `[N]` bool. After a row with is_last that
    environment's next action is ignored and its next row begins a new episode.

    raw_reward `[N]` is the last reward before clipping; env_steps counts the executed
    environment steps; last is the newest row. With several tasks, `tasks` are all that there are,
    task_numbers `[N]` says which each environment is, and action_mask `[N, A]` is 1 for the action
    dimensions that its task has. name: what the environment is called. episode_length: agent steps
    after which every episode is cut, as the made environment knows it; None: no limit is known.
    notes: what a person should know of it. call_timeout: seconds that a call may take. own_spaces: of
    observation and action before they are encoded, of a single task.
    """

    def __init__(
        self,
        envs: SyncVectorEnv | AsyncVectorEnv,
        obs_spaces: dict[str, Space],
        action_spaces: dict[str, Space],
        *,
        name: str,
        seed: int,
        episode_length: int | None = None,
        clip_reward: bool = False,
        tasks: tuple[Task, ...] = (),
        task_numbers: Sequence[int] = (),
        notes: Notes | None = None,
        call_timeout: float | None = None,
        own_spaces: tuple[gs.Space[Any] | None, gs.Space[Any] | None] = (None, None),
    ) -> None:
        self.num_envs = envs.num_envs
        self.obs_spaces = obs_spaces
        self.action_spaces = action_spaces
        self.action_dim = flat_action_dim(action_spaces)
        self.tasks, self.task_numbers = tasks, list(task_numbers)
        self.action_mask = np.ones((self.num_envs, self.action_dim), np.float32)
        for index, number in enumerate(self.task_numbers):
            self.action_mask[index, tasks[number].action_dim :] = 0
        self.raw_reward = np.zeros(self.num_envs, np.float32)
        self.env_steps = 0
        self.last: dict[str, np.ndarray] = {}
        self._envs = envs
        self._action = np.zeros((self.num_envs, self.action_dim), np.float32)  # of the step begun
        self.name, self.episode_length = name, episode_length
        self.notes, self.own_spaces = notes or Notes(), own_spaces
        self._timeout = call_timeout
        self._waiting = Waiting(name)
        self._seed = seed
        self._clip = clip_reward
        self._episodes = np.zeros(self.num_envs, np.int64)
        self._actions = [_Actions(self.action_dim) for _ in range(self.num_envs)]
        self._failed = False
        if isinstance(envs, AsyncVectorEnv):
            # Workers ignore SIGTERM, with which Python would end them at exit and wait forever.
            atexit.register(_kill_at_exit, weakref.ref(envs))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def begin_anew(self, seed: int) -> None:
        """From the next `reset` on its episodes are those of environments just made with `seed`."""
        self._seed, self.env_steps, self.last = seed, 0, {}
        self._episodes[:] = 0
        self._guard(self._envs.call, "begin_anew", seed)

    def reset(self) -> dict[str, np.ndarray]:
        """Begins a new episode in every environment. Returns their first rows."""
        obs, _ = self._guard(self._envs.reset)
        self._begin(np.ones(self.num_envs, bool))
        none = np.zeros(self.num_envs, bool)
        return self._row(obs, np.zeros(self.num_envs), ~none, none, none)

    @property
    def in_processes(self) -> bool:
        """Whether the environments step in processes beside this one, between `send` and `receive`."""
        return isinstance(self._envs, AsyncVectorEnv)

    def step(self, action: np.ndarray) -> dict[str, np.ndarray]:
        """Takes flat actions `[N, A]`, one-hot or in [-1, 1]. Returns the next rows.

        Raises TrainingError when an environment raises or its process dies.
        """
        self.send(action)
        return self.receive()

    def send(self, action: np.ndarray) -> None:
        """The first half of `step`; only `receive` or `close` may follow."""
        if action.shape != (self.num_envs, self.action_dim):
            raise TrainingError(
                f"environment {self.name}: actions have shape {action.shape}, "
                f"expected {(self.num_envs, self.action_dim)}"
            )
        for index in np.flatnonzero(~self.last["is_last"]):
            self._actions[index].append(action[index])
        if isinstance(self._envs, AsyncVectorEnv):
            self._guard(self._envs.step_async, action)
        else:
            self._action = action

    def receive(self) -> dict[str, np.ndarray]:
        """The second half of `step`: waits for the environments. Returns the next rows."""
        is_first = self.last["is_last"]
        if isinstance(self._envs, AsyncVectorEnv):
            answer = self._guard(self._envs.step_wait)
        else:
            answer = self._guard(self._envs.step, self._action)
        obs, reward, terminated, truncated, _ = answer
        self._begin(is_first)
        self.env_steps += self.num_envs - int(is_first.sum())
        return self._row(obs, reward, is_first, terminated | truncated, terminated)

    def reset_where(self, mask: np.ndarray) -> dict[str, np.ndarray]:
        """Abandons the episodes of the environments in `mask [N]`; their rows become first ones."""
        obs, _ = self._guard(self._envs.reset, options={"reset_mask": mask.copy()})
        self._begin(mask)
        row = {key: value.copy() for key, value in self.last.items()}
        for key in self.obs_spaces:
            row[key][mask] = obs[key][mask]
        for key in ("reward", "is_last", "is_terminal"):
            row[key][mask] = 0
        row["is_first"][mask] = True
        self.raw_reward[mask] = 0
        self.last = row
        return row

    def task_name(self, index: int) -> str | None:
        """The task of one environment; None with a single task."""
        return self.tasks[self.task_numbers[index]].name if self.tasks else None

    def render(self) -> np.ndarray | None:
        """Frame `[H, W, 3]` uint8 of environment 0, None where it draws none."""
        if self._envs.render_mode is None:
            return None
        if isinstance(self._envs, SyncVectorEnv):
            frame = self._guard(self._envs.envs[0].render)
        else:
            frame = self._guard(self._envs.call, "render")[0]
        return frame if isinstance(frame, np.ndarray) else None

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to bring every environment back to this moment.

        The size grows with the length of the running episodes: one flat action for each step; of one
        that is longer than MOST_ACTIONS there are none, and it cannot go on.
        """
        return {
            "seed": self._seed,
            "env_steps": self.env_steps,
            "episodes": self._episodes.copy(),
            "raw_reward": self.raw_reward.copy(),
            "row": {key: value.copy() for key, value in self.last.items()},
            "actions": {str(index): taken.array() for index, taken in enumerate(self._actions)},
            "too_long": np.array([taken.too_long for taken in self._actions]),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> np.ndarray:
        """Resets every environment with its episode's seed and replays the actions since.

        Returns `[N]` bool: whether the environment came back with the stored observation, reward
        and flags. Where it did not, its episode cannot go on: call `reset_where(~restored)`.
        """
        row = {key: np.asarray(value).copy() for key, value in state["row"].items()}
        actions = [np.asarray(state["actions"][str(i)], np.float32) for i in range(self.num_envs)]
        too_long = np.asarray(state.get("too_long", [False] * self.num_envs), bool)
        self._seed, self.env_steps = int(state["seed"]), int(state["env_steps"])
        self._episodes = np.asarray(state["episodes"], np.int64).copy()
        self._actions = [_Actions(self.action_dim, taken) for taken in actions]
        places = [(int(n), taken) for n, taken in zip(self._episodes, actions, strict=True)]
        self._guard(self._envs.call, "resume_at", self._seed, places)
        self._guard(self._envs.reset)
        last = np.stack([a[-1] if len(a) else np.zeros(self.action_dim) for a in actions])
        obs, reward, terminated, truncated, _ = self._guard(
            self._envs.step, last.astype(np.float32)
        )
        now = self._row(obs, reward, row["is_first"], terminated | truncated, terminated)
        self.last, self.raw_reward = row, np.asarray(state["raw_reward"], np.float32).copy()
        same = [_same(now[key], row[key]).reshape(self.num_envs, -1).all(axis=1) for key in row]
        return np.logical_and.reduce([~too_long, *same])

    def close(self) -> None:
        """Ends the environments and their processes, which may fail: that is a warning. May be
        called twice."""
        self._waiting.close()
        if self._envs.closed:
            return
        if isinstance(self._envs, AsyncVectorEnv):
            if not self._failed and not _end(self._envs):
                log.warning("environment %s: close() takes too long; ending its process", self.name)
            _kill(self._envs)
        else:
            with process_state:
                self._envs.close()

    def _begin(self, mask: np.ndarray) -> None:
        for index in np.flatnonzero(mask):
            self._episodes[index] += 1
            self._actions[index] = _Actions(self.action_dim)

    def _row(
        self,
        obs: Mapping[str, np.ndarray],
        reward: np.ndarray,
        is_first: np.ndarray,
        is_last: np.ndarray,
        is_terminal: np.ndarray,
    ) -> dict[str, np.ndarray]:
        self.raw_reward = reward.astype(np.float32)
        self.last = {key: obs[key].copy() for key in self.obs_spaces}
        self.last["reward"] = np.sign(self.raw_reward) if self._clip else self.raw_reward
        self.last.update(is_first=is_first, is_last=is_last, is_terminal=is_terminal)
        return self.last

    def _guard(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Turns whatever an environment raises into one line that names it and the step."""
        try:
            with self._waiting, process_state, self._limit():
                return call(*args, **kwargs)
        except DependencyNotInstalled as error:
            raise dependency_error(self.name, error) from error
        except (EOFError, ConnectionError) as error:
            raise self._failure("its process died (killed, or out of memory)") from error
        except NoAnswer as error:
            text = f"no answer within env.call_timeout={self._timeout:g} s{self._silent()}"
            raise self._failure(text) from error
        except KeyboardInterrupt:
            self._failed = True  # its process may hang
            raise
        except WorldFluxError:
            raise
        except BaseException as error:  # foreign code: sys.exit() too
            raise self._failure(str(EnvironmentFailed.of(error))) from error

    def _limit(self) -> AbstractContextManager[None]:
        return nullcontext() if self._timeout is None else time_limit(self._timeout, NoAnswer)

    def _silent(self) -> str:
        """Which of several processes has not answered."""
        if not isinstance(self._envs, AsyncVectorEnv):
            return ""
        pipes = enumerate(self._envs.parent_pipes)
        return f" of copy {', '.join(str(n) for n, pipe in pipes if not pipe.poll(0))}"

    def _failure(self, reason: str) -> TrainingError:
        self._failed = True
        return TrainingError(
            f"environment {self.name} failed after {self.env_steps} environment steps: {reason}"
        )


class _Actions:
    """The flat actions `[n, A]` float32 of one episode so far, up to MOST_ACTIONS of them."""

    def __init__(self, width: int, taken: np.ndarray | None = None) -> None:
        self.too_long = False
        self._rows = np.empty((0, width), np.float32) if taken is None else taken.copy()
        self._count = len(self._rows)

    def append(self, action: np.ndarray) -> None:
        if self.too_long:
            return
        if self._count == MOST_ACTIONS:
            self.too_long, self._count, self._rows = True, 0, self._rows[:0].copy()
            return
        if self._count == len(self._rows):
            more = np.empty((max(64, 2 * self._count), self._rows.shape[1]), np.float32)
            more[: self._count] = self._rows
            self._rows = more
        self._rows[self._count] = action
        self._count += 1

    def array(self) -> np.ndarray:
        return self._rows[: self._count].copy()


def _end(envs: AsyncVectorEnv) -> bool:
    """Has the processes close their environments; whether all did in time."""
    deadline = time.monotonic() + CLOSE_SECONDS
    for pipe in [pipe for pipe in envs.parent_pipes if pipe is not None]:  # None: it has failed
        with suppress(OSError):
            pipe.send(("close", None))
    for process in envs.processes:
        process.join(max(0.0, deadline - time.monotonic()))
    return not any(process.is_alive() for process in envs.processes)


def _kill(envs: AsyncVectorEnv) -> None:
    for process in envs.processes:
        process.kill()
        process.join()
    for pipe in envs.parent_pipes:
        if pipe is not None:
            pipe.close()
    envs.closed = True


def _kill_at_exit(reference: weakref.ref[AsyncVectorEnv]) -> None:
    envs = reference()
    if envs is not None and not envs.closed:
        _kill(envs)


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a == b) | ((a != a) & (b != b))
