"""A sweep for readers: text, JSON object, `sweep.csv` and its learning curves."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import fill
from typing import Any

from worldflux.config.overrides import typed
from worldflux.report.comparison import Choices, Comparison, compare, read_runs
from worldflux.report.run import NONE, aligned, number
from worldflux.run_folder.disk import disk_errors, where_allowed, write_atomic
from worldflux.run_folder.links import check_links
from worldflux.run_folder.manifest import plain
from worldflux.run_folder.names import MANIFEST, REPORT
from worldflux.run_folder.state import Ending
from worldflux.runner.repeat import words_of
from worldflux.sweep.jobs import SEED, rank, text_of, without_seed
from worldflux.sweep.status import JobStatus, counts
from worldflux.sweep.summary import Group, Summary, summarize

CSV = "sweep.csv"
FACTS = ("state", "updates", "env_steps", "score", "best", "seconds", "reason")
WIDTH = 100


def write_report(
    root: Path,
    by: Sequence[str] = (),
    queued: Mapping[Path, str] | None = None,
    ends: Mapping[Path, Ending] | None = None,
) -> tuple[Summary, list[Path]]:
    """The summary of the sweep in `root`, and the files it was written to. by: see `summarize`."""
    from worldflux.report.curves import draw_comparison

    check_links(root)
    summary = summarize(root, by, queued, ends)
    pictures = draw_comparison(root / REPORT, compared(summary, Choices()), summary.record.name)
    table = write_csv(summary)
    return summary, [*([] if table is None else [table]), *pictures]


def compared(summary: Summary, choices: Choices) -> Comparison:
    """The jobs of a sweep that have begun, beside each other, in the sweep's groups."""
    runs, left_out = [], []
    for group in summary.groups:
        begun = [job for job in group.jobs if (job.folder / MANIFEST).exists()]
        overrides = {job.folder: job.overrides for job in begun}
        read, unread = read_runs([job.folder for job in begun], words_of)
        left_out += unread
        for run in read:
            stratum = text_of(without_seed(overrides[run.folder]))
            runs.append(replace(run, label=label(group, summary), stratum=stratum))
    return compare(runs, choices, left_out)


def text(summary: Summary) -> str:
    """The whole result."""
    lines = [f"sweep {summary.record.name}: {counts(summary.jobs)}"]
    lines += [jobs_text(summary.jobs, summary.shared), "", groups_table(summary)]
    if summary.unstarted:
        lines += ["", f"never started, of earlier commands: {len(summary.unstarted)} jobs"]
    return "\n".join(lines)


def jobs_text(jobs: Sequence[JobStatus], shared: Mapping[str, Any]) -> str:
    """One line for each job, after the overrides that all share."""
    common = {key: value for key, value in shared.items() if key != SEED}
    lines = []
    if common:
        lines = [fill(f"all with {text_of(common)}", WIDTH, subsequent_indent="  "), ""]
    rows = [["job", "state", "updates", "env steps", "score", ""]]
    for job in jobs:
        numbers = map(number, (job.updates, job.env_steps, job.score))
        reason = job.reason or job.where or ""
        reason = reason if len(reason) <= WIDTH else reason[: WIDTH - 1] + "…"
        rows.append([text_of(job.overrides, shared) or NONE, str(job.state), *numbers, reason])
    return "\n".join([*lines, aligned(rows, right=(2, 3, 4))])


def groups_table(summary: Summary) -> str:
    """One line for each group: interquartile mean of its completed jobs, with interval."""
    rows = [["group", "completed", "score (IQM)", "95 % interval"]]
    for group in summary.groups:
        done = f"{group.completed}/{len(group.jobs)}"
        interval = " to ".join(map(number, group.interval)) if group.interval else NONE
        rows.append([label(group, summary), done, number(group.score), interval])
    return aligned(rows, right=(1, 2))


def label(group: Group, summary: Summary) -> str:
    """What sets a group apart from the others."""
    return text_of(group.overrides, summary.shared) or "all jobs"


def document(summary: Summary) -> dict[str, Any]:
    """The result as one JSON object."""
    groups = [
        {**vars(group), "jobs": [job.name for job in group.jobs], "completed": group.completed}
        for group in summary.groups
    ]
    return {
        "sweep": summary.record.name,
        "folder": str(summary.root),
        "confidence": 0.95,
        "jobs": plain(summary.jobs),
        "groups": plain(groups),
        "unstarted": summary.unstarted,
    }


def write_csv(summary: Summary) -> Path | None:
    """Writes `sweep.csv`, one row for each job with a column for each override; None where the folder
    may only be read."""
    keys = sorted({key for job in summary.jobs for key in job.overrides}, key=rank)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["folder", *keys, *FACTS])
    for job in summary.jobs:
        values = [typed(job.overrides[key]) if key in job.overrides else "" for key in keys]
        writer.writerow([job.name, *values, *(getattr(job, fact) for fact in FACTS)])
    path = summary.root / CSV
    with disk_errors("sweep table", path), where_allowed(path):
        write_atomic(path, file.getvalue())
        return path
    return None
