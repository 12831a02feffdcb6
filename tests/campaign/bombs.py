"""Small files that would take all memory or all time of who looks at a run, a model or a project.

Every command ends in time and within its memory, in one line where it cannot do what it is for.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.campaign.damages import OFTEN, files, run_verb
from tests.campaign.runs import FAMILIES, make_runs
from tests.campaign.trials import RIGHT, Ended, Part, Trial, Verdict, command, judged

HUGE = 2**40  # bytes of a file that takes no room on the disk
LAUGH = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)
Bomb = Callable[[Path, random.Random], Ended]


def in_a_run(run: Path, rng: random.Random) -> Ended:
    """A file of a run becomes a pipe, a device, or a file without end."""
    path = run / rng.choice(files(run))
    kind = rng.choice(["pipe", "device", "sparse", "digits", "zeros in a zip"])
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to(rng.choice(["/dev/zero", "/dev/urandom", "/dev/tty"]))
    elif kind == "digits":
        path.write_text('{"schema_version": ' + "9" * 10**6 + "}")
    elif kind == "zeros in a zip":
        zipped(path, rng)
    else:
        sparse(path)
    return run_verb(rng.choice(OFTEN), run)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, HUGE)


def zipped(path: Path, rng: random.Random) -> None:
    """An archive that declares, or holds, arrays of gigabytes."""
    shape = (2**34,) if rng.random() < 0.5 else (2**32,)
    header = str({"descr": "<f4", "fortran_order": False, "shape": shape}).encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("obs", "reward", "action", "is_first", "is_last", "is_terminal"):
            with archive.open(f"{name}.npy", "w") as file:
                file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
                for _ in range(rng.choice([0, 64])):
                    file.write(bytes(2**20))


def declared_weights(run: Path, rng: random.Random) -> Ended:
    """Weights whose header is larger than any memory, or declares such tensors."""
    path = run / rng.choice([name for name in files(run) if name.endswith("safetensors")])
    if rng.random() < 0.5:
        header = json.dumps(
            {"w": {"dtype": "F32", "shape": [2**20, 2**18], "data_offsets": [0, 2**40]}}
        )
        path.write_bytes(struct.pack("<Q", len(header)) + header.encode())
    else:
        path.write_bytes(struct.pack("<Q", rng.choice([2**33, 2**62])) + b"{}")
    return run_verb(rng.choice(OFTEN), run)


def declared_model(run: Path, rng: random.Random) -> Ended:
    """A manifest whose model would take terabytes."""
    path = run / "run_manifest.json"
    manifest = json.loads(path.read_text())
    keys = {"dreamerv3": ("deter_dim", "hidden_dim"), "tdmpc2": ("latent_dim", "hidden_dim")}
    for section in (manifest["model_config"], manifest["config"]["model"]):
        section[rng.choice(keys[run.name])] = rng.choice([2**20, 2**24, 2**40])
    path.write_text(json.dumps(manifest))
    return run_verb(rng.choice(OFTEN), run)


def aliases(run: Path, rng: random.Random) -> Ended:
    """YAML that stands for more than any memory, in a saved configuration or an experiment."""
    saved = run / ".hydra" / "config.yaml"
    saved.write_text(saved.read_text() + LAUGH)
    if rng.random() < 0.5:
        (run / "run_manifest.json").unlink()
    verb = rng.choice(["resume", "convert", "eval", "experiment", "config"])
    if verb in ("experiment", "config"):
        folder = Path("mine") / ("experiment" if verb == "experiment" else ".")
        folder.mkdir(parents=True)
        (folder / "laugh.yaml").write_text(LAUGH)
        choice = ["+experiment=laugh"] if verb == "experiment" else ["--config-name", "laugh"]
        return command("worldflux-run", "--config-dir", "mine", *choice)
    return run_verb(verb, run)


def project_file(run: Path, rng: random.Random) -> Ended:
    """A worldflux.toml without end, or too deep."""
    path = Path("worldflux.toml")
    kind = rng.choice(["sparse", "pipe", "deep", "tables", "long"])
    if kind == "sparse":
        sparse(path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "deep":
        path.write_text("a = " + "[" * 30_000)
    elif kind == "tables":
        path.write_text("".join(f"[{'.'.join('a' * 1)}{i}]\n" for i in range(200_000)))
    else:
        path.write_text("project_name = '" + "x" * 10**7 + "'")
    verb = rng.choice([["train", "--show"], ["convert", "-o", "-"], ["imagine"]])
    return command("worldflux", *verb)


def model_folder(run: Path, rng: random.Random) -> Ended:
    """A model folder whose configuration or weights declare terabytes."""
    folder = Path("model")
    folder.mkdir()
    manifest = json.loads((run / "run_manifest.json").read_text())
    config = manifest["model_config"]
    config["hidden_dim"] = rng.choice([2**20, 2**30, 128])
    (folder / "config.json").write_text(json.dumps(config))
    weights = folder / rng.choice(["model.safetensors", "model.pt"])
    rng.choice([sparse, lambda path: zipped(path, rng), os.mkfifo])(weights)
    env = "env=cartpole" if run.name == "dreamerv3" else "env=pendulum"
    return command("worldflux", "eval", "model", env, "--episodes", "1", "--device", "cpu")


def official(run: Path, rng: random.Random) -> Ended:
    """Official checkpoints that are without end."""
    import pickle

    shared: list[object] = [1.0]
    for _ in range(12):
        shared = [shared] * 10
    folder = Path("log/ckpt/1")
    folder.mkdir(parents=True)
    (folder / "done").touch()
    (folder.parent / "latest").write_text("1")
    (Path("log") / "config.yaml").write_text(rng.choice(["agent: {}\n", LAUGH]))
    content = rng.choice([pickle.dumps({"params": {"a": 1.0}, "x": shared}), None])
    for path in (folder / "agent.pkl", Path("model.pt")):
        sparse(path) if content is None else path.write_bytes(content)
    family, source = rng.choice([("dreamerv3", "log"), ("tdmpc2", "model.pt")])
    return command("worldflux", "import", family, source, "--out", "m")


BOMBS: tuple[Bomb, ...] = (
    in_a_run,
    in_a_run,
    in_a_run,
    declared_weights,
    declared_model,
    aliases,
    project_file,
    model_folder,
    official,
)


def make(rng: random.Random, number: int, base: Path) -> Trial:
    bomb, family = rng.choice(BOMBS), rng.choice(FAMILIES)
    drawn = random.Random(rng.random())

    def act(here: Path) -> Verdict:
        run = here / family
        shutil.copytree(base / family, run)
        ended = bomb(run, drawn)
        return judged(ended) or Verdict(RIGHT, ended.text[-200:])

    return Trial(number, f"{bomb.__name__} {family}", act)


PART = Part("bombs", make, make_runs, short=8, long=100, seconds=90)
