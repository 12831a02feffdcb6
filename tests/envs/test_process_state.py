"""What environments change for their whole process stays on their side."""

from __future__ import annotations

import logging
import logging.config
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from worldflux.config.env import EnvConfig
from worldflux.envs.make import make_envs


class Rude(gym.Env[Any, Any]):
    """Changes everything, at `where`; each step reports what it finds as its own."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, where: str, folder: str) -> None:
        self.where, self.folder = where, folder
        self.change("make")

    def change(self, where: str) -> None:
        if where != self.where:
            return
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_grad_enabled(False)
        torch.set_num_threads(3)
        np.seterr(all="raise")
        warnings.simplefilter("error")
        os.chdir(self.folder)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.stdout = open(os.devnull, "w")
        sys.stdout.close()
        logging.config.dictConfig({"version": 1})
        logging.basicConfig(level=logging.CRITICAL, force=True)
        logging.disable(logging.CRITICAL)
        sys.setrecursionlimit(900)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.change("reset")
        return np.full(3, 1e-300), {}  # no float32 is so small

    def step(self, action: Any) -> Any:
        self.change("step")
        here = os.path.samefile(os.getcwd(), self.folder)
        kept = [here, torch.get_default_dtype() == torch.float64, np.geterr()["over"] == "raise"]
        return np.array(kept, np.float64), 1.0, False, False, {}


gym.register("Rude-v0", entry_point=Rude, disable_env_checker=True)


def process() -> list[Any]:
    root = logging.getLogger()
    return [
        (torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()),
        (torch.get_num_threads(), np.geterr(), os.getcwd(), signal.getsignal(signal.SIGTERM)),
        (sys.stdout, root.level, list(root.handlers), logging.root.manager.disable),
        (logging.getLogger("worldflux.training").disabled, sys.getrecursionlimit()),
        [row for row in warnings.filters if row[0] == "error"],
    ]


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("where", ["make", "reset", "step"])
def test_nothing_of_it_is_left(where: str, mode: str, tmp_path: Path) -> None:
    before = process()
    kwargs = {"where": where, "folder": str(tmp_path)}
    config = EnvConfig(id="tests.envs.test_process_state:Rude-v0", kwargs=kwargs)
    envs = make_envs(config, num_envs=2, mode=mode)
    assert process() == before
    assert envs.reset()["obs"].tolist() == [[0.0] * 3] * 2
    assert process() == before
    for _ in range(2):
        row = envs.step(np.zeros((2, 2), np.float32))
        assert row["obs"].tolist() == [[1.0] * 3] * 2  # the environment still has it
        assert process() == before
    envs.close()
    assert process() == before
