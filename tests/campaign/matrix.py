"""Each strange environment with both families, in this process and in workers: train, eval, imagine.

Whatever the environment does, the run ends with its result, and an evaluation's return is the one that
its episodes have.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

from tests.campaign import strange
from tests.campaign.runs import FAMILIES, OF_FAMILY, RUN, SMALL
from tests.campaign.trials import REFUSED, RIGHT, WRONG, Part, Trial, Verdict, command, judged

MODES = ("sync", "async")
# Refused, and what the line says.
REFUSES = {"Forgetful": "unexpected keyword argument 'seed'"}


def words_of(name: str, family: str, mode: str) -> list[str]:
    base = [
        word
        for word in (*OF_FAMILY[family], *SMALL)
        if not word.startswith(("env=", "env.time_limit", "training.num_envs"))
    ]
    return [
        *base, "env=gym", f"env.id=tests.campaign.strange:Strange{name}-v0", f"training.env_mode={mode}",
        "training.num_envs=2", "training.total_steps=2", "logger=jsonl", "hydra.run.dir=run",
    ]  # fmt: skip


def make(rng: random.Random, number: int, base: Path) -> Trial:
    name = list(strange.STRANGE)[number // 4 % len(strange.STRANGE)]
    family, mode = FAMILIES[number % 2], MODES[number // 2 % 2]

    def act(here: Path) -> Verdict:
        verdict = judged(ended := command(RUN, *words_of(name, family, mode)))
        if verdict is not None:
            right = verdict.kind == REFUSED and REFUSES.get(name, "\0") in verdict.detail
            return verdict if right else Verdict(WRONG, f"train: {verdict.detail}")
        if ended.code:
            return Verdict(WRONG, f"train: exit {ended.code}")
        for verb, options in (
            ("eval", ["--episodes", "2", "--json"]),
            ("imagine", ["--horizon", "3"]),
        ):
            os.chdir(here)
            ended = command("worldflux", verb, "run", "--device", "cpu", *options)
            verdict = judged(ended)
            if verdict is not None or ended.code:
                return Verdict(WRONG, f"{verb}: {verdict or ended.text[-300:]}")
            if verb == "eval" and set(json.loads(ended.out)["returns"]) != {strange.RETURN}:
                return Verdict(WRONG, f"eval: {ended.out[-300:]}")
        if not list(Path("run/report").glob("imagination*")):
            return Verdict(WRONG, "imagine: no picture")
        return Verdict(RIGHT)

    return Trial(number, f"{name} {family} {mode}", act)


PART = Part("matrix", make, short=0, long=4 * len(strange.STRANGE), seconds=180)
