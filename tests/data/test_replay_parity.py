"""Replay and train ratio against traces of the official code, where those are present."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldflux.config.data import DataConfig
from worldflux.config.spaces import Space
from worldflux.data.gym_source import ConsecutiveChunks
from worldflux.data.ratio import UpdateRatio, updates_per_step
from worldflux.data.replay import SequenceReplay

UNITS = Path(__file__).parents[3] / "shared/parity/dreamerv3/units/units.json"
pytestmark = pytest.mark.skipif(
    not UNITS.exists(), reason=f"the recorded numbers are not there: {UNITS}"
)


def units(name: str) -> Any:
    return json.loads(UNITS.read_text())[name]


def flags(lengths: list[int], t: int, abandoned: set[int]) -> tuple[bool, bool]:
    """is_first and is_last of step t of episodes of these lengths."""
    ends = np.cumsum([0, *lengths]).tolist()
    for number, (begin, end) in enumerate(pairwise(ends)):
        if begin <= t < end:
            return t == begin, t == end - 1 and number not in abandoned
    raise AssertionError(t)


def test_replay_trace() -> None:
    """Which windows exist, and which are handed out online, after every step."""
    case = units("replay_trace")
    length, workers = case["length"], case["workers"]
    # The reference counts capacity in windows, ours in steps.
    capacity = case["capacity"] + workers * (length - 1)
    replay = SequenceReplay(
        spaces={"t": Space((), "int64"), "w": Space((), "int64")},
        capacity=capacity,
        length=length,
        num_envs=workers,
        online=True,
    )
    for moment in case["trace"]:
        t = moment["t"]
        told = [
            flags(case["episode_lengths"][str(w)], t, {1} if w == 0 else set())
            for w in range(workers)
        ]
        replay.add(
            {
                "t": np.full(workers, t),
                "w": np.arange(workers),
                "reward": np.zeros(workers),
                "is_first": np.array([first for first, _ in told]),
                "is_last": np.array([last for _, last in told]),
                "is_terminal": np.zeros(workers, bool),
            }
        )
        assert replay.windows == moment["num_items"], t
        starts = [[w, t0] for w in range(workers) for t0 in range(replay.oldest(w), t - length + 2)]
        assert starts == moment["item_starts"], t
        if moment["online_samples"]:
            batch = replay.sample(len(moment["online_samples"]))
            for row, expected in enumerate(moment["online_samples"]):
                assert batch["w"][row].tolist() == [expected["w"]] * length
                for key in ("t", "is_first", "is_last"):
                    assert batch[key][row].astype(int).tolist() == expected[key], (t, key)
        assert len(replay._queue) == moment["queue_len_after"], t


def test_train_ratio() -> None:
    """Updates granted at each environment step count."""
    for case in units("ratio"):
        data = DataConfig(train_ratio=case["train_ratio"])
        ratio = UpdateRatio(updates_per_step(data, case["batch_steps"], 1))
        begin, done = case["env_steps"][0], 0
        for steps, granted in zip(case["env_steps"], case["repeats"], strict=True):
            due = done
            while ratio.steps_before(due + 1) <= steps - begin:
                due += 1
            assert due - done == granted, (case, steps)
            done = due
            # The other way round: the next update is not due yet, this one is.
            assert ratio.steps_before(due) <= steps - begin < ratio.steps_before(due + 1)


def test_consecutive_chunks() -> None:
    """A sampled sequence is cut into chunks that overlap by the context."""
    case = units("consec")
    length, consec, prefix = case["length"], case["consec"], case["prefix"]
    steps = length * consec + prefix
    replay = SequenceReplay(
        spaces={"x": Space((), "int64")}, capacity=steps, length=steps, online=False
    )
    for t in range(steps):
        flag = np.zeros(1, bool)
        flags = {"is_first": flag, "is_last": flag, "is_terminal": flag}
        replay.add({"x": np.array([t]), "reward": np.zeros(1), **flags})
    chunks = ConsecutiveChunks(replay.sample, prefix, length, consec)
    for expected in case["chunks"]:
        batch = chunks.batch(2)
        for row in range(2):
            assert batch["x"][row].tolist() == expected["x"]
            assert batch["consec"][row].tolist() == expected["consec"]
