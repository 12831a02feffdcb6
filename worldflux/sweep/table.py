"""A sweep as text for people and as an object for machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from worldflux.run_folder.manifest import plain
from worldflux.sweep.jobs import SEED, text_of
from worldflux.sweep.status import JobStatus
from worldflux.sweep.summary import Group, Summary

NONE = "-"
WIDTH = 100


def jobs_table(jobs: Sequence[JobStatus], shared: Mapping[str, Any]) -> str:
    """One line for each job; what all share is left out."""
    rows = [["job", "state", "updates", "env steps", "score", ""]]
    for job in jobs:
        own = {key: value for key, value in job.overrides.items() if key not in shared}
        rows.append(
            [
                text_of(own) if own else NONE,
                str(job.state),
                number(job.updates),
                number(job.env_steps),
                number(job.score),
                short(job.reason or job.where or ""),
            ]
        )
    return aligned(rows, right=(2, 3, 4))


def groups_table(summary: Summary) -> str:
    """One line for each group: interquartile mean of its completed jobs, with interval."""
    rows = [["group", "completed", "score (IQM)", "95 % interval"]]
    for group in summary.groups:
        interval = NONE
        if group.interval is not None:
            interval = f"{number(group.interval[0])} to {number(group.interval[1])}"
        done = f"{group.completed}/{len(group.jobs)}"
        rows.append([label(group, summary), done, number(group.score), interval])
    return aligned(rows, right=(1, 2))


def label(group: Group, summary: Summary) -> str:
    """What tells a group from the others."""
    own = {key: value for key, value in group.overrides.items() if key not in summary.shared}
    return text_of(own) if own else "all jobs"


def jobs_text(jobs: Sequence[JobStatus], shared: Mapping[str, Any]) -> str:
    """The jobs, after what they share."""
    told = {key: value for key, value in shared.items() if key != SEED}
    lines = [fill(f"all with {text_of(told)}", WIDTH, subsequent_indent="  "), ""] if told else []
    return "\n".join([*lines, jobs_table(jobs, shared)])


def text(summary: Summary) -> str:
    """The whole result."""
    lines = [f"sweep {summary.record.name}: {summary.states()}"]
    lines += [jobs_text(summary.jobs, summary.shared), "", groups_table(summary)]
    if summary.unstarted:
        lines += ["", f"never started, of earlier commands: {len(summary.unstarted)} jobs"]
    return "\n".join(lines)


def document(summary: Summary) -> dict[str, Any]:
    """The result as one JSON object."""
    jobs = [
        {**plain(job), "folder": str(job.folder), "overrides": plain(job.overrides)}
        for job in summary.jobs
    ]
    groups = [
        {
            "overrides": plain(group.overrides),
            "jobs": [job.name for job in group.jobs],
            "completed": group.completed,
            "score": group.score,
            "interval": group.interval,
        }
        for group in summary.groups
    ]
    return {
        "sweep": summary.record.name,
        "folder": str(summary.root),
        "confidence": 0.95,
        "jobs": jobs,
        "groups": groups,
        "unstarted": summary.unstarted,
    }


def aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows of cells as lines with aligned columns; `right`: columns aligned to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def number(value: float | None) -> str:
    """A count with thousands, a score with four digits, `-` for nothing."""
    if value is None:
        return NONE
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def short(reason: str, length: int = WIDTH) -> str:
    return reason if len(reason) <= length else reason[: length - 1] + "…"
