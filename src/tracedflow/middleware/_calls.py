"""The calls that layers wrap: a run, an attempt, and, beside this, a step execution."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from ..events import Event, StopEvent
from ._step_call import StepCall

if TYPE_CHECKING:
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
