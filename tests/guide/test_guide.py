"""Every snippet of the configuration guide runs as printed, and its statements are true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from worldflux import ConfigurationError, DreamerV3Config, TDMPC2Config, create_world_model
from worldflux.training import TrainingConfig

TEXT = (Path(__file__).parent / "snippets.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.S | re.M)
BLOCKS = [
    (title, block)
    for title, body in SNIPPETS
    for block in re.findall(r"```python\n(.*?)```", body, re.S)
]


def run(title: str, index: int = 0) -> dict[str, Any]:
    block = [block for name, block in BLOCKS if name == title][index]
    namespace: dict[str, Any] = {}
    exec(compile(block, title, "exec"), namespace)
    return namespace


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_snippets_are_found() -> None:
    assert len(BLOCKS) == TEXT.count("```python") == 6


def test_both_import_paths_give_the_same_classes() -> None:
    first, second = run("Import Paths", 0), run("Import Paths", 1)
    for name in ("DreamerV3Config", "TDMPC2Config", "TrainingConfig"):
        assert first[name] is second[name]


def test_presets_with_overrides() -> None:
    found = run("Model Configs")
    assert found["dreamer_cfg"].obs_shape == (3, 64, 64)
    assert (found["dreamer_cfg"].action_dim, found["dreamer_cfg"].hidden_dim) == (18, 512)
    assert found["tdmpc_cfg"].obs_shape == (39,)
    assert (found["tdmpc_cfg"].latent_dim, found["tdmpc_cfg"].hidden_dim) == (768, 1024)


def test_factory_overrides_reach_the_model() -> None:
    model = run("Factory Overrides")["model"]
    assert (model.config.hidden_dim, model.config.stoch_discrete) == (320, 16)
    state = model.encode(torch.zeros(2, 3, 64, 64))
    assert state.tensors["stoch"].shape == (2, 16, 16)
    assert next(model.parameters()).device.type == "cpu"


def test_training_configuration() -> None:
    config = run("Training Configuration")["train_cfg"]
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert (config.total_steps, config.resolve_device()) == (100_000, expected)


def test_save_and_load(folder: Path) -> None:
    saved = create_world_model("dreamer-ci", obs_shape=(5,), action_dim=2)
    saved.save_pretrained(str(folder / "my_model"))
    found = run("Save and Load Configs")
    assert found["model_cfg"] == saved.config
    assert type(found["model_cfg"]) is DreamerV3Config
    assert found["loaded_train_cfg"] == found["train_cfg"]


def test_save_and_load_in_a_fresh_process(folder: Path) -> None:
    create_world_model("dreamer-ci", obs_shape=(5,)).save_pretrained(str(folder / "my_model"))
    block = next(block for name, block in BLOCKS if name == "Save and Load Configs")
    script = block + "\nimport sys\nprint(type(model_cfg).__name__, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["DreamerV3Config", "False"], done.stderr


@pytest.mark.parametrize(
    ("cls", "field", "value"),
    [
        *((DreamerV3Config, name, 64) for name in ("deter_dim", "hidden_dim", "cnn_depth")),
        *((DreamerV3Config, name, 8) for name in ("stoch_discrete", "stoch_classes")),
        (DreamerV3Config, "kl_free", 0.5),
        (DreamerV3Config, "kl_balance", 0.8),
        *((TDMPC2Config, name, 64) for name in ("latent_dim", "hidden_dim", "num_elites")),
        *((TDMPC2Config, name, 3) for name in ("num_hidden_layers", "num_q_networks", "horizon")),
        (TDMPC2Config, "num_samples", 128),
    ],
)
def test_the_commonly_tuned_fields_are_accepted(cls: Any, field: str, value: float) -> None:
    assert getattr(cls(**{field: value}), field) == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight_decay", 0.1),
        ("warmup_steps", 10),
        ("log_interval", 5),
        ("eval_interval", 5),
        ("save_interval", 5),
        ("gradient_accumulation_steps", 2),
        ("optimizer", "sgd"),
        ("scheduler", "cosine"),
        ("ema_decay", 0.9),
        ("model_overrides", {"hidden_dim": 3}),
    ],
)
def test_the_useful_training_fields_are_accepted(field: str, value: Any) -> None:
    assert getattr(TrainingConfig(**{field: value}), field) == value


def test_an_unknown_field_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match=r"Unknown parameter 'hiden_dim'.*'hidden_dim'"):
        create_world_model("dreamerv3:size12m", obs_shape=(3, 64, 64), hiden_dim=320)
