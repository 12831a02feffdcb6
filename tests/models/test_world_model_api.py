"""The public calls of a DreamerV3 world model: shapes, errors, saving and loading."""

import json
import subprocess
import sys

import pytest
import torch

from worldflux import Batch, DreamerV3Config, WorldModelConfig, create_world_model
from worldflux.config.spaces import Space
from worldflux.errors import CheckpointError, ConfigurationError, ValidationError
from worldflux.models.dreamerv3.world_model import DreamerV3

B, T, A = 3, 5, 4


@pytest.fixture(scope="module")
def image_model():
    torch.manual_seed(0)
    return create_world_model("dreamerv3:ci", obs_shape=(3, 32, 32), action_dim=A)


@pytest.fixture(scope="module")
def vector_model():
    torch.manual_seed(0)
    return create_world_model("dreamerv3:ci", obs_shape=(6,), action_dim=A, actor_critic=True)


def test_encode_transition_update_and_decode_have_the_documented_shapes(image_model):
    config = image_model.config
    groups = (B, config.stoch_discrete, config.stoch_classes)
    state = image_model.encode(torch.rand(B, 3, 32, 32))
    assert state.meta["latent_type"] == "categorical"
    assert state.tensors["deter"].shape == (B, config.deter_dim)
    for key in ("stoch", "logits", "prior_logits", "posterior_logits"):
        assert state.tensors[key].shape == groups
    prior = image_model.transition(state, torch.zeros(B, A))
    assert prior.tensors["stoch"].shape == groups and prior.batch_size == B
    posterior = image_model.update(state, torch.zeros(B, A), torch.rand(B, 3, 32, 32))
    assert posterior.tensors["posterior_logits"].shape == groups
    predictions = image_model.decode(posterior).predictions
    assert predictions["obs"].shape == (B, 3, 32, 32)
    assert predictions["reward"].shape == predictions["continue"].shape == (B, 1)
    assert 0 <= predictions["continue"].min() and predictions["continue"].max() <= 1


def test_uint8_and_unit_float_images_give_the_same_state(image_model):
    image = torch.randint(0, 256, (B, 3, 32, 32), dtype=torch.uint8)
    whole = image_model.encode(image, deterministic=True)
    scaled = image_model.encode(image.float() / 255, deterministic=True)
    assert torch.allclose(whole.tensors["logits"], scaled.tensors["logits"], atol=1e-5)


def test_deterministic_encoding_is_repeatable_and_sampling_is_not(image_model):
    obs = torch.rand(B, 3, 32, 32)
    first, second = (image_model.encode(obs, deterministic=True) for _ in range(2))
    assert torch.equal(first.tensors["stoch"], second.tensors["stoch"])
    draws = {image_model.encode(obs).tensors["stoch"].detach().numpy().tobytes() for _ in range(8)}
    assert len(draws) > 1


def test_rollout_depends_on_its_actions(vector_model):
    torch.manual_seed(1)
    with torch.no_grad():
        vector_model.reward.out.weight.normal_()
    state = vector_model.encode(torch.randn(B, 6), deterministic=True)
    actions = torch.randn(T, B, A)
    rollout = vector_model.rollout(state, actions, deterministic=True)
    assert rollout.horizon == T and len(rollout.states) == T + 1
    assert rollout.rewards.shape == rollout.continues.shape == (T, B)
    assert rollout.to_tensor("deter").shape == (T + 1, B, vector_model.config.deter_dim)
    other = vector_model.rollout(state, -actions, deterministic=True)
    assert not torch.allclose(rollout.rewards, other.rewards)


def test_initial_state_is_zero_with_the_first_class(image_model):
    state = image_model.initial_state(B)
    assert state.tensors["deter"].abs().max() == 0
    assert torch.equal(state.tensors["stoch"].argmax(-1), torch.zeros(B, 4, dtype=torch.long))


def test_loss_names_its_parts_and_trains_every_module(vector_model):
    batch = Batch(
        obs=torch.randn(B, T, 6),
        actions=torch.rand(B, T, A) * 2 - 1,
        rewards=torch.randn(B, T),
        terminations=torch.zeros(B, T),
    )
    output = vector_model.loss(batch)
    parts = {"kl_dynamics", "kl_representation", "kl", "reconstruction", "reward", "continue"}
    assert parts | {"actor", "critic"} == output.components.keys()
    output.loss.backward()
    for name in ("encoder", "rssm", "decoder", "reward", "con", "actor", "critic"):
        grads = [p.grad for p in getattr(vector_model, name).parameters()]
        assert any(g is not None and g.abs().max() > 0 for g in grads), name


def test_rewards_that_follow_the_action_are_shifted_to_their_observation(vector_model):
    rewards, done = torch.arange(1.0, T + 1).expand(1, T), torch.zeros(1, T)
    batch = Batch(
        obs=torch.zeros(1, T, 6), actions=torch.zeros(1, T, A), rewards=rewards, terminations=done
    )
    assert vector_model.step_dict(batch)["reward"].tolist() == [[0.0, 1.0, 2.0, 3.0, 4.0]]
    batch.reward_convention = "arrival"
    assert vector_model.step_dict(batch)["reward"].tolist() == rewards.tolist()


def test_wrong_shapes_are_named(image_model):
    with pytest.raises(ValidationError, match=r"observation 'obs'.*\[B, 3, 32, 32\]"):
        image_model.encode(torch.rand(B, 3, 16, 16))
    state = image_model.initial_state(B)
    with pytest.raises(ValidationError, match=rf"\[{B}, {A}\]"):
        image_model.transition(state, torch.zeros(B, A + 1))
    with pytest.raises(ValidationError, match="actor_critic"):
        image_model.policy(state)


def test_several_observation_keys_and_unequal_discrete_actions():
    config = DreamerV3Config.from_size("ci").with_spaces(
        {
            "camera": Space((3, 32, 32), "uint8"),
            "mono": Space((1, 32, 32), "uint8"),
            "speed": Space((2,)),
            "gear": Space((), "int64", (5,)),
        },
        {"action": Space((2,), "int64", (2, 3))},
    )
    model = DreamerV3(config)
    obs = {
        "camera": torch.randint(0, 256, (B, 3, 32, 32), dtype=torch.uint8),
        "mono": torch.randint(0, 256, (B, 1, 32, 32), dtype=torch.uint8),
        "speed": torch.randn(B, 2),
        "gear": torch.randint(0, 5, (B,)),
    }
    state = model.transition(model.encode(obs), torch.tensor([[0, 2]] * B))
    one_hot = torch.tensor([[1.0, 0.0, 0.0, 0.0, 1.0]] * B)
    assert model.transition(model.encode(obs), one_hot).batch_size == B
    predictions = model.decode(state).predictions
    assert predictions["camera"].shape == (B, 3, 32, 32)
    assert predictions["mono"].shape == (B, 1, 32, 32)
    assert predictions["speed"].shape == (B, 2) and predictions["gear"].shape == (B, 5)


def test_saved_models_come_back_exactly_also_in_a_fresh_process(vector_model, tmp_path):
    folder = tmp_path / "my_model"
    vector_model.save_pretrained(folder)
    obs = torch.randn(B, 6)
    expected = vector_model.encode(obs, deterministic=True).tensors["logits"]
    for model in (DreamerV3.from_pretrained(folder), create_world_model(str(folder))):
        assert model.config == vector_model.config
        got = model.encode(obs, deterministic=True).tensors["logits"]
        assert torch.equal(got, expected)
    torch.save({"obs": obs, "logits": expected.detach()}, tmp_path / "expected.pt")
    code = (
        "import torch; from worldflux import WorldModelConfig, create_world_model\n"
        f"data = torch.load({str(tmp_path / 'expected.pt')!r})\n"
        f"config = WorldModelConfig.load({str(folder)!r})\n"
        f"model = create_world_model({str(folder)!r})\n"
        "assert type(config).__name__ == 'DreamerV3Config'\n"
        "got = model.encode(data['obs'], deterministic=True).tensors['logits']\n"
        "assert torch.equal(got, data['logits'])\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_model_folders_that_do_not_fit_are_refused(vector_model, tmp_path):
    folder = tmp_path / "model"
    vector_model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"deter_dim": 128}))
    with pytest.raises(ConfigurationError, match=r"worldflux_meta\.json"):
        DreamerV3.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        DreamerV3.from_pretrained(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match="neither"):
        DreamerV3.from_pretrained(folder)


def test_old_folders_with_model_pt_load(vector_model, tmp_path):
    folder = tmp_path / "old"
    vector_model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(vector_model.state_dict(), folder / "model.pt")
    loaded = DreamerV3.from_pretrained(folder)
    for ours, saved in zip(loaded.parameters(), vector_model.parameters(), strict=True):
        assert torch.equal(ours, saved)


def test_config_says_the_family_of_a_folder(vector_model, tmp_path):
    vector_model.save_pretrained(tmp_path)
    assert isinstance(WorldModelConfig.load(tmp_path), DreamerV3Config)


@pytest.mark.parametrize("name", ["dreamerv3:ci", "tdmpc2:ci"])
def test_dtype_is_the_type_of_the_computation(name):
    # Drawn alike in any order of tests: a latent that is nearly undecided would flip.
    obs = torch.randn(B, 6, generator=torch.Generator().manual_seed(0))
    action, made = torch.zeros(B, A), {}
    for dtype in ("float32", "bfloat16"):
        torch.manual_seed(0)
        model = create_world_model(name, obs_shape=(6,), action_dim=A, dtype=dtype)
        assert all(p.dtype == torch.float32 for p in model.parameters())
        state = model.transition(model.encode(obs, deterministic=True), action, deterministic=True)
        key = "deter" if "deter" in state.tensors else "latent"
        made[dtype] = state.tensors[key].detach().float()
    error = (made["bfloat16"] - made["float32"]).abs().max() / made["float32"].abs().max()
    # bfloat16 keeps 8 bits: not the same numbers, and not far from them.
    assert 1e-5 < error < 0.1
