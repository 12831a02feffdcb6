"""What is written in one format and read is what was there, arrays and flags."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data.recordings import CHOICES, OBS, VALUES, Steps, episodes
from tests.data.test_recorded import all_same, minari  # noqa: F401
from worldflux.config.spaces import Space
from worldflux.data.buffer import ReplayBuffer
from worldflux.data.recorded.opening import open_recorded
from worldflux.data.recorded.writing import write_episodes
from worldflux.errors import ConfigurationError

NEEDS = {".hdf5": "h5py", "": "h5py", ".parquet": "pyarrow"}
FORMATS = [".npz", ".hdf5", "", ".parquet"]
HYBRID = {"grip": Space((2,), "int64", (2, 3)), "arm": Space((2,)), "go": Space((), "int64", (2,))}


def hybrid() -> list[Steps]:
    """Actions of three keys, sorted by name: arm, go, grip; and a key of choices beside the others."""
    parts = episodes(discrete=False)
    rng = np.random.default_rng(1)
    for part in parts:
        rows = len(part["reward"])
        chosen = [np.eye(n, dtype=np.float32)[rng.integers(n, size=rows)] for n in (2, 2, 3)]
        part["action"] = np.concatenate([part["action"], *chosen], 1)
        part["action"][-1] = 0
        part["mode"] = rng.integers(5, size=rows)
    return parts


CASES = {
    "choices": (OBS, CHOICES, episodes),
    "values": (OBS, VALUES, lambda: episodes(discrete=False)),
    "hybrid": ({**OBS, "mode": Space((), "int64", (5,))}, HYBRID, hybrid),
    "single": (
        {"obs": Space((3,))},
        VALUES,
        lambda: [
            {("obs" if key == "state" else key): value for key, value in part.items() if key != "picture"}
            for part in episodes(discrete=False)
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_round_trips(tmp_path: Path, suffix: str, case: str) -> None:
    if suffix in NEEDS:
        pytest.importorskip(NEEDS[suffix], reason=f"{suffix or 'Minari'} needs {NEEDS[suffix]}")
    obs, actions, make = CASES[case]
    out = tmp_path / f"set{suffix}"
    assert write_episodes(out, make(), obs, actions) == (3, 16)
    recorded = open_recorded([str(out)])
    all_same(recorded, make())
    assert dict(recorded.obs_spaces) == obs and dict(recorded.action_spaces) == actions
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    with pytest.raises(ConfigurationError, match="it exists already"):
        write_episodes(out, make(), obs, actions)


def test_a_buffer_loads_what_has_one_observation_key(tmp_path: Path) -> None:
    obs, actions, make = CASES["single"]
    write_episodes(tmp_path / "a.npz", make(), obs, actions)
    buffer = ReplayBuffer.load(tmp_path / "a.npz")
    assert buffer.num_episodes == 3 and len(buffer) == 19
    for episode, part in zip(buffer.episodes, make(), strict=True):
        np.testing.assert_array_equal(episode.obs, part["obs"])
        np.testing.assert_array_equal(episode.actions, part["action"])
        np.testing.assert_array_equal(episode.rewards, part["reward"])
        assert bool(episode.dones[-1] and not episode.truncations[-1]) == part["is_terminal"][-1]


@pytest.mark.parametrize("suffix", FORMATS)
def test_nothing_to_write_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    if suffix in NEEDS:
        pytest.importorskip(NEEDS[suffix], reason=f"{suffix or 'Minari'} needs {NEEDS[suffix]}")
    with pytest.raises(ConfigurationError, match="there is no episode to write"):
        write_episodes(tmp_path / f"set{suffix}", [], OBS, CHOICES)
    assert list(tmp_path.iterdir()) == []


def test_minari_loads_what_we_write(tmp_path: Path, minari: object) -> None:  # noqa: F811
    import minari as library

    write_episodes(tmp_path / "minari" / "ours-v0", hybrid(), CASES["hybrid"][0], HYBRID)
    dataset = library.load_dataset("ours-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 16)
    for loaded, part in zip(dataset.iterate_episodes(), hybrid(), strict=True):
        np.testing.assert_array_equal(loaded.observations["picture"], part["picture"])
        np.testing.assert_array_equal(loaded.rewards, part["reward"][1:])
        np.testing.assert_array_equal(loaded.terminations, part["is_terminal"][1:])
        np.testing.assert_array_equal(loaded.actions["go"], part["action"][:-1, 2:4].argmax(1))
        assert dataset.action_space.contains(
            {key: value[0] for key, value in loaded.actions.items()}
        )
