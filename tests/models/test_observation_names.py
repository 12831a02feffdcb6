"""Observations may have any names that a step has not: ours never stand in their place."""

import json

import pytest
import torch

from worldflux import DreamerV3Config, TDMPC2Config, create_world_model
from worldflux.config.spaces import Space
from worldflux.core.state import Batch
from worldflux.errors import ConfigurationError
from worldflux.models.dreamerv3.modules import LOSSES
from worldflux.models.dreamerv3.world_model import DreamerV3
from worldflux.models.tdmpc2.world_model import TDMPC2
from worldflux.training import TrainingConfig

B, T, A = 3, 5, 2
OURS = (*LOSSES, "total")
ODD = ("recon/dyn", "recon/recon/dyn", "loss", "obs", "recon", "entropy")


def model_of(kind: type, *keys: str):
    config = {DreamerV3: DreamerV3Config, TDMPC2: TDMPC2Config}[kind].from_size("ci")
    spaces = {key: Space((3,)) for key in keys}
    config = config.with_spaces(spaces, {"action": Space((A,))})
    torch.manual_seed(0)
    return kind(config.with_overrides(actor_critic=True) if kind is DreamerV3 else config)


def batch_of(keys: tuple[str, ...], lead: tuple[int, int]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    flags = {k: torch.zeros(lead, dtype=torch.bool) for k in ("is_first", "is_last", "is_terminal")}
    obs = {key: torch.randn(*lead, 3, generator=generator) for key in keys}
    action = torch.rand(*lead, A, generator=generator)
    return flags | obs | {"action": action, "reward": torch.ones(lead)}


def losses_of(kind: type, *keys: str) -> dict[str, float]:
    agent = model_of(kind, *keys).make_agent(TrainingConfig(seed=0), "cpu")
    metrics = agent.update(batch_of(keys, (B, T)))[0]
    return {name: float(value) for name, value in metrics.items() if name.startswith("loss/")}


@pytest.mark.parametrize("keys", [("dyn", "rep"), OURS, ODD])
def test_every_observation_and_every_loss_of_dreamerv3_has_a_metric_of_its_own(keys):
    names = losses_of(DreamerV3, *keys)
    logged = set(OURS) - {"redundancy"}  # of models without a decoder
    assert len(names) == len(logged) + len(keys)
    assert {f"loss/{name}" for name in logged} <= names.keys()
    plain = losses_of(DreamerV3, *(f"x{index}" for index in range(len(keys))))
    for name in ("dyn", "rep", "rew", "con"):
        assert names[f"loss/{name}"] == pytest.approx(plain[f"loss/{name}"], rel=0.3)
    assert names["loss/total"] == pytest.approx(plain["loss/total"], rel=0.3)


def test_metrics_keep_their_names_unless_an_observation_has_that_of_a_loss():
    names = losses_of(DreamerV3, "obs", "dyn", "value")
    assert {"loss/obs", "loss/recon/dyn", "loss/recon/value", "loss/dyn"} <= names.keys()


def test_the_parts_of_the_public_loss_are_those_of_plain_names():
    results = []
    for keys in (("dyn", "rew"), ("a", "b")):
        model, steps = model_of(DreamerV3, *keys), batch_of(keys, (B, T))
        obs = {key: steps[key] for key in keys}
        torch.manual_seed(1)
        results.append(model.loss(Batch(obs, steps["action"], steps["reward"])).components)
    for name, value in results[0].items():
        assert float(value.detach()) == pytest.approx(float(results[1][name].detach()), rel=1e-5)


def test_tdmpc2_has_the_same_metrics_for_any_names():
    assert losses_of(TDMPC2, "reward_", "td", "total").keys() == losses_of(TDMPC2, "obs").keys()


def test_predictions_hold_observations_and_our_own_numbers():
    keys = ("value", "continue", "q_values", "obs")
    model = model_of(DreamerV3, *keys)
    obs = {key: torch.randn(B, 3) for key in keys}
    predictions = model.decode(model.encode(obs)).predictions
    observed = {"recon/value", "recon/continue", "recon/q_values", "obs"}
    assert predictions.keys() == observed | {"reward", "continue", "value"}
    for name, value in predictions.items():
        assert value.shape == ((B, 3) if name in observed else (B, 1))


@pytest.mark.parametrize(
    ("kind", "key"), [(DreamerV3, "dyn/deter"), (DreamerV3, "reward"), (TDMPC2, "is_first")]
)
def test_names_of_a_step_are_refused(kind, key):
    with pytest.raises(ConfigurationError, match=f"observation key '{key}' is reserved") as caught:
        model_of(kind, "obs", key)
    assert "\n" not in str(caught.value)


def test_a_model_by_name_refuses_them_too():
    spaces = {"reward": {"shape": (3,), "dtype": "float32"}}
    with pytest.raises(ConfigurationError, match="reserved"):
        create_world_model("dreamerv3:ci", observation_modalities=spaces, action_dim=2)


@pytest.mark.parametrize("kind", [DreamerV3, TDMPC2])
def test_the_order_of_the_keys_is_their_names(kind, tmp_path):
    """A saved configuration keeps none: the weights of another order would be of other numbers."""
    keys = ("b", "a", "c")
    model = model_of(kind, *keys).eval()
    assert list(model.obs_spaces) == ["a", "b", "c"]
    saved = json.loads(json.dumps(model.config.to_dict(), sort_keys=True))
    other = kind(type(model.config).from_dict(saved)).eval()
    other.load_state_dict(model.state_dict())
    obs = {key: value[:, 0] for key, value in batch_of(keys, (B, T)).items() if key in keys}
    torch.manual_seed(0)
    first = model.encode(obs).tensors
    torch.manual_seed(0)
    for key, value in other.encode(obs).tensors.items():
        assert torch.equal(value, first[key]), key
