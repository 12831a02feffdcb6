"""A real Slurm for the tests that need one; where it cannot run they are skipped, with the reason."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "test_cluster" / "cluster.py"


def needs_slurm() -> None:
    """Skips the test where no Slurm can be started."""
    if shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip(
            "needs Slurm, which pip cannot install: scripts/test_cluster/cluster.py install"
        )
    if os.geteuid() != 0:
        pytest.skip("needs root, to start a Slurm of its own")


@contextmanager
def running_cluster() -> Iterator[Path]:
    """The folder of a cluster of one node with four pretended processors."""
    # Short: the path of a socket has little room.
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    command = [sys.executable, str(SCRIPT)]
    try:
        started = subprocess.run(
            [*command, "start", "--folder", str(folder), "--cpus", "4"],
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert started.returncode == 0, started.stderr
        yield folder
    finally:
        subprocess.run([*command, "stop", "--folder", str(folder)], timeout=90)


def variables(cluster: Path) -> dict[str, str]:
    """What makes the commands of Slurm ask this cluster."""
    path = f"{cluster}/bin:{os.environ['PATH']}"
    return {"SLURM_CONF": str(cluster / "slurm.conf"), "PATH": path}


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """The folder of a running cluster."""
    needs_slurm()
    with running_cluster() as folder:
        yield folder


@pytest.fixture
def slurm(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The commands of Slurm ask the test cluster; jobs that a test leaves behind are ended."""
    for name, value in variables(cluster).items():
        monkeypatch.setenv(name, value)
    yield cluster
    jobs = subprocess.run(["squeue", "-h", "-o", "%A"], capture_output=True, text=True).stdout
    if jobs.split():
        subprocess.run(["scancel", *set(jobs.split())])
