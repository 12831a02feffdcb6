"""Files of the official multi-task sets: read without the package, mapped, and nothing is executed."""

from __future__ import annotations

import copyreg
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import worldflux
from tests.cli.conftest import TINY, folder  # noqa: F401
from tests.data.test_recorded import read
from worldflux.config.spaces import Space
from worldflux.data.recorded.opening import open_recorded
from worldflux.errors import BufferError

TASKS, EPISODES, ROWS = 3, 6, 9


def tensors() -> dict[str, torch.Tensor]:
    """The last task has narrower actions, filled up with zeros; the first row led nowhere."""
    generator = torch.Generator().manual_seed(0)
    fields = {
        "obs": torch.randn(EPISODES, ROWS, 5, generator=generator),
        "action": torch.rand(EPISODES, ROWS, 2, generator=generator) * 2 - 1,
        "reward": torch.randn(EPISODES, ROWS, generator=generator),
        "task": (torch.arange(EPISODES) % TASKS)[:, None].expand(EPISODES, ROWS).clone().int(),
    }
    fields["action"][fields["task"][:, 0] == TASKS - 1, :, 1] = 0
    fields["action"][:, 0], fields["reward"][:, 0] = float("nan"), float("nan")
    return fields


def save(path: Path, fields: Any, module: str, maker: bool) -> None:
    """As the package pickles its class: by its state, or by a function of its own."""

    class TensorDict:
        def __init__(self, state: Any) -> None:
            self.__dict__.update(state)

        def __reduce__(self) -> Any:
            if maker:
                return _make_td, (TensorDict, self.__dict__)
            return copyreg.__newobj__, (TensorDict,), self.__dict__  # type: ignore[attr-defined]

    def _make_td(cls: type, state: Any) -> Any:
        return cls(state)

    names = {module: TensorDict, "tensordict._reductions": _make_td}
    before = {name: sys.modules.get(name) for name in ("tensordict", *names)}
    sys.modules["tensordict"] = ModuleType("tensordict")
    try:
        for name, content in names.items():
            content.__module__, content.__qualname__ = name, content.__name__
            sys.modules[name] = ModuleType(name)
            setattr(sys.modules[name], content.__name__, content)
        size = torch.Size([EPISODES, ROWS])
        torch.save(TensorDict({"_tensordict": fields, "_batch_size": size, "_device": None}), path)
    finally:
        for name, content in before.items():
            del sys.modules[name]
            if content is not None:
                sys.modules[name] = content


@pytest.mark.parametrize(
    "module,maker",
    [("tensordict._td", True), ("tensordict._td", False), ("tensordict.tensordict", False)],
)
def test_rows_are_those_of_the_file(tmp_path: Path, module: str, maker: bool) -> None:
    fields = tensors()
    save(tmp_path / "chunk_0.pt", fields, module, maker)
    recorded = open_recorded([str(tmp_path / "*.pt")])
    assert dict(recorded.obs_spaces) == {"obs": Space((5,)), "task": Space((), "int64", (TASKS,))}
    assert recorded.steps == EPISODES * (ROWS - 1) and not recorded.terminates()
    for number, steps in enumerate(read(recorded)):
        one = {key: value[number].numpy() for key, value in fields.items()}
        np.testing.assert_array_equal(steps["obs"], one["obs"])
        np.testing.assert_array_equal(steps["task"], one["task"])
        np.testing.assert_array_equal(steps["action"][:-1], one["action"][1:])
        np.testing.assert_array_equal(steps["reward"][1:], one["reward"][1:])
        assert steps["reward"][0] == 0 and not steps["action"][-1].any()
        assert steps["is_first"].tolist() == [True] + [False] * (ROWS - 1)
        assert steps["is_last"].tolist() == [False] * (ROWS - 1) + [True]
    assert [task.action_dim for task in recorded.tasks()] == [2, 2, 1]
    assert [task.episode_length for task in recorded.tasks()] == [ROWS - 1] * TASKS


class Bomb:
    def __reduce__(self) -> Any:
        return os.system, ("touch bombed",)


def test_nothing_is_executed_and_damages_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cases = {
        "it is no pickle of tensors": {**tensors(), "obs": Bomb()},
        "reward: missing": {key: x for key, x in tensors().items() if key != "reward"},
        r"action: shape \(6, 4, 2\), and reward \(6, 9\)": {
            **tensors(),
            "action": torch.zeros(6, 4, 2),
        },
        "task: no tensor of numbers": {**tensors(), "task": "walk"},
    }
    for line, fields in cases.items():
        save(tmp_path / "a.pt", fields, "tensordict._td", True)
        with pytest.raises(BufferError, match=line):
            open_recorded(["a.pt"])
    Path("a.pt").write_bytes(b"PK\3\4" + b"\0" * 100)
    with pytest.raises(BufferError, match=r"a.pt: "):
        open_recorded(["a.pt"])
    assert not Path("bombed").exists()


def test_the_multi_task_model_trains_on_it(folder: Path) -> None:  # noqa: F811
    save(folder / "chunk_0.pt", tensors(), "tensordict._td", True)
    words = ["data=dataset", "data.path=chunk_0.pt", "model=tdmpc2", *TINY[:-1]]
    run = worldflux.train(*words)
    model = run.manifest["model_config"]
    assert model["num_tasks"] == TASKS and model["task_action_dims"] == [2, 2, 1]
    assert model["task_episode_lengths"] == [ROWS - 1] * TASKS
    assert np.isfinite(run.metrics()["train/loss/total"]).any()
