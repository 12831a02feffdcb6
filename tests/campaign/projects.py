"""worldflux.toml with values of other kinds, lines that are gone, twice or noise.

It is refused in one line with exit code 2 that names the file, and nothing is written; or it is
converted, and converting back gives the same settings.
"""

from __future__ import annotations

import random
import tomllib
from pathlib import Path
from typing import Any

import tomlkit

from tests.campaign.trials import REFUSED, RIGHT, WRONG, Part, Trial, Verdict, command, judged
from worldflux.project.mapping import settings
from worldflux.project.schema import load_config

FILE = "worldflux.toml"
VALUES: list[Any] = [
    -1, 0, 1, 2, 7, 10**6, 10**30, 0.5, 1e300, -0.0, float("nan"), float("inf"), True, False, "", "x", " ", "auto",
    "cpu", "cuda:99", "${oc.env:HOME}", "${training.seed}", "???", "null", "../..", "/dev/zero", "a\nb", "é",
    "CartPole-v1", "Pendulum-v1", "random", "gym", "tdmpc2:ci", "dreamer:ci", "dreamer", [], [1], ["a"], [4, 4],
    {}, {"a": 1}, [[1]], "x" * 300, 1.0, 3000.0, "3000", "1e-3", 8, 16, 64, 500, 65536, 2**63, 2**64,
]  # fmt: skip
NAMES = ("bogus", "total_step", "seed", "env", "num_envs", "training", "a.b", "", "é", "__class__")
LETTERS = "=[]{}\"'\\#,.\n\t _-+:0a\u00e9\u2028"


def document() -> Any:
    """A project's file, as `worldflux init` writes it."""
    from worldflux.project import create

    return tomlkit.parse((Path(create.__file__).parent / "scaffold" / FILE).read_text())


def change(doc: Any, rng: random.Random) -> str:
    """Changes one place of the document; what was changed."""
    sections = [name for name, value in doc.items() if isinstance(value, dict)]
    table = doc[rng.choice(sections)] if rng.random() < 0.85 else doc
    key = rng.choice(list(table))
    kind = rng.choice(["value", "value", "value", "remove", "add", "section"])
    if kind == "value":
        table[key] = rng.choice(VALUES)
    elif kind == "remove":
        del table[key]
    elif kind == "add":
        table[key := rng.choice(NAMES)] = rng.choice(VALUES)
    else:
        doc[key := rng.choice([*NAMES, *sections])] = rng.choice([{"a": 1}, [], 1, {}])
    return f"{kind} {key}"


def scrambled(text: str, rng: random.Random) -> bytes:
    """The text with lines or letters gone, doubled or replaced."""
    lines = text.splitlines(keepends=True)
    place = rng.randrange(len(lines))
    kind = rng.choice(["drop", "double", "letters", "cut", "bytes", "join"])
    if kind == "drop":
        del lines[place]
    elif kind == "double":
        lines.insert(rng.randrange(len(lines)), lines[place])
    elif kind == "join":
        lines[place] = lines[place].rstrip("\n")
    content = "".join(lines)
    at = rng.randrange(len(content))
    if kind == "letters":
        letters = "".join(rng.choice(LETTERS) for _ in range(rng.choice([1, 3])))
        content = content[:at] + letters + content[at + rng.choice([0, 1, 9]) :]
    elif kind == "cut":
        content = content[:at]
    raw = content.encode()
    return raw[:at] + rng.randbytes(2) + raw[at:] if kind == "bytes" else raw


def make(rng: random.Random, number: int, base: Path) -> Trial:
    doc = document()
    names = [change(doc, rng) for _ in range(rng.choice([1, 1, 2]))] if rng.random() < 0.7 else []
    try:
        text = tomlkit.dumps(doc)
    except (TypeError, ValueError):
        text = tomlkit.dumps(document())
    content = text.encode() if names else scrambled(text, rng)
    verb = rng.choice(["convert", "convert", "show", "imagine", "verify"])

    def act(here: Path) -> Verdict:
        path = here / FILE
        path.write_bytes(content)
        words = {
            "convert": ["convert", FILE, "-o", "e.yaml"],
            "show": ["train", "--show"],
            "imagine": ["imagine"],
            "verify": ["verify", "--config", FILE, "--target", "nowhere"],
        }[verb]
        ended = command("worldflux", *words)
        verdict = judged(ended)
        wrote = [one.name for one in here.iterdir() if one.name not in (FILE, "e.yaml")]
        if wrote:
            return Verdict(WRONG, f"wrote {wrote}")
        if verdict is not None and verdict.kind == REFUSED:
            if (here / "e.yaml").exists() or ended.code != 2:
                return Verdict(WRONG, f"exit {ended.code}: {verdict.detail}")
            return verdict
        if verdict is not None or verb != "convert":
            return verdict or Verdict(RIGHT)
        return same_back(path)

    return Trial(number, f"{verb} {FILE}: {'; '.join(names) or 'scrambled'}", act)


def same_back(path: Path) -> Verdict:
    """Whether what was converted says the same in a file again, and what the file itself says."""
    ended = command("worldflux", "convert", "e.yaml", "--to", "toml", "-o", "back.toml")
    verdict = judged(ended)
    if verdict is not None:
        return Verdict(WRONG, f"converted, but not back: {verdict.detail}")
    raw, back = tomllib.loads(path.read_text()), tomllib.loads(Path("back.toml").read_text())
    for key, value in raw["training"].items():
        mapped = key in ("total_steps", "batch_size", "sequence_length", "learning_rate")
        if mapped and value != back["training"].get(key, value):
            return Verdict(WRONG, f"training.{key} = {value!r} became {back['training'][key]!r}")
    before, after = (
        {key: setting.value for key, setting in settings(load_config(file)).items()}
        for file in (path, Path("back.toml"))
    )
    for key, value in before.items():
        if key in after and after[key] != value:
            return Verdict(WRONG, f"{key} = {value!r} became {after[key]!r}")
    return Verdict(RIGHT)


PART = Part("projects", make, short=12, long=2_000, seconds=60)
