"""Starts a real Slurm on this machine, to try `hydra/launcher=slurm` without a cluster.

python scripts/test_cluster/cluster.py start [--install] [--nodes 2] [--gpus 2] [--cpus 4]
source ~/.cache/worldflux/test-cluster/env.sh
python scripts/test_cluster/cluster.py stop

The cluster is equipment of the tests: tests/slurm/cluster.py. Needs nothing but Python.
"""

import runpy
from pathlib import Path

if __name__ == "__main__":
    file = Path(__file__).resolve().parents[2] / "tests" / "slurm" / "cluster.py"
    runpy.run_path(str(file), run_name="__main__")
