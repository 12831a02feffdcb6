"""Sources: how much is collected, what is told about it, and going on after a stop."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldflux.config.data import DataConfig
from worldflux.config.env import EnvConfig
from worldflux.config.spaces import Space
from worldflux.data.gym_source import GymSource
from worldflux.data.random_source import RandomSource
from worldflux.data.sources import Sequences, make_source, try_envs
from worldflux.envs.make import make_envs
from worldflux.errors import ConfigurationError, TrainingError

COUNTING = "tests.envs.counting:Counting-v0"


class Walker:
    """An agent whose action depends on its carry, so that a lost carry shows."""

    entry_spaces = {"dyn/deter": Space((2,)), "dyn/stoch": Space((2, 3))}  # noqa: RUF012
    replay_context = 1

    def initial_carry(self, n: int) -> dict[str, torch.Tensor]:
        return {"count": torch.zeros(n, dtype=torch.int64)}

    def act(self, carry: Any, obs: Any, explore: bool) -> Any:
        assert set(obs) == {"obs", "is_first"}
        count = torch.where(torch.as_tensor(obs["is_first"]), 0, carry["count"]) + 1
        actions = np.eye(3, dtype=np.float32)[(count % 3).numpy()]
        deter = np.stack([count.numpy(), obs["obs"][:, 1]], 1).astype(np.float32)
        stoch = np.ones((len(count), 2, 3), np.float32)
        return {"count": count}, actions, {"dyn/deter": deter, "dyn/stoch": stoch}


def source(
    env: EnvConfig | None = None, num_envs: int = 2, mode: str = "sync", **changes: Any
) -> GymSource:
    data = {"capacity": 400, "prefill_steps": 40, "collect_steps_per_update": 4, **changes}
    env = env or EnvConfig(id=COUNTING, kwargs={"length": 7})
    return GymSource(
        make_envs(env, num_envs=num_envs, mode=mode, seed=1),
        DataConfig(**data),
        Sequences({}, {}, Walker.entry_spaces, batch_size=4, sequence_length=5, replay_context=1),
    )


def test_environment_steps_follow_the_updates_exactly() -> None:
    agent = Walker()
    for changes, steps in [
        ({"collect_steps_per_update": 4, "prefill_steps": 40}, [40, 44, 48, 52]),
        ({"collect_steps_per_update": 0.25, "prefill_steps": 41}, [41, 42, 42, 42, 42, 43]),
        ({"collect_steps_per_update": None, "train_ratio": 8}, [40, 43, 45, 48, 50, 53]),
    ]:
        s = source(num_envs=1, **changes)
        for update, expected in enumerate(steps, 1):
            s.advance(agent, update)
            assert s.env_steps == expected, (changes, update)
        s.close()


def test_a_stop_ends_the_prefill_which_goes_on_where_it_was() -> None:
    whole, cut = source(), source()
    cut.should_stop = lambda: cut.env_steps >= 10
    assert whole.ready
    cut.advance(Walker(), 1)
    assert not cut.ready and cut.env_steps == 10
    cut.should_stop = lambda: False
    for one in (whole, cut):
        one.advance(Walker(), 1)
    assert cut.ready and cut.env_steps == whole.env_steps == 40
    first, second = (one.batch(4) for one in (whole, cut))
    assert all(np.array_equal(first[key], second[key]) for key in first)
    whole.close(), cut.close()


def test_ratios_do_not_drift() -> None:
    """0.1 is no binary fraction: ten updates per step must stay ten after many of them."""
    s = source(num_envs=1, collect_steps_per_update=0.1)
    assert [s.ratio.steps_before(n) for n in (1, 2, 11, 12, 1_000_001)] == [0, 1, 1, 2, 100_000]
    assert s.ratio.steps_before(1_000_001) <= 100_000 < s.ratio.steps_before(1_000_002)
    s.close()
    with pytest.raises(ConfigurationError, match="train_ratio"):
        source(collect_steps_per_update=None)


def test_prefill_goes_on_until_there_is_a_batch() -> None:
    s = source(num_envs=1, prefill_steps=0)
    s.advance(Walker(), 1)
    assert s.replay.windows >= 4 and s.env_steps < 12
    assert (s.batch(4)["dyn/deter"] == 0).all()  # random actions leave no latents
    s.close()


def test_an_agents_entries_and_actions_are_stored_with_their_step() -> None:
    s = source()
    agent = Walker()
    episodes = s.advance(agent, 1) + s.advance(agent, 60)
    assert s.degraded_modes == [] and s.data_mode == "online"
    assert {(e.return_, e.length, e.terminated) for e in episodes} == {(28.0, 7, True)}
    assert [e.env_steps for e in episodes] == sorted(e.env_steps for e in episodes)
    batch = s.batch(200)
    acted = batch["dyn/stoch"][..., 0, 0] == 1
    assert acted.any() and not acted.all()
    place, told = batch["obs"][..., 1], batch["dyn/deter"]
    np.testing.assert_array_equal(told[acted][:, 1], place[acted])
    whole = acted & (told[..., 0] == place + 1)  # not the episode it took over in the middle of
    assert whole.sum() > 0.9 * acted.sum()
    action = batch["action"].argmax(-1)
    live = whole & ~batch["is_last"]
    np.testing.assert_array_equal(action[live], (place[live] + 1) % 3)
    fresh = {key: np.full_like(batch[key], 5) for key in agent.entry_spaces}
    s.write_back(batch["stepid"], fresh)
    assert (s.batch(50)["dyn/stoch"] == 5).mean() > 0.9
    s.close()


def as_a_checkpoint_returns_it(tree: Any) -> Any:
    """Arrays come back as tensors, everything else through JSON."""
    if isinstance(tree, dict):
        return {key: as_a_checkpoint_returns_it(value) for key, value in tree.items()}
    return torch.from_numpy(tree.copy()) if isinstance(tree, np.ndarray) else tree


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("consec", [1, 3])
def test_a_stopped_source_goes_on_exactly(mode: str, consec: int, tmp_path: Path) -> None:
    one = source(mode=mode, consec=consec)
    agent = Walker()

    def train(s: GymSource, first: int, last: int) -> list[Any]:
        seen = []
        for update in range(first, last):
            seen.append([(e.return_, e.env) for e in s.advance(agent, update)])
            batch = s.batch(4)
            seen.append({key: value.copy() for key, value in batch.items()})
            fresh = {key: batch[key][:, 1:] + update for key in agent.entry_spaces}
            s.write_back(batch["stepid"][:, 1:], fresh)
        return seen

    train(one, 1, 12)
    one.save(tmp_path)
    state = as_a_checkpoint_returns_it(one.state_dict())
    expected = train(one, 12, 30)
    one.save(tmp_path)  # newer than the checkpoint: the run died in between
    one.close()
    other = source(mode=mode, consec=consec)
    other.load(tmp_path)
    other.load_state_dict(state)
    assert other.degraded_modes == []
    for left, right in zip(expected, train(other, 12, 30), strict=True):
        if isinstance(left, list):
            assert left == right
        else:
            for key in left:
                np.testing.assert_array_equal(left[key], right[key])
    other.close()


def test_environments_that_do_not_come_back_are_reset_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    drifting = EnvConfig(id=COUNTING, kwargs={"length": 30, "drift": True})
    one = source(env=drifting, collect_steps_per_update=1)
    agent = Walker()
    for update in range(1, 6):
        one.advance(agent, update)
    one.save(tmp_path)
    state = one.state_dict()
    state["collector"]["envs"]["row"]["obs"][0] = -7
    one.close()
    other = source(env=drifting, collect_steps_per_update=1)
    other.load(tmp_path)
    other.load_state_dict(state)
    assert other.degraded_modes == ["env_restore_reset"]
    assert "did not come back" in caplog.text
    for update in range(6, 40):
        other.advance(agent, update)
    # The abandoned episode has an end where its successor begins.
    batch = other.batch(300)
    begins = batch["is_first"][:, 1:]
    np.testing.assert_array_equal(batch["is_last"][:, :-1], begins | batch["is_last"][:, :-1])
    assert begins.any()
    other.close()


def test_a_failing_environment_stops_the_run_or_degrades_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = EnvConfig(id=COUNTING, kwargs={"length": 99, "fail_at": 25})
    s = source(env=broken)
    s.advance(Walker(), 1)
    with pytest.raises(TrainingError, match="the robot fell over"):
        s.advance(Walker(), 20)
    s.close()
    caplog.set_level(logging.WARNING)
    # Enough for a batch: the run goes on with what is there.
    s = source(env=broken, on_env_failure="degrade")
    s.advance(Walker(), 1)
    s.advance(Walker(), 20)
    assert s.degraded_modes == ["env_collection_unavailable"] and s.data_mode == "online"
    assert "the robot fell over" in caplog.text and "steps collected so far" in caplog.text
    assert s.advance(Walker(), 21) == [] and s.batch(4)["obs"].shape == (4, 6, 3)
    state = s.state_dict()
    again = source(env=broken, on_env_failure="degrade")
    again.load_state_dict(state)
    assert again.degraded_modes == s.degraded_modes and again.advance(Walker(), 22) == []
    s.close()
    # Not enough: noise, named as such.
    early = EnvConfig(id=COUNTING, kwargs={"length": 99, "fail_at": 3})
    s = source(env=early, on_env_failure="degrade")
    s.advance(Walker(), 1)
    assert s.degraded_modes == ["env_collection_unavailable", "random_replay_fallback"]
    assert s.data_mode == "random" and "RANDOM NOISE" in caplog.text
    batch = s.batch(4)
    assert batch["obs"].shape == (4, 6, 3) and batch["dyn/deter"].shape == (4, 6, 2)
    s.write_back(batch["stepid"], {"dyn/deter": batch["dyn/deter"]})
    state = s.state_dict()
    again = source(env=early, on_env_failure="degrade")
    again.load_state_dict(state)
    np.testing.assert_array_equal(again.batch(4)["obs"], s.batch(4)["obs"])
    assert again.data_mode == "random"
    s.close()
    again.close()


def sequences() -> Sequences:
    return Sequences(
        obs_spaces={
            "image": Space((3, 16, 16), "uint8"),
            "kind": Space((2,), "int64", (2, 5)),
            "vector": Space((4,)),
        },
        action_spaces={"gear": Space((), "int64", (3,)), "turn": Space((2,))},
        entry_spaces={"dyn/deter": Space((8,))},
        batch_size=4,
        sequence_length=5,
        replay_context=1,
    )


def test_random_data_is_asked_for_by_name_or_told_as_a_fallback() -> None:
    asked = make_source(DataConfig(source="random"), None, sequences())
    assert asked.data_mode == "random" and asked.degraded_modes == []
    batch = asked.batch(50)
    assert batch["action"].shape == (50, 6, 5) and batch["image"].dtype == np.uint8
    assert (batch["action"][..., :3].sum(-1) == 1).all()
    assert batch["kind"].reshape(-1, 2).max(0).tolist() == [1, 4] and batch["kind"].min() == 0
    assert abs(batch["vector"].mean()) < 0.1 and batch["vector"].std() == pytest.approx(1, abs=0.1)
    assert (batch["dyn/deter"] == 0).all() and batch["is_first"][:, 0].all()
    again = make_source(DataConfig(source="random"), None, sequences())
    np.testing.assert_array_equal(again.batch(50)["vector"], batch["vector"])
    state = asked.state_dict()
    upcoming = asked.batch(3)["vector"]
    assert isinstance(again, RandomSource)
    again.load_state_dict(state)
    np.testing.assert_array_equal(again.batch(3)["vector"], upcoming)
    fallen = make_source(DataConfig(source="gym"), None, sequences())
    assert fallen.degraded_modes == ["env_collection_unavailable", "random_replay_fallback"]


def test_environments_that_cannot_be_made_stop_the_run_or_degrade_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refusing() -> Any:
        return make_envs(EnvConfig(id=COUNTING, kwargs={"fail_to_make": True}))

    def misspelt() -> Any:
        return make_envs(EnvConfig(id="CartPol-v1"))

    with pytest.raises(ConfigurationError, match="no licence"):
        try_envs(refusing, DataConfig())
    assert try_envs(refusing, DataConfig(on_env_failure="degrade")) is None
    assert "no licence" in caplog.text and "RANDOM NOISE" in caplog.text
    with pytest.raises(ConfigurationError, match="did you mean 'CartPole-v1'"):
        try_envs(misspelt, DataConfig(on_env_failure="degrade"))


def test_what_was_collected_beforehand_is_offline_data() -> None:
    s = source(num_envs=1, collect_steps_per_update=0, prefill_steps=60)
    for update in (1, 2, 500):
        s.advance(Walker(), update)
        assert s.env_steps == 60
    assert s.data_mode == "offline" and s.degraded_modes == []
    s.close()
    with pytest.raises(ConfigurationError, match="prefill_steps must be above 0"):
        DataConfig(collect_steps_per_update=0, prefill_steps=0)


def test_an_observation_may_not_take_the_name_of_an_entry() -> None:
    envs = make_envs(EnvConfig())
    with pytest.raises(ConfigurationError, match=r"\['obs'\] are the agent's own"):
        GymSource(
            envs,
            DataConfig(train_ratio=32),
            Sequences({}, {}, {"obs": Space((4,))}, batch_size=1, sequence_length=2),
        )
    envs.close()
