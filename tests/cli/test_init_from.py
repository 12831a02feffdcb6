"""`init_from`: a new run begins with the weights of a model, a run or a checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import TINY
from tests.training.test_trainer import pointer
from worldflux.cli.main import main
from worldflux.errors import CheckpointError, ConfigurationError
from worldflux.models.dreamerv3.agent import DreamerV3Agent
from worldflux.models.factory import model_class
from worldflux.models.families import family_of_type
from worldflux.models.tdmpc2.agent import TDMPC2Agent
from worldflux.run_folder.manifest import read_manifest
from worldflux.training.initial import InitialWeights

FAMILIES = {"dreamerv3": DreamerV3Agent, "tdmpc2": TDMPC2Agent}
PENDULUM = ["env=pendulum", "env.time_limit=20"]


def words(family: str) -> list[str]:
    small = ["model.num_samples=16", "model.num_elites=4", "model.num_pi_trajs=2"]
    tiny = [word for word in TINY if "sequence" not in word] if family == "tdmpc2" else TINY
    return [f"model={family}", *tiny, *PENDULUM, *(small if family == "tdmpc2" else [])]


@pytest.fixture(scope="module", params=list(FAMILIES))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main([*words(request.param), "hydra.run.dir=first"]) == 0
    return request.param, place / "first"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / pointer(run, "best") / "model.safetensors")


@pytest.mark.slow
def test_it_begins_with_the_weights_and_everything_else_fresh(
    run: tuple,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family, first = run
    kind = FAMILIES[family]
    seen, update = [], kind.update

    def watched(agent, batch, carry):
        if not seen:
            model = {k: v.clone() for k, v in agent.model.state_dict().items()}
            seen.append((model, agent.updates, dict(agent.optimizer.state)))
        return update(agent, batch, carry)

    monkeypatch.setattr(kind, "update", watched)
    assert main([*words(family), f"init_from={first}", "hydra.run.dir=second"]) == 0
    model, updates, moments = seen[0]
    assert updates == 0 and moments == {}
    given = weights(first)
    assert model.keys() == given.keys()
    assert all(torch.equal(model[key], given[key]) for key in given)
    manifest = read_manifest(folder / "second")
    best = first / "checkpoints" / pointer(first, "best")
    assert manifest["init_from"]["file"] == str(best / "model.safetensors")
    assert manifest["global_step"] == 2


def test_a_model_folder_and_a_checkpoint_are_taken_too(run: tuple, tmp_path: Path) -> None:
    _, first = run
    checkpoint = first / "checkpoints" / pointer(first, "latest")
    found = InitialWeights.find(str(checkpoint))
    assert found.file == checkpoint / "model.safetensors"
    config = read_config(first)
    model = model_class(config.model_type)(config)
    found.check(config)
    found.load_into(model)
    model.save_pretrained(tmp_path / "model")
    again = InitialWeights.find(str(tmp_path / "model"))
    again.check(config)
    other = model_class(config.model_type)(config)
    again.load_into(other)
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)


def read_config(run: Path):
    values = read_manifest(run)["model_config"]
    return family_of_type(values["model_type"]).config_class().from_dict(values)


def test_what_does_not_fit_is_refused_before_anything_is_written(
    run: tuple,
    refused: Callable[..., str],
) -> None:
    family, first = run
    line = refused(*words(family), f"init_from={first}", "model.hidden_dim=48")
    assert f"init_from={first} does not fit this model: " in line
    assert " there and " in line and " more" in line
    other = next(name for name in FAMILIES if name != family)
    line = refused(*words(other), f"init_from={first}")
    assert "model, not a" in line
    assert "there is no such folder" in refused(*words(family), "init_from=nowhere")
    assert "neither of them" in refused(*words(family), "init_from=.")


def test_a_damaged_file_is_told(run: tuple, tmp_path: Path) -> None:
    _, first = run
    copy = tmp_path / "copy"
    shutil.copytree(first, copy)
    path = copy / "checkpoints" / pointer(copy, "best") / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged: checksum of model\.safetensors"):
        InitialWeights.find(str(copy))
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(ConfigurationError, match="no checkpoint yet"):
        InitialWeights.find(str(copy))


def test_a_run_whose_manifest_names_another_model_is_told_before_memory_is_taken(
    run: tuple, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = run
    copy = tmp_path / "copy"
    shutil.copytree(first, copy)
    document = read_manifest(copy)
    for section in (document["model_config"], document["config"]["model"]):
        section["hidden_dim"] *= 8
    document.pop("config_sha256")  # as of a version that wrote none
    (copy / "run_manifest.json").write_text(json.dumps(document))

    def made(*args: object) -> None:
        raise AssertionError("memory is taken")

    monkeypatch.setattr("worldflux.runner.run.make_model", made)
    line = refused(f"resume={copy}", "training.total_steps=3")
    assert "does not fit its model: " in line and " there and " in line
