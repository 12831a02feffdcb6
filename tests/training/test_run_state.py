"""The true state of a run, and that one process at a time writes it. Real processes, killed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.training.test_trainer import At, make
from tests.training.tiny import TinySource
from worldflux.errors import CheckpointError, RunBusyError, TrainingError
from worldflux.run_folder.names import LOCK
from worldflux.run_folder.state import RunState, claim, claimed_by, run_state


@contextmanager
def other_process(work: Callable[[], None]) -> Iterator[int]:
    """A fork that says when `work` is done, then waits to be killed."""
    ready, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os.write(say, b"1")
            signal.pause()
        finally:
            os._exit(1)
    os.close(say)
    try:
        assert os.read(ready, 1) == b"1"
        yield pid
    finally:
        os.close(ready)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def hold(folder: Path) -> Callable[[], None]:
    claimed = claim(folder)
    return lambda: claimed.__enter__()


def test_states_of_runs_that_ended_by_themselves(tmp_path: Path) -> None:
    assert run_state(tmp_path / "nowhere") == RunState.MISSING == "missing"
    (tmp_path / "empty").mkdir()
    assert run_state(tmp_path / "empty") == RunState.MISSING
    seen = []
    look = At(3, lambda: seen.append(run_state(tmp_path / "run")))
    make(tmp_path / "run", callbacks=[look], total_steps=5).train(TinySource())
    assert seen == [RunState.RUNNING]
    assert run_state(tmp_path / "run") == RunState.COMPLETED
    stop = At(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit):
        make(tmp_path / "stopped", callbacks=[stop]).train(TinySource())
    assert run_state(tmp_path / "stopped") == RunState.STOPPED
    trainer = make(tmp_path / "failed")
    trainer.agent.poison_at = 2
    with pytest.raises(TrainingError):
        trainer.train(TinySource())
    assert run_state(tmp_path / "failed") == RunState.FAILED
    (tmp_path / "run" / "run_manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"run_manifest\.json"):
        run_state(tmp_path / "run")


def test_a_killed_run_is_broken_off_and_its_folder_free_again(tmp_path: Path) -> None:
    def train() -> None:
        make(tmp_path, callbacks=[At(5, stop_here)], save_interval=2).train(TinySource())

    def stop_here() -> None:
        os.write(say, b"1")
        signal.pause()

    ready, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        train()
        os._exit(1)
    os.read(ready, 1)
    try:
        assert run_state(tmp_path) == RunState.RUNNING
        assert f"process {pid} on " in str(claimed_by(tmp_path))
        with pytest.raises(RunBusyError, match=f"is being written by process {pid} on") as told:
            make(tmp_path).train(TinySource())
        assert told.value.exit_code == 2 and "\n" not in str(told.value)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert run_state(tmp_path) == RunState.BROKEN_OFF == "broken-off"
    make(tmp_path, save_interval=2).train(TinySource(), resume_from=tmp_path)
    assert run_state(tmp_path) == RunState.COMPLETED


def test_a_claim_is_running_before_there_is_a_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    with claim(folder):
        assert run_state(folder) == RunState.RUNNING
        with claim(folder):  # claims of one process nest
            pass
        assert run_state(folder) == RunState.RUNNING
        ready, say = os.pipe()
        if os.fork() == 0:  # a child is another process, and its end takes nothing from us
            try:
                with claim(folder):
                    os.write(say, b"claimed")
            except RunBusyError:
                os.write(say, b"refused")
            finally:
                os._exit(0)
        assert os.read(ready, 9) == b"refused"
        os.wait()
        code = "import sys; from pathlib import Path; from worldflux.run_folder.state import *; "
        code += "print(run_state(Path(sys.argv[1])), 'torch' in sys.modules)"
        words = [sys.executable, "-c", code, str(folder)]
        assert subprocess.check_output(words, text=True).split() == ["running", "False"]
    assert run_state(folder) == RunState.MISSING and (folder / LOCK).read_bytes() == b""


def test_looking_at_a_run_all_the_time_does_not_refuse_it_its_claim(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()

    def look() -> None:
        parent = os.getpid()
        if os.fork() == 0:
            while os.getppid() == parent:
                claimed_by(tmp_path)
            os._exit(0)

    with other_process(look):
        for _ in range(20):
            with claim(tmp_path):
                pass


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has no locks."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_the_process_itself_is_looked_for(tmp_path: Path) -> None:
    with other_process(hold(tmp_path)) as pid:
        assert run_state(tmp_path) == RunState.RUNNING
        with pytest.raises(RunBusyError, match=f"process {pid}"), claim(tmp_path):
            pass
    assert run_state(tmp_path) == RunState.MISSING
    left = json.loads((tmp_path / LOCK).read_text())
    for change, held in (({"boot": "another"}, False), ({"host": "elsewhere"}, True)):
        (tmp_path / LOCK).write_text(json.dumps({**left, **change}))
        assert (claimed_by(tmp_path) is not None) == held
    # Its number has gone to another process since.
    (tmp_path / LOCK).write_text(json.dumps({**left, "process": os.getppid()}))
    assert claimed_by(tmp_path) is None
    with claim(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot write in the run folder") as told:
        with claim(tmp_path / "file" / "run"):
            pass
    assert told.value.exit_code == 2
