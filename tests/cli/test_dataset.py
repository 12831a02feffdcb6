"""Runs on recorded episodes: without an environment and in one, stopped and resumed; and the verbs that
record and look."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import worldflux
from tests.cli.conftest import TINY
from tests.data.recordings import Steps, episode, joined
from tests.data.test_recorded import read
from worldflux.cli.verbs import main as verbs
from worldflux.config.spaces import Space
from worldflux.data.recorded.layout import described
from worldflux.data.recorded.opening import open_recorded
from worldflux.errors import CheckpointError
from worldflux.run_folder.checkpoint import read_checkpoint
from worldflux.run_folder.checkpoints import checkpoint_named

OFFLINE = [word for word in TINY if not word.startswith(("training.total_steps", "data."))]
DATA = ["data=dataset", "data.path=episodes.npz", *OFFLINE]
LONG = "training.total_steps=4"
PENDULUM = {"obs": Space((3,))}, {"action": Space((1,))}


def pendulums() -> list[Steps]:
    """Episodes that could be the pendulum's."""
    parts = [episode(12, n, False, discrete=False) for n in range(4)]
    return [
        {
            "obs": part["state"],
            **{key: value for key, value in part.items() if key not in ("state", "picture")},
            "action": part["action"][:, :1],
        }
        for part in parts
    ]


@pytest.fixture
def recorded(folder: Path) -> Path:
    path = folder / "episodes.npz"
    np.savez(path, spaces=described(*PENDULUM), **joined(pendulums()))
    return path


def weights(run: worldflux.Run) -> dict[str, torch.Tensor]:
    groups = read_checkpoint(checkpoint_named(run.folder, "latest")).agent
    return {f"{group}.{key}": x for group, flat in groups.items() for key, x in flat.items()}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["dreamerv3", "tdmpc2"])
def test_without_an_environment_stopped_and_resumed(
    recorded: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*DATA, f"model={model}"]
    whole = worldflux.train(*words, LONG, "hydra.run.dir=whole")
    assert math.isnan(whole.score)
    assert "no environment is named" in (whole.folder / "run.log").read_text()
    assert verbs(["eval", str(whole.folder)]) == 2
    assert "env=none is no environment to act in; name one" in capsys.readouterr().err
    facts = whole.manifest["data_provenance"]
    assert (facts["episodes"], facts["steps"]) == (4, 48)
    assert whole.manifest["data_mode"] == "offline"
    cut = worldflux.train(*words, "training.total_steps=2", "hydra.run.dir=cut")
    moved = recorded.rename(recorded.with_name("moved.npz"))
    resumed = worldflux.resume(cut, LONG, f"data.path={moved}")
    ours, theirs = weights(resumed), weights(whole)
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    np.savez(moved, spaces=described(*PENDULUM), **joined(pendulums()[::-1]))
    with pytest.raises(CheckpointError, match=r"moved.npz: these are not the episodes that"):
        worldflux.resume(resumed, "training.total_steps=6")


def test_evaluated_in_the_environment_that_is_named(recorded: Path) -> None:
    run = worldflux.train(*DATA, LONG, "env=pendulum", "env.time_limit=8")
    assert run.score < 0 and run.manifest["env_steps"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("model", ["dreamerv3", "tdmpc2"])
def test_held_out_episodes_are_measured_and_change_nothing(recorded: Path, model: str) -> None:
    words = [*DATA, LONG, f"model={model}", "data.validation_fraction=0.3"]
    often = worldflux.train(*words, "training.eval_interval=2", "hydra.run.dir=often")
    once = worldflux.train(*words, "training.eval_interval=0", "hydra.run.dir=once")
    assert all(torch.equal(x, weights(once)[key]) for key, x in weights(often).items())
    assert often.manifest["data_provenance"]["held_out"] == 1
    for run, steps in ((often, [2, 4]), (once, [4])):
        table = run.metrics()
        total = table["validation/loss/total"]
        assert table["step"][~np.isnan(total)].tolist() == steps
    last = [one.metrics()["validation/loss/total"] for one in (often, once)]
    assert last[0][~np.isnan(last[0])][-1] == last[1][~np.isnan(last[1])][-1]


@pytest.mark.slow
def test_mixed_batches_stopped_and_resumed(recorded: Path) -> None:
    words = ["data=mixed", "data.path=episodes.npz", "env=pendulum", "env.time_limit=12", *OFFLINE]
    words += ["data.prefill_steps=30", "data.recorded_share=0.4"]
    whole = worldflux.train(*words, LONG, "hydra.run.dir=whole")
    cut = worldflux.train(*words, "training.total_steps=2", "hydra.run.dir=cut")
    resumed = worldflux.resume(cut, LONG)
    assert [k for k, x in weights(resumed).items() if not torch.equal(x, weights(whole)[k])] == []
    assert whole.manifest["data_mode"] == "online" and whole.manifest["env_steps"] > 30
    assert whole.score == resumed.score < 0
    assert whole.manifest["data_provenance"]["steps"] == 48


def test_mistakes_are_one_line(recorded: Path, refused: Callable[..., str]) -> None:
    for words, line in {
        "data=dataset": r"data.path must be given",
        "data=mixed data.path=episodes.npz env=none": "env=none has nothing to collect from: set data",
        "data.validation_fraction=0.1": "data.validation_fraction is of recorded data",
        "data=dataset data.path=episodes.npz data.validation_fraction=0.9": "data.validation_fraction"
        " leaves none of 4 episodes to train on",
        "data=dataset data.path=[]": r"data.path must be a text or a list of texts",
        "data=dataset data.path=no.npz": "data.path=no.npz: no such file",
        "data.path=episodes.npz": "data.path is of data=dataset and mixed, and data.source is gym",
        "data=dataset data.path=episodes.npz env=cartpole": "data.path has the observations obs 3 "
        "float32, and env.id=CartPole-v1 has obs 4 float32; env=none trains without",
        "data=dataset data.path=episodes.npz model.obs_shape=[5]": "model.obs_shape is (5,), but the"
        " recorded episodes have (3,)",
        "data=dataset data.path=episodes.npz training.sequence_length=99": "data.path holds 52 steps:"
        " no sequence of 99 can be taken",
        "data=dataset data.path=episodes.npz training.env_steps=9": "training.env_steps counts steps"
        " in an environment",
    }.items():
        assert refused(*words.split()).startswith(line)


@pytest.mark.slow
def test_recording_while_training_is_the_same_after_a_stop(folder: Path) -> None:
    words = ["env=pendulum", "env.time_limit=7", *TINY, "data.record=true"]
    words = [word for word in words if not word.startswith("training.total_steps")]
    words += ["data.train_ratio=1", "training.num_envs=2"]
    whole = worldflux.train(*words, LONG, "hydra.run.dir=whole")
    cut = worldflux.train(*words, "training.total_steps=2", "hydra.run.dir=cut")
    shutil.copytree(cut.folder, "kept")
    worldflux.resume(cut, "training.total_steps=3")  # a save that is then taken back
    shutil.rmtree(cut.folder / "checkpoints"), shutil.rmtree(cut.folder / "replay")
    for name in ("checkpoints", "replay"):
        shutil.copytree(Path("kept") / name, cut.folder / name)
    worldflux.resume(cut, LONG)
    ours, theirs = (
        read(open_recorded([str(one.folder / "episodes" / "*.npz")])) for one in (cut, whole)
    )
    assert len(ours) == len(theirs) > 6
    for one, other in zip(ours, theirs, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)
        assert len(one["reward"]) == 8 and one["reward"][0] == 0


def act(observation: np.ndarray) -> np.ndarray:
    return np.array([2.0 if observation[0] > 0 else -1.0], np.float32)


def test_the_verbs_record_and_look(
    folder: Path, capsys: pytest.CaptureFixture[str], recorded: Path
) -> None:
    run = worldflux.train("env=pendulum", "env.time_limit=9", *TINY, "hydra.run.dir=run")
    assert verbs(["record", "run", "--episodes", "3", "--out", "agent.npz"]) == 0
    assert "3 episodes, 27 steps: agent.npz" in capsys.readouterr().out
    played = read(open_recorded(["agent.npz"]))
    assert verbs(["eval", "run", "--episodes", "3", "--json"]) == 0
    returns = json.loads(capsys.readouterr().out)["returns"]
    np.testing.assert_allclose([one["reward"].sum() for one in played], returns, rtol=1e-5)
    random = ["--policy", "random", "--episodes", "2"]
    assert verbs(["record", "env=pendulum", "env.time_limit=9", *random, "--out", "r.npz"]) == 0
    policy = ["--policy", "tests.cli.test_dataset:act", "--episodes", "2"]
    assert verbs(["record", "run", *policy, "--out", "mine.npz"]) == 0
    (one, _) = read(open_recorded(["mine.npz"]))
    expected = np.where(one["obs"][:-1, :1] > 0, 1.0, -0.5)  # the pendulum's bounds are 2
    np.testing.assert_allclose(one["action"][:-1], expected)
    capsys.readouterr()
    assert verbs(["data", "mine.npz", "r.npz", "--out", "both.npz"]) == 0
    out = capsys.readouterr().out
    assert "4 episodes, 36 steps; 0 ended in a terminal state" in out
    assert "steps of an episode: 9 to 9" in out and Path("mine.npz.png").stat().st_size > 10_000
    assert len(read(open_recorded(["both.npz"]))) == 4
    run = worldflux.train("data=dataset", "data.path=both.npz", *OFFLINE, LONG)
    assert run.manifest["data_provenance"]["steps"] == 36


def test_damages_are_listed(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = joined(pendulums())
    columns["reward"][5], columns["action"][20] = np.nan, 3.0
    np.savez(recorded, spaces=described(*PENDULUM), **columns)
    assert verbs(["data", "episodes.npz", "--no-picture"]) == 1
    out = capsys.readouterr().out
    place = "1 rows not finite, the first is row 5 of episode 0"
    assert f"damaged: episodes.npz: reward: {place}" in out
    assert "damaged: episodes.npz: action: beyond [-1, 1] in episode 1" in out


@pytest.mark.parametrize(
    "words,line",
    {
        "record --out a.npz": "the command names no run whose agent could act",
        "record --out a.txt --policy random env=pendulum": "--out a.txt: expected .npz, .hdf5",
        "record --out episodes.npz --policy random env=pendulum": "--out episodes.npz: it exists",
        "record --out a.npz --policy nobody:act env=pendulum": "--policy nobody:act: No module",
        "record --out a.npz --policy noone env=pendulum": "--policy noone: expected agent, random",
        "data nothing.npz": "PATH=nothing.npz: no such file",
    }.items(),
)
def test_mistakes_of_the_verbs(
    recorded: Path, capsys: pytest.CaptureFixture[str], words: str, line: str
) -> None:
    assert verbs(words.split()) == 2
    assert line in capsys.readouterr().err
    assert sorted(path.name for path in recorded.parent.iterdir()) == ["episodes.npz"]
