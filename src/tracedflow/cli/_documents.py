"""What `--json` prints, from what the analyses found. docs/cli.md lists the keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeAlias

from ..inspect.accounting import Accounting
from ..inspect.diff import RunDiff
from ..inspect.recorded import why as explained
from ..inspect.summary import Summary
from ..inspect.trace_file import RecordedRun
from ..records import AttemptRecord

Document: TypeAlias = dict[str, Any]


def head(run: RecordedRun) -> Document:
    """Return what run this is, and how it ended."""
    return {
        "run_id": run.run_id,
        "workflow": run.workflow,
        "outcome": run.outcome,
        "started": run.started,
        "ended": run.ended,
        "duration": run.duration,
        "steps": steps_of(run),
        "segments": run.segments,
        "error": run.error,
        "error_type": run.error_type,
        "trace_id": run.trace_id,
        "parent_run_id": run.parent_run_id,
        "tags": run.tags,
    }


def steps_of(run: RecordedRun) -> int:
    """Return how many executions of steps a run had."""
    return len({record.execution for record in run.attempts} | {live.execution for live in run.unfinished})


def whole(run: RecordedRun) -> Document:
    """Return all that is known of a run."""
    return {
        **head(run),
        "error_stack": run.error_stack,
        "attempts": [_attempt(record) for record in run.attempts],
        "unfinished": [asdict(live) for live in run.unfinished],
        "inputs": run.inputs,
        "outputs": run.outputs,
        "logs": [asdict(log) for log in run.logs],
    }


def _attempt(record: AttemptRecord) -> Document:
    facts = asdict(record)
    causes = [*facts.pop("causes"), *[None] * len(record.events_in)]
    facts["events_in"] = [
        {"id": number, "type": kind, "cause": cause} for (number, kind), cause in zip(record.events_in, causes, strict=False)
    ]
    facts["events_out"] = [{"id": number, "type": kind} for number, kind in record.events_out]
    facts["measurements"] = [{"name": name, "value": value, "unit": unit} for name, value, unit in record.measurements]
    return facts


def reasons(run: RecordedRun, events: Mapping[str, Any]) -> Document:
    """Return why a run was slow, stuck or failed."""
    return {"run": head(run), "why": explained(run), "unfinished": [asdict(live) for live in run.unfinished], "events": events}


def where_time_went(run: RecordedRun, accounting: Accounting, estimate: Document | None) -> Document:
    """Return the critical path of a run, and what its steps took."""
    hops = [
        {
            "step": hop.step,
            "execution": hop.execution,
            "start": hop.start - accounting.path.start,
            "duration": hop.duration,
            "parts": hop.parts,
        }
        for hop in accounting.path.hops
    ]
    steps = [asdict(step) for step in accounting.steps]
    return {"run": head(run), "wall": accounting.wall, "parts": accounting.parts, "path": hops, "steps": steps, "estimate": estimate}


def difference(first: RecordedRun, second: RecordedRun, found: RunDiff) -> Document:
    """Return where two runs part."""
    return {
        "first": head(first),
        "second": head(second),
        "same": found.first is None,
        "divergences": [asdict(each) for each in found.divergences],
        "changed": [{"step": step, "first": before, "second": after} for step, before, after in found.slower],
    }


def numbers(summary: Summary) -> Document:
    """Return what many runs were in numbers."""
    return {"workflows": [asdict(each) for each in summary.workflows], "steps": [asdict(each) for each in summary.steps]}
