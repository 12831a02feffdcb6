"""torch.compile for the heavy sections of a model, where it can be had."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import torch

from worldflux.errors import ConfigurationError


def compiler(enabled: bool, device: torch.device) -> Callable[[Any], Any] | None:
    """What compiles a function of tensors, or None to run eagerly.

    Shapes are taken as fixed, so that each section is compiled once. Raises ConfigurationError if
    compilation is asked for and no C++ compiler can be found for the CPU.
    """
    if not enabled:
        return None
    if device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise ConfigurationError(
            "training.compile_model=true needs a C++ compiler (g++ or clang++) on the CPU; install"
            " one or set training.compile_model=false"
        )
    return lambda function: torch.compile(function, dynamic=False, fullgraph=True)
