"""Starts the processes of a run with `training.nproc` above 1, or joins those that Slurm started.

`worldflux-run` composes and checks once. The ranks that it then starts train; this process watches
them, forwards signals to them and reports how they ended.
"""

from __future__ import annotations

import logging
import logging.config
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch.multiprocessing import ProcessExitedException, start_processes

from worldflux.config.overrides import command
from worldflux.core.ranks import ProcessGroup, RankLost
from worldflux.errors import ConfigurationError, TrainingError, WorldFluxError
from worldflux.run_folder.checkpoints import CheckpointFolder
from worldflux.run_folder.disk import shown
from worldflux.run_folder.names import CHECKPOINTS
from worldflux.run_folder.state import claim, inherit
from worldflux.runner.run import folder_of, run
from worldflux.runner.slurm_task import SlurmTask, slurm_task
from worldflux.training.output import lasting_output
from worldflux.training.signals import Stopped, stop_signals

if TYPE_CHECKING:
    from worldflux.config.run import RunConfig

MEETING_TIMEOUT = timedelta(minutes=10)  # until all tasks of a step have started
FAREWELL_SECONDS = 10.0  # until the ranks that live have reported so
GRACE_SECONDS = 30.0  # until the others of a rank that died are stopped, and then killed
HERE = "127.0.0.1"


def launch(config: RunConfig, run_dir: Path, log_config: Mapping[str, Any] | None = None) -> float:
    """Trains with ``training.nproc`` processes and returns what `worldflux.runner.run.run` returns.

    log_config: how the ranks log, for logging.config. Ends as a run of one process does;
    TrainingError names a rank that died.
    """
    nproc = config.training.nproc
    task = slurm_task(nproc)
    if task is not None:
        return run_task(config, run_dir, task)
    if config.training.resolve_device() == "cuda" and torch.cuda.device_count() < nproc:
        raise ConfigurationError(
            f"training.nproc={nproc} takes a GPU for each process, but this machine has "
            f"{torch.cuda.device_count()}"
        )
    return _spawn(config, run_dir, log_config)


# === Ranks that this process starts ===========================================================


class RankFailed(RuntimeError):
    """A bug in a rank; the text is its traceback."""


# What ends a rank, the reason of a failure before its consequences.
ENDS = (RankFailed, WorldFluxError, RankLost, KeyboardInterrupt, Stopped)


def _spawn(config: RunConfig, run_dir: Path, log_config: Mapping[str, Any] | None) -> float:
    from torch.distributed import TCPStore

    folder, nproc = folder_of(config, run_dir), config.training.nproc
    queue = multiprocessing.get_context("spawn").SimpleQueue()
    with claim(folder):
        store = TCPStore(HERE, 0, is_master=True, wait_for_workers=False)
        logs = log_config, logging.getLogger().level
        context = start_processes(
            _rank,
            (config, run_dir, logs, os.getpid(), store.port, queue),
            nprocs=nproc,
            join=False,
        )
        with _forwarding(context.processes) as received:
            try:
                while not context.join(timeout=0.2, grace_period=GRACE_SECONDS):
                    pass
            except ProcessExitedException as error:
                _raise_death(error, folder, nproc, received)
    outcomes = {}
    while not queue.empty():
        rank, outcome = queue.get()
        outcomes[rank] = outcome
    if signal.SIGINT in received and len(outcomes) < nproc:  # it had not begun to train
        raise KeyboardInterrupt
    return _result(outcomes)


@contextmanager
def _forwarding(processes: Sequence[BaseProcess]) -> Iterator[list[int]]:
    """While entered, stop signals go on to the processes; yields those that came."""
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        # The first one requests a stop, a second Ctrl-C interrupts at once, a third one kills.
        sent = signal.SIGKILL if received.count(signal.SIGINT) > 2 else number
        for process in processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, sent)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, forward) for number in stop_signals()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise_death(
    error: ProcessExitedException, folder: Path, nproc: int, received: Sequence[int]
) -> NoReturn:
    """Raises how the run ends because a rank died."""
    if -error.exit_code in received:  # it had not begun to train
        if -error.exit_code == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 - error.exit_code)
    how = f"ended with exit code {error.exit_code}"
    if error.signal_name is not None:
        how = f"was killed by {error.signal_name}"
    text = f"rank {error.error_index} of {nproc} {how}, which ends the run"
    if CheckpointFolder(folder / CHECKPOINTS).folders():
        continuing = command("worldflux-run", f"resume={shown(folder)}")
        text += f"; continue from its last checkpoint with: {continuing}"
    raise TrainingError(text)


@lasting_output()
def _rank(
    rank: int,
    config: RunConfig,
    run_dir: Path,
    logs: tuple[Mapping[str, Any] | None, int],
    parent: int,
    port: int,
    queue: SimpleQueue[tuple[int, float | BaseException]],
) -> None:
    """What each started process runs."""
    os.setpgid(0, 0)  # Ctrl-C reaches the parent alone, which forwards it
    if os.getppid() != parent:
        os._exit(1)
    log_config, level = logs
    if log_config is not None:
        logging.config.dictConfig(dict(log_config))
        logging.getLogger().setLevel(level)
    _log_as(rank)
    if rank == 0:
        inherit(folder_of(config, run_dir))
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // config.training.nproc))
    task = SlurmTask(rank, config.training.nproc, rank, HERE, port)
    queue.put((rank, _outcome(config, run_dir, task)))
    if os.getppid() != parent:
        os._exit(0)  # nobody is left to take the outcome


def _outcome(config: RunConfig, run_dir: Path, task: SlurmTask) -> float | BaseException:
    """The score of the run, or what ended it in this rank."""
    ranks: ProcessGroup | None = None
    try:
        device = _device(config, task.local)
        ranks = ProcessGroup(device, store=_store(task, False), rank=task.rank, size=task.size)
        return run(_on(config, device), run_dir, ranks=ranks)
    except ENDS as error:
        return error
    except Exception:
        return RankFailed(f"rank {task.rank} failed\n\n{traceback.format_exc()}")
    finally:
        if ranks is not None:
            ranks.leave()


def _result(outcomes: Mapping[int, float | BaseException]) -> float:
    """The score of the run; raises what ended it."""
    for kind in ENDS:
        for rank, outcome in sorted(outcomes.items()):
            if not isinstance(outcome, kind):
                continue
            if isinstance(outcome, RankLost):
                raise TrainingError(str(outcome))
            if isinstance(outcome, WorldFluxError) and rank > 0:
                outcome = outcome.labelled(f"rank {rank}: ")
            raise outcome
    score = outcomes[0]
    assert isinstance(score, float)
    return score


# === Ranks that Slurm started =================================================================


def run_task(config: RunConfig, run_dir: Path | None, task: SlurmTask) -> float:
    """Trains as one task of a Slurm step; the run folder is that of the first task."""
    _log_as(task.rank)
    device = _device(config, task.local)
    store: Any = _store(task, task.rank == 0)
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


def _store(task: SlurmTask, keeps: bool) -> Any:
    """Where the ranks meet; `keeps`: in this process."""
    from torch.distributed import TCPStore

    try:
        return TCPStore(
            task.host, task.port, task.size, keeps, MEETING_TIMEOUT, wait_for_workers=False
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
    return replace(config, training=training)


def _log_as(rank: int) -> None:
    """The first rank tells the run; of the others only what is wrong is heard, with their name."""
    if rank == 0:
        return
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    for handler in root.handlers:
        layout = handler.formatter._fmt if handler.formatter is not None else "%(message)s"
        handler.setFormatter(logging.Formatter(f"[rank {rank}] {layout}"))
