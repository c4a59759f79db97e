"""The instants that layers hear of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._calls import Cause, RunCall
from ._step_call import StepCall

if TYPE_CHECKING:
    from ..records import Outcome, RunReport


@dataclass(slots=True, kw_only=True)
class Notice:
    """Something that happened at one instant of a run. `call` is the step execution that it happened in, if any."""

    run: RunCall
    at: float  # run clock
    call: StepCall | None = None


@dataclass(slots=True, kw_only=True)
class EventSent(Notice):
    """A step or the outside sent an event, by `send_event` or by returning it; `to` are the steps that take it."""

    event_id: int
    event_type: str
    to: tuple[str, ...]
    waited: bool = False  # an open wait took it


@dataclass(slots=True, kw_only=True)
class EventDropped(Notice):
    """Nobody took an event. With `final` false it is held, and a later `wait_for_event` may still take it."""

    event_id: int
    event_type: str
    reason: str  # unclaimed | overflow | run_ended
    near_miss: str | None = None
    final: bool = True


@dataclass(slots=True, kw_only=True)
class EventStreamed(Notice):
    """An event was written to the run's stream."""

    event_type: str


@dataclass(slots=True, kw_only=True)
class RetryScheduled(Notice):
    """An attempt failed and will be tried again after `delay` seconds. Comes before the wait."""

    attempt: int  # the one that failed
    delay: float
    error: BaseException


@dataclass(slots=True, kw_only=True)
class StepTimedOut(Notice):
    """An attempt exceeded its `@step(timeout=)`, in seconds."""

    timeout: float
    attempt: int


@dataclass(slots=True, kw_only=True)
class WaitStarted(Notice):
    """A step parked in `wait_for_event`."""

    wait_id: int
    event_type: str
    waiter_id: str | None
    timeout: float | None  # seconds


@dataclass(slots=True, kw_only=True)
class WaitEnded(Notice):
    """A parked step goes on: answered, timed out or ended with its run."""

    wait_id: int
    event_type: str
    outcome: Outcome  # success | timeout | cancelled | suspended
    duration: float  # seconds
    cause: Cause | None = None  # where the answer came from


@dataclass(slots=True, kw_only=True)
class JoinWaiting(Notice):
    """A join took an event and is not complete: `have` of `need` are there."""

    event_type: str
    buffer: str
    have: int
    need: int


@dataclass(slots=True, kw_only=True)
class RunSuspended(Notice):
    """This segment of the run ended; its state was saved."""


@dataclass(slots=True, kw_only=True)
class RunResumed(Notice):
    """The run goes on from a saved state."""


@dataclass(slots=True, kw_only=True)
class RunStalled(Notice):
    """The run can never finish."""

    report: RunReport


@dataclass(slots=True, kw_only=True)
class LoopBlocked(Notice):
    """A step kept the event loop from turning."""

    step: str | None
    location: str  # file:line
    duration: float  # seconds


@dataclass(slots=True, kw_only=True)
class MiddlewareFailed(Notice):
    """An observer raised or awaited something else than `call_next`; the run went on without it."""

    middleware: str
    error_type: str
