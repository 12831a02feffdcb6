"""Environments in odd forms, both families, in this process and in workers.

What is in the replay is what the environment gave, in its order, and the actions are those that it
received; what is wrong ends the run in one line and is not in the replay.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from tests.campaign import odd
from tests.campaign.runs import FAMILIES, OF_FAMILY, SMALL
from tests.campaign.trials import REFUSED, RIGHT, WRONG, Part, Trial, Verdict, command, judged
from worldflux.run_folder.disk import read_sealed

LEAST = 30  # steps that are compared, for each environment without a fault
LIMIT = 20  # env.time_limit of the runs
PICTURES = ("hwc", "chw", "gray", "small", "unit", "mixed")


def drawn(rng: random.Random) -> dict[str, str]:
    """What kind of environment, as its keyword arguments."""
    kind = {
        "observation": rng.choice(list(odd.OBSERVATIONS)),
        "action": rng.choice(list(odd.ACTIONS)),
        "ends": rng.choice(odd.ENDS),
        "reward": rng.choice(odd.REWARDS),
        "form": rng.choice(odd.FORMS),
    }
    if rng.random() < 0.4:
        kind |= {"fault": rng.choice(odd.FAULTS), "observation": "vector"}
    return kind


def words_of(kind: dict[str, str], family: str, mode: str, envs: int) -> list[str]:
    base = [
        word
        for word in (*OF_FAMILY[family], *SMALL)
        if not word.startswith(("env=", "training.num_envs"))
    ]
    ending = kind["ends"] in ("terminated", "both", "one step", "random")
    arguments = ",".join(f"{key}:'{value}'" for key, value in kind.items())
    return [
        *base, "env=gym", f"env.id={odd.ID}", f"+env.kwargs={{{arguments}}}", f"env.terminates={str(ending).lower()}",
        f"training.env_mode={mode}", f"training.num_envs={envs}", "training.total_steps=2", "logger=jsonl",
        "hydra.run.dir=run",
    ]  # fmt: skip


def make(rng: random.Random, number: int, base: Path) -> Trial:
    kind, envs = drawn(rng), rng.choice([1, 2])
    family, mode = FAMILIES[number % 2], ("sync", "async")[number // 2 % 2]
    if kind.get("fault") == "os exit":  # nobody is left to say it where it is this process
        mode = "async"

    def act(here: Path) -> Verdict:
        os.environ["CAMPAIGN_RECORDS"] = str(here.parent / "records")
        (here.parent / "records").mkdir()
        ended = command("worldflux-run", *words_of(kind, family, mode, envs))
        os.chdir(here)
        os.umask(0o022)
        if kind.get("fault") == "interrupt" and ended.code == 130 and "Traceback" not in ended.text:
            return Verdict(REFUSED, "interrupted")
        verdict = judged(ended)
        fault = kind.get("fault", "")
        if verdict is not None and verdict.kind != REFUSED:
            return verdict
        if verdict is not None and not fault:
            fine = family == "tdmpc2" and kind["observation"] in PICTURES
            return verdict if fine else Verdict(WRONG, f"refused: {verdict.detail}")
        if fault and verdict is None and fault not in (*odd.HARMLESS, "chdir"):
            return Verdict(WRONG, f"went on with a fault: {ended.text[-300:]}")
        if not Path("run/replay").is_dir():
            return verdict or Verdict(WRONG, "it has no replay")
        unequal = compared(Path("run"), here.parent / "records", kind)
        return Verdict(WRONG, unequal) if unequal else verdict or Verdict(RIGHT)

    return Trial(number, f"{family} {mode} x{envs} {json.dumps(kind)}", act)


def compared(run: Path, records: Path, kind: dict[str, str]) -> str:
    """How the replay differs from what an environment recorded; empty if it does not."""
    every = [
        [json.loads(line) for line in path.read_text().splitlines()] for path in records.iterdir()
    ]
    space, action_space = odd.OBSERVATIONS[kind["observation"]], odd.ACTIONS[kind["action"]]
    for rows in replayed(run / "replay"):
        count = len(rows["reward"])
        if count < LEAST and "fault" not in kind:
            return f"{count} steps only"
        reasons = []
        for record in every:
            for start in [i for i, event in enumerate(record) if event.get("reset")]:
                reason = differs(rows, record[start:], space, action_space)
                if not reason:
                    break
                reasons.append(reason)
            else:
                continue
            break
        else:
            return (
                f"no environment gave this: {max(reasons, key=lambda text: int(text.split()[1]))}"
            )
    return ""


def replayed(folder: Path) -> list[dict[str, np.ndarray]]:
    """The steps of each environment, by key."""
    index = read_sealed(max(folder.glob("replay-*.json")))
    parts: list[dict[str, np.ndarray]] = []
    for segment, versions in zip(index["segments"], index["versions"], strict=True):
        with np.load(folder / segment["steps"]["name"]) as arrays:
            parts.append({key: arrays[key][:, : versions[0]] for key in arrays.files})
    joined = {key: np.concatenate([part[key] for part in parts], axis=1) for key in parts[0]}
    envs = len(joined["reward"])
    return [{key: value[i] for key, value in joined.items()} for i in range(envs)]


def differs(
    rows: dict[str, np.ndarray],
    record: list[Any],
    space: spaces.Space[Any],
    action_space: spaces.Space[Any],
) -> str:
    """The first step that is not what was recorded."""
    count, begun = len(rows["reward"]), 0
    for t in range(count):
        begun = t if rows["is_first"][t] else begun
        if t >= len(record):
            return f"step {t} was never given"
        event = record[t]
        ended = event["terminated"] or event["truncated"] or t - begun == LIMIT
        facts = {
            "is_first": bool(event.get("reset")),
            "is_last": ended,
            "is_terminal": event["terminated"],
            "reward": np.float32(event["reward"]),
        }
        for key, value in facts.items():
            if rows[key][t] != value:
                return f"step {t} {key} is {rows[key][t]}, not {value}"
        for name, value in expected(space, event["obs"], "obs", ()).items():
            if not np.array_equal(rows[name][t], value):
                return f"step {t} {name} is {rows[name][t].ravel()[:4]}, not {value.ravel()[:4]}"
        if not ended and t + 1 < min(count, len(record)):
            received = np.asarray(record[t + 1]["action"])
            if not np.allclose(received.ravel(), taken(action_space, rows["action"][t]), atol=1e-5):
                return f"step {t} action {rows['action'][t]} was received as {received.ravel()}"
    return ""


def expected(
    space: spaces.Space[Any], value: Any, name: str, path: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """The arrays of the step dict that an observation is, as docs/environments.md says."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        named = isinstance(space, spaces.Tuple) or bool(path)
        items = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        parts: dict[str, np.ndarray] = {}
        for key, inner in items:
            parts |= expected(
                inner, value[key], f"{name}/{key}" if named else str(key), (*path, str(key))
            )
        return parts
    if isinstance(space, spaces.Discrete):
        return {name: np.asarray(value - space.start)}
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        return {name: np.asarray(value)}
    assert isinstance(space, spaces.Box)
    x = np.asarray(value)
    if len(space.shape) in (2, 3) and sorted(space.shape)[-2] >= 16:
        x = np.rint(x.astype(np.float32) * (255 if space.dtype == np.float32 else 1)).astype(
            np.uint8
        )
        x = x[None] if x.ndim == 2 else x if x.shape[0] < x.shape[2] else x.transpose(2, 0, 1)
        return {name: x}
    return {name: x.astype(np.float32).ravel()}


def taken(space: spaces.Space[Any], flat: np.ndarray) -> np.ndarray:
    """What a flat action of the agent means to the environment."""
    if isinstance(space, spaces.Discrete):
        return np.array([space.start + flat.argmax()])
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        classes = [2] * space.n if isinstance(space, spaces.MultiBinary) else space.nvec.tolist()
        parts = np.split(flat, np.cumsum(classes)[:-1])
        return np.array([part.argmax() for part in parts])
    assert isinstance(space, spaces.Box)
    low, high = space.low.ravel(), space.high.ravel()
    return low + (flat.clip(-1, 1) + 1) / 2 * (high - low)


PART = Part("environments", make, short=12, long=800, group=4)
