"""What a run has come to: its curve, a JSON object, and text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldflux.run_folder.links import check_links
from worldflux.run_folder.manifest import plain, read_manifest
from worldflux.run_folder.state import RunState, run_state
from worldflux.training.progress import duration

NONE = "-"


def run_document(folder: Path) -> tuple[dict[str, Any], list[Path]]:
    """The run as one JSON object, and the picture that was drawn. CheckpointError: it cannot be
    read."""
    from worldflux.report.curves import draw_run

    check_links(folder)
    state, manifest = run_state(folder), read_manifest(folder)
    picture = draw_run(folder)
    env, model = manifest.get("env") or {}, manifest.get("model_config") or {}
    failed = state == RunState.FAILED
    return {
        "run": str(folder),
        "state": str(state),
        "reason": " ".join(str(manifest.get("error")).split()) if failed else None,
        "env": env.get("id"),
        "model": " ".join(filter(None, (model.get("model_type"), model.get("model_name")))),
        "parameters": manifest.get("parameters"),
        "seed": manifest.get("seed"),
        "updates": manifest.get("global_step"),
        "total_updates": (manifest.get("training_config") or {}).get("total_steps"),
        "env_steps": manifest.get("env_steps"),
        "episodes": manifest.get("episodes"),
        "seconds": manifest.get("runtime_profile", {}).get("elapsed_sec"),
        "scores": plain(manifest.get("scores") or {}),
        "data_mode": manifest.get("data_mode"),
        "degraded_modes": manifest.get("degraded_modes") or [],
    }, [picture] if picture is not None else []


def run_text(run: dict[str, Any]) -> str:
    """The `run_document` of a run as lines."""
    facts = [run["env"], run["model"], f"seed {run['seed']}"]
    progress = f"{number(run['updates'])} of {number(run['total_updates'])} updates"
    lines = [
        " · ".join(str(fact) for fact in facts if fact),
        f"{run['state']}, {progress}, {number(run['env_steps'])} env steps",
    ]
    if run["seconds"] is not None:
        lines[-1] += f", {duration(run['seconds'])}"
    if run["reason"]:
        lines.append(run["reason"])
    scores = run["scores"]
    if scores.get("last") is not None:
        line = f"evaluation return {number(scores['last'])} at update {number(scores['last_step'])}"
        if scores.get("best_step") not in (None, scores["last_step"]):
            line += f", best {number(scores['best'])} at update {number(scores['best_step'])}"
        lines.append(line)
    if scores.get("recent_training_return") is not None:
        lines.append(f"recent training episodes {number(scores['recent_training_return'])}")
    if run["degraded_modes"]:
        lines.append(f"degraded: {', '.join(run['degraded_modes'])}")
    return "\n".join(lines)


def number(value: float | None) -> str:
    """A count with thousands, a score with four digits, `-` for nothing."""
    if value is None:
        return NONE
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def aligned(rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    """Rows of cells as lines with aligned columns; `right`: columns aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    marks = [">" if column in right else "<" for column in range(len(widths))]
    layout = "  ".join(f"{{:{mark}{width}}}" for mark, width in zip(marks, widths, strict=True))
    return "\n".join(f"  {layout.format(*row)}".rstrip() for row in rows)
