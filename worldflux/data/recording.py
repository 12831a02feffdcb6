"""One recorded episode, and the time convention of rewards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

ARRIVAL, AFTER_ACTION = "arrival", "after_action"
CONVENTIONS = (ARRIVAL, AFTER_ACTION)


@dataclass
class Recording:
    """One episode; rewards and dones arrived with the observation of the same index.

    obs `[L, ...]`, actions `[L, A]` taken after it, rewards `[L]`, dones `[L]` (the episode ended
    here) and truncations `[L]` (it ended, but not in a terminal state). whole: row 0 is the
    episode's first. tail: reward and termination that came with an observation after the last
    row, which was not recorded.
    """

    obs: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    dones: np.ndarray
    truncations: np.ndarray
    whole: bool = True
    tail: tuple[float, bool] | None = None

    def __len__(self) -> int:
        return len(self.rewards)

    def without_oldest(self, rows: int) -> Recording:
        """The episode without its first `rows` rows."""
        names = ("obs", "actions", "rewards", "dones", "truncations")
        newer = {name: getattr(self, name)[rows:].copy() for name in names}
        return Recording(**newer, whole=False, tail=self.tail)


def arrivals(
    obs: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    dones: np.ndarray,
    truncations: np.ndarray,
    final_obs: np.ndarray | None,
) -> Recording:
    """An episode whose reward t followed action t, with rewards where they arrived."""
    end = (float(rewards[-1]), bool(dones[-1] and not truncations[-1]))
    shifted = np.concatenate([[0], rewards[:-1]])
    if final_obs is None:
        # The recording ends before the state that ended the episode.
        last = np.arange(len(rewards)) == len(rewards) - 1
        return Recording(obs, actions, shifted, last, last, tail=end)
    before = np.zeros(len(rewards), bool)
    return Recording(
        np.concatenate([obs, final_obs[None]]),
        np.concatenate([actions, np.zeros_like(actions[:1])]),
        np.concatenate([shifted, rewards[-1:]]),
        np.append(before, True),
        np.append(before, not end[1]),
    )


def copy_steps(
    episode: Recording, start: int, out: Mapping[str, np.ndarray], *, tails: bool
) -> None:
    """Fills one sequence `[T, ...]` of the step dict from row `start` on.

    tails: an episode that has one goes on for a row after its last (see ReplayBuffer).
    """
    stop = min(start + len(out["reward"]), len(episode))
    part, length = slice(start, stop), stop - start
    out["obs"][:length] = episode.obs[part]
    out["action"][:length] = episode.actions[part]
    out["reward"][:length] = episode.rewards[part]
    out["is_last"][:length] = episode.dones[part]
    out["is_terminal"][:length] = episode.dones[part] & ~episode.truncations[part]
    out["is_first"][0] = start == 0 and episode.whole
    if stop == len(episode):
        out["is_last"][length - 1] = episode.tail is None or not tails
    if length < len(out["reward"]):
        assert episode.tail is not None
        out["obs"][length] = episode.obs[-1]
        out["reward"][length], out["is_terminal"][length] = episode.tail
        out["is_last"][length] = True
