"""The plain layout, which .npz, HDF5 and Parquet share: a column for each key of the step dict.

Columns, `[N, ...]` over all episodes, one after another: the observation keys, ``action``, ``reward``,
``is_first`` and, where they differ from what follows of it, ``is_last`` and ``is_terminal``. Reward
and flags arrived with the observation of their row, whose action was taken after it. ``spaces`` is
JSON, ``{"obs": {key: {shape, dtype, classes}}, "action": {...}}``: with it the columns are as the
agent sees them; without it they are taken for an environment's own arrays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces as gs

from worldflux.config.files import parsed
from worldflux.config.modalities import (
    action_spaces_from,
    action_spec_of,
    complete_modalities,
    modalities_of,
    spaces_of,
)
from worldflux.config.spaces import FLAGS, STEP_KEYS, Space, flat_action_dim
from worldflux.data.recorded.encoding import (
    Column,
    Convert,
    Part,
    Rows,
    View,
    action_parts,
    guessed_actions,
    guessed_space,
    observation_parts,
)
from worldflux.data.recorded.parts import StepColumns
from worldflux.errors import BufferError, ConfigurationError

SPACES = "spaces"
SCALARS = ("reward", *FLAGS)
SAMPLE = 100_000  # rows of actions that a guess looks at


def described(obs_spaces: Mapping[str, Space], action_spaces: Mapping[str, Space]) -> str:
    """The spaces of a recording as JSON text."""
    obs = modalities_of(obs_spaces)
    return json.dumps({"obs": obs, "action": action_spec_of(action_spaces)}, sort_keys=True)


def spaces_in(text: str, name: str) -> tuple[dict[str, Space], dict[str, Space]]:
    """The inverse of `described`; BufferError: it is none."""
    try:
        content = parsed(text)
        obs = spaces_of(complete_modalities(content["obs"]))
        return obs, action_spaces_from(content["action"])
    except (ValueError, LookupError, TypeError, AttributeError, ConfigurationError) as error:
        raise BufferError(f"{name}: {SPACES}: no spaces of a recording: {error}") from error


def step_columns(
    arrays: Mapping[str, Any], spaces: str | None, name: str, view: View
) -> StepColumns:
    """The episodes of a file in this layout. arrays: key -> an array, or what is sliced like one."""
    rows = _common_rows(arrays, name)
    observed = [key for key in arrays if key not in STEP_KEYS]
    if not observed:
        raise BufferError(f"{name}: no column beside those of the step, so nothing is observed")
    if spaces is not None:
        obs, actions = spaces_in(spaces, name)
        _check_stated(arrays, obs, actions, name)
        columns = {key: _rows(arrays[key], _typed(space)) for key, space in obs.items()}
        columns["action"] = _rows(arrays["action"], _typed(Space((flat_action_dim(actions),))))
    else:
        obs, actions, columns = _guessed(arrays, observed, view)
    columns["reward"] = _rows(arrays["reward"], _reward(view))
    terminal = arrays.get("is_terminal", np.broadcast_to(np.False_, rows))
    columns["is_terminal"] = _rows(terminal, lambda x: x.astype(bool))
    first = np.asarray(arrays["is_first"][0:rows]).astype(bool)
    return StepColumns(name, obs, actions, columns, first)


def _common_rows(arrays: Mapping[str, Any], name: str) -> int:
    missing = [key for key in ("action", "reward", "is_first") if key not in arrays]
    if missing:
        raise BufferError(f"{name}: {missing[0]}: missing")
    counts = {key: array.shape[0] if array.shape else 0 for key, array in arrays.items()}
    rows = counts["reward"]
    for key, count in counts.items():
        if count != rows:
            raise BufferError(f"{name}: {key}: {count:,} rows, and reward has {rows:,}")
    for key in SCALARS:
        if key in arrays and arrays[key].shape != (rows,):
            raise BufferError(f"{name}: {key}: shape {arrays[key].shape}, expected ({rows},)")
    return rows


def _check_stated(
    arrays: Mapping[str, Any], obs: Mapping[str, Space], actions: Mapping[str, Space], name: str
) -> None:
    shapes = {key: space.shape for key, space in obs.items()}
    for key, shape in {**shapes, "action": (flat_action_dim(actions),)}.items():
        if key not in arrays:
            raise BufferError(f"{name}: {key}: missing, and {SPACES} has it")
        if arrays[key].shape[1:] != shape:
            text = f"rows of shape {arrays[key].shape[1:]}, and {SPACES} says {shape}"
            raise BufferError(f"{name}: {key}: {text}")


def _guessed(
    arrays: Mapping[str, Any], observed: list[str], view: View
) -> tuple[dict[str, Space], dict[str, Space], dict[str, Rows]]:
    obs_space = observation_space({key: arrays[key] for key in observed}, view)
    columns: dict[str, Rows] = {}
    obs: dict[str, Space] = {}
    for part in observation_parts(obs_space, view.image):
        key = part.leaf.path[0] if part.leaf.path else observed[0]
        obs[part.leaf.name] = part.space
        columns[part.leaf.name] = _rows(arrays[key], part.convert)
    action = arrays["action"]
    parts = action_parts(action_space(action, view), view.rescale)
    columns["action"] = _rows(action, joined(parts))
    return obs, {part.leaf.name: part.space for part in parts}, columns


def observation_space(arrays: Mapping[str, Any], view: View) -> gs.Space[Any]:
    """The environment's own space where these arrays are of it, else what they look like."""
    if len(arrays) == 1 and "obs" in arrays:
        (array,) = arrays.values()
        stated = view.observed
        if stated is not None and stated.shape == array.shape[1:]:
            return stated
        return guessed_space(array.dtype, array.shape[1:])
    inner = view.observed.spaces if isinstance(view.observed, gs.Dict) else {}
    return gs.Dict(
        {
            key: inner[key]
            if key in inner and inner[key].shape == array.shape[1:]
            else guessed_space(array.dtype, array.shape[1:])
            for key, array in arrays.items()
        }
    )


def action_space(array: Any, view: View) -> gs.Space[Any]:
    """As `observation_space`, of actions; a choice is looked for in all rows, a bound in some."""
    whole = array.dtype.kind in "iub"
    values = np.asarray(array[0 : len(array) if whole else SAMPLE])
    return guessed_actions(values, array.shape[1:], view)


def joined(parts: list[Part]) -> Convert:
    """Recorded actions that are one array, as flat actions."""
    (part,) = parts
    return part.convert


def _typed(space: Space) -> Convert:
    return lambda x: x.astype(space.dtype, copy=False)


def _reward(view: View) -> Convert:
    return lambda x: np.sign(x).astype(np.float32) if view.clip else x.astype(np.float32)


def _rows(array: Any, convert: Convert) -> Rows:
    return Column(array, convert)
