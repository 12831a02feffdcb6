"""A real Slurm for the tests that need one; where it cannot run they are skipped, with the reason."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "test_cluster" / "cluster.py"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """The folder of a running cluster of one node with four pretended processors."""
    if shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip(
            "needs Slurm, which pip cannot install: scripts/test_cluster/cluster.py install"
        )
    if os.geteuid() != 0:
        pytest.skip("needs root, to start a Slurm of its own")
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


@pytest.fixture
def slurm(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The commands of Slurm ask the test cluster; jobs that a test leaves behind are ended."""
    monkeypatch.setenv("SLURM_CONF", str(cluster / "slurm.conf"))
    monkeypatch.setenv("PATH", f"{cluster}/bin:{os.environ['PATH']}")
    yield cluster
    jobs = subprocess.run(["squeue", "-h", "-o", "%A"], capture_output=True, text=True).stdout
    if jobs.split():
        subprocess.run(["scancel", *set(jobs.split())])
