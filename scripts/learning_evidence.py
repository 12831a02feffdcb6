"""Runs seeds of a recipe for a time each, and compares them with published curves.

    python scripts/learning_evidence.py run OUT --experiment dmc_proprio_dreamerv3 \
        --tasks cartpole-balance walker-walk --seeds 1 --minutes 55 --parallel 2
    python scripts/learning_evidence.py report OUT --scores ../shared/scores \
        --name dreamerv3-dmc-proprio --title "DreamerV3, DeepMind Control from vectors"

`run` gives every run its share of the processors, ends it with SIGTERM when its minutes are over
and continues it when called again. `report` draws what was run over the published seeds, at equal
simulator steps (environment steps times action repeat), and writes the section `--name` of
docs/results.md. Words after `--` are overrides of every run.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from worldflux.errors import ConfigurationError, WorldFluxError
from worldflux.report.curves import EVAL, GRID, INK, TRAIN, compact
from worldflux.report.published import PublishedTask, published_task, rows_of
from worldflux.report.returns import series
from worldflux.run_folder.manifest import read_manifest
from worldflux.run_folder.metrics import read_metrics
from worldflux.run_folder.names import MANIFEST

ROOT = Path(__file__).resolve().parents[1]
PER_SEED = "published_per_seed.csv.gz"
COMMAND = [sys.executable, "-m", "worldflux.cli.main"]
MACHINE = "machine.json"
GRACE = 900  # seconds for the last update, the checkpoint and the replay's save
SEED_COLORS = (EVAL, "#0f766e", "#7c3aed", "#b45309", "#be185d")
FEWEST = 10  # episodes whose mean is a point


# Published seeds


@dataclass(frozen=True)
class PublishedCurve:
    """Scores of one method on one task, each seed by itself.

    seeds: per seed its points `[N, 2]` (simulator steps, score), in the order of steps.
    """

    source: str
    task: PublishedTask
    seeds: tuple[np.ndarray, ...]

    def at(self, steps: float) -> np.ndarray:
        """Score of every seed `[S]` at so many simulator steps, linear between two points; seeds
        that have no point before or none after it are left out."""
        inside = [s for s in self.seeds if s[0, 0] <= steps <= s[-1, 0]]
        return np.array([np.interp(steps, s[:, 0], s[:, 1]) for s in inside])


def read_published(folder: Path, task: PublishedTask) -> PublishedCurve | None:
    """A curve of ``published_per_seed.csv.gz`` in `folder`, None where the file has none.

    Columns: source, suite, task, method, seed, env_steps (simulator steps), score. Raises
    ConfigurationError if the file is missing or reads otherwise.
    """
    path = folder / PER_SEED
    points: dict[str, list[tuple[float, float]]] = {}
    source = ""
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            for row in rows_of(file, task):
                source = row["source"]
                point = (float(row["env_steps"]), float(row["score"]))
                points.setdefault(row["seed"], []).append(point)
    except (OSError, KeyError, ValueError) as error:
        raise ConfigurationError(f"cannot read the published scores {path}: {error}") from error
    if not points:
        return None
    seeds = tuple(np.array(sorted(values)) for _, values in sorted(points.items()))
    return PublishedCurve(source, task, seeds)


# Running


@dataclass
class Job:
    task: str
    seed: int
    folder: Path


@dataclass
class Running:
    """A started job; `poll` ends it when its time is over."""

    job: Job
    process: subprocess.Popen[bytes]
    cores: list[int]
    deadline: float
    reported: bool = False

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        over = time.monotonic() - self.deadline
        code = self.process.poll()
        if code is None and over > 0 and not self.reported:
            self.process.send_signal(signal.SIGTERM)
            self.reported = True
        if code is None and over > GRACE:
            self.process.kill()
        return code


def run(options: argparse.Namespace) -> int:
    """Runs all tasks and seeds, `--parallel` at a time; returns 1 if a run failed."""
    options.out.mkdir(parents=True, exist_ok=True)
    cores = sorted(os.sched_getaffinity(0))
    share = max(1, len(cores) // options.parallel)
    write_machine(options, len(cores), share)
    jobs = [
        Job(task, seed, options.out / task / f"seed{seed}")
        for seed in options.seeds
        for task in options.tasks
    ]
    jobs = [job for job in jobs if status(job.folder) != "completed"]
    free = [cores[i * share : (i + 1) * share] for i in range(options.parallel)]
    running: list[Running] = []
    failed = 0
    while jobs or running:
        while jobs and free:
            running.append(start(jobs.pop(0), options, free.pop(0)))
        time.sleep(1)
        for one in list(running):
            if (code := one.poll()) is None:
                continue
            running.remove(one)
            free.append(one.cores)
            failed += code != 0
            print(f"{one.job.folder}: {status(one.job.folder)}, exit code {code}", flush=True)
    return int(failed > 0)


def start(job: Job, options: argparse.Namespace, cores: list[int]) -> Running:
    command = list(COMMAND)
    if status(job.folder) is not None:
        command += [f"resume={job.folder}"]
    else:
        command += [
            f"+experiment={options.experiment}",
            f"env.id={job.task}",
            f"training.seed={job.seed}",
            f"hydra.run.dir={job.folder}",
            *options.overrides,
        ]
    print(" ".join(command[1:]), flush=True)
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(len(cores))}
    with open(job.folder.parent / f"{job.folder.name}.log", "ab") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env=environment,
            preexec_fn=functools.partial(os.sched_setaffinity, 0, cores),
        )
    return Running(job, process, cores, time.monotonic() + 60 * options.minutes)


def status(folder: Path) -> str | None:
    """A run's status; None where no run has begun."""
    return read_manifest(folder)["status"] if (folder / MANIFEST).exists() else None


def write_machine(options: argparse.Namespace, cores: int, share: int) -> None:
    facts = {
        "processor": processor(),
        "cores": cores,
        "cores_per_run": share,
        "runs_at_a_time": options.parallel,
        "minutes_per_run": options.minutes,
    }
    (options.out / MACHINE).write_text(json.dumps(facts, indent=2) + "\n")


def processor() -> str:
    """The processor's name as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


# Reporting


@dataclass
class Run:
    """One run, as far as it came."""

    manifest: dict[str, Any]
    curve: np.ndarray  # [N, 2]: simulator steps, score

    @property
    def task(self) -> str:
        return self.manifest["env"]["id"]

    @property
    def repeat(self) -> int:
        return self.manifest["env"]["action_repeat"]

    @property
    def steps(self) -> int:
        return self.manifest["env_steps"] * self.repeat


def read_run(folder: Path, score: str) -> Run:
    """score: ``episodes``, the mean of the newest training episodes (as many as environments, at
    least FEWEST), or ``evaluations``."""
    manifest, records = read_manifest(folder), read_metrics(folder)
    repeat = manifest["env"]["action_repeat"]
    points = series(records, "episode/return" if score == "episodes" else "eval/return")
    points[:, 0] *= repeat
    if score == "episodes" and len(points):
        points = newest_mean(points, max(FEWEST, manifest["env"]["num_envs"]))
    return Run(manifest, points)


def newest_mean(points: np.ndarray, count: int) -> np.ndarray:
    """Episodes `[N, 2]` to the mean of the newest `count` at each step at which some ended."""
    ends = np.flatnonzero(np.diff(points[:, 0], append=np.inf))
    means = [points[max(0, end + 1 - count) : end + 1, 1].mean() for end in ends]
    return np.column_stack([points[ends, 0], means])


def published_of(run_: Run, scores: Path) -> PublishedCurve | None:
    """The published curve of a run's task and family."""
    task = published_task(run_.manifest)
    return None if task is None else read_published(scores, task)


def report(options: argparse.Namespace) -> int:
    """Writes the section of docs/results.md and its picture."""
    folders = sorted({p.parent for out in options.out for p in out.rglob(MANIFEST)})
    runs = [read_run(folder, options.score) for folder in folders]
    if not runs:
        print(f"learning_evidence: no run in {options.out}", file=sys.stderr)
        return 2
    machines = [json.loads(p.read_text()) for out in options.out for p in out.rglob(MACHINE)]
    tasks = {run_.task: [r for r in runs if r.task == run_.task] for run_ in runs}
    curves = {
        task: published_of(of_task[0], options.scores) if options.scores else None
        for task, of_task in tasks.items()
    }
    picture = options.docs / "results" / f"{options.name}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(tasks, curves, options.score).savefig(picture, dpi=130)
    text = section(options, runs, curves, machines)
    page = options.docs / "results.md"
    page.write_text(with_section(page.read_text(), options.name, text))
    print(f"{page}, {picture}")
    return 0


def section(
    options: argparse.Namespace,
    runs: list[Run],
    curves: dict[str, PublishedCurve | None],
    machines: list[dict[str, Any]],
) -> str:
    lines = [
        f"## {options.title or options.name}",
        "",
        f"![learning curves](results/{options.name}.png)",
        "",
    ]
    lines += [
        "| task | seed | updates | simulator steps | hours | score | published at these steps: mean (min to max) |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [row(run_, curves[run_.task]) for run_ in runs]
    what = "training episodes" if options.score == "episodes" else "evaluation episodes"
    lines += ["", f"Score: mean of the newest {what}."]
    lines += list(dict.fromkeys(settings(run_.manifest) for run_ in runs))
    lines += list(dict.fromkeys(map(machine_line, machines)))
    versions = {json.dumps(r.manifest["versions"], sort_keys=True): r.manifest for r in runs}
    for manifest in versions.values():
        versions = manifest["versions"]
        lines.append(
            f"Python {versions['python']}, torch {versions['torch']}, commit {manifest['git_commit']}."
        )
    if options.note:
        lines += ["", options.note]
    return "\n".join(lines)


def machine_line(facts: dict[str, Any]) -> str:
    return (
        f"Machine: {facts['processor']}, {facts['cores_per_run']} of {facts['cores']} cores for "
        f"each run, {facts['runs_at_a_time']} at a time."
    )


def settings(manifest: dict[str, Any]) -> str:
    """What a run was trained with, as its manifest tells it."""
    training, env = manifest["training_config"], manifest["env"]
    precision = training["mixed_precision_dtype"] if training["mixed_precision"] else "float32"
    return (
        f"Settings: {manifest['model_config']['model_name']}, batch {training['batch_size']}x"
        f"{training['sequence_length']}, train ratio {manifest['train_ratio']:g} "
        f"({manifest['collect_steps_per_update']:g} environment steps per update), "
        f"{env['num_envs']} environments, action repeat {env['action_repeat']}, {precision}."
    )


def row(run_: Run, curve: PublishedCurve | None) -> str:
    manifest = run_.manifest
    hours = manifest["runtime_profile"]["elapsed_sec"] / 3600
    at, score = run_.curve[-1] if len(run_.curve) else (float(run_.steps), float("nan"))
    there = np.array([]) if curve is None else curve.at(at)
    published = "none"
    if len(there):
        published = (
            f"{there.mean():.0f} ({there.min():.0f} to {there.max():.0f}, {len(there)} seeds)"
        )
    shown = f"{score:.0f} at {at:,.0f}" if len(run_.curve) else "no episode ended"
    return (
        f"| {run_.task} | {manifest['seed']} | {manifest['global_step']:,} | {run_.steps:,} "
        f"| {hours:.2f} | {shown} | {published} |"
    )


def with_section(page: str, name: str, text: str) -> str:
    """The page with the section between its markers, at the end if it is new."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    made = f"{begin}\n{text}\n{end}"
    if begin in page:
        return page[: page.index(begin)] + made + page[page.index(end) + len(end) :]
    return f"{page.rstrip()}\n\n{made}\n"


def draw(
    tasks: dict[str, list[Run]], curves: dict[str, PublishedCurve | None], score: str
) -> Figure:
    """One panel per task: published seeds in blue with their range, ours over them."""
    figure = Figure(figsize=(5 * len(tasks), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (task, runs) in zip(
        figure.subplots(1, len(tasks), squeeze=False)[0], tasks.items(), strict=True
    ):
        reach = max(run_.steps for run_ in runs)
        draw_published(axes, curves[task], reach)
        for index, run_ in enumerate(runs):
            label = f"WorldFlux, seed {run_.manifest['seed']}"
            color = SEED_COLORS[index % len(SEED_COLORS)]
            axes.plot(*run_.curve.T, "o-", color=color, linewidth=1.8, markersize=3, label=label)
        axes.set_title(task, loc="left", color=INK, fontsize=11)
        axes.set_xlabel("simulator steps", color=INK)
        axes.set_ylabel(
            "training return" if score == "episodes" else "evaluation return", color=INK
        )
        if all((run_.curve[:, 1] >= 0).all() for run_ in runs):
            axes.set_ylim(bottom=0)
        axes.grid(color=GRID, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_formatter(lambda value, _: compact(value))
        axes.legend(frameon=False, fontsize=8)
    return figure


def draw_published(axes: Any, curve: PublishedCurve | None, reach: float) -> None:
    if curve is None:
        return
    grid = np.unique(np.concatenate([seed[:, 0] for seed in curve.seeds]))
    after = grid[grid >= reach]
    x = grid[grid <= (after[0] if len(after) else grid[-1])]
    x, known = zip(*[(at, there) for at in x if len(there := curve.at(at))], strict=True)
    low, high = [v.min() for v in known], [v.max() for v in known]
    axes.fill_between(x, low, high, color=TRAIN, alpha=0.2, linewidth=0)
    mean = [v.mean() for v in known]
    label = f"published, {len(curve.seeds)} seeds: mean and range"
    axes.plot(x, mean, color=TRAIN, linewidth=1.8, label=label)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = made.add_subparsers(dest="verb", required=True)
    runner = verbs.add_parser("run", help="train")
    runner.add_argument("out", type=Path)
    runner.add_argument("--experiment", required=True, help="a recipe of conf/experiment")
    runner.add_argument("--tasks", nargs="+", required=True, metavar="ENV_ID")
    runner.add_argument("--seeds", nargs="+", type=int, default=[1])
    runner.add_argument("--minutes", type=float, required=True, help="for each run")
    runner.add_argument("--parallel", type=int, default=1, help="runs at a time")
    reporter = verbs.add_parser("report", help="compare and write docs/results.md")
    reporter.add_argument("out", type=Path, nargs="+")
    reporter.add_argument(
        "--scores", type=Path, help="folder of published scores, if there are any"
    )
    reporter.add_argument("--note", help="a paragraph for the section, such as the machine's load")
    reporter.add_argument("--name", required=True, help="section and picture")
    reporter.add_argument("--title", help="headline of the section")
    reporter.add_argument("--score", choices=["episodes", "evaluations"], default="episodes")
    reporter.add_argument("--docs", type=Path, default=ROOT / "docs")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    options = parser().parse_args(words[:cut])
    options.overrides = words[cut + 1 :]
    try:
        return run(options) if options.verb == "run" else report(options)
    except WorldFluxError as error:
        print(f"learning_evidence: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
