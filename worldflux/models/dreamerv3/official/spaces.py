"""Observation and action spaces of an official checkpoint, from its weights and recorded steps.

The official settings do not name them. Widths and classes are known from the weights; shapes and
the order of image keys from the recorded steps, where they are there.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldflux.config.files import read_arrays
from worldflux.config.spaces import Space
from worldflux.errors import CheckpointError
from worldflux.models.dreamerv3.official.config import setting

_VECTOR = re.compile(r"dec/vec/(?P<key>.+)/(?P<out>pred|logits)/(kernel|bias)")
_ACTION = re.compile(r"pol/head/(?P<key>.+)/(?P<out>mean|stddev|logits)/(kernel|bias)")
IMAGE_KEY = "image"  # what official environments call their picture

Params = Mapping[str, np.ndarray]


def recorded_arrays(chunks: Iterable[Path]) -> dict[str, np.ndarray]:
    """The newest readable chunk of recorded steps: each key `[length, ...]`; may be empty."""
    for path in chunks:
        try:
            return read_arrays(path)
        except (OSError, ValueError):
            continue
    return {}


def _outputs(params: Params, pattern: re.Pattern[str]) -> dict[str, tuple[int, bool]]:
    """Output keys with their width, which most of their arrays must agree on, and discreteness."""
    votes: dict[str, Counter[int]] = {}
    discrete: dict[str, bool] = {}
    for name, array in params.items():
        if (match := pattern.fullmatch(name)) and array.ndim:
            key, kernel = match["key"], name.endswith("/kernel")
            width = math.prod(array.shape[1:] if kernel else array.shape)
            votes.setdefault(key, Counter())[width] += 1
            discrete[key] = match["out"] == "logits"
    return {key: (count.most_common(1)[0][0], discrete[key]) for key, count in votes.items()}


def _space(width: int, discrete: bool, recorded: np.ndarray | None) -> Space:
    if not discrete:
        return Space((width,) if recorded is None else recorded.shape[1:], "float32")
    shape = () if recorded is None else recorded.shape[1:]
    entries = math.prod(shape)
    return Space(shape, "int64", (width // max(1, entries),) * entries)


def action_spaces_of(params: Params, chunks: Iterable[Path]) -> dict[str, Space]:
    """Action keys from the policy's outputs."""
    recorded = recorded_arrays(chunks)
    return {
        key: _space(width, discrete, recorded.get(key))
        for key, (width, discrete) in sorted(_outputs(params, _ACTION).items())
    }


def obs_spaces_of(
    params: Params, agent: Mapping[str, Any], chunks: Iterable[Path]
) -> dict[str, Space]:
    """Vector keys from the decoder's outputs, image keys from the recorded steps.

    Without recorded steps there may be one square image.
    """
    recorded = recorded_arrays(chunks)
    spaces = {
        key: _space(width, discrete, recorded.get(key))
        for key, (width, discrete) in _outputs(params, _VECTOR).items()
    }
    images = {
        key: Space((array.shape[3], *array.shape[1:3]), "uint8")
        for key, array in recorded.items()
        if array.dtype == np.uint8 and array.ndim == 4 and not key.startswith("log/")
    }
    if any(name.startswith("dec/imgout/") for name in params):
        spaces |= images or {IMAGE_KEY: _square_image(params, agent)}
    order = {key: place for place, key in enumerate(recorded)}
    return {key: spaces[key] for key in sorted(spaces, key=lambda k: order.get(k, -1))}


def _square_image(params: Params, agent: Mapping[str, Any]) -> Space:
    mults = setting(agent, "dec.simple.mults")
    channels = setting(agent, "dec.simple.depth") * mults[-1]
    if "dec/spnorm/scale" not in params or "dec/sp2/bias" not in params:
        raise CheckpointError("missing: dec/spnorm/scale, dec/sp2/bias; the image size is unknown")
    side = math.isqrt(params["dec/sp2/bias"].size // channels) << len(mults)
    return Space((params["dec/imgout/bias"].size, side, side), "uint8")
