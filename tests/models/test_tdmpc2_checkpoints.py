"""Official multi-task and pixel checkpoints: read in both layouts, written back key for key."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.models.tdmpc2_reference import Reference
from worldflux import create_world_model
from worldflux.cli.verbs import main as worldflux
from worldflux.errors import ConfigurationError
from worldflux.models.tdmpc2.official.checkpoint import load_checkpoint
from worldflux.models.tdmpc2.official.tasks import official_tasks

PARTS = ("weight", "bias", "ln.weight", "ln.bias")
OBS, A, Z, D, HID, ENC, Q, BINS = 5, 3, 16, 4, 12, 10, 3, 11
DIMS = (3, 1, 2)


def mlp(sizes: list[int], normed_last: bool, lead: tuple[int, ...] = ()) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for i, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False)):
        found[f"{i}.weight"] = torch.randn(*lead, b, a)
        found[f"{i}.bias"] = torch.randn(*lead, b)
        if normed_last or i < len(sizes) - 2:
            found[f"{i}.ln.weight"], found[f"{i}.ln.bias"] = torch.randn(2, *lead, b).unbind()
    return found


def official(
    *, tasks: tuple[int, ...] = (), pixels: bool = False, latent: int = Z, log_std: int = -10
) -> OrderedDict[str, Any]:
    """A file's entries as the official code orders them: own buffers, then modules in turn."""
    torch.manual_seed(0)
    Z = latent
    dim = D if tasks else 0
    entries: OrderedDict[str, Any] = OrderedDict()
    if tasks:
        entries["_action_masks"] = torch.zeros(len(tasks), A)
        for row, count in enumerate(tasks):
            entries["_action_masks"][row, :count] = 1
    entries["log_std_min"], entries["log_std_dif"] = torch.tensor(log_std), torch.tensor(12)
    if tasks:
        entries["_task_emb.weight"] = torch.randn(len(tasks), dim)
    parts = {}
    if pixels:
        channels, convolutions = 9, OrderedDict()
        for index, kernel in ((2, 7), (4, 5), (6, 3), (8, 3)):
            convolutions[f"{index}.weight"] = torch.randn(Z // 16, channels, kernel, kernel)
            convolutions[f"{index}.bias"] = torch.randn(Z // 16)
            channels = Z // 16
        parts["_encoder.rgb"] = convolutions
    else:
        parts["_encoder.state"] = mlp([OBS + dim, ENC, Z], True)
    parts["_dynamics"] = mlp([Z + dim + A, HID, HID, Z], True)
    parts["_reward"] = mlp([Z + dim + A, HID, HID, BINS], False)
    parts["_pi"] = mlp([Z + dim, HID, HID, 2 * A], False)
    for prefix, part in parts.items():
        entries.update((f"{prefix}.{key}", value) for key, value in part.items())
    ensembles = [mlp([Z + dim + A, HID, HID, BINS], False, (Q,)) for _ in range(2)]
    order = [("_Qs.params", 0), ("_detach_Qs_params", 0), ("_target_Qs_params", 1)]
    for prefix, which in order:
        for key, value in ensembles[which].items():
            entries[f"{prefix}.{key}"] = value.clone()
        entries[f"{prefix}.__batch_size"], entries[f"{prefix}.__device"] = torch.Size([Q]), None
    return entries


def old_layout(entries: OrderedDict[str, Any]) -> OrderedDict[str, Any]:
    """As released before November 2024: Q weights numbered, no buffers."""
    found: OrderedDict[str, Any] = OrderedDict()
    for name, value in entries.items():
        if not name.startswith(("_detach", "log_std", "_action_masks")) and "__" not in name:
            for new, old in (
                ("_Qs.params.", "_Qs.params."),
                ("_target_Qs_params.", "_target_Qs.params."),
            ):
                if name.startswith(new):
                    layer, _, part = name.removeprefix(new).partition(".")
                    name = f"{old}{4 * int(layer) + PARTS.index(part)}"
                    break
            found[name] = value
    return found


def save(entries: OrderedDict[str, Any], path: Path) -> str:
    torch.save({"model": entries}, path)
    return str(path)


def assert_written_back(model: str, entries: OrderedDict[str, Any], tmp_path: Path) -> None:
    written = tmp_path / "back.pt"
    assert worldflux(["export", "tdmpc2", model, "--out", str(written)]) == 0
    ours = torch.load(written, weights_only=True)["model"]
    assert list(ours) == list(entries)
    for name, value in entries.items():
        same = torch.equal(ours[name], value) if torch.is_tensor(value) else ours[name] == value
        assert same and type(ours[name]) is type(value), name


LAYOUTS: dict[str, Callable[[OrderedDict[str, Any]], OrderedDict[str, Any]]] = {
    "new": lambda entries: entries,
    "old": old_layout,
    "old with masks": lambda entries: OrderedDict(
        _action_masks=entries["_action_masks"], **old_layout(entries)
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_multitask_files_are_imported_and_written_back(layout: str, tmp_path: Path) -> None:
    entries, out = official(tasks=DIMS), str(tmp_path / "model")
    words = ["--action-dims", "3,1,2"] if layout == "old" else []
    file = save(LAYOUTS[layout](entries), tmp_path / "mt.pt")
    assert worldflux(["import", "tdmpc2", file, "--out", out, *words]) == 0
    config = create_world_model(out).config
    assert (config.num_tasks, config.task_dim, config.task_action_dims) == (3, D, DIMS)
    assert config.obs_shape == (OBS,) and config.action_dim == A
    assert_written_back(out, entries, tmp_path)


# Of a checkpoint that was not trained with the official defaults.
OTHER = {"simnorm_dim": 6, "vmin": -5, "vmax": 8}
HYDRA = """
defaults: [{override hydra/launcher: submitit_local}]
task: walker-walk
model_size: ???
task_dim: 96
multitask: false
obs: state
obs_shape: {state: [5]}
lr: 3e-4
rho: 0.6
horizon: 4
num_enc_layers: 1
wandb_project: ???
hydra: {launcher: {submitit_folder: "./logs/${now:%Y}"}}
"""


def compare_with_formulas(out: str, entries: OrderedDict[str, Any]) -> None:
    """Compares the imported model with the official formulas in float64."""
    model = create_world_model(out)
    weights = {key: value.numpy() for key, value in entries.items() if torch.is_tensor(value)}
    reference = Reference(weights, group=6, log_std=(-9, 3), bins=(-5, 8))
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(7, OBS)), rng.uniform(-1, 1, (7, A))
    z = reference.encode(obs)
    ours, act = torch.tensor(z, dtype=torch.float32), torch.tensor(action, dtype=torch.float32)
    found = {
        "encode": model.encode(torch.tensor(obs, dtype=torch.float32)).tensors["latent"],
        "next": model.next(ours, act),
        "reward": model.reward_dist(ours, act).pred(),
        "q": model.q_values(ours, act)[1],
        "action": model.pi.dist(ours).pred(),
        "sampled": model.pi.dist(ours).sample(act),
    }
    expected = {
        "encode": z,
        "next": reference.next(z, action),
        "reward": reference.reward(z, action),
        "q": reference.q(z, action, None, 1, False),
        "action": reference.pi(z, np.zeros((7, A)))[0],
        "sampled": reference.pi(z, action)[0],
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].detach(), value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("how", ["words", "ours", "json", "hydra", "file and word"])
def test_settings_that_shapes_do_not_show_are_taken(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries, out = official(latent=12, log_std=-9), str(tmp_path / "model")
    file, config = save(entries, tmp_path / "other.pt"), tmp_path / "config.yaml"
    words = [f"{name}={value}" for name, value in OTHER.items()]
    if how == "ours":
        words = ["simnorm_dim=6", "bin_min=-5", "bin_max=8"]
    elif how == "json":
        config, words = tmp_path / "config.json", []
        config.write_text(json.dumps(OTHER | {"bin_size": 1.3, "obs_dim": OBS, "num_q": Q}))
    elif how == "hydra":
        config.write_text(HYDRA + "simnorm_dim: 6\nvmin: -5\nvmax: +8\n")
        words = []
    elif how == "file and word":
        config.write_text("simnorm_dim: 4\nvmin: -5\nextra_loss: 1\n")
        words = ["simnorm_dim=6", "vmax=8"]
    flags = ["--config", str(config)] if config.exists() else []
    assert worldflux(["import", "tdmpc2", file, "--out", out, *flags, *words]) == 0
    printed = capsys.readouterr().out
    assert "discount_max=0.995" in printed and "simnorm_dim" not in printed
    assert ("not used: extra_loss" in printed) == (how == "file and word")
    settings = create_world_model(out).config
    assert (settings.simnorm_dim, settings.bin_min, settings.bin_max) == (6, -5, 8)
    assert (settings.rho, settings.horizon) == ((0.6, 4) if how == "hydra" else (0.5, 3))
    compare_with_formulas(out, entries)


def test_what_is_assumed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = save(official(), tmp_path / "a.pt"), str(tmp_path / "model")
    assert worldflux(["import", "tdmpc2", file, "--out", out]) == 0
    printed = capsys.readouterr().out
    for text in ("simnorm_dim=8", "vmin=-10", "vmax=10", "episode_length=", "num_samples=512"):
        assert text in printed
    assert "num_q=" not in printed and "log_std_min=" not in printed  # the file shows them
    old = save(old_layout(official()), tmp_path / "old.pt")
    assert worldflux(["import", "tdmpc2", old, "--out", out + "2"]) == 0
    assert "log_std_min=-10" in capsys.readouterr().out


WRONG = {
    "simnorm_dim=7": "must be divisible by simnorm_dim (7), got 16",
    "simnorm_dims=4": "simnorm_dims: there is no such setting. Did you mean: 'simnorm_dim'",
    "zebra=4": "zebra: TD-MPC2 has no such setting",
    "simnorm_dim": "write NAME=VALUE",
    "vmin=abc": "vmin must be a number",
    "vmin=20": "vmin must be below bin_max",
    "num_bins=101": "num_bins is 101, but the weights have 11",
    "num_q=5": "num_q is 5, but the weights have 3",
    "action_dim=6": "action_dim is 6, but the weights have 3",
    "latent_dim=512": "latent_dim is 512, but the weights have 16",
    "log_std_min=-5": "log_std_min is -5, but the weights have -10",
    "episodic=true": "episodic is True, but the weights have False",
    "bin_size=0.2": "bin_size is 0.2, but the other settings make it 2",
    "model_size=5": "model_size=5 has enc_dim=256, but the weights have 10",
    "model_size=6": "no official model has",
    "obs=rgb": "the weights are of state",
    "multitask=true": "multitask is True",
    "task=mt30": "the weights know 1 task(s)",
    "mpc=false": "ours always plans",
    "horizon=0": "horizon must be >= 1",
    "vmin=${oc.env:HOME}": "environment",
}


@pytest.mark.parametrize("word", WRONG)
def test_settings_that_the_weights_contradict_are_refused(
    word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = save(official(), tmp_path / "a.pt"), tmp_path / "model"
    assert worldflux(["import", "tdmpc2", file, "--out", str(out), word]) == 2
    error = capsys.readouterr().err
    assert WRONG[word] in error and error.count("\n") == 1 and not out.exists()


def test_a_wrong_file_of_settings_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = save(official(), tmp_path / "a.pt"), tmp_path / "model"
    config = tmp_path / "config.yaml"
    for content, words in {
        "num_q: 5": f"{config}: num_q is 5, but the weights have 3",
        "simnorm_dm: 5": "Did you mean: 'simnorm_dim'",
        "- 5": "holds no settings",
        "a: [": "cannot be read",
        "vmin: ${oc.env:HOME}": "environment",
        "vmin: -5\nbin_min: -6": "are the same setting",
    }.items():
        config.write_text(content)
        command = ["import", "tdmpc2", file, "--out", str(out), "--config", str(config)]
        assert worldflux(command) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1 and not out.exists()


def test_the_discount_is_that_of_the_episode_length_or_as_named(tmp_path: Path) -> None:
    file = Path(save(official(), tmp_path / "a.pt"))
    for words, discount in {
        ("episode_length=500",): 0.99,
        ("episode_length=500", "discount=0.99"): 0.99,
        ("discount=0.97",): 0.97,
        ("episode_length=100", "discount_denom=4"): 0.96,
    }.items():
        assert load_checkpoint(file, settings=words).model.discount == pytest.approx(discount)
    with pytest.raises(ConfigurationError, match=r"discount is 0\.9, but the other settings"):
        load_checkpoint(file, settings=("episode_length=500", "discount=0.9"))


def test_an_old_file_of_unknown_tasks_asks_for_their_actions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(old_layout(official(tasks=DIMS)), tmp_path / "mt.pt")
    assert worldflux(["import", "tdmpc2", file, "--out", str(tmp_path / "model")]) == 2
    error = capsys.readouterr().err
    assert "3 tasks" in error and "--action-dims" in error and error.count("\n") == 1
    words = ["--out", str(tmp_path / "model"), "--action-dims", "3,1"]
    assert worldflux(["import", "tdmpc2", file, *words]) == 2
    assert "task_action_dims must have 3 entries" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_masks_that_are_no_prefix_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = official(tasks=DIMS)
    entries["_action_masks"][1] = torch.tensor([0.0, 1.0, 0.0])
    file = save(entries, tmp_path / "mt.pt")
    assert worldflux(["import", "tdmpc2", file, "--out", str(tmp_path / "model")]) == 2
    assert "_action_masks" in capsys.readouterr().err


def test_pixel_files_are_imported_and_written_back(tmp_path: Path) -> None:
    entries, out = official(pixels=True), str(tmp_path / "model")
    file = save(entries, tmp_path / "rgb.pt")
    assert worldflux(["import", "tdmpc2", file, "--out", out]) == 0
    model = create_world_model(out)
    assert model.obs_spaces["obs"].shape == (9, 64, 64)
    assert model.obs_spaces["obs"].dtype == "uint8"
    assert_written_back(out, entries, tmp_path)


def test_the_official_sets_have_their_tasks() -> None:
    thirty, eighty = official_tasks(30), official_tasks(80)
    assert thirty is not None and eighty is not None and eighty[:30] == thirty
    assert len(thirty) == 30 and len(eighty) == 80 and official_tasks(3) is None
    assert thirty[1].name == "walker-walk" and thirty[1].action_dim == 6
    assert {task.episode_length for task in eighty[30:]} == {100}
    assert max(t.obs_dim for t in thirty) == 24 and max(t.obs_dim for t in eighty) == 39
    assert len({task.name for task in eighty}) == 80
