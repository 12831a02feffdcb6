"""Runs, models and projects of somebody who wants their code run, or files of others changed.

Whatever a command says: the canary did not run, the files outside are as they were, and no secret of
the environment is in what was written or printed.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.campaign.damages import OFTEN, files, run_verb
from tests.campaign.runs import FAMILIES, make_runs
from tests.campaign.trials import (
    EXECUTED,
    RIGHT,
    WRONG,
    Ended,
    Part,
    Trial,
    Verdict,
    canary,
    command,
    judged,
)
from worldflux.run_folder.disk import read_sealed, seal

SECRET = "hunter2-of-the-campaign"
LINKED = [
    "run.lock", "run.log", "metrics.jsonl", "run_manifest.json", "report", "report/learning_curve.png",
    "report/imagination.png", "videos", "videos/eval_best.gif", "pictures", "replay", "checkpoints", "previous",
    "checkpoints/best", "checkpoints/latest", "checkpoints/.tmp-step_000000016", ".hydra", ".hydra/config.yaml",
    "events.out.tfevents.1", "replay/steps-00000-000009.npz", "checkpoints/step_000000012",
    "checkpoints/step_000000012/state.json", "checkpoints/step_000000012/model.safetensors", ".tmp-x", ".old-x",
]  # fmt: skip
LINK_VERBS = (
    "resume",
    "resume",
    "report",
    "eval",
    "video",
    "imagine",
    "verify",
    "auto",
    "init_from",
)
Trap = Callable[[Path, random.Random, Path], Ended]


class Payload:
    """A pickle that runs a program."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {canary()}",)


def evil_module(name: str = "evil_mod") -> str:
    """A module in the working directory, which Python would find; its import is noticed."""
    Path(f"{name}.py").write_text(
        f"open({str(canary())!r}, 'w')\nimport gymnasium\n"
        "class Run:\n    def __init__(self, *a, **k): pass\n"
    )
    return name


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def verb_of(rng: random.Random) -> str:
    return rng.choice([*OFTEN, "video", "auto"])


def run(verb: str, folder: Path) -> Ended:
    if verb == "video":
        return command(
            "worldflux", "eval", str(folder), "--episodes", "1", "--device", "cpu", "--video"
        )
    if verb == "auto":
        words = [f"hydra.run.dir={folder}", "resume=auto", "training.total_steps=16"]
        from tests.campaign.runs import small

        return command("worldflux-run", *small(folder.name), *words)
    return run_verb(verb, folder)


def recorded_module(folder: Path, rng: random.Random, outside: Path) -> Ended:
    """The recorded environment names a module: by import, by id, in the saved configuration too."""
    name = evil_module()
    key, value = rng.choice(
        [("import_module", name), ("id", f"{name}:CartPole-v1"), ("id", f"{name}:X-v0")]
    )
    manifest = folder / "run_manifest.json"
    saved = folder / ".hydra" / "config.yaml"
    spelled = "import" if key == "import_module" else key
    saved.write_text(saved.read_text().replace("env:\n", f"env:\n  {spelled}: {value}\n", 1))
    if rng.random() < 0.3:
        manifest.unlink()
    else:

        def change(document: Any) -> None:
            document["config"]["env"][key] = value
            document.setdefault("env", {})[key] = value
            if rng.random() < 0.5:
                document.pop("signature", None)

        rewrite(manifest, change)
    return run(verb_of(rng), folder)


def targets(folder: Path, rng: random.Random, outside: Path) -> Ended:
    """`_target_`, callbacks, search paths and plugins in what Hydra would read."""
    name = evil_module()
    node = {
        "_target_": rng.choice([f"{name}.Run", "os.system", "builtins.exec"]),
        "_args_": [f"touch {canary()}"],
    }
    places = ["model", "env", "training", "data", "logger", "visualization", "project"]
    saved = folder / ".hydra" / rng.choice(["config.yaml", "hydra.yaml", "overrides.yaml"])
    text = json.dumps(node)
    saved.write_text(
        rng.choice(
            [
                f"hydra:\n  callbacks:\n    x: {text}\n  searchpath: [pkg://{name}, file://.]\n",
                f"hydra:\n  launcher: {text}\n  sweeper: {text}\n",
                f"defaults:\n  - override hydra/launcher: {name}\n",
                f"- hydra.callbacks.x={text}\n- hydra.searchpath=[pkg://{name}]\n",
                saved.read_text() + f"\nextra: {text}\n",
            ]
        )
    )
    manifest = folder / "run_manifest.json"
    if rng.random() < 0.4:
        manifest.unlink()
    else:
        place = rng.choice(places)

        def change(document: Any) -> None:
            inner = document["config"].setdefault(place, {})
            if not isinstance(inner, dict):
                inner = document["config"][place] = {}
            inner.update(rng.choice([node, {"kwargs": node}, {"x": node}]))

        rewrite(manifest, change)
    return run(verb_of(rng), folder)


def yaml_tags(folder: Path, rng: random.Random, outside: Path) -> Ended:
    """Tags of YAML that build Python objects."""
    tag = rng.choice(["!!python/object/apply:os.system", "!!python/object/new:os.system"])
    line = f"evil: {tag} ['touch {canary()}']\n"
    for name in ("config.yaml", "hydra.yaml", "overrides.yaml"):
        path = folder / ".hydra" / name
        path.write_text(rng.choice([line, path.read_text() + line]))
    if rng.random() < 0.6:
        (folder / "run_manifest.json").unlink()
    Path("mine/experiment").mkdir(parents=True)
    Path("mine/experiment/e.yaml").write_text("# @package _global_\n" + line)
    if rng.random() < 0.3:
        source = rng.choice([["convert", "mine/experiment/e.yaml"], ["convert", str(folder)]])
        return command("worldflux", *source, "-o", "-")
    return run(verb_of(rng), folder)


def pickles(folder: Path, rng: random.Random, outside: Path) -> Ended:
    """Pickles where tensors, arrays or configurations are expected."""
    content = pickle.dumps(Payload(), protocol=rng.choice([0, 2, 4]))
    kind = rng.choice(["any", "npz", "older", "model", "official", "buffer"])
    if kind in ("any", "npz"):
        names = [name for name in files(folder) if kind == "any" or name.endswith("npz")]
        path = folder / rng.choice(names)
        if kind == "npz":
            with np.load(path) as arrays:
                keys = list(arrays)
            evil: Any = np.array([Payload()], object)
            np.savez(path, **dict.fromkeys(keys, evil))  # type: ignore[arg-type]
        else:
            path.write_bytes(content)
        return run(verb_of(rng), folder)
    if kind == "older":
        for name in ("checkpoint_best.pt", "checkpoint_final.pt", "model.pt", "optimizer.pt"):
            (folder / name).write_bytes(content)
        return command("worldflux", "eval", str(folder / "checkpoint_best.pt"), "--device", "cpu")
    if kind == "buffer":
        Path("b.npz").write_bytes(content)
        np.savez("c.npz", obs=np.array([Payload()], object), actions=np.array([Payload()], object))
        return loaded(rng.choice(["b.npz", "c.npz"]))
    if kind == "official":
        Path("model.pt").write_bytes(content)
        return command("worldflux", "import", "tdmpc2", "model.pt", "--out", "m")
    Path("model").mkdir()
    config = json.loads((folder / "run_manifest.json").read_text())["model_config"]
    config["model_type"] = rng.choice([config["model_type"], f"{evil_module()}:Run", "evil_mod"])
    Path("model/config.json").write_text(json.dumps(config))
    for name in ("model.pt", "model.safetensors"):
        Path("model", name).write_bytes(content)
    return command("worldflux", "eval", "model", "env=cartpole", "--device", "cpu")


def loaded(path: str) -> Ended:
    from worldflux.errors import WorldFluxError
    from worldflux.training import ReplayBuffer

    try:
        ReplayBuffer.load(path)
    except WorldFluxError as error:
        return Ended(2, "", f"python: error: {error}\n")
    return Ended(0, "", "")


def git(folder: Path, rng: random.Random, outside: Path) -> Ended:
    """The configuration and the hooks of a repository around the run."""
    program = Path("evil.sh")
    program.write_text(f"#!/bin/sh\ntouch {canary()}\n")
    program.chmod(0o755)
    for top in (folder, Path(".")):
        hooks = top / ".git" / "hooks"
        hooks.mkdir(parents=True)
        for name in ("objects", "refs/heads"):
            (top / ".git" / name).mkdir(parents=True)
        (top / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
        shell = f"{program.resolve()}"
        (top / ".git" / "config").write_text(
            f"[core]\n\trepositoryformatversion = 0\n\tfsmonitor = {shell}\n\tsshCommand = {shell}\n\tpager = {shell}\n"
            f'\teditor = {shell}\n\thooksPath = hooks\n[diff]\n\texternal = {shell}\n[filter "x"]\n\tclean = {shell}\n'
        )
        (top / ".gitattributes").write_text("* filter=x\n")
        for name in ("post-checkout", "fsmonitor-watchman", "post-index-change"):
            shutil.copy(program, hooks / name)
    if rng.random() < 0.6:
        os.chdir(folder)
    return run(verb_of(rng), folder)


def beside(folder: Path, rng: random.Random, outside: Path) -> Ended:
    """Python files with names that something may import, in and beside the run."""
    names = [
        "sitecustomize",
        "usercustomize",
        "conftest",
        "dataset",
        "train",
        "setup",
        "config",
        "worldflux_env",
    ]
    for name in rng.sample(names, 4):
        for top in (Path("."), folder, folder / ".hydra"):
            (top / f"{name}.py").write_text(f"open({str(canary())!r}, 'w')\n")
    Path("conf").mkdir()
    Path("conf/config.yaml").write_text(
        f"hydra:\n  callbacks:\n    x: {{_target_: os.system, command: touch {canary()}}}\n"
    )
    if rng.random() < 0.5:
        os.chdir(folder)
    return run(verb_of(rng), folder)


def secrets(folder: Path, rng: random.Random, outside: Path) -> Ended:
    """References to the environment of who opens the run."""
    text = rng.choice(
        [
            "${oc.env:CAMPAIGN_SECRET}",
            "${oc.decode:${oc.env:CAMPAIGN_SECRET}}",
            "x${oc.env:CAMPAIGN_SECRET}",
        ]
    )
    saved = folder / ".hydra" / "config.yaml"
    saved.write_text(
        saved.read_text() + f"project:\n  x: {text}\n"
        if rng.random() < 0.5
        else saved.read_text().replace("env:\n", f"env:\n  kwargs: {{x: '{text}'}}\n", 1)
    )
    if rng.random() < 0.5:
        (folder / "run_manifest.json").unlink()
    else:
        place = rng.choice(["env", "model", "training", "project", "data"])
        rewrite(
            folder / "run_manifest.json", lambda d: d["config"].setdefault(place, {}).update(x=text)
        )
    kind = rng.choice(["convert", "toml", "run", "run"])
    if kind == "convert":
        Path("e.yaml").write_text(
            f"# @package _global_\nenv:\n  kwargs:\n    x: {text}\nproject:\n  name: {text}\n"
        )
        return command("worldflux", "convert", "e.yaml", "--to", "toml")
    if kind == "toml":
        from tests.campaign.projects import document

        doc = document()
        doc["project_name"] = text
        doc["training"]["output_dir"] = text  # type: ignore[index]
        Path("worldflux.toml").write_text(doc.as_string())
        return command("worldflux", "convert")
    return run(verb_of(rng), folder)


def links(folder: Path, rng: random.Random, outside: Path) -> Ended:
    """Entries of the run that are links to files and folders of the victim."""
    for name in rng.sample(LINKED, rng.choice([1, 1, 2])):
        path = folder / name
        if path.is_symlink() or any(parent.is_symlink() for parent in path.parents):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        target = outside / rng.choice(["precious.txt", "folder", "new.txt"])
        if path.is_dir():
            target = rng.choice([outside / "folder", outside / "moved"])
            if target.name == "moved":
                shutil.copytree(path, target)
                protect(outside)
            shutil.rmtree(path)
        else:
            if path.exists() and rng.random() < 0.5:
                target = outside / "copy"
                shutil.copy(path, target)
                protect(outside)
            path.unlink(missing_ok=True)
        if rng.random() < 0.3:
            (folder / "hop").unlink(missing_ok=True)
            (folder / "hop").symlink_to(target)
            target = folder / "hop"
        path.symlink_to(target if rng.random() < 0.6 else os.path.relpath(target, path.parent))
    return run(rng.choice(LINK_VERBS), folder)


def pointers(folder: Path, rng: random.Random, outside: Path) -> Ended:
    """Names in files of the run that lead out of it."""
    away = rng.choice(["../../../outside/folder", str(outside / "folder"), "..", "/", "."])
    kind = rng.choice(["best", "state", "index", "sweep"])
    if kind == "best":
        for name in ("best", "latest"):
            (folder / "checkpoints" / name).write_text(away)
    elif kind == "state":
        path = folder / "checkpoints" / "step_000000012" / "state.json"
        document = read_sealed(path)
        document["files"] = {f"{away}/precious.txt": document["files"]["model.safetensors"]}
        document["state"]["source"]["replay"] = rng.choice([away, "000001/../../../x"])
        path.write_text(seal(document))
    elif kind == "index":
        for path in (folder / "replay").glob("replay-*.json"):
            document = read_sealed(path)
            for segment in document["segments"]:
                for entry in segment.values():
                    entry["name"] = f"{away}/{entry['name']}"
            path.write_text(seal(document))
    else:
        jobs = {away: {"training.seed": 1}, "../x": {}, folder.name: {}}
        content = {
            "schema_version": "worldflux.sweep.v1",
            "name": away,
            "command": ["-m"],
            "asked": list(jobs),
            "jobs": jobs,
        }
        Path("sweep.json").write_text(json.dumps(content))
        return command("worldflux", "report", ".")
    return run(verb_of(rng), folder)


def official(folder: Path, rng: random.Random, outside: Path) -> Ended:
    """Official checkpoints of somebody else: code in the pickle, names that lead out, odd archives."""
    save = Path("log/ckpt/1")
    save.mkdir(parents=True)
    (save / "done").touch()
    latest = rng.choice(
        ["1", "1", str(outside / "folder"), "../../../outside/folder", "..", "a\nb", "x" * 300]
    )
    (save.parent / "latest").write_text(latest)
    text = rng.choice(
        [
            *["agent: {}\n"] * 6,
            "agent: ${oc.env:CAMPAIGN_SECRET}\n",
            "a: !!python/object/apply:os.getcwd []\n",
        ]
    )
    Path("log/config.yaml").write_text(text)
    evil = [
        Payload(),
        {"params": {"a": Payload()}},
        {"params": {"a": np.array([Payload()], object)}},
        {"params": 3},
    ]
    file = save / rng.choice(["agent.pkl", "agent-0000.pkl"])
    file.write_bytes(pickle.dumps(rng.choice(evil), protocol=rng.choice([0, 2, 4])))
    if rng.random() < 0.2:
        file.unlink()
        rng.choice([os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])(file)
    Path("log/replay").mkdir()
    Path("log/replay/a.npz").write_bytes(
        rng.choice([b"PK\x03\x04" + bytes(60), pickle.dumps(Payload())])
    )
    Path("model.pt").write_bytes(pickle.dumps(rng.choice(evil)))
    family, source = rng.choice(
        [("dreamerv3", "log"), ("dreamerv3", str(save)), ("tdmpc2", "model.pt")]
    )
    out = Path("m")
    if rng.random() < 0.3:
        out.symlink_to(outside / rng.choice(["folder", "new"]))
    return command("worldflux", "import", family, source, "--out", str(out))


def project(folder: Path, rng: random.Random, outside: Path) -> Ended:
    """A project whose files and folders are links to those of the victim."""
    from tests.campaign.projects import FILE, document

    doc = document()
    Path(FILE).write_text(doc.as_string())
    Path("outputs").symlink_to(folder if rng.random() < 0.5 else outside / "folder")
    target = outside / rng.choice(["precious.txt", "new.txt"])
    for name in ("e.yaml", "back.toml", "dataset.py", "proof.json"):
        Path(name).symlink_to(target)
    words = rng.choice([
        ["train", "--show"], ["verify", "--target", "outputs", "--mode", "quick"], ["convert", FILE, "-o", "e.yaml"],
        ["convert", str(folder), "--to", "toml", "-o", "back.toml"], ["imagine"], ["eval", "outputs", "--episodes", "1"],
        ["report", "outputs"], ["init", "."], ["export", "dreamerv3", str(folder), "--out", "proof.json"],
    ])  # fmt: skip
    return command("worldflux", *words)


TRAPS: tuple[Trap, ...] = (
    recorded_module, targets, yaml_tags, pickles, pickles, git, beside, secrets, links, links, links, pointers,
    official, official, project,
)  # fmt: skip
SNAPSHOT: dict[str, str] = {}


def protect(outside: Path) -> None:
    """Notes what the files outside hold."""
    SNAPSHOT.clear()
    for path in sorted(outside.rglob("*")):
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        SNAPSHOT[str(path)] = f"{content} {path.lstat().st_mode}"


def make(rng: random.Random, number: int, base: Path) -> Trial:
    trap, family = TRAPS[number % len(TRAPS)], rng.choice(FAMILIES)
    drawn = random.Random(rng.random())

    def act(here: Path) -> Verdict:
        outside = here.parent / "outside"
        (outside / "folder" / "step_000000012").mkdir(parents=True)
        events = [f"folder/events.out.tfevents.1{end}" for end in (".scalars", ".pictures")]
        steps = "folder/steps-00000-000001.npz"
        for name in ("precious.txt", "folder/precious.txt", steps, *events):
            (outside / name).write_text("precious")
        protect(outside)
        os.environ["CAMPAIGN_SECRET"] = SECRET
        sys.path.insert(0, str(here))  # as with PYTHONPATH=.
        os.environ["PYTHONPATH"] = str(here)
        folder = here / family
        shutil.copytree(base / family, folder)
        ended = trap(folder, drawn, outside)
        return harm(ended, here, outside) or judged(ended) or Verdict(RIGHT, ended.text[-200:])

    return Trial(number, f"{trap.__name__} {family}", act)


def harm(ended: Ended, here: Path, outside: Path) -> Verdict | None:
    """What was done to the victim."""
    if canary().exists():
        return Verdict(EXECUTED, ended.text[-200:])
    before = dict(SNAPSHOT)
    protect(outside)
    if before != SNAPSHOT:
        changed = {path for path, _ in before.items() ^ SNAPSHOT.items()}
        return Verdict(WRONG, f"files outside changed: {sorted(changed)}: {ended.text[-150:]}")
    leaked = [
        path for path in here.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()
    ]
    if leaked or SECRET in ended.text:
        return Verdict(WRONG, f"the secret is in {leaked or 'the output'}")
    return None


PART = Part("hostile", make, make_runs, short=15, long=300)
