"""Values of the environment do not leave through files of others, and the page says who sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from worldflux.cli.verbs import main as worldflux
from worldflux.config.base import read_yaml
from worldflux.config.page import Visualization
from worldflux.errors import CheckpointError, ConfigurationError
from worldflux.run_folder.manifest import SCHEMA, read_manifest


@pytest.mark.parametrize("reference", ["${oc.env:SECRET}", "${oc.${x}:SECRET}"])
def test_foreign_yaml_does_not_see_the_environment(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reference: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", "hunter2")
    Path("a.yaml").write_text(f"x: env\nvalue: {reference}\n")
    with pytest.raises(ConfigurationError) as caught:
        read_yaml(Path("a.yaml"))
    assert "hunter2" not in str(caught.value)
    head = "# @package _global_\ndefaults:\n  - override /env: cartpole\n"
    Path("b.yaml").write_text(head + "env:\n  id: ${oc.env:SECRET}\n")
    assert worldflux(["convert", "b.yaml", "--to", "toml", "-o", "out.toml"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not Path("out.toml").exists()
    one = OmegaConf.create({"x": "${oc.env:SECRET}"})
    assert one.x == "hunter2", "one's own files see it again"


def test_a_manifest_holds_values(tmp_path: Path) -> None:
    content = {"schema_version": SCHEMA, "config": {"project": {"x": "${oc.env:SECRET}"}}}
    (tmp_path / "run_manifest.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"config\.project\.x is a reference"):
        read_manifest(tmp_path)


def test_an_empty_host_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="host must name an address"):
        Visualization(host="")
