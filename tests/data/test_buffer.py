"""ReplayBuffer: recorded episodes, their borders, their time convention and their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from worldflux.errors import (
    BufferError,
    ConfigurationError,
    MissingDependencyError,
    ShapeMismatchError,
)
from worldflux.training.data import ReplayBuffer, TrajectoryDataset, create_random_buffer


def episode(number: int, length: int) -> dict[str, np.ndarray]:
    """Row t: obs (number, t), action (t, number), reward 100 * number + t."""
    t = np.arange(length)
    return {
        "obs": np.stack([np.full(length, number), t], 1).astype(np.float32),
        "actions": np.stack([t, np.full(length, number)], 1).astype(np.float32),
        "rewards": (100 * number + t).astype(np.float32),
    }


def make(*lengths: int, capacity: int = 1000, **changes: Any) -> ReplayBuffer:
    buffer = ReplayBuffer(capacity, (2,), 2)
    for number, length in enumerate(lengths):
        buffer.add_episode(**episode(number, length), **changes)
    return buffer


def test_a_batch_holds_aligned_tensors() -> None:
    buffer = make(10, 7)
    assert len(buffer) == 17 and buffer.num_episodes == 2
    batch = buffer.sample(64, 5)
    assert batch.obs.shape == (64, 5, 2) and batch.actions.shape == (64, 5, 2)
    assert batch.rewards.shape == batch.terminations.shape == (64, 5)
    assert {x.dtype for x in (batch.obs, batch.actions, batch.rewards)} == {torch.float32}
    assert batch.reward_convention == "arrival"
    assert batch.layouts == buffer.batch_layout()
    number, t = batch.obs[..., 0], batch.obs[..., 1]
    assert torch.equal(batch.rewards, 100 * number + t)
    assert torch.equal(batch.actions, torch.stack([t, number], -1))
    ends = t == torch.where(number == 0, 9, 6)
    assert torch.equal(batch.terminations.bool(), ends) and ends.any()
    assert torch.equal(batch.extras["is_first"], t == 0)
    assert torch.equal(batch.extras["is_last"], ends)


@pytest.mark.parametrize("capacity", [1000, 50])
def test_no_sequence_crosses_an_episode_border_also_after_wrapping(capacity: int) -> None:
    lengths = [13, 7, 21, 4, 30, 5, 18, 9, 26, 12]
    buffer = make(*lengths, capacity=capacity)
    assert len(buffer) == min(capacity, sum(lengths))
    batch = buffer.sample(2000, 5)
    number, t = batch.obs[..., 0], batch.obs[..., 1]
    assert (number == number[:, :1]).all() and (t.diff(dim=1) == 1).all()
    newest = {e: range(n) for e, n in enumerate(lengths)}
    if capacity == 50:  # 12 + 26 + 9 + the last 3 of 18, which are too short
        newest = {9: range(12), 8: range(26), 7: range(9)}
    starts = {(int(e), int(s)) for e, s in zip(number[:, 0], t[:, 0], strict=True)}
    assert starts == {(e, s) for e, rows in newest.items() for s in rows[: max(0, len(rows) - 4)]}


def test_an_episode_longer_than_the_capacity_keeps_its_newest_rows() -> None:
    buffer = make(5, 100, capacity=30)
    assert len(buffer) == 30 and buffer.num_episodes == 1
    batch = buffer.sample(500, 3)
    assert batch.obs[..., 1].min() == 70 and batch.obs[..., 1].max() == 99
    assert not batch.extras["is_first"].any()


def test_dones_inside_the_arrays_begin_another_episode() -> None:
    data = episode(0, 12)
    dones = np.zeros(12)
    dones[[3, 8]] = 1
    buffer = ReplayBuffer(100, (2,), 2)
    buffer.add_episode(**data, dones=dones, truncations=np.arange(12) == 8)
    assert [len(e) for e in buffer.episodes] == [4, 5, 3]
    batch = buffer.sample(400, 3)
    t = batch.obs[..., 1]
    assert torch.equal(batch.terminations.bool(), t == 3)  # 8 was a time limit, 11 no end
    assert torch.equal(batch.extras["is_last"], (t == 3) | (t == 8) | (t == 11))
    assert torch.equal(batch.extras["is_first"], (t == 0) | (t == 4) | (t == 9))


def test_rewards_that_follow_the_action_are_moved_to_where_they_arrive() -> None:
    buffer = make(6, reward_convention="after_action")
    batch = buffer.sample(300, 3)
    t = batch.obs[..., 1]
    assert torch.equal(batch.rewards, (t - 1).clamp(min=0))
    assert (t.diff(dim=1) == 1).all() and not batch.terminations.any()
    # The last reward and the end came with an observation that was not recorded.
    steps = buffer.sample_steps(300, 3)
    extra = (steps["obs"][:, -1, 1] == 5) & (steps["obs"][:, -2, 1] == 5)
    assert extra.any() and (steps["reward"][extra, -1] == 5).all()
    np.testing.assert_array_equal(steps["is_terminal"][:, -1], extra)
    np.testing.assert_array_equal(steps["is_last"][:, -1], extra)
    assert not steps["is_last"][:, :-1].any()
    assert (steps["action"][extra, -1] == 0).all()


def test_a_recorded_final_observation_makes_the_conversion_complete() -> None:
    data = episode(0, 6)
    data["obs"] = episode(0, 7)["obs"]
    for truncated in (False, True):
        buffer = ReplayBuffer(100, (2,), 2)
        buffer.add_episode(
            **data,
            truncations=(np.arange(6) == 5) & truncated,
            reward_convention="after_action",
        )
        assert len(buffer) == 7
        steps = buffer.sample_steps(200, 3)
        t = steps["obs"][..., 1]
        np.testing.assert_array_equal(steps["reward"], np.maximum(t - 1, 0))
        np.testing.assert_array_equal(steps["is_last"], t == 6)
        np.testing.assert_array_equal(steps["is_terminal"], (t == 6) & (not truncated))


@pytest.mark.parametrize("how", ["npz", "parquet"])
def test_a_file_brings_everything_back(how: str, tmp_path: Path) -> None:
    if how == "parquet":
        pytest.importorskip("pyarrow", reason="needs pyarrow")
    buffer = ReplayBuffer(60, (2, 16, 16), 2, np.uint8)
    rng = np.random.default_rng(0)
    for number, length in enumerate([9, 14, 40, 8]):
        buffer.add_episode(
            rng.integers(256, size=(length, 2, 16, 16)),
            rng.standard_normal((length, 2)),
            rng.standard_normal(length),
            np.arange(length) == length - 1 if number != 2 else np.zeros(length),
            truncations=np.full(length, number == 1),
            reward_convention="after_action" if number == 3 else "arrival",
        )
    path = tmp_path / ("buffer.npz" if how == "npz" else "buffer.parquet")
    (buffer.save if how == "npz" else buffer.to_parquet)(path)
    loaded = (ReplayBuffer.load if how == "npz" else ReplayBuffer.from_parquet)(path)
    assert (len(loaded), loaded.capacity, loaded.num_episodes) == (60, 60, buffer.num_episodes)
    assert loaded.obs_dtype == np.uint8 and loaded.obs_shape == (2, 16, 16)
    for one, other in zip(buffer.episodes, loaded.episodes, strict=True):
        assert (one.whole, one.tail) == (other.whole, other.tail)
        for name in ("obs", "actions", "rewards", "dones", "truncations"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.random.seed(0)
    before = buffer.sample_steps(20, 4)
    np.random.seed(0)
    for key, value in loaded.sample_steps(20, 4).items():
        np.testing.assert_array_equal(value, before[key])
    assert [path.name for path in tmp_path.iterdir()] == [path.name]


def old_file(path: Path, **changes: Any) -> Path:
    """A file of an older collector: no episode table, rewards follow the action."""
    first, second = episode(0, 5), episode(1, 4)
    arrays = {key: np.concatenate([first[key], second[key]]) for key in first}
    arrays |= {"dones": np.array([0, 0, 0, 0, 1, 0, 0, 0, 1], np.float32)}
    arrays |= {"obs_shape": np.array([2]), "action_dim": np.array(2), "capacity": np.array(20)}
    arrays |= changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def test_an_older_file_is_converted_on_load(tmp_path: Path) -> None:
    buffer = ReplayBuffer.load(old_file(tmp_path / "old.npz"))
    assert len(buffer) == 9 and buffer.num_episodes == 2 and buffer.capacity == 20
    batch = buffer.sample(200, 3)
    number, t = batch.obs[..., 0], batch.obs[..., 1]
    assert torch.equal(batch.rewards, torch.where(t == 0, 0, 100 * number + t - 1))
    buffer.save(tmp_path / "new.npz")
    again = ReplayBuffer.load(tmp_path / "new.npz")
    assert [e.tail for e in again.episodes] == [(4.0, True), (103.0, True)]
    # Readers that know no episode table still find the borders.
    with np.load(tmp_path / "new.npz") as file:
        assert np.flatnonzero(file["dones"]).tolist() == [4, 8]
        assert str(file["reward_convention"]) == "arrival"
        assert file["episode_starts"].tolist() == [0, 5]
    stated = old_file(tmp_path / "stated.npz", reward_convention=np.array("arrival"))
    assert ReplayBuffer.load(stated).episodes[0].rewards.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rewards": None}, r"missing keys \['rewards'\]"),
        ({"rewards": np.zeros(8, np.float32)}, "lengths differ"),
        ({"capacity": np.array(8)}, "9 rows are more than its capacity 8"),
        ({"action_dim": np.array(3)}, "metadata says"),
        ({"obs_shape": np.array([4])}, "metadata says"),
        ({"reward_convention": np.array("arival")}, "'arival'"),
        ({"episode_starts": np.array([0, 12])}, "episode_starts"),
        ({"rewards": np.array([None] * 9)}, "damaged"),  # would need pickle
    ],
)
def test_a_file_that_contradicts_itself_is_told(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = old_file(tmp_path / "bad.npz", **changes)
    with pytest.raises(BufferError, match=said) as error:
        ReplayBuffer.load(path)
    assert "bad.npz" in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(BufferError, match="does not exist"):
        ReplayBuffer.load(tmp_path / "nothing.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(BufferError, match=r"damaged or no \.npz"):
        ReplayBuffer.load(tmp_path / "text.npz")
    with pytest.raises(BufferError, match="cannot be written"):
        make(3).save(tmp_path / "text.npz" / "deeper.npz")


def test_wrong_shapes_and_values_are_refused() -> None:
    good = episode(0, 5)
    buffer = ReplayBuffer(10, (2,), 2)
    for name, value in [
        ("obs", good["obs"][:4]),
        ("obs", good["obs"][:, :1]),
        ("actions", good["actions"][:, :1]),
        ("rewards", good["rewards"][:, None]),
        ("rewards", good["rewards"][:0]),
        ("dones", np.zeros(4)),
    ]:
        with pytest.raises(ShapeMismatchError, match=name if name != "rewards" else "rewards|obs"):
            buffer.add_episode(**{**good, name: value})
    assert len(buffer) == 0
    for arguments in [(0, (2,), 2), (10, (), 2), (10, (2, -1), 2), (10, (2,), 0), (1.5, (2,), 1)]:
        with pytest.raises(ConfigurationError):
            ReplayBuffer(*arguments)
    with pytest.raises(ConfigurationError, match="reward_convention='late'"):
        buffer.add_episode(**good, reward_convention="late")


def test_too_few_rows_are_told() -> None:
    buffer = make(6, 4)
    assert buffer.ready_for_sequence(batch_size=1, seq_len=6)
    assert buffer.ready_for_sequence(batch_size=4, seq_len=4)  # three and one windows
    assert not buffer.ready_for_sequence(batch_size=5, seq_len=4)
    assert not buffer.ready_for_sequence(batch_size=1, seq_len=7)
    with pytest.raises(BufferError, match="longest of 6"):
        buffer.sample(1, 7)
    with pytest.raises(BufferError, match="0 steps in 0 episodes"):
        make().sample(1, 1)
    with pytest.raises(BufferError, match="seq_len=0"):
        buffer.sample(1, 0)


def test_from_trajectories() -> None:
    buffer = ReplayBuffer.from_trajectories([episode(0, 5), episode(1, 8)])
    assert (len(buffer), buffer.capacity, buffer.obs_shape, buffer.action_dim) == (13, 13, (2,), 2)
    small = ReplayBuffer.from_trajectories([episode(0, 5), episode(1, 8)], capacity=8)
    assert len(small) == 8 and small.num_episodes == 1
    with pytest.raises(BufferError, match=r"trajectory 1: missing keys \['rewards'\]"):
        ReplayBuffer.from_trajectories([episode(0, 5), {"obs": 0, "actions": 0}])
    with pytest.raises(ConfigurationError):
        ReplayBuffer.from_trajectories([])


def test_sampling_follows_the_global_seed() -> None:
    buffer = make(40)
    drawn = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        drawn.append(buffer.sample(20, 3).obs)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_a_dataset_feeds_a_data_loader() -> None:
    data = TrajectoryDataset(make(9, 12), seq_len=4, samples_per_epoch=10)
    batches = list(DataLoader(data, batch_size=5))  # type: ignore[arg-type]
    assert len(data) == 10 and len(batches) == 2
    batch = batches[0]
    assert set(batch) == {"obs", "actions", "rewards", "terminations"}
    assert batch["obs"].shape == (5, 4, 2) and batch["rewards"].shape == (5, 4)
    # Reward t is what followed action t: it arrived with the next observation.
    number, t = batch["obs"][..., 0], batch["obs"][..., 1]
    assert torch.equal(batch["rewards"], 100 * number + t + 1)
    with pytest.raises(IndexError):
        data[10]
    with pytest.raises(ConfigurationError, match="seq_len=0"):
        TrajectoryDataset(make(9), seq_len=0)


def test_a_random_buffer_says_that_it_is_random() -> None:
    buffer = create_random_buffer(
        capacity=200, obs_shape=(4,), action_dim=2, num_episodes=5, episode_length=30, seed=0
    )
    assert len(buffer) == 150 and buffer.data_mode == "random"
    same = create_random_buffer(200, (4,), 2, 5, 30, seed=0)
    np.testing.assert_array_equal(buffer.episodes[3].obs, same.episodes[3].obs)
    assert ReplayBuffer(5, (1,), 1).data_mode == "offline"


def test_parquet_without_its_package_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"pip install .worldflux\[parquet\]"):
        make(3).to_parquet(tmp_path / "x.parquet")
