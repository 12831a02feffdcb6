"""Models by name: aliases, folders, overrides, third parties."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

import worldflux
import worldflux.training
from worldflux import (
    ConfigurationError,
    WorldModelConfig,
    create_world_model,
    get_config,
    get_model_info,
    list_models,
)
from worldflux.models.families import family_of_type


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("dreamer", "size12m"),
        ("dreamerv3", "size12m"),
        ("Dreamer-Small", "size12m"),
        ("dreamer-medium", "size50m"),
        ("dreamer-large", "size200m"),
        ("dreamer-ci", "ci"),
        ("dreamer:ci", "ci"),
        ("dreamerv3:official", "size200m"),
        ("tdmpc", "5m"),
        ("tdmpc2", "5m"),
        ("tdmpc-medium", "48m"),
        ("tdmpc-large", "317m"),
        ("tdmpc2-ci", "ci"),
        ("tdmpc2:proof", "5m"),
        ("tdmpc-legacy", "5m"),
        ("TDMPC2:19M", "19m"),
    ],
)
def test_names_and_aliases(name: str, size: str) -> None:
    assert get_config(name, obs_shape=(24,)).model_name == size


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dreamerv4:size12m", "unknown family 'dreamerv4'.*'dreamerv3'"),
        ("dreamerv3:size13m", "takes the sizes.*Did you mean: .*'size12m'"),
        ("dreamerv3:5m", "'5m' is a size of tdmpc2"),
        ("dreamer-smal", "family:size.*'dreamer-small'"),
    ],
)
def test_unknown_names_are_value_errors(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        create_world_model(name)
    assert isinstance(caught.value, ConfigurationError)


def test_overrides_are_checked_before_anything_is_built() -> None:
    with pytest.raises(ConfigurationError, match="Unknown parameter 'hiden_dim'"):
        create_world_model("dreamerv3:size400m", hiden_dim=3)
    with pytest.raises(ConfigurationError, match="obs_shape must be given"):
        create_world_model("tdmpc2:5m")
    with pytest.raises(ConfigurationError, match="must be a class or function"):
        create_world_model("dreamer-ci", component_overrides={"encoder": object()})
    with pytest.raises(ValueError, match="api_version"):
        create_world_model("dreamer-ci", api_version="v1")


def test_a_saved_model_comes_back_and_takes_no_overrides(tmp_path: Path) -> None:
    model = create_world_model("dreamer-ci", obs_shape=(5,), action_dim=2)
    model.save_pretrained(str(tmp_path / "m"))
    again = create_world_model(str(tmp_path / "m"))
    assert again.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    with pytest.raises(ConfigurationError, match="leave out hidden_dim"):
        create_world_model(str(tmp_path / "m"), hidden_dim=3)
    with pytest.raises(FileNotFoundError):
        create_world_model(str(tmp_path / "nothing"))


def test_the_catalogue() -> None:
    names = list_models()
    official = ["size1m", "size12m", "size25m", "size50m", "size100m", "size200m", "size400m"]
    assert [n for n in names if n.removeprefix("dreamerv3:") in official] == [
        f"dreamerv3:{size}" for size in official
    ]
    assert [n for n in names if n.startswith("tdmpc2:")] == [
        f"tdmpc2:{size}" for size in ("ci", "75k", "1m", "5m", "19m", "48m", "317m")
    ]
    assert len(set(names)) == len(names)
    info = get_model_info("dreamerv3")
    assert (info["id"], info["available"]) == ("dreamerv3:size12m", True)
    assert info["config"]["hidden_dim"] == 256


@dataclass
class RiverConfig(WorldModelConfig):
    model_type: str = "river"

    @classmethod
    def from_size(cls, size: str, **overrides: Any) -> Any:
        return cls(model_name=size, **{"hidden_dim": {"small": 8}[size], **overrides})


class River(torch.nn.Linear):
    config_class = RiverConfig

    def __init__(self, config: RiverConfig):
        super().__init__(config.hidden_dim, 1)
        self.config = config


def test_an_installed_package_can_add_a_family(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("river", f"{__name__}:River", "worldflux.models")
    monkeypatch.setattr("worldflux.models.families.entry_points", lambda group: [point])
    model = create_world_model("river:small", action_dim=3)
    assert (type(model).__name__, model.config.hidden_dim) == ("River", 8)
    assert family_of_type("river").config_class() is RiverConfig


def test_public_names_resolve_lazily() -> None:
    for name in worldflux.__all__:
        assert getattr(worldflux, name) is not None
    for name in worldflux.training.__all__:
        assert getattr(worldflux.training, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        worldflux.nothing  # noqa: B018
