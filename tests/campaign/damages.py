"""Files of a run that are flipped, cut, emptied, swapped, removed or of a wrong kind.

What a command gives afterwards equals what it gives of the undamaged run, or the damage is named:
one line, or a degraded mode.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tests.campaign.runs import FAMILIES, MORE, RUN, make_runs
from tests.campaign.trials import (
    REFUSED,
    RIGHT,
    SECONDS,
    WRONG,
    Ended,
    Part,
    Trial,
    Verdict,
    command,
    judged,
    run_all,
)
from tests.training.crash import differences
from worldflux.run_folder.disk import seal
from worldflux.run_folder.names import METRICS

Damage = Callable[[Path, random.Random], None]
VERBS: dict[str, list[str]] = {
    "eval": ["--json", "--episodes", "2", "--device", "cpu"],
    "report": ["--format", "json"],
    "verify": ["--format", "json", "--episodes", "2", "--mode", "quick"],
    "imagine": ["--horizon", "3", "--device", "cpu"],
    "resume": [f"training.total_steps={MORE}"],
    "init_from": ["training.total_steps=1", "hydra.run.dir=new"],
    "convert": ["-o", "-"],
}
OFTEN = ("resume", "resume", "eval", "report", "verify", "imagine", "init_from", "convert")
CLOCK = ("run", "target", "elapsed_seconds", "seconds", "files", "timestamp", "created_at")
ODD: list[Any] = [[], {}, "x", None, True, -1, 1e300, [[]], "../..", 2**70, ""]


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 20])):
        if content:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(max(1, len(content)))])


def empty(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def remove(path: Path, rng: random.Random) -> None:
    path.unlink()


def garbage(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.randbytes(rng.choice([1, 100, 5000])))


def zeros(path: Path, rng: random.Random) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def longer(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.choice([1, 300])))


def nested(path: Path, rng: random.Random) -> None:
    path.write_text("[" * 50_000)


def folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path, rng: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def other(path: Path, rng: random.Random) -> None:
    """Another file of the run, often of the same kind."""
    top = path.parent
    while not (top / ".hydra").is_dir():
        top = top.parent
    files = sorted(one for one in top.rglob("*") if one.is_file() and one != path)
    alike = [one for one in files if one.suffix == path.suffix]
    shutil.copy(rng.choice(alike if alike and rng.random() < 0.8 else files), path)


def value(path: Path, rng: random.Random) -> None:
    """A value of a JSON file of another kind, under a checksum that is right."""
    try:
        lines = path.read_text().splitlines() if path.name == METRICS else [path.read_text()]
        number = rng.randrange(len(lines))
        document = json.loads(lines[number])
    except (ValueError, IndexError):
        return flip(path, rng)
    if not isinstance(document, dict):
        return flip(path, rng)
    sealed = document.pop("sha256", None)
    inner: Any = document
    while True:
        key = rng.choice(sorted(inner) if isinstance(inner, dict) else range(len(inner)))
        if not (isinstance(inner[key], dict | list) and inner[key]) or rng.random() < 0.15:
            break
        inner = inner[key]
    inner[key] = rng.choice(ODD)
    lines[number] = json.dumps(document) if sealed is None else seal(document)
    path.write_text("\n".join(lines) + "\n")


DAMAGES: dict[str, Damage] = {
    function.__name__: function
    for function in (
        flip,
        cut,
        empty,
        remove,
        garbage,
        zeros,
        longer,
        nested,
        folder,
        pipe,
        other,
        value,
    )
}


def run_verb(verb: str, run: Path) -> Ended:
    if verb == "resume":
        return command(RUN, f"resume={run}", *VERBS[verb])
    if verb == "init_from":
        from tests.campaign.runs import small

        return command(RUN, *small(run.name), f"init_from={run}", *VERBS[verb])
    target = ["--target", str(run)] if verb == "verify" else [str(run)]
    return command("worldflux", verb, *target, *VERBS[verb])


def outcome(verb: str, run: Path, ended: Ended) -> Any:
    """What of a command's result must not depend on the damage."""
    if verb == "resume":
        return []  # compared by `differences`
    if verb == "init_from":
        weights = run.parent / "new" / "checkpoints" / f"step_{1:09d}" / "model.safetensors"
        return hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None
    if verb in ("imagine", "convert"):
        return ended.out.replace(str(run), "RUN").replace(run.name, "RUN")
    document = json.loads(ended.out.replace(str(run.parent), ""))
    return {key: value for key, value in document.items() if key not in CLOCK}


def prepare(base: Path) -> None:
    make_runs(base, continued=True)

    def act(family: str, verb: str, here: Path) -> Verdict:
        run = here / family
        shutil.copytree(base / family, run)
        result = outcome(verb, run, run_verb(verb, run))
        (base / f"{family}-{verb}.json").write_text(json.dumps(result))
        return Verdict(RIGHT)

    pairs = [(family, verb) for family in FAMILIES for verb in VERBS]
    trials = [
        Trial(i, f"{family} {verb}", lambda here, f=family, v=verb: act(f, v, here))
        for i, (family, verb) in enumerate(pairs)
    ]
    for trial, verdict in run_all(trials, base, 1, SECONDS):
        if verdict.kind != RIGHT:
            raise RuntimeError(f"{trial.name} of an undamaged run: {verdict.detail}")


@cache
def files(run: Path) -> list[str]:
    every = [path.relative_to(run) for path in run.rglob("*") if path.is_file()]
    return sorted(str(path) for path in every if "tfevents" not in path.name)


def make(rng: random.Random, number: int, base: Path) -> Trial:
    family, verb = rng.choice(FAMILIES), rng.choice(OFTEN)
    name = rng.choice(files(base / family))
    kind = rng.choice([*DAMAGES, "value", "value"] if name.endswith("json") else list(DAMAGES))
    drawn = random.Random(rng.random())

    def act(here: Path) -> Verdict:
        run = here / family
        shutil.copytree(base / family, run)
        DAMAGES[kind](run / name, drawn)
        ended = run_verb(verb, run)
        return verdict_of(verb, run, name, ended, base)

    return Trial(number, f"{verb} of a {family} run, {name}: {kind}", act)


def verdict_of(verb: str, run: Path, name: str, ended: Ended, base: Path) -> Verdict:
    early = judged(ended)
    if early is not None:
        if early.kind == REFUSED and run.name not in early.detail and name not in early.detail:
            return Verdict(WRONG, f"the line names neither the run nor the file: {early.detail}")
        return early
    if verb == "resume":
        try:
            unequal = differences(run, base / f"{run.name}-continued")
        except OSError as error:
            unequal = [f"{error}"]
    else:
        before = json.loads((base / f"{run.name}-{verb}.json").read_text())
        after = json.loads(json.dumps(outcome(verb, run, ended)))
        unequal = [] if before == after else [f"{_first(before, after)}"]
    if not unequal or is_named(name, run, ended):
        return Verdict(RIGHT, "; ".join(unequal))
    return Verdict(WRONG, "; ".join(unequal))


def is_named(name: str, run: Path, ended: Ended) -> bool:
    """Whether the command says what was damaged."""
    parts = [Path(name).name, *(part for part in Path(name).parts if part.startswith("step_"))]
    text = ended.text
    if any(part in text for part in parts) or "damaged" in text:
        return True
    try:
        manifest = json.loads((run / "run_manifest.json").read_text())
        return bool(manifest["degraded_modes"] or manifest["damaged_checkpoints"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _first(before: Any, after: Any, at: str = "") -> str:
    """Where two JSON values differ first."""
    if isinstance(before, dict) and isinstance(after, dict) and set(before) == set(after):
        for key in before:
            if before[key] != after[key]:
                return _first(before[key], after[key], f"{at}.{key}")
    return f"{at}: {str(after)[:80]}, not {str(before)[:80]}"


PART = Part("damages", make, prepare, short=12, long=600)
