"""The test cluster is a real Slurm."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path


def output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_job_runs_and_is_accounted_for(slurm: Path, tmp_path: Path) -> None:
    script = "echo $SLURM_JOB_ID > job.txt"
    id = output("sbatch", "--parsable", f"--chdir={tmp_path}", "--output=out", f"--wrap={script}")
    id = id.strip()
    for _ in range(300):
        if "COMPLETED" in output("sacct", "--noheader", "--jobs", id, "--format=JobID,State"):
            break
        time.sleep(0.1)
    assert output("sacct", "-n", "-j", id, "-o", "JobID,State").strip() == f"{id}|COMPLETED"
    assert (tmp_path / "job.txt").read_text().strip() == id


def test_nobody_else_can_reach_it(slurm: Path) -> None:
    ports = [
        line.split("=")[1].strip()
        for line in output("scontrol", "show", "config").splitlines()
        if line.startswith(("SlurmctldPort", "SlurmdPort"))
    ]
    node = output("scontrol", "--oneliner", "show", "node")
    ports.append(node.partition("Port=")[2].split()[0])
    addresses = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        address, port = line.split()[1].split(":")
        if str(int(port, 16)) in ports:
            addresses.add(address)
    assert addresses == {"0100007F"}
