"""What the live dashboard costs a training: the same run without and with the page, in turns.

    python scripts/dashboard_cost.py --pairs 8 --updates 200 --json
    python scripts/dashboard_cost.py --pairs 4 -- env=pixels model/size=size12m

Every run has the same seed and computes the same numbers. With the page means `dashboard=live` and
a client that asks what an open page asks, as often as it does. A run's speed is that between its
update --skip and its last, by the time stamps of metrics.jsonl; the first run is thrown away. With
--core the training and the process that serves its page share one core, so that nothing of the
page's work is hidden on another one. Other options of worldflux-run follow after `--`.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REFRESH_SECONDS = 1.0  # visualization.refresh_ms


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--pairs", type=int, default=8, help="runs of each kind (8)")
    made.add_argument("--updates", type=int, default=200, help="of a run (200)")
    made.add_argument("--skip", type=int, default=40, help="updates before the clock starts (40)")
    made.add_argument("--core", type=int, help="run on this core alone, with one thread")
    made.add_argument("--json", action="store_true", help="print one JSON object")
    made.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="of worldflux-run")
    return made


class Page(threading.Thread):
    """Asks what an open page asks, until it is stopped."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.url = f"http://127.0.0.1:{port}"
        self.ended = threading.Event()
        self.answers = 0

    def ask(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=5) as answer:
            self.answers += 1
            return json.load(answer)

    def run(self) -> None:
        metrics = gameplay = -1
        while not self.ended.wait(REFRESH_SECONDS):
            try:
                if self.ask("/api/summary")["latest_seq"] != metrics:
                    metrics = self.ask(f"/api/metrics?since_seq={metrics}")["latest_seq"]
                path = f"/api/gameplay?since_seq={gameplay}&encoding=jpeg"
                gameplay = self.ask(path)["latest_seq"]
            except OSError:
                pass  # not there yet, or no more


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def updates_per_second(options: argparse.Namespace, live: bool) -> float:
    """Speed of one run, with or without the page."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        words = [f"training.total_steps={options.updates}", "training.eval_interval=0"]
        words += [f"training.log_interval={options.skip}", f"hydra.run.dir={folder}/run"]
        words += ["dashboard=live", f"visualization.port={port}"] * live + options.overrides
        page = Page(port)
        page.start()
        command = [sys.executable, "-m", "worldflux.cli.main", *words]
        environment = {**os.environ}
        if options.core is not None:
            command = ["taskset", "--cpu-list", str(options.core), *command]
            environment["OMP_NUM_THREADS"] = "1"
        try:
            subprocess.run(command, check=True, env=environment, capture_output=True)
        finally:
            page.ended.set()
        if live and page.answers < 3:
            raise SystemExit("the page was not served: a longer run is needed (--updates)")
        records = map(json.loads, (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines())
        marks = [r for r in records if "counters/updates" in r["metrics"]]
        updates = marks[-1]["step"] - marks[0]["step"]
        return updates / (marks[-1]["timestamp"] - marks[0]["timestamp"])


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    load = os.getloadavg()[0]
    updates_per_second(options, False)
    speeds: dict[bool, list[float]] = {False: [], True: []}
    for pair in range(options.pairs):
        for live in (pair % 2 == 1, pair % 2 == 0):  # A B, B A: a drift cancels out
            speeds[live].append(updates_per_second(options, live))
            print(f"{'with' if live else 'without':>8} {speeds[live][-1]:.3f}", file=sys.stderr)
    ratios = [on / off for off, on in zip(speeds[False], speeds[True], strict=True)]
    figures = {
        "without": statistics.median(speeds[False]),
        "with": statistics.median(speeds[True]),
        "ratio": statistics.median(ratios),
        "ratios": sorted(ratios),
        "load_before": load,
        "when": time.strftime("%Y-%m-%d %H:%M"),
    }
    if options.json:
        print(json.dumps(figures))
    else:
        print(
            f"updates/s {figures['without']:.3f} without the page, {figures['with']:.3f} with it; ratio"
            f" {figures['ratio']:.3f} (pairs {min(ratios):.3f} to {max(ratios):.3f}), load before"
            f" {load:.1f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
