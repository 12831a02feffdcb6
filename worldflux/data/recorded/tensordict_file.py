"""Files of the official multi-task sets (.pt): tensors `[E, T, ...]` of E episodes of equal length, under
``obs``, ``action``, ``reward``, ``task`` and perhaps ``terminated``, in a pickled TensorDict.

Action and reward of a row led to its observation, those of the first are NaN; vectors and actions of
narrower tasks are filled up with zeros. The tensors stay on the disk, mapped. The pickle is read by
PyTorch's reader for weights alone: the class's name stands for a plain holder of ours, every other
name is refused, and the package itself is not needed.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldflux.config.files import DAMAGED_ARCHIVE, check_stored
from worldflux.config.spaces import FLAGS, TASK_KEY, Space
from worldflux.data.recorded.encoding import View
from worldflux.data.recorded.parts import Episodes, Steps
from worldflux.envs.spaces import SINGLE_KEY
from worldflux.errors import BufferError

CLASSES = ("tensordict._td.TensorDict", "tensordict.tensordict.TensorDict")
MAKER = "tensordict._reductions._make_td"
NEEDED = (SINGLE_KEY, "action", "reward")
KNOWN = (*NEEDED, TASK_KEY, "terminated", "episode")


class _Holder:
    """What a pickled TensorDict becomes: its fields."""

    def __setstate__(self, state: Any) -> None:
        self.fields = state.get("_tensordict") if isinstance(state, Mapping) else None


def _make(cls: type[_Holder], state: Any) -> _Holder:
    holder = cls()
    holder.__setstate__(state)
    return holder


def read_episodes(path: Path, view: View) -> list[Episodes]:
    """The episodes of one file; BufferError where it is damaged or of another layout."""
    arrays = _arrays(path)
    name = str(path)
    missing = [key for key in NEEDED if key not in arrays]
    if missing:
        raise BufferError(f"{name}: {missing[0]}: missing")
    lead = arrays["reward"].shape
    if len(lead) != 2 or lead[1] < 2:
        raise BufferError(f"{name}: reward: shape {lead}, expected (episodes, steps)")
    for key, array in arrays.items():
        if array.shape[:2] != lead:
            raise BufferError(f"{name}: {key}: shape {array.shape}, and reward {lead}")
        if array.ndim != 2 + (key in (SINGLE_KEY, "action")):
            raise BufferError(f"{name}: {key}: shape {array.shape}, expected vectors or numbers")
    return [_Official(name, arrays, view.clip)]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    import torch

    allowed: list[Any] = [(_Holder, name) for name in CLASSES] + [(_make, MAKER)]
    try:
        check_stored(path)
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:  # PyTorch's text advises to run what is in it
        text = f"{path}: it is no pickle of tensors and a TensorDict alone"
        raise BufferError(text) from error
    except (OSError, ValueError, *DAMAGED_ARCHIVE) as error:
        reason = " ".join(str(error).split())[:200]
        raise BufferError(f"{path}: damaged or no file of PyTorch's: {reason}") from error
    fields = content.fields if isinstance(content, _Holder) else content
    if not isinstance(fields, Mapping):
        raise BufferError(f"{path}: it holds no TensorDict")
    arrays: dict[str, np.ndarray] = {}
    for key in KNOWN:
        if key in fields:
            value = fields[key]
            if not isinstance(value, torch.Tensor) or value.dtype == torch.bfloat16:
                raise BufferError(f"{path}: {key}: no tensor of numbers")
            arrays[key] = value.detach().numpy()
    arrays.pop("episode", None)  # numbers them
    return arrays


class _Official(Episodes):
    def __init__(self, name: str, arrays: Mapping[str, np.ndarray], clip: bool) -> None:
        self.name, self._arrays, self._clip = name, arrays, clip
        self._last = arrays["reward"].shape[1] - 1
        self.lengths = np.full(len(arrays["reward"]), arrays["reward"].shape[1])
        self.obs_spaces = {SINGLE_KEY: Space((arrays[SINGLE_KEY].shape[2],))}
        self.action_spaces = {"action": Space((arrays["action"].shape[2],))}
        if TASK_KEY in arrays:
            count = int(arrays[TASK_KEY][:, 0].max(initial=0)) + 1
            self.obs_spaces[TASK_KEY] = Space((), "int64", (count,))

    def terminates(self) -> bool:
        ends = self._arrays.get("terminated")
        return bool(ends is not None and ends[:, -1].any())

    @property
    def takes(self) -> bool:
        return True

    def read(self, episode: int, start: int, stop: int) -> Steps:
        return self.take(np.full(stop - start, episode), np.arange(start, stop))

    def take(self, episodes: np.ndarray, rows: np.ndarray) -> Steps:
        held, last = self._arrays, rows == self._last
        steps: Steps = {SINGLE_KEY: held[SINGLE_KEY][episodes, rows].astype(np.float32)}
        if TASK_KEY in held:
            steps[TASK_KEY] = held[TASK_KEY][episodes, rows].astype(np.int64)
        led = held["action"][episodes, np.minimum(rows + 1, self._last)].astype(np.float32)
        steps["action"] = np.where(last[:, None], np.float32(0), led)
        reward = held["reward"][episodes, rows].astype(np.float32)
        reward[rows == 0] = 0
        steps["reward"] = np.sign(reward) if self._clip else reward
        steps |= dict(zip(FLAGS, (rows == 0, last, last.copy()), strict=True))
        ended = held.get("terminated")
        steps["is_terminal"] &= False if ended is None else ended[episodes, -1].astype(bool)
        return steps
