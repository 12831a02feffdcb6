"""What a run is called and where its metrics go: the `run` and `logger` groups."""

from __future__ import annotations

from dataclasses import dataclass

from worldflux.config.base import CheckedConfig
from worldflux.config.fields import field_types
from worldflux.config.options import option, plain_text, plain_texts


@dataclass(frozen=True)
class LoggerConfig(CheckedConfig):
    """Where metrics go besides `metrics.jsonl`, which is always written. A field that is true or false
    is a row of worldflux/training/loggers.py; the others are settings of one of these."""

    tensorboard: bool = option(
        False,
        help="Writes TensorBoard event files beside metrics.jsonl; costs a little time for each record.",
    )
    csv: bool = option(
        False,
        help="Writes metrics.csv beside metrics.jsonl: a row for each number, for pandas and spreadsheets.",
    )

    wandb: bool = option(
        False,
        help="Sends the run to Weights & Biases (with WANDB_MODE=offline to wandb/ in the run folder), at each checkpoint what was logged before it.",
    )
    wandb_project: str | None = option(
        None,
        check=plain_text,
        help="Project at Weights & Biases; null: WANDB_PROJECT, else worldflux.",
    )
    wandb_entity: str | None = option(
        None,
        check=plain_text,
        help="Team or user at Weights & Biases; null: the default of who is logged in.",
    )

    mlflow: bool = option(
        False,
        help="Sends the run to MLflow, at each checkpoint what was logged before it.",
    )
    mlflow_uri: str | None = option(
        None,
        check=plain_text,
        help="MLflow's tracking server, database or folder; null: MLFLOW_TRACKING_URI, else the folder mlruns in training.output_dir. It stands in the manifest: a password belongs into the environment.",
    )
    mlflow_experiment: str | None = option(
        None,
        check=plain_text,
        help="Experiment at MLflow; null: MLFLOW_EXPERIMENT_NAME, else worldflux.",
    )

    def names(self) -> list[str]:
        """The loggers that are switched on."""
        switches = [name for name, hint in field_types(type(self)).items() if hint is bool]
        return [name for name in switches if getattr(self, name)]


@dataclass(frozen=True)
class RunLabels(CheckedConfig):
    """What a person calls a run: for the manifest and for loggers; it changes nothing in the training."""

    name: str | None = option(
        None, check=plain_text, help="Name that loggers show; null: that of the run folder."
    )
    group: str | None = option(
        None,
        check=plain_text,
        help="Runs of one group stand together in loggers; null: in a sweep its name, else none.",
    )
    tags: tuple[str, ...] = option(
        (), check=plain_texts, help="Words to find the run by, such as [baseline,paper]."
    )
    notes: str | None = option(
        None, check=plain_text, help="What the run is for, in a sentence of your own."
    )
