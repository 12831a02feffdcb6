"""Optimizers and schedules, compared with a plain float64 computation."""

import numpy as np
import pytest
import torch

from worldflux.core.optim import LaProp, make_optimizer, schedule_factor
from worldflux.errors import ConfigurationError
from worldflux.training import TrainingConfig


def laprop_by_hand(p: np.ndarray, grads: list[np.ndarray], lr: float, agc: float) -> np.ndarray:
    nu, mu = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(grads, start=1):
        g = g / max(1.0, np.linalg.norm(g) / (agc * max(1e-3, np.linalg.norm(p))))
        nu = 0.999 * nu + 0.001 * g**2
        mu = 0.9 * mu + 0.1 * g / (np.sqrt(nu / (1 - 0.999**t)) + 1e-20)
        p = p - lr * mu / (1 - 0.9**t)
    return p


def test_laprop_with_adaptive_clipping_equals_the_formula():
    rng = np.random.default_rng(0)
    start = {"matrix": rng.normal(size=(5, 3)), "small": 1e-4 * rng.normal(size=4)}
    grads = [{k: 10.0**t * rng.normal(size=v.shape) for k, v in start.items()} for t in range(4)]
    params = {k: torch.nn.Parameter(torch.from_numpy(v.copy())) for k, v in start.items()}
    optimizer = LaProp(params.values(), lr=1e-2, agc=0.3)
    for step in grads:
        for key, p in params.items():
            p.grad = torch.from_numpy(step[key].copy())
        optimizer.step()
    for key, p in params.items():
        expected = laprop_by_hand(start[key], [g[key] for g in grads], 1e-2, 0.3)
        assert np.allclose(p.detach().numpy(), expected, rtol=1e-10)


def test_weight_decay_touches_matrices_only():
    matrix, bias = (torch.nn.Parameter(torch.ones(s)) for s in ((2, 2), (2,)))
    optimizer = LaProp([matrix, bias], lr=0.5, agc=0.0, weight_decay=0.1)
    for p in (matrix, bias):
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.allclose(matrix, torch.full((2, 2), 0.95))
    assert torch.equal(bias, torch.ones(2))


@pytest.mark.parametrize("name", ["laprop", "adamw", "adam", "sgd"])
def test_every_named_optimizer_descends(name):
    p = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = make_optimizer([p], TrainingConfig(optimizer=name, learning_rate=0.05))
    for _ in range(200):
        p.grad = 2 * p.detach()
        optimizer.step()
    assert p.abs().max() < 0.5


def test_schedules_warm_up_and_end_where_they_say():
    assert schedule_factor("none", 500, 1000, 0) == 1.0
    assert schedule_factor("linear", 550, 1000, 100) == pytest.approx(0.5)
    assert schedule_factor("cosine", 550, 1000, 100) == pytest.approx(0.5)
    assert schedule_factor("cosine", 1000, 1000, 100) == pytest.approx(0.0)
    assert schedule_factor("linear", 50, 1000, 100) == pytest.approx(0.5)
    with pytest.raises(ConfigurationError, match=r"training\.scheduler"):
        schedule_factor("steps", 0, 1, 0)
