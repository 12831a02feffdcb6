"""Model configurations: presets, checks, spaces, saving."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from worldflux import ConfigurationError, DreamerV3Config, TDMPC2Config, WorldModelConfig
from worldflux.config.spaces import Space

# Published sizes: width d, then deter 8d, cnn depth d/16, classes d/16 (size1m: 4), 32 latents.
DREAMER = {
    "size1m": 64,
    "size12m": 256,
    "size25m": 384,
    "size50m": 512,
    "size100m": 768,
    "size200m": 1024,
    "size400m": 1536,
}
# Published sizes: encoder width, MLP width, latent width, encoder layers, Q networks.
TDMPC2 = {
    "1m": (256, 384, 128, 2, 2),
    "5m": (256, 512, 512, 2, 5),
    "19m": (1024, 1024, 768, 3, 5),
    "48m": (1792, 1792, 768, 4, 5),
    "317m": (4096, 4096, 1376, 5, 8),
}


@pytest.mark.parametrize(("size", "width"), DREAMER.items())
def test_dreamer_presets_are_the_official_ones(size: str, width: int) -> None:
    config = DreamerV3Config.from_size(size)
    assert (config.model_name, config.hidden_dim, config.deter_dim) == (size, width, 8 * width)
    assert (config.cnn_depth, config.stoch_discrete) == (width // 16, 32)
    assert config.stoch_classes == max(4, width // 16)
    assert config.stoch_dim == 32 * config.stoch_classes


@pytest.mark.parametrize(("size", "numbers"), TDMPC2.items())
def test_tdmpc2_presets_are_the_official_ones(size: str, numbers: tuple[int, ...]) -> None:
    config = TDMPC2Config.from_size(size, obs_shape=(24,))
    found = (config.encoder_dim, config.hidden_dim, config.latent_dim, config.encoder_layers)
    assert (*found, config.num_q_networks) == numbers


def test_aliases_of_sizes() -> None:
    assert DreamerV3Config.from_size("official_xl") == DreamerV3Config.from_size("size200m")
    for alias in ("proof_5m", "5m_legacy"):
        assert TDMPC2Config.from_size(alias) == TDMPC2Config.from_size("5m")
    assert DreamerV3Config.from_size("ci").deter_dim == 64
    assert TDMPC2Config.from_size("ci").latent_dim == 32


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DreamerV3Config.from_size("size51m"), "size400m.*'size50m'"),
        (lambda: DreamerV3Config.from_size("5m"), "'5m' is a size of tdmpc2"),
        (lambda: TDMPC2Config.from_size("size50m"), "'size50m' is a size of dreamerv3"),
    ],
)
def test_an_unknown_size_names_those_there_are(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert isinstance(caught.value, ConfigurationError)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"obs_shape": ()}, "obs_shape"),
        ({"obs_shape": (3, 0, 64)}, "obs_shape"),
        ({"obs_shape": (3, 84, 84)}, "divisible by 16"),
        ({"obs_shape": (2, 3, 4, 5)}, "neither vector nor image"),
        ({"action_dim": 0}, "action_dim must be >= 1"),
        ({"action_type": "discret"}, "Did you mean: 'discrete'"),
        ({"action_type": "token"}, "not built"),
        ({"action_type": "hybrid"}, "action_spec.keys"),
        ({"hidden_dim": 1.5}, "whole number"),
        ({"hidden_dim": "64"}, "whole number"),
        ({"hidden_dim": True}, "whole number"),
        ({"deter_dim": 100}, "divisible by blocks"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0"),
        ({"learning_rate": float("nan")}, "finite"),
        ({"grad_clip": -1.0}, "grad_clip"),
        ({"dtype": "float64"}, "dtype"),
        ({"device": "gpu"}, "device"),
        ({"latent_type": "simnorm"}, "'categorical'"),
        ({"model_type": "tdmpc2"}, "'dreamer'"),
        ({"latent_dim": 128}, "does nothing"),
        ({"stoch_dim": 7}, "stoch_discrete \\* stoch_classes"),
        ({"encoder_type": "cnn", "obs_shape": (4,)}, "does not fit"),
        ({"decoder_type": "mlp"}, "does not fit"),
        ({"encoder_type": "vit"}, "one of auto, cnn, mlp"),
        ({"kl_free": -0.1}, "kl_free"),
        ({"kl_balance": 1.0}, "kl_balance"),
        ({"gamma": 1.5}, "gamma"),
        ({"loss_scales": {"kl_dynamic": 1.0}}, "Did you mean: 'kl_dynamics'"),
        ({"loss_scales": {"reward": -1.0}}, "loss_scales.reward"),
        ({"reward_bin_min": -10.0}, "symmetric"),
        ({"use_twohot": False}, "use_twohot"),
        ({"actor_lr": 3e-5}, "one optimizer"),
        ({"actor_max_std": 0.05}, "actor_max_std"),
        ({"return_norm_low": 96.0}, "percentiles"),
        ({"cnn_kernel": 4}, "odd"),
    ],
)
def test_wrong_values_are_refused_with_the_name_in_front(
    values: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        DreamerV3Config(model_name="mine", **values)
    assert str(caught.value).startswith("[mine] ")
    assert not isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"latent_dim": 100}, "divisible by simnorm_dim"),
        ({"num_elites": 600}, "num_elites must be <= num_samples"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_q_networks": 1}, "num_q_networks must be >= 2"),
        ({"horizon": 0}, "horizon"),
        ({"temperature": 0.0}, "temperature"),
        ({"momentum": 1.5}, "momentum"),
        ({"target_q_tau": 0.0}, "target_q_tau"),
        ({"deter_dim": 512}, "does nothing"),
        ({"use_decoder": True}, "no decoder"),
    ],
)
def test_wrong_tdmpc2_values_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        TDMPC2Config(obs_shape=(24,), **values)


def test_unknown_names_are_configuration_and_type_errors() -> None:
    for make in (
        lambda: DreamerV3Config(hiden_dim=3),  # type: ignore[call-arg]
        lambda: DreamerV3Config.from_size("ci", hiden_dim=3),
        lambda: DreamerV3Config.from_dict({"hiden_dim": 3}),
        lambda: DreamerV3Config().with_overrides(hiden_dim=3),
    ):
        with pytest.raises(ConfigurationError, match="Did you mean: 'hidden_dim'") as caught:
            make()
        assert isinstance(caught.value, TypeError)


def test_kl_balance_splits_the_sum_of_the_scales() -> None:
    assert DreamerV3Config().kl_scales() == (1.0, 0.1)
    assert DreamerV3Config(kl_balance=0.8).kl_scales() == pytest.approx((0.88, 0.22))
    scaled = DreamerV3Config(kl_balance=0.5, loss_scales={"kl_dynamics": 0.5})
    assert scaled.kl_scales() == pytest.approx((0.3, 0.3))


def test_gamma_overrides_the_discount_horizon() -> None:
    assert DreamerV3Config().discount == pytest.approx(1 - 1 / 333)
    assert DreamerV3Config(gamma=0.9).discount == 0.9


def test_partial_loss_scales_keep_the_official_rest() -> None:
    scales = DreamerV3Config(loss_scales={"reward": 2.0}).loss_scales
    assert (scales["reward"], scales["kl_representation"], scales["replay_value"]) == (2, 0.1, 0.3)


def test_images_that_look_channels_last_warn() -> None:
    with pytest.warns(UserWarning, match="looks like"):
        WorldModelConfig(obs_shape=(64, 64, 3))


@pytest.mark.parametrize("suffix", ["", "config.json"])
def test_load_from_a_folder_or_a_file(tmp_path: Path, suffix: str) -> None:
    config = TDMPC2Config.from_size("19m", obs_shape=(24,), horizon=5)
    config.save(tmp_path / "config.json")
    assert WorldModelConfig.load(tmp_path / suffix) == config
    assert WorldModelConfig.load(tmp_path).to_dict() == config.to_dict()


def test_load_in_a_fresh_process_without_torch(tmp_path: Path) -> None:
    DreamerV3Config.from_size("ci").save(tmp_path / "config.json")
    code = (
        "import sys; from worldflux import WorldModelConfig;"
        f"print(type(WorldModelConfig.load({str(tmp_path)!r})).__name__, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["DreamerV3Config", "False"], done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "no model_type"),
        ('{"hidden_dim": 3}', "no model_type"),
        ('{"model_type": "dreamr"}', "Did you mean: 'dreamer'"),
        ('{"model_type": "dreamer", "hidden_dim": -3}', "config.json.*hidden_dim"),
        ('{"model_type": "dreamer", "hiden_dim": 3}', "Unknown parameter"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigurationError, match=words):
        WorldModelConfig.load(tmp_path)


def test_a_missing_file_and_another_family(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        WorldModelConfig.load(tmp_path / "nothing")
    TDMPC2Config().save(tmp_path / "config.json")
    with pytest.raises(ConfigurationError, match="not a DreamerV3Config"):
        DreamerV3Config.load(tmp_path)


def test_files_of_other_versions_load_and_tell_what_they_leave_out(tmp_path: Path) -> None:
    data = DreamerV3Config(obs_shape=(3, 64, 64)).to_dict()
    data.update(cnn_kernels=[4, 4, 4, 4], reference_tier="reference", actor_lr=3e-5)
    (tmp_path / "config.json").write_text(json.dumps(data))
    with pytest.warns(UserWarning, match="cnn_kernels, reference_tier, actor_lr"):
        config = WorldModelConfig.load(tmp_path)
    assert config == DreamerV3Config(obs_shape=(3, 64, 64))
    del data["reference_tier"], data["actor_lr"]
    with pytest.raises(ConfigurationError, match="no 'cnn_kernels'"):
        DreamerV3Config.from_dict({**data, "cnn_kernels": 3})


def test_with_overrides_keeps_what_is_none_and_refreshes_what_follows() -> None:
    config = DreamerV3Config.from_size("ci", obs_shape=(3, 64, 64))
    other = config.with_overrides(obs_shape=(7,), stoch_classes=8, hidden_dim=None)
    assert (other.obs_shape, other.stoch_dim, other.hidden_dim) == ((7,), 32, 32)
    assert other.observation_modalities["obs"]["kind"] == "vector"
    assert config.obs_shape == (3, 64, 64)
    with pytest.raises(ConfigurationError, match="whole number"):
        config.with_overrides(hidden_dim="wide")


def test_merge_yaml_and_schema(tmp_path: Path) -> None:
    merged = DreamerV3Config.merge({"hidden_dim": 64}, {"hidden_dim": 128}, {"kl_free": 0.5})
    assert (merged.hidden_dim, merged.kl_free) == (128, 0.5)
    (tmp_path / "model.yaml").write_text("hidden_dim: 96\nlearning_rate: 1e-4\n")
    config = DreamerV3Config.from_yaml(tmp_path / "model.yaml")
    assert (config.hidden_dim, config.learning_rate) == (96, 1e-4)
    schema = DreamerV3Config.json_schema()
    assert schema["$schema"].endswith("2020-12/schema")
    stages = schema["properties"]["cnn_mults"]
    assert (stages["type"], stages["items"]) == ("array", {"type": "integer"})
    assert stages["default"] == [2, 3, 4, 4]


def test_spaces_of_an_environment_fill_in_what_was_not_given() -> None:
    obs = {"camera": Space((3, 64, 64), "uint8"), "speed": Space((2,))}
    act = {"arm": Space((2,)), "grip": Space((), "int64", (3,))}
    config = DreamerV3Config.from_size("ci").with_spaces(obs, act)
    assert (config.obs_spaces(), config.action_spaces()) == (obs, act)
    assert (config.obs_shape, config.action_dim, config.action_type) == ((3, 64, 64), 5, "hybrid")
    assert DreamerV3Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"obs_shape": (5,)}, "obs_shape is .5,., but the environment has .4,."),
        ({"action_dim": 3, "action_type": "discrete"}, "action_dim is 3, but .* 2"),
        ({"action_type": "continuous"}, "action_type is 'continuous', but .* 'discrete'"),
        ({"observation_modalities": {"cam": {"shape": (4,)}}}, "observation_modalities"),
    ],
)
def test_an_environment_that_contradicts_what_was_given(given: dict[str, Any], words: str) -> None:
    config = DreamerV3Config.from_size("ci", **given)
    with pytest.raises(ConfigurationError, match=words):
        config.with_spaces({"obs": Space((4,))}, {"action": Space((), "int64", (2,))})


def test_multi_discrete_actions_survive_saving(tmp_path: Path) -> None:
    actions = {"action": Space((2,), "int64", (2, 3))}
    config = DreamerV3Config.from_size("ci").with_spaces({"obs": Space((4,))}, actions)
    config.save(tmp_path / "config.json")
    loaded = WorldModelConfig.load(tmp_path)
    assert loaded == config
    assert (loaded.action_spaces(), loaded.action_dim) == (actions, 5)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"observation_modalities": {"a": {"shape": (0,)}}}, "a.shape"),
        ({"observation_modalities": {"a": {"shpe": (3,)}}}, "Did you mean: 'shape'"),
        ({"observation_modalities": {"a": {"shape": (3,), "kind": "image"}}}, "is 'vector'"),
        ({"obs_shape": (4,), "observation_modalities": {"a": {"shape": (3,)}}}, "make it"),
        ({"action_spec": {"kind": "discrete"}}, "action_spec.dim"),
        (
            {"action_dim": 4, "action_spec": {"kind": "discrete", "dim": 3}},
            "action_spec makes it 3",
        ),
        ({"action_spec": {"kind": "hybrid", "dim": 3}}, "needs keys"),
    ],
)
def test_wrong_descriptions_of_spaces(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        DreamerV3Config(**values)
