"""`worldflux report`: what a run or a sweep has come to, as text, picture and table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldflux.cli.guarded import guarded
from worldflux.errors import CheckpointError
from worldflux.run_folder.disk import shown
from worldflux.run_folder.manifest import plain, read_manifest
from worldflux.run_folder.names import MANIFEST
from worldflux.sweep import record, table
from worldflux.sweep.report import write_report
from worldflux.sweep.status import look
from worldflux.training.progress import duration

SWEEPS = Path("outputs") / "multirun"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="worldflux report",
        description="Draws the learning curve of a run, or the table and curves of a sweep, also "
        "while it goes on.",
    )
    made.add_argument(
        "folder", metavar="RUN|SWEEP", help=f"a folder; for a sweep in {SWEEPS} its name will do"
    )
    made.add_argument(
        "--by",
        nargs="+",
        default=[],
        metavar="KEY",
        help="overrides to group a sweep's jobs by, such as model (default: all but the seed)",
    )
    made.add_argument("-f", "--format", choices=("text", "json"), default="text")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (0, 2 wrong input)."""
    options = parser().parse_args(argv)
    return guarded("worldflux report", lambda: _main(options))


def _main(options: argparse.Namespace) -> int:
    folder = find(options.folder)
    if (folder / record.FILE).exists():
        summary, files = write_report(folder, options.by)
        found, told = table.document(summary), table.text(summary)
    elif options.by:
        raise CheckpointError(f"{shown(folder)} is a run: --by groups the jobs of a sweep")
    else:
        found, files = run_document(folder)
        told = run_text(found)
    if options.format == "json":
        print(json.dumps({**found, "files": [str(path) for path in files]}, indent=2))
    else:
        print("\n\n".join([told, " · ".join(shown(path) for path in files)]).rstrip())
    return 0


def find(name: str) -> Path:
    """The run or sweep that a name means; CheckpointError if there is none."""
    folder = Path(name)
    for path in (folder, SWEEPS / name):
        if (path / record.FILE).exists() or (path / MANIFEST).exists():
            return path.resolve()
    if not folder.exists():
        known = sorted(path.parent.name for path in SWEEPS.glob(f"*/{record.FILE}"))
        hint = f"; sweeps in {SWEEPS}: {', '.join(known)}" if known else ""
        raise CheckpointError(f"no run or sweep at {name}{hint}")
    text = f"{name} is neither a run (it has no {MANIFEST}) nor a sweep (no {record.FILE})"
    inside = sorted({path.parent for path in folder.glob(f"*/{MANIFEST}")})
    raise CheckpointError(text + (f"; it holds {len(inside)} runs" if inside else ""))


def run_document(folder: Path) -> tuple[dict[str, Any], list[Path]]:
    """What is to tell of a run, and the picture that was drawn."""
    from worldflux.report.curves import draw_run

    manifest, now = read_manifest(folder), look(folder, {})
    picture = draw_run(folder)
    env, model = manifest.get("env") or {}, manifest.get("model_config") or {}
    return {
        "run": str(folder),
        "state": str(now.state),
        "reason": now.reason,
        "env": env.get("id"),
        "model": " ".join(filter(None, (model.get("model_type"), model.get("model_name")))),
        "parameters": manifest.get("parameters"),
        "seed": manifest.get("seed"),
        "updates": now.updates,
        "total_updates": (manifest.get("training_config") or {}).get("total_steps"),
        "env_steps": now.env_steps,
        "episodes": manifest.get("episodes"),
        "seconds": now.seconds,
        "scores": plain(manifest.get("scores") or {}),
        "data_mode": manifest.get("data_mode"),
        "degraded_modes": manifest.get("degraded_modes") or [],
    }, [picture] if picture is not None else []


def run_text(found: dict[str, Any]) -> str:
    """The summary of a run for people."""
    number = table.number
    what = [found["env"], found["model"], f"seed {found['seed']}"]
    lines = [
        " · ".join(str(part) for part in what if part),
        f"{found['state']}, {_progress(found)}",
    ]
    if found["reason"]:
        lines.append(found["reason"])
    scores = found["scores"]
    if scores.get("last") is not None:
        line = f"evaluation return {number(scores['last'])} at update {number(scores['last_step'])}"
        if scores.get("best_step") not in (None, scores["last_step"]):
            line += f", best {number(scores['best'])} at update {number(scores['best_step'])}"
        lines.append(line)
    if scores.get("recent_training_return") is not None:
        lines.append(f"recent training episodes {number(scores['recent_training_return'])}")
    if found["degraded_modes"]:
        lines.append(f"degraded: {', '.join(found['degraded_modes'])}")
    return "\n".join(lines)


def _progress(found: dict[str, Any]) -> str:
    parts = [f"{table.number(found['updates'])} of {table.number(found['total_updates'])} updates"]
    parts.append(f"{table.number(found['env_steps'])} env steps")
    if found["seconds"] is not None:
        parts.append(duration(found["seconds"]))
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
