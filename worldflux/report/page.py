"""A report as one HTML file that opens without a network.

What stands in a run folder is the data of whoever made it: every text is escaped, charts get it as
JSON, pictures and videos as `data:` addresses, and the page's policy lets nothing run but the script
that this file puts there, and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from worldflux import __version__
from worldflux.report.chart_data import MOST_RUNS, chart_data, tones_of
from worldflux.report.comparison import ComparedRun, Comparison, Estimate, Task
from worldflux.report.configurations import texts
from worldflux.report.media import Medium, media_of
from worldflux.report.page_settings import settings_table
from worldflux.report.run import NONE, number
from worldflux.report.tables import extent, interval, reached
from worldflux.run_folder.disk import disk_errors, shown, where_allowed, write_atomic
from worldflux.training.progress import duration

PAGE = "report.html"
MEDIA_BYTES = 24 * 2**20  # of all pictures and videos in a page
SHAPES = {
    "mark": '<svg class="mark" viewBox="0 0 32 32" width="32" height="32" aria-hidden="true"><rect width="32"'
    ' height="32" rx="8" fill="#1d4ed8"/><path d="M5 20c4 0 4-9 8-9s4 11 8 11 3-7 6-7" fill="none"'
    ' stroke="#fff" stroke-width="2.6" stroke-linecap="round"/><circle cx="13" cy="11" r="2.6"'
    ' fill="#fdba74"/></svg>',
    "theme": '<button class="icon" id="theme" type="button" aria-label="Switch between light and dark"><svg'
    ' viewBox="0 0 20 20" aria-hidden="true"><circle cx="10" cy="10" r="7"/><path d="M10 3a7 7 0 0 1 0'
    ' 14z"/></svg></button>',
}


def write_page(
    folder: Path, comparison: Comparison, commands: Mapping[Path, str | None], title: str = ""
) -> Path | None:
    """Writes report.html into a folder, where it may be written. commands: what repeats each run, by its folder."""
    path = folder / PAGE
    with disk_errors("page", path), where_allowed(path):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, page(comparison, commands, title))
        return path
    return None


def page(comparison: Comparison, commands: Mapping[Path, str | None], title: str = "") -> str:
    """The document."""
    style, script = (
        "\n".join(_static(name) for name in names)
        for names in (("base.css", "page.css"), ("chart.js", "page.js"))
    )
    policy = (
        "default-src 'none'; img-src data:; media-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )
    head = title or " · ".join(task.name for task in comparison.tasks[:3]) or "WorldFlux"
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{escape(head)} · WorldFlux</title>",
            f"<style>{style}</style>\n</head>\n<body>",
            *_body(comparison, commands, head),
            f'<script type="application/json" id="data">{_data(comparison)}</script>',
            f'<script type="module">{script}</script>\n</body>\n</html>\n',
        ]
    )


def _static(name: str) -> str:
    return files("worldflux.report").joinpath("static", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _data(comparison: Comparison) -> str:
    """JSON that ends no script element."""
    text = json.dumps(chart_data(comparison), allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _body(comparison: Comparison, commands: Mapping[Path, str | None], head: str) -> Iterator[str]:
    runs, labels = comparison.runs, comparison.labels
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    counts = [_count(len(runs), "run")]
    if len(labels) > 1:
        counts.insert(0, _count(len(labels), "group"))
    subtitle = " · ".join([*counts, f"worldflux {__version__}", now])
    yield f'<header class="top">{SHAPES["mark"]}<div class="title"><h1>{escape(head)}</h1>'
    yield f"<p>{escape(subtitle)}</p></div>{SHAPES['theme']}</header>"
    yield '<noscript><p class="banner">The curves need JavaScript, which is switched off.</p></noscript>'
    if degraded := sorted({m for run in runs for m in run.manifest.get("degraded_modes") or ()}):
        text = (
            f"Degraded: {', '.join(map(str, degraded))}. What that means stands at the runs below."
        )
        yield f'<p class="banner" data-tone="warn">{escape(text)}</p>'
    yield "<main>"
    for i, task in enumerate(comparison.tasks):
        yield _task(i, task, labels)
    if len(labels) > 1 and comparison.tasks:
        yield _improvement(comparison)
    yield settings_table(runs, labels)
    if len(runs) <= MOST_RUNS:
        yield '<section class="card"><details class="more"><summary>Training metrics</summary>'
        yield '<div class="multiples" id="multiples"></div></details></section>'
    yield from _runs(comparison, commands)
    if comparison.left_out:
        rows = (f"<li>{escape(name)}: {escape(why)}</li>" for name, why in comparison.left_out)
        yield f'<section class="card"><h2>Left out</h2><ul class="plain">{"".join(rows)}</ul></section>'
    yield "</main>"
    text = "Intervals: 95 %, bootstrap over runs. IQM: interquartile mean (Agarwal et al. 2021)."
    yield f"<footer>{escape(text)}</footer>"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def tag(label: str, labels: Sequence[str]) -> str:
    """The name of a group with its colour."""
    tone = tones_of(labels)[label][0]
    return f'<span class="tag"><i class="{tone}"></i>{escape(label)}</span>'


def _task(i: int, task: Task, labels: Sequence[str]) -> str:
    note = escape(f"return of {task.kind} · {extent(task)}")
    parts = [
        f'<section class="card"><div class="head"><h2>{escape(task.name)}</h2>',
        f'<p class="note">{note}</p></div>',
        f'<div class="legends" id="legend-{i}"></div><div class="chart tall" id="chart-{i}"></div>',
        _table(task, labels),
    ]
    if task.uneven:
        first, last = (f"{end:,.0f}" for end in task.uneven)
        parts.append(
            f'<p class="hint">Runs end between {first} and {last} {escape(task.unit)}: final and best '
            "are each run's own. <code>--steps N</code> ends all curves at N.</p>"
        )
    if i == 0:
        parts.append(
            '<p class="hint">Drag over the curves, or pinch, to enlarge a part; a double click shows all. '
            "Thick: interquartile mean of the runs with its interval; thin: runs. Mean height: area "
            "under the curve over the steps that all runs have, by their number.</p>"
        )
    return "".join([*parts, "</section>"])


def _table(task: Task, labels: Sequence[str]) -> str:
    goal = task.threshold is not None
    heads = [
        "Final",
        "Best",
        "Mean height",
        *([f"Steps to {number(task.threshold)}"] if goal else []),
    ]
    top = "".join(f'<th class="n">{escape(head)}</th>' for head in heads)
    top = f'<tr><th>Group</th><th class="n">Runs</th>{top}</tr>'
    highest = max(group.final.score for group in task.groups)
    rows = []
    for group in task.groups:
        best = " best" * (len(task.groups) > 1 and group.final.score == highest)
        cells = [_estimate(group.final, best), _estimate(group.best), _estimate(group.area)]
        if goal:
            cells.append(f'<td class="n"><b>{escape(reached(group))}</b></td>')
        rows.append(
            f"<tr><th>{tag(group.label, labels)}</th>"
            f'<td class="n">{len(group.members)}</td>{"".join(cells)}</tr>'
        )
    for one in task.published:
        steps, score, low, high = one.until(task.end)[-1]
        name = f"{one.label}, {one.kind}, at {steps:,.0f}"
        rows.append(
            f'<tr><th><span class="tag"><i class="grey"></i>{escape(name)}</span></th><td></td>'
            f"{_estimate(Estimate(score, (low, high)))}{'<td></td>' * (len(heads) - 1)}</tr>"
        )
    return f'<div class="scroll"><table><thead>{top}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def _estimate(estimate: Estimate | None, more: str = "") -> str:
    if estimate is None:
        return f'<td class="n">{NONE}</td>'
    low_high = f"<small>{interval(estimate)}</small>" if estimate.interval else ""
    return f'<td class="n{more}"><b>{number(estimate.score)}</b>{low_high}</td>'


def _improvement(comparison: Comparison) -> str:
    """Rows against columns: how probable it is that a run of the row ends higher."""
    pairs, labels = comparison.overall, comparison.labels
    head = "".join(f'<th class="n">{tag(label, labels)}</th>' for label in labels)
    rows = []
    for first in labels:
        cells = []
        for second in labels:
            one = pairs.get((first, second))
            if one is None and (mirrored := pairs.get((second, first))) is not None:
                one = mirrored.mirrored()
            cells.append("<td></td>" if one is None else _estimate(one))
        rows.append(f"<tr><th>{tag(first, labels)}</th>{''.join(cells)}</tr>")
    over = " (mean over the tasks that both have)" if len(comparison.tasks) > 1 else ""
    return (
        '<section class="card"><h2>Probability of improvement</h2><p class="hint">How often a run of the '
        f"row ends higher than one of the column{over}; equal ends count half.</p>"
        f'<div class="scroll"><table class="fit"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}'
        "</tbody></table></div></section>"
    )


def _runs(comparison: Comparison, commands: Mapping[Path, str | None]) -> Iterator[str]:
    runs = comparison.runs
    yield '<section class="card"><h2>Runs</h2>'
    left = MEDIA_BYTES
    for run in runs:
        media, too_large = media_of(run.folder, left)
        left -= sum(len(one.content) for one in media)
        command = commands.get(run.folder)
        yield _run(run, comparison.labels, media, too_large, command, len(runs) == 1)
    yield "</section>"


def _run(
    run: ComparedRun,
    labels: Sequence[str],
    media: Sequence[Medium],
    too_large: Sequence[str],
    command: str | None,
    opened: bool,
) -> str:
    scores = run.manifest.get("scores") or {}
    group = tag(run.label, labels) if len(labels) > 1 else escape(run.task)
    seed = run.manifest.get("seed")
    parts = [
        f'<details class="run"{" open" * opened}><summary><span class="who">{escape(run.name)}</span>',
        f'<span class="in">{group}<small> · seed {escape(str(seed))}</small></span>',
        f'<span class="n">{number(scores.get("last"))}</span>',
        f'<span class="pill" data-state="{escape(str(run.state))}"><span class="dot"></span>',
        f'{escape(str(run.state))}</span></summary><div class="body">',
    ]
    if run.manifest.get("error"):
        parts.append(f'<p class="bad">{escape(" ".join(str(run.manifest["error"]).split()))}</p>')
    if command:
        parts.append(
            f'<div><dt>Repeats this run</dt><div class="command"><code>{escape(command)}</code>'
            '<button type="button" hidden>Copy</button></div></div>'
        )
    cells = (f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts(run).items())
    parts.append(f"<dl>{''.join(cells)}</dl>")
    if media:
        parts.append(f'<div class="media">{"".join(one.html() for one in media)}</div>')
    if too_large:
        text = f"Too large for this page, in the run folder: {', '.join(too_large)}"
        parts.append(f'<p class="hint">{escape(text)}</p>')
    return "".join([*parts, "</div></details>"])


def facts(run: ComparedRun) -> dict[str, str]:
    """What the manifest says of a run, for people."""
    manifest: Mapping[str, Any] = run.manifest
    model, host = manifest.get("model_config") or {}, manifest.get("host") or {}
    versions, profile = manifest.get("versions") or {}, manifest.get("runtime_profile") or {}
    scores, modes = manifest.get("scores") or {}, manifest.get("degraded_modes") or []
    rows = {
        "Environment": run.task,
        "Model": " ".join(str(model[k]) for k in ("model_type", "model_name") if model.get(k)),
        "Parameters": number(manifest.get("parameters")),
        "Updates": number(manifest.get("global_step")),
        "Environment steps": number(manifest.get("env_steps")),
        "Best evaluation": number(scores.get("best")),
        "Trained for": duration(profile["elapsed_sec"]) if profile.get("elapsed_sec") else "",
        "Device": manifest.get("device"),
        "Machine": ", ".join(
            str(text)
            for text in (
                host.get("platform"),
                host.get("cpu_count") and f"{host['cpu_count']} cores",
            )
            if text
        ),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Commit": manifest.get("git_commit"),
        "Data": manifest.get("data_mode"),
        "Counts as": manifest.get("run_classification"),
        "Degraded modes": ", ".join(map(str, modes)) or "none",
        "Notes": run.settings.get("run.notes"),
        "Tags": ", ".join(texts(run.settings.get("run.tags"))),
        "Folder": shown(run.folder),
    }
    return {name: str(value) for name, value in rows.items() if value not in (None, "", NONE)}
