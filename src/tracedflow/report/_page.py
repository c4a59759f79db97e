"""The page put together. Every text from outside is escaped; its own policy forbids the page to load anything."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files

from ..drawing import execution_svg, style_sheet
from ..inspect.accounting import account
from ..inspect.critical import PARTS
from ..inspect.durations import short
from ..inspect.executions import executions_of
from ..inspect.recorded import why
from ..inspect.trace_file import RecordedRun
from ..outcomes import FAILURES
from ..representation import WorkflowGraph
from ._rows import joins, timeline

Cells = Sequence[str]


def page(run: RecordedRun, graph: WorkflowGraph, rows: int, *, made_at: float) -> str:
    """Return the page, with at most `rows` rows in each table."""
    script = _asset("report.js")
    digest = b64encode(sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    sections = [
        ("Why", f"<pre>{escape(why(run))}</pre>"),
        ("Critical path", _path(run)),
        ("Waterfall", _waterfall(run, rows)),
        ("Graph", _graph(run, graph)),
        ("Steps", _steps(run)),
        ("Attempts", _attempts(run, rows)),
        ("Joins", _joins(run, rows)),
        ("Payloads", _payloads(run, rows)),
        ("Logs", _logs(run, rows)),
    ]
    shown = [(name, body) for name, body in sections if body]
    links = "".join(f'<a href="#{_slug(name)}">{name}</a>' for name, _ in shown)
    body = "".join(f'<section id="{_slug(name)}"><h2>{name}</h2>{text}</section>' for name, text in shown)
    made = datetime.fromtimestamp(made_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        '<!doctype html>\n<html lang="en" class="tf">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(run.workflow)} {escape(run.run_id)}</title>\n'
        f"<style>{style_sheet()}</style>\n<style>{_asset('report.css')}</style>\n</head>\n<body>\n"
        f"{_header(run)}<nav>{links}</nav>\n<main>{body}</main>\n<footer>Made by tracedflow, {made}.</footer>\n"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _header(run: RecordedRun) -> str:
    tone = "good" if run.outcome == "success" else "bad" if run.outcome in FAILURES else "odd"
    facts = [
        f"run {run.run_id}",
        datetime.fromtimestamp(run.started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if run.started > 1e9 else "",
        short(run.duration) if run.duration is not None else "no end on record",
        f"trace {run.trace_id}" if run.trace_id else "not traced",
        f"segment {run.segments}" if run.segments > 1 else "",
        f"of run {run.parent_run_id}" if run.parent_run_id else "",
        *(f"{name}={value}" for name, value in run.tags.items()),
    ]
    return (
        f'<header><h1>{escape(run.workflow)}</h1><span class="verdict {tone}">{escape(run.outcome)}</span>'
        f'<span class="facts">{escape(" · ".join(fact for fact in facts if fact))}</span>'
        '<button type="button" data-do="theme" aria-label="Light or dark">◐</button></header>\n'
    )


def _path(run: RecordedRun) -> str:
    if not run.attempts:
        return ""
    found = account(run.attempts, run.started, run.ended)
    whole = found.wall or 1.0
    bar = "".join(
        f'<i class="p-{part}" style="width:{seconds / whole:.3%}" title="{part} {short(seconds)}"></i>'
        for part, seconds in found.parts.items()
        if seconds > 0
    )
    key = "".join(
        f'<span><i class="p-{part}"></i>{part} {short(found.parts[part])} <b>{found.parts[part] / whole:.0%}</b></span>'
        for part in PARTS
        if found.parts[part] > 0
    )
    hops = found.path.hops
    shown = hops if len(hops) <= 30 else [*hops[:15], *hops[-15:]]
    names = " → ".join(f"{escape(hop.step)} <small>{short(hop.duration)}</small>" for hop in shown)
    more = f"<p class=more>{len(hops) - len(shown)} hops in the middle are not shown.</p>" if len(shown) < len(hops) else ""
    stack = f'<div class="stack" role="img" aria-label="Parts of the critical path">{bar}</div>'
    return f'{stack}<p class="key">{key}</p><p class="hops">{names}</p>{more}'


def _waterfall(run: RecordedRun, rows: int) -> str:
    drawn, left = timeline(run, rows)
    if not drawn:
        return ""
    tools = (
        '<div class="tools" role="toolbar" aria-label="Zoom"><button type="button" data-do="out" aria-label="Zoom out">&minus;</button>'
        '<button type="button" data-do="in" aria-label="Zoom in">+</button><button type="button" data-do="fit">Fit</button>'
        "<small>+ and &minus; zoom, arrows move, 0 fits</small></div>"
    )
    more = f"<p class=more>{left} shorter step executions are not shown.</p>" if left else ""
    return f'{tools}<div class="fall" tabindex="0" aria-label="Waterfall">{drawn}</div>{more}'


def _graph(run: RecordedRun, graph: WorkflowGraph) -> str:
    return (
        f'<div class="graph" tabindex="0" aria-label="Graph of what caused what">{execution_svg(run.attempts, graph)}</div>'
        if run.attempts
        else ""
    )


def _steps(run: RecordedRun) -> str:
    if not run.attempts:
        return ""
    found = account(run.attempts, run.started, run.ended)
    rows = [
        (
            escape(each.step),
            str(each.executions),
            *(
                _time(seconds)
                for seconds in (each.on_path, each.running, each.blocked, each.queued, each.backoff, each.waiting, each.joining)
            ),
        )
        for each in found.steps
    ]
    return _table(("Step", "Runs", "On the path", "Running", "Loop blocked", "Queued", "Backoff", "Waiting", "Joining"), rows)


def _attempts(run: RecordedRun, rows: int) -> str:
    if not run.attempts:
        return ""
    ordered = sorted(run.attempts, key=lambda record: (record.outcome not in FAILURES, record.attempt == 1, record.started_at))
    kept = sorted(ordered[:rows], key=lambda record: (record.started_at, record.execution))
    cells = [
        (
            f"{escape(each.step)} <small>#{each.execution}</small>",
            str(each.attempt),
            f'<span class="{"bad" if each.outcome in FAILURES else ""}">{escape(each.outcome)}</span>',
            escape((each.error or "").rpartition(".")[2]),
            escape(_counted(each.events_in)),
            escape(_counted(each.events_out)),
            short(each.started_at - run.started),
            short(each.running),
            _time(each.queued),
            escape(", ".join(f"{name} {value:g} {unit}" for name, value, unit in each.measurements)[:120]),
        )
        for each in kept
    ]
    heads = ("Step", "Attempt", "Outcome", "Error", "From", "Sent", "At", "Running", "Queued", "Measured")
    more = (
        f"<p class=more>{len(ordered) - len(kept)} more attempts are not shown: the failed and repeated come first.</p>"
        if len(kept) < len(ordered)
        else ""
    )
    search = '<input type="search" placeholder="Filter, by step, outcome, event …" aria-label="Filter the attempts">'
    return search + _table(heads, cells, kind="attempts") + more


def _counted(events: Sequence[tuple[int, str]]) -> str:
    """Name the types of events, each once, with how many there were."""
    found = Counter(kind for _, kind in events)
    return ", ".join(kind if count == 1 else f"{kind} ×{count}" for kind, count in found.items())


def _joins(run: RecordedRun, rows: int) -> str:
    found = joins(executions_of(run.attempts))
    cells = [
        (
            f"{escape(join.step)} <small>#{join.execution}</small>",
            str(join.members),
            escape(join.kinds),
            short(join.waited),
            "complete" if join.complete else '<span class="bad">never complete</span>',
        )
        for join in found[:rows]
    ]
    return _table(("Join", "Events", "Of", "First to last", ""), cells) if cells else ""


def _payloads(run: RecordedRun, rows: int) -> str:
    steps = {record.execution: record.step for record in run.attempts}
    shown = sorted({*run.inputs, *run.outputs})[: rows // 2]
    return "".join(
        f"<details><summary>{escape(steps.get(number, ''))} <small>#{number}</small></summary>"
        f"<pre>in   {escape(run.inputs.get(number, '-')[:1000])}\nout  {escape(run.outputs.get(number, '-')[:1000])}</pre></details>"
        for number in shown
    )


def _logs(run: RecordedRun, rows: int) -> str:
    cells = [(short(log.at - run.started), escape(log.level), escape(log.step), escape(log.text[:500])) for log in run.logs[:rows]]
    return _table(("At", "Level", "Step", "Message"), cells) if cells else ""


def _time(seconds: float) -> str:
    return short(seconds) if seconds > 1e-6 else "-"


def _table(heads: Cells, rows: Iterable[Cells], kind: str = "") -> str:
    head = "".join(f"<th>{each}</th>" for each in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide" tabindex="0"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _slug(name: str) -> str:
    return name.lower().replace(" ", "-")


@cache
def _asset(name: str) -> str:
    return files("tracedflow.report").joinpath(name).read_text(encoding="utf-8").strip()
