"""Errors a user can cause, and how each is reported."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from types import MappingProxyType
from typing import TypeVar

E = TypeVar("E", bound="WorldFluxError")
C = TypeVar("C", bound="ConfigurationError")
_NONE: Mapping[str, str] = MappingProxyType({})


def described(error: BaseException) -> str:
    """What foreign code raised, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class WorldFluxError(Exception):
    """Base class of every error this package raises on purpose.

    label: what stands in front of its text, such as the file and line of a wrong key.
    """

    exit_code = 2
    label = ""

    def labelled(self: E, label: str) -> E:
        """The same error with more in front of its text."""
        other = copy(self)
        other.label = label + self.label
        return other

    def __str__(self) -> str:
        return self.label + super().__str__()


class ConfigurationError(WorldFluxError):
    """A configuration value, key or file is wrong.

    reason: what is wrong, as it reads behind the key: `must be >= 1, got 0`, or `=Nope-v1: no such
        environment`. key: the key as the user writes it, with dots; empty where the reason names
        what is meant. hint: what to do about it.
    """

    def __init__(self, reason: str = "", *, key: str = "", hint: str = "") -> None:
        super().__init__(reason)
        self.reason, self.key, self.hint = reason, key, hint.strip()

    def within(self: C, group: str, spelling: Mapping[str, str] = _NONE) -> C:
        """The complaint of a group's class about its fields, with the key inside of the group; the
        class's label is left out. spelling: fields whose key has another name."""
        other = copy(self)
        other.label = "" if self.key else f"{group}: "
        other.key = self.key and f"{group}.{spelling.get(self.key, self.key)}"
        return other

    def about(self: C, key: str, hint: str = "") -> C:
        """The same complaint about a value that the user wrote under another key. hint: another
        one, as the first may speak of keys that the user does not know."""
        other = copy(self)
        other.key, other.hint = key, hint.strip()
        return other

    def __str__(self) -> str:
        text = self.key + (" " if self.key and self.reason[:1] not in "=:," else "") + self.reason
        if self.hint:
            text += (" " if text.endswith(".") else "; ") + self.hint
        return self.label + text


class UnknownParameterError(ConfigurationError, TypeError):
    """A field name that a configuration class does not have."""


class UnknownPresetError(ConfigurationError, ValueError):
    """A family, size or alias that does not exist."""


class ShapeMismatchError(WorldFluxError):
    """Arrays do not have the shapes that were declared."""


class ValidationError(WorldFluxError):
    """A tensor given to a model does not fit its configuration."""


class BufferError(WorldFluxError):
    """A replay buffer or replay file cannot serve what was asked."""


class CheckpointError(WorldFluxError):
    """A checkpoint or model folder is missing, damaged or does not fit."""


class DiskError(CheckpointError):
    """The disk refuses: it is full, read-only, or the folder is gone. Ends a running training."""

    exit_code = 3


class RunBusyError(WorldFluxError):
    """Another process writes the run folder at this moment."""


class MissingDependencyError(WorldFluxError):
    """An optional package is not installed; the message holds the line that installs it."""


class EnvironmentUnavailableError(ConfigurationError, MissingDependencyError):
    """An environment that exists refuses to start on this machine."""


class TrainingError(WorldFluxError):
    """Training stopped itself (a loss that is not finite, no memory, a dead environment)."""

    exit_code = 3
