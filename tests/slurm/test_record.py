"""Which Slurm job runs a folder is known whatever happened to the command that submitted it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from worldflux.slurm import queue
from worldflux.slurm.queue import SlurmError
from worldflux.slurm.submission import Submission, alive


def sbatch(*options: str) -> str:
    command = ["sbatch", "--parsable", "--output=/dev/null", *options, "--wrap=sleep 300"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_jobs_of_a_command_killed_before_it_noted_their_ids(slurm: Path, tmp_path: Path) -> None:
    one = sbatch("--comment=token-1")
    array = sbatch("--comment=token-2", "--array=0-1")
    folders = [tmp_path / name for name in ("a", "b", "c", "never")]
    for folder, token, index, size in zip(
        folders, ("token-1", "token-2", "token-2"), (0, 0, 1), (1, 2, 2), strict=False
    ):
        Submission(token, index, size).write(folder)
    found = alive(folders)
    assert {folder.name: id for folder, (id, _) in found.items()} == {
        "a": one,
        "b": f"{array}_0",
        "c": f"{array}_1",
    }
    queue.cancel([one, array])


def test_an_id_that_belongs_to_another_job_now(slurm: Path, tmp_path: Path) -> None:
    id = sbatch("--comment=another")
    Submission("mine", 0, 1, id).write(tmp_path)
    assert alive([tmp_path]) == {}
    queue.cancel([id])


def test_jobs_that_ended(slurm: Path, tmp_path: Path) -> None:
    id = sbatch("--hold")
    queue.cancel([id])
    told = queue.statuses([id, "123456"])
    assert (told[id].state, told[id].alive) == ("CANCELLED", False)
    assert (told["123456"].state, told["123456"].alive) == ("", False)


def test_a_silent_controller_is_not_an_empty_queue(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (slurm / "slurm.conf").read_text().replace("SlurmctldPort=", "SlurmctldPort=1")
    conf = tmp_path / "slurm.conf"
    conf.write_text(text + "\nMessageTimeout=2\n")
    monkeypatch.setenv("SLURM_CONF", str(conf))
    with pytest.raises(SlurmError, match="squeue failed"):
        queue.statuses(["1"])
