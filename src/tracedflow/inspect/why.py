"""Why a run is slow, stuck or failed: a `RunReport` as a few plain sentences. Short when little is to say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from ..records import EventFate, JoinReport, RunningStep, RunReport, WaitReport
from .durations import short

_MOST = 5  # items named in one line; the rest are counted
_DONE = ("completed", "cancelled", "failed")
_OPENINGS = {
    "running": "has been running for",
    "completed": "completed in",
    "failed": "failed after",
    "cancelled": "was cancelled after",
    "timed out": "timed out after",
    "stalled": "stalled after",
}


def explain(report: RunReport) -> str:
    """Answer why a run is where it is. The first sentence is the verdict; each further line adds one fact."""
    reasons = [] if report.state in _DONE else _reasons(report)
    opening = f"Run {report.run_id} of {report.workflow} {_OPENINGS.get(report.state, report.state + ' after')} {short(report.age)}"
    verdict = f"{opening}: {reasons[0]}." if reasons else f"{opening}."
    details = [f"{_capital(reason)}." for reason in reasons[1:]]
    if report.state not in _DONE:
        details += [f"{_capital(line)}." for line in _sources(report)]
    details += [f"{_capital(line)}." for line in (*_losses(report), *_hints(report))]
    return "\n  ".join([verdict, *details])


def _reasons(report: RunReport) -> list[str]:
    """Return what the run is doing or waiting for, the most telling first."""
    found = [report.blocked] if report.blocked else []
    found += _live(report.running, "is running", "are running")
    found += _live(report.backing_off, "waits to be tried again", "wait to be tried again")
    found += [_join(join) for join in report.joins[:_MOST]] + _more(report.joins, "join")
    found += [_wait(wait) for wait in report.waits[:_MOST]] + _more(report.waits, "wait")
    if report.queued:
        found.append(_queued(report.queued))
    if not found:
        found.append("nothing is running, queued or awaited, and no step has returned a StopEvent")
    return found


def _live(steps: Sequence[RunningStep], one: str, many: str) -> list[str]:
    found: list[str] = []
    for name, members in groupby(sorted(steps, key=lambda live: live.step), key=lambda live: live.step):
        group = sorted(members, key=lambda live: live.since, reverse=True)
        longest = group[0]
        if len(group) == 1:
            attempt = f", attempt {longest.attempt}" if longest.attempt > 1 else ""
            found.append(f"step `{name}` {one}, for {short(longest.since)} ({longest.event_type}{attempt})")
        else:
            found.append(f"{len(group)} executions of step `{name}` {many}, the longest for {short(longest.since)}")
    return found[:_MOST] + _more(found, "step")


def _join(join: JoinReport) -> str:
    has = f"it has {_counted(join.has)}" if any(join.has.values()) else "it has none yet"
    more = "more " if any(join.has.values()) else ""
    lacks = _listed(f"{count} {more}{kind}" for kind, count in join.lacks.items())
    return f"step `{join.step}` waits to collect {lacks or 'more events'} ({has})"


def _wait(wait: WaitReport) -> str:
    conditions = [f"waiter_id {wait.waiter_id!r}"] if wait.waiter_id is not None else []
    conditions += [f"{name} must match" for name in wait.requirements]
    which = f" with {_listed(conditions)}" if conditions else ""
    left = "no timeout" if wait.remaining is None else f"{short(wait.remaining)} left"
    return f"step `{wait.step}` waits for {wait.event_type}{which}, for {short(wait.since)} so far ({left})"


def _queued(queued: dict[str, int]) -> str:
    steps = [f"{count} for step `{step}`" for step, count in queued.items()]
    return f"events wait for a free slot: {_listed(steps[:_MOST] + _more(steps, 'step'))}"


def _sources(report: RunReport) -> Iterable[str]:
    """Say where what is missing could come from."""
    told: set[str] = set()
    for join in report.joins:
        for missing in join.lacks:
            if missing not in told:
                told.add(missing)
                yield _source(missing, join.producers.get(missing, ()), report)
    for wait in report.waits:
        if wait.event_type not in told and (sent := report.events.get(wait.event_type)) is not None and sent.sent:
            told.add(wait.event_type)
            yield f"{_times(sent.sent, wait.event_type)} came, but none that this wait takes"
    if report.state == "stalled" and not report.joins and not report.waits:
        yield from _endings(report)


def _source(missing: str, producers: Sequence[str], report: RunReport) -> str:
    if not producers:
        return f"no step returns {missing}, so it must come from outside: handler.ctx.send_event({missing}(...))"
    steps = _listed(f"step `{step}`{_past(step, report)}" for step in producers[:_MOST])
    return f"{missing} could come from {steps}"


def _endings(report: RunReport) -> Iterable[str]:
    if report.stop_producers:
        steps = _listed(f"step `{step}`{_past(step, report)}" for step in report.stop_producers[:_MOST])
        yield f"the run could be ended by {steps}"
    for step in list(report.silent)[:_MOST]:
        if step not in report.stop_producers:
            yield f"step `{step}`{_past(step, report).replace(', which', '')}"


def _past(step: str, report: RunReport) -> str:
    """Return what the report knows of a step, as a clause after its name."""
    if any(live.step == step for live in report.running):
        return ", which is running"
    if any(live.step == step for live in report.backing_off):
        return ", which waits to be tried again"
    if report.queued.get(step):
        return ", which waits for a free slot"
    if any(wait.step == step for wait in report.waits):
        return ", which waits itself"
    silent = report.silent.get(step, 0)
    return f", which returned None {'once' if silent == 1 else f'{silent} times'}" if silent else ""


def _losses(report: RunReport) -> Iterable[str]:
    """Say which events nobody took."""
    for fate in report.unclaimed[:_MOST]:
        yield _loss(fate)
    yield from _more(report.unclaimed, "type of event that nobody took", "types of events that nobody took")


def _loss(fate: EventFate) -> str:
    source = "from outside" if fate.source is None else f"from step `{fate.source}`"
    when = {"overflow": ", as too many were held already", "run_ended": " before the run ended"}.get(fate.reason, "")
    meant = f": {fate.near_miss}" if fate.near_miss else ""
    return f"nobody took {_times(fate.count, fate.event_type)} {source}{when}{meant}"


def _hints(report: RunReport) -> Iterable[str]:
    stops = [fate for fate in report.unclaimed if fate.event_type.endswith("StopEvent")]
    if stops and not any(fate.near_miss for fate in stops):
        yield "a StopEvent ends a run only when a step returns it"
    if report.signs_of_life and report.state == "running":
        yield f"it is not called stalled because {_listed(report.signs_of_life)}"


def _times(count: int, kind: str) -> str:
    return f"{count} {kind}"


def _counted(counts: dict[str, int]) -> str:
    return _listed(f"{count} {kind}" for kind, count in counts.items() if count)


def _listed(items: Iterable[str]) -> str:
    """Join with commas and one `and`."""
    *rest, last = [*items] or [""]
    return f"{', '.join(rest)} and {last}" if rest else last


def _more(items: Sequence[object], one: str, many: str | None = None) -> list[str]:
    left = len(items) - _MOST
    return [f"{left} more {one if left == 1 else many or one + 's'}"] if left > 0 else []


def _capital(text: str) -> str:
    """Start a sentence with a capital, unless it starts with a name."""
    return text[:1].upper() + text[1:] if text[:1].islower() else text
