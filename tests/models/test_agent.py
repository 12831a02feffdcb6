"""The DreamerV3 agent: acting, learning, accumulation, precision and exact state."""

import numpy as np
import pytest
import torch

from worldflux import DreamerV3Config
from worldflux.config.spaces import Space
from worldflux.errors import ConfigurationError
from worldflux.models.dreamerv3.objective import Noise
from worldflux.models.dreamerv3.world_model import DreamerV3
from worldflux.training import TrainingConfig

B, T, N = 4, 6, 3
SPACES = {
    "discrete": {"action": Space((), "int64", (3,))},
    "continuous": {"action": Space((2,))},
    "multi": {"action": Space((2,), "int64", (2, 3))},
}


def build(kind: str = "discrete", image: bool = False, **training):
    obs = {"obs": Space((3, 32, 32), "uint8") if image else Space((5,))}
    config = DreamerV3Config.from_size("ci", imagination_horizon=4)
    settings = dict(optimizer="laprop", grad_clip=0.0, learning_rate=1e-3, seed=0)
    settings["agc"] = 0.3 if training.get("optimizer", "laprop") == "laprop" else 0.0
    torch.manual_seed(0)
    config = config.with_spaces(obs, SPACES[kind]).with_overrides(actor_critic=True)
    return DreamerV3(config).make_agent(TrainingConfig(**(settings | training)), device="cpu")


def batch_for(agent, rows: int = B, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lead, config = (rows, T + agent.replay_context), agent.config
    (space,) = agent.model.obs_spaces.values()
    obs = torch.randn(*lead, *space.shape, generator=generator)
    if space.image:
        obs = (obs * 40 + 128).clamp(0, 255).to(torch.uint8)
    flags = {key: torch.zeros(lead, dtype=torch.bool) for key in ("is_last", "is_terminal")}
    first = torch.zeros(lead, dtype=torch.bool)
    first[0, 3] = True
    groups = (config.stoch_discrete, config.stoch_classes)
    return flags | {
        "obs": obs,
        "is_first": first,
        "reward": torch.randn(lead, generator=generator),
        "action": torch.rand(*lead, agent.model.action_dim, generator=generator),
        "dyn/deter": torch.zeros(*lead, config.deter_dim),
        "dyn/stoch": torch.zeros(*lead, *groups),
    }


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("image", [False, True])
def test_acting_gives_flat_actions_and_entries(kind, image):
    agent = build(kind, image)
    (space,) = agent.model.obs_spaces.values()
    obs = {"obs": np.zeros((N, *space.shape), space.dtype), "is_first": np.ones(N, bool)}
    carry, action, entries = agent.act(agent.initial_carry(N), obs, explore=True)
    assert action.shape == (N, agent.model.action_dim) and action.dtype == np.float32
    if kind != "continuous":
        assert set(np.unique(action)) == {0.0, 1.0}
        assert (action.sum(-1) == (2 if kind == "multi" else 1)).all()
    for key, entry in agent.entry_spaces.items():
        assert entries[key].shape == (N, *entry.shape)
    _, again, _ = agent.act(carry, obs, explore=False)
    assert again.shape == action.shape


def test_a_first_step_forgets_the_episode_before():
    agent = build()
    obs = {"obs": np.ones((1, 5), np.float32), "is_first": np.array([True])}
    fresh = agent.initial_carry(1)
    used = {key: torch.randn_like(value) for key, value in fresh.items()}
    deters = []
    for carry in (fresh, used):
        agent.generator.manual_seed(7)
        deters.append(agent.act(carry, obs, explore=False)[0]["deter"])
    assert torch.equal(*deters)


def test_reward_and_critic_learn_over_their_own_numbers_of_bins():
    agent = build()
    config = agent.config.with_overrides(reward_num_bins=17, critic_num_bins=12)
    agent = DreamerV3(config).make_agent(TrainingConfig(learning_rate=3e-3, seed=0), device="cpu")
    widths = [head.out.weight.shape[0] for head in (agent.model.reward, agent.model.critic)]
    assert widths == [17, 12] and agent.model.slow_critic.out.weight.shape[0] == 12
    metrics, _, _ = agent.update(batch_for(agent))
    # Heads start uniform; the value is compared with its return and with the slow critic.
    assert float(metrics["loss/rew"]) == pytest.approx(np.log(17), rel=1e-5)
    assert float(metrics["loss/repval"]) == pytest.approx(2 * np.log(12), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("image", [False, True])
def test_updates_learn_to_predict_a_fixed_batch(image):
    agent = build(image=image, learning_rate=3e-3)
    batch = batch_for(agent)
    losses = []
    for _ in range(30):
        metrics, entries, _ = agent.update(batch)
        losses.append(float(metrics["loss/obs"]))
    assert entries["dyn/deter"].shape == (B, T, agent.config.deter_dim)
    assert losses[-1] < 0.8 * losses[1]
    assert all(np.isfinite(float(value)) for value in metrics.values())


def test_the_first_update_of_a_warm_up_changes_nothing_but_the_normaliser():
    agent = build(warmup_steps=10)
    before = [p.detach().clone() for p in agent.parameters]
    metrics, _, _ = agent.update(batch_for(agent))
    assert float(metrics["opt/learning_rate"]) == 0.0
    assert all(torch.equal(a, b) for a, b in zip(before, agent.parameters, strict=True))


def test_imagination_gives_the_world_model_no_gradient_but_replay_value_does():
    agent = build()
    obs, start, previous = agent.context(batch_for(agent))
    noise = Noise.draw(agent.model, B, T, agent.generator, agent.device)
    with torch.no_grad():
        agent.model.critic.out.weight.normal_()
    step = agent.objective(obs, start, previous, noise)
    world = list(agent.model.rssm.parameters())
    for name in ("policy", "value"):
        grads = torch.autograd.grad(
            step.losses[name].mean(), world, retain_graph=True, allow_unused=True
        )
        assert all(g is None for g in grads), name
    grads = torch.autograd.grad(step.losses["repval"].mean(), world, allow_unused=True)
    assert any(g is not None and g.abs().max() > 0 for g in grads)


def test_accumulated_halves_equal_the_mean_of_their_gradients():
    agent = build(gradient_accumulation_steps=2, optimizer="sgd", beta1=0.0)
    halves = build(optimizer="sgd", beta1=0.0)
    batch = batch_for(agent)
    start = [p.detach().clone() for p in agent.parameters]
    agent.update(batch)
    state = halves.state_dict()
    state = {g: {k: v.clone() for k, v in tensors.items()} for g, tensors in state.items()}
    moved = []
    for part in range(2):
        if part:
            # Back to the first weights, but with the draws and the normaliser of the second half.
            generator, norm = halves.generator.get_state(), halves.model.return_norm.state_dict()
            norm = {k: v.clone() for k, v in norm.items()}
            halves.load_state_dict(state)
            halves.generator.set_state(generator)
            halves.model.return_norm.load_state_dict(norm)
        halves.update({key: value.chunk(2)[part] for key, value in batch.items()})
        moved.append([p.detach() - s for p, s in zip(halves.parameters, start, strict=True)])
    changes = [(a + b) / 2 for a, b in zip(*moved, strict=True)]
    for p, s, change in zip(agent.parameters, start, changes, strict=True):
        assert torch.allclose(p.detach() - s, change, atol=1e-6)


def test_bfloat16_stays_close_to_float32():
    losses = {}
    for mixed in (False, True):
        agent = build(mixed_precision=mixed, mixed_precision_dtype="bfloat16")
        metrics, _, _ = agent.update(batch_for(agent))
        losses[mixed] = float(metrics["loss/total"])
    assert losses[True] == pytest.approx(losses[False], rel=0.02)


def test_float16_without_cuda_is_refused_with_the_way_out():
    with pytest.raises(ConfigurationError, match="mixed_precision_dtype=bfloat16"):
        build(mixed_precision=True, mixed_precision_dtype="float16")


@pytest.mark.parametrize("optimizer", ["laprop", "adamw", "sgd"])
def test_state_restores_bit_for_bit(optimizer):
    agent = build(optimizer=optimizer)
    for seed in range(3):
        agent.update(batch_for(agent, seed=seed))
    state = {
        group: {key: value.clone() for key, value in tensors.items()}
        for group, tensors in agent.state_dict().items()
    }
    twin = build(optimizer=optimizer, seed=99)
    twin.load_state_dict(state)
    for seed in range(3, 5):
        agent.update(batch_for(agent, seed=seed))
        twin.update(batch_for(twin, seed=seed))
    for group, tensors in agent.state_dict().items():
        for key, value in tensors.items():
            assert torch.equal(value, twin.state_dict()[group][key]), key


def test_report_shows_truth_model_and_error_for_images():
    agent = build(image=True)
    video = agent.report(batch_for(agent))["openloop/obs"]
    assert video.shape == (1, T, 3 * 32, B * 32, 3) and video.dtype == np.uint8
    assert not np.array_equal(video[:, 0, 0, 0], video[:, -1, 0, 0])  # border changes colour


def test_report_plots_vectors_and_the_reward():
    agent = build()
    pictures = agent.report(batch_for(agent))
    assert pictures.keys() == {"openloop/obs", "openloop/reward"}
    for picture in pictures.values():
        assert picture.ndim == 3 and picture.shape[-1] == 3 and picture.dtype == np.uint8
        assert picture.std() > 0
