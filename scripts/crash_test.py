"""Kills real training processes at random moments and compares what they end with.

    python scripts/crash_test.py --kills 100
    python scripts/crash_test.py --kills 20 --family tdmpc2 --envs 3 --seed 7

The campaign itself is tests/training/crash.py, part of which every run of the tests repeats.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.training.crash import main

if __name__ == "__main__":
    sys.exit(main())
