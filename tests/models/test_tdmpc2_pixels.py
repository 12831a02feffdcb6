"""TD-MPC2 on pictures: shifts and encoder against float64, acting, learning, sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.models.tdmpc2_reference import Reference, shifted
from worldflux import Batch, ConfigurationError, TDMPC2Config, create_world_model
from worldflux.config.spaces import Space
from worldflux.models.tdmpc2.agent import TDMPC2Agent
from worldflux.models.tdmpc2.objective import Noise
from worldflux.models.tdmpc2.official.checkpoint import export_checkpoint
from worldflux.models.tdmpc2.official.weights import official_names
from worldflux.models.tdmpc2.pixels import draw_shift, shift_pictures
from worldflux.models.tdmpc2.world_model import TDMPC2
from worldflux.training import TrainingConfig

B, H, N = 4, 2, 2
SHAPE = (9, 64, 64)


def agent_for_pictures(**fields) -> TDMPC2Agent:
    fields = dict(num_samples=16, num_elites=4, num_pi_trajs=2, iterations=2, horizon=H) | fields
    config = TDMPC2Config.from_size("ci", obs_shape=SHAPE, action_dim=2, **fields)
    config = config.with_spaces({"obs": Space(SHAPE, "uint8")}, {"action": Space((2,))})
    torch.manual_seed(0)
    training = TrainingConfig(optimizer="adam", grad_clip=20.0, sequence_length=H, seed=0)
    return TDMPC2(config).make_agent(training, device="cpu")


def pictures(*lead: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (*lead, *SHAPE), generator=generator).to(torch.uint8)


def batch() -> dict[str, torch.Tensor]:
    lead = (B, H + 1)
    flags = {k: torch.zeros(lead, dtype=torch.bool) for k in ("is_first", "is_last", "is_terminal")}
    flags["is_first"][:, 0] = True
    generator = torch.Generator().manual_seed(2)
    action = torch.rand(*lead, 2, generator=generator) * 2 - 1
    return flags | {"obs": pictures(*lead), "action": action, "reward": action.sum(-1)}


def test_shifts_are_those_of_the_bilinear_grid() -> None:
    images = pictures(3)
    shift = torch.tensor([[0, 6], [3, 3], [5, 1]])
    moved = shift_pictures(images, shift)
    for image, s, ours in zip(images.numpy(), shift.numpy(), moved.numpy(), strict=True):
        np.testing.assert_allclose(ours, shifted(image.astype(np.float64), s), atol=1e-9)
    assert torch.equal(moved[1], images[1])
    drawn = draw_shift((4000,), torch.Generator().manual_seed(0), torch.device("cpu"))
    counts = torch.bincount(drawn.flatten(), minlength=7)
    assert len(counts) == 7 and (counts > 1000).all()


def test_the_encoder_computes_what_float64_does() -> None:
    model = agent_for_pictures(latent_dim=64).model
    weights = {
        name: model.state_dict()[ours].numpy() for name, ours in official_names(model).items()
    }
    names = {f"_encoder.rgb.{i}.{part}" for i in (2, 4, 6, 8) for part in ("weight", "bias")}
    assert names == {name for name in weights if name.startswith("_encoder")}
    assert weights["_encoder.rgb.2.weight"].shape == (4, 9, 7, 7)
    images, shift = pictures(2, 3), torch.randint(7, (2, 3, 2))
    found = model.latent(images, shift=shift).detach().numpy()
    moved = np.stack(
        [
            shifted(image.astype(np.float64), s)
            for image, s in zip(
                images.flatten(0, 1).numpy(), shift.flatten(0, 1).numpy(), strict=True
            )
        ]
    )
    expected = Reference(weights).encode_pictures(moved).reshape(2, 3, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    state = model.encode(images[0])  # of the public interface: not shifted
    own = Reference(weights).encode_pictures(images[0].numpy().astype(np.float64))
    np.testing.assert_allclose(state.tensors["latent"].detach().numpy(), own, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.encode(images[0] / 255.0).tensors, state.tensors)


def test_the_official_size_has_the_official_layers() -> None:
    """Channels 32, latent 512: four convolutions, then the same heads as with vectors."""
    with torch.device("meta"):
        model = TDMPC2(TDMPC2Config.from_size("5m", obs_shape=SHAPE, action_dim=6))
    convolutions = [9 * 32 * 49, 32 * 32 * 25, 32 * 32 * 9, 32 * 32 * 9]
    encoder = sum(convolutions) + 4 * 32
    vector = 24 * 256 + 256 + 2 * 256 + 256 * 512 + 3 * 512  # of the 4,960,618 with 24 numbers
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 4_960_618 - vector + encoder


def test_pictures_are_acted_on_and_learned_from() -> None:
    agent = agent_for_pictures()
    obs = {"obs": pictures(N).numpy(), "is_first": np.ones(N, bool)}
    _, action, _ = agent.act(agent.initial_carry(N), obs, explore=True)
    assert action.shape == (N, 2) and np.abs(action).max() <= 1
    before = agent.model.encoder["rgb"].get_parameter("2.weight").detach().clone()
    losses = [float(agent.update(batch())[0]["loss/reward"]) for _ in range(15)]
    assert losses[-1] < losses[0]
    assert not torch.equal(before, agent.model.encoder["rgb"].get_parameter("2.weight"))


def test_every_picture_is_shifted_by_its_own_draw() -> None:
    agent = agent_for_pictures(dropout=0.0)
    noise = Noise.draw(agent.model, H, B, agent.generator)
    assert noise.shift is not None and noise.shift.shape == (H + 1, B, 2)
    data = agent.objective.slices(batch())
    step = agent.objective.model_losses(data, noise)
    noise.shift[1, 0] = (noise.shift[1, 0] + 1) % 7
    other = agent.objective.model_losses(data, noise)
    assert torch.equal(step.latent, other.latent)  # of the first observations
    changed = (step.target != other.target).any(-1)
    assert changed[0, 0] and changed.sum() == 1


def test_what_the_encoder_cannot_take_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"64 pixels high and wide.*env\.image_size"):
        create_world_model("tdmpc2:ci", obs_shape=(3, 84, 84))
    with pytest.raises(ConfigurationError, match="latent_dim must be divisible by 16"):
        create_world_model("tdmpc2:ci", obs_shape=(3, 64, 64), latent_dim=40)
    with pytest.raises(ConfigurationError, match=r"64 pixels high and wide"):
        create_world_model("tdmpc2:ci", observation_modalities={**BOTH, "b": {"shape": (3, 9, 9)}})


BOTH = {
    "eye": {"shape": (3, 64, 64), "dtype": "uint8"},
    "arm": {"shape": (2,)},
    "leg": {"shape": (3,)},
}


def test_pictures_and_vectors_are_joined_before_simnorm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_world_model("tdmpc2:ci", observation_modalities=BOTH, action_dim=2).double()
    rows = (2, 4)
    obs = {
        "eye": torch.randint(0, 256, (*rows, 3, 64, 64), dtype=torch.uint8),
        "arm": torch.randn(*rows, 2, dtype=torch.float64),
        "leg": torch.randn(*rows, 3, dtype=torch.float64),
    }
    weights = model.state_dict()
    x = obs["eye"].flatten(0, 1).double() / 255 - 0.5
    for name, stride in (("2", 2), ("4", 2), ("6", 2), ("8", 1)):
        key = f"encoder.rgb_eye.{name}"
        x = F.conv2d(
            x.relu() if name != "2" else x, weights[f"{key}.weight"], weights[f"{key}.bias"], stride
        )
    y = torch.cat([obs["arm"], obs["leg"]], -1).flatten(0, 1)
    for layer in range(2):
        key = f"encoder.state.{layer}"
        y = y @ weights[f"{key}.weight"].T + weights[f"{key}.bias"]
        y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
        y = y * weights[f"{key}.ln.weight"] + weights[f"{key}.ln.bias"]
        y = y * torch.tanh(torch.log1p(y.exp())) if layer == 0 else y
    groups = (x.flatten(1) + y).unflatten(-1, (-1, model.config.simnorm_dim)).exp()
    expected = (groups / groups.sum(-1, keepdim=True)).flatten(-2)
    state = model.encode({key: value.flatten(0, 1) for key, value in obs.items()})
    torch.testing.assert_close(state.tensors["latent"], expected, rtol=1e-12, atol=1e-12)

    batch = Batch(obs=obs, actions=torch.rand(*rows, 2), rewards=torch.rand(rows))
    model.float().loss(batch).loss.backward()
    assert all(bool(one.grad.any()) for one in model.encoder.parameters() if one.grad is not None)
    assert all(one.grad is not None for one in model.encoder.parameters())
    with pytest.raises(ConfigurationError, match="has no official form"):
        export_checkpoint(model, tmp_path / "x.pt")
