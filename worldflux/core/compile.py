"""torch.compile for the heavy sections of a model, where it can be had."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
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
    check_compiler(device)
    return lambda function: torch.compile(function, dynamic=False, fullgraph=True)


def check_compiler(device: torch.device) -> None:
    """ConfigurationError if torch.compile would find no C++ compiler, or no headers of Python, for
    the CPU. torch looks for the compiler that CXX names, else for the system's usual one."""
    if device.type != "cpu":
        return
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    missing = None
    if shutil.which(name) is None:
        missing = f"the C++ compiler {name} (or another one, named by CXX)"
    elif not header.is_file():
        missing = f"the headers of Python ({header})"
    if missing is not None:
        raise ConfigurationError(
            f"training.compile_model=true needs {missing} on the CPU; install it or set "
            "training.compile_model=false"
        )
