"""Callbacks, networks and losses of the user's own, by configuration: the examples of their pages."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import worldflux
from tests.cli.conftest import TINY, folder, refused  # noqa: F401
from worldflux import create_world_model
from worldflux.errors import ConfigurationError

DOCS = Path(__file__).parents[2] / "docs"
SHORT = ["env=pendulum", "env.time_limit=12", "training.log_interval=1", *TINY]
LONGER = [word.replace("total_steps=2", "total_steps=6") for word in SHORT]
STOP = "callbacks.stop={_target_: stopping.StopBelow, limit: 1.0e9, updates: 3}"
ENCODER = "model.components.encoder={_target_: small.Small, bias: false}"


def of_page(page: str) -> tuple[str, str]:
    """The name of a page's module, and its content."""
    text = (DOCS / page).read_text(encoding="utf-8")
    ((name, code),) = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", text, re.S)
    return name, code


@pytest.fixture(autouse=True)
def modules(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:  # noqa: F811
    """The pages' files in the current folder, which nothing has put into Python's path."""
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one])
    for page in ("callbacks.md", "parts.md", "loss.md"):
        name, code = of_page(page)
        (folder / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in ("stopping", "small", "penalty"):
        sys.modules.pop(name, None)


def foreign(run: Any, where: Path, change: Any) -> Path:
    """A copy of a run whose manifest somebody else has edited."""
    shutil.copytree(run.folder, where)
    file = where / "run_manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))
    return where


# === Callbacks ================================================================================


def test_a_callback_ends_the_run_and_remembers_over_a_resume() -> None:
    run = worldflux.train(*SHORT, STOP)
    assert run.manifest["global_step"] == 2  # two in a row are behind it: the third is the next
    run = worldflux.resume(run, "training.total_steps=6")
    assert run.manifest["global_step"] == 3
    run = worldflux.resume(run, "training.total_steps=6", "callbacks.stop.updates=5")
    assert run.manifest["global_step"] == 5


def test_callbacks_of_yaml_several_and_one_ready_made(folder: Path) -> None:  # noqa: F811
    (text,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "callbacks.md").read_text(), re.S)
    (folder / "my_conf/callbacks").mkdir(parents=True)
    (folder / "my_conf/callbacks/mine.yaml").write_text(text)
    words = ["callbacks=[early_stopping,mine]", "callbacks.early_stopping.patience=2"]
    config = worldflux.compose(*SHORT, *words, config_dir="my_conf")
    assert list(config.callbacks) == ["early_stopping", "stop"]
    assert config.callbacks["early_stopping"]["patience"] == 2
    run = worldflux.train(
        *LONGER, "callbacks=early_stopping", *words[1:], "callbacks.early_stopping.min_delta=1e6"
    )
    assert run.manifest["global_step"] == 3  # the first loss is the best one, and two more are not


def test_the_callbacks_of_a_foreign_run_are_left_out(
    folder: Path,  # noqa: F811
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = worldflux.train(*SHORT, STOP)
    copy = foreign(run, folder / "f", lambda m: m["config"]["callbacks"]["stop"].update(updates=1))
    del sys.modules["stopping"]
    assert worldflux.resume(copy, "training.total_steps=3").manifest["global_step"] == 3
    assert "its callbacks are left out" in capfd.readouterr().err
    assert "stopping" not in sys.modules
    assert worldflux.resume(run, "training.total_steps=4").manifest["global_step"] == 3


# === Networks =================================================================================


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("dreamerv3", "model.components.critic={_target_: torch.nn.Linear}"),
        ("tdmpc2", "model.components.dynamics={_target_: torch.nn.Linear}"),
    ],
)
def test_a_run_with_networks_of_its_own(
    family: str,
    more: str,
    folder: Path,  # noqa: F811
) -> None:
    run = worldflux.train(*SHORT, f"model={family}", ENCODER, more)
    model = worldflux.load_model(run)
    assert any("small" in type(part).__module__ for part in model.encoder.modules())
    assert np.isfinite(worldflux.load_policy(run).act(np.zeros(3, np.float32))).all()
    assert worldflux.resume(run, "training.total_steps=3").manifest["status"] == "completed"

    model.save_pretrained(folder / "model")
    again = create_world_model(str(folder / "model"))
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])

    def another(manifest: Any) -> None:
        for part in (manifest["model_config"], manifest["config"]["model"]):
            part["components"]["encoder"]["_target_"] = "elsewhere.Small"

    (folder / "elsewhere.py").write_text((folder / "small.py").read_text())
    copy = foreign(run, folder / "f", another)
    (folder / "model/config.json").write_text(
        (folder / "model/config.json").read_text().replace("small.Small", "elsewhere.Small")
    )
    for opened in (
        lambda: worldflux.load_model(copy),
        lambda: worldflux.load_policy(copy),
        lambda: worldflux.load_policy(copy, "env=pendulum"),
        lambda: worldflux.resume(copy, "training.total_steps=4"),
        lambda: worldflux.load_policy(folder / "model"),
        lambda: create_world_model(str(folder / "model")),
    ):
        with pytest.raises(ConfigurationError, match=r"names the module '(elsewhere|torch\.nn)'"):
            opened()
    assert "elsewhere" not in sys.modules
    for path in (copy, folder / "model"):
        assert worldflux.load_model(path, trust=True).config.components["encoder"]["bias"] is False
    sys.modules.pop("elsewhere")


class Pixels(nn.Module):
    """Takes any mix of observations, one of them pictures of an odd size."""

    def __init__(self, inputs: dict[str, tuple[int, ...]], outputs: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.out = nn.Linear(sum(int(np.prod(shape)) for shape in inputs.values()), outputs)

    def forward(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        flat = [obs[key].flatten(-len(shape)) for key, shape in self.inputs.items()]
        return self.out(torch.cat(flat, -1))


class Paint(nn.Module):
    def __init__(self, feat: int, outputs: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        sizes = {key: int(np.prod(shape)) for key, shape in outputs.items()}
        self.outputs = outputs
        self.layers = nn.ModuleDict({key: nn.Linear(feat, size) for key, size in sizes.items()})

    def forward(self, feat: torch.Tensor) -> dict[str, torch.Tensor]:
        return {k: self.layers[k](feat).unflatten(-1, s) for k, s in self.outputs.items()}


MIXED = {"eye": {"shape": (3, 21, 30), "dtype": "uint8"}, "arm": {"shape": (4,)}}


def mixed_batch(model: Any) -> worldflux.Batch:
    eye = torch.randint(0, 256, (2, 4, 3, 21, 30), dtype=torch.uint8)
    obs = {"eye": eye, "arm": torch.randn(2, 4, 4)}
    return worldflux.Batch(obs=obs, actions=torch.rand(2, 4, 2), rewards=torch.rand(2, 4))


def test_every_part_of_dreamerv3_from_python() -> None:
    overrides = {
        "encoder": Pixels,
        "decoder": {"_target_": Paint},
        **dict.fromkeys(("reward", "continue", "actor", "critic"), nn.Linear),
    }
    model = create_world_model(
        "dreamerv3:ci",
        observation_modalities=MIXED,
        action_dim=2,
        actor_critic=True,
        component_overrides=overrides,
    )
    assert model.config.components["critic"] == {"_target_": "torch.nn.modules.linear.Linear"}
    out = model.loss(mixed_batch(model))
    out.loss.backward()
    for part in ("encoder.net", "decoder.net", "reward.net", "con.net", "actor.net", "critic.net"):
        grads = [one.grad for one in model.get_submodule(part).parameters()]
        assert all(grad is not None and bool(grad.any()) for grad in grads), part


def test_every_part_of_tdmpc2_from_python() -> None:
    heads = dict.fromkeys(("dynamics", "reward", "termination", "policy"), nn.Linear)
    model = create_world_model(
        "tdmpc2:ci",
        observation_modalities=MIXED,
        action_dim=2,
        episodic=True,
        component_overrides={"encoder": Pixels, **heads},
    )
    batch = mixed_batch(model)
    model.loss(batch).loss.backward()
    for part in ("encoder", "dynamics", "reward", "termination", "pi"):
        assert all(one.grad is not None for one in model.get_submodule(part).parameters()), part
    assert isinstance(batch.obs, dict)
    state = model.encode({key: value[:, 0] for key, value in batch.obs.items()})
    groups = state.tensors["latent"].unflatten(-1, (-1, model.config.simnorm_dim)).sum(-1)
    torch.testing.assert_close(groups, torch.ones_like(groups))  # SimNorm stands behind it


def test_what_cannot_be_a_part_is_refused() -> None:
    def make(part: Any) -> None:
        create_world_model("dreamerv3:ci", obs_shape=(3,), action_dim=1, component_overrides=part)

    with pytest.raises(ConfigurationError, match="must be a class or function at the top"):
        make({"encoder": nn.Linear(3, 3)})
    with pytest.raises(ConfigurationError, match="Did you mean: 'encoder'"):
        make({"encodr": nn.Linear})


# === Losses ===================================================================================

LARGE = "model.losses.large={_target_: penalty.large_deter, scale: 50}"


def test_a_loss_of_its_own_is_logged_and_part_of_the_sum() -> None:
    plain, own = (worldflux.train(*SHORT, *words).metrics() for words in ([], [LARGE]))
    term = own["train/loss/own/large"]
    assert (term[:2] > 0).all()
    gain = own["train/loss/total"][0] - plain["train/loss/total"][0]
    assert gain == pytest.approx(50 * term[0], rel=1e-4)


def drift_of(latent: torch.Tensor) -> torch.Tensor:
    return (latent[1:] - latent[:-1]).square().sum(-1)


def test_the_loss_of_tdmpc2_against_float64() -> None:
    losses = {"drift": {"_target_": drift_of, "scale": 0.25}}
    make = {"obs_shape": (3,), "action_dim": 1}
    torch.manual_seed(0)
    model = create_world_model("tdmpc2:ci", losses=losses, **make)
    torch.manual_seed(0)
    plain = create_world_model("tdmpc2:ci", **make)
    batch = worldflux.Batch(
        obs=torch.randn(2, 4, 3), actions=torch.rand(2, 4, 1), rewards=torch.rand(2, 4)
    )
    out = []
    for one in (model.double(), plain.double()):
        torch.manual_seed(1)
        out.append(one.loss(batch))
    model.requires_grad_(False)
    state, expected = model.encode(torch.as_tensor(batch.obs)[:, 0]), 0.0
    for t in range(3):
        after = model.transition(state, torch.as_tensor(batch.actions)[:, t])
        moved = (after.tensors["latent"] - state.tensors["latent"]).square().sum(-1)
        expected += model.config.rho**t * float(moved.mean()) / 3
        state = after
    assert float(out[0].components["own/drift"].detach()) == pytest.approx(expected, rel=1e-6)
    gain = float((out[0].loss - out[1].loss).detach())
    assert gain == pytest.approx(0.25 * expected, rel=1e-5)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("callbacks.a={_target_: stopping.StopBelow}", "callbacks.a needs the argument 'limit'"),
        ("callbacks.a={_target_: stopping.StopBelow, limit: x}", "callbacks.a.limit must be a num"),
        ("callbacks.a={_target_: nowhere.B}", "No module named 'nowhere'; looked for in the cur"),
        ("callbacks.a={_target_: builtins.dict}", "must give a worldflux.training.Callback, got d"),
        ("callbacks.a=1", "callbacks.a must be {_target_: module.Class, ARGUMENT: value}, got 1"),
        ("callbacks=nothing", "callbacks"),
        (
            "model.components.reward={_target_: small.Small}",
            "model.components.reward cannot be made: ",
        ),
        (
            "model.components.reward={_target_: torch.nn.Identity}",
            "model.components.reward gives [2, 3, 80] for [2, 3, 80], must give [2, 3, 255]",
        ),
        (
            "model.components.actor={_target_: torch.nn.Flatten}",
            "model.components.actor cannot take [2, 3, 80]: IndexError: ",
        ),
        ("model.components.rewad={_target_: small.Small}", "Did you mean: 'reward'?"),
        ("model.losses.a={_target_: penalty.drift}", "needs the argument 'latent'"),
        ("model.losses.a={_target_: penalty.large_deter, scale: x}", "a.scale must be a number"),
        ("model.losses.a={_target_: penalty.large_deter, powr: 1}", "Did you mean: 'power'?"),
        (
            "model.losses.a={_target_: torch.nn.functional.softplus}",
            "model.losses.a",
        ),
    ],
)
def test_a_mistake_is_one_line(refused: Any, word: str, line: str) -> None:  # noqa: F811
    assert line in refused("env=pendulum", "training.compile_model=false", "model/size=ci", word)
