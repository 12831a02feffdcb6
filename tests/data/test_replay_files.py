"""Replay on disk: exact, incremental, and whole after a crash."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.test_replay import fill, make, tiny_segments  # noqa: F401
from worldflux.config.spaces import Space
from worldflux.data.replay import SequenceReplay
from worldflux.data.replay_files import keep_saves
from worldflux.errors import BufferError, CheckpointError


def assert_same_future(one: SequenceReplay, other: SequenceReplay, begin: int) -> None:
    """Both sample the same from now on, also after more steps and updates."""
    for t in range(begin, begin + 30):
        for replay in (one, other):
            fill(replay, 1, begin=t)
        batch, again = one.sample(3), other.sample(3)
        for key, value in batch.items():
            np.testing.assert_array_equal(again[key], value)
        for replay in (one, other):
            replay.update(batch["stepid"], {"deter": batch["deter"] + 0.5})


def train(replay: SequenceReplay, rounds: int = 3) -> None:
    for _ in range(rounds):
        batch = replay.sample(4)
        replay.update(batch["stepid"], {"deter": batch["deter"] * 2 + 1})


@pytest.mark.usefixtures("tiny_segments")
@pytest.mark.parametrize("capacity", [40, 41])
@pytest.mark.parametrize("steps", [0, 3, 7, 13, 20, 47])
def test_a_loaded_replay_goes_on_as_the_saved_one(
    steps: int, capacity: int, tmp_path: Path
) -> None:
    replay = fill(make(online=True, capacity=capacity), steps)
    if replay.windows:
        train(replay)
    replay.save(tmp_path)
    loaded = make(online=True, seed=99, capacity=capacity)
    loaded.load(tmp_path)
    assert len(loaded) == len(replay) and loaded.windows == replay.windows
    fill(replay, 4, begin=steps)
    fill(loaded, 4, begin=steps)
    assert_same_future(replay, loaded, steps + 4)


@pytest.mark.usefixtures("tiny_segments")
def test_a_save_with_the_capacity_rounded_down_is_loaded(tmp_path: Path) -> None:
    """As versions did that kept `capacity // num_envs` steps of each environment."""
    replay = fill(make(online=True, capacity=40), 47)
    replay.save(tmp_path)
    loaded = make(online=True, seed=99, capacity=41)
    loaded.load(tmp_path)
    assert loaded.capacity == 40 and loaded.windows == replay.windows
    assert_same_future(replay, loaded, 47)
    with pytest.raises(BufferError, match="is 20, not 21"):
        make(capacity=42).load(tmp_path)


def files(folder: Path, group: str = "") -> set[str]:
    return {path.name for path in folder.glob(f"{group}*.npz")}


@pytest.mark.usefixtures("tiny_segments")
def test_only_what_changed_is_written(tmp_path: Path) -> None:
    replay = fill(make(), 16)  # segments of 7, 7 and 2 steps
    replay.save(tmp_path)
    before = files(tmp_path)
    assert len(files(tmp_path, "steps")) == len(files(tmp_path, "entries")) == 3
    replay.save(tmp_path)
    assert files(tmp_path) == before  # nothing happened, nothing is written
    fill(replay, 2, begin=16)
    replay.save(tmp_path)
    new = files(tmp_path) - before
    assert {name[:11] for name in new} == {"steps-00002", "entries-000"} and len(new) == 2
    batch = replay.sample(1)
    replay.update(batch["stepid"], {"deter": batch["deter"] - 1})
    held = files(tmp_path)
    replay.save(tmp_path)
    assert files(tmp_path, "steps") - held == set()  # training rewrites entries only
    assert 1 <= len(files(tmp_path, "entries") - held) <= 2


@pytest.mark.usefixtures("tiny_segments")
def test_saves_stay_until_they_are_no_longer_needed(tmp_path: Path) -> None:
    """A run that dies between replay and checkpoint goes on from the save before."""
    replay = fill(make(online=True), 25)
    train(replay)
    first = replay.save(tmp_path)
    twin = make(online=True)
    assert twin.load(tmp_path) == first
    fill(replay, 20, begin=25)
    train(replay)
    second = replay.save(tmp_path)
    assert first != second
    late = make(online=True)
    assert late.load(tmp_path, first) == first
    assert_same_future(twin, late, 25)
    # Going on from the first save, the abandoned second one must not be mistaken for ours.
    third = late.save(tmp_path)
    again = make(online=True)
    assert again.load(tmp_path) == third
    assert_same_future(late, again, 55)
    keep_saves(tmp_path, {first, third})
    assert sorted(path.name for path in tmp_path.glob("*.json")) == [
        f"replay-{first}.json",
        f"replay-{third}.json",
    ]


@pytest.mark.usefixtures("tiny_segments")
def test_files_of_an_interrupted_save_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = fill(make(), 20)
    replay.save(tmp_path)
    fill(replay, 9, begin=20)
    with monkeypatch.context() as patch:

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("worldflux.data.replay_files.os.replace", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            replay.save(tmp_path)
    old = make()
    old.load(tmp_path)
    assert old.added == 20
    replay.save(tmp_path)
    new = make()
    new.load(tmp_path)
    assert_same_future(replay, new, 29)


def test_the_sequence_length_may_change(tmp_path: Path) -> None:
    replay = fill(make(online=True), 18)
    replay.save(tmp_path)
    longer = make(online=True, length=6)
    longer.load(tmp_path)
    batch = longer.sample(30)["x"]
    assert (np.diff(batch[..., 1], axis=1) == 1).all() and batch.shape == (30, 6, 2)
    fill(longer, 1, begin=18)  # the next online window of six steps ends here
    assert longer.sample(2)["x"][:, 0].tolist() == [[0, 13], [1, 13]]


def test_what_does_not_fit_or_is_damaged_is_told(tmp_path: Path) -> None:
    replay = fill(make(), 20)
    with pytest.raises(BufferError, match="no replay in"):
        make().load(tmp_path)
    replay.save(tmp_path)
    with pytest.raises(BufferError, match=r"data\.capacity / training\.num_envs\) is 20, not 30"):
        make(capacity=60).load(tmp_path)
    with pytest.raises(BufferError, match="its num_envs is 2, not 1"):
        make(num_envs=1, capacity=20).load(tmp_path)
    spaces = {"x": Space((3,), "int64"), "action": Space((1,)), "deter": Space((3,))}
    with pytest.raises(BufferError, match="its spaces"):
        make(spaces=spaces).load(tmp_path)
    damaged = next(tmp_path.glob("steps-*.npz"))
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with pytest.raises(BufferError, match=damaged.name):
        make().load(tmp_path)
    next(tmp_path.glob("*.json")).write_text("{")
    with pytest.raises(BufferError, match="missing or damaged"):
        make().load(tmp_path)


@pytest.mark.usefixtures("tiny_segments")
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_damage_to_any_file_is_named(data: st.DataObject) -> None:
    """Bits that flip and files that end early, at every place of every file."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        replay = fill(make(online=True), 25)
        train(replay)
        tag = replay.save(folder)
        path = data.draw(st.sampled_from(sorted(folder.iterdir())))
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 2))  # without its last line's end it is whole
        if data.draw(st.booleans()):
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        else:
            del content[at:]
        path.write_bytes(content)
        with pytest.raises(BufferError, match=path.name):
            make(online=True).load(folder, tag)


@pytest.mark.usefixtures("tiny_segments")
def test_the_disk_holds_what_is_in_memory_and_no_more(tmp_path: Path) -> None:
    """Steps that were evicted leave the disk; a save adds only what changed since the last."""
    replay = make(online=True)
    sizes, tags = [], []
    for begin in range(0, 400, 8):
        fill(replay, 8, begin=begin)
        train(replay)
        tags.append(replay.save(tmp_path))
        keep_saves(tmp_path, set(tags[-2:]))
        sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
    full = -(-replay.rows // 8)  # saves until the memory is full
    assert max(sizes[full:]) <= 1.05 * sizes[full + 1]
    segments = len(replay.segments)
    assert len(files(tmp_path, "steps")) <= 2 * segments
    assert len(files(tmp_path, "entries")) <= 2 * segments
    for tag in tags[-2:]:
        make(online=True).load(tmp_path, tag)
