"""What is left of a run when it is over: one record per step attempt, and reports of what a run is doing.

Records carry ids, types and times, never payloads; everything that is shown is a view of them.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from ._factories import made

if TYPE_CHECKING:
    from .middleware import StepCall

_log = logging.getLogger("tracedflow")

Outcome: TypeAlias = Literal["success", "error", "timeout", "cancelled", "suspended", "skipped", "stalled", "collecting"]
"""How a run, a step execution or an attempt ended.

`skipped`: a middleware answered without calling the step. `collecting`: the step's `collect_events` answered None
and so did the step. `suspended`: a run was saved while it waited.
"""


@dataclass(slots=True, kw_only=True)
class AttemptRecord:
    """One attempt of one step execution. Times are seconds; `*_at` are on the run's monotonic clock.

    `ended_at - enqueued_at` of the last attempt is the sum of the five parts over all attempts of the execution,
    but for what the engine itself took: `queued` for a slot, `running`, `backoff` before this attempt, `waiting`
    for an event inside the step. `blocked` is the part of `running` in which the event loop could not turn.
    """

    run_id: str
    workflow: str
    step: str
    execution: int
    attempt: int
    events_in: tuple[tuple[int, str], ...]  # (event id, type name)
    causes: tuple[int | None, ...]  # the execution that sent each event; None: from outside
    events_out: tuple[tuple[int, str], ...] = ()
    enqueued_at: float = 0.0
    started_at: float = 0.0
    ended_at: float = 0.0
    queued: float = 0.0
    running: float = 0.0
    backoff: float = 0.0
    waiting: float = 0.0
    blocked: float = 0.0
    outcome: Outcome = "success"
    error: str | None = None  # the exception's qualified type name; its message may hold payload
    trace_id: str | None = None  # 32 hexadecimal digits
    span_id: str | None = None  # 16 hexadecimal digits
    measurements: tuple[tuple[str, float, str], ...] = ()  # (name, value, unit)
    interruptions: tuple[tuple[str, float, float], ...] = ()  # (waiting | queued | blocked, from, until); else it ran


Row: TypeAlias = tuple[str | int | float | None, ...]
"""An attempt as one flat tuple, which begins with the fields of `_ALWAYS`.

Most attempts are their execution's first and last, took one event, ran from their start to their end and succeeded. Those have no
attempt number in their row, and end with (id, type, cause) of the event and (id, type) of each event out. The others go on with
the fields of `_MORE`, the count of inputs and (id, type, cause) of each, the count of events out and (id, type) of each, then
(name, value, unit) of each measurement and (what, from, until) of each interruption.
"""

Listener: TypeAlias = "Callable[[Row, StepCall, bool], None]"
"""Hears of each attempt of a run as it is recorded: the row, the call, and whether the execution is over."""

_PACKED = 64  # rows
_ALWAYS = ("step", "execution", "attempt", "enqueued_at", "started_at", "ended_at", "outcome", "trace_id", "span_id")
_MORE = ("queued", "running", "backoff", "waiting", "blocked", "error")
_ATTEMPT = _ALWAYS.index("attempt")
_REST = len(_ALWAYS)
_ERROR = _REST + _MORE.index("error")
_INPUTS = _REST + len(_MORE)  # their count
ENDED_AT = _ALWAYS.index("ended_at")
OUTCOME = _ALWAYS.index("outcome")


def error_of(row: Row) -> str:
    """Return the type name of what an attempt raised, or nothing."""
    return "" if row[_ATTEMPT] is None else str(row[_ERROR] or "")


def input_types(row: Row) -> Row:
    """Return the type names of the events that an attempt took."""
    if row[_ATTEMPT] is None:
        return row[_REST + 1 : _REST + 2]
    return row[_INPUTS + 2 : _INPUTS + 2 + 3 * int(row[_INPUTS] or 0) : 3]


class RecordLog(Sequence[AttemptRecord]):
    """The last records of a run, made when they are read.

    Until then each is a row of atoms, packed with others into one list: what has no object of its own costs the garbage
    collector nothing. With a thousand busy runs, a tuple for each made it look at everything that is alive once a second.
    """

    __slots__ = ("_atoms", "_full", "_kept", "_run_id", "_sizes", "_workflow", "listeners", "report")

    def __init__(self, run_id: str, workflow: str, kept: int | None) -> None:
        self._run_id = run_id
        self._workflow = workflow
        self._kept = kept
        self._atoms: list[Any] = []
        self._sizes: list[int] = []  # of the rows in `_atoms`
        # Earlier ones, with as many rows as they take: as tuples, for the collector does not look into tuples of atoms.
        self._full: deque[tuple[tuple[Any, ...], tuple[int, ...]]] | tuple[()] = ()
        self.report: RunReport | None = None  # None while the run is live
        self.listeners: tuple[Listener, ...] = ()

    @property
    def run_id(self) -> str:
        """The run that these are of."""
        return self._run_id

    def append(self, row: Row, call: StepCall, *, last: bool) -> None:
        """Add one attempt of the execution `call`; `last`: there will be no further one."""
        if len(self._sizes) == _PACKED:
            self._begin_anew()
        self._atoms.extend(row)
        self._sizes.append(len(row))
        if self.listeners:
            self._tell(row, call, last)

    def _begin_anew(self) -> None:
        """Begin a new list; the oldest one goes when the others have as many rows as are to be kept."""
        if isinstance(self._full, tuple):
            self._full = deque()
        self._full.append((tuple(self._atoms), tuple(self._sizes)))
        self._atoms, self._sizes = [], []
        if self._kept is not None and len(self._full) * _PACKED >= self._kept + _PACKED:
            self._full.popleft()

    def _rows(self) -> list[Row]:
        rows: list[Row] = []
        for atoms, sizes in (*self._full, (self._atoms, self._sizes)):
            at = 0
            for size in tuple(sizes):
                rows.append(tuple(atoms[at : at + size]))
                at += size
        return rows if self._kept is None else rows[max(0, len(rows) - self._kept) :]

    def _tell(self, row: Row, call: StepCall, last: bool) -> None:
        for listen in self.listeners:
            try:
                listen(row, call, last)
            except Exception:  # noqa: BLE001 - what listens only shows: a bug in it must not reach the run
                self.listeners = tuple(each for each in self.listeners if each is not listen)
                _log.exception("%r raised on a record of run %s, and hears no more of it", listen, self._run_id)

    def close(self, state: str, age: float, report: RunReport | None) -> None:
        """Take the last word on the run, which is over after `age` seconds: a whole report if there is one, for what outlives the run."""
        self.report = report or RunReport(workflow=self._workflow, run_id=self._run_id, state=state, age=age)

    def __len__(self) -> int:
        count = len(self._full) * _PACKED + len(self._sizes)
        return count if self._kept is None else min(count, self._kept)

    def __iter__(self) -> Iterator[AttemptRecord]:
        return map(self.made, self._rows())

    @overload
    def __getitem__(self, index: int, /) -> AttemptRecord: ...
    @overload
    def __getitem__(self, index: slice, /) -> list[AttemptRecord]: ...
    def __getitem__(self, index: int | slice, /) -> AttemptRecord | list[AttemptRecord]:
        if isinstance(index, slice):
            return [self.made(row) for row in self._rows()[index]]
        number = range(len(self))[index] + len(self._full) * _PACKED + len(self._sizes) - len(self)  # those no longer kept come first
        atoms, sizes = (*self._full, (self._atoms, self._sizes))[number // _PACKED]
        at = sum(sizes[: number % _PACKED])
        return self.made(tuple(atoms[at : at + sizes[number % _PACKED]]))

    def made(self, row: Row) -> AttemptRecord:
        """Return the record that a row stands for."""
        fields: dict[str, Any] = dict(zip(_ALWAYS, row, strict=False))
        rest: list[Any] = list(row[_REST:])
        if fields["attempt"] is None:
            running = fields["ended_at"] - fields["started_at"]
            fields |= {"attempt": 1, "queued": max(0.0, fields["started_at"] - fields["enqueued_at"]), "running": running}
            rest = [1, *rest[:3], len(rest) // 2 - 1, *rest[3:]]
        else:
            fields |= zip(_MORE, rest, strict=False)
            del rest[: len(_MORE)]
        inputs = _take(rest, 3)
        outputs = _take(rest, 2)
        triples = [(rest[at], rest[at + 1], rest[at + 2]) for at in range(0, len(rest), 3)]
        return AttemptRecord(
            run_id=self._run_id,
            workflow=self._workflow,
            events_in=tuple((number, kind) for number, kind, _ in inputs),
            causes=tuple(cause for _, _, cause in inputs),
            events_out=tuple((number, kind) for number, kind in outputs),
            measurements=tuple(triple for triple in triples if isinstance(triple[2], str)),
            interruptions=tuple(triple for triple in triples if not isinstance(triple[2], str)),
            **fields,
        )


def _take(rest: list[Any], width: int) -> list[tuple[Any, ...]]:
    """Take a counted list of groups off the front."""
    end = 1 + rest[0] * width
    groups = [tuple(rest[at : at + width]) for at in range(1, end, width)]
    del rest[:end]
    return groups


@dataclass(slots=True, kw_only=True)
class RunningStep:
    """A step execution that is live: running, queued or parked."""

    step: str
    execution: int
    attempt: int
    since: float  # seconds in this state
    event_type: str


@dataclass(slots=True, kw_only=True)
class JoinReport:
    """A join that is not complete: the events it has and lacks by type name, with counts."""

    step: str
    buffer: str
    has: dict[str, int]
    lacks: dict[str, int]
    producers: dict[str, tuple[str, ...]]  # who could produce each missing type: step names


@dataclass(slots=True, kw_only=True)
class WaitReport:
    """An open `wait_for_event`."""

    step: str
    execution: int
    event_type: str
    waiter_id: str | None
    requirements: dict[str, str]  # names and types of the values, never the values
    since: float  # seconds
    remaining: float | None  # seconds until its timeout; None: no timeout


@dataclass(slots=True, kw_only=True)
class EventFate:
    """An event that nobody took: held for a later wait, or dropped."""

    event_type: str
    count: int
    reason: str  # unclaimed | overflow | run_ended | not_accepted
    source: str | None  # the step that sent it; None: from outside
    near_miss: str | None = None  # what was probably meant


@dataclass(slots=True, kw_only=True)
class EventCounts:
    """What became of the events of one type. `sent` is the sum of the others but `collected`, part of `consumed`."""

    sent: int = 0
    consumed: int = 0
    collected: int = 0
    streamed: int = 0
    dropped: int = 0
    pending: int = 0


@dataclass(slots=True, kw_only=True)
class RunReport:
    """The answer to "why is this run slow, stuck or failed": what is live, what is awaited, where events went."""

    workflow: str
    run_id: str
    state: str  # running | completed | failed | cancelled | timed out | stalled
    age: float  # seconds since the run started
    running: list[RunningStep] = field(default_factory=list[RunningStep])
    queued: dict[str, int] = field(default_factory=dict[str, int])  # step -> events waiting for a slot
    backing_off: list[RunningStep] = field(default_factory=list[RunningStep])
    joins: list[JoinReport] = field(default_factory=list[JoinReport])
    waits: list[WaitReport] = field(default_factory=list[WaitReport])
    unclaimed: list[EventFate] = field(default_factory=list[EventFate])
    silent: dict[str, int] = field(default_factory=dict[str, int])  # step -> executions that returned None and sent nothing
    events: dict[str, EventCounts] = field(default_factory=dict[str, EventCounts])
    stop_producers: tuple[str, ...] = ()  # the steps that could end the run
    signs_of_life: tuple[str, ...] = ()  # why a quiet run is not called stalled
    blocked: str | None = None  # "step s blocked the event loop for 2.1 s at file:line"

    def __str__(self) -> str:
        explained: str = made("explainer")(self)
        return explained
