"""Every number that the official implementation recorded, against what ours computes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from tests.parity.comparison.compare import Computation
from tests.parity.comparison.dreamerv3 import compare_folder

FOLDERS = ("disc", "cont", "units", "checkpoint")


def differing(folder: Path, how: Computation) -> list[str]:
    comparison = compare_folder(folder, how)
    assert len(comparison.rows) > 100
    return [str(row) for row in comparison.failures()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", FOLDERS)
def test_every_recorded_number_is_reproduced(recorded: Path, name: str, dtype: torch.dtype) -> None:
    assert differing(recorded / name, Computation(dtype)) == []


@pytest.mark.slow(90)
@pytest.mark.skipif(not shutil.which("g++"), reason="compiling needs a C++ compiler")
@pytest.mark.parametrize("name", ["disc", "cont"])
def test_the_compiled_update_computes_the_same(recorded: Path, name: str) -> None:
    assert differing(recorded / name, Computation(compile=True)) == []


def test_the_script_prints_a_row_for_every_array_and_exits_with_0(
    recorded: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["dreamerv3", str(recorded / "cont")]) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    outputs = {"parts/enc/tokens", "train_step1/imag/ret", "train_step3/carry_out/deter"}
    for file in ("grads_step1", "params_after3"):
        with np.load(recorded / "cont" / f"{file}.npz") as arrays:
            outputs |= {f"{file}/{name}" for name in arrays.files}
    metrics = json.loads((recorded / "cont/expected.json").read_text())["steps"][2]["metrics"]
    outputs |= {f"expected/steps/2/metrics/{name}" for name in metrics}
    for name in outputs:
        absolute, relative, tolerance, verdict = rows[name][1:]
        assert float(absolute) >= 0 and float(relative) <= float(tolerance) <= 1e-3
        assert verdict == "ok"
