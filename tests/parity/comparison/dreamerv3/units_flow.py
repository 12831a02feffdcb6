"""units.json: initialisation, train ratio and the order in which the replay hands out steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from tests.parity.comparison.compare import Comparison, compare
from worldflux.config.spaces import Space
from worldflux.data.gym_source import ConsecutiveChunks
from worldflux.data.ratio import UpdateRatio
from worldflux.data.replay import SequenceReplay
from worldflux.models.dreamerv3.convolutions import Conv
from worldflux.models.dreamerv3.layers import BlockLinear, Linear


def compare_flow(settings: Mapping[str, Any], comparison: Comparison) -> None:
    """Adds rows for every case; a failure for each that is not known."""
    cases: dict[str, Callable[[Any], Iterator[Case]]] = {
        "init": initialisation,
        "ratio": train_ratio,
        "replay_trace": replay_trace,
        "consec": chunks,
    }
    for name, case in settings.items():
        if name not in cases:
            comparison.fail(f"units.json/{name}", "no such case is known")
            continue
        for row, expected, ours, tolerance in cases[name](case):
            comparison.rows.append(compare(f"units.json/{name}/{row}", expected, ours, tolerance))


Case = tuple[str, Any, Any, float]  # row name, recorded value, ours, tolerance


def initialisation(cases: list[dict[str, Any]]) -> Iterator[Case]:
    """Spread and range of as many fresh weights as were recorded."""
    for case in cases:
        shape, count, fan = case["shape"], case["n"], math.sqrt(case["fan_in_used"])
        name = "x".join(map(str, shape))
        weights = fresh_weights(shape, count)
        actual = {"std": float(weights.std()), "absmax": float(weights.abs().max())}
        # Two independent samples of n weights: five standard errors of their spread.
        tolerances = {"std": 5 / math.sqrt(count), "absmax": 5e-3}
        for key, value in actual.items():
            yield f"{name}/{key}", case[key], value, tolerances[key]
            scaled = f"{key}_times_sqrt_fan"
            yield f"{name}/{scaled}", case[scaled], value * fan, tolerances[key]


def fresh_weights(shape: list[int], count: int) -> torch.Tensor:
    """Initial weights of new layers with kernels of the official shape, at least `count`."""
    layer: Linear | BlockLinear | Conv
    if len(shape) == 2:
        layer = Linear(shape[0], shape[1])
    elif len(shape) == 3:
        layer = BlockLinear(shape[0] * shape[1], shape[0] * shape[2], shape[0])
    else:
        layer = Conv(shape[2], shape[3], shape[0])
    drawn = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(math.ceil(count / math.prod(shape))):
            layer.reset_parameters()
            drawn.append(layer.weight.detach().flatten().clone())
    return torch.cat(drawn)


def train_ratio(cases: list[dict[str, Any]]) -> Iterator[Case]:
    """Updates that are due at each call, counted from the first call."""
    for case in cases:
        ratio = UpdateRatio(Fraction(case["train_ratio"]) / case["batch_steps"])
        done, first, granted = 0, case["env_steps"][0], []
        for steps in case["env_steps"]:
            due = done
            while ratio.steps_before(due + 1) <= steps - first:
                due += 1
            granted.append(due - done)
            done = due
        yield f"{case['train_ratio']:g}", case["repeats"], granted, 0.0


def replay_trace(case: dict[str, Any]) -> Iterator[Case]:
    """Windows held, online queue and what it handed out after every step of all workers."""
    length, workers = case["length"], case["workers"]
    # The recorded capacity counts windows, ours the steps that they are made of.
    capacity = case["capacity"] + workers * (length - 1)
    replay = SequenceReplay(
        spaces={"t": Space((), "int64")}, capacity=capacity, length=length, num_envs=workers
    )
    flags = [episode_flags(case, str(worker)) for worker in range(workers)]
    for entry in case["trace"]:
        t = entry["t"]
        first, last = (np.array([flags[w][i][t] for w in range(workers)]) for i in (0, 1))
        zeros = np.zeros(workers)
        step = {"t": zeros + t, "reward": zeros, "is_first": first, "is_last": last}
        replay.add({**step, "is_terminal": last})
        yield f"{t}/num_items", entry["num_items"], replay.windows, 0.0
        last_start = t - length + 1
        starts = [
            [w, first] for w in range(workers) for first in range(replay.oldest(w), last_start + 1)
        ]
        yield f"{t}/item_starts", entry["item_starts"], starts, 0.0
        samples = entry["online_samples"]
        if samples:
            batch = replay.sample(len(samples))
            for i, sample in enumerate(samples):
                yield f"{t}/online_samples/{i}/w", sample["w"], batch["stepid"][i, 0] % workers, 0.0
                for key in ("t", "is_first", "is_last"):
                    yield f"{t}/online_samples/{i}/{key}", sample[key], batch[key][i], 0.0
        queued = len(replay.sampler_state()["queue"])
        yield f"{t}/queue_len_after", entry["queue_len_after"], queued, 0.0


def episode_flags(case: dict[str, Any], worker: str) -> tuple[list[bool], list[bool]]:
    """is_first and is_last of a worker's steps; worker 0's second episode is abandoned."""
    first: list[bool] = []
    last: list[bool] = []
    for index, steps in enumerate(case["episode_lengths"][worker]):
        first += [True] + [False] * (steps - 1)
        abandoned = worker == "0" and index == 1
        last += [False] * (steps - 1) + [not abandoned]
    return first, last


def chunks(case: dict[str, Any]) -> Iterator[Case]:
    """One sampled window after the other, each cut into consecutive chunks."""
    length, context = case["length"], case["prefix"]
    window = {"x": np.arange(context + case["consec"] * length)[None]}
    consecutive = ConsecutiveChunks(lambda _: window, context, length, case["consec"])
    for i, expected in enumerate(case["chunks"]):
        actual = consecutive.batch(1)
        yield f"{i}/x", expected["x"], actual["x"][0], 0.0
        yield f"{i}/consec", expected["consec"], actual["consec"][0], 0.0
