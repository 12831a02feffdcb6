"""Official checkpoints become model folders; whatever does not fit is refused and never run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml

from tests.parity.comparison.dreamerv3.official import to_official
from worldflux.cli.verbs import main as worldflux
from worldflux.config.env import EnvConfig
from worldflux.config.training import TrainingConfig
from worldflux.envs.make import make_envs
from worldflux.envs.vector import VectorEnv
from worldflux.errors import CheckpointError, ConfigurationError
from worldflux.models.dreamerv3.config import DreamerV3Config
from worldflux.models.dreamerv3.official.checkpoint import expected_shapes, import_checkpoint
from worldflux.models.dreamerv3.official.pickled_arrays import read_pickled_arrays
from worldflux.models.dreamerv3.official.spaces import recorded_arrays
from worldflux.models.dreamerv3.official.weights import official_names
from worldflux.models.dreamerv3.world_model import DreamerV3
from worldflux.training.evaluate import evaluate

Copy = Callable[[str], Path]


@pytest.fixture
def logdir(copy_of: Copy) -> Path:
    return copy_of("checkpoint") / "logdir"


def save_of(logdir: Path) -> Path:
    return logdir / "ckpt" / (logdir / "ckpt/latest").read_text().strip()


def change(logdir: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Edits the params of the checkpoint's pickle."""
    file = save_of(logdir) / "agent.pkl"
    content = pickle.loads(file.read_bytes())
    edit(content["params"])
    file.write_bytes(pickle.dumps(content))


def test_the_verb_writes_a_model_folder(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = recorded / "checkpoint/logdir", tmp_path / "model"
    assert worldflux(["import", "dreamerv3", str(source), "--out", str(out)]) == 0
    assert "13,722" in capsys.readouterr().out
    model = DreamerV3.from_pretrained(out)
    assert {key: space.shape for key, space in model.obs_spaces.items()} == {
        "position": (3,),
        "velocity": (2,),
    }
    weights = pickle.loads((save_of(source) / "agent.pkl").read_bytes())["params"]
    assert torch.equal(model.return_norm.hi, torch.tensor(weights["retnorm/hi/value"]))
    kernel = torch.tensor(weights["slowval/mlp/linear1/kernel"])
    assert torch.equal(model.slow_critic.mlp[1].linear.weight, kernel.T)


def test_log_folder_checkpoint_folder_and_save_are_all_accepted(
    recorded: Path, tmp_path: Path
) -> None:
    logdir = recorded / "checkpoint/logdir"
    paths = [logdir, logdir / "ckpt", save_of(logdir)]
    models = [import_checkpoint(path, tmp_path / str(i)).model for i, path in enumerate(paths)]
    first, *others = [model.state_dict() for model in models]
    for other in others:
        assert all(torch.equal(first[key], other[key]) for key in first)


class CartPole(gym.Env):
    """A pole on a cart, observed and moved as in the task that the checkpoint was trained on."""

    observation_space = gym.spaces.Dict(
        {
            "position": gym.spaces.Box(-np.inf, np.inf, (3,), np.float32),
            "velocity": gym.spaces.Box(-np.inf, np.inf, (2,), np.float32),
        }
    )
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.state = self.np_random.normal(0, 0.03, 4)  # cart, angle and their velocities
        return self._obs(), {}

    def step(self, action: np.ndarray) -> Any:
        _, angle, speed, spin = self.state
        push = 10 * float(action[0])
        pull = 9.81 * np.sin(angle) - np.cos(angle) * push
        self.state += 0.01 * np.array([speed, spin, push, pull])
        return self._obs(), (1 + np.cos(angle)) / 2, False, False, {}

    def _obs(self) -> dict[str, np.ndarray]:
        cart, angle, speed, spin = self.state
        position = np.array([cart, np.cos(angle), np.sin(angle)], np.float32)
        return {"position": position, "velocity": np.array([speed, spin], np.float32)}


gym.register("ImportedCartPole-v0", CartPole)


def test_the_imported_model_plays(recorded: Path, tmp_path: Path) -> None:
    import_checkpoint(recorded / "checkpoint/logdir", tmp_path / "model")
    agent = DreamerV3.from_pretrained(tmp_path / "model").make_agent(TrainingConfig(device="cpu"))
    env = EnvConfig(id="ImportedCartPole-v0", time_limit=30)

    def envs(count: int, seed: int) -> VectorEnv:
        return make_envs(env, num_envs=count, mode="sync", seed=seed)

    result = evaluate(agent, envs, episodes=2, seed=0)
    assert result is not None and len(result.returns) == 2
    assert 0 < result.mean <= 30


def test_missing_extra_and_misshapen_entries_are_listed_in_one_error(
    logdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoil(params: dict[str, Any]) -> None:
        del params["dyn/obs0/bias"], params["dec/vec/position/pred/kernel"]
        del params["opt/state/2/1/val/mlp/norm0/scale"]
        params["dyn/obs7/bias"] = np.zeros(3)
        params["rew/head/logits/kernel"] = params["rew/head/logits/kernel"][:, :-1]
        params["pol/mlp/linear0/kernel"] = params["pol/mlp/linear0/kernel"].T

    change(logdir, spoil)
    out = tmp_path / "model"
    assert worldflux(["import", "dreamerv3", str(logdir), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and not out.exists()
    for text in (
        "missing: dyn/obs0/bias, dec/vec/position/pred/kernel, opt/state/2/1/val/mlp/norm0/scale",
        "not known: dyn/obs7/bias",
        "rew/head/logits/kernel (16, 40), expected (16, 41)",
        "pol/mlp/linear0/kernel (16, 48), expected (48, 16)",
    ):
        assert text in error


def test_unfinished_and_foreign_folders_are_refused(
    logdir: Path, tmp_path: Path, recorded: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(ConfigurationError, match="exists already"):
        import_checkpoint(logdir, tmp_path / "full")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        import_checkpoint(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(CheckpointError, match="no official checkpoint"):
        import_checkpoint(recorded / "units", tmp_path / "out")
    (save_of(logdir) / "done").unlink()
    with pytest.raises(CheckpointError, match="'done' is missing"):
        import_checkpoint(logdir, tmp_path / "out")
    (save_of(logdir) / "done").touch()
    (logdir / "config.yaml").rename(logdir / "settings.yaml")
    with pytest.raises(CheckpointError, match=r"no config\.yaml"):
        import_checkpoint(logdir, tmp_path / "out")


def test_settings_that_our_model_does_not_have_are_named(logdir: Path, tmp_path: Path) -> None:
    file = logdir / "config.yaml"
    text = file.read_text().replace("norm: rms", "norm: layer").replace("bounded_normal", "normal")
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        import_checkpoint(logdir, tmp_path / "out")
    for path in ("enc.simple.norm", "dyn.rssm.norm", "policy_dist_cont"):
        assert f"agent.{path} is" in str(caught.value)


def predicted_value(params: dict[str, Any], prefix: str, feat: np.ndarray) -> np.ndarray:
    """Official two-hot head on feat `[N, F]` in float64: layers, then the mean of the bins."""
    x = feat
    for i in range(sum(name.startswith(f"{prefix}/mlp/linear") for name in params) // 2):
        x = x @ params[f"{prefix}/mlp/linear{i}/kernel"] + params[f"{prefix}/mlp/linear{i}/bias"]
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-4)
        x = x * params[f"{prefix}/mlp/norm{i}/scale"]
        x = x / (1 + np.exp(-x))
    x = x @ params[f"{prefix}/head/logits/kernel"] + params[f"{prefix}/head/logits/bias"]
    count = x.shape[-1]
    half = -np.expm1(-np.linspace(-20.0, 0.0, (count + 1) // 2))
    bins = np.concatenate([half, -half[::-1][count % 2 :]])
    probs = np.exp(x - x.max(-1, keepdims=True))
    return (probs / probs.sum(-1, keepdims=True) * bins).sum(-1)


def test_reward_and_value_heads_may_have_different_and_even_numbers_of_bins(
    logdir: Path, tmp_path: Path
) -> None:
    rng, heads = np.random.default_rng(0), {"rew/head": 17, "val/head": 12}

    def rewrite(params: dict[str, Any]) -> None:
        for name, array in params.items():
            for prefix, bins in (*heads.items(), ("slowval/head", 12)):
                if f"/{prefix}/" in f"/{name}":
                    params[name] = rng.normal(0, 0.3, (*array.shape[:-1], bins)).astype("f4")

    change(logdir, rewrite)
    file = logdir / "config.yaml"
    reward, value = file.read_text().split("bins: 41", 2)[:2]
    file.write_text(
        file.read_text().replace("bins: 41", "bins: 17", 1).replace("bins: 41", "bins: 12")
    )
    assert "rewhead" in reward and "value:" in value
    model = import_checkpoint(logdir, tmp_path / "model").model
    assert (model.config.reward_num_bins, model.config.critic_num_bins) == (17, 12)
    params = pickle.loads((save_of(logdir) / "agent.pkl").read_bytes())["params"]
    feat = rng.normal(size=(5, model.feat_dim))
    for prefix, head in (
        ("rew", model.reward),
        ("val", model.critic),
        ("slowval", model.slow_critic),
    ):
        expected = predicted_value(params, prefix, feat)
        found = head(torch.tensor(feat, dtype=torch.float32)).pred().detach()
        np.testing.assert_allclose(found, expected, rtol=2e-4)


def imported(logdir: Path, out: Path, *words: str) -> int:
    return worldflux(["import", "dreamerv3", str(logdir), "--out", str(out), *words])


def test_what_config_yaml_lacks_is_assumed_and_said(
    logdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = logdir / "config.yaml"
    config = yaml.safe_load(file.read_text())
    assert imported(logdir, tmp_path / "whole") == 0
    assert "assumed" not in capsys.readouterr().out
    agent = config["agent"]
    for section in ("enc", "dec", "rewhead", "conhead", "value", "policy"):
        del agent[section]
    del agent["dyn"]["rssm"]["unimix"], agent["dyn"]["rssm"]["deter"], agent["horizon"]
    agent["dyn"]["rssm"]["classes"] = None
    del agent["dyn"]["rssm"]["classes"]
    agent["curiosity"] = 3
    file.write_text(yaml.safe_dump(config))
    assert imported(logdir, tmp_path / "part") == 0
    printed = capsys.readouterr().out
    for text in ("dyn.rssm.unimix=0.01", "horizon=333", "policy.minstd=0.1", "not used: curiosity"):
        assert text in printed
    for text in ("deter", "classes", "units", "bins"):  # the weights show them
        assert text not in printed
    whole, part = (
        json.loads((tmp_path / n / "config.json").read_text()) for n in ("whole", "part")
    )
    images = {"cnn_depth", "cnn_mults", "cnn_kernel", "decoder_blocks"}  # there are none
    differing = {name for name in whole if whole[name] != part[name]}
    assert differing <= images


def test_settings_come_from_a_file_or_words(
    logdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = logdir / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config["agent"]["dyn"]["rssm"]["unimix"] = 0.2
    moved = tmp_path / "settings.json"
    moved.write_text(json.dumps({"agent": config["agent"]}))
    words = ["kl_free=0.5", "agent.horizon=100", "imag_length=7", "loss_scales.reward=2"]
    assert imported(logdir, tmp_path / "a", "--config", str(moved), *words) == 0
    file.unlink()
    assert imported(logdir, tmp_path / "b", "--config", str(moved), *words) == 0
    assert "replay_context=1" in capsys.readouterr().out
    for name in "ab":
        model = DreamerV3.from_pretrained(tmp_path / name)
        made = model.config
        assert (made.kl_free, made.discount_horizon, made.imagination_horizon) == (0.5, 100, 7)
        assert made.loss_scales["reward"] == 2 and made.loss_scales["policy"] == 1
        logits = torch.randn(3, 4, 4)
        expected = 0.8 * torch.softmax(logits.double(), -1) + 0.2 / 4
        probs = model.rssm.dist(logits).logprob.double().exp()
        torch.testing.assert_close(probs, expected, rtol=1e-5, atol=1e-6)


WRONG = {
    "dyn.rssm.deter=64": "dyn.rssm.deter is 64, but the weights have 32",
    "reward_num_bins=255": "rewhead.bins is 255, but the weights have 41",
    "dyn.rssm.unimx=0.1": "Did you mean: 'dyn.rssm.unimix'",
    "zebra=1": "zebra: DreamerV3 has no such setting of a model",
    "dyn.rssm.norm=layer": "agent.dyn.rssm.norm is 'layer', expected 'rms'",
    "valnorm.impl=perc": "agent.valnorm.impl is 'perc', expected 'none'",
    "enc.simple.depth=8": "these must be equal: agent.enc.simple.depth 8",
    "contdisc=maybe": "continue_discount must be true or false",
    "horizon=0": "discount_horizon must be >= 1",
    "horizon": "write NAME=VALUE",
}


@pytest.mark.parametrize("word", WRONG)
def test_wrong_settings_are_refused_by_name(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    assert imported(recorded / "checkpoint/logdir", tmp_path / "model", word) == 2
    error = capsys.readouterr().err
    assert WRONG[word] in error and error.count("\n") == 1 and not (tmp_path / "model").exists()


def test_other_losses_of_an_official_run_are_taken(logdir: Path, tmp_path: Path) -> None:
    words = ["contdisc=false", "imag_loss.slowtar=true", "repl_loss.lam=0.8", "repl_loss.slowreg=0"]
    words += ["reward_grad=false", "repval_grad=false", "ac_grads=true", "imag_loss.lam=0.9"]
    import_checkpoint(logdir, tmp_path / "model", settings=words)
    made = DreamerV3.from_pretrained(tmp_path / "model").config
    assert not (made.continue_discount or made.reward_grads or made.replay_value_grads)
    assert made.slow_critic_targets and made.actor_critic_grads
    assert (made.lambda_, made.replay_lambda) == (0.9, 0.8)
    assert (made.slow_critic_scale, made.replay_slow_critic_scale) == (1.0, 0.0)


@pytest.mark.parametrize("impl", ["perc", "meanstd"])
def test_other_normalisers_of_returns_are_taken(logdir: Path, tmp_path: Path, impl: str) -> None:
    values = {"lo": -1.5, "hi": 4.0} if impl == "perc" else {"mean": 0.5, "sqrs": 2.0}
    values["corr"] = 0.4

    def rewrite(params: dict[str, Any]) -> None:
        del params["retnorm/lo/value"], params["retnorm/hi/value"]
        params.update({f"retnorm/{key}/value": np.float32(v) for key, v in values.items()})

    change(logdir, rewrite)
    words = [f"retnorm.impl={impl}", "retnorm.debias=true", "repval_loss=false"]
    model = import_checkpoint(logdir, tmp_path / "model", settings=words).model
    offset, scale = (float(x) for x in model.return_norm.offset_scale())
    if impl == "perc":
        assert (offset, scale) == pytest.approx((-1.5 / 0.4, 5.5 / 0.4))
    else:
        assert (offset, scale) == pytest.approx((1.25, (5 - 1.25**2) ** 0.5))
    assert DreamerV3.from_pretrained(tmp_path / "model").config.loss_scales["replay_value"] == 0


@pytest.mark.parametrize("replay", [True, False], ids=["with-replay", "without-replay"])
def test_spaces_come_from_weights_and_recorded_steps(
    logdir: Path, tmp_path: Path, replay: bool
) -> None:
    if not replay:
        shutil.rmtree(logdir / "replay")
    else:  # a damaged newest chunk is passed over
        (logdir / "replay/99999999T000000F000000-a-b-3.npz").write_bytes(b"?")
    model = import_checkpoint(logdir, tmp_path / "model").model
    assert {key: space.shape for key, space in model.obs_spaces.items()} == {
        "position": (3,),
        "velocity": (2,),
    }


@pytest.mark.parametrize("parts", [1, 3])
def test_images_classes_and_several_actions_come_back(
    logdir: Path, tmp_path: Path, parts: int
) -> None:
    """A checkpoint in the official layout with our own random weights, in one or more parts."""
    settings: dict[str, Any] = {
        "observation_modalities": {
            "wrist": {"shape": (1, 48, 48)},
            "front": {"shape": (3, 48, 48)},
            "height": {"shape": ()},
            "token": {"shape": (2,), "classes": (5, 5)},
        },
        "action_spec": {"keys": {"grip": {"shape": (), "classes": 3}, "move": {"shape": (2,)}}},
    }
    sizes: dict[str, Any] = dict(
        deter_dim=32, hidden_dim=16, stoch_discrete=4, stoch_classes=4, blocks=4
    )
    sizes |= dict(cnn_depth=4, reward_num_bins=41, actor_critic=True)
    model = DreamerV3(DreamerV3Config(**sizes, **settings))
    agent = {"opt": {"wd": 0.0}}
    state, names = model.state_dict(), official_names(model)
    params = {name: np.zeros(shape, "f4") for name, shape in expected_shapes(model, agent).items()}
    params |= {name: to_official(weight, state[weight.name]) for name, weight in names.items()}
    for name in ("dec/imgout/kernel", "dec/imgout/bias"):
        # Ours go by name; the official code keeps the environment's order, the wrist first.
        params[name] = params[name][..., [3, 0, 1, 2]]
    save, content = save_of(logdir), list(params.items())
    (save / "agent.pkl").unlink()
    for i in range(parts):
        name = "agent.pkl" if parts == 1 else f"agent-{i:04d}.pkl"
        (save / name).write_bytes(pickle.dumps({"params": dict(content[i::parts]), "counters": {}}))
    shutil.rmtree(logdir / "replay")
    (logdir / "replay").mkdir()
    steps = {
        "wrist": np.zeros((7, 48, 48, 1), "u1"),
        "front": np.zeros((7, 48, 48, 3), "u1"),
        "height": np.zeros(7, "f4"),
        "token": np.zeros((7, 2), "i4"),
        "reward": np.zeros(7, "f4"),
        "grip": np.zeros(7, "i4"),
        "move": np.zeros((7, 2), "f4"),
    }
    np.savez(logdir / "replay/20260101T000000F000000-a-b-7.npz", **steps)
    import_checkpoint(logdir, tmp_path / "model")
    imported = DreamerV3.from_pretrained(tmp_path / "model")
    assert imported.obs_spaces == model.obs_spaces
    assert list(imported.decoder.images) == ["front", "wrist"]
    assert imported.action_spaces == model.action_spaces
    assert all(torch.equal(value, state[key]) for key, value in imported.state_dict().items())


class Command:
    """Unpickling this the usual way runs a shell command."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


class Evaluated(Command):
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"__import__('os').system({self.command!r})",)


@pytest.mark.parametrize("kind", [Command, Evaluated])
@pytest.mark.parametrize("place", ["content", "params", "key"])
def test_a_malicious_file_executes_nothing(
    logdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: type, place: str
) -> None:
    trap = tmp_path / "sprung"
    file, bomb = save_of(logdir) / "agent.pkl", kind(f"touch {trap}")
    content = pickle.loads(file.read_bytes())
    if place == "content":
        content = bomb
    elif place == "params":
        content["params"]["dyn/obs0/bias"] = bomb
    else:
        content["params"][bomb] = np.zeros(1)
    file.write_bytes(pickle.dumps(content))
    out = tmp_path / "model"
    assert worldflux(["import", "dreamerv3", str(logdir), "--out", str(out)]) == 2
    assert "only numpy arrays in plain containers are admitted" in capsys.readouterr().err
    assert not trap.exists() and not out.exists()
    if place != "key":  # the trap is a real one
        pickle.loads(file.read_bytes())
        assert trap.exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"cnumpy.testing._private.utils\nrunstring\n(S'1'\n}tR.",
        b"cnumpy\nload\n(S'x.npy'\ntR.",
        b"cbuiltins\ngetattr\n(cnumpy\nndarray\nS'tofile'\ntR.",
        b"cnumpy\nndarray.tofile\n.",
        b"\x80\x04}\x8c\x06paramsPpersistent\ns.",
        b"\x80\x02\x82\x01.",
        b"",
        b"not a pickle",
        pickle.dumps([1, 2]),
        pickle.dumps({"params": np.dtype("f4")}),
        pickle.dumps({"params": np.array([1.0], dtype=object)}),
        pickle.dumps({"params": np.zeros(2, dtype=[("a", "f4")])}),
    ],
)
def test_anything_but_arrays_in_plain_containers_is_refused(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "agent.pkl").write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"agent\.pkl"):
        read_pickled_arrays(tmp_path / "agent.pkl")


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_kind_and_protocol_come_back(protocol: int, tmp_path: Path) -> None:
    content = {
        "params": {
            "matrix": np.arange(6, dtype="f4").reshape(2, 3),
            "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            "big endian": np.arange(3, dtype=">i4"),
            "scalar": np.float32(2.5),
            "empty": np.zeros((0, 4), "f8"),
            "flags": np.array([True, False]),
            "none": np.array(7, "i8"),
        },
        "counters": {"updates": 3, "names": ["a", ("b", 1.5, None)]},
    }
    (tmp_path / "agent.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    found = read_pickled_arrays(tmp_path / "agent.pkl")
    assert found["counters"] == content["counters"]
    for key, value in content["params"].items():
        assert found["params"][key].dtype == np.asarray(value).dtype.newbyteorder("=")
        np.testing.assert_array_equal(found["params"][key], value)


def test_the_imported_folder_describes_itself(recorded: Path, tmp_path: Path) -> None:
    import_checkpoint(recorded / "checkpoint/logdir", tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["model_name"] == "dmc_cartpole_balance"
    assert (config["deter_dim"], config["hidden_dim"], config["reward_num_bins"]) == (32, 16, 41)
    assert config["discount_horizon"] == 333 and config["return_norm_rate"] == 0.01


def test_files_that_never_end_or_lead_away_are_told(logdir: Path, tmp_path: Path) -> None:
    pickled, latest = save_of(logdir) / "agent.pkl", logdir / "ckpt" / "latest"
    pickled.unlink()
    os.mkfifo(pickled.with_name("agent-0000.pkl"))
    with pytest.raises(CheckpointError, match="not a regular file"):
        import_checkpoint(logdir, tmp_path / "m")
    for content in ("../../elsewhere", "/", "..", "", "x" * 5000):
        latest.write_text(content)
        with pytest.raises(CheckpointError, match="latest"):
            import_checkpoint(logdir, tmp_path / "m")


def test_recorded_steps_that_are_no_archive_are_passed_over(logdir: Path) -> None:
    chunks = sorted((logdir / "replay").glob("*.npz"))
    assert recorded_arrays(chunks)
    for chunk in chunks:
        chunk.write_bytes(b"PK\x03\x04" + bytes(60))
    assert recorded_arrays(chunks) == {}
