"""Runs read back from a trace file: what `TRACEDFLOW_TRACE_FILE` wrote, or spans in OTLP-JSON lines from anywhere else.

The file has three kinds of lines, all of them OTLP: spans that ended, log records of spans that began, and log records
that hold an attempt's record. A span that began and never ended is what a killed process was at.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from ..records import AttemptRecord, Outcome, RunningStep
from ..telemetry import names

ABANDONED = "abandoned"
"""The outcome of a run that the file does not end: its process was killed, or is still at it."""

_RUN, _STEP, _ATTEMPT = (name.partition(" ")[0] for name in (names.RUN_SPAN, names.STEP_SPAN, names.ATTEMPT_SPAN))
_OUTCOMES = frozenset(get_args(Outcome))
_FIELDS = {each.name for each in dataclasses.fields(AttemptRecord)}
_SIGNALS = frozenset({"resourceSpans", "resourceLogs", "resourceMetrics"})
_NANO = 1e-9


@dataclass(slots=True, kw_only=True)
class RecordedLog:
    """A log record that was made inside a run."""

    at: float  # Unix seconds
    level: str
    text: str
    logger: str = ""
    step: str = ""  # empty: outside its steps
    span_id: str | None = None


@dataclass(slots=True, kw_only=True)
class RecordedRun:
    """A run as a trace file tells it. Times are Unix seconds.

    `outcome` is one of `records.Outcome`, or `ABANDONED`. `attempts` are those that ended, by their end; `unfinished`
    are the executions that the file never ends, with the seconds they are known to have taken.
    """

    workflow: str
    run_id: str
    started: float
    ended: float | None = None  # None: abandoned
    outcome: str = ABANDONED
    attempts: list[AttemptRecord] = field(default_factory=list[AttemptRecord])
    unfinished: list[RunningStep] = field(default_factory=list[RunningStep])
    error: str | None = None  # the masked message of what it failed with
    error_type: str | None = None
    error_stack: str | None = None  # the masked stack trace
    trace_id: str | None = None
    parent_run_id: str | None = None
    segments: int = 1  # more if it was suspended and resumed
    tags: dict[str, str] = field(default_factory=dict[str, str])
    inputs: dict[int, str] = field(default_factory=dict[int, str])  # execution -> JSON, if payloads were captured
    outputs: dict[int, str] = field(default_factory=dict[int, str])
    logs: list[RecordedLog] = field(default_factory=list[RecordedLog])

    @property
    def duration(self) -> float | None:
        """Seconds from its start to its end; None: it has none."""
        return None if self.ended is None else self.ended - self.started


@dataclass(slots=True, kw_only=True)
class TraceFile:
    """What a trace file holds, and how much of it could be read."""

    runs: list[RecordedRun] = field(default_factory=list[RecordedRun])  # oldest first
    lines: int = 0  # that are not empty
    damaged: list[int] = field(default_factory=list[int])  # numbers, from 1, of the lines that are no OTLP in JSON, and were left out
    is_cut_off: bool = False  # the last line is damaged: its process was killed while it wrote it, or is at it now


def read_file(path: str | Path) -> TraceFile:
    """Read a trace file. Lines that are damaged, or cut off by a kill, are left out and named.

    Raises:
        OSError: the file cannot be read.
    """
    reader, found = _Reader(), TraceFile()
    with Path(path).open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if line.isspace():
                continue
            found.lines += 1
            found.is_cut_off = False
            try:
                reader.take(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                found.damaged.append(number)
                found.is_cut_off = not line.endswith("\n")
    found.runs = reader.runs()
    return found


def read_runs(path: str | Path) -> list[RecordedRun]:
    """Return the runs in a trace file, oldest first. Lines that are damaged, or cut off by a kill, are skipped.

    Raises:
        OSError: the file cannot be read.
    """
    return read_file(path).runs


@dataclass(slots=True, kw_only=True)
class _Span:
    """What the reader keeps of a span. `end` is None while only its beginning is known."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start: float
    end: float | None
    facts: dict[str, Any]
    error: str | None = None
    stack: str | None = None
    causes: tuple[str, ...] = ()  # span ids of its `triggered_by` and `collected` links
    numbered: int = 0  # place in the file

    @property
    def kind(self) -> str:
        return self.name.partition(" ")[0]


class _Reader:
    """Collects the lines, then sorts them into runs."""

    def __init__(self) -> None:
        self._spans: dict[str, _Span] = {}
        self._records: list[AttemptRecord] = []
        self._logs: list[tuple[str, RecordedLog]] = []  # with the run id
        self._last = 0.0  # the latest time that the file knows

    def take(self, line: Mapping[str, Any]) -> None:
        """Take one line.

        Raises:
            TypeError: it is not in OTLP, as are ValueError, KeyError and AttributeError.
        """
        if not line.keys() & _SIGNALS:
            raise TypeError("no signal of OTLP")
        for batch in line.get("resourceSpans", ()):
            for scope in batch.get("scopeSpans", ()):
                for span in scope.get("spans", ()):
                    self._add(_span(span))
        for batch in line.get("resourceLogs", ()):
            for scope in batch.get("scopeLogs", ()):
                for record in scope.get("logRecords", ()):
                    self._take_log(record, scope.get("scope", {}).get("name", ""))

    def _add(self, span: _Span) -> None:
        if names.RUN_ID not in span.facts:
            return  # not one of ours
        self._last = max(self._last, span.start, span.end or 0.0)
        known = self._spans.get(span.span_id)
        if known is not None and span.end is None:
            return
        span.numbered = len(self._spans) if known is None else known.numbered
        self._spans[span.span_id] = span

    def _take_log(self, record: Mapping[str, Any], logger: str) -> None:
        facts = _attributes(record.get("attributes", ()))
        match record.get("eventName"):
            case names.SPAN_STARTED_LOG:
                self._add(_begun(record, facts))
            case names.ATTEMPT_LOG:
                self._records.append(_record(json.loads(record["body"]["stringValue"])))
            case _:
                if (run_id := facts.get(names.RUN_ID)) is not None:
                    self._logs.append((run_id, _log(record, facts, logger)))

    def runs(self) -> list[RecordedRun]:
        """Return everything, sorted into runs."""
        return _Sorter(self._spans, self._records, self._logs, self._last).runs


class _Sorter:
    """Puts spans, records and logs to their runs: by the run span they hang under, else by the run's id."""

    def __init__(self, spans: dict[str, _Span], records: list[AttemptRecord], logs: list[tuple[str, RecordedLog]], last: float) -> None:
        self._spans = spans
        self._last = last
        self._by_span: dict[str, RecordedRun] = {}
        self._by_id: dict[str, RecordedRun] = {}
        self._executions: dict[str, int] = {record.span_id: record.execution for record in records if record.span_id}
        self.runs: list[RecordedRun] = []
        self._tries: dict[str, list[_Span]] = {}  # of a step, by the id of its span
        for span in spans.values():
            if span.kind == _ATTEMPT:
                self._tries.setdefault(span.parent_id, []).append(span)
        self._named: dict[str, list[RecordedRun]] = {}  # by run id, oldest first
        ordered = sorted(spans.values(), key=lambda span: (span.start, span.numbered))
        for span in ordered:
            if span.kind == _RUN:
                self._add_segment(span)
        self._number(ordered)
        for record in records:
            self._run_of_record(record).attempts.append(record)
        recorded = {record.span_id for record in records if record.span_id}
        for span in ordered:
            self._add_span(span, recorded)
        for run_id, log in logs:
            if (run := self._run_at(run_id, log.at)) is not None:
                run.logs.append(log)
        for run in self.runs:
            run.attempts.sort(key=lambda record: record.ended_at)

    def _add_segment(self, span: _Span) -> None:
        run_id, segment = span.facts[names.RUN_ID], span.facts.get(names.RUN_SEGMENT, 1)
        run = self._by_id.get(run_id) if segment > 1 else None
        if run is None:
            run = RecordedRun(workflow=span.facts.get(names.WORKFLOW_NAME, ""), run_id=run_id, started=span.start)
            run.trace_id, run.parent_run_id = span.trace_id, span.facts.get(names.PARENT_RUN_ID)
            run.tags = {key.removeprefix(names.TAG_PREFIX): value for key, value in span.facts.items() if key.startswith(names.TAG_PREFIX)}
            self._add_run(run)
        run.segments = segment
        run.ended = span.end
        run.outcome = ABANDONED if span.end is None else str(span.facts.get(names.OUTCOME, ABANDONED))
        run.error, run.error_type = span.error, span.facts.get(names.ERROR_TYPE)
        run.error_stack = span.stack
        self._by_span[span.span_id] = run

    def _number(self, ordered: list[_Span]) -> None:
        """Give each step span the number of its execution: its record's, else its place in the run."""
        for span in ordered:
            if span.kind == _ATTEMPT and span.span_id in self._executions:
                self._executions.setdefault(span.parent_id, self._executions[span.span_id])
        taken = max(self._executions.values(), default=0)
        for span in ordered:
            if span.kind == _STEP and span.span_id not in self._executions:
                taken += 1
                self._executions[span.span_id] = taken

    def _run_of_record(self, record: AttemptRecord) -> RecordedRun:
        span = self._spans.get(record.span_id or "")
        run = self._run_of(span) if span is not None else None
        return run or self._run_at(record.run_id, record.started_at) or self._run_without_span(record)

    def _run_without_span(self, record: AttemptRecord) -> RecordedRun:
        run = RecordedRun(workflow=record.workflow, run_id=record.run_id, started=record.enqueued_at, trace_id=record.trace_id)
        self._add_run(run)
        return run

    def _add_run(self, run: RecordedRun) -> None:
        self._by_id[run.run_id] = run
        self._named.setdefault(run.run_id, []).append(run)
        self.runs.append(run)

    def _run_of(self, span: _Span) -> RecordedRun | None:
        found: _Span | None = span
        while found is not None:
            if found.span_id in self._by_span:
                return self._by_span[found.span_id]
            found = self._spans.get(found.parent_id)
        return self._run_at(span.facts[names.RUN_ID], span.start)

    def _run_at(self, run_id: str, at: float) -> RecordedRun | None:
        """Return the run of this id that had begun at a time: ids may be used again."""
        found: RecordedRun | None = None
        for run in self._named.get(run_id, ()):
            if found is None or run.started <= at:
                found = run
        return found

    def _add_span(self, span: _Span, recorded: set[str]) -> None:
        run = self._run_of(span)
        if run is None or span.kind not in (_STEP, _ATTEMPT):
            return
        self._explain(run, span)
        execution = self._executions.get(span.span_id if span.kind == _STEP else span.parent_id, 0)
        if span.kind == _STEP:
            for captured, key in ((run.inputs, names.INPUT), (run.outputs, names.OUTPUT)):
                if key in span.facts:
                    captured[execution] = span.facts[key]
            if span.end is None:
                run.unfinished.append(self._unfinished(span, execution))
        if span.end is not None and span.span_id not in recorded and span.span_id not in self._tries:
            run.attempts.append(self._record_of(span, execution))

    def _explain(self, run: RecordedRun, span: _Span) -> None:
        """Take the stack trace of the innermost span: only there it is recorded."""
        if span.stack is not None and run.error_type is not None and span.facts.get(names.ERROR_TYPE) == run.error_type:
            run.error_stack = span.stack

    def _unfinished(self, span: _Span, execution: int) -> RunningStep:
        tries = [other.facts.get(names.STEP_ATTEMPT, 1) for other in self._tries.get(span.span_id, ())]
        return RunningStep(
            step=span.facts.get(names.STEP_NAME, ""),
            execution=execution,
            attempt=max(tries, default=1),
            since=max(0.0, self._last - span.start),
            event_type=span.facts.get(names.EVENT_TYPE, ""),
        )

    def _record_of(self, span: _Span, execution: int) -> AttemptRecord:
        """Return the record of an attempt of which only the span is known: without the parts of its time."""
        step = self._spans.get(span.parent_id, span) if span.kind == _ATTEMPT else span
        facts, outcome = step.facts, span.facts.get(names.OUTCOME, "success")
        queued = float(facts.get(names.STEP_QUEUE_WAIT, 0.0)) if span.facts.get(names.STEP_ATTEMPT, 1) == 1 else 0.0
        end = span.end if span.end is not None else span.start
        event = (int(facts.get(names.EVENT_ID, 0) or 0), str(facts.get(names.EVENT_TYPE, "")))
        causes = tuple(self._executions.get(cause) for cause in step.causes) or (None,)
        return AttemptRecord(
            run_id=facts.get(names.RUN_ID, ""),
            workflow=facts.get(names.WORKFLOW_NAME, ""),
            step=facts.get(names.STEP_NAME, ""),
            execution=execution,
            attempt=int(span.facts.get(names.STEP_ATTEMPT, facts.get(names.STEP_ATTEMPTS, 1)) or 1),
            events_in=(event,) * len(causes),
            causes=causes,
            events_out=tuple((0, kind) for kind in span.facts.get(names.EMITTED, ())),
            enqueued_at=step.start - float(facts.get(names.STEP_QUEUE_WAIT, 0.0)),
            started_at=span.start,
            ended_at=end,
            queued=queued,
            running=end - span.start,
            blocked=float(span.facts.get(names.STEP_LOOP_BLOCKED, 0.0)),
            outcome=outcome if outcome in _OUTCOMES else "error",
            error=span.facts.get(names.ERROR_TYPE),
            trace_id=span.trace_id,
            span_id=span.span_id,
        )


def _span(data: Mapping[str, Any]) -> _Span:
    stacks = [_attributes(event.get("attributes", ())) for event in data.get("events", ()) if event.get("name") == names.EXCEPTION]
    links = [(link["spanId"], _attributes(link.get("attributes", ())).get(names.LINK_TYPE)) for link in data.get("links", ())]
    status = data.get("status", {})
    return _Span(
        name=data["name"],
        trace_id=data["traceId"],
        span_id=data["spanId"],
        parent_id=data.get("parentSpanId", ""),
        start=int(data["startTimeUnixNano"]) * _NANO,
        end=int(data["endTimeUnixNano"]) * _NANO,
        facts=_attributes(data.get("attributes", ())),
        error=status.get("message") if status.get("code") in (2, "STATUS_CODE_ERROR") else None,
        stack=stacks[-1].get(names.EXCEPTION_STACKTRACE) if stacks else None,
        causes=tuple(span_id for span_id, kind in links if kind in (names.TRIGGERED_BY, names.COLLECTED)),
    )


def _begun(record: Mapping[str, Any], facts: dict[str, Any]) -> _Span:
    return _Span(
        name=record["body"]["stringValue"],
        trace_id=record["traceId"],
        span_id=record["spanId"],
        parent_id=facts.pop(names.PARENT_SPAN_ID, ""),
        start=int(record["timeUnixNano"]) * _NANO,
        end=None,
        facts=facts,
    )


def _record(data: Mapping[str, Any]) -> AttemptRecord:
    """Return a record; fields that a later release added are left out."""
    known = {key: value for key, value in data.items() if key in _FIELDS}
    for key in ("events_in", "events_out", "measurements"):
        known[key] = tuple(tuple(item) for item in known.get(key, ()))
    known["causes"] = tuple(known.get("causes", ()))
    return AttemptRecord(**known)


def _log(record: Mapping[str, Any], facts: Mapping[str, Any], logger: str) -> RecordedLog:
    return RecordedLog(
        at=int(record.get("timeUnixNano", 0)) * _NANO,
        level=record.get("severityText", ""),
        text=str(_value(record.get("body", {}))),
        logger=logger,
        step=facts.get(names.STEP_NAME, ""),
        span_id=record.get("spanId") or None,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair["key"]: _value(pair["value"]) for pair in pairs}


def _value(value: Mapping[str, Any]) -> Any:
    for kind, item in value.items():
        if kind == "intValue":
            return int(item)
        if kind == "arrayValue":
            return [_value(each) for each in cast("Mapping[str, Any]", item).get("values", ())]
        return item
    return None
