"""Tries what is foreign, damaged or nonsense in numbers, and prints a table.

    python scripts/campaign.py --short
    python scripts/campaign.py --part damages --count 500 --seed 3 --jobs 2
    python scripts/campaign.py --part words --seed 0 --only 412

The campaign itself is tests/campaign; docs/campaign.md says what each part tries and by what it judges.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.campaign.main import main

if __name__ == "__main__":
    sys.exit(main())
