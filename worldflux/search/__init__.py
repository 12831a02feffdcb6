"""Hyperparameter search: spaces, studies that several processes share, and trials.

Its modules import Optuna: `require_optuna` reports a missing one before they are imported.
"""

from __future__ import annotations

from worldflux.errors import MissingDependencyError

SAMPLERS, PRUNERS = ("tpe", "random"), ("median", "hyperband", "none")
JOURNAL = "journal:"


def require_optuna() -> None:
    """Raises MissingDependencyError with the line that installs Optuna."""
    try:
        import optuna
    except ImportError as error:
        text = "worldflux search needs optuna: pip install 'worldflux[optuna]'"
        raise MissingDependencyError(text) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
