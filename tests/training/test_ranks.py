"""Runs of two processes: one folder, exact resume, and how the end of one ends the other."""

import os
import signal

import pytest

import worldflux.runner.run
from tests.together import together
from tests.training.test_resume_exact import assert_equal, content
from worldflux.config import composition
from worldflux.config import run as schema
from worldflux.core.ranks import RankLost
from worldflux.errors import ConfigurationError, TrainingError
from worldflux.models.dreamerv3.agent import DreamerV3Agent
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.metrics import read_metrics
from worldflux.runner.run import run

STEPS = 10
TINY = [
    "model/size=ci",
    "logger.tensorboard=false",
    "env.solved_return=null",
    "training.device=cpu",
    "training.nproc=2",
    "training.num_envs=2",
    "training.batch_size=4",
    "training.sequence_length=6",
    f"training.total_steps={STEPS}",
    "training.eval_episodes=1",
    "training.eval_interval=4",
    "training.log_interval=3",
    "training.save_interval=4",
    "data.prefill_steps=60",
    "data.capacity=400",
]
FAMILIES = {
    "dreamerv3": ["data.consec=2", "data.train_ratio=6"],
    "tdmpc2": [
        "model=tdmpc2",
        "model.episodic=true",
        "model.iterations=2",
        "data.pretrain_updates=2",
        "data.collect_steps_per_update=4",
        "training.optimizer=adam",
    ],
}


def configured(*words):
    schema.register()
    own = {word.split("=")[0] for word in words}
    kept = [word for word in TINY if word.split("=")[0] not in own]
    return composition.Composition.of(None).check([*kept, *words])


def trained(folder, config, harm=None, at=None):
    """Trains with two processes. harm(ranks) is called in each after update `at` of this start."""

    def work(ranks):
        updates = 0
        mean_gradients_ = ranks.mean_gradients_

        def counted(parameters):
            nonlocal updates
            updates += 1
            mean_gradients_(parameters)
            if updates == at:
                harm(ranks)

        ranks.mean_gradients_ = counted
        # Drawing takes longer than training here; this process is not the test's.
        DreamerV3Agent.report = lambda self, batch, carry: {}
        worldflux.runner.run._draw_curve = lambda folder: None
        return run(config, folder / "run", ranks=ranks)

    return together(folder, work)


def signal_to(rank, number):
    return lambda ranks: os.kill(os.getpid(), number) if ranks.rank == rank else None


@pytest.fixture(scope="module", params=FAMILIES)
def whole(request, tmp_path_factory):
    """A run of two processes that was never interrupted, and how it is configured."""
    folder = tmp_path_factory.mktemp(request.param)
    words = FAMILIES[request.param]
    scores = trained(folder, configured(*words))
    assert isinstance(scores[0], float)
    return folder / "run", words


@pytest.mark.slow
def test_one_folder_holds_the_run_of_both(whole):
    folder, _ = whole
    manifest = read_manifest(folder)
    assert (manifest["status"], manifest["global_step"]) == ("completed", STEPS)
    assert manifest["degraded_modes"] == []
    assert sorted(path.name for path in (folder / "replay").iterdir()) == ["rank_0", "rank_1"]
    last, _ = content(folder)
    counts = [state["collector"]["env_steps"] for state in sources(last)]
    assert manifest["env_steps"] == sum(counts) and min(counts) > 30
    rows = [state["collector"]["envs"]["row"]["obs"].tolist() for state in sources(last)]
    assert rows[0] != rows[1], "both ranks see the same episodes"
    episodes = [r["env_steps"] for r in read_metrics(folder) if "episode/return" in r["metrics"]]
    assert episodes == sorted(episodes)
    assert len(episodes) == sum(state["collector"]["episodes"] for state in sources(last))
    steps = [r["step"] for r in read_metrics(folder) if "train/loss/total" in r["metrics"]]
    assert steps == [3, 6, 9, STEPS]


def sources(checkpoint):
    return [checkpoint.state["source"], *(o["source"] for o in checkpoint.state["ranks"])]


@pytest.mark.slow
def test_stopped_and_killed_and_resumed_ends_the_same(whole, tmp_path):
    folder, words = whole
    config = configured(*words)
    per_update = 2 if "model=tdmpc2" in words else 1
    ends = trained(tmp_path, config, signal_to(1, signal.SIGTERM), 3 * per_update)
    assert [type(end).__name__ for end in ends] == ["Stopped", "Stopped"]
    manifest = read_manifest(tmp_path / "run")
    assert (manifest["status"], manifest["global_step"]) == ("stopped", 3)

    config.resume = str(tmp_path / "run")
    # Killed in update 7, the last checkpoint is that of update 4.
    ends = trained(tmp_path, config, signal_to(1, signal.SIGKILL), 4 * per_update)
    assert isinstance(ends[0], RankLost) and ends[1] is None
    manifest = read_manifest(tmp_path / "run")
    assert manifest["status"] == "failed" and "another process" in manifest["error"]

    assert isinstance(trained(tmp_path, config)[0], float)
    expected, metrics = content(folder)
    checkpoint, found = content(tmp_path / "run")
    assert_equal(checkpoint.agent, expected.agent)
    for a, b in zip(sources(checkpoint), sources(expected), strict=True):
        for key in ("replay", "replay_index"):  # names and lists of saves: there were more of them
            a.pop(key), b.pop(key)
    assert_equal(checkpoint.state, expected.state)
    assert found == metrics


@pytest.mark.slow
def test_a_damaged_replay_of_one_rank_takes_all_to_the_checkpoint_before(tmp_path):
    config = configured(*FAMILIES["dreamerv3"], "training.total_steps=5")
    trained(tmp_path, config)
    newest = sorted((tmp_path / "run" / "replay" / "rank_1").glob("replay-*.json"))[-1]
    newest.write_text("{")
    config.resume = str(tmp_path / "run")
    config.training = config.training.with_updates(total_steps=6)
    assert isinstance(trained(tmp_path, config)[0], float)
    manifest = read_manifest(tmp_path / "run")
    assert manifest["damaged_checkpoints"] == ["step_000000005"]
    assert (manifest["status"], manifest["global_step"]) == ("completed", 6)


@pytest.mark.slow
def test_another_number_of_processes_is_refused(whole):
    folder, words = whole
    config = configured(*words, "training.nproc=1")
    config.resume = str(folder)
    before = (folder / "run_manifest.json").read_bytes()
    with pytest.raises(
        ConfigurationError, match=r"training\.nproc cannot change .* it is 2 in .*, not 1"
    ):
        run(config, folder)
    assert (folder / "run_manifest.json").read_bytes() == before


def test_a_failure_in_one_process_ends_the_other(tmp_path):
    """An environment that breaks in the second process only."""
    config = configured(*FAMILIES["dreamerv3"])

    def work(ranks):
        if ranks.rank == 1:
            from gymnasium.envs.classic_control import CartPoleEnv

            CartPoleEnv.step = lambda self, action: 1 / 0
        return run(config, tmp_path / "run", ranks=ranks)

    first, second = together(tmp_path, work)
    assert isinstance(first, RankLost)
    assert isinstance(second, TrainingError) and "ZeroDivisionError" in str(second)
    assert read_manifest(tmp_path / "run")["status"] == "failed"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["training.batch_size=5"], "batch_size must be a multiple of nproc=2"),
        (["training.num_envs=3"], "num_envs must be a multiple of nproc=2"),
    ],
)
def test_what_cannot_be_shared_is_refused(words, line):
    with pytest.raises(ConfigurationError, match=line):
        configured(*words)
