"""The files that tell how a sweep stands: its table and its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from worldflux.sweep import table
from worldflux.sweep.summary import Summary, summarize, write_csv


def write_report(
    root: Path, by: Sequence[str] = (), queued: Mapping[Path, str] | None = None
) -> tuple[Summary, list[Path]]:
    """The summary of the sweep in `root`, and the files it was written to. by: see `summarize`."""
    from worldflux.report.sweep_curves import draw_sweep

    summary = summarize(root, by, queued)
    groups = {
        table.label(group, summary): [job.folder for job in group.jobs] for group in summary.groups
    }
    picture = draw_sweep(root, groups, summary.record.name)
    return summary, [path for path in (write_csv(summary), picture) if path is not None]
