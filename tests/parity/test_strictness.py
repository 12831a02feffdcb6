"""The comparison must notice whatever is wrong, missing or not known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

Copy = Callable[[str], Path]


def edit(file: Path, **changes: np.ndarray | None) -> None:
    """Replaces, adds or (None) removes arrays; `__` in a name stands for `/`."""
    with np.load(file) as arrays:
        content = {name: arrays[name] for name in arrays.files}
    for name, value in changes.items():
        key = name.replace("__", "/")
        if value is None:
            del content[key]
        else:
            content[key] = value
    np.savez(file, **content)


def array(file: Path, name: str) -> np.ndarray:
    with np.load(file) as arrays:
        return np.array(arrays[name])


@pytest.fixture
def failed(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> Callable[[Path], list[str]]:
    """Runs the script, which must exit with 1; returns the names of the rows that failed."""

    def run(folder: Path) -> list[str]:
        assert script.main(["dreamerv3", str(folder), "--failures"]) == 1
        rows = capsys.readouterr().out.splitlines()[1:-1]
        assert all("FAIL" in row for row in rows)
        return [row.split()[0] for row in rows]

    return run


def test_one_wrong_element_fails_its_array_alone(copy_of: Copy, failed: Callable) -> None:
    folder = copy_of("units")
    wrong = array(folder / "units.npz", "lambda/imag_ret")
    wrong[3, 2] += 1e-4 * np.abs(wrong).max()
    edit(folder / "units.npz", lambda__imag_ret=wrong)
    assert failed(folder) == ["units/lambda/imag_ret"]


def test_a_sampled_class_must_be_exactly_the_recorded_one(copy_of: Copy, failed: Callable) -> None:
    file = copy_of("checkpoint") / "expected/parts.npz"
    wrong = array(file, "observe/stoch")
    wrong[0, 0, 0] = np.roll(wrong[0, 0, 0], 1)
    edit(file, observe__stoch=wrong)
    assert "parts/observe/stoch" in failed(file.parents[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_fail(copy_of: Copy, failed: Callable, bad: float) -> None:
    folder = copy_of("units")
    wrong = array(folder / "units.npz", "percentile/y")
    wrong[0] = bad
    edit(folder / "units.npz", percentile__y=wrong)
    assert failed(folder) == ["units/percentile/y"]


def test_missing_and_unknown_arrays_fail(copy_of: Copy, failed: Callable) -> None:
    folder = copy_of("units")
    edit(folder / "units.npz", symlog__y=None, symlog__z=np.zeros(3), other__x=np.zeros(3))
    assert sorted(failed(folder)) == ["units/other/x", "units/symlog/y", "units/symlog/z"]


def test_another_shape_fails(copy_of: Copy, failed: Callable) -> None:
    folder = copy_of("units")
    edit(folder / "units.npz", binary__loss=array(folder / "units.npz", "binary/loss")[:-1])
    assert failed(folder) == ["units/binary/loss"]


def test_unknown_cases_and_files_fail(copy_of: Copy, failed: Callable) -> None:
    folder = copy_of("units")
    cases = json.loads((folder / "units.json").read_text())
    cases["ratio"][0]["repeats"][3] += 1
    (folder / "units.json").write_text(json.dumps({**cases, "surprise": [1]}))
    (folder / "more.npz").write_bytes(b"")
    assert sorted(failed(folder)) == ["more.npz", "units.json/ratio/32", "units.json/surprise"]


def test_train_steps_gradients_and_metrics_are_held_to_their_numbers(
    copy_of: Copy, failed: Callable
) -> None:
    folder = copy_of("cont")
    grad = array(folder / "grads_step1.npz", "dyn/dyngru/kernel")
    edit(folder / "grads_step1.npz", dyn__dyngru__kernel=grad * 1.001)
    after = array(folder / "params_after3.npz", "val/mlp/linear1/kernel")
    start = array(folder / "params.npz", "val/mlp/linear1/kernel")
    after[5, 7] -= 0.1 * np.abs(after - start).max()
    edit(folder / "params_after3.npz", val__mlp__linear1__kernel=after)
    edit(folder / "train_step1.npz", rep__other=np.zeros(2), imag__weight=None)
    expected = json.loads((folder / "expected.json").read_text())
    expected["steps"][1]["metrics"]["adv_std"] *= 1.001
    expected["steps"][0]["metrics"]["surprise"] = 1.0
    expected["agc_step1"]["enc/mlp0/bias"]["clipped"] ^= True
    (folder / "expected.json").write_text(json.dumps(expected))
    assert sorted(failed(folder)) == [
        "expected/agc_step1/enc/mlp0/bias/clipped",
        "expected/steps/0/metrics/surprise",
        "expected/steps/1/metrics/adv_std",
        "grads_step1/dyn/dyngru/kernel",
        "params_after3/val/mlp/linear1/kernel",
        "train_step1/imag/weight",
        "train_step1/rep/other",
    ]


def test_a_missing_file_of_a_set_fails(copy_of: Copy, failed: Callable) -> None:
    folder = copy_of("cont")
    (folder / "grads_step1.npz").unlink()
    assert failed(folder) == ["grads_step?.npz"]


def test_folders_that_cannot_be_read_are_told_in_one_line(
    copy_of: Copy, tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of("cont")
    settings = json.loads((folder / "config.json").read_text())
    settings["agent"]["dyn"]["rssm"]["act"] = "relu"
    (folder / "config.json").write_text(json.dumps(settings))
    damaged = copy_of("units")
    (damaged / "units.npz").write_bytes(b"PK but no archive")
    (tmp_path / "empty").mkdir()
    for path, reason in (
        (folder, "agent.dyn.rssm.act is 'relu', expected 'silu'"),
        (damaged, "units.npz cannot be read"),
        (tmp_path / "empty", "holds neither params.npz"),
        (tmp_path / "nowhere", "no folder at"),
    ):
        assert script.main(["dreamerv3", str(path)]) == 2
        error = capsys.readouterr().err
        assert reason in error and error.count("\n") == 1
