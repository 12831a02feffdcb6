"""A run in a place that does not serve: full disks, folders that are files, odd names, two at once.

The command ends with its result or in one line; the run is not lost: what goes on from it afterwards
is, bit for bit, the run that was never disturbed.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.campaign.damages import VERBS, run_verb
from tests.campaign.runs import FAMILIES, make_runs, small
from tests.campaign.trials import (
    REFUSED,
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
from tests.training.crash import differences

Place = Callable[[Path, random.Random, Path], Verdict]
FOLDERS = (
    "checkpoints",
    "replay",
    ".hydra",
    "report",
    "videos",
    "pictures",
    "checkpoints/step_000000012",
)
NAMES = ("a\nb", "a b", "a=b,c", "Bob's", "ünï", "-m", "%A%j", "${x}", "[b]", "x" * 200, "a\\b", "~", "\udcff")  # fmt: skip


def continued(run: Path, base: Path) -> Verdict:
    """What becomes of the run when it goes on in peace."""
    ended = run_verb("resume", run)
    if ended.code:
        return judged(ended) or Verdict(WRONG, ended.text[-300:])
    unequal = differences(run, base / f"{run.name}-continued")
    return Verdict(WRONG, "; ".join(unequal)) if unequal else Verdict(RIGHT)


def full_disk(run: Path, rng: random.Random, base: Path) -> Verdict:
    """No file may become larger than this: a write fails in the middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    verb = rng.choice(["resume", "resume", "resume", "report", "eval", "imagine"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(2 ** rng.uniform(11, 18)), hard))
    try:
        ended = run_verb(verb, run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    verdict = judged(ended)
    if verdict is not None and verdict.kind != REFUSED:
        return verdict
    return continued(run, base)


def at_once(run: Path, rng: random.Random, base: Path) -> Verdict:
    """Two processes go on with one run: one does, or both after each other."""
    verb = rng.choice(["resume", "resume", "report", "verify", "eval"])
    process = os.fork()
    if not process:
        os.environ["WORLDFLUX_CANARY"] = str(canary().with_name("second") / "canary")
        canary().parent.mkdir()
        verdict = judged(run_verb("resume", run))
        os._exit(0 if verdict is None or verdict.kind == REFUSED else 1)
    verdict = judged(run_verb(verb, run))
    if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
        return Verdict(WRONG, "the other one ended otherwise than in one line")
    if verdict is not None and verdict.kind != REFUSED:
        return verdict
    return continued(run, base)


def kinds(run: Path, rng: random.Random, base: Path) -> Verdict:
    """A folder of the run is a file, a link to nowhere, or empty."""
    path = run / rng.choice(FOLDERS)
    shutil.rmtree(path, ignore_errors=True)
    kind = rng.choice(["file", "link", "empty", "missing", "loop"])
    if kind == "file":
        path.write_text("x")
    elif kind in ("link", "loop"):
        path.symlink_to("nowhere" if kind == "link" else path.name)
    elif kind == "empty":
        path.mkdir()
    ended = run_verb(rng.choice([*VERBS, "resume", "resume"]), run)
    return judged(ended) or Verdict(RIGHT, ended.text[-200:])


def named(run: Path, rng: random.Random, base: Path) -> Verdict:
    """A run in a folder of any name, and one that begins there."""
    top = run.parent / rng.choice(NAMES)
    top.mkdir()
    moved = run.rename(top / run.name)
    os.chdir(top)
    if "\udcff" in top.name:  # no file of a run can say where it is
        return judged(run_verb("resume", moved)) or Verdict(WRONG, "accepted")
    if rng.random() < 0.7:
        return continued(Path(run.name) if rng.random() < 0.5 else moved, base)
    folder = str(rng.choice(["outputs", "runs/a"]))
    words = [*small(run.name), "training.total_steps=1", f"hydra.run.dir={folder}"]
    return judged(command("worldflux-run", *words)) or Verdict(RIGHT)


def read_only(run: Path, rng: random.Random, base: Path) -> Verdict:
    """Another user, who may only look."""
    for folder, _, names in os.walk(run):
        os.chmod(folder, 0o555)
        for name in names:
            os.chmod(Path(folder, name), rng.choice([0o444, 0o444, 0o444, 0o000]))
    for parent in run.parents:
        if os.access(parent, os.W_OK) and parent != Path("/") and parent != Path("/tmp"):
            os.chmod(parent, 0o755)
    outputs = run.parent / "outputs_of_another"
    outputs.mkdir(mode=0o777)
    for path in ("out", "err"):
        canary().with_name(path).touch()
        canary().with_name(path).chmod(0o666)
    os.chdir(outputs)
    os.setegid(65534)
    os.seteuid(65534)
    try:
        ended: Ended = run_verb(rng.choice(["resume", "report", "eval", "verify", "convert"]), run)
    finally:
        os.seteuid(0)
        os.setegid(0)
    return judged(ended) or Verdict(RIGHT, ended.text[-200:])


PLACES: tuple[Place, ...] = (full_disk, full_disk, at_once, kinds, kinds, named, read_only)


def prepare(base: Path) -> None:
    make_runs(base, continued=True)


def make(rng: random.Random, number: int, base: Path) -> Trial:
    place, family = PLACES[number % len(PLACES)], rng.choice(FAMILIES)
    if place is read_only and os.geteuid():
        place = kinds
    drawn = random.Random(rng.random())

    def act(here: Path) -> Verdict:
        run = here / family
        shutil.copytree(base / family, run)
        return place(run, drawn, base)

    return Trial(number, f"{place.__name__} {family}", act)


PART = Part("places", make, prepare, short=7, long=210)
