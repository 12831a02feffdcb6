"""A disk that refuses ends a run with one clear error and takes nothing from it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.training.test_resume_exact import assert_equal, content
from tests.training.test_trainer import At, make, pointer
from tests.training.tiny import TinySource
from worldflux.cli.main import main
from worldflux.errors import CheckpointError, DiskError
from worldflux.report.run import run_document
from worldflux.run_folder.checkpoint import read_checkpoint
from worldflux.run_folder.state import RunState, run_state
from worldflux.training import Callback

FIELDS = dict(total_steps=30, log_interval=4, eval_interval=6, save_interval=10)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a disk of a given size; its folder."""
    mounted = []

    def mount(size: str, *options: str) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "none"]
        try:
            subprocess.run([*words, str(place)], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no file system can be mounted here (it takes root)")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_run_that_may_only_be_read_is_reported(
    small_disk: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = small_disk("8m") / "run"
    make(folder, **FIELDS).train(TinySource())
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 30, "env_steps": 30, "metrics": {"episode/return": 1.0}}\n')
    subprocess.run(["mount", "-o", "remount,ro", str(folder.parent)], check=True)
    document, files = run_document(folder)
    assert document["state"] == "completed" and files == []
    assert "learning_curve.png is not written: Read-only file system" in caplog.text


def test_a_full_disk_ends_the_run_which_goes_on_when_there_is_room(
    small_disk: Callable[..., Path], tmp_path: Path
) -> None:
    make(tmp_path / "whole", **FIELDS).train(TinySource())
    folder = small_disk("2m") / "run"
    filler = folder.parent / "filler"

    def fill() -> None:
        with open(filler, "wb", buffering=0) as file:
            with pytest.raises(OSError):
                while True:
                    file.write(bytes(4096))

    with pytest.raises(DiskError, match=r"cannot write .*No space left") as told:
        make(folder, callbacks=[At(15, fill)], **FIELDS).train(TinySource())
    assert told.value.exit_code == 3 and "\n" not in str(told.value)
    assert pointer(folder, "latest") == "step_000000010"
    assert read_checkpoint(folder / "checkpoints" / "step_000000010").state["step"] == 10
    assert run_state(folder) in (RunState.FAILED, RunState.BROKEN_OFF)
    filler.unlink()
    make(folder, **FIELDS).train(TinySource(seed=9), resume_from=folder)
    (one, metrics), (other, expected) = content(folder), content(tmp_path / "whole")
    assert metrics == expected
    assert_equal(one.agent, other.agent)


def test_a_disk_that_is_full_or_read_only_from_the_start_is_the_users_mistake(
    small_disk: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    full, read_only = small_disk("4k"), small_disk("1m", "ro")
    for place, reason in ((full, "No space left"), (read_only, "Read-only")):
        assert main(["model/size=ci", f"hydra.run.dir={place / 'run'}"]) == 2
        err = capfd.readouterr().err
        assert err.startswith("worldflux-run: error: cannot write ") and reason in err
        assert err.count("\n") == 1
    with pytest.raises(CheckpointError, match="Read-only") as told:
        make(read_only / "run").train(TinySource())
    assert told.value.exit_code == 2


class Delete(Callback):
    def __init__(self, folder: Path, again: bool) -> None:
        self.folder, self.again = folder, again

    def on_step_end(self, trainer) -> None:
        if trainer.state.global_step == 13:
            shutil.rmtree(self.folder)
            if self.again:
                (self.folder / "checkpoints").mkdir(parents=True)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("log_interval", [4, 1000])  # found at the next record, or the next save
def test_a_folder_that_is_deleted_is_told_and_never_made_again(
    tmp_path: Path, again: bool, log_interval: int
) -> None:
    folder = tmp_path / "run"
    delete = Delete(folder, again)
    fields = {**FIELDS, "log_interval": log_interval, "eval_interval": 0}
    source = TinySource()
    advance = source.advance
    source.advance = lambda *now: advance(*now)[:0]  # no episodes, which are records too
    trainer = make(folder, callbacks=[delete], **fields)
    with pytest.raises(DiskError, match="deleted while the run was writing it") as told:
        trainer.train(source)
    assert told.value.exit_code == 3
    assert trainer.state.global_step == (16 if log_interval == 4 else 20)
    assert [path.name for path in folder.rglob("*")] == (["checkpoints"] if again else [])


def test_a_run_also_saves_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    saved = []

    class Second(Callback):
        def on_step_end(self, trainer) -> None:
            clock[0] += 1.0

        def on_step_begin(self, trainer) -> None:
            step = trainer.folder.saved_step
            if step > 0 and step not in saved:
                saved.append(step)

    def run(folder: Path, save_costs: float, **fields: float) -> list[int]:
        saved.clear()
        source = TinySource()
        save = source.save

        def slow(path: Path) -> None:
            clock[0] += save_costs
            save(path)

        source.save = slow
        values = {**FIELDS, "total_steps": 100, "save_interval": 1000, "eval_interval": 0}
        make(folder, callbacks=[Second()], **{**values, **fields}).train(source)
        return list(saved)

    assert run(tmp_path / "a", 0.0, save_seconds=25.0) == [25, 50, 75]
    # A save that took a second is followed by fifty seconds of training.
    assert run(tmp_path / "b", 1.0, save_seconds=25.0) == [25, 75]
    assert run(tmp_path / "c", 0.0, save_seconds=0.0) == []
    assert os.listdir(tmp_path / "c" / "checkpoints")
