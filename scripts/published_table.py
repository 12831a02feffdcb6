"""Makes worldflux/report/published.csv of the authors' published per-seed scores.

    python scripts/published_table.py ../shared/scores

Keeps each family's own curves at few steps, each seed's score as it was published.
"""

from __future__ import annotations

import csv
import gzip
import sys
from collections import defaultdict
from pathlib import Path

from worldflux.models.families import OURS
from worldflux.report.published import TABLE

PER_SEED = "published_per_seed.csv.gz"
KEPT = {(m.SOURCE, one.name) for one in OURS if (m := one.published_module()) is not None}
THOUSANDS = (10, 20, 30, 40, 50, 60, 80, 100, 120, 160, 200, 300, 400, 500, 700, 1000)
MILLIONS = (1.5, 2, 3, 4, 6, 8, 10, 12, 14)
STEPS = {1000 * k for k in THOUSANDS} | {int(1e6 * m) for m in MILLIONS}


def main(folder: Path) -> None:
    scores = defaultdict(list)
    with gzip.open(folder / PER_SEED, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            steps = int(float(row["env_steps"]))
            if (row["source"], row["method"]) in KEPT and steps in STEPS:
                key = (row["source"], row["suite"], row["task"], row["method"], steps)
                scores[key].append(float(row["score"]))
    with open(TABLE, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["source", "suite", "task", "method", "simulator_steps", "scores"])
        for key, values in sorted(scores.items()):
            writer.writerow([*key, " ".join(f"{value:.5g}" for value in values)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
