"""A command ends though an environment has left something that never does."""

from __future__ import annotations

import subprocess
import sys

import pytest

LEFT = {
    "nothing": "pass",
    "Stuck": "threading.Thread(target=time.sleep, args=(1e6,), name='Stuck').start()",
    "Child": "multiprocessing.get_context('fork').Process(target=time.sleep, args=(1e6,), "
    "name='Child').start()",
}


@pytest.mark.parametrize("left", LEFT)
@pytest.mark.parametrize("end", ["return 3", "sys.exit(3)"])
def test_it_ends_with_its_exit_code(left: str, end: str) -> None:
    code = f"""
import multiprocessing, sys, threading, time
from worldflux.cli import leaving
leaving.GRACE = 0.1
def command():
    {LEFT[left]}
    {end}
sys.exit(leaving.leaving(command))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert ("ends without waiting" in done.stderr) == (left != "nothing")
    assert left == "nothing" or left in done.stderr
