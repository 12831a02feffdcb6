"""TrainingConfig and the other groups' classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from worldflux import ConfigurationError
from worldflux.config.data import DataConfig
from worldflux.config.env import EnvConfig
from worldflux.training import TrainingConfig


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"total_steps": 0}, "total_steps must be >= 1"),
        ({"batch_size": 1.5}, "batch_size must be a whole number"),
        ({"sequence_length": -1}, "sequence_length"),
        ({"learning_rate": 0}, "learning_rate must be > 0"),
        ({"grad_clip": -1}, "grad_clip"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"log_interval": 0}, "log_interval must be >= 1"),
        ({"save_interval": 0}, "save_interval must be >= 1"),
        ({"eval_interval": -1}, "eval_interval must be >= 0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps"),
        ({"num_envs": 0}, "num_envs"),
        ({"env_mode": "parallel"}, "env_mode must be one of"),
        ({"optimizer": "adamm"}, "Did you mean: 'adamw', 'adam'"),
        ({"scheduler": "cosin"}, "Did you mean: 'cosine'"),
        ({"device": "banana"}, "device must be"),
        ({"device": "cuda:x"}, "device must be"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"agc": 0.3}, "agc acts in optimizer laprop only"),
        ({"optimizer": "sgd", "beta2": 0.9}, "sgd has neither"),
        ({"mixed_precision": True, "device": "cpu"}, "use bfloat16"),
        ({"mixed_precision_dtype": "float8"}, "mixed_precision_dtype"),
        ({"backend": "jax"}, "backend must be one of native_torch"),
        ({"output_dir": " "}, "output_dir"),
        ({"optimiser": "adam"}, "Did you mean: 'optimizer'"),
        ({"use_ddp": True}, "nproc=N trains with several processes"),
        ({"prefetch_batches": 2}, "sampled from memory"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        TrainingConfig(**values)


def test_json_round_trip(tmp_path: Path) -> None:
    config = TrainingConfig(total_steps=7, optimizer="laprop", agc=0.3, optimizer_eps=1e-20)
    config.save(tmp_path / "t.json")
    assert TrainingConfig.load(tmp_path / "t.json") == config
    assert TrainingConfig.from_dict(config.to_dict()) == config
    with pytest.raises(TypeError, match="Unknown parameter 'steps'"):
        TrainingConfig.from_dict({"steps": 3})
    with pytest.raises(FileNotFoundError):
        TrainingConfig.load(tmp_path / "missing.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ConfigurationError, match="not valid JSON"):
        TrainingConfig.load(tmp_path / "bad.json")


def test_old_files_load_and_tell_what_they_leave_out(tmp_path: Path) -> None:
    data = {**TrainingConfig(total_steps=9).to_dict(), "num_workers": 0, "rank": None}
    with pytest.warns(UserWarning, match="num_workers") as warned:
        assert TrainingConfig.from_dict(data) == TrainingConfig(total_steps=9)
    assert "rank" in str(warned[0].message)
    del data["rank"]
    with pytest.raises(ConfigurationError, match="sampled from memory"):
        TrainingConfig.from_dict({**data, "num_workers": 4})


def test_with_updates_checks_again() -> None:
    config = TrainingConfig(total_steps=5)
    assert config.with_updates(seed=3) == TrainingConfig(total_steps=5, seed=3)
    with pytest.raises(ConfigurationError, match="total_steps"):
        config.with_updates(total_steps=0)


def test_what_the_format_has_but_nothing_does_is_refused() -> None:
    TrainingConfig().check_supported()
    for values in ({"ema_decay": 0.9}, {"model_overrides": {"hidden_dim": 3}}):
        with pytest.raises(ConfigurationError, match="not supported"):
            TrainingConfig(**values).check_supported()


def test_devices() -> None:
    assert TrainingConfig(device="cuda:1").resolve_device() == "cuda:1"
    assert TrainingConfig(device="auto").resolve_device() in ("cuda", "cpu")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: EnvConfig(action_repeat=0), "action_repeat"),
        (lambda: EnvConfig(image_size=(64,)), "a list of 2 entries"),  # type: ignore[arg-type]
        (lambda: EnvConfig(image_size=(0, 64)), "image_size"),
        (lambda: EnvConfig(obs="pixel"), "Did you mean: 'pixels'"),
        (lambda: EnvConfig(suite="dmcc"), "suite"),
        (lambda: EnvConfig(id=""), "id must name"),
        (lambda: EnvConfig(time_limit=0), "time_limit"),
        (lambda: DataConfig(source="gmy"), "Did you mean: 'gym'"),
        (lambda: DataConfig(capacity=0), "capacity"),
        (lambda: DataConfig(train_ratio=0), "train_ratio"),
        (lambda: DataConfig(train_ratio=32, collect_steps_per_update=1), "both given"),
        (lambda: DataConfig(on_env_failure="ignore"), "on_env_failure"),
    ],
)
def test_wrong_environment_and_data_values(make: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make()
