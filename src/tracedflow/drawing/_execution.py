"""The picture of what one run did: who caused whom, how long it took, what failed. A view of the attempt records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..events import InputRequiredEvent, StartEvent, StepFailedEvent, StopEvent
from ..inspect.durations import short
from ..outcomes import FAILURES
from ..records import AttemptRecord, RunReport
from ..representation import WorkflowEventNode, WorkflowGraph, WorkflowStepNode
from ._flows import box_of, counted, kind_of
from ._picture import Arrow, ArrowStyle, Box, Kind, Picture, Table, Tone

MOST_SINGLE = 14
"""Up to so many step executions each has a box; beyond, all executions of one step share one."""

_MOST_ROWS = 12  # executions listed for a box
_OUTSIDE = "outside"
_EARLIER = "earlier"

_TONES: dict[str, Tone] = {"completed": "good", "running": "live", "new": "live", "failed": "bad", "stalled": "bad", "timed out": "bad"}


@dataclass(slots=True)
class _Group:
    """Step executions that share a box."""

    id: str
    step: str
    executions: list[list[AttemptRecord]] = field(default_factory=list[list[AttemptRecord]])  # each the attempts of one, in order

    @property
    def records(self) -> list[AttemptRecord]:
        return [record for attempts in self.executions for record in attempts]

    @property
    def failed(self) -> int:
        return sum(attempts[-1].outcome in FAILURES for attempts in self.executions)

    @property
    def retried(self) -> int:
        return sum(attempts[-1].attempt > 1 for attempts in self.executions)

    @property
    def finished(self) -> list[list[AttemptRecord]]:
        """The executions that did more than add to a join."""
        return [attempts for attempts in self.executions if attempts[-1].outcome != "collecting"]


def execution(records: Sequence[AttemptRecord], report: RunReport | None, graph: WorkflowGraph) -> Picture:
    """Return the picture of a run: `report` tells how it stands, `graph` what steps and events are."""
    return _Drawer(records, report, graph).draw()


class _Drawer:
    """Puts one picture together."""

    def __init__(self, records: Sequence[AttemptRecord], report: RunReport | None, graph: WorkflowGraph) -> None:
        self._records = records
        self._report = report
        self._graph = graph
        self._events = {node.event_type: node for node in graph.nodes if isinstance(node, WorkflowEventNode)}
        self._steps = {node.label: node for node in graph.nodes if isinstance(node, WorkflowStepNode)}
        self._groups = _grouped(records)
        self._group_of = {attempts[-1].execution: group for group in self._groups for attempts in group.executions}
        self._sent: dict[tuple[str, str], set[int]] = {}  # (who sent them, their type) -> event ids
        self._taken: set[int] = set()
        self._start = min((record.enqueued_at for record in records), default=0.0)
        self._span = max(max((record.ended_at for record in records), default=0.0) - self._start, 1e-9)
        self._arrows: dict[tuple[str, str], Arrow] = {}
        self._passed: dict[tuple[str, str], set[int]] = {}  # the events that an arrow stands for
        self._extra: list[Box] = []

    def draw(self) -> Picture:
        """Return the picture."""
        self._connect()
        if self._report is not None:
            self._waiting(self._report)
        steps = [self._step_box(group) for group in self._groups]
        events = [self._event_box(*key, ids) for key, ids in self._sent.items()]
        state = self._report.state if self._report is not None else "not ended"
        age = self._report.age if self._report is not None else self._span
        failures = sum(group.failed for group in self._groups)
        attempts = len(self._records)
        executions = sum(len(group.executions) for group in self._groups)
        run_id = self._report.run_id if self._report is not None else self._records[0].run_id if self._records else None
        facts = [f"run {run_id}"] if run_id is not None else []
        facts += [short(age), counted(executions, "step execution")]
        facts += [counted(attempts, "attempt")] if attempts > executions else []
        facts += [f"{failures} failed"] if failures else []
        return Picture(
            title=self._graph.name,
            text=self._graph.description,
            verdict=state,
            tone=_TONES.get(state, "odd"),
            facts=facts,
            boxes=[*self._outsiders(), *steps, *events, *self._extra],
            arrows=list(self._arrows.values()),
        )

    # --- who caused whom ---

    def _connect(self) -> None:
        sender: dict[int, str] = {}
        for group in self._groups:
            for record in group.records:
                for number, kind in record.events_out:
                    sender[number] = group.id
                    self._sent.setdefault((group.id, kind), set()).add(number)
        for group in self._groups:
            for record in group.records:
                for (number, kind), cause in zip(record.events_in, record.causes, strict=True):
                    source = sender.get(number) or self._sender(cause)
                    self._sent.setdefault((source, kind), set()).add(number)
                    self._taken.add(number)
                    self._arrow(_event_id(source, kind), group.id, {number})
        for (source, kind), ids in self._sent.items():
            if source not in (_OUTSIDE, _EARLIER) or not self._is_start(kind):
                self._arrow(source, _event_id(source, kind), ids)
        if any(source == _OUTSIDE and not self._is_start(kind) for source, kind in self._sent):
            for (source, kind), ids in self._sent.items():
                if kind in self._events and self._events[kind].is_a(InputRequiredEvent):
                    self._arrow(_event_id(source, kind), _OUTSIDE, ids)

    def _sender(self, cause: int | None) -> str:
        """Return who sent an event that no record tells of: somebody outside, or a step whose records are gone."""
        if cause is None:
            return _OUTSIDE
        return self._group_of[cause].id if cause in self._group_of else _EARLIER

    def _is_start(self, kind: str) -> bool:
        return kind == "StartEvent" or (kind in self._events and self._events[kind].is_a(StartEvent))

    def _arrow(self, source: str, target: str, ids: set[int]) -> None:
        passed = self._passed.setdefault((source, target), set())
        passed |= ids
        failure = target == _event_id(source, StepFailedEvent.__name__)
        style: ArrowStyle = "outside" if _OUTSIDE in (source, target) else "failure" if failure else "many" if len(passed) > 1 else "plain"
        self._arrows[source, target] = Arrow(source=source, target=target, style=style, text=counted(len(passed), "event"))

    def _outsiders(self) -> Iterable[Box]:
        used = {arrow.source for arrow in self._arrows.values()}
        if _OUTSIDE in used:
            yield Box(id=_OUTSIDE, kind="external", title="outside", text="Whoever sent events to the run.")
        if _EARLIER in used:
            yield Box(id=_EARLIER, kind="generic", title="earlier steps", text="Their records are no longer kept.")

    # --- steps ---

    def _step_box(self, group: _Group) -> Box:
        records = group.records
        box = self._plain_step(group.id, group.step)
        if sum(other.step == group.step for other in self._groups) > 1:
            box.title = f"{group.step} #{group.executions[-1][0].execution}"
        box.count = max(1, len(group.finished))
        box.tone = self._tone(group)
        box.bar = (
            (min(record.started_at for record in records) - self._start) / self._span,
            (max(record.ended_at for record in records) - self._start) / self._span,
        )
        box.notes = tuple(note for note in (_counts(group), *self._lacks(group.step), _troubles(group)) if note)
        box.facts = [*_times(group), *box.facts]
        box.table = _table(group)
        return box

    def _tone(self, group: _Group) -> Tone:
        stalled = self._report is not None and self._report.state == "stalled" and bool(self._lacks(group.step))
        if group.failed or stalled:
            return "bad"
        ordinary = all(attempts[-1].outcome in ("success", "collecting", "skipped") for attempts in group.executions)
        return "plain" if ordinary and not group.retried else "odd"

    def _plain_step(self, box_id: str, step: str) -> Box:
        node = self._steps.get(step)
        if node is None:  # a step that the class no longer has
            return Box(id=box_id, kind="step", title=step)
        return Box(id=box_id, kind=kind_of(node), title=step, text=node.description, facts=box_of(node).facts)

    def _lacks(self, step: str) -> list[str]:
        joins = self._report.joins if self._report is not None else []
        return [
            f"lacks {', '.join(f'{count} {kind}' for kind, count in join.lacks.items()) or 'events'}" for join in joins if join.step == step
        ]

    # --- events ---

    def _event_box(self, source: str, kind: str, ids: set[int]) -> Box:
        node = self._events.get(kind)
        drawn: Kind = "event"
        if node is not None:
            drawn = kind_of(node)
        elif kind in (StartEvent.__name__, StopEvent.__name__):
            drawn = "start" if kind == StartEvent.__name__ else "stop"
        lost = self._lost(kind, ids)
        return Box(
            id=_event_id(source, kind),
            kind=drawn,
            title=kind if len(ids) == 1 else f"{kind} ×{len(ids):,}",
            tone="odd" if lost else "plain",
            notes=(f"{lost:,} not taken",) if lost else (),
            text=node.description if node is not None else None,
            facts=[("events", f"{len(ids):,}"), *(box_of(node).facts if node is not None else [])],
        )

    def _lost(self, kind: str, ids: set[int]) -> int:
        """Count the events that no step took, if the report says that some of this type were lost."""
        fates = self._report.unclaimed if self._report is not None else []
        return len(ids - self._taken) if any(fate.event_type == kind for fate in fates) else 0

    # --- what is not over ---

    def _waiting(self, report: RunReport) -> None:
        """Add what no record tells of: steps that are live, and joins that never had all they need."""
        recorded = {record.execution for record in self._records}
        live: dict[str, list[str]] = {}
        if report.state == "running":
            for step in report.running:
                if step.execution not in recorded:
                    live.setdefault(step.step, []).append(f"running for {short(step.since)}")
            for step in report.backing_off:
                live.setdefault(step.step, []).append("waits to be tried again")
            for wait in report.waits:
                live.setdefault(wait.step, []).append(f"waits for {wait.event_type}")
            for name, count in report.queued.items():
                live.setdefault(name, []).extend(["queued"] * count)
        for name, states in live.items():
            self._add_live(name, "live", _summed(states))
        drawn = {group.step for group in self._groups} | live.keys()
        for join in report.joins:
            if join.step not in drawn:
                self._add_live(join.step, "odd", tuple(self._lacks(join.step)))

    def _add_live(self, step: str, tone: Tone, notes: tuple[str, ...]) -> None:
        box = self._plain_step(f"live {step}", step)
        box.tone, box.notes = tone, notes
        self._extra.append(box)
        node = self._steps.get(step)
        taken = {edge.source for edge in self._graph.edges if node is not None and edge.target == node.id}
        for (source, kind), ids in self._sent.items():
            if kind in taken and ids - self._taken:
                self._arrow(_event_id(source, kind), box.id, ids - self._taken)
        if not self._sent:  # the first step: no record tells of its start event yet
            for kind in taken:
                if self._is_start(kind):
                    self._sent.setdefault((_OUTSIDE, kind), set()).add(1)
                    self._arrow(_event_id(_OUTSIDE, kind), box.id, {1})
                    break


def _event_id(source: str, kind: str) -> str:
    return f"{source} > {kind}"


def _grouped(records: Sequence[AttemptRecord]) -> list[_Group]:
    """Put executions into groups: what only added to a join goes with the one that completed it, and in long runs all of a step."""
    executions: dict[int, list[AttemptRecord]] = {}
    for record in records:
        executions.setdefault(record.execution, []).append(record)
    ordered = sorted(executions.values(), key=lambda attempts: (attempts[-1].ended_at, attempts[-1].execution))
    groups = _apart(ordered)
    if len(groups) > MOST_SINGLE:
        groups = _by_step(ordered)
    return sorted(groups.values(), key=lambda group: min(record.started_at for record in group.records))


def _by_step(ordered: Iterable[list[AttemptRecord]]) -> dict[str, _Group]:
    groups: dict[str, _Group] = {}
    for attempts in ordered:
        step = attempts[0].step
        groups.setdefault(step, _Group(f"step {step}", step)).executions.append(attempts)
    return groups


def _apart(ordered: Iterable[list[AttemptRecord]]) -> dict[str, _Group]:
    groups: dict[str, _Group] = {}
    open_: dict[str, _Group] = {}  # joins that have not completed
    for attempts in ordered:
        last = attempts[-1]
        group = open_.pop(last.step, None) or _Group(f"step {last.step} #{last.execution}", last.step)
        group.executions.append(attempts)
        groups[group.id] = group
        if last.outcome == "collecting":
            open_[last.step] = group
    return groups


def _counts(group: _Group) -> str:
    finished = group.finished
    if not finished:
        return f"{len(group.executions):,} collected"
    longest = max(_length(attempts) for attempts in finished)
    collected = len(group.executions) - len(finished)
    parts = [f"×{len(finished):,}"] if len(finished) > 1 else []
    parts.append(short(longest) if len(finished) == 1 else f"{short(_median(finished))}, at most {short(longest)}")
    if collected:
        parts.append(f"after {collected:,} to collect")
    return " · ".join(parts)


def _troubles(group: _Group) -> str:
    outcomes = [attempts[-1].outcome for attempts in group.executions]
    single = len(outcomes) == 1
    parts: list[str] = []
    for outcome in ("error", "timeout", "stalled", "cancelled", "suspended"):
        if count := outcomes.count(outcome):
            error = group.executions[0][-1].error if single else None
            name = {"error": "failed", "timeout": "timed out"}.get(outcome, outcome)
            parts.append((f"{name}: {_last_part(error)}" if error and outcome == "error" else name) if single else f"{count:,} {name}")
    if group.retried:
        parts.append(counted(group.executions[0][-1].attempt, "attempt") if single else f"{group.retried:,} retried")
    return " · ".join(parts)


def _times(group: _Group) -> list[tuple[str, str]]:
    records = group.records
    facts = [("executions", f"{len(group.executions):,}")] if len(group.executions) > 1 else []
    facts += [("attempts", f"{len(records):,}")] if len(records) > len(group.executions) else []
    parts = (
        ("running", sum(record.running for record in records)),
        ("queued", sum(record.queued for record in records)),
        ("backoff", sum(record.backoff for record in records)),
        ("waiting", sum(record.waiting for record in records)),
        ("loop blocked", sum(record.blocked for record in records)),
    )
    facts += [(name, short(seconds)) for name, seconds in parts if seconds >= 0.0001 or name == "running"]
    errors: Mapping[str, int] = {name: sum(r.error == name for r in records) for name in dict.fromkeys(r.error for r in records) if name}
    facts += [("errors", ", ".join(f"{count:,} × {name}" for name, count in errors.items()))] if errors else []
    return facts


def _table(group: _Group) -> Table:
    """List the attempts of the executions that are most worth a look: failures, then retries, then the longest."""
    heaviest = sorted(
        group.executions,
        key=lambda attempts: (attempts[-1].outcome in FAILURES, attempts[-1].attempt, _length(attempts)),
        reverse=True,
    )[:_MOST_ROWS]
    rows: list[tuple[str, ...]] = [
        (f"#{record.execution}", str(record.attempt), record.outcome, short(record.ended_at - record.started_at), _last_part(record.error))
        for attempts in sorted(heaviest, key=lambda attempts: attempts[0].execution)
        for record in attempts[-3:]
    ]
    return Table(head=("execution", "attempt", "outcome", "took", "error"), rows=rows, more=len(group.executions) - len(heaviest))


def _length(attempts: Sequence[AttemptRecord]) -> float:
    return attempts[-1].ended_at - attempts[0].started_at


def _median(executions: Sequence[Sequence[AttemptRecord]]) -> float:
    lengths = sorted(map(_length, executions))
    return lengths[len(lengths) // 2]


def _last_part(error: str | None) -> str:
    return (error or "").rpartition(".")[2]


def _summed(states: Sequence[str]) -> tuple[str, ...]:
    """Return one state as it is, and of several how many there are of each kind."""
    if len(states) == 1:
        return (states[0],)
    kinds = [state.partition(" for ")[0] if state.startswith("running") else state for state in states]
    counts = ((kinds.count(kind), kind) for kind in dict.fromkeys(kinds))
    return (" · ".join(f"{count:,} {kind.replace('waits', 'wait') if count > 1 else kind}" for count, kind in counts),)
