"""Why of a run that is over, or whose process is gone: from what was recorded of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..handler import WorkflowHandler
from ..outcomes import FAILURES
from ..records import AttemptRecord
from .accounting import account
from .durations import short
from .trace_file import ABANDONED, RecordedRun

_MOST = 5

_VERDICTS = {
    "success": "completed in",
    "error": "failed after",
    "timeout": "timed out after",
    "stalled": "stalled after",
    "cancelled": "was cancelled after",
    "suspended": "was suspended after",
}


def recorded(handler: WorkflowHandler[Any]) -> RecordedRun:
    """Return what a trace file would say of a run that is here."""
    records = list(handler.record)
    started = min((record.enqueued_at for record in records), default=0.0)
    report = handler.why()
    outcome = {"completed": "success", "failed": "error", "timed out": "timeout"}.get(report.state, report.state)
    return RecordedRun(
        workflow=report.workflow,
        run_id=report.run_id,
        started=started,
        ended=started + report.age if handler.done() else None,
        outcome=outcome if handler.done() else ABANDONED,
        attempts=records,
        unfinished=[] if handler.done() else [*report.running, *report.backing_off],
        error=str(report) if outcome in ("stalled", "timeout") else None,
        error_type=next((record.error for record in reversed(records) if record.outcome in FAILURES), None),
        trace_id=next((record.trace_id for record in records if record.trace_id), None),
    )


def why(run: RecordedRun) -> str:
    """Answer why a recorded run was slow, stuck or failed. The first line is the verdict; each further line adds one fact."""
    lines = [_verdict(run), *_unfinished(run), *_failures(run.attempts), *_retries(run.attempts), *_time(run)]
    return "\n  ".join(lines)


def _verdict(run: RecordedRun) -> str:
    who = f"Run {run.run_id} of {run.workflow}"
    if run.outcome == ABANDONED:
        return f"{who} has no end on record: its process was killed, or it still runs."
    text = f"{who} {_VERDICTS.get(run.outcome, run.outcome + ' after')} {short(run.duration or 0.0)}"
    told = run.error or (run.error_type if run.outcome in FAILURES else None)
    return f"{text}: {told}" if told else f"{text}."


def _unfinished(run: RecordedRun) -> list[str]:
    ordered = sorted(run.unfinished, key=lambda live: live.since, reverse=True)
    lines = [
        f"Step `{live.step}` was at it for {short(live.since)} ({live.event_type}, attempt {live.attempt})." for live in ordered[:_MOST]
    ]
    return [*lines, f"And {len(ordered) - _MOST} more step executions were live."] if len(ordered) > _MOST else lines


def _failures(attempts: list[AttemptRecord]) -> list[str]:
    found = Counter((record.step, record.error or record.outcome) for record in attempts if record.outcome in FAILURES)
    return [f"Step `{step}`: {error}, {_times(count)}." for (step, error), count in found.most_common(_MOST)]


def _retries(attempts: list[AttemptRecord]) -> list[str]:
    found = Counter(record.step for record in attempts if record.attempt > 1)
    return [f"Step `{step}` was tried again {_times(count)}." for step, count in found.most_common(_MOST)]


def _time(run: RecordedRun) -> list[str]:
    if not run.attempts:
        return ["No attempt of a step is on record."]
    found = account(run.attempts, run.started, run.ended)
    parts = ", ".join(
        f"{part} {short(seconds)}" for part, seconds in sorted(found.parts.items(), key=lambda item: -item[1]) if seconds > 1e-4
    )
    steps = ", ".join(f"`{step}` {short(seconds)}" for step, seconds in list(found.path.steps.items())[:_MOST])
    return [f"Its critical path took {short(found.wall)}: {parts}.", f"Most of it went to {steps}."]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
