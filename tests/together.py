"""Several processes that train together, forked from the test: the collectives are real."""

import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from torch.distributed import FileStore

from worldflux.core.ranks import ProcessGroup, Ranks

SECONDS = 120


def together(folder: os.PathLike, work: Callable[[Ranks], Any], size: int = 2) -> list[Any]:
    """Runs `work(ranks)` in `size` processes and returns what each gives: a value, or the exception
    that ended it (KeyboardInterrupt and SystemExit too); None for one that was killed."""
    context = multiprocessing.get_context("fork")
    meeting = os.path.join(folder, f"meeting-{len(os.listdir(folder))}")
    pipes, processes = [], []
    for rank in range(size):
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_one, args=(work, meeting, rank, size, there))
        process.start()
        there.close()
        pipes.append(here)
        processes.append(process)
    answers = [_answer(pipe) for pipe in pipes]
    for process in processes:
        process.join(SECONDS)
        process.kill()
    return answers


def _answer(pipe: Any) -> Any:
    try:
        if pipe.poll(SECONDS):
            kind, value = pickle.loads(pipe.recv_bytes())
            assert kind != "crash", value
            return value
        raise AssertionError("a process did not answer")
    except EOFError:
        return None


def _one(work: Callable[[Ranks], Any], meeting: str, rank: int, size: int, pipe: Any) -> None:
    torch.set_num_threads(1)
    try:
        store = FileStore(meeting, size)
        store.set_timeout(timedelta(seconds=SECONDS))
        group = ProcessGroup(torch.device("cpu"), store=store, rank=rank, size=size)
        try:
            answer = "value", work(group)
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            error.__traceback__ = None
            answer = "value", error
        finally:
            group.leave()
        pipe.send_bytes(pickle.dumps(answer))  # tensors by value
    except BaseException:
        pipe.send_bytes(pickle.dumps(("crash", traceback.format_exc())))
    os._exit(0)  # pytest's own exit is not this process's
