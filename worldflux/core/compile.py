"""torch.compile for the heavy sections of a model, where it can be had."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import torch

from worldflux.errors import ConfigurationError

Function = TypeVar("Function", bound=Callable[..., Any])


class Compiler(Protocol):
    """Gives a function of tensors in the form in which it is to run."""

    def __call__(self, function: Function, /) -> Function: ...


def eager(function: Function, /) -> Function:
    """The function itself."""
    return function


def compiled(function: Function, /) -> Function:
    """The function compiled; shapes are taken as fixed, so that it is compiled once."""
    return cast(Function, torch.compile(function, dynamic=False, fullgraph=True))


def compiled_in_pieces(function: Function, /) -> Function:
    """The same where some of it may not be compilable, which then runs as it is."""
    return cast(Function, torch.compile(function, dynamic=False))


def compiler(enabled: bool, device: torch.device, whole: bool = True) -> Compiler:
    """`compiled` (whole: all of it is known to be compilable) or `eager`. Raises ConfigurationError if the CPU has no C++ compiler to compile
    with."""
    if enabled:
        check_compiler(device)
    if not enabled:
        return eager
    return compiled if whole else compiled_in_pieces


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
