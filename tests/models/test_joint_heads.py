"""What DreamerV3's objective computes of all heads together, against the heads one by one."""

from __future__ import annotations

import torch

from worldflux import DreamerV3Config
from worldflux.models.dreamerv3.objective import Objective
from worldflux.models.dreamerv3.world_model import DreamerV3


def test_predictions_of_all_heads_together_are_those_of_each() -> None:
    torch.manual_seed(0)
    config = DreamerV3Config.from_size("ci", obs_shape=(4,), action_dim=2, actor_critic=True)
    model = DreamerV3(config).double()
    for head in (model.critic, model.reward, model.slow_critic):
        torch.nn.init.normal_(head.out.weight, std=0.1)
    feat = torch.randn(3, 5, model.feat_dim, dtype=torch.float64)
    logits, predictions = Objective(model).predict(feat)
    plain = model.critic(feat)
    expected = {
        "rew": model.reward(feat).pred(),
        "con": model.con(feat).prob(),
        "val": plain.pred(),
        "slowval": model.slow_critic(feat).pred(),
    }
    for key, value in expected.items():
        torch.testing.assert_close(predictions[key], value.T, rtol=1e-12, atol=1e-12)
        assert not predictions[key].requires_grad
    weights = list(model.critic.parameters())
    upstream = torch.randn_like(logits)
    ours, theirs = (torch.autograd.grad(x, weights, upstream) for x in (logits, plain.logits))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
