"""What runs on the node: one job of a sweep, which continues by itself when it is interrupted."""

from __future__ import annotations

import copy
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from worldflux.config.composition import checked
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.names import MANIFEST
from worldflux.run_folder.state import RunState, claimed_by
from worldflux.runner.continuation import chosen
from worldflux.slurm import queue
from worldflux.training.signals import Stopped

log = logging.getLogger("worldflux.slurm")

FRUITLESS = 3  # starts that came to their time limit without an update: more would do no better
LEASE = 180.0  # seconds for which a file server may keep the locks of a node that died


@dataclass(eq=False)
class SlurmJob:
    """One job, as submitit takes it to the node.

    Slurm sends submitit's signal shortly before the time limit, and when another job needs the
    place. The training then writes its checkpoint and stops; after that submitit's own handler
    requeues the job, which continues from there.

    singletons: Hydra's state in the command. folder: of the run.
    """

    task: TaskFunction
    config: DictConfig
    context: HydraContext
    singletons: dict[Any, Any]
    folder: Path
    began: float = 0.0
    first_update: int = 0
    fruitless: int = 0  # starts until the time limit without an update

    def __call__(self) -> str:
        from submitit import JobEnvironment

        environment = JobEnvironment()
        logging.getLogger("submitit").propagate = False  # it prints its messages itself
        # Left by a process that was killed while it saved this object; it would stop the next one.
        pickled = environment.paths.submitted_pickle
        pickled.with_suffix(f"{pickled.suffix}.save_tmp").unlink(missing_ok=True)
        self.began, self.first_update = time.time(), self._updates()
        if int(os.environ.get("SLURM_RESTART_COUNT") or 0):
            self._wait_for_claim()
        number = getattr(signal, f"SIG{environment.USR_SIG}")
        requeue = {number: signal.getsignal(number)}
        try:
            state = self._run(environment.job_id, environment.global_rank)
        except Stopped as stopped:
            self._after(stopped, requeue, environment.job_id)
            raise
        if state == RunState.FAILED:
            raise SystemExit(1)  # so that Slurm, and the mail it sends, report that it failed
        return state

    def resolved(self) -> dict[str, Any]:
        """The configuration of its run, as plain data."""
        return chosen(checked(copy.deepcopy(self.config)))

    def _run(self, id: str, rank: int) -> str:
        # Copies: this object is saved again at a requeue, as it was submitted.
        Singleton.set_state(copy.deepcopy(self.singletons))
        setup_globals()
        config = copy.deepcopy(self.config)
        with open_dict(config):
            config.hydra.job.id = id
            if rank:
                config.hydra.output_subdir = None
        done = run_job(
            task_function=self.task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
            hydra_context=self.context,
            configure_logging=rank == 0,
        )
        return str(done.return_value)

    def _wait_for_claim(self) -> None:
        """Until the process that this one replaces has let go of the folder."""
        while claimed_by(self.folder) is not None and time.time() < self.began + LEASE:
            time.sleep(1)

    def _after(self, stopped: Stopped, requeue: dict[int, Any], id: str) -> None:
        """Requeues the job if it was stopped only to make room."""
        handler: Callable[[int, Any], None] | None = requeue.get(stopped.signal)
        if handler is None and stopped.signal == signal.SIGTERM and queue.is_preempted(id):
            # A cluster that stops preempted jobs with SIGTERM takes one that ends as completed.
            (handler,) = requeue.values()
        if callable(handler):
            handler(stopped.signal, None)

    def checkpoint(self) -> Any:
        """What is to run after the requeue, for submitit; None: nothing, it would be in vain."""
        from submitit.helpers import DelayedSubmission

        limit = int(self.config.hydra.launcher.timeout_min)
        whole = time.time() - self.began > 60 * limit / 2
        progress = self._updates() > self.first_update
        self.fruitless = self.fruitless + whole if not progress else 0
        if self.fruitless >= FRUITLESS:
            text = "no update was finished in %d starts; not requeued: raise %s=%d"
            log.error(text, FRUITLESS, "hydra.launcher.timeout_min", limit)
            return None
        return DelayedSubmission(self)

    def _updates(self) -> int:
        if not (self.folder / MANIFEST).exists():
            return 0
        return int(read_manifest(self.folder).get("global_step") or 0)
