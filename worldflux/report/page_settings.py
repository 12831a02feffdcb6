"""The configurations of groups side by side, as a table of a page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from worldflux.report.chart_data import tones_of
from worldflux.report.comparison import ComparedRun
from worldflux.report.configurations import SPOKEN, differing, shown_value

MOST_VALUES = 4  # of a key within a group that are named
ABSENT = "–"


def settings_table(runs: Sequence[ComparedRun], labels: Sequence[str]) -> str:
    """A row for each key, a column for each group; what differs first, and marked where it is not as
    in the first group."""
    keys = list(dict.fromkeys(key for run in runs for key in sorted(run.settings)))
    different = differing(runs)
    tones = tones_of(labels)
    head = "".join(
        f'<th><span class="tag"><i class="{tones[label][0]}"></i>{escape(label)}</span></th>'
        for label in labels
    )
    rows = [_row(key, runs, labels, True) for key in different]
    same = [_row(key, runs, labels, False) for key in sorted(set(keys) - set(different))]
    if same:
        wide = f'<th colspan="{len(labels) + 1}">the same in all runs</th>'
        rows += [f'<tr class="section">{wide}</tr>', *same]
    table = (
        f'<div class="scroll"><table class="settings"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    if len(runs) == 1:
        summary = f"<summary>Configuration, {len(keys)} keys</summary>"
        return f'<section class="card"><details class="more all-keys">{summary}{table}</details></section>'
    return (
        '<section class="card"><div class="head"><h2>Configuration</h2><label class="switch"><input '
        f'type="checkbox" id="everything"> All keys</label></div><p class="hint">{len(different)} of '
        f"{len(keys)} keys differ; marked where they are not as in the first group.</p>{table}</section>"
    )


def _row(key: str, runs: Sequence[ComparedRun], labels: Sequence[str], differs: bool) -> str:
    cells = [_cell(key, [run for run in runs if run.label == label]) for label in labels]
    other = ' class="other"'
    marked = (
        f"<td{other * (differs and cell != cells[0])}><code>{escape(cell)}</code></td>"
        for cell in cells
    )
    kind = "" if differs else ' class="same"'
    return f"<tr{kind}><th>{escape(SPOKEN.get(key, key))}</th>{''.join(marked)}</tr>"


def _cell(key: str, runs: Sequence[ComparedRun]) -> str:
    """The values of a key in the runs of a group."""
    values = dict.fromkeys(
        shown_value(key, run.settings[key]) if key in run.settings else ABSENT for run in runs
    )
    some = list(values)[:MOST_VALUES]
    return ", ".join(some) + (", …" if len(values) > MOST_VALUES else "")
