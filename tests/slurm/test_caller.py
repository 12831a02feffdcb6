"""What the caller's shell and the cluster bring along, with commands that only pretend to be Slurm's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import folder, refused
from worldflux.cli.main import main
from worldflux.slurm import queue, submission
from worldflux.slurm.submission import submit

__all__ = ["folder", "refused"]


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Makes a command of Slurm that runs these lines of the shell."""
    place = tmp_path / "commands"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")

    def make(name: str, lines: str) -> None:
        (place / name).write_text(f"#!/bin/sh\n{lines}\n")
        (place / name).chmod(0o755)

    return make


def test_options_of_the_callers_shell_reach_no_command(
    commands: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SQUEUE_PARTITION", "SLURM_MEM_PER_CPU", "SBATCH_QOS", "SRUN_X", "SUBMITIT_X"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    monkeypatch.setenv("SLURM_CLUSTERS", "big")
    commands(
        "squeue", 'for name in $(env | sed "s/=.*//" | grep -E "^S"); do echo "$name|R|c|n"; done'
    )
    assert {"SLURM_CONF", "SLURM_CLUSTERS"} <= set(queue.queue())
    assert not {"SQUEUE_PARTITION", "SLURM_MEM_PER_CPU", "SBATCH_QOS"} & set(queue.queue())
    with queue.clean_environment():
        names = set(queue.os.environ)
    assert not {"SRUN_X", "SUBMITIT_X"} & names and "SLURM_CONF" in names
    assert queue.os.environ["SRUN_X"] == "1"


@pytest.mark.parametrize(("limit", "sizes"), [("MaxArraySize            = 3", [3, 2]), ("", [5])])
def test_arrays_are_as_long_as_the_cluster_allows(
    commands: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    limit: str,
    sizes: list[int],
) -> None:
    commands("scontrol", f"echo 'MaxJobCount = 9'; echo '{limit}'")
    arrays: list[int] = []

    def array(jobs: list[Any], *rest: Any) -> list[str]:
        arrays.append(len(jobs))
        return []

    monkeypatch.setattr(submission, "_submit_array", array)
    submit([object()] * 5, None, "name", tmp_path)  # type: ignore[list-item, arg-type]
    assert arrays == sizes


@pytest.mark.parametrize("name", ["x_%A", "j%j", "a\\b", "%4a"])
def test_a_path_that_slurm_reads_otherwise_is_refused(
    refused: Callable[..., str], commands: Callable[[str, str], None], name: str
) -> None:
    for command in ("sbatch", "squeue", "srun", "scontrol"):
        commands(command, "exit 0")
    line = refused("-m", "hydra/launcher=slurm", f"hydra.sweep.dir='{name}'", "model/size=ci")
    assert "name another folder" in line
    assert main(["-m", "sweep=s", "sweep.dry_run=true", "model/size=ci"]) == 0
