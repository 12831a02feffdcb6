"""Official spaces, settings of the optimizer and layouts of weights, in our terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from worldflux.config.spaces import Space
from worldflux.errors import ConfigurationError
from worldflux.models.dreamerv3.official.config import setting
from worldflux.models.dreamerv3.official.weights import CONV, LINEAR, Weight

STEP_KEYS = ("reward", "is_first", "is_last", "is_terminal")


def to_official(weight: Weight, value: Tensor) -> np.ndarray:
    """Our tensor in the official layout."""
    value = value.detach().cpu()
    if weight.layout == LINEAR:
        value = value.T
    elif weight.layout == CONV:
        value = value.permute(2, 3, 1, 0)
    return value.contiguous().numpy()


def from_official_image(image: np.ndarray) -> np.ndarray:
    """`[..., H, W, C]` as `[..., C, H, W]`."""
    return np.ascontiguousarray(np.moveaxis(image, -1, -3))


def observation_space(entry: Mapping[str, Any]) -> Space:
    """An official observation space {dtype, shape, discrete, classes} as ours."""
    shape = tuple(entry["shape"])
    if len(shape) == 3:
        return Space((shape[2], *shape[:2]), "uint8")
    return _vector_space(shape, entry)


def _vector_space(shape: tuple[int, ...], entry: Mapping[str, Any]) -> Space:
    if not entry["discrete"]:
        return Space(shape, "float32")
    classes = np.broadcast_to(np.asarray(entry["classes"]), shape).flatten().tolist()
    return Space(shape, "int64", tuple(classes))


def action_space(entry: Mapping[str, Any]) -> Space:
    """An official action space as ours."""
    return _vector_space(tuple(entry["shape"]), entry)


def training_from_official(agent: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of our TrainingConfig for the official optimizer settings.

    Raises ConfigurationError for learning-rate schedules, which end differently there.
    """
    opt = setting(agent, "opt")
    if opt["schedule"] != "const":
        raise ConfigurationError(f"agent.opt.schedule is {opt['schedule']!r}, expected 'const'")
    return {
        "optimizer": "laprop",
        "learning_rate": float(opt["lr"]),
        "agc": float(opt["agc"]),
        "optimizer_eps": float(opt["eps"]),
        "beta1": float(opt["beta1"]),
        "beta2": float(opt["beta2"]),
        "weight_decay": float(opt["wd"]),
        "warmup_steps": int(opt["warmup"]),
        "grad_clip": 0.0,
    }
