"""What is left of a run when it is over: one record per step attempt, and reports of what a run is doing.

Records carry ids, types and times, never payloads; everything that is shown is a view of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ._factories import made

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
