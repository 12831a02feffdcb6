"""`worldflux verify`: what can be checked of a finished run, and what that proves."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from worldflux.cli.guarded import guarded
from worldflux.errors import ConfigurationError
from worldflux.models.families import family_of_type
from worldflux.project.schema import FILE as PROJECT_FILE
from worldflux.project.schema import load_config
from worldflux.report.published import ADDRESS_OF
from worldflux.run_folder.manifest import plain, read_manifest
from worldflux.run_folder.names import MANIFEST, METRICS
from worldflux.verify.proof import AT_PAR, BETTER, Proof, prove
from worldflux.verify.quick import FAILED, PASSED, Quick, verify_quick
from worldflux.verify.target import runs_below

MODES = ("quick", "proof")
MODE_VARIABLE = "WORLDFLUX_VERIFY_MODE"
PROTOCOL = "2.0"
EVIDENCE = "worldflux.verify.evidence.v1"
SEED = 2_000_003  # apart from the seeds of training, of its evaluations and of `worldflux eval`
MARKS = {PASSED: "[green]ok[/]", FAILED: "[red]FAILED[/]"}
# Flags of older versions whose meaning is gone, with the reason.
GONE = {
    "tier": "there are no tiers: --episodes sets how much is played",
    "demo": "it checked nothing; --mode quick takes under a minute on a small task",
    "backend_profile": "only worldflux's own training is verified",
    "allow_official_only": "the official code is not run; published scores ship with the package",
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="worldflux verify",
        description="Checks a finished run (quick), or compares seeds with published scores (proof).",
        epilog="exit codes: 0 the finding is positive, 1 it is not, 2 wrong input",
    )
    made.add_argument(
        "--target",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="run folders, or a folder of runs: quick takes the newest, proof all of them",
    )
    made.add_argument("--mode", choices=["auto", *MODES, "cloud"], default="auto")
    made.add_argument("--episodes", type=int, default=10, metavar="N", help="quick: to play (10)")
    made.add_argument("--seed", type=int, default=SEED, help="quick: of the episodes")
    made.add_argument("--device", default="cpu", help="quick: cpu (default), auto, cuda…")
    made.add_argument("--env", help="must be the environment of the run")
    made.add_argument("--baseline", help="proof: official/FAMILY, as the run")
    made.add_argument(
        "--margin", type=float, default=0.05, help="proof: what counts as equal (0.05)"
    )
    made.add_argument("--format", choices=["rich", "json", "badge"], default="rich")
    made.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the JSON result too")
    made.add_argument(
        "--evidence-bundle", type=Path, metavar="DIR", help="copy result and evidence"
    )
    made.add_argument(
        "-c", "--config", type=Path, metavar="FILE", help="worldflux.toml: its [verify]"
    )
    made.add_argument("--backend", help=argparse.SUPPRESS)
    made.add_argument("--proof-claim", help=argparse.SUPPRESS)
    made.add_argument("--tier", help=argparse.SUPPRESS)
    made.add_argument("--demo", action="store_true", default=None, help=argparse.SUPPRESS)
    made.add_argument("--backend-profile", help=argparse.SUPPRESS)
    made.add_argument(
        "--allow-official-only", action="store_true", default=None, help=argparse.SUPPRESS
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (0, 1 for a negative finding, 2 wrong input)."""
    options = parser().parse_args(argv)
    return guarded("worldflux verify", lambda: _main(options))


def _main(options: argparse.Namespace) -> int:
    check_options(options)
    mode = chosen_mode(options)
    found = [run for target in options.target for run in runs_below(target)]
    runs = list(dict.fromkeys(run.resolve() for run in found))
    check_runs(options, runs)
    started = time.monotonic()
    if mode == "proof":
        proof = prove(runs, options.margin)
        result, positive, used = proof_result(proof), proof.verdict in (BETTER, AT_PAR), runs
    else:
        used = [runs[-1]]
        others = f" (the newest of {len(runs)})" if len(runs) > 1 else ""
        say = Console(stderr=True, quiet=options.format != "rich").print
        say(f"{used[0]}{others}", highlight=False)
        quick = verify_quick(
            used[0],
            episodes=options.episodes,
            device=options.device,
            seed=options.seed,
            say=lambda line: say(line, highlight=False),
        )
        result = quick_result(quick, time.monotonic() - started)
        positive = not result["blocking"]
    show(options.format, mode, result)
    write_outputs(options, mode, result, used)
    return 0 if positive else 1


def check_options(options: argparse.Namespace) -> None:
    """Flags that cannot act are refused with the reason."""
    for name, reason in GONE.items():
        if getattr(options, name) is not None:
            raise ConfigurationError(f"--{name.replace('_', '-')} is gone: {reason}")
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
        return options.mode
    told = toml_mode(options.config) or os.environ.get(MODE_VARIABLE) or "quick"
    if told not in MODES:
        raise ConfigurationError(f"{MODE_VARIABLE}={told}: expected one of {', '.join(MODES)}")
    return told


def check_runs(options: argparse.Namespace, runs: list[Path]) -> None:
    manifests = [read_manifest(run) for run in runs]
    for run, manifest in zip(runs, manifests, strict=True):
        env, family = manifest["env"]["id"], manifest["model_config"]["model_type"]
        if options.env is not None and options.env != env:
            raise ConfigurationError(f"--env {options.env}: {run} was trained in {env}")
        expected = f"official/{family_of_type(family).name}"
        if options.baseline not in (None, expected):
            raise ConfigurationError(f"--baseline {options.baseline}: {run} needs {expected}")


def quick_result(quick: Quick, seconds: float) -> dict[str, Any]:
    """The JSON object of a quick verification."""
    manifest, played, random = quick.manifest, quick.episodes, quick.random_episodes
    failed = [check for check in quick.checks if check.status == FAILED]
    # A run that openly learned from noise promised no return.
    smoke = manifest["data_mode"] == "random" and not manifest["degraded_modes"]
    excused = {"reproduced", "better than random"} if smoke else set()
    blocking = any(check.name not in excused for check in failed)
    reason = "; ".join(f"{check.name}: {check.finding}" for check in failed) or "every check passed"
    if smoke:
        reason = f"trained on random data, so its return proves nothing; {reason}"
    return {
        "passed": not failed,
        "target": str(quick.run),
        "checkpoint": quick.checkpoint,
        "env": manifest["env"]["id"],
        "episodes": 0 if played is None else len(played.returns),
        "mean_score": None if played is None else played.mean,
        "baseline_mean": None if random is None else random.mean,
        "elapsed_seconds": seconds,
        "protocol_version": PROTOCOL,
        "checks": [dataclasses.asdict(check) for check in quick.checks],
        "stats": {
            "sample_size": 0 if played is None else len(played.returns),
            "confidence": 0.95,
            "scores": [] if played is None else played.returns,
            "interval": None if played is None else played.interval(),
            "baseline": "random policy",
            "baseline_mean": None if random is None else random.mean,
            "baseline_std": None if random is None else float(np.std(random.returns)),
            "evaluation_horizon": None if played is None else float(np.mean(played.lengths)),
            "run_classification": manifest["run_classification"],
            "support_surface": manifest["support_surface"],
            "data_mode": manifest["data_mode"],
            "degraded_modes": manifest["degraded_modes"],
            "run_manifest": str(quick.run / MANIFEST),
        },
        "verdict_reason": reason,
        "workflow_status": "fail" if blocking else "warning" if failed or smoke else "pass",
        "blocking": blocking,
    }


def proof_result(proof: Proof) -> dict[str, Any]:
    """The JSON object of a proof."""
    published = proof.published
    return {
        "passed": proof.verdict in (BETTER, AT_PAR),
        "verdict": proof.verdict,
        "verdict_reason": proof.reason,
        "task": None if proof.task is None else dataclasses.asdict(proof.task),
        "simulator_steps": None if published is None else published.steps,
        "score_of": None if published is None else published.score_of,
        "source": None if published is None else ADDRESS_OF[published.source],
        "published_scores": None if published is None else published.scores,
        "published_iqm": proof.theirs,
        "iqm": proof.ours,
        "difference_interval": proof.interval,
        "confidence": 0.95,
        "protocol_version": PROTOCOL,
        "runs": [dataclasses.asdict(item) for item in proof.seeds],
    }


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
        mark = MARKS.get(check["status"], check["status"])
        table.add_row(mark, check["name"], f"{check['finding']}\n[dim]{check['proves']}[/]")
    console = Console(highlight=False)
    console.print(table)
    word = {"pass": "verified", "warning": "WARNING", "fail": "NOT verified"}
    console.print(f"{word[result['workflow_status']]}: {result['verdict_reason']}")


def show_proof(result: dict[str, Any]) -> None:
    console = Console(highlight=False)
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
    options: argparse.Namespace, mode: str, result: dict[str, Any], runs: list[Path]
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


def write_bundle(folder: Path, mode: str, text: str, runs: list[Path]) -> None:
    """Result, manifests and metrics in one folder, with their checksums."""
    (folder / "artifacts").mkdir(parents=True, exist_ok=True)
    result = folder / f"{mode}_result.json"
    result.write_text(text, encoding="utf-8")
    kept = []
    for index, run in enumerate(runs):
        for name in (MANIFEST, METRICS):
            if (run / name).exists():
                copy = folder / "artifacts" / f"run{index}_{name}"
                shutil.copyfile(run / name, copy)
                kept.append((run / name, copy))
    manifest = {
        "schema_version": EVIDENCE,
        "generated_at_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "mode": mode,
        "request": [str(run) for run in runs],
        "result": result.name,
        "artifacts": [
            {
                "source": str(source),
                "path": str(copy.relative_to(folder)),
                "sha256": hashlib.sha256(copy.read_bytes()).hexdigest(),
                "bytes": copy.stat().st_size,
            }
            for source, copy in kept
        ],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def toml_mode(path: Path | None) -> str | None:
    """[verify] mode of `path`, or of a worldflux.toml here; None for auto and where there is none."""
    if path is None:
        path = Path(PROJECT_FILE)
        if not path.exists():
            return None
    try:
        mode = load_config(path).verify.mode
    except FileNotFoundError as error:
        raise ConfigurationError(str(error)) from error
    return None if mode == "auto" else mode


if __name__ == "__main__":
    sys.exit(main())
