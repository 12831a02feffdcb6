"""Real processes, killed for real, come to the same end as one never interrupted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.training import crash
from worldflux.run_folder.manifest import read_manifest, write_manifest

SCRIPT = Path(__file__).parents[2] / "scripts" / "crash_test.py"


@pytest.fixture(scope="module")
def crash_test() -> ModuleType:
    return crash


@pytest.mark.slow(45)
def test_interrupted_anywhere_both_families_end_as_if_they_never_were() -> None:
    # A process of its own: forks of one that has threads may hang.
    words = [sys.executable, str(SCRIPT), "--kills", "20", "--updates", "12", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=900)
    outcomes = json.loads(done.stdout)
    assert [outcome["differences"] for outcome in outcomes] == [[]] * 4, done.stderr
    assert done.returncode == 0
    cases = {(outcome["family"], outcome["envs"]) for outcome in outcomes}
    assert cases == {("dreamerv3", 1), ("dreamerv3", 3), ("tdmpc2", 1), ("tdmpc2", 3)}
    signals: Counter[str] = Counter()
    places: Counter[str] = Counter()
    for outcome in outcomes:
        signals.update(outcome["signals"])
        places.update(outcome["places"])
    assert signals.total() >= 20 and 2 * signals["SIGKILL"] >= signals.total()
    assert places["SIGKILL: save"] >= 2


@pytest.fixture(scope="module")
def finished(crash_test: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    config = crash_test.settings("tdmpc2", 1, 6)
    config.resume = None
    crash_test.run(config, folder)
    return folder


def test_a_difference_is_found(crash_test: ModuleType, finished: Path, tmp_path: Path) -> None:
    def told(change: Callable[[Path], None]) -> list[str]:
        other = tmp_path / "run"
        shutil.copytree(finished, other)
        assert crash_test.differences(other, finished) == []
        change(other)
        found = crash_test.differences(other, finished)
        shutil.rmtree(other)
        return [text.removeprefix("run: ") for text in found]

    def record_lost(run: Path) -> None:
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
        (run / "metrics.jsonl").write_text("".join(lines[:2] + lines[3:]))

    def weight(run: Path) -> None:
        path = run / "checkpoints" / "step_000000006" / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    def step(run: Path) -> None:
        path = max((run / "replay").glob("steps-*.npz"))
        with np.load(path) as stored:
            arrays = dict(stored)
        arrays["reward"][0, 5] += 1
        np.savez(path, **arrays)

    def score(run: Path) -> None:
        manifest = read_manifest(run)
        manifest["scores"]["last"] -= 1e-9
        write_manifest(run, manifest)

    assert told(record_lost) == ["metrics.jsonl"]
    assert told(weight) == ["checkpoints/latest: model.safetensors"] + (
        ["checkpoints/best: model.safetensors"]
        if best(finished) == best(finished, "latest")
        else []
    )
    assert told(step) == ["replay"]
    assert told(score) == ["manifest"]


def best(run: Path, pointer: str = "best") -> str:
    return (run / "checkpoints" / pointer).read_text().split()[0]
