"""The call of a step execution. What is made for each step stands alone, where it can be compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..events import Event
from ..retry_policy import max_attempts

if TYPE_CHECKING:
    from ..decorators import StepConfig
    from ._calls import Cause, RunCall


class StepCall:
    """One step execution, over all its attempts. Treat the attributes as read-only, except where said.

    `headers` came with the event; what a layer puts into `outgoing` is copied onto every event that the execution
    sends or returns from then on. A tracing layer sets `span_context`, `trace_id` and `span_id`. The times and counts
    are live: read them after `await call_next(call)` for their final values.
    """

    # What few executions change stands on the class, where it costs nothing to make.
    backoff: float = 0.0  # seconds between attempts
    waiting: float = 0.0  # seconds parked in wait_for_event
    blocked: float = 0.0  # seconds in which the step blocked the event loop
    limit_waits: Sequence[tuple[str, float]] = ()  # (limit, seconds)
    joined: tuple[Any, ...] = ()  # what `origin` makes `collected` of
    measurements: Sequence[tuple[str, float, str]] = ()  # (name, value, unit)
    interruptions: tuple[tuple[str, float, float], ...] = ()  # (waiting | queued | blocked, from, until)
    cancel_reason: str | None = None  # cancelled | run_timeout | sibling_failed | suspended
    _annotations: dict[str, object] | None = None

    def __init__(
        self,
        run: RunCall,
        config: StepConfig,
        execution: int,
        inputs: tuple[Event, ...],
        sources: Any,
        origin: Callable[[Any], tuple[Cause, ...]],
        enqueued_at: float,
        started_at: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.run = run
        self.config = config
        self.execution = execution  # sequence number in the run
        self.inputs = inputs
        self.sources = sources  # what `origin` makes `causes` of; most executions are never asked
        self.origin = origin
        self.enqueued_at = enqueued_at  # run clock
        self.started_at = started_at  # run clock
        self.headers = headers
        self.attempts: int = 0
        self.queued: float = 0.0  # seconds waiting for a slot or a limit, over all attempts
        self.emitted: Sequence[tuple[int, str]] = ()  # (event id, type name) sent or returned
        self.collecting: bool = False  # its last `collect_events` answered None
        self.span_context: object | None = None
        self.trace_id: str | None = None
        self.span_id: str | None = None
        self._causes: tuple[Cause, ...] | None = None
        self._outgoing: dict[str, str] | None = None
        self._scope: Any = None  # the engine's side of it, while it is live

    def __repr__(self) -> str:
        return f"StepCall(run_id={self.run_id!r}, step={self.step!r}, execution={self.execution}, inputs={self.inputs!r})"

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
    def collected(self) -> tuple[Cause, ...]:
        """Where each event came from that its completed `collect_events` are made of."""
        return self.origin(self.joined)

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
