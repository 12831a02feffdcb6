"""A family of another package in worldflux.toml: init, settings and back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from worldflux.cli.init import main
from worldflux.config import presets
from worldflux.config_loader import load_config
from worldflux.models import families
from worldflux.project.mapping import file_of, settings

MODULE = """\
from dataclasses import dataclass
from worldflux.config.model import WorldModelConfig

@dataclass
class ThirdConfig(WorldModelConfig):
    model_type: str = "third"

class Third:
    config_class = ThirdConfig
"""


@pytest.fixture
def third(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with a family of two sizes."""
    package = folder / "packages" / "third_family"
    sizes = package / "conf" / "model" / "size"
    sizes.mkdir(parents=True)
    (package / "__init__.py").write_text(MODULE)
    for name, width in (("small", 8), ("large", 16)):
        fields = f"model_type: third\nmodel_name: {name}\nhidden_dim: {width}\n"
        (sizes / f"{name}.yaml").write_text(f"# @package model\n{fields}")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(
        families,
        "entry_points",
        lambda group: [EntryPoint("third", "third_family:Third", "worldflux.models")],
    )
    presets._presets.cache_clear()
    yield
    presets._presets.cache_clear()
    sys.modules.pop("third_family", None)


@pytest.mark.usefixtures("third")
def test_a_project_of_an_installed_family(folder: Path) -> None:
    words = ["mine", "--model", "third", "--environment", "custom", "--yes"]
    assert main([*words, "--obs-shape", "4", "--action-dim", "2"]) == 0
    config = load_config("mine/worldflux.toml")
    assert (config.model, config.model_type, config.size) == ("third:small", "third", "small")
    assert config.architecture.hidden_dim == 8
    assert config.verify.baseline == "official/third"
    run = {key: item.value for key, item in settings(config).items()}
    assert (run["model"], run["model/size"]) == ("third", "small")
    assert run["training.eval_interval"] == config.training.total_steps // 20
    values = {**run, "environment": "custom", "data.source": "random", "env.suite": "none"}
    assert file_of({**values, "model/size": "large"})["model"] == "third:large"
