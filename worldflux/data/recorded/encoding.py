"""Recorded arrays to those of the step dict, many steps at a time; one step at a time is
worldflux/envs/spaces.py, whose rules these are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from gymnasium import spaces as gs

from worldflux.config.files import memory
from worldflux.config.spaces import Space
from worldflux.envs.spaces import (
    SINGLE_KEY,
    ActionDecoder,
    ImageFormat,
    Leaf,
    ObservationEncoder,
    PictureEncoder,
    PictureForm,
    action_ends,
    discrete_entries,
    leaves,
    picture_form,
)
from worldflux.errors import ConfigurationError

Rows = Callable[[int, int], np.ndarray]  # rows start..stop of one key
Convert = Callable[
    [np.ndarray], np.ndarray
]  # `[n, ...]` as recorded to `[n, ...]` of the step dict
SLACK = 1e-3  # by which actions may leave [-1, 1]


@dataclass(frozen=True)
class Column:
    """Rows of one key: an array, or what is sliced like one, and what becomes of its rows."""

    array: Any
    convert: Convert

    def __call__(self, start: int, stop: int) -> np.ndarray:
        return self.convert(np.asarray(self.array[start:stop]))

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Rows `[n]`, in any order; of an array alone."""
        return self.convert(np.asarray(self.array[rows]))


class Budget:
    """Bytes of memory that small columns may be kept in, over all files of a set."""

    def __init__(self, total: int | None = None) -> None:
        self.left = memory() // 4 if total is None else total

    def take(self, wanted: int) -> bool:
        """Whether so many bytes were left; they are taken then."""
        fits = wanted <= self.left
        self.left -= wanted * fits
        return fits


@dataclass(frozen=True)
class View:
    """How recorded arrays are looked at: as by the environment of the run, where there is one.

    observed, acted: the environment's own spaces, for files that do not state theirs. actions: the
    same as the agent sees it. rescale: actions go to [-1, 1] by the bounds of their space. clip:
    only the sign of a reward counts.
    """

    image: ImageFormat = field(default_factory=ImageFormat)
    observed: gs.Space[Any] | None = None
    acted: gs.Space[Any] | None = None
    actions: Mapping[str, Space] = field(default_factory=dict)
    rescale: bool = True
    clip: bool = False
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True)
class Part:
    """A leaf of a recorded space: where its array lies, and what it becomes."""

    leaf: Leaf
    space: Space
    convert: Convert


def observation_parts(space: gs.Space[Any], image: ImageFormat) -> list[Part]:
    """The arrays of an observation that can be learned from; ConfigurationError: there are none."""
    known = ObservationEncoder(space, image).spaces
    kept = (leaf for leaf in leaves(space, SINGLE_KEY) if leaf.name in known)
    return [Part(leaf, known[leaf.name], _observation(leaf, image)) for leaf in kept]


def _observation(leaf: Leaf, image: ImageFormat) -> Convert:
    space = leaf.space
    if (entries := discrete_entries(space)) is not None:
        coded, start = entries
        return lambda x: (x.reshape(len(x), *coded.shape) - start).astype(np.int64)
    if (form := picture_form(space)) is not None:
        return _pictures(form, image, leaf.name)
    return lambda x: x.reshape(len(x), -1).astype(np.float32)


def _pictures(form: PictureForm, image: ImageFormat, name: str) -> Convert:
    encoder = PictureEncoder(form, image, name)
    same = image.size in (None, form.size) and not (image.grayscale and form.channels != 1)
    if not same or form.frames > 1 or (form.low, form.high) != (0, 255):
        return lambda x: _stacked([encoder(one) for one in x], encoder.space)

    def convert(x: np.ndarray) -> np.ndarray:
        if x.dtype != np.uint8:
            x = np.clip(np.rint(x), 0, 255).astype(np.uint8)
        return x if form.first else np.moveaxis(x[..., None] if form.flat else x, -1, 1)

    return convert


def _stacked(arrays: Sequence[np.ndarray], space: Space) -> np.ndarray:
    return np.stack(arrays) if arrays else np.zeros((0, *space.shape), space.dtype)


def action_parts(space: gs.Space[Any], rescale: bool) -> list[Part]:
    """The arrays of an action, in the order in which the flat action has them."""
    spaces = ActionDecoder(space, rescale).spaces
    ordered = sorted(leaves(space, "action"), key=lambda leaf: leaf.name)
    return [Part(leaf, spaces[leaf.name], _action(leaf.space, rescale)) for leaf in ordered]


def _action(space: gs.Space[Any], rescale: bool) -> Convert:
    if (entries := discrete_entries(space)) is not None:
        coded, start = entries
        return lambda x: one_hot(x.reshape(len(x), -1) - start, coded.classes)
    assert isinstance(space, gs.Box)
    first, last = action_ends(space)
    middle, half = (first + last) / 2, (last - first) / 2
    if not rescale:
        return lambda x: x.reshape(len(x), -1).astype(np.float32)
    scale = np.where(half > 0, half, 1.0)  # a value without choice is 0
    return lambda x: ((x.reshape(len(x), -1) - middle) / scale).astype(np.float32)


def one_hot(values: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Choices `[n, K]` of so many classes each, as the flat action `[n, sum(classes)]`; ValueError:
    one of them is none of the classes."""
    flat = np.zeros((len(values), sum(classes)), np.float32)
    for index, (begin, end) in enumerate(pairwise(np.cumsum([0, *classes]))):
        column = values[:, index]
        wrong = (column < 0) | (column >= classes[index]) | (column != np.rint(column))
        if wrong.any():
            raise ValueError(f"{column[wrong][0]} is none of {classes[index]} choices")
        flat[np.arange(len(values)), int(begin) + column.astype(np.int64)] = 1
        assert end <= flat.shape[1]
    return flat


def no_choices(flat: np.ndarray, spaces: Mapping[str, Space]) -> str | None:
    """What is wrong with flat actions `[n, A]`: a choice that is no one-hot, or none at all, which
    the last step of an episode has; None: nothing is."""
    begin = 0
    for name, space in sorted(spaces.items()):
        for classes in space.classes:
            part = flat[..., begin : begin + classes]
            begin += classes
            taken = part.sum(-1)
            if not (np.isin(part, (0, 1)).all() and np.isin(taken, (0, 1)).all()):
                return f"{name} is no one-hot of {classes} choices"
        begin += 0 if space.discrete else space.size
    return None


def guessed_space(dtype: np.dtype[Any], shape: tuple[int, ...]) -> gs.Space[Any]:
    """The space of an observation that says nothing of itself but its type and shape."""
    if dtype == np.uint8 and len(shape) > 1:
        return gs.Box(0, 255, shape, np.uint8)
    return gs.Box(-np.inf, np.inf, shape, np.float32)


def guessed_actions(values: np.ndarray, shape: tuple[int, ...], view: View) -> gs.Space[Any]:
    """The space of actions that say nothing of themselves: the environment's where it fits, else
    choices where they are whole numbers, and values in [-1, 1] where not."""
    whole = values.dtype.kind in "iub"
    if isinstance(view.acted, gs.Box) and not whole:
        if int(np.prod(view.acted.shape)) == int(np.prod(shape)):
            return view.acted
    if view.acted is not None and whole and (entries := discrete_entries(view.acted)) is not None:
        if entries[0].size == int(np.prod(shape)):
            return view.acted
    size = int(np.prod(shape))
    if whole:
        flat = values.reshape(len(values), size)
        counts = [int(n) + 1 for n in flat.max(0)] if len(flat) else [1] * size
        return gs.Discrete(counts[0]) if size == 1 else gs.MultiDiscrete(counts)
    if len(values) and np.abs(values[np.isfinite(values)]).max(initial=0) > 1 + SLACK:
        raise ConfigurationError(
            f"actions go from {values.min():g} to {values.max():g}, and the file does not say what "
            "their bounds are",
            hint="name the environment that they are for (env=...), or give it spaces",
        )
    return gs.Box(-1, 1, shape, np.float32)
