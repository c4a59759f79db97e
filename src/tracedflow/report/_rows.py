"""Rows of the report: the bars of the waterfall, and the joins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from ..inspect.critical import critical_path
from ..inspect.durations import short
from ..inspect.executions import Execution, executions_of
from ..inspect.trace_file import RecordedRun
from ..outcomes import FAILURES


def timeline(run: RecordedRun, most: int) -> tuple[str, int]:
    """Return the bars of a waterfall as HTML, and how many step executions it leaves out. Positions are in parts of the run."""
    known = executions_of(run.attempts)
    if not known:
        return "", 0
    path = {hop.execution for hop in critical_path(run.attempts).hops}
    start = min(run.started, *(each.ready_at for each in known.values())) if run.started else min(each.ready_at for each in known.values())
    span = max(max(each.ended_at for each in known.values()) - start, 1e-9)
    heaviest = sorted(
        known.values(), key=lambda each: (each.outcome in FAILURES, each.number in path, each.ended_at - each.ready_at), reverse=True
    )
    kept = {each.number for each in heaviest[:most]}
    rows = [_row(each, start, span, on_path=each.number in path) for each in known.values() if each.number in kept]
    axis = (
        "".join(f'<b style="left:{share:.0%}">{short(span * share)}</b>' for share in (0, 0.25, 0.5, 0.75))
        + f'<b class="end">{short(span)}</b>'
    )
    return f'<div class="rows"><div class="axis"><span></span><div class="track">{axis}</div></div>{"".join(rows)}</div>', len(known) - len(
        rows
    )


def _row(execution: Execution, start: float, span: float, *, on_path: bool) -> str:
    bars = (
        "".join(
            f'<i class="p-{part}" style="left:{(begin - start) / span:.4%};width:{(end - begin) / span:.4%}"></i>'
            for part, begin, end in execution.stretches()
            if end - begin > span / 20_000
        )
        or f'<i class="p-running" style="left:{(execution.ready_at - start) / span:.4%};width:0"></i>'
    )
    failed = execution.outcome in FAILURES
    tries = f", {len(execution.attempts)} attempts" if len(execution.attempts) > 1 else ""
    title = f"{execution.step} #{execution.number}: {execution.outcome}{tries}, {short(execution.ended_at - execution.ready_at)}"
    classes = " ".join(name for name, given in (("row", True), ("path", on_path), ("failed", failed)) if given)
    name = f"<span>{escape(execution.step)} <small>#{execution.number}</small></span>"
    return f'<div class="{classes}" title="{escape(title)}">{name}<div class="track">{bars}</div></div>'


@dataclass(frozen=True, slots=True)
class Join:
    """Events that came together in one step execution, or did not."""

    step: str
    execution: int
    members: int
    kinds: str
    waited: float  # seconds from the first to the last
    complete: bool


def joins(known: Mapping[int, Execution]) -> list[Join]:
    """Return the joins of a run, by list or by `collect_events`, in the order in which they were complete."""
    found: list[Join] = []
    open_joins: dict[str, list[Execution]] = {}
    for execution in known.values():
        if execution.outcome == "collecting":
            open_joins.setdefault(execution.step, []).append(execution)
        elif execution.step in open_joins:
            members = [*open_joins.pop(execution.step), execution]
            found.append(_join(execution, members, complete=True))
        elif len(execution.attempts[0].events_in) > 1:
            sent = [known[cause].ended_at for cause in execution.causes if cause in known]
            kinds = sorted({kind for _, kind in execution.attempts[0].events_in})
            waited = max(0.0, execution.ready_at - min(sent, default=execution.ready_at))
            found.append(
                Join(execution.step, execution.number, len(execution.attempts[0].events_in), ", ".join(kinds), waited, complete=True)
            )
    return [*found, *(_join(members[-1], members, complete=False) for members in open_joins.values())]


def _join(last: Execution, members: list[Execution], *, complete: bool) -> Join:
    kinds = sorted({kind for member in members for _, kind in member.attempts[0].events_in})
    return Join(last.step, last.number, len(members), ", ".join(kinds), last.ready_at - members[0].ready_at, complete)
