"""Multi-task TD-MPC2: forward, update and planner against float64, masks, sizes, state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.models.tdmpc2_reference import Reference
from worldflux import ConfigurationError, TDMPC2Config, create_world_model
from worldflux.config.spaces import Space, Task
from worldflux.errors import ValidationError
from worldflux.models.tdmpc2.agent import TDMPC2Agent
from worldflux.models.tdmpc2.losses import entropies
from worldflux.models.tdmpc2.objective import Noise
from worldflux.models.tdmpc2.official.weights import official_names
from worldflux.models.tdmpc2.planner import PlanNoise
from worldflux.models.tdmpc2.world_model import TDMPC2
from worldflux.training import TrainingConfig

B, H, OBS, A = 6, 3, 5, 3
TASKS = (Task("reach", 5, 3, 500), Task("turn", 3, 1, 100), Task("hold", 4, 2, None))
DIMS = (3, 1, 2)


def build(training: dict[str, Any] | None = None, dtype=torch.float64, **fields) -> TDMPC2Agent:
    fields = dict(num_samples=24, num_elites=6, num_pi_trajs=4, iterations=3, task_dim=7) | fields
    config = TDMPC2Config.from_size("ci", dropout=0.0, num_q_networks=3, **fields)
    spaces = {"obs": Space((OBS,)), "task": Space((), "int64", (3,))}
    config = config.with_spaces(spaces, {"action": Space((A,))}, TASKS)
    settings = dict(optimizer="adam", grad_clip=20.0, sequence_length=H, seed=0)
    torch.manual_seed(0)
    training_config = TrainingConfig(**(settings | (training or {})))
    agent = TDMPC2(config).make_agent(training_config, device="cpu")
    with torch.no_grad():
        for parameter in agent.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        agent.model.task_emb.weight[0] *= 30  # longer than 1
    agent.model.to(dtype)
    agent.model.bins.copy_(torch.linspace(-10, 10, 101, dtype=dtype))
    return agent


def reference(model: TDMPC2) -> Reference:
    state = model.state_dict()
    weights = {name: state[ours].numpy() for name, ours in official_names(model).items()}
    masks = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0]], np.float64)
    return Reference(weights, masks=masks)


def batch(dtype=torch.float64) -> dict[str, torch.Tensor]:
    lead, generator = (B, H + 1), torch.Generator().manual_seed(4)
    flags = {k: torch.zeros(lead, dtype=torch.bool) for k in ("is_first", "is_last", "is_terminal")}
    flags["is_first"][:, 0] = True
    task = torch.arange(B) % 3
    action = torch.randn(*lead, A, generator=generator, dtype=dtype).tanh()
    for row, index in enumerate(task):
        action[row, :, DIMS[index] :] = 0
    obs = torch.randn(*lead, OBS, generator=generator, dtype=dtype)
    steps = {"obs": obs, "task": task[:, None].expand(lead), "action": action}
    return flags | steps | {"reward": obs.sum(-1)}


def close(ours: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), expected, rtol=1e-9, atol=1e-10)


def test_every_network_sees_its_task_as_float64_says() -> None:
    model = build().model
    ref, data = reference(model), batch()
    tasks, obs, action = data["task"][:, 0], data["obs"][:, 0], data["action"][:, 0]
    eps = torch.randn(B, A, dtype=torch.float64)
    z = model.latent(obs, tasks)
    dist = model.policy_dist(z, model.task_terms(tasks))
    sample, (entropy, scaled) = dist.sample(eps), entropies(dist, eps)
    q = model.q_values(z, action, target=True)
    state = model.transition(model.encode({"obs": obs, "task": tasks}), action)
    for i, t in enumerate(tasks.tolist()):
        row = ref.encode(obs[i : i + 1].numpy(), t)
        a, e = action[i : i + 1].numpy(), eps[i : i + 1].numpy()
        close(model.bare(z)[i], row[0])
        close(model.bare(model.next(z, action))[i], ref.next(row, a, t)[0])
        close(state.tensors["latent"][i], ref.next(row, a, t)[0])
        close(model.reward_dist(z, action).pred()[i], ref.reward(row, a, t)[0])
        for j in range(3):
            close(q[j, i], ref.q(row, a, t, j, target=True)[0])
        for ours, theirs in zip((sample, entropy, scaled), ref.pi(row, e, t), strict=True):
            close(ours[i], theirs[0])
        assert (sample[i, DIMS[t] :] == 0).all()


def test_td_targets_take_the_discount_of_the_task() -> None:
    agent = build()
    model, ref, data = agent.model, reference(agent.model), batch()
    assert model.discounts == [0.99, 0.95, 0.995]  # of 500 and 100 steps, and without a limit
    noise = Noise.draw(model, H, B, agent.generator)
    step = agent.objective.model_losses(agent.objective.slices(data), noise)
    for i, t in enumerate(data["task"][:, 0].tolist()):
        z = ref.encode(data["obs"][i, 1:].numpy(), t)
        action = ref.pi(z, noise.td_action[:, i].double().numpy(), t)[0]
        value = np.min([ref.q(z, action, t, int(j), target=True) for j in noise.td_index], 0)
        expected = data["reward"][i, 1:].numpy() + model.discounts[t] * value
        close(step.td_target[:, i], expected)
        rolled = ref.encode(data["obs"][i, :1].numpy(), t)
        for h in range(H):
            rolled = ref.next(rolled, data["action"][i, h : h + 1].numpy(), t)
            loss = ((rolled[0] - z[h]) ** 2).mean()
            close(step.losses["consistency"][h, i], loss)


@pytest.mark.parametrize("task", range(3))
def test_plans_are_those_of_float64_and_masked(task: int) -> None:
    agent = build()
    model, config = agent.model, agent.config
    ref = reference(model)
    obs = torch.randn(1, OBS, dtype=torch.float64)
    noise = PlanNoise.draw(model, 1, True, agent.generator)
    prev = torch.randn(1, H, A, dtype=torch.float64).clamp(-1, 1) * model.action_masks[task]
    plan = agent.planner(obs, prev, torch.tensor([False]), noise, torch.tensor([task]))
    draws = {
        "policy": noise.policy[:, 0],
        "sample": noise.sample[:, 0],
        "value": noise.value[:, 0],
        "index": noise.index,
        "exponential": noise.exponential[0],
        "action": noise.action[0],
    }
    action, mean = ref.plan(
        obs[0].numpy(),
        {k: v.double().numpy() if k != "index" else v.numpy() for k, v in draws.items()},
        elites=config.num_elites,
        discount=model.discounts[task],
        task=task,
        prev_mean=prev[0].numpy(),
    )
    close(plan.action[0], action)
    close(plan.mean[0], mean)
    assert (plan.action[0, DIMS[task] :] == 0).all()


def test_environments_of_different_tasks_are_planned_for_together() -> None:
    agent = build(dtype=torch.float32)
    obs = {
        "obs": np.ones((3, OBS), np.float32),
        "task": np.arange(3),
        "is_first": np.ones(3, bool),
    }
    carry, action, _ = agent.act(agent.initial_carry(3), obs, explore=True)
    for t, dim in enumerate(DIMS):
        assert (action[t, :dim] != 0).all() and (action[t, dim:] == 0).all()
        assert (carry["mean"][t, :, dim:] == 0).all()


def test_the_embedding_learns_and_stays_within_norm_1() -> None:
    agent = build({"learning_rate": 1e-2}, dtype=torch.float32)
    before = agent.model.task_emb.weight.detach().clone()
    assert before[0].norm() > 1
    rows = {k: v.float() if v.is_floating_point() else v for k, v in batch().items()}
    losses = [float(agent.update(rows)[0]["loss/reward"]) for _ in range(30)]
    assert losses[-1] < losses[0]
    agent.objective.model_losses(
        agent.objective.slices(rows), Noise.draw(agent.model, H, B, agent.generator)
    )
    norms = agent.model.task_emb.weight.detach().norm(dim=-1)
    assert (norms <= 1 + 1e-6).all()
    assert (agent.model.task_emb.weight != before).any(-1).all()
    obs = {"obs": np.ones((1, OBS), np.float32), "task": np.zeros(1, np.int64)}
    with torch.no_grad():
        agent.model.task_emb.weight[0] *= 5
    kept = agent.model.task_emb.weight.detach().clone()
    agent.act(agent.initial_carry(1), obs | {"is_first": np.ones(1, bool)}, explore=False)
    assert torch.equal(agent.model.task_emb.weight, kept)  # acting changes no weight


def test_a_restored_agent_goes_on_bit_for_bit() -> None:
    agent, fresh = build(dtype=torch.float32), build({"seed": 9}, dtype=torch.float32)
    rows = {k: v.float() if v.is_floating_point() else v for k, v in batch().items()}
    agent.update(rows)
    saved = {g: {k: v.clone() for k, v in t.items()} for g, t in agent.state_dict().items()}
    assert saved["optimizer"]["pending"].abs().sum() > 0  # the policy's share of the embedding
    fresh.load_state_dict(saved)
    for _ in range(2):
        ours, theirs = agent.update(rows)[0], fresh.update(rows)[0]
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    again = fresh.state_dict()
    for group, tensors in agent.state_dict().items():
        assert all(torch.equal(value, again[group][key]) for key, value in tensors.items())


# Sizes that the official code gives to each preset: encoder width and layers, MLP width, latent, Qs.
SIZES = {
    "1m": (256, 2, 384, 128, 2),
    "5m": (256, 2, 512, 512, 5),
    "19m": (1024, 3, 1024, 768, 5),
    "48m": (1792, 4, 1792, 768, 5),
    "317m": (4096, 5, 4096, 1376, 8),
}


def counted(size: str, obs: int, action: int, tasks: int, dim: int) -> int:
    """Weights of the official networks, added up layer by layer."""
    enc, depth, mlp, latent, qs = SIZES[size]

    def normed(a: int, b: int) -> int:
        return a * b + 3 * b  # weight, bias, and the norm's two

    def body(a: int) -> int:
        return normed(a, mlp) + normed(mlp, mlp)

    def last(b: int) -> int:
        return mlp * b + b

    encoder = normed(obs + dim, enc) + (depth - 2) * normed(enc, enc) + normed(enc, latent)
    joint = latent + dim + action
    dynamics = body(joint) + normed(mlp, latent)
    heads = (1 + qs) * (body(joint) + last(101))
    return tasks * dim + encoder + dynamics + heads + body(latent + dim) + last(2 * action)


# What the official code counts, by (size, tasks, task_dim).
OFFICIAL = {
    ("1m", 30, 96): 1_426_427,
    ("1m", 80, 96): 1_435_067,
    ("5m", 30, 64): 5_241_066,
    ("5m", 80, 96): 5_389_930,
    ("19m", 30, 64): 18_654_186,
    ("19m", 80, 96): 18_970_218,
}


@pytest.mark.parametrize(("tasks", "obs"), [(30, 24), (80, 39)])
@pytest.mark.parametrize("size", SIZES)
def test_presets_have_the_official_multitask_sizes(size: str, tasks: int, obs: int) -> None:
    assert counted("5m", 39, 6, 0, 0) == 4_964_458  # as the official code counts one task
    for dim in (64, 96):
        config = TDMPC2Config.from_size(
            size, obs_shape=(obs,), action_dim=6, num_tasks=tasks, task_dim=dim
        )
        with torch.device("meta"):
            model = TDMPC2(config)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert trained == counted(size, obs, 6, tasks, dim)
        assert trained == OFFICIAL.get((size, tasks, dim), trained)


def test_the_public_interface_carries_the_task(tmp_path) -> None:
    model = create_world_model(
        "tdmpc2:ci", obs_shape=(4,), action_dim=2, num_tasks=2, task_action_dims=(1, 2)
    )
    assert model.config.task_dim == 96
    obs = torch.randn(3, 4)
    states = [model.encode({"obs": obs, "task": torch.full((3,), t)}) for t in (0, 1)]
    assert not torch.allclose(states[0].tensors["latent"], states[1].tensors["latent"])
    assert states[0].tensors["latent"].shape == (3, 32)
    assert (model.policy(states[0])[:, 1] == 0).all()
    rollout = model.rollout(states[1], torch.zeros(4, 3, 2))
    assert rollout.to_tensor("latent").shape == (5, 3, 32)
    model.save_pretrained(tmp_path)
    again = create_world_model(str(tmp_path))
    assert again.config == model.config
    same = again.encode({"obs": obs, "task": torch.zeros(3)}).tensors["latent"]
    assert torch.equal(same, states[0].tensors["latent"])
    with pytest.raises(ValidationError, match="'task' is missing"):
        model.encode({"obs": obs})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (dict(num_tasks=2, action_type="discrete"), "action_type must be continuous"),
        (dict(num_tasks=2, obs_shape=(3, 64, 64)), "vector"),
        (dict(num_tasks=2, task_action_dims=(1, 2, 2)), "task_action_dims must have 2 entries"),
        (dict(num_tasks=2, task_action_dims=(1, 5)), "between 1 and action_dim"),
        (dict(task_names=("a",)), "only with num_tasks above 1"),
        (dict(num_tasks=0), "num_tasks must be >= 1"),
    ],
)
def test_wrong_task_settings_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        TDMPC2Config.from_size("ci", **({"obs_shape": (4,), "action_dim": 2} | fields))


def test_settings_that_contradict_the_environment_are_refused() -> None:
    spaces = {"obs": Space((OBS,)), "task": Space((), "int64", (3,))}
    config = TDMPC2Config.from_size("ci", num_tasks=2)
    with pytest.raises(ConfigurationError, match="num_tasks is 2, but the environment has 3"):
        config.with_spaces(spaces, {"action": Space((A,))}, TASKS)
    config = TDMPC2Config.from_size("ci", task_dim=32)
    with pytest.raises(ConfigurationError, match="task_dim does something only with several"):
        config.with_spaces({"obs": Space((OBS,))}, {"action": Space((A,))})
