"""DreamerV3 without a decoder: redundancy reduction between latents and embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from worldflux import Batch, ConfigurationError, create_world_model
from worldflux.models.dreamerv3.losses import redundancy_loss
from worldflux.training import TrainingConfig

MADE: dict[str, Any] = {"obs_shape": (5,), "action_dim": 2, "actor_critic": True}


def made(**fields: Any) -> Any:
    torch.manual_seed(0)
    fields = {"representation": "redundancy_reduction", **MADE, **fields}
    return create_world_model("dreamerv3:ci", **fields)


def expected(x: np.ndarray, y: np.ndarray, weight: float) -> float:
    """By NumPy's correlation coefficients; the deviations are those of a sample."""
    rows, width = x.shape
    c = np.corrcoef(x, y, rowvar=False)[:width, width:] * (rows - 1) / rows
    different = c[~np.eye(width, dtype=bool)]
    return float(((np.diag(c) - 1) ** 2).sum() + weight * (different**2).sum())


def test_the_loss_against_correlation_coefficients() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 4, 6)), rng.normal(size=(3, 4, 6))
    y[..., :3] += 2 * x[..., :3]
    ours = redundancy_loss(torch.as_tensor(x), torch.as_tensor(y), 0.3)
    assert float(ours) == pytest.approx(expected(x.reshape(12, 6), y.reshape(12, 6), 0.3), rel=1e-6)
    with torch.no_grad():
        same = redundancy_loss(torch.as_tensor(x), torch.as_tensor(x), 0.0)
    assert float(same) == pytest.approx(6 / 12**2, rel=1e-6)  # the diagonal is (N - 1) / N


def test_a_model_without_decoder_learns_by_it() -> None:
    model, without = made(redundancy_scale=0.5), made(redundancy_scale=0.0)
    assert not any(name.startswith("decoder") for name in model.state_dict())
    assert not model.supports("obs_decoder")
    rows = (4, 6)
    batch = Batch(obs=torch.randn(*rows, 5), actions=torch.rand(*rows, 2), rewards=torch.rand(rows))
    torch.manual_seed(1)
    out = model.loss(batch)
    torch.manual_seed(1)
    other = without.loss(batch)
    assert float((out.loss - other.loss).detach()) == pytest.approx(
        0.5 * float(out.components["redundancy"].detach()), rel=1e-3
    )
    out.loss.backward()
    assert all(
        one.grad is not None for one in (*model.encoder.parameters(), model.projector.weight)
    )
    state = model.encode(torch.randn(2, 5))
    assert model.decode(state).predictions.keys() == {"reward", "continue", "value"}


def test_its_agent_trains_acts_and_pictures_the_reward() -> None:
    agent = made().make_agent(TrainingConfig(device="cpu", compile_model=False, sequence_length=6))
    lead = (4, 6)
    flags = {k: torch.zeros(lead, dtype=torch.bool) for k in ("is_first", "is_last", "is_terminal")}
    rows = {
        "obs": torch.randn(*lead, 5),
        "action": torch.rand(*lead, 2),
        "reward": torch.rand(lead),
    }
    losses = [float(agent.update({**rows, **flags})[0]["loss/redundancy"]) for _ in range(10)]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert agent.report({**rows, **flags}).keys() == {"openloop/reward"}
    obs = {"obs": np.zeros((2, 5), np.float32), "is_first": np.ones(2, bool)}
    _, action, _ = agent.act(agent.initial_carry(2), obs, explore=True)
    assert action.shape == (2, 2) and np.isfinite(action).all()


def test_what_has_no_meaning_with_it_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="must be one of decoder, redundancy_reduction"):
        made(representation="barlow")
    with pytest.raises(ConfigurationError, match=r"components\.decoder has no place"):
        made(component_overrides={"decoder": torch.nn.Linear})
