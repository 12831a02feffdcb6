"""What an official run of DreamerV3 may choose otherwise, against the formulas in float64 NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.models.test_agent import B, T, batch_for, build
from worldflux.models.dreamerv3.agent import DreamerV3Agent
from worldflux.models.dreamerv3.objective import Noise, Step
from worldflux.models.dreamerv3.world_model import DreamerV3
from worldflux.training import TrainingConfig

HORIZON, LAMBDA = 20.0, 0.9
FIXED = {"discount_horizon": HORIZON, "lambda_": LAMBDA}


def agent_with(**fields: Any) -> DreamerV3Agent:
    torch.manual_seed(0)
    model = DreamerV3(build().config.with_overrides(**FIXED, **fields))
    with torch.no_grad():  # the heads begin with zeros
        for head in (model.critic, model.slow_critic, model.reward):
            head.out.weight.normal_(std=0.5)
    return model.make_agent(TrainingConfig(seed=0), device="cpu")


def step_of(agent: DreamerV3Agent) -> tuple[Step, dict[str, np.ndarray]]:
    batch = batch_for(agent)
    batch["is_terminal"][1, 4] = batch["is_last"][1, 4] = batch["is_last"][2, 3] = True
    obs, start, previous = agent.context(batch)
    noise = Noise.draw(agent.model, B, T, torch.Generator().manual_seed(1), agent.device)
    step = agent.objective(obs, start, previous, noise)
    arrays = {key: x.detach().numpy().astype(np.float64) for key, x in step.arrays.items()}
    return step, arrays | {key: x.numpy() for key, x in obs.items()}


def returns_of(reward: Any, live: Any, keep: Any, boot: Any) -> np.ndarray:
    """Lambda-returns as a sum from the end."""
    out = boot[:, -1]
    every = []
    for t in reversed(range(1, reward.shape[1])):
        out = reward[:, t] + live[:, t] * ((1 - keep[:, t]) * boot[:, t] + keep[:, t] * out)
        every.append(out)
    return np.stack(every[::-1], 1)


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("learned", [False, True])
def test_returns_and_weights_of_imagination(slow: bool, learned: bool) -> None:
    agent = agent_with(continue_discount=learned, slow_critic_targets=slow)
    step, x = step_of(agent)
    value, discount = x["imag/slowval" if slow else "imag/val"], 1 - 1 / HORIZON
    outside = 1.0 if learned else discount
    assert np.abs(x["imag/slowval"] - x["imag/val"]).max() > 0.1
    weight = np.cumprod(outside * x["imag/con"], 1) / outside
    keep = np.full_like(value, LAMBDA)
    returns = returns_of(x["imag/rew"], outside * x["imag/con"], keep, value)
    np.testing.assert_allclose(x["imag/weight"], weight, rtol=1e-5)
    np.testing.assert_allclose(x["imag/ret"], returns, rtol=1e-5, atol=1e-4)
    scale = float(agent.model.return_norm.offset_scale()[1])
    advantage = (returns - value[:, :-1]) / scale
    entropy = agent.config.actor_entropy_coef * x["imag/entropy"]
    policy = -weight[:, :-1] * (x["imag/logp"] * advantage + entropy)
    np.testing.assert_allclose(x["imag/policy_loss"], policy, rtol=1e-4, atol=1e-4)
    target = (1.0 if not learned else discount) * ~x["is_terminal"]
    probability = 1 / (1 + np.exp(-con_logits(agent, step)))
    loss = -target * np.log(probability) - (1 - target) * np.log(1 - probability)
    np.testing.assert_allclose(step.losses["con"].detach().numpy(), loss, rtol=1e-4)


def con_logits(agent: DreamerV3Agent, step: Step) -> np.ndarray:
    with torch.no_grad():
        prob = agent.model.con(step.latent.feat()).prob().double()
    return torch.logit(prob).numpy()


def test_replayed_states_have_a_lambda_and_a_slow_critic_of_their_own() -> None:
    losses = {}
    for scale in (0.0, 1.0, 2.5):
        agent = agent_with(replay_lambda=0.5, replay_slow_critic_scale=scale)
        step, x = step_of(agent)
        losses[scale] = step.losses["repval"].detach().numpy()
        imagined = step.losses["value"].detach().numpy()
    live, keep = (1 - 1 / HORIZON) * ~x["is_terminal"], 0.5 * ~x["is_last"]
    returns = returns_of(x["reward"].astype(np.float64), live, keep, x["rep/boot"])
    np.testing.assert_allclose(x["rep/ret"], returns, rtol=1e-5, atol=1e-4)
    slow = losses[1.0] - losses[0.0]
    assert np.abs(slow).max() > 0.1
    np.testing.assert_allclose(losses[2.5], losses[0.0] + 2.5 * slow, rtol=1e-4)
    unchanged = step_of(agent_with(replay_lambda=0.5))[0].losses
    np.testing.assert_array_equal(unchanged["value"].detach().numpy(), imagined)
    np.testing.assert_array_equal(unchanged["repval"].detach().numpy(), losses[1.0])


@pytest.mark.parametrize(
    ("field", "loss"), [("reward_grads", "rew"), ("replay_value_grads", "repval")]
)
def test_a_loss_may_train_its_head_alone(field: str, loss: str) -> None:
    gradients = {}
    for on in (True, False):
        agent = agent_with(**{field: on})
        world = [*agent.model.rssm.parameters(), *agent.model.encoder.parameters()]
        head = list((agent.model.reward if loss == "rew" else agent.model.critic).parameters())
        step, _ = step_of(agent)
        grads = torch.autograd.grad(step.losses[loss].mean(), [*head, *world], allow_unused=True)
        gradients[on] = grads[: len(head)], grads[len(head) :]
    for a, b in zip(gradients[True][0], gradients[False][0], strict=True):
        torch.testing.assert_close(a, b)
    assert any(g is not None and g.abs().max() > 0 for g in gradients[True][1])
    assert all(g is None for g in gradients[False][1])


def test_actor_and_critic_may_train_the_states_that_imagination_starts_from() -> None:
    agent, plain = agent_with(actor_critic_grads=True), agent_with()
    model = agent.model
    step, x = step_of(agent)
    world = [*model.rssm.parameters(), *model.encoder.parameters()]
    # The same losses, written for the first imagined step alone: later ones have no gradient.
    feat = step.latent.feat().flatten(0, 1)  # [N, F]
    noise = Noise.draw(model, B, T, torch.Generator().manual_seed(1), agent.device)
    assert noise.act is not None
    with torch.no_grad():
        action = model.actor(feat).sample(noise.act[0])
    steps = x["imag/ret"].shape[1]
    first = {key: torch.tensor(x[f"imag/{key}"][:, 0]).float() for key in ("ret", "val", "slowval")}
    weight = torch.tensor(x["imag/weight"][:, 0]).float()
    advantage = (first["ret"] - first["val"]) / model.return_norm.offset_scale()[1]
    dist = model.actor(feat)
    bonus = agent.config.actor_entropy_coef * dist.entropy()
    expected = {
        "policy": -(weight * (dist.logp(action) * advantage + bonus)).mean() / steps,
        "value": (weight * (two_hot_loss(model, feat, first["ret"])
                            + two_hot_loss(model, feat, first["slowval"]))).mean() / steps,
    }  # fmt: skip
    others = step_of(plain)[0].losses
    for name, loss in expected.items():
        torch.testing.assert_close(step.losses[name], others[name])
        grads = torch.autograd.grad(step.losses[name].mean(), world, retain_graph=True, allow_unused=True)  # fmt: skip
        wanted = torch.autograd.grad(loss, world, retain_graph=True, allow_unused=True)
        assert any(g is not None and g.abs().max() > 1e-6 for g in wanted)
        for a, b in zip(grads, wanted, strict=True):
            if b is not None:
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def two_hot_loss(model: DreamerV3, feat: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy with the two bins around each target, by searching them."""
    dist = model.critic(feat)
    bins, logp = dist.bins.double(), torch.log_softmax(dist.logits, -1)
    above = (bins[None] <= target[:, None].double()).sum(-1).clamp(1, len(bins) - 1)
    low, high = bins[above - 1], bins[above]
    share = ((target.double() - low) / (high - low)).float()
    rows = torch.arange(len(target))
    return -((1 - share) * logp[rows, above - 1] + share * logp[rows, above])
