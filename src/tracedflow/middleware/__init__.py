"""The middleware protocol: calls that are wrapped, notices that are noticed, and the chain folded from both.

Wrap what has a duration, notice what has none. Knows nothing of the engine that calls it.
"""

from __future__ import annotations

from ._calls import AttemptCall, AttemptNext, Cause, RunCall, RunNext, StepNext, StepResult
from ._chain import Chain
from ._layers import Middleware, Observer
from ._notices import (
    EventDropped,
    EventSent,
    EventStreamed,
    JoinWaiting,
    LoopBlocked,
    MiddlewareFailed,
    Notice,
    RetryScheduled,
    RunResumed,
    RunStalled,
    RunSuspended,
    StepTimedOut,
    WaitEnded,
    WaitStarted,
)
from ._step_call import StepCall

__all__ = [
    "AttemptCall",
    "AttemptNext",
    "Cause",
    "Chain",
    "EventDropped",
    "EventSent",
    "EventStreamed",
    "JoinWaiting",
    "LoopBlocked",
    "Middleware",
    "MiddlewareFailed",
    "Notice",
    "Observer",
    "RetryScheduled",
    "RunCall",
    "RunNext",
    "RunResumed",
    "RunStalled",
    "RunSuspended",
    "StepCall",
    "StepNext",
    "StepResult",
    "StepTimedOut",
    "WaitEnded",
    "WaitStarted",
]
