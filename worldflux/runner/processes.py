"""Starts the processes of a run with `training.nproc` above 1, or joins those that Slurm started.

`worldflux-run` composes and checks once. PyTorch's elastic engine then starts the ranks and watches
them; this process only forwards signals to them and tells how they ended.
"""

from __future__ import annotations

import dataclasses
import logging
import logging.config
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from worldflux.core.ranks import ProcessGroup, RankLost, Ranks
from worldflux.errors import ConfigurationError, TrainingError, WorldFluxError
from worldflux.run_folder.checkpoints import CheckpointFolder
from worldflux.run_folder.disk import shown
from worldflux.run_folder.names import CHECKPOINTS
from worldflux.run_folder.state import claim, inherit
from worldflux.runner.run import folder_of, run
from worldflux.runner.slurm_task import SlurmTask, slurm_task
from worldflux.training.signals import STOP_SIGNALS, Stopped

if TYPE_CHECKING:
    from worldflux.config.run import RunConfig

MEETING_TIMEOUT = timedelta(minutes=10)  # until all tasks of a step have started
FAREWELL_SECONDS = 10.0  # until the ranks that live have told so
ENGINE_LOGS = ("torch.distributed.elastic", "torch.multiprocessing")


def launch(config: RunConfig, run_dir: Path, log_config: Mapping[str, Any] | None = None) -> float:
    """Trains with ``training.nproc`` processes and returns what `worldflux.runner.run.run` returns.

    log_config: how the ranks log, for logging.config. Ends as a run of one process does; TrainingError names
    a rank that died.
    """
    task = slurm_task(config.training.nproc)
    if task is not None:
        return run_task(config, run_dir, task)
    if config.training.resolve_device() == "cuda" and torch.cuda.device_count() < (
        wanted := config.training.nproc
    ):
        raise ConfigurationError(
            f"training.nproc={wanted} takes a GPU for each process, but this machine has "
            f"{torch.cuda.device_count()}"
        )
    return _Elastic(config, run_dir, log_config).run()


# === Ranks that this process starts ===========================================================


@dataclass
class Outcome:
    """How a rank ended. stopped: the signal that stopped it. lost: it ended because
    another one did. crash: the traceback of a bug."""

    score: float | None = None
    stopped: int | None = None
    error: WorldFluxError | None = None
    lost: str | None = None
    crash: str | None = None


class _Elastic:
    def __init__(self, config: RunConfig, run_dir: Path, log_config: Mapping[str, Any] | None):
        self.config = config
        self.folder = folder_of(config, run_dir)
        self.args = (config, run_dir, log_config, logging.getLogger().level, os.getpid())
        self.outcomes: dict[int, Outcome] = {}
        self.failure: Exception | None = None
        self.received: list[int] = []
        self._before = set(multiprocessing.active_children())

    def run(self) -> float:
        # In a thread of its own the engine leaves the signals to us: it would kill the ranks half a
        # minute after the first one, however long their checkpoint takes.
        engine = threading.Thread(target=self._engine, name="elastic", daemon=True)
        with claim(self.folder), self._forwarding(), _quiet(*ENGINE_LOGS):
            engine.start()
            while engine.is_alive():
                engine.join(0.2)
        if self.failure is not None:
            self._tell_failure(self.failure)
        return _answer(self.outcomes)

    def _engine(self) -> None:
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=self.config.training.nproc,
            run_id=f"worldflux-{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            start_method="spawn",
        )
        try:
            self.outcomes = elastic_launch(config, _rank)(*self.args)
        except Exception as error:
            self.failure = error

    @contextmanager
    def _forwarding(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._forward) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)
        # The first one asks to stop, a second Ctrl-C interrupts at once, a third one does not ask.
        sent = signal.SIGKILL if self.received.count(signal.SIGINT) > 2 else number
        for child in multiprocessing.active_children():
            if child not in self._before and child.pid is not None:
                try:
                    os.kill(child.pid, sent)
                except ProcessLookupError:
                    pass

    def _tell_failure(self, failure: Exception) -> None:
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

        if not isinstance(failure, ChildFailedError):
            raise failure
        rank, process = failure.get_first_failure()
        if -process.exitcode in self.received:  # it had not begun to train
            if -process.exitcode == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(128 - process.exitcode)
        if process.exitcode < 0:
            how = f"was killed by {signal.Signals(-process.exitcode).name}"
        else:
            how = f"ended with exit code {process.exitcode}"
        text = f"rank {rank} of {self.config.training.nproc} {how}, which ends the run"
        if CheckpointFolder(self.folder / CHECKPOINTS).folders():
            text += f"; continue from its last checkpoint with: worldflux-run resume={shown(self.folder)}"
        raise TrainingError(text)


def _rank(
    config: RunConfig,
    run_dir: Path,
    log_config: Mapping[str, Any] | None,
    log_level: int,
    parent: int,
) -> Outcome:
    """What each started process runs."""
    os.setpgid(0, 0)  # Ctrl-C reaches the parent alone, which forwards it
    if os.getppid() != parent:
        os._exit(1)
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    if log_config is not None:
        logging.config.dictConfig(dict(log_config))
        logging.getLogger().setLevel(log_level)
    _log_as(rank)
    if rank == 0:
        inherit(folder_of(config, run_dir))
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // config.training.nproc))
    outcome = Outcome()
    try:
        device = _device(config, local)
        outcome = _outcome(_on(config, device), run_dir, ProcessGroup(device))
    except RankLost as error:
        outcome.lost = str(error)
    if os.getppid() != parent:
        os._exit(0)  # nobody is left to take the outcome
    return outcome


def _outcome(config: RunConfig, run_dir: Path, ranks: Ranks) -> Outcome:
    try:
        return Outcome(score=run(config, run_dir, ranks=ranks))
    except WorldFluxError as error:
        return Outcome(error=error)
    except RankLost as error:
        return Outcome(lost=str(error))
    except KeyboardInterrupt:
        return Outcome(stopped=signal.SIGINT)
    except Stopped as stop:
        return Outcome(stopped=stop.signal)
    except Exception:
        return Outcome(crash=traceback.format_exc())
    finally:
        ranks.leave()


def _answer(outcomes: Mapping[int, Outcome]) -> float:
    """What the run gives as a whole: the reason of a failure before its consequences."""
    ranked = sorted(outcomes.items())
    for rank, outcome in ranked:
        if outcome.crash is not None:
            raise RuntimeError(f"rank {rank} failed\n\n{outcome.crash}")
    errors = [(rank, outcome.error) for rank, outcome in ranked if outcome.error is not None]
    if errors:
        rank, error = errors[0]
        if rank > 0:
            error = error.labelled(f"rank {rank}: ")
        raise error
    lost = [outcome.lost for _, outcome in ranked if outcome.lost is not None]
    if lost:
        raise TrainingError(lost[0])
    stopped = [outcome.stopped for _, outcome in ranked if outcome.stopped is not None]
    if signal.SIGINT in stopped:
        raise KeyboardInterrupt
    if stopped:
        raise Stopped(signal.Signals(stopped[0]))
    score = outcomes[0].score
    assert score is not None
    return score


# === Ranks that Slurm started =================================================================


def run_task(config: RunConfig, run_dir: Path | None, task: SlurmTask) -> float:
    """Trains as one task of a Slurm step; the run folder is that of the first task."""
    _log_as(task.rank)
    device = _device(config, task.local)
    store: Any = _store(task)
    if task.rank == 0:
        store.set("run_dir", str(run_dir))
    folder = Path(store.get("run_dir").decode())
    group = ProcessGroup(device, store=store, rank=task.rank, size=task.size)
    try:
        return run(_on(config, device), folder, ranks=group)
    except RankLost as error:
        raise _who_is_lost(store, task, error) from error
    except Exception as error:
        _farewell(store, f"ended/{task.rank}", str(error))
        raise
    finally:
        group.leave()


def _store(task: SlurmTask) -> Any:
    from torch.distributed import TCPStore

    try:
        return TCPStore(
            task.host, task.port, task.size, task.rank == 0, MEETING_TIMEOUT, wait_for_workers=False
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(
            f"rank {task.rank} of {task.size} cannot meet the others at {task.host}:{task.port}"
            f" ({reason}); set MASTER_ADDR and MASTER_PORT"
        ) from error


def _who_is_lost(store: Any, task: SlurmTask, error: RankLost) -> BaseException:
    """The line that names the ranks that are gone; SystemExit where another one tells it."""
    keys = [f"lives/{rank}" for rank in range(task.size)]
    lost = [0]  # the first one keeps the store: without an answer it is gone
    try:
        store.set(keys[task.rank], "yes")
        lost = _unheard(store, keys)
        words = [store.get(f"ended/{r}").decode() for r in lost if store.check([f"ended/{r}"])]
    except RuntimeError:
        words = []
    if not lost:
        return TrainingError(str(error))
    if task.rank != min(set(range(task.size)) - set(lost)):
        return SystemExit(TrainingError.exit_code)
    names = ", ".join(f"rank {rank}" for rank in lost)
    how = words[0] if words else "killed, or cut off from the others"
    return TrainingError(f"{names} of {task.size} ended ({how}), which ends the run")


def _unheard(store: Any, keys: list[str]) -> list[int]:
    """The ranks whose keys do not appear for a while."""
    end = time.monotonic() + FAREWELL_SECONDS
    while True:
        lost = [rank for rank, key in enumerate(keys) if not store.check([key])]
        if not lost or time.monotonic() > end:
            return lost
        time.sleep(0.1)


def _farewell(store: Any, key: str, text: str) -> None:
    try:
        store.set(key, text)
    except RuntimeError:
        pass  # the first rank, which keeps the store, is gone


# === Both =====================================================================================


def _device(config: RunConfig, local: int) -> torch.device:
    """The device of a rank: on GPUs one for each process of a machine."""
    device = torch.device(config.training.resolve_device())
    if device.type != "cuda":
        return device
    # A scheduler may show every process its own GPU only.
    device = torch.device("cuda", local % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _on(config: RunConfig, device: torch.device) -> RunConfig:
    training = config.training.with_updates(device=str(device))
    return dataclasses.replace(config, training=training)


def _log_as(rank: int) -> None:
    """The first rank tells the run; of the others only what is wrong is heard, with their name."""
    if rank == 0:
        return
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    for handler in root.handlers:
        layout = handler.formatter._fmt if handler.formatter is not None else "%(message)s"
        handler.setFormatter(logging.Formatter(f"[rank {rank}] {layout}"))


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """What the engine has to say of a failure is told in our own line."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.propagate for logger in loggers]
    silence = logging.NullHandler()
    for logger in loggers:
        logger.propagate = False
        logger.addHandler(silence)
    try:
        yield
    finally:
        for logger, propagate in zip(loggers, before, strict=True):
            logger.propagate = propagate
            logger.removeHandler(silence)
