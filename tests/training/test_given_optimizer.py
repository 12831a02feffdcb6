"""Trainer(optimizer=, scheduler=): the user's own, exact on resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau

from worldflux import create_world_model
from worldflux.errors import ConfigurationError
from worldflux.run_folder.metrics import read_metrics
from worldflux.training import Trainer, TrainingConfig
from worldflux.training.data import create_random_buffer

RATE, DECAY = 0.02, 0.7


def model(family: str = "dreamerv3") -> Any:
    torch.manual_seed(0)
    shape = {"encoder_type": "mlp", "decoder_type": "mlp"} if family == "dreamerv3" else {}
    return create_world_model(f"{family}:ci", obs_shape=(3,), action_dim=2, **shape)


def trainer(folder: Path, **options: Any) -> Trainer:
    fields = dict(batch_size=2, sequence_length=6, log_interval=1, device="cpu", total_steps=6)
    made = model()
    optimizer = torch.optim.SGD(made.parameters(), lr=RATE, **options)
    scheduler = ExponentialLR(optimizer, DECAY)
    config = TrainingConfig(grad_clip=1.0, learning_rate=5.0, **fields)
    return Trainer(made, config, None, optimizer, scheduler, run_dir=folder, loggers=())


def rates(folder: Path) -> list[float]:
    records = [record["metrics"] for record in read_metrics(folder)]
    return [r["train/opt/learning_rate"] for r in records if "train/opt/learning_rate" in r]


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}])
def test_they_take_the_place_of_the_configured_ones_and_survive_a_resume(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    data = [create_random_buffer(60, (3,), 2).sample(2, 6) for _ in range(6)]
    whole = trainer(tmp_path / "whole", **options)
    before = [parameter.clone() for parameter in whole.model.parameters()]
    whole.train(data)
    expected = [RATE * DECAY**update for update in range(6)]
    assert rates(tmp_path / "whole") == pytest.approx(expected, rel=1e-6)
    moved = zip(before, whole.model.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in moved)
    trainer(tmp_path / "run", **options).train(data, num_steps=3)
    again = trainer(tmp_path / "run", **options)
    again.train(data, resume_from=tmp_path / "run")
    assert again.state.global_step == 6
    assert rates(tmp_path / "run") == pytest.approx(expected, rel=1e-6)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[key], value), key
    assert math.isclose(again.agent.optimizer.param_groups[0]["lr"], RATE * DECAY**6)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    def refused(made: Any, optimizer: Any, scheduler: Any = None) -> str:
        config = TrainingConfig(device="cpu")
        with pytest.raises(ConfigurationError) as told:
            Trainer(made, config, optimizer=optimizer, scheduler=scheduler, run_dir=tmp_path)
        return str(told.value)

    made, other = model(), nn.Linear(2, 2)
    whole = torch.optim.Adam(made.parameters())
    few = torch.optim.Adam(list(made.parameters())[:1])
    more = torch.optim.Adam([*made.parameters(), *other.parameters()])
    assert "it lacks" in refused(made, few)
    assert "not the model's" in refused(made, more)
    assert "the optimizer that it belongs to" in refused(made, None, ExponentialLR(whole, 0.9))
    assert "not one of the given" in refused(made, whole, ExponentialLR(few, 0.9))
    assert "waits for a metric" in refused(made, whole, ReduceLROnPlateau(whole))
    planner = model("tdmpc2")
    assert "makes its own" in refused(planner, torch.optim.Adam(planner.parameters()))
