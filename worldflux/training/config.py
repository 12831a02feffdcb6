"""The training configuration, at the import path of the configuration guide."""

from worldflux.config.training import TrainingConfig

__all__ = ["TrainingConfig"]
