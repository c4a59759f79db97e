"""The calls that layers wrap: a run, a step execution, an attempt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from .._keys import with_keys
from ..events import Event, StopEvent
from ..retry_policy import max_attempts

if TYPE_CHECKING:
    from ..decorators import StepConfig
    from ..records import AttemptRecord

StepResult: TypeAlias = Event | list[Event] | None
"""What a step returns."""


@dataclass(slots=True, kw_only=True)
class Cause:
    """Where an input event came from: ids only, so that a record never keeps history alive."""

    event_id: int
    event_type: str
    step: str | None  # None: from outside the run
    execution: int | None
    span_context: object | None = None  # what a tracing layer left on the sender's call
    headers: Mapping[str, str] | None = None


@dataclass(slots=True, kw_only=True)
class RunCall:
    """One run, or one segment of a resumed run. Treat the fields as read-only, except where said.

    `headers` came with the caller. A tracing layer sets `span_context`, `trace_id` and `span_id`, leaves in `carrier` what
    a later segment needs of this one's trace (it is saved with the run), and sets `sender`, which gives the span context
    of the code that calls it: the cause of an event that comes from outside.
    """

    workflow: str
    run_id: str
    start_event: Event
    started_at: float  # the run clock: Unix seconds that advance with the monotonic clock
    timeout: float | None = None  # seconds
    segment: int = 1
    resumed: bool = False
    can_wait: bool = False  # the graph takes human input, or the code of a step names `wait_for_event`
    parent_run_id: str | None = None
    spawned_by: object | None = None  # span context of the step that started a run which is not its child
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    conversation_id: str | None = None
    headers: Mapping[str, str] | None = None
    carrier: Mapping[str, str] = field(default_factory=dict[str, str])
    left_at: float | None = None  # run clock; when the segment before was saved
    sender: Callable[[], object | None] | None = None
    span_context: object | None = None
    trace_id: str | None = None
    span_id: str | None = None
    cancel_reason: str | None = None  # once it is stopped: cancelled | run_timeout | sibling_failed (of its parent) | suspended
    records: Sequence[AttemptRecord] = ()  # the engine's bounded deque; complete when `call_next` returned


@with_keys("queued", "collecting", "span_context", "trace_id", "span_id", "_causes", "_outgoing")
@dataclass
class StepCall:
    """One step execution, over all its attempts. Treat the fields as read-only, except where said.

    `headers` came with the event; what a layer puts into `outgoing` is copied onto every event that the execution
    sends or returns from then on. A tracing layer sets `span_context`, `trace_id` and `span_id`. The times and counts
    are live: read them after `await call_next(call)` for their final values.
    """

    run: RunCall
    config: StepConfig
    execution: int  # sequence number in the run
    inputs: tuple[Event, ...]
    sources: Any  # what `origin` makes `causes` of; most executions are never asked
    origin: Callable[[Any], tuple[Cause, ...]]
    enqueued_at: float  # run clock
    started_at: float  # run clock
    headers: Mapping[str, str] | None = None
    # Not slotted, and set when they change: an object with 30 slots to fill and five containers cost 2 µs a step.
    attempts: int = field(default=0, init=False)
    queued: float = field(default=0.0, init=False)  # seconds waiting for a slot or a limit, over all attempts
    backoff: float = field(default=0.0, init=False)  # seconds between attempts
    waiting: float = field(default=0.0, init=False)  # seconds parked in wait_for_event
    blocked: float = field(default=0.0, init=False)  # seconds in which the step blocked the event loop
    limit_waits: Sequence[tuple[str, float]] = field(default=(), init=False)  # (limit, seconds)
    emitted: Sequence[tuple[int, str]] = field(default=(), init=False)  # (event id, type name) sent or returned
    collecting: bool = field(default=False, init=False)  # its last `collect_events` answered None
    collected: tuple[Cause, ...] = field(default=(), init=False)  # what its completed joins are made of
    measurements: Sequence[tuple[str, float, str]] = field(default=(), init=False)  # (name, value, unit)
    interruptions: tuple[tuple[str, float, float], ...] = field(default=(), init=False)  # (waiting | queued | blocked, from, until)
    cancel_reason: str | None = field(default=None, init=False)  # cancelled | run_timeout | sibling_failed | suspended
    span_context: object | None = field(default=None, init=False)
    trace_id: str | None = field(default=None, init=False)
    span_id: str | None = field(default=None, init=False)
    _causes: tuple[Cause, ...] | None = field(default=None, init=False)
    _outgoing: dict[str, str] | None = field(default=None, init=False)
    _annotations: dict[str, object] | None = field(default=None, init=False)
    _scope: Any = field(default=None, init=False, repr=False)  # the engine's side of it, while it is live

    @property
    def workflow(self) -> str:
        """The name of the workflow."""
        return self.run.workflow

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self.run.run_id

    @property
    def step(self) -> str:
        """The name of the step."""
        return self.config.name

    @property
    def max_attempts(self) -> int | None:
        """How many attempts its retry policy allows at most; None: it has none, or does not say."""
        return max_attempts(self.config.retry_policy)

    @property
    def causes(self) -> tuple[Cause, ...]:
        """Where each input came from."""
        if self._causes is None:
            self._causes = self.origin(self.sources)
        return self._causes

    @property
    def outgoing(self) -> dict[str, str]:
        """Headers for every event that the execution sends or returns from now on."""
        if self._outgoing is None:
            self._outgoing = {}
        return self._outgoing

    @property
    def annotations(self) -> dict[str, object]:
        """Facts of the step's own, from `ctx.annotate`."""
        if self._annotations is None:
            self._annotations = {}
        return self._annotations

    @property
    def event(self) -> Event:
        """The input event of a step that takes one."""
        return self.inputs[0]

    @property
    def event_type(self) -> str:
        """The class name of the first input event; of a list without members, `list`."""
        return type(self.inputs[0]).__name__ if self.inputs else "list"


@dataclass(slots=True, kw_only=True)
class AttemptCall:
    """One try of a step execution. A tracing layer sets `trace_id` and `span_id`."""

    step: StepCall
    attempt: int  # 1 for the first
    last_error: BaseException | None = None
    backoff: float = 0.0  # seconds waited before this attempt
    trace_id: str | None = None
    span_id: str | None = None


RunNext: TypeAlias = Callable[[RunCall], Awaitable[StopEvent | None]]
StepNext: TypeAlias = Callable[[StepCall], Awaitable[StepResult]]
AttemptNext: TypeAlias = Callable[[AttemptCall], Awaitable[StepResult]]
