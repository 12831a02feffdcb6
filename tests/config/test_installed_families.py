"""Families of other packages beside ours: stated defaults, and packages that are broken."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from worldflux.config.composition import composed
from worldflux.config.model import WorldModelConfig
from worldflux.config.run import RunConfig
from worldflux.errors import ConfigurationError
from worldflux.models import families

BROKEN = EntryPoint("broken", "no_such_package:Model", "worldflux.models")


@dataclass
class BrookConfig(WorldModelConfig):
    model_type: str = "brook"


class Brook:
    config_class = BrookConfig


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("brook", f"{__name__}:Brook", "worldflux.models"), BROKEN]
    monkeypatch.setattr(families, "entry_points", lambda group: points)
    families.warn_broken.cache_clear()
    Plugins.instance()  # stores nodes of its own, which must outlive this
    store = ConfigStore.instance()
    monkeypatch.setattr(store, "repo", copy.deepcopy(store.repo))


def brook(*overrides: str) -> RunConfig:
    return composed(["model=brook", *overrides])


def test_a_family_without_yaml_has_stated_defaults() -> None:
    run = brook("training.learning_rate=0.5")
    assert type(run.model) is BrookConfig and run.model.learning_rate == 0.5
    assert "obs_shape" not in run.model.explicit
    assert (run.data.capacity, run.data.prefill_steps) == (1_000_000, 1_000)
    assert run.data.collect_steps_per_update == 1
    assert brook("env=dmc", "env.id=walker-walk").env.flatten
    assert brook("env=pixels", "env.id=Pendulum-v1").env.frame_stack == 1


@pytest.mark.parametrize("words", [["model=tdmpc2"], ["model=brook"], []])
def test_a_broken_package_stops_no_other_family(
    words: Sequence[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        composed(words)
    (line,) = caplog.messages
    assert "'broken' (no_such_package:Model) cannot be imported" in line
    with pytest.raises(ConfigurationError, match=r"'broken'.*No module named"):
        families.family("broken")
