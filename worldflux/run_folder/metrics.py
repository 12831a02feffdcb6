"""Reading ``metrics.jsonl``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from worldflux.run_folder.links import check_links
from worldflux.run_folder.names import METRICS


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All records of a run, oldest first; a last line cut off by a crash is left out."""
    path = folder / METRICS
    check_links(folder, (METRICS,))
    if not path.exists():
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]
