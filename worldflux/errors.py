"""Errors a user can cause, and how each is told."""

from __future__ import annotations


class WorldFluxError(Exception):
    """Base class of every error this package raises on purpose."""

    exit_code = 2


class ConfigurationError(WorldFluxError):
    """A configuration value, key or file is wrong."""


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
