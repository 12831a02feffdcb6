"""Starts jobs through a Hydra launcher: in this process, in several, or on a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from worldflux.sweep.jobs import Job
from worldflux.sweep.work import train_job


@runtime_checkable
class Scheduler(Protocol):
    """What a launcher offers beside Hydra's `launch` if its jobs outlive the command.

    detach: `launch` hands the jobs over and does not wait for them.
    """

    detach: bool

    def queued(self, folders: Sequence[Path]) -> Mapping[Path, str]:
        """Those of the jobs' folders whose job waits, starts or runs at the scheduler, with the
        name that it has there."""

    def attach(self, folders: Sequence[Path]) -> None:
        """Waits until none of these folders' jobs is queued or runs."""


class Launching:
    """A launcher that is ready to start the jobs of one sweep.

    root: the sweep's folder. words: overrides of the `hydra` section. first: the overrides of any
    job, since a recipe may bring its launcher along. To be made where Hydra is initialized.
    """

    def __init__(
        self, root: Path, config_name: str, words: Sequence[str], first: Sequence[str]
    ) -> None:
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        # Jobs save their configuration themselves, once they have claimed their folder.
        own = [f"hydra.sweep.dir={quoted(str(root))}", "hydra.output_subdir=null"]
        self.config: DictConfig = hydra.compose_config(
            config_name=config_name,
            overrides=[*words, *own, *first],
            run_mode=RunMode.MULTIRUN,
            with_log_configuration=True,
        )
        self._callbacks = Callbacks(self.config)
        self._config_name = config_name
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(
                config_loader=hydra.config_loader, callbacks=self._callbacks
            ),
            task_function=train_job,
            config=self.config,
        )

    @property
    def scheduler(self) -> Scheduler | None:
        return self.launcher if isinstance(self.launcher, Scheduler) else None

    def start(self, jobs: Sequence[Job]) -> Sequence[Any]:
        """Starts the jobs and waits for them; returns Hydra's JobReturn of each."""
        told: dict[str, Any] = {"config": self.config, "config_name": self._config_name}
        self._callbacks.on_multirun_start(**told)
        try:
            words = [[*job.words, f"hydra.sweep.subdir={quoted(job.name)}"] for job in jobs]
            return self.launcher.launch(words, initial_job_idx=0)
        finally:
            self._callbacks.on_multirun_end(**told)


def quoted(text: str) -> str:
    """A text as the value of an override, whatever characters it has."""
    return QuotedString(text=text, quote=Quote.single).with_quotes()
