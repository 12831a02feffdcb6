"""Sequence replay: which windows there are, how they are drawn, and what is kept of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from worldflux.config.data import DataConfig
from worldflux.config.env import EnvConfig
from worldflux.config.spaces import Space
from worldflux.data import replay as replay_module
from worldflux.data.gym_source import GymSource, share_of
from worldflux.data.replay import SequenceReplay
from worldflux.data.sources import Sequences
from worldflux.envs.make import make_envs
from worldflux.errors import BufferError, ConfigurationError


def make(**changes: Any) -> SequenceReplay:
    given: dict[str, Any] = {
        "spaces": {"x": Space((2,), "int64"), "action": Space((1,)), "deter": Space((3,))},
        "entries": ["deter"],
        "capacity": 40,
        "length": 4,
        "num_envs": 2,
        "online": False,
        "seed": 0,
    }
    return SequenceReplay(**{**given, **changes})


def step(replay: SequenceReplay, t: int, first: Any = False, last: Any = False) -> None:
    """Adds step t of every environment; x is (environment, t)."""
    n = replay.num_envs
    replay.add(
        {
            "x": np.stack([np.arange(n), np.full(n, t)], 1),
            "action": np.full((n, 1), t, np.float32),
            "deter": np.full((n, 3), t, np.float32),
            "reward": np.full(n, t, np.float32),
            "is_first": np.broadcast_to(first, n),
            "is_last": np.broadcast_to(last, n),
            "is_terminal": np.zeros(n, bool),
        }
    )


def fill(replay: SequenceReplay, steps: int, begin: int = 0) -> SequenceReplay:
    for t in range(begin, begin + steps):
        step(replay, t)
    return replay


@pytest.fixture
def tiny_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 7 steps, so that windows cross segments, the ring's seam and both."""
    row = 2 * (16 + 4 + 12 + 4 + 3)
    monkeypatch.setattr(replay_module, "SEGMENT_BYTES", 7 * row)


def test_every_window_is_drawn_equally_often_and_never_torn(tiny_segments: None) -> None:
    replay = fill(make(), 53)
    assert len(replay) == 40 and replay.windows == 2 * (20 - 4 + 1)
    assert [segment["x"].shape[1] for segment in replay.segments] == [7, 7, 6]
    batch = replay.sample(34_000)
    env, t = batch["x"][..., 0], batch["x"][..., 1]
    assert (env == env[:, :1]).all() and (np.diff(t, axis=1) == 1).all()
    np.testing.assert_array_equal(batch["reward"], t)
    np.testing.assert_array_equal(batch["deter"][..., 2], t)
    drawn = Counter(zip(env[:, 0].tolist(), t[:, 0].tolist(), strict=True))
    assert set(drawn) == {(e, s) for e in range(2) for s in range(33, 50)}
    # 1000 expected for each: a Poisson spread of about 32.
    assert 850 < min(drawn.values()) and max(drawn.values()) < 1150


def test_windows_appear_one_per_environment_and_step() -> None:
    replay = make()
    with pytest.raises(BufferError, match="holds 0 steps"):
        replay.sample(1)
    fill(replay, 3)
    assert replay.windows == 0 and not replay.ready(1)
    fill(replay, 2, begin=3)
    assert replay.windows == 4 and replay.ready(4) and not replay.ready(5)


def test_batches_are_contiguous_and_typed() -> None:
    spaces = {"image": Space((3, 8, 8), "uint8"), "action": Space((2,))}
    replay = SequenceReplay(spaces=spaces, capacity=30, length=5, num_envs=3)
    for _ in range(7):
        replay.add(
            {
                "image": np.full((3, 3, 8, 8), 200, np.uint8),
                "action": np.ones((3, 2), np.float32),
                "reward": np.zeros(3),
                "is_first": np.zeros(3, bool),
                "is_last": np.zeros(3, bool),
                "is_terminal": np.ones(3, bool),
            }
        )
    batch = replay.sample(6)
    assert {key: (value.dtype.name, value.shape) for key, value in batch.items()} == {
        "image": ("uint8", (6, 5, 3, 8, 8)),
        "action": ("float32", (6, 5, 2)),
        "reward": ("float32", (6, 5)),
        "is_first": ("bool", (6, 5)),
        "is_last": ("bool", (6, 5)),
        "is_terminal": ("bool", (6, 5)),
        "stepid": ("int64", (6, 5)),
    }
    assert all(value.flags.c_contiguous for value in batch.values())
    batch["image"][:] = 0
    assert (replay.sample(3)["image"] == 200).all()  # the caller's copy, not the memory


def test_first_and_last_flags_of_a_window() -> None:
    """An abandoned episode's end is seen only where the next first step is in the window."""
    replay = make(num_envs=1, length=3, capacity=20)
    for t in range(6):
        step(replay, t, first=t in (0, 4), last=False)  # abandoned after step 3
    batch = replay.sample(200)
    by_start = {int(b[0, 1]): i for i, b in enumerate(batch["x"])}
    assert sorted(by_start) == [0, 1, 2, 3]
    firsts = {t: batch["is_first"][i].tolist() for t, i in by_start.items()}
    lasts = {t: batch["is_last"][i].tolist() for t, i in by_start.items()}
    assert firsts[1] == [True, False, False] and lasts[1] == [False, False, False]
    assert firsts[2] == [True, False, True] and lasts[2] == [False, True, False]
    assert firsts[3] == [True, True, False] and lasts[3] == [True, False, False]


@pytest.mark.parametrize(("capacity", "envs", "ranks"), [(1003, 4, 2), (1003, 2, 2), (40, 1, 3)])
def test_processes_together_keep_what_one_would(capacity: int, envs: int, ranks: int) -> None:
    one = make(capacity=capacity, num_envs=envs * ranks)
    shares = [
        share_of(capacity, envs, Sequences({}, {}, {}, 1, 1, ranks=ranks, rank=rank))
        for rank in range(ranks)
    ]
    kept = [steps for share in shares for steps in make(capacity=share, num_envs=envs).kept]
    assert kept == one.kept and sum(shares) == capacity


@pytest.mark.parametrize(("windows", "envs"), [(9, 2), (10, 3), (11, 3), (12, 3), (7, 4)])
def test_all_environments_together_keep_the_capacity(
    tiny_segments: None, windows: int, envs: int
) -> None:
    """The official replay holds its newest windows of all environments: 9 for 9, also with two."""
    length = 4
    replay = make(capacity=windows + envs * (length - 1), num_envs=envs, online=True)
    arrived: list[list[int]] = []  # in the order in which the environments' windows are complete
    for t in range(40):
        fill(replay, 1, begin=t)
        arrived += [[env, t - length + 1] for env in range(envs) if t >= length - 1]
        held = arrived[-windows:]
        assert replay.windows == len(held)
        assert len(replay) == min(envs * (t + 1), replay.capacity)
        if not held:
            continue
        if t % 13 == 5:
            batch = replay.sample(400)  # whole windows, each of them, and no other
            assert (np.diff(batch["x"][..., 1], axis=1) == 1).all()
            assert (batch["x"][..., 0] == batch["x"][:, :1, 0]).all()
            assert {tuple(x) for x in batch["x"][:, 0].tolist()} == {tuple(x) for x in held}
            env, first = min(held, key=lambda window: (window[1], window[0]))
            stepid = np.array([[first * envs + env]])
            replay.update(stepid, {"deter": np.full((1, 1, 3), -1, np.float32)})
            changed = replay.sample(400)
            here = (changed["x"][:, 0] == [env, first]).all(-1)
            assert here.any() and (changed["deter"][here, 0] == -1).all()
    assert replay.oldest(0) - replay.oldest(envs - 1) == (windows % envs > 0)


def test_online_windows_come_once_first_and_in_order() -> None:
    replay = make(online=True, capacity=80)
    fill(replay, 13)  # windows 1-4, 5-8, 9-12 of both environments; step 0 is in none
    batch = replay.sample(5)["x"]
    assert batch[:, 0].tolist() == [[0, 1], [1, 1], [0, 5], [1, 5], [0, 9]]
    assert batch[:, -1, 1].tolist() == [4, 4, 8, 8, 12]
    rest = replay.sample(300)["x"]
    assert rest[0, 0].tolist() == [1, 9]
    assert set(rest[1:, 0, 1].tolist()) == set(range(10))  # uniform from here on


def test_online_windows_that_left_the_memory_are_skipped() -> None:
    replay = make(online=True, capacity=20, num_envs=1)
    fill(replay, 42)  # holds 22..41; the first whole online window is 25-28
    batch = replay.sample(6)["x"][:, 0, 1].tolist()
    assert batch[:5] == [25, 29, 33, 37, batch[4]] and replay.windows == 17
    late = make(online=True, capacity=20, num_envs=1)
    fill(late, 6)
    late.sample(1)
    fill(late, 1, begin=6)
    assert len(late._queue) == 0


def test_updates_go_to_the_steps_they_name(tiny_segments: None) -> None:
    replay = fill(make(), 30)
    batch = replay.sample(50)
    fresh = np.stack([batch["x"][..., 0], batch["x"][..., 1], batch["x"][..., 1]], -1) + 1000
    replay.update(batch["stepid"][:, 1:], {"deter": fresh[:, 1:].astype(np.float32)})
    after = replay.sample(500)
    changed = {tuple(x) for x in batch["x"][:, 1:].reshape(-1, 2).tolist()}
    for x, deter in zip(after["x"].reshape(-1, 2), after["deter"].reshape(-1, 3), strict=True):
        told = (
            [x[0] + 1000, x[1] + 1000, x[1] + 1000] if tuple(x.tolist()) in changed else [x[1]] * 3
        )
        np.testing.assert_array_equal(deter, told)


def test_updates_of_steps_that_were_evicted_are_skipped(tiny_segments: None) -> None:
    replay = fill(make(num_envs=1, capacity=20), 20)
    batch = {key: value[:1] for key, value in replay.sample(1).items()}
    start = int(batch["x"][0, 0, 1])
    fill(replay, start + 2, begin=20)  # two of the four steps are gone
    replay.update(batch["stepid"], {"deter": np.full((1, 4, 3), -1, np.float32)})
    after = replay.sample(300)
    steps, deter = after["x"][..., 1].reshape(-1), after["deter"].reshape(-1, 3)[:, 0]
    assert set(steps[deter == -1].tolist()) == {start + 2, start + 3}
    np.testing.assert_array_equal(deter[deter != -1], steps[deter != -1])
    fill(replay, 20, begin=22 + start)
    replay.update(batch["stepid"], {"deter": np.full((1, 4, 3), -1, np.float32)})
    assert (replay.sample(300)["deter"] >= 0).all()
    with pytest.raises(BufferError, match="'reward'"):
        replay.update(batch["stepid"], {"reward": np.zeros((1, 4), np.float32)})


def test_memory_grows_with_the_contents_and_stays_within_what_is_stated() -> None:
    image = Space((3, 64, 64), "uint8")
    replay = SequenceReplay(
        spaces={"obs": image, "action": Space((1,))}, capacity=1_000_000, length=8
    )
    assert replay.nbytes == 0 and replay.max_nbytes == 1_000_000 * (3 * 64 * 64 + 4 + 4 + 3)
    blank = {
        "obs": np.zeros((1, 3, 64, 64), np.uint8),
        "action": np.zeros((1, 1)),
        "reward": np.zeros(1),
        "is_first": np.zeros(1, bool),
        "is_last": np.zeros(1, bool),
        "is_terminal": np.zeros(1, bool),
    }
    for _ in range(10):
        replay.add(blank)
    assert 0 < replay.nbytes <= replay_module.SEGMENT_BYTES
    small = fill(make(), 500)
    assert small.nbytes == small.max_nbytes == 40 * (16 + 4 + 12 + 4 + 3)


def test_the_same_seed_draws_the_same_windows() -> None:
    one, same, other = (fill(make(seed=seed), 30).sample(20)["stepid"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"data\.capacity=6.*at least 8"):
        make(capacity=6)
    with pytest.raises(ConfigurationError, match="'reward' is reserved"):
        make(spaces={"reward": Space((1,))}, entries=[])


def test_the_source_states_what_a_full_replay_takes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    envs = make_envs(EnvConfig())
    sizes = Sequences({}, {}, {}, batch_size=1, sequence_length=8)
    GymSource(envs, DataConfig(train_ratio=8, capacity=2**20), sizes)
    # 4 observations, 2 action entries and the reward of 4 bytes, 3 flags: 31 bytes.
    assert f"1,048,576 steps take {31 / 1024:.2f} GiB" in caplog.text
    GymSource(envs, DataConfig(train_ratio=8, capacity=10**14), sizes)
    assert caplog.records[-1].levelname == "WARNING" and "lower data.capacity" in caplog.text
    envs.close()
