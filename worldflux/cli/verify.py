"""`worldflux verify`: what can be checked of a finished run, and what that proves."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from worldflux.cli.arguments import Parser
from worldflux.cli.guarded import guarded
from worldflux.cli.parser import TRUST
from worldflux.errors import ConfigurationError
from worldflux.models.families import family_of_type
from worldflux.project.schema import FILE, load_config
from worldflux.report.measurement import lines
from worldflux.run_folder.manifest import plain, read_manifest
from worldflux.verify.proof import MARGIN, prove
from worldflux.verify.quick import FAILED, PASSED, verify_quick
from worldflux.verify.result import proof_result, quick_result, write_bundle
from worldflux.verify.target import runs_below

MODES = ("quick", "proof")
MODE_VARIABLE = "WORLDFLUX_VERIFY_MODE"
SEED = 2_000_003  # apart from the seeds of training, of its evaluations and of `worldflux eval`
MARKS = {PASSED: Text("ok", "green"), FAILED: Text("FAILED", "red")}
WORDS = {"pass": "verified", "warning": "WARNING", "fail": "NOT verified"}
# Flags of older versions whose meaning is gone, with the reason.
GONE = {
    "--tier": "there are no tiers: --episodes sets how much is played",
    "--demo": "it checked nothing; --mode quick takes under a minute on a small task",
    "--backend-profile": "only worldflux's own training is verified",
    "--allow-official-only": "the official code is not run; published scores ship with the package",
}


def parser() -> Parser:
    made = Parser(
        prog="worldflux verify",
        description="Checks a finished run (quick), or compares seeds with published scores (proof).",
        epilog="exit codes: 0 the finding is positive, 1 it is not, 2 wrong input",
    )
    made.gone = {flag: f"is gone: {reason}" for flag, reason in GONE.items()}
    made.add_argument(
        "--target",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="run folders, or a folder of runs: quick takes the newest, proof all of them",
    )
    made.add_argument(
        "--mode",
        choices=["auto", *MODES, "cloud"],
        default="auto",
        help="default: auto, as worldflux.toml says; cloud is refused",
    )
    made.add_argument("--episodes", type=int, default=10, metavar="N", help="quick: to play (10)")
    made.add_argument("--seed", type=int, default=SEED, help="quick: of the episodes")
    made.add_argument("--trust", action="store_true", help=TRUST)
    made.add_argument("--device", default="cpu", help="quick: cpu (default), auto, cuda…")
    made.add_argument("--env", help="must be the environment of the run")
    made.add_argument("--baseline", help="proof: official/FAMILY, as the run")
    made.add_argument(
        "--margin", type=float, default=MARGIN, help=f"proof: what counts as equal ({MARGIN})"
    )
    made.add_argument(
        "--format", choices=["rich", "json", "badge"], default="rich", help="default: rich"
    )
    made.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the JSON result too")
    made.add_argument(
        "--evidence-bundle", type=Path, metavar="DIR", help="copy result and evidence"
    )
    made.add_argument(
        "-c", "--config", type=Path, metavar="FILE", help="worldflux.toml: its [verify]"
    )
    made.add_argument("--backend", help=argparse.SUPPRESS)
    made.add_argument("--proof-claim", help=argparse.SUPPRESS)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (0, 1 for a negative finding, 2 wrong input)."""
    return guarded("worldflux verify", lambda: _main(parser().read(argv)))


def _main(options: argparse.Namespace) -> int:
    check_options(options)
    mode = chosen_mode(options)
    runs = [run.resolve() for target in options.target for run in runs_below(target)]
    runs = list(dict.fromkeys(runs))
    check_runs(options, runs)
    if mode == "proof":
        result = proof_result(prove(runs, options.margin))
        positive = result["passed"]
    else:
        runs, count, started = runs[-1:], len(runs), time.monotonic()
        console = Console(
            stderr=True, quiet=options.format != "rich", highlight=False, markup=False
        )
        console.print(f"{runs[0]}{f' (the newest of {count})' if count > 1 else ''}")
        quick = verify_quick(
            runs[0],
            episodes=options.episodes,
            device=options.device,
            seed=options.seed,
            progress=console.print,
            trust=options.trust,
        )
        if options.format == "rich":
            for task, measurement in quick.model.items():
                print("\n".join([f"world model in {task}", *lines([measurement]), ""]))
        result = quick_result(quick, time.monotonic() - started)
        positive = not result["blocking"]
    show(options.format, mode, result)
    write_outputs(options, mode, result, runs)
    return 0 if positive else 1


def check_options(options: argparse.Namespace) -> None:
    """Flags that cannot act are refused with the reason."""
    if options.mode == "cloud":
        raise ConfigurationError("--mode cloud: there is no such service; use quick or proof")
    if options.backend not in (None, "native_torch"):
        raise ConfigurationError(f"--backend {options.backend}: only native_torch is verified")
    if options.proof_claim not in (None, "compare"):
        raise ConfigurationError(f"--proof-claim {options.proof_claim}: only compare is built")
    if options.episodes < 2:
        raise ConfigurationError(f"--episodes must be at least 2, got {options.episodes}")
    if not 0 < options.margin < 1:
        raise ConfigurationError(f"--margin must be between 0 and 1, got {options.margin}")


def chosen_mode(options: argparse.Namespace) -> str:
    """--mode, else [verify] mode of the toml, else WORLDFLUX_VERIFY_MODE, else quick."""
    if options.mode in MODES:
        return str(options.mode)
    if options.config is not None or Path(FILE).exists():
        try:
            mode = load_config(options.config or Path(FILE)).verify.mode
        except FileNotFoundError as error:
            raise ConfigurationError(str(error)) from error
        if mode != "auto":
            return mode
    mode = os.environ.get(MODE_VARIABLE) or "quick"
    if mode not in MODES:
        raise ConfigurationError(f"{MODE_VARIABLE}={mode}: expected one of {', '.join(MODES)}")
    return mode


def check_runs(options: argparse.Namespace, runs: Sequence[Path]) -> None:
    for run in runs:
        manifest = read_manifest(run)
        env, family = manifest["env"]["id"], manifest["model_config"]["model_type"]
        if options.env is not None and options.env != env:
            raise ConfigurationError(f"--env {options.env}: {run} was trained in {env}")
        expected = f"official/{family_of_type(family).name}"
        if options.baseline not in (None, expected):
            raise ConfigurationError(f"--baseline {options.baseline}: {run} needs {expected}")


def show(form: str, mode: str, result: dict[str, Any]) -> None:
    if form == "json":
        print(json.dumps(plain(result), indent=2))
    elif form == "badge":
        word = result["verdict"] if mode == "proof" else result["workflow_status"]
        color = "brightgreen" if result["passed"] else "orange" if word == "warning" else "red"
        badge = {"schemaVersion": 1, "label": f"worldflux {mode}", "message": word, "color": color}
        print(json.dumps(badge))
    elif mode == "proof":
        show_proof(result)
    else:
        show_quick(result)


def show_quick(result: dict[str, Any]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for check in result["checks"]:
        mark = MARKS.get(check["status"], Text(check["status"]))
        finding = Text(f"{check['finding']}\n").append(check["proves"], "dim")
        table.add_row(mark, check["name"], finding)
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print(f"{WORDS[result['workflow_status']]}: {result['verdict_reason']}")


def show_proof(result: dict[str, Any]) -> None:
    console = Console(highlight=False, markup=False)
    for run in result["runs"]:
        score = "no score" if run["score"] is None else f"{run['score']:.4g}"
        console.print(
            f"seed {run['seed']}: {score} · {run['steps']:,} simulator steps · {run['run']}"
        )
    if result["published_scores"]:
        console.print(
            f"{result['task']['name']} at {result['simulator_steps']:,} simulator steps, "
            f"{result['score_of']}; published by {result['source']}"
        )
        if result["iqm"] is not None:
            low, high = result["difference_interval"]
            console.print(
                f"interquartile mean {result['iqm']:.4g}, published {result['published_iqm']:.4g} "
                f"({len(result['published_scores'])} seeds); difference {low:.4g} to {high:.4g} "
                "(95 % stratified bootstrap interval)"
            )
    console.print(f"{result['verdict']}: {result['verdict_reason']}")


def write_outputs(
    options: argparse.Namespace, mode: str, result: dict[str, Any], runs: Sequence[Path]
) -> None:
    """The files of --output and --evidence-bundle."""
    text = json.dumps(plain(result), indent=2) + "\n"
    try:
        if options.output is not None:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(text, encoding="utf-8")
        if options.evidence_bundle is not None:
            write_bundle(options.evidence_bundle, mode, text, runs)
    except OSError as error:
        raise ConfigurationError(f"cannot write {error.filename}: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
