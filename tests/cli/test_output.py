"""A run ends as it would have whatever becomes of its output."""

from __future__ import annotations

import errno
import io
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from worldflux.cli.main import main
from worldflux.cli.verbs import main as verbs
from worldflux.runner.caller import callers_logging

LINE = "evaluation return 9 · 3 updates"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def run(config: Any, run_dir: Path, parts: Any = None) -> float:
        for _ in range(2):
            logging.getLogger("worldflux.run").info(LINE)
            print("printed …", flush=True)
        return 1.0

    monkeypatch.setattr("worldflux.runner.run.run", run)


class Gone(io.RawIOBase):
    """Nobody reads it any more."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ascii", "gone", "closed", "none"])
def test_the_run_and_its_log_are_whole(
    told: None, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    taken = io.BytesIO()
    raw = Gone() if kind == "gone" else taken
    stream = io.TextIOWrapper(raw, encoding="ascii", line_buffering=True)  # type: ignore[type-var]
    if kind == "closed":
        stream.close()
    monkeypatch.setattr(sys, "stdout", None if kind == "none" else stream)
    assert main(["hydra.run.dir=x"]) == 0
    assert main(["-m", "sweep=s"]) == 0
    assert verbs(["models"]) == 0
    assert (folder / "x" / "run.log").read_text(encoding="utf-8").count(LINE) == 2
    if kind == "ascii":
        assert b"9 \\xb7 3 updates" in taken.getvalue()
    monkeypatch.undo()


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    command = f"{sys.executable} -m worldflux explain training | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, env={**os.environ}
    )
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.count("\n") == 1


def test_the_callers_logging_is_left_as_it_was(told: None, folder: Path) -> None:
    root = logging.getLogger()
    file = logging.FileHandler(folder / "outer.log", mode="w")
    handlers, level = [*root.handlers], root.level
    root.addHandler(file)
    try:
        assert main(["hydra.run.dir=x", "hydra/job_logging=disabled"]) == 0
        assert main(["-m", "sweep=s"]) == 0
        assert [*root.handlers] == [*handlers, file] and root.level == level
        root.warning("the outer application goes on")
    finally:
        root.removeHandler(file)
        file.close()
    assert "goes on" in (folder / "outer.log").read_text()
    assert not logging.getLogger("worldflux.run").disabled


def test_a_log_that_cannot_be_closed_is_no_traceback(folder: Path) -> None:
    class Full(logging.StreamHandler):  # type: ignore[type-arg]
        def close(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with callers_logging("test"):
        logging.getLogger().addHandler(Full())
    assert not [one for one in logging.getLogger().handlers if isinstance(one, Full)]


@pytest.mark.parametrize("full", ["1", "0"])
def test_hydras_full_error_shows_the_traceback_and_keeps_the_exit_code(
    folder: Path,
    full: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", full)
    assert main(["training.batchsize=8"]) == 2
    err = capfd.readouterr().err
    assert "Did you mean: 'batch_size'" in err.splitlines()[-1]
    assert ("Traceback" in err) == (full == "1")
    assert os.environ["HYDRA_FULL_ERROR"] == full
