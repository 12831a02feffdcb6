"""Checkpoints are complete or absent, exact, and damage is named."""

import hashlib
import logging
import resource
import signal
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worldflux.errors import CheckpointError, TrainingError
from worldflux.run_folder.checkpoint import (
    Checkpoint,
    CheckpointStore,
    read_checkpoint,
    write_checkpoint,
)

FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


def example(value: float = 1.0) -> Checkpoint:
    base = torch.arange(12.0).reshape(3, 4) * value
    agent = {
        "model": {"w": base, "tied": base, "part": base[:, 1:3], "half": base.bfloat16()},
        "optimizer": {"w.exp_avg": base + 0.1, "count": torch.tensor(2**60 + 1)},
    }
    state = {
        "nested": {"array": np.arange(5, dtype=np.uint8), "flags": np.array([True, False])},
        "list": [1, 2.5, None, "text", np.float32(0.1)],
        "big": 2**100,
        "scalar_array": np.array(3.5),
        "empty": np.zeros((0, 2), np.float32),
    }
    return Checkpoint(agent, state)


def test_everything_comes_back_bit_for_bit(tmp_path):
    write_checkpoint(tmp_path / "step_1", example())
    assert {path.name for path in (tmp_path / "step_1").iterdir()} == set(FILES)
    back = read_checkpoint(tmp_path / "step_1")
    expected = example()
    for group, tensors in expected.agent.items():
        assert set(back.agent[group]) == set(tensors)
        for name, tensor in tensors.items():
            assert back.agent[group][name].dtype == tensor.dtype
            assert torch.equal(back.agent[group][name], tensor)
    state = back.state
    assert state["nested"]["array"].dtype == torch.uint8
    assert state["nested"]["array"].tolist() == [0, 1, 2, 3, 4]
    assert state["nested"]["flags"].tolist() == [True, False]
    assert state["list"] == [1, 2.5, None, "text", float(np.float32(0.1))]
    assert state["big"] == 2**100
    assert state["scalar_array"].shape == () and float(state["scalar_array"]) == 3.5
    assert state["empty"].shape == (0, 2)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_named_and_the_checkpoint_before_it_used(tmp_path, caplog, name, damage):
    store = CheckpointStore(tmp_path)
    store.save(10, example(1.0))
    store.save(20, example(2.0))
    path = tmp_path / "step_000000020" / name
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) * 2 // 3] ^= 4
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    with pytest.raises(CheckpointError, match=f"step_000000020 is damaged.*{name}"):
        read_checkpoint(tmp_path / "step_000000020")
    store = CheckpointStore(tmp_path)
    with caplog.at_level(logging.WARNING):
        folder, checkpoint = store.load_latest()
    assert folder.name == "step_000000010" and checkpoint.state["step"] == 10
    assert store.damaged == ["step_000000020"]
    assert "step_000000020" in caplog.text


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_damage_to_any_file_is_found(data):
    with TemporaryDirectory() as place:
        store = CheckpointStore(Path(place))
        store.save(10, example(1.0))
        newest = store.save(20, example(2.0))
        path = newest / data.draw(st.sampled_from(FILES))
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 2))  # without its last line's end it is whole
        if data.draw(st.booleans()):
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        else:
            del content[at:]
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=path.name):
            read_checkpoint(newest)
        assert CheckpointStore(Path(place)).load_latest()[0].name == "step_000000010"


def test_without_any_good_checkpoint_the_error_says_why(tmp_path):
    store = CheckpointStore(tmp_path)
    with pytest.raises(CheckpointError, match=r"no usable checkpoint.*holds none"):
        store.load_latest()
    store.save(1, example())
    (tmp_path / "step_000000001" / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no usable checkpoint.*model\.safetensors"):
        store.load_latest()


def test_the_newest_three_and_the_best_are_kept(tmp_path):
    store = CheckpointStore(tmp_path, keep=3)
    for step in range(1, 8):
        store.save(step, example(step))
        if step == 2:
            store.mark_best(2)
    names = [path.name for path in store.folders()]
    assert names == [CheckpointStore.name(step) for step in (2, 5, 6, 7)]
    for name, folder in (("latest", "step_000000007"), ("best", "step_000000002")):
        weights = hashlib.sha256((tmp_path / folder / "model.safetensors").read_bytes()).hexdigest()
        assert (tmp_path / name).read_text() == f"{folder}\n{name} {weights}\n"
    store.save(8, example(), resumable=False)
    store.mark_best(8)
    names = [path.name for path in store.folders()]
    assert names == [CheckpointStore.name(step) for step in (5, 6, 7, 8)]
    assert store.load_latest()[0].name == "step_000000007"


def test_nan_parameters_are_never_written(tmp_path):
    checkpoint = example()
    checkpoint.agent["model"]["w"][1, 1] = float("inf")
    with pytest.raises(TrainingError, match="parameter w is not finite"):
        CheckpointStore(tmp_path).save(5, checkpoint)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def disk_that_fills_up(limit: int):
    """No file may grow beyond `limit` bytes: a real failing write, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("limit", [100, 700])
def test_a_failing_disk_is_one_line_and_leaves_the_last_good_checkpoint(tmp_path, limit):
    store = CheckpointStore(tmp_path)
    store.save(10, example(1.0))
    for step in (10, 20):
        with (
            disk_that_fills_up(limit),
            pytest.raises(CheckpointError, match="cannot write") as told,
        ):
            store.save(step, example(2.0))
        assert "\n" not in str(told.value)
        assert {path.name for path in tmp_path.iterdir()} == {"step_000000010", "latest"}
    _, checkpoint = store.load_latest()
    assert torch.equal(checkpoint.agent["model"]["w"], example(1.0).agent["model"]["w"])


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write checkpoint"):
        CheckpointStore(tmp_path / "file").save(1, example())


def test_leftovers_of_a_crash_are_cleared_and_a_half_done_swap_is_undone(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(10, example(1.0))
    store.save(20, example(2.0))
    (tmp_path / "step_000000020").rename(tmp_path / ".old-step_000000020")
    (tmp_path / ".tmp-step_000000020").mkdir()
    (tmp_path / ".tmp-step_000000020" / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".tmp-latest").write_text("step_0000")
    # Somebody who only reads a run, such as `worldflux eval`, must not tidy under its process.
    assert CheckpointStore(tmp_path).load_latest()[0].name == "step_000000010"
    assert (tmp_path / ".tmp-latest").exists()
    store = CheckpointStore(tmp_path)
    store.tidy()
    assert store.load_latest()[0].name == "step_000000020"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_going_back_forgets_what_came_later(tmp_path):
    store = CheckpointStore(tmp_path, keep=None)
    for step in (1, 2, 3):
        store.save(step, example(step))
    store.mark_best(3)
    store.forget_after(2)
    assert [path.name for path in store.folders()] == ["step_000000001", "step_000000002"]
    assert (tmp_path / "latest").read_text().startswith("step_000000002\n")
    assert store.best() is None
