"""Recorded episodes of every format: equal rows, windows that mark borders, and damages in one line."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces as gs

from tests.data.recordings import (
    CHOICES,
    OBS,
    VALUES,
    Steps,
    episode,
    episodes,
    joined,
    same,
    write_d4rl,
)
from tests.data.test_sources import COUNTING, Walker, source
from worldflux.config.data import DataConfig
from worldflux.config.env import EnvConfig
from worldflux.config.spaces import Space
from worldflux.data.buffer import ReplayBuffer
from worldflux.data.recorded.encoding import View
from worldflux.data.recorded.layout import described
from worldflux.data.recorded.opening import RecordedSet, open_recorded
from worldflux.data.recorded.stream import Stream
from worldflux.data.sources import Sequences, make_source
from worldflux.envs.make import make_envs
from worldflux.envs.spaces import ImageFormat
from worldflux.errors import BufferError, ConfigurationError
from worldflux.run_folder.manifest import SCHEMA

NPZ = np.savez, np.savez_compressed


def read(recorded: RecordedSet) -> list[Steps]:
    """Every episode, whole."""
    return [
        recorded.parts[part].rows(number, 0, int(recorded.parts[part].lengths[number]))
        for part, number in recorded.episodes
    ]


def all_same(recorded: RecordedSet, expected: list[Steps]) -> None:
    ours = read(recorded)
    assert len(ours) == len(expected)
    for one, other in zip(ours, expected, strict=True):
        same(one, other)


def without(parts: list[Steps], *keys: str) -> list[Steps]:
    return [{key: value for key, value in part.items() if key not in keys} for part in parts]


@pytest.mark.parametrize("save", NPZ)
@pytest.mark.parametrize("discrete", [True, False])
def test_plain_npz(tmp_path: Path, save: Callable[..., None], discrete: bool) -> None:
    parts, actions = episodes(discrete), CHOICES if discrete else VALUES
    save(tmp_path / "a.npz", spaces=described(OBS, actions), **joined(parts))
    recorded = open_recorded([str(tmp_path / "a.npz")])
    all_same(recorded, parts)
    assert dict(recorded.obs_spaces) == OBS and dict(recorded.action_spaces) == actions
    assert recorded.steps == 16


def test_columns_without_spaces_are_an_environments_own(tmp_path: Path) -> None:
    """Pictures with the channels behind, choices as whole numbers, doubles, no is_last."""
    parts = episodes()
    columns = joined(parts)
    own = {
        "picture": columns["picture"].transpose(0, 2, 3, 1),
        "state": columns["state"].astype(np.float64),
        "action": columns["action"].argmax(1),
        "reward": columns["reward"].astype(np.float64),
        "is_first": columns["is_first"].astype(np.uint8),
        "is_terminal": columns["is_terminal"],
    }
    np.savez(tmp_path / "own.npz", **own)
    all_same(open_recorded([str(tmp_path / "own.npz")]), parts)
    view = View(image=ImageFormat((8, 8), grayscale=True))
    small = open_recorded([str(tmp_path / "own.npz")], view)
    assert small.obs_spaces["picture"] == Space((1, 8, 8), "uint8")
    assert read(small)[0]["picture"].shape == (6, 1, 8, 8)


@pytest.mark.parametrize("chunked", [None, "gzip"])
def test_plain_hdf5(tmp_path: Path, chunked: str | None) -> None:
    h5py = pytest.importorskip("h5py", reason="HDF5 needs h5py")
    parts = episodes()
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for key, value in joined(parts).items():
            file.create_dataset(key, data=value, compression=chunked)
        file.attrs["spaces"] = described(OBS, CHOICES)
    all_same(open_recorded([str(tmp_path / "a.hdf5")]), parts)


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("following", [True, False])
def test_d4rl(tmp_path: Path, discrete: bool, following: bool) -> None:
    pytest.importorskip("h5py", reason="HDF5 needs h5py")
    parts = episodes(discrete)
    write_d4rl(tmp_path / "a.hdf5", parts, following)
    expected = [{"obs": part["state"], **without([part], "picture", "state")[0]} for part in parts]
    if not following:  # what followed the last action was not written
        for one in expected:
            if one["is_terminal"][-1]:
                one["obs"] = np.concatenate([one["obs"][:-1], one["obs"][-2:-1]])
            else:
                one |= {key: value[:-1] for key, value in one.items()}
                one["action"] = np.concatenate([one["action"][:-1], 0 * one["action"][-1:]])
                one["is_last"] = np.arange(len(one["reward"])) == len(one["reward"]) - 1
    all_same(open_recorded([str(tmp_path / "a.hdf5")]), expected)


def test_actions_are_in_the_bounds_of_the_environment(tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="HDF5 needs h5py")
    parts = episodes(discrete=False)
    actions = np.concatenate([part["action"][:-1] for part in parts])
    write_d4rl(tmp_path / "a.hdf5", parts, True, actions=3 * actions + 1)
    with pytest.raises(ConfigurationError, match=r"actions go from .* name the environment"):
        open_recorded([str(tmp_path / "a.hdf5")])
    view = View(acted=gs.Box(-2, 4, (2,), np.float32))
    taken = np.concatenate(
        [steps["action"][:-1] for steps in read(open_recorded([str(tmp_path / "a.hdf5")], view))]
    )
    np.testing.assert_allclose(taken, actions, atol=1e-6)


def test_buffer_files(tmp_path: Path) -> None:
    """Rows, tails and all, as ReplayBuffer samples them."""
    rng = np.random.default_rng(0)
    made = [
        {
            "obs": rng.normal(size=(n + whole, 3)).astype(np.float32),
            "actions": np.eye(4, dtype=np.float32)[rng.integers(4, size=n)],
            "rewards": rng.normal(size=n).astype(np.float32),
            "truncations": np.arange(n) == n - whole,
        }
        for n, whole in ((6, 1), (9, 0), (4, 1))
    ]
    buffer = ReplayBuffer.from_trajectories(made, reward_convention="after_action")
    buffer.save(tmp_path / "b.npz")
    recorded = open_recorded([str(tmp_path / "b.npz")])
    assert dict(recorded.action_spaces) == {"action": Space((), "int64", (4,))}
    for one, theirs in zip(read(recorded), made, strict=True):
        n = len(theirs["rewards"])
        assert len(one["reward"]) == n + 1
        np.testing.assert_array_equal(one["reward"][1:], theirs["rewards"])
        np.testing.assert_array_equal(one["action"][:-1], theirs["actions"])
        np.testing.assert_array_equal(one["obs"][:n], theirs["obs"][:n])
        assert one["is_terminal"].tolist() == [False] * n + [not theirs["truncations"][-1]]
        assert one["is_first"].sum() == one["is_last"].sum() == 1 and one["is_last"][-1]
    assert read(recorded)[1]["obs"][-1].tolist() == made[1]["obs"][-1].tolist()


@pytest.fixture
def minari(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    (tmp_path / "minari").mkdir()
    return pytest.importorskip("minari", reason="needs minari, which writes its datasets")


def test_minari_datasets_that_the_library_wrote(tmp_path: Path, minari: Any) -> None:
    from minari.data_collector import EpisodeBuffer

    parts = episodes(discrete=False)
    buffers = [
        EpisodeBuffer(
            id=number,
            observations={
                "picture": part["picture"].transpose(0, 2, 3, 1),
                "nested": (part["state"].astype(np.float64), part["state"][:, 1].astype(np.int64)),
            },
            actions={
                "arm": 3 * part["action"][:-1] + 1,
                "grip": (part["state"][:-1, 1]).astype(int) % 2 + 5,
            },
            rewards=part["reward"][1:],
            terminations=part["is_terminal"][1:],
            truncations=(part["is_last"] & ~part["is_terminal"])[1:],
        )
        for number, part in enumerate(parts)
    ]
    observed = gs.Dict(
        {
            "picture": gs.Box(0, 255, (16, 16, 3), np.uint8),
            "nested": gs.Tuple([gs.Box(-np.inf, np.inf, (3,), np.float64), gs.Discrete(20)]),
        }
    )
    acted = gs.Dict({"arm": gs.Box(-2, 4, (2,), np.float32), "grip": gs.Discrete(2, start=5)})
    minari.create_dataset_from_buffers(
        "house/arm-v0", buffers, observation_space=observed, action_space=acted, algorithm_name="-",
        author="-", author_email="-", code_permalink="-", description="-",
    )  # fmt: skip
    by_path = open_recorded([str(tmp_path / "minari" / "house" / "arm-v0")])
    recorded = open_recorded(["house/arm-v0"])
    assert by_path.digest() == recorded.digest()
    assert dict(recorded.obs_spaces) == {
        "picture": Space((3, 16, 16), "uint8"),
        "nested/0": Space((3,)),
        "nested/1": Space((), "int64", (20,)),
    }
    assert dict(recorded.action_spaces) == {"arm": Space((2,)), "grip": Space((), "int64", (2,))}
    for ours, part in zip(read(recorded), parts, strict=True):
        rest = without([ours], "nested/0", "nested/1", "picture", "action")[0]
        same(rest, without([part], "picture", "state", "action")[0])
        np.testing.assert_array_equal(ours["picture"], part["picture"])
        np.testing.assert_array_equal(ours["nested/1"], part["state"][:, 1])
        np.testing.assert_allclose(ours["action"][:, :2], part["action"], atol=1e-6)
        grip = ours["action"][:-1, 2:]
        np.testing.assert_array_equal(grip.argmax(1), part["state"][:-1, 1] % 2)


def test_minaris_compressed_pictures(tmp_path: Path, minari: Any) -> None:
    from minari.data_collector import EpisodeBuffer

    shade = (
        np.full((5, 32, 32, 3), 100, np.uint8) + np.arange(5, dtype=np.uint8)[:, None, None, None]
    )
    buffer = EpisodeBuffer(
        observations=shade, actions=np.zeros((4, 1), np.float32), rewards=np.ones(4),
        terminations=np.zeros(4, bool), truncations=np.arange(4) == 3,
    )  # fmt: skip
    minari.create_dataset_from_buffers(
        "shade-v0", [buffer], observation_space=gs.Box(0, 255, (32, 32, 3), np.uint8),
        action_space=gs.Box(-1, 1, (1,), np.float32), algorithm_name="-", author="-",
        author_email="-", code_permalink="-", description="-",
    )  # fmt: skip
    (steps,) = read(open_recorded(["shade-v0"]))
    np.testing.assert_allclose(steps["obs"].astype(int), shade.transpose(0, 3, 1, 2), atol=2)


@pytest.mark.parametrize("capacity", [400, 90])
def test_a_runs_own_replay(tmp_path: Path, capacity: int) -> None:
    """All that the replay holds, also where its ring has gone round."""
    collected = source(capacity=capacity)
    collected.advance(Walker(), 1)
    collected.advance(Walker(), 40)
    collected.save(tmp_path / "replay")
    spaces = {
        "model_type": "dreamer",
        "observation_modalities": {"obs": {"shape": [3]}},
        "action_spec": {"kind": "discrete", "dim": 3},
    }
    manifest = {"schema_version": SCHEMA, "model_config": spaces}
    (tmp_path / "run_manifest.json").write_text(json.dumps(manifest))
    recorded = open_recorded([str(tmp_path)])
    assert open_recorded([str(tmp_path / "replay")]).digest() == recorded.digest()
    replay = collected.replay
    assert int(recorded.lengths.sum()) == len(replay)
    for env, part in enumerate(recorded.parts[:2]):
        first = replay.oldest(env)
        held = [
            replay.segments[index]["obs"][env, rows]
            for index, rows, _ in replay._pieces(first, replay.added - first)
        ]
        rows = [part.rows(n, 0, int(length)) for n, length in enumerate(part.lengths)]
        np.testing.assert_array_equal(joined(rows)["obs"], np.concatenate(held))
    collected.close()


def test_windows_mark_the_borders_that_they_cross(tmp_path: Path) -> None:
    parts = episodes()
    for number, part in enumerate(parts):
        np.savez(tmp_path / f"{number}.npz", spaces=described(OBS, CHOICES), **part)
    recorded = open_recorded([str(tmp_path / "*.npz")])
    stream, whole = Stream(recorded), joined(parts)
    assert len(stream) == 19 and stream.windows(7) == 13
    batch = stream.batch(np.arange(13), 7)
    for first in range(13):
        window = {key: value[first : first + 7].copy() for key, value in whole.items()}
        window["is_first"][0] = True
        same({key: value[first] for key, value in batch.items()}, window)
    assert stream._takes  # the other way gives the same
    stream._takes = False
    same(stream.batch(np.arange(13), 7), batch)
    only = Stream(recorded, recorded.episodes[[2, 0]])
    np.testing.assert_array_equal(
        only.batch([0], 10)["state"][0], joined([parts[2], parts[0]])["state"]
    )


def _pickled(path: Path) -> None:
    columns: Any = {**joined(episodes()), "state": np.array([object()] * 19, object)}
    np.savez(path, **columns)


class Bomb:
    def __reduce__(self) -> Any:
        raise AssertionError("it was executed")


def _h5(path: Path, change: Callable[[Any], None]) -> None:
    h5py = pytest.importorskip("h5py", reason="HDF5 needs h5py")
    write_d4rl(path, episodes(), True)
    with h5py.File(path, "a") as file:
        change(file)


def _replace(file: Any, key: str, **how: Any) -> None:
    del file[key]
    file.create_dataset(key, **how)


def _link(file: Any) -> None:
    import h5py

    del file["rewards"]
    file["rewards"] = h5py.ExternalLink("/etc/passwd", "/x")


def _soft(file: Any) -> None:
    import h5py

    del file["rewards"]
    file["rewards"] = h5py.SoftLink("/rewards")


def _outside(file: Any) -> None:
    _replace(file, "rewards", shape=(16,), dtype="f4", external=[("/etc/passwd", 0, 64)])


def _virtual(file: Any) -> None:
    import h5py

    del file["rewards"]
    layout = h5py.VirtualLayout((16,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (16,))
    file.create_virtual_dataset("rewards", layout)


COLUMNS = joined(episodes())
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut.npz": (lambda p: p.write_bytes(b"PK\3\4" + b"\0" * 90), r"cut.npz: damaged or no .npz"),
    "pickle.npz": (lambda p: p.write_bytes(pickle.dumps([1])), r"pickle.npz: damaged"),
    "objects.npz": (_pickled, r"objects.npz: damaged or no .npz: state.npy is no array"),
    "missing.npz": (
        lambda p: np.savez(p, **without([COLUMNS], "reward")[0]),
        r"missing.npz: reward: missing",
    ),
    "short.npz": (
        lambda p: np.savez(p, **{**COLUMNS, "state": COLUMNS["state"][:7]}),
        r"short.npz: state: 7 rows, and reward has 19",
    ),
    "spaces.npz": (
        lambda p: np.savez(p, spaces='{"obs": 3}', **COLUMNS),
        r"spaces.npz: spaces: no spaces of a recording",
    ),
    "other.npz": (
        lambda p: np.savez(p, spaces=described({"state": Space((4,))}, CHOICES), **COLUMNS),
        r"other.npz: state: rows of shape \(3,\), and spaces says \(4,\)",
    ),
    "unobserved.npz": (
        lambda p: np.savez(p, **without([COLUMNS], "state", "picture")[0]),
        r"unobserved.npz: no column beside those of the step",
    ),
    "empty.npz": (
        lambda p: np.savez(p, **{key: value[:0] for key, value in COLUMNS.items()}),
        r"empty.npz: it holds no steps",
    ),
    "text.hdf5": (lambda p: p.write_text("hello"), r"text.hdf5: damaged or no HDF5 file"),
    "bare.hdf5": (
        lambda p: _h5(p, lambda f: f.pop("actions")),
        r"bare.hdf5: neither the plain layout .* it has next_observations",
    ),
    "rows.hdf5": (
        lambda p: _h5(p, lambda f: _replace(f, "actions", data=np.zeros(5))),
        r"rows.hdf5: actions: 5 rows, rewards 16",
    ),
    "linked.hdf5": (lambda p: _h5(p, _link), r"linked.hdf5: //rewards: a link, which is not"),
    "soft.hdf5": (lambda p: _h5(p, _soft), r"soft.hdf5: //rewards: a link, which is not followed"),
    "outside.hdf5": (lambda p: _h5(p, _outside), r"outside.hdf5: rewards: it lies in other files"),
    "virtual.hdf5": (lambda p: _h5(p, _virtual), r"virtual.hdf5: rewards: it lies in other files"),
    "texts.hdf5": (
        lambda p: _h5(p, lambda f: _replace(f, "rewards", data=np.array([b"abc"] * 16))),
        r"texts.hdf5: rewards: of type \|S3, expected numbers",
    ),
    "huge.hdf5": (
        lambda p: _h5(
            p, lambda f: _replace(f, "rewards", shape=(2**40,), dtype="f4", chunks=(64,))
        ),
        r"huge.hdf5: rewards: declares 4,398,046,511,104 bytes and holds 0",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damages_are_one_line_with_file_and_key(tmp_path: Path, name: str) -> None:
    write, expected = DAMAGES[name]
    write(tmp_path / name)
    with pytest.raises(BufferError, match=expected) as caught:
        open_recorded([str(tmp_path / name)])
    assert "\n" not in str(caught.value)


def test_what_is_no_number_is_named_where_it_is_read(tmp_path: Path) -> None:
    columns = joined(episodes())
    columns["state"][8, 2] = np.nan
    np.savez(tmp_path / "nan.npz", **columns)
    recorded = open_recorded([str(tmp_path / "nan.npz")])
    with pytest.raises(BufferError, match=r"nan.npz: state: not finite in row 2 of episode 1"):
        Stream(recorded).batch([4], 6)


def test_files_of_one_set_have_the_same_spaces(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **episode(4, 1, True))
    np.savez(tmp_path / "b.npz", **without([episode(4, 1, True)], "picture")[0])
    with pytest.raises(ConfigurationError, match=r"same spaces: .*b.npz has state 3 float32, and"):
        open_recorded([str(tmp_path / "a.npz"), str(tmp_path / "b.npz")])
    with pytest.raises(ConfigurationError, match=r"data.path=.*nothing.npz: no such file"):
        open_recorded([str(tmp_path / "nothing.npz")])
    with pytest.raises(ConfigurationError, match="no file has such a name"):
        open_recorded([str(tmp_path / "*.nothing")])


def test_recorded_rows_of_a_mixed_batch(tmp_path: Path) -> None:
    """They are the last rows, begin from the initial state, and nothing is written back for them."""
    rng = np.random.default_rng(0)
    taken = np.eye(3, dtype=np.float32)[rng.integers(3, size=20)]
    place = np.arange(20)
    columns = {"obs": np.full((20, 3), -7, np.float32), "action": taken, "reward": place * 1.0}
    spaces = described({"obs": Space((3,))}, {"action": Space((), "int64", (3,))})
    np.savez(tmp_path / "a.npz", spaces=spaces, is_first=place == 0, **columns)
    data = DataConfig(
        source="mixed", path=str(tmp_path / "a.npz"), prefill_steps=40, collect_steps_per_update=4.0,
        capacity=400, recorded_share=0.25,
    )  # fmt: skip
    envs = make_envs(EnvConfig(id=COUNTING, kwargs={"length": 7}), num_envs=2, mode="sync", seed=1)
    sequences = Sequences(
        envs.obs_spaces, envs.action_spaces, Walker.entry_spaces, 8, 5, replay_context=1
    )
    mixed = make_source(data, envs, sequences, open_recorded(data.paths))
    mixed.advance(Walker(), 1)
    mixed.advance(Walker(), 20)
    batch = mixed.batch(8)
    recorded = (batch["obs"] == -7).all((1, 2))
    assert recorded.tolist() == [False] * 6 + [True] * 2
    assert batch["is_first"][6:, 1].all() and not batch["is_first"][6:, 2:].any()
    assert (batch["stepid"][6:] == -1).all() and (batch["stepid"][:6] >= 0).all()
    assert (batch["dyn/stoch"][6:] == 0).all()
    fresh = {key: np.full_like(batch[key][:, 1:], 55) for key in Walker.entry_spaces}
    mixed.write_back(batch["stepid"][:, 1:], fresh)
    written = mixed.online.replay.segments[0]["dyn/deter"]  # type: ignore[attr-defined]
    assert 0 < (written == 55).any(-1).sum() <= 6 * 5
    mixed.close()
