"""Stands for `worldflux-run` where a test is about the search: five quick evaluations of a score that
the learning rate decides. It claims, records, stops, continues and fails as a run does."""

import json
import math
import os
import signal
import sys
import time
from pathlib import Path

from worldflux.run_folder.manifest import SCHEMA, write_manifest
from worldflux.run_folder.state import claim

STEPS = 5
BROKEN = 1e-2  # learning rates above it diverge


def main(words):
    given = dict(word.split("=", 1) for word in words)
    folder = Path(given["hydra.run.dir"].strip("'"))
    rate = float(given["training.learning_rate"])
    (folder / "words.json").write_text(json.dumps(words))
    stopped = []
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, lambda number, frame: stopped.append(number))
    with claim(folder):
        return train(folder, rate, stopped)


def train(folder, rate, stopped):
    metrics = folder / "metrics.jsonl"
    begun = metrics.read_text().count("\n") if metrics.exists() else 0
    with open(folder / "starts", "a") as file:
        file.write(f"{os.getpid()} {begun}\n")
    tell(folder, "running")
    score = None
    for step in range(begun + 1, STEPS + 1):
        time.sleep(float(os.environ.get("STEP_SECONDS", "0.01")))
        if stopped:
            tell(folder, "stopped", score)
            return 130 if signal.SIGINT in stopped else 0
        if rate > BROKEN:
            tell(folder, "failed", error="TrainingError: loss/dyn is not finite at update 3")
            return 3
        score = -abs(math.log10(rate) + 4) * step
        record = {"step": step, "env_steps": step, "metrics": {"eval/return": score}}
        with open(metrics, "a") as file:
            file.write(json.dumps(record) + "\n")
    tell(folder, "completed", score)
    return 0


def tell(folder, status, score=None, error=None):
    manifest = {"schema_version": SCHEMA, "status": status, "error": error}
    write_manifest(folder, {**manifest, "scores": {"last": score}})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
