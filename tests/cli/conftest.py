from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from worldflux.cli.main import main

# A run of a second or two.
TINY = [
    "model/size=ci",
    "training.total_steps=2",
    "training.batch_size=2",
    "training.sequence_length=8",
    "training.eval_episodes=1",
    "training.compile_model=false",
    "logger.tensorboard=false",
    "data.prefill_steps=40",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    GlobalHydra.instance().clear()


@pytest.fixture
def refused(folder: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command line that must fail as the user's mistake: gives its one line."""

    def run(*words: str, code: int = 2) -> str:
        before = sorted(folder.rglob("*"))
        assert main(list(words)) == code
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith("worldflux-run: error: ")
        assert err.count("\n") == 1, err
        assert sorted(folder.rglob("*")) == before, "something was written"
        return err.removeprefix("worldflux-run: error: ").strip()

    return run


@pytest.fixture
def jobs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replaces training: collects the (RunConfig, folder) of every job instead."""
    found: list[Any] = []

    def run(config: Any, run_dir: Path, parts: Any = None) -> float:
        found.append((config, run_dir))
        return float(len(found))

    monkeypatch.setattr("worldflux.runner.run.run", run)
    return found
