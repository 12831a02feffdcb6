"""Command lines of `worldflux-run`: right ones, wrong ones and noise.

A right one is accepted with exactly the values that it names and no others; a wrong one is refused in
one line with exit code 2 that names the key, and nothing is written; noise is one or the other.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.campaign.trials import (
    REFUSED,
    RIGHT,
    WRONG,
    Ended,
    Part,
    Trial,
    Verdict,
    command,
    judged,
)

RUN = "worldflux-run"
DEFAULTS: dict[str, Any] = {}  # every key of the configuration that no words make
FOLLOW = {"env.terminates": "model.episodic"}  # what follows a key of another group
MACHINE = ("training.log_interval", "training.save_interval", "training.save_seconds")
ACCEPTED = "accepted"


@dataclass(frozen=True)
class Key:
    """low, high: between which every value is accepted by itself; the first below or above is not,
    where `edge` says so; a text has its choices instead."""

    name: str
    kind: type
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()
    below: float | None = None
    none: bool = False


# By hand, from the documentation of the fields.
KEYS = [
    Key("training.total_steps", int, 1, 10**9, below=0),
    Key("training.env_steps", int, 5_000, 10**9, below=0, none=True),
    Key("training.batch_size", int, 1, 64, below=0),
    Key("training.sequence_length", int, 2, 40, below=0),
    Key("training.learning_rate", float, 1e-6, 0.1, below=0),
    Key("training.optimizer", str, choices=("laprop",)),
    Key("training.scheduler", str, choices=("none", "linear", "cosine", "constant")),
    Key("training.warmup_steps", int, 0, 10**6, below=-1),
    Key("training.weight_decay", float, 0, 0.1, below=-1e-9),
    Key("training.grad_clip", float, 0, 1e3, below=-1),
    Key("training.beta1", float, 0, 0.99, below=-0.1),
    Key("training.gradient_accumulation_steps", int, 1, 4, below=0),
    Key("training.seed", int, 0, 2**63, below=-1),
    Key("training.num_envs", int, 1, 3, below=0),
    Key("training.env_mode", str, choices=("auto", "sync")),
    Key("training.device", str, choices=("cpu", "auto")),
    Key("training.log_interval", int, 1, 10**6, below=0),
    Key("training.eval_episodes", int, 1, 50, below=0),
    Key("training.save_interval", int, 1, 10**6, below=0),
    Key("training.save_seconds", float, 0, 1e5, below=-1),
    Key("training.mixed_precision_dtype", str, choices=("bfloat16", "float16")),
    Key("env.time_limit", int, 1, 10**4, below=0, none=True),
    Key("env.action_repeat", int, 1, 8, below=0),
    Key("env.frame_stack", int, 1, 1, below=0),
    Key("env.clip_reward", bool),
    Key("env.flatten", bool),
    Key("env.terminates", bool),
    Key("env.solved_return", float, -500, 500, none=True),
    Key("data.prefill_steps", int, 100, 2_000, below=-1),
    Key("data.capacity", int, 5_000, 10**5, below=0),
    Key("data.online", bool),
    Key("data.on_env_failure", str, choices=("error", "degrade")),
    Key("model.hidden_dim", int, 8, 64, below=0),
    Key("model.deter_dim", int, 64, 128, below=0),
    Key("model.imagination_horizon", int, 1, 20, below=0),
    Key("model.kl_free", float, 0, 3, below=-1),
    Key("logger.tensorboard", bool),
]
FOURS = {"model.deter_dim": 8}  # values come in multiples
GROUPS = {
    "model": ("dreamerv3", "tdmpc2"),
    "model/size": ("ci", "size250k"),
    "env": ("cartpole", "pendulum", "gym"),
    "training": ("dreamerv3", "dreamerv3_official"),
    "data": ("dreamerv3", "dreamerv3_official"),
    "logger": ("tensorboard", "jsonl"),
    "dashboard": ("none",),
}
OTHER_KIND = {
    int: ("abc", "1.5", "[1]", "{a:1}", "true", "", "1e400", "nan", "'12 3'", "inf", "0x1p3"),
    float: ("abc", "[1.0]", "{a:1}", "true", "", "nan", "inf", "-inf", "1,5"),
    bool: ("2", "-5", "abc", "[true]", "1.5", "''"),
    str: ("bogus", "[a]", "{a:b}", "7", "true", "''", "null"),
}
NOISE = (
    string.ascii_letters + string.digits + "=,.[]{}'\"\\$:/+-~_*#@!()<>|&;% \t\n" + "é\u0000\ud83d"
)
PIECES = (
    "${", "}", "${oc.env:HOME}", "${training.seed}", "???", "null", "range(3)", "choice(1,2)", "glob(*)",
    "~training", "+a=1", "++training.seed=1", "=", "==", "training", "model/size", "env@x", "hydra", "1e999",
    "hydra.run.dir", "sort(1,2)", "shuffle(1)", "interval(0,1)", "tag(a,1)", "int(3)", "str(3)", "extend_list(1)",
    "--cfg", "job", "--resolve", "-m", "--help", "--info", "-c", "--package", "_global_", "--config-dir", ".",
    "--config-name", "config", "--version", "-x", "--", "-", "resume=x", "init_from=x", "sweep=a", "experiment=b",
    "+experiment=pendulum_tdmpc2", "hydra/launcher=basic", "hydra.verbose=true", "hydra.job.chdir=true",
    "hydra.mode=RUN", "hydra.output_subdir=null", "hydra.sweep.dir=s", "env.kwargs.x=1", "+env.kwargs.x=1",
)  # fmt: skip


def spellings(value: Any) -> list[str]:
    """Ways to write a value on the command line."""
    if value is None:
        return ["null", "Null", "NULL"]
    if isinstance(value, bool):
        return [str(value), str(value).lower(), str(value).upper()]
    if isinstance(value, int):
        return [
            str(value),
            f"{value:_}",
            f" {value}",
            f"+{value}" if value > 10**12 else str(value),
        ]
    if isinstance(value, float):
        return [repr(value), f"{value:.17e}", repr(value).upper(), f"{value!r} "]
    return [value, f"'{value}'", f'"{value}"']


def right_value(key: Key, rng: random.Random) -> Any:
    if key.none and rng.random() < 0.2:
        return None
    if key.kind is bool:
        return rng.random() < 0.5
    if key.kind is str:
        return rng.choice(key.choices)
    if key.kind is float:
        return rng.choice([key.low, key.high, rng.uniform(key.low, key.high)]) * 1.0
    low, high = int(key.low), int(key.high)
    value = rng.choice(
        [low, high, rng.randint(low, high), int(low + rng.random() ** 9 * (high - low))]
    )
    return value - value % FOURS.get(key.name, 1)


def right(rng: random.Random) -> tuple[list[str], dict[str, Any]]:
    keys = rng.sample(KEYS, rng.choice([0, 1, 1, 2, 3, 5]))
    values = {key.name: right_value(key, rng) for key in keys}
    forms = ("", "", "++")
    return [f"{rng.choice(forms)}{k}={rng.choice(spellings(v))}" for k, v in values.items()], values


def misspelled(name: str, rng: random.Random) -> str:
    place = rng.randrange(name.index(".") + 1, len(name))
    change = rng.choice([name[place] * 2, "", "x", name[place].upper() + "_"])
    return name[:place] + change + name[place + 1 :]


def wrong(rng: random.Random) -> tuple[list[str], str]:
    """A command line with one mistake, and what its line must name."""
    words, values = right(rng)
    key = rng.choice([key for key in KEYS if key.name not in values])
    kind = rng.choice(["name", "value", "range", "twice", "group", "path"])
    last = key.name.rpartition(".")[2]
    if kind == "name":
        bad = misspelled(key.name, rng)
        if bad in {other.name for other in KEYS}:
            bad += "_"
        word, needle = f"{bad}={right_value(key, rng)}", bad.rpartition(".")[2]
    elif kind == "range" and key.below is not None:
        word, needle = f"{key.name}={rng.choice([key.below, -(10**20)])}", last
    elif kind == "twice":
        word = f"{key.name}={spellings(right_value(key, rng))[0]}"
        words, needle = [*words, word], key.name
    elif kind == "group":
        group = rng.choice(list(GROUPS))
        word, needle = f"{group}={rng.choice(['bogus', '5', 'true', '[a,b]', '{a:1}', ''])}", group
    elif kind == "path":
        word, needle = (
            f"{rng.choice(['resume', 'init_from'])}={rng.choice(['nowhere', '/', '.'])}",
            "",
        )
    else:
        word, needle = f"{key.name}={rng.choice(OTHER_KIND[key.kind])}", last
    words.insert(rng.randint(0, len(words)), word)
    return words, needle


def noise(rng: random.Random) -> list[str]:
    words, _ = right(rng) if rng.random() < 0.7 else wrong(rng)
    if rng.random() < 0.4:
        words += [f"{g}={rng.choice(o)}" for g, o in rng.sample(list(GROUPS.items()), 2)]
    for _ in range(rng.randint(1, 3)):
        text = "".join(rng.choice(NOISE) for _ in range(rng.choice([1, 2, 8, 40])))
        text = rng.choice([text, rng.choice(PIECES)])
        if words and rng.random() < 0.6:
            place = rng.randrange(len(words))
            at = rng.randint(0, len(words[place]))
            words[place] = words[place][:at] + text + words[place][at + rng.choice([0, 0, 1, 5]) :]
        else:
            words.insert(rng.randint(0, len(words)), text)
    # As a shell hands them over: bytes without zeros.
    return [word.replace("\0", "").replace("\ud83d", "\udcff") for word in words]


def swept(rng: random.Random) -> tuple[list[str], list[dict[str, Any]]]:
    """A sweep that only lists its jobs, and the values of each."""
    numbers = [key for key in KEYS if key.kind in (int, float) and key.name not in MACHINE]
    keys = rng.sample(numbers, rng.choice([1, 2]))
    choices = [
        sorted({right_value(key, rng) for _ in range(rng.choice([1, 2, 3]))} - {None}) or [1000000]
        for key in keys
    ]
    words = [f"{k.name}={','.join(map(str, v))}" for k, v in zip(keys, choices, strict=True)]
    jobs = [
        dict(zip((k.name for k in keys), job, strict=True)) for job in itertools.product(*choices)
    ]
    return ["-m", "sweep.dry_run=true", "sweep=s", *words], jobs


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a configuration by key."""
    if dataclasses.is_dataclass(value):
        value = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flat(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def run_words(words: list[str]) -> tuple[Ended, dict[str, Any] | None, list[Any]]:
    """Runs a command line up to the moment where it would train; its configuration, that of its
    jobs."""
    from worldflux.runner import job
    from worldflux.sweep import run as sweep

    started: list[Any] = []
    listed: list[Any] = []

    class Reached(BaseException):
        pass

    def start(self: Any, parts: Any) -> None:
        started.append(dict(flat(self.config)))
        before(self, parts)

    def stop(*args: Any, **kwargs: Any) -> None:
        raise Reached

    def run(plan: Any, source: Any) -> int:
        configs = source  # the jobs' configurations, composed again
        listed.extend(dict(flat(configs.check(one.words))) for one in plan.jobs)
        return 0

    before = job.Job.start
    job.Job.start, job.run_job = start, stop  # type: ignore[method-assign,assignment]
    sweep.run = run  # type: ignore[assignment]
    try:
        ended = command(RUN, *words)
    except Reached:
        ended = Ended(0, "", "")
    return ended, started[0] if started else None, listed


def make(rng: random.Random, number: int, base: Path) -> Trial:
    kind = rng.choice(["right", "right", "wrong", "wrong", "noise", "noise", "noise", "swept"])
    values: dict[str, Any] = {}
    jobs: list[dict[str, Any]] = []
    needle = ""
    if kind == "right":
        words, values = right(rng)
    elif kind == "wrong":
        words, needle = wrong(rng)
    elif kind == "swept":
        words, jobs = swept(rng)
    else:
        words = noise(rng)

    def act(here: Path) -> Verdict:
        ended, config, listed = run_words(words)
        verdict = judged(ended)
        if verdict is not None and verdict.kind == REFUSED:
            return refusal(verdict, ended, kind, needle, here)
        if verdict is not None:
            return verdict
        if kind == "wrong":
            return Verdict(WRONG, "accepted")
        if kind == "swept":
            return same_jobs(listed, jobs, ended)
        if config is None:
            rest = [path for path in here.rglob("*") if path.is_file()]
            text = f"exit {ended.code}, wrote {rest}: {ended.err[-200:]}"
            return Verdict(WRONG, text) if rest or ended.code or kind == "right" else Verdict(RIGHT)
        return same_values(config, values, words)

    return Trial(number, f"{kind} {json.dumps(words)}", act)


def refusal(verdict: Verdict, ended: Ended, kind: str, needle: str, here: Path) -> Verdict:
    rest = list(here.rglob("*"))
    if kind in ("right", "swept"):
        return Verdict(WRONG, f"refused: {verdict.detail}")
    if ended.code != 2 or rest:
        return Verdict(WRONG, f"exit {ended.code}, wrote {rest}: {verdict.detail}")
    if needle not in verdict.detail:
        return Verdict(WRONG, f"{needle!r} is not named: {verdict.detail}")
    return verdict


def same_values(config: dict[str, Any], values: dict[str, Any], words: list[str]) -> Verdict:
    """Whether the values are those that the words name, and the others those of no words at all."""
    defaults = DEFAULTS
    for key, value in values.items():
        if not equal(config[key], value):
            return Verdict(WRONG, f"{key} is {config[key]!r}, not {value!r}")
    names = [
        word.partition("=")[0].lstrip("+~") for word in words if "=" in word or word[:1] == "~"
    ]
    names += [FOLLOW.get(name, name.replace("training.", "model.", 1)) for name in names]
    if any("." not in name for name in names):
        return Verdict(RIGHT, ACCEPTED)  # groups bring values of their own
    for key, value in config.items():
        touched = any(key.startswith(name) for name in names) or key.endswith("explicit")
        if not touched and not equal(value, defaults.get(key)):
            return Verdict(WRONG, f"{key} became {value!r}, not {defaults.get(key)!r}, by {names}")
    return Verdict(RIGHT, ACCEPTED)


def same_jobs(listed: list[Any], jobs: list[dict[str, Any]], ended: Ended) -> Verdict:
    shown = [{key: config[key] for key in job} for config, job in zip(listed, jobs, strict=False)]
    if len(listed) != len(jobs) or shown != jobs:
        return Verdict(WRONG, f"{shown}, not {jobs} {ended.err[-100:]}")
    return Verdict(RIGHT)


def equal(one: Any, two: Any) -> bool:
    if isinstance(one, float) and isinstance(two, float) and math.isnan(one):
        return math.isnan(two)
    return (type(one) is type(two) and one == two) or (one == two and not isinstance(one, bool))


def prepare(base: Path) -> None:
    from worldflux.config.composition import composed

    DEFAULTS.update(flat(composed([])))
    command(RUN, "training.seed=1", "training.seed=2")  # so that the grammar's tables are there
    (base / "out").unlink(missing_ok=True)


PART = Part("words", make, prepare, short=24, long=5_000, seconds=60)
