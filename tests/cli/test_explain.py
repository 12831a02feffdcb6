"""`worldflux explain` and `worldflux schema`: the metadata of the fields, for people and for editors."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from omegaconf import OmegaConf

from worldflux.cli.main import main as run
from worldflux.cli.verbs import main as worldflux
from worldflux.config.presets import conf_dir

LEARNING_RATE = """\
training.learning_rate
  Peak step size of the optimizer, after warmup_steps and before the scheduler lowers it. Lower it when returns swing late in a run.
  is         a number, > 0
  default    0.0003
"""


def test_a_key_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert worldflux(["explain", "training.learning_rate"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(LEARNING_RATE)
    assert "training: dreamerv3 0.001, dreamerv3_official 4e-05, tdmpc2 0.001" in out
    assert "official   DreamerV3: agent.opt.lr; TD-MPC2: lr" in out
    assert "training.learning_rate [worldflux.toml]" in out
    assert run(["--help", "training.learning_rate"]) == 0
    assert capsys.readouterr().out == out
    assert worldflux(["explain", "learning_rate"]) == 0
    assert LEARNING_RATE in capsys.readouterr().out


def test_each_family_has_its_own_default_and_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        worldflux(["explain", "model.hidden_dim", "env.action_repeat", "hydra.launcher.setup"]) == 0
    )
    out = capsys.readouterr().out
    dreamer, tdmpc2 = out.split("model.hidden_dim [")[1:]
    assert dreamer.startswith("DreamerV3]") and "size12m 256, size1m 64" in dreamer
    assert tdmpc2.startswith("TD-MPC2]") and "official   TD-MPC2: mlp_dim" in tdmpc2
    assert "set by     env: atari100k 4, dmc model=dreamerv3 1, dmc model=tdmpc2 2" in out
    assert "is         a whole number, >= 1, <= 10000; environment frames" in out


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("training.total_steps", "on resume  may change"),
        ("online_collection.warmup_transitions", "sets       data.prefill_steps"),
        ("env.import", "default    null"),
        ("model.obs_shape", "default    the environment's"),
        ("model.grad_clip", "default    that of training.grad_clip"),
        ("optimizer", "is         one of laprop, adamw, adam, sgd"),
        ("train_ratio", "is         a number or null, > 0; replayed steps per environment step"),
        ("visualization.enabled", "set by     dashboard: live true; "),
    ],
)
def test_what_is_known_of_a_key(key: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert worldflux(["explain", key]) == 0
    assert f"  {line}".rstrip("; ") in capsys.readouterr().out


def test_a_group_lists_its_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help", "data"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["data.source", "gym"]
    assert {"data.train_ratio", "data.num_episodes"} <= {line.split()[0] for line in lines}
    assert len(lines) == 13 + 5  # of a run, and of worldflux.toml


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("training.learning_rat", "Did you mean: 'training.learning_rate'?"),
        ("kl_fre", "Did you mean: 'kl_free'?"),
        ("trainig", "Did you mean: 'training'"),
        ("model.kl_fre", "Did you mean: 'model.kl_free'?"),
    ],
)
def test_a_typo_is_one_line(word: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert worldflux(["explain", word]) == 2
    error = capsys.readouterr().err
    assert hint in error and error.count("\n") == 1
    assert run(["--help", word]) == 2
    assert hint in capsys.readouterr().err


def schemas(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert worldflux(["schema", "--json"]) == 0
    made: dict[str, Any] = json.loads(capsys.readouterr().out)
    for schema in made.values():
        jsonschema.validators.validator_for(schema).check_schema(schema)
    return made


def wrong(schema: dict[str, Any], content: Any) -> list[str]:
    validator = jsonschema.validators.validator_for(schema)(schema)
    return [error.message for error in validator.iter_errors(content)]


def test_every_file_of_ours_fits_its_schema_and_mistakes_do_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made, checked = schemas(capsys), 0
    for path in sorted(conf_dir().rglob("*.yaml")):
        group = path.relative_to(conf_dir()).parts[0]
        group = {"hydra": "hydra.launcher", "dashboard": "experiment"}.get(group, group)
        if path.read_text().startswith("# @package _global_"):
            group = "experiment"
        if group in made and path.parent.name != "job_logging":
            content = OmegaConf.to_container(OmegaConf.load(path))
            assert wrong(made[group], content) == [], path
            checked += 1
    assert checked > 40
    assert wrong(made["training"], {"batch_size": "${model.horizon}"}) == []
    assert wrong(made["training"], {"batchsize": 8})
    assert wrong(made["training"], {"batch_size": 0})
    assert wrong(made["experiment"], {"data": {"capacity": "many"}})
    assert wrong(made["model"], {"unimix": 0.01, "simnorm_dim": 8}), "keys of two families"


def test_a_project_carries_the_schema_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert worldflux(["init", "mine", "--yes"]) == 0
    capsys.readouterr()
    file = Path("mine/worldflux.toml")
    assert file.read_text().splitlines()[0] == "#:schema ./worldflux.toml.schema.json"
    schema = json.loads(Path("mine/worldflux.toml.schema.json").read_text())
    assert schema == schemas(capsys)["worldflux.toml"]
    content = tomllib.loads(file.read_text())
    assert wrong(schema, content) == []
    content["training"]["learning_rate"] = -1
    assert wrong(schema, content)


def test_schemas_are_written_with_the_line_that_editors_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert worldflux(["schema", "data", "--out", str(tmp_path / "schemas")]) == 0
    (file,) = (tmp_path / "schemas").iterdir()
    assert capsys.readouterr().out == f"{file}: # yaml-language-server: $schema={file}\n"
    assert json.loads(file.read_text())["properties"]["capacity"]["default"] == 1_000_000
    assert worldflux(["schema", "dat"]) == 2
    assert "Did you mean: 'data'" in capsys.readouterr().err
