"""The TD-MPC2 agent and world model: acting, planning, learning, borders and exact state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from worldflux import ConfigurationError, TDMPC2Config, create_world_model
from worldflux.config.spaces import Space
from worldflux.core.state import Batch
from worldflux.errors import TrainingError, ValidationError
from worldflux.models.tdmpc2.agent import TDMPC2Agent
from worldflux.models.tdmpc2.networks import Layer, mish, simnorm
from worldflux.models.tdmpc2.objective import Noise, dropout
from worldflux.models.tdmpc2.world_model import TDMPC2
from worldflux.training import TrainingConfig

B, H, N = 6, 3, 2
SPACES = {
    "continuous": {"action": Space((2,))},
    "discrete": {"action": Space((), "int64", (3,))},
    "multi": {"action": Space((2,), "int64", (2, 3))},
}


def build(kind: str = "continuous", training: dict[str, Any] | None = None, **fields: Any):
    fields = dict(num_samples=32, num_elites=8, num_pi_trajs=4, iterations=3) | fields
    config = TDMPC2Config.from_size("ci", obs_shape=(5,), **fields)
    torch.manual_seed(0)
    config = config.with_spaces({"obs": Space((5,))}, SPACES[kind])
    settings = dict(optimizer="adam", grad_clip=20.0, seed=0, sequence_length=H)
    training_config = TrainingConfig(**(settings | (training or {})))
    return TDMPC2(config).make_agent(training_config, device="cpu")


def batch_for(agent: TDMPC2Agent, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lead = (B, H + 1)
    flags = {k: torch.zeros(lead, dtype=torch.bool) for k in ("is_first", "is_last", "is_terminal")}
    flags["is_first"][:, 0] = True
    obs = torch.randn(*lead, 5, generator=generator)
    noise = agent.model.pi.noise(lead, generator, agent.device)
    classes = agent.model.pi.classes
    if classes:
        parts = noise.split(classes, -1)
        action = torch.cat([(p == p.amax(-1, keepdim=True)).float() for p in parts], -1)
    else:
        action = noise.tanh()
    return flags | {"obs": obs, "action": action, "reward": obs.sum(-1)}


@pytest.mark.parametrize("kind", SPACES)
def test_acting_gives_actions_of_the_space(kind: str) -> None:
    agent = build(kind)
    obs = {"obs": np.zeros((N, 5), np.float32), "is_first": np.ones(N, bool)}
    carry = agent.initial_carry(N)
    for explore in (True, False):
        carry, action, entries = agent.act(carry, obs, explore)
        assert action.shape == (N, agent.model.action_dim) and action.dtype == np.float32
        assert entries == {} and np.abs(action).max() <= 1
        if kind != "continuous":
            assert set(np.unique(action)) <= {0.0, 1.0}
            assert (action.sum(-1) == len(agent.model.pi.classes)).all()
            widths = agent.model.pi.classes
            for part in carry["mean"].split(widths, -1):
                torch.testing.assert_close(part.sum(-1), torch.ones(N, agent.config.horizon))


def test_a_first_step_forgets_the_plan_of_the_episode_before() -> None:
    agent = build()
    means = []
    for carry in (agent.initial_carry(1), {"mean": torch.rand(1, H, 2)}):
        agent.generator.manual_seed(7)
        obs = {"obs": np.ones((1, 5), np.float32), "is_first": np.array([True])}
        means.append(agent.act(carry, obs, explore=False)[0]["mean"])
    assert torch.equal(*means)


def test_environments_are_planned_for_independently() -> None:
    agent = build()
    obs = {"obs": np.zeros((2, 5), np.float32), "is_first": np.array([False, False])}
    obs["obs"][1] = 2.0
    first, second = torch.zeros(2, H, 2), torch.zeros(2, H, 2)
    second[1] = 0.9
    plans = []
    for mean in (first, second):
        agent.generator.manual_seed(3)
        plans.append(agent.act({"mean": mean}, obs, explore=True)[1])
    assert np.array_equal(plans[0][0], plans[1][0])
    assert not np.array_equal(plans[0][1], plans[1][1])


@pytest.mark.parametrize("kind", SPACES)
def test_planning_finds_the_action_that_is_rewarded(kind: str) -> None:
    """The reward is made to be one dimension of the action (one of the choices)."""
    agent = build(kind, gamma=0.5, num_samples=128, num_pi_trajs=8, iterations=6)
    model = agent.model

    class Wanted(Layer):
        def finish(self, x: torch.Tensor) -> torch.Tensor:
            return x

    class Reward(torch.nn.Module):
        def forward(self, value: torch.Tensor) -> torch.Tensor:
            return -50 * (model.bins - value) ** 2

    layer = Wanted(agent.config.latent_dim + model.action_dim, 1)
    with torch.no_grad():
        layer.weight.zero_()[0, -1] = 1.0
    model.reward = torch.nn.Sequential(layer, Reward())
    obs = {"obs": np.zeros((N, 5), np.float32), "is_first": np.ones(N, bool)}
    action = agent.act(agent.initial_carry(N), obs, explore=False)[1]
    assert (action[:, -1] > 0.7).all()


@pytest.mark.parametrize("kind", SPACES)
def test_updates_learn_to_predict_a_fixed_batch(kind: str) -> None:
    agent = build(kind, {"learning_rate": 3e-3})
    batch, losses = batch_for(agent), []
    for _ in range(40):
        metrics, entries, _ = agent.update(batch)
        losses.append(float(metrics["loss/reward"]))
    assert entries == {} and losses[-1] < 0.6 * losses[0]
    assert all(np.isfinite(float(value)) for value in metrics.values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPACES)
def test_the_policy_prior_climbs_q(kind: str) -> None:
    agent = build(kind, {"learning_rate": 1e-3}, entropy_coef=0.0, dropout=0.0)
    batch, values = batch_for(agent), []
    with torch.no_grad():  # Q networks that prefer some actions, and do not learn
        for network in (agent.model.q, agent.model.target_q):
            network[-1].weight.normal_(std=0.5, generator=agent.generator)
    agent.optimizer.step = lambda *_: None  # type: ignore[method-assign]
    for _ in range(120):
        metrics, _, _ = agent.update(batch)
        values.append(float(metrics["q"]))
    assert np.mean(values[-20:]) > np.mean(values[:20]) + 0.05


def test_what_lies_behind_a_border_has_no_influence() -> None:
    agent = build(dropout=0.0)
    batch = batch_for(agent)
    batch["is_first"][0, 2] = True
    other = {key: value.clone() for key, value in batch.items()}
    other["obs"][0, 2:] += 1.0
    other["reward"][0, 2:] += 1.0
    noise = Noise.draw(agent.model, H, B, agent.generator)
    totals = []
    for rows in (batch, other):
        data = agent.objective.slices(rows)
        step = agent.objective.model_losses(data, noise)
        policy = agent.objective.policy_losses(step.latent, data, noise, update_scale=False)
        policy_mean = agent.objective.mean("policy", policy.loss, data)
        totals.append(
            (float(agent.objective.total(step, data)[0].detach()), float(policy_mean.detach()))
        )
    assert totals[0] == totals[1]


def test_an_end_of_the_task_needs_the_termination_head() -> None:
    agent = build()
    batch = batch_for(agent)
    batch["is_terminal"][1, 2] = True
    with pytest.raises(TrainingError, match="episodic=True"):
        agent.objective.slices(batch)
    metrics, _, _ = build(episodic=True).update(batch)
    assert float(metrics["loss/termination"]) > 0
    assert float(metrics["termination_rate"]) == 0  # of the last step: the end is one before


@pytest.mark.parametrize("optimizer", ["adam", "laprop"])
def test_the_first_end_adds_the_head_and_an_older_state_takes_it_away(optimizer: str) -> None:
    agent, other = (build(training={"optimizer": optimizer}) for _ in range(2))
    plain, ending = batch_for(agent), batch_for(agent, 1)
    ending["is_terminal"][1, 2] = True
    agent.update(plain)
    early = {name: clones(group) for name, group in agent.state_dict().items()}
    agent.update(ending)
    agent.update(plain)
    late = {name: clones(group) for name, group in agent.state_dict().items()}
    assert agent.config.episodic and agent.head_added == 1
    other.load_state_dict(late)  # of a checkpoint that turns out to be damaged
    other.load_state_dict(early)
    assert other.head_added is None and other.model.termination is None
    assert not other.config.episodic and len(other.optimizer.param_groups) == 2
    other.update(ending)
    other.update(plain)
    for name, group in other.state_dict().items():
        assert group.keys() == late[name].keys()
        assert not [key for key in group if not torch.equal(group[key], late[name][key])]


def clones(group: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in group.items()}


def test_the_target_moves_by_tau_towards_the_updated_networks() -> None:
    agent = build(target_q_tau=0.25)
    before = [p.clone() for p in agent.model.target_q.parameters()]
    agent.update(batch_for(agent))
    sources, targets = agent.model.q.parameters(), agent.model.target_q.parameters()
    for old, source, target in zip(before, sources, targets, strict=True):
        torch.testing.assert_close(target, 0.75 * old + 0.25 * source)


def test_a_restored_agent_goes_on_bit_for_bit() -> None:
    agent, fresh = build(), build(training={"seed": 9})
    batch = batch_for(agent)
    agent.update(batch)
    saved = agent.state_dict()
    saved = {group: {k: v.clone() for k, v in tensors.items()} for group, tensors in saved.items()}
    fresh.load_state_dict(saved)
    obs = {"obs": np.ones((N, 5), np.float32), "is_first": np.ones(N, bool)}
    for _ in range(2):
        ours, theirs = agent.update(batch)[0], fresh.update(batch)[0]
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    acts = [a.act(a.initial_carry(N), obs, explore=True)[1] for a in (agent, fresh)]
    assert np.array_equal(*acts)
    again = fresh.state_dict()
    for group, tensors in agent.state_dict().items():
        assert all(torch.equal(value, again[group][key]) for key, value in tensors.items())


def test_the_encoder_has_a_learning_rate_of_its_own() -> None:
    moved = {}
    for scale in (1.0, 0.1):
        agent = build(encoder_lr_scale=scale)
        start = {name: p.detach().clone() for name, p in agent.model.named_parameters()}
        agent.update(batch_for(agent))
        for name in ("encoder.state.0.weight", "dynamics.0.weight"):
            change = (agent.model.get_parameter(name) - start[name]).detach().abs().mean()
            moved[name, scale] = float(change)
    ratio = moved["encoder.state.0.weight", 0.1] / moved["encoder.state.0.weight", 1.0]
    assert ratio == pytest.approx(0.1, rel=1e-3)
    assert moved["dynamics.0.weight", 0.1] == pytest.approx(moved["dynamics.0.weight", 1.0])


def test_bfloat16_stays_near_float32() -> None:
    half = dict(mixed_precision=True, mixed_precision_dtype="bfloat16")
    losses = []
    for training in ({}, half):
        agent = build(training=training, dropout=0.0)
        noise = Noise.draw(agent.model, H, B, torch.Generator().manual_seed(1))
        losses.append(float(agent.update(batch_for(agent), noise=noise)[0]["loss/total"]))
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


@pytest.mark.parametrize("rate", [0.01, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    factors = dropout((5, 999, 401), rate, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert factors.unique().tolist() == pytest.approx([0, 1 / (1 - rate)], rel=1e-4)
    assert float((factors == 0).float().mean()) == pytest.approx(rate, rel=0.02)
    assert float(factors.mean()) == pytest.approx(1, abs=1e-3)
    neighbours = (factors[..., 1:] == 0) & (factors[..., :-1] == 0)
    assert float(neighbours.float().mean()) == pytest.approx(rate**2, rel=0.3)


def test_mish_and_simnorm_are_those_of_torch_with_their_gradients() -> None:
    x = torch.cat([torch.linspace(-90, 90, 721), torch.tensor([-1e4, 1e4, 0.0])]).double()
    x.requires_grad_()
    for ours, theirs in (
        (mish(x), F.mish(x)),
        (simnorm(x[:720], 8), F.softmax(x[:720].view(-1, 8), -1).flatten()),
        (simnorm(x[:700], 7), F.softmax(x[:700].view(-1, 7), -1).flatten()),
    ):
        weight = torch.arange(len(ours)).double().cos()
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
        grads = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (ours, theirs)]
        torch.testing.assert_close(*grads, rtol=1e-11, atol=1e-14)
    single = torch.linspace(-30, 30, 601)
    torch.testing.assert_close(mish(single), F.mish(single), rtol=1e-6, atol=1e-12)


# === The public interface ====================================================================


def test_rewards_and_continues_of_a_rollout_depend_on_the_actions(tmp_path) -> None:
    model = create_world_model("tdmpc2:ci", obs_shape=(5,), action_dim=2, episodic=True)
    with torch.no_grad():
        model.reward[-1].weight.normal_()
        model.termination[-1].weight.normal_()
    state = model.encode(torch.randn(B, 5))
    quiet, loud = (model.rollout(state, torch.full((4, B, 2), value)) for value in (0.0, 1.0))
    assert quiet.rewards.shape == quiet.continues.shape == (4, B)
    assert not torch.allclose(quiet.rewards, loud.rewards)
    assert not torch.allclose(quiet.continues, loud.continues)
    assert ((loud.continues >= 0) & (loud.continues <= 1)).all()
    assert quiet.to_tensor("latent").shape == (5, B, model.config.latent_dim)
    torch.testing.assert_close(
        loud.rewards[0], model.predict_reward(state, torch.ones(B, 2)), rtol=0, atol=0
    )
    model.save_pretrained(tmp_path / "model")
    again = create_world_model(str(tmp_path / "model"))
    values = [m.predict_q(state, torch.ones(B, 2)) for m in (model, again)]
    assert values[0].shape == (2, B) and torch.equal(*values)


def test_decode_gives_what_the_interface_says() -> None:
    model = create_world_model("tdmpc2:ci", obs_shape=(5,), action_dim=2)
    predictions = model.decode(model.initial_state(B)).predictions
    shapes = {key: tuple(value.shape) for key, value in predictions.items()}
    assert shapes == {
        "reward": (B, 1),
        "continue": (B, 1),
        "q_values": (2, B, 1),
        "action": (B, 2),
    }
    assert (predictions["continue"] == 1).all()
    with pytest.raises(ValidationError, match=r"\[6, 2\], got \[6, 3\]"):
        model.transition(model.initial_state(B), torch.zeros(B, 3))


def test_a_hand_written_loop_trains_model_and_policy() -> None:
    model = create_world_model("tdmpc2:ci", obs_shape=(5,), action_dim=2)
    batch = Batch(
        obs=torch.randn(B, 4, 5), actions=torch.rand(B, 4, 2), rewards=torch.randn(B, 4),
        terminations=torch.zeros(B, 4),
    )  # fmt: skip
    output = model.loss(batch)
    assert set(output.components) == {"consistency", "reward", "td", "policy"}
    output.loss.backward()
    for name in ("encoder.state.0.weight", "dynamics.0.weight", "q.0.weight", "pi.0.weight"):
        assert model.get_parameter(name).grad is not None, name
    assert all(p.grad is None for p in model.target_q.parameters())


def test_the_discount_follows_the_episode_length() -> None:
    def discount(**fields: Any) -> float:
        return TDMPC2(TDMPC2Config.from_size("ci", obs_shape=(5,), **fields)).discount

    assert discount(episode_length=500) == 0.99
    assert discount(episode_length=10) == 0.95
    assert discount() == discount(episode_length=10_000) == 0.995
    assert discount(gamma=0.9, episode_length=500) == 0.9


def test_what_is_not_built_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="gradient_accumulation_steps must be 1"):
        build(training={"gradient_accumulation_steps": 2})
