"""Models to and from a hub: a server of this test's that speaks as the Hugging Face hub does."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import worldflux
from tests.cli.conftest import TINY, folder  # noqa: F401
from worldflux.cli.evaluate import main as evaluate
from worldflux.cli.push import main as push
from worldflux.config.env import EnvConfig
from worldflux.errors import CheckpointError, ConfigurationError
from worldflux.models.hub import Address
from worldflux.runner.card import playing

pytest.importorskip(
    "huggingface_hub", reason="huggingface_hub is missing: worldflux[hub] brings it"
)


class Hub(BaseHTTPRequestHandler):
    """Repositories in memory: name -> file -> content. commits: their number."""

    files: dict[str, dict[str, bytes]]
    commits: list[str]

    def log_message(self, *_: Any) -> None: ...

    def answer(self, content: Any = None, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        words = self.path.partition("?")[0].strip("/").split("/")
        name = "/".join(words[2:4] if words[0] == "api" else words[:2])
        repo = self.files.get(name)
        if repo is None:
            return self.answer({"error": "no"}, 404, X_Error_Code="RepoNotFound")
        if words[0] == "api":
            rows = [{"rfilename": file} for file in repo]
            if words[4] == "tree":
                sizes = [(file, len(content)) for file, content in repo.items()]
                kind = {"type": "file", "oid": "0"}
                return self.answer([{"path": file, "size": size, **kind} for file, size in sizes])
            return self.answer({"id": name, "sha": "c" * 40, "siblings": rows, "private": False})
        content = repo.get("/".join(words[4:]))
        if content is None:
            return self.answer({"error": "no"}, 404, X_Error_Code="EntryNotFound")
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        return self.answer(content, X_Repo_Commit="c" * 40, ETag=etag)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        words = self.path.partition("?")[0].strip("/").split("/")
        if words[1:] == ["repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.files.setdefault(name, {})
            return self.answer({"url": f"http://{self.headers['Host']}/{name}", "id": name})
        if words[1] == "validate-yaml":  # of a card's head
            return self.answer({"errors": [], "warnings": []})
        name = "/".join(words[2:4])
        if words[4] == "preupload":
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            paths = [one["path"] for one in json.loads(body)["files"]]
            return self.answer({"files": [{"path": path, **modes} for path in paths]})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                value = line["value"]
                self.files[name][value["path"]] = base64.b64decode(value["content"])
        self.commits.append(name)
        url = f"http://{self.headers['Host']}/{name}/commit/{'c' * 40}"
        return self.answer({"commitUrl": url, "commitOid": "c" * 40})


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:  # noqa: F811
    made = type("Hub", (Hub,), {"files": {}, "commits": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), made)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_XET_CACHE", str(folder / "cache"))
    yield made
    server.shutdown()
    server.server_close()


def test_a_run_goes_to_the_hub_and_is_read_wherever_a_model_is(
    hub: type[Hub], capsys: pytest.CaptureFixture[str]
) -> None:
    run = worldflux.train(*TINY, "env=pendulum", "env.time_limit=12")
    assert push([str(run.folder), "hf://me/pendulum"]) == 0
    assert hub.files.keys() == {"me/pendulum"} and hub.commits == ["me/pendulum"]
    assert hub.files["me/pendulum"].keys() == {
        "README.md",
        "config.json",
        "model.safetensors",
        "worldflux_meta.json",
    }

    _, head, body = hub.files["me/pendulum"]["README.md"].decode().split("---\n", 2)
    meta = yaml.safe_load(head)
    assert meta["library_name"] == "worldflux" and "Pendulum-v1" in meta["tags"]
    (result,) = meta["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == pytest.approx(run.score, abs=1e-3)
    metrics = run.metrics()
    low = metrics["eval/return_low"][~np.isnan(metrics["eval/return_low"])][-1]
    assert "Mean return of 1 greedy episodes" in body and f"interval {low:.4g} to" in body
    assert "worldflux eval hf://me/pendulum 'env.id='\"'\"'Pendulum-v1'" in body
    assert f"torch {torch.__version__}" in body and '"time_limit": 12' in body

    # The card's own words play it.
    capsys.readouterr()
    words = playing("dreamer", worldflux.compose("env=pendulum", "env.time_limit=12").env)
    assert evaluate(["hf://me/pendulum", *words, "--episodes", "2", "--device", "cpu"]) == 0
    assert "return" in capsys.readouterr().out
    policy = worldflux.load_policy("hf://me/pendulum", *words)
    assert policy.make_env().action_space.shape == (1,)
    ours = worldflux.load_model(run).state_dict()
    for model in (
        worldflux.load_model("hf://me/pendulum"),
        worldflux.create_world_model("hf://me/pendulum@main"),
    ):
        assert all(torch.equal(value, ours[name]) for name, value in model.state_dict().items())
    begun = worldflux.train(*TINY, "env=pendulum", "init_from=hf://me/pendulum")
    assert begun.manifest["init_from"]["path"] == "hf://me/pendulum"


def test_a_model_folder_keeps_its_card_and_out_uploads_nothing(hub: type[Hub]) -> None:
    worldflux.create_world_model("tdmpc2:ci", obs_shape=(3,), action_dim=1).save_pretrained("m")
    assert push(["m", "hf://me/mine", "--out", "out"]) == 0
    assert hub.files == {} and "TD-MPC2" in Path("out/README.md").read_text()
    Path("out/README.md").write_text("mine")
    assert push(["out", "hf://me/mine"]) == 0
    assert hub.files["me/mine"]["README.md"] == b"mine"
    assert worldflux.load_policy("hf://me/mine").act(np.zeros(3, np.float32)).shape == (1,)


def test_what_the_hub_has_not_is_one_line(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="hf://me/nothing cannot be had: Repo"):
        worldflux.load_model("hf://me/nothing")
    with pytest.raises(ConfigurationError, match="must be hf://user/name"):
        worldflux.load_model("hf://pendulum")
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(worldflux.errors.MissingDependencyError, match=r"worldflux\[hub\]"):
        worldflux.load_model("hf://me/nothing")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf://a/b", Address("a/b", "", None)),
        ("hf:/a/b.c@v1", Address("a/b.c", "", "v1")),
        ("hf://a/b/dmcontrol/walker-walk-1.pt", Address("a/b", "dmcontrol/walker-walk-1.pt", None)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert Address.of(text) == address
    assert str(Address.of(str(address))) == str(address)


def test_the_words_of_a_card_describe_the_environment() -> None:
    env = EnvConfig(suite="dmc", id="walker-walk", action_repeat=2, kwargs={"a": 1})
    words = playing("dreamer", env)
    assert worldflux.compose("env=gym", *words).env.to_dict() == env.to_dict()
