"""How a run, a step execution or an attempt ended: the one place that turns a result or an exception into an outcome.

Every view (records, spans, metrics, console) asks here, so that they can never disagree.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .errors import StepTimeoutError, WorkflowCancelledByUser, WorkflowStalledError, WorkflowTimeoutError

if TYPE_CHECKING:
    from .events import StopEvent
    from .middleware import StepCall, StepResult
    from .records import Outcome

FAILURES: frozenset[Outcome] = frozenset({"error", "timeout", "stalled"})
"""The outcomes that are somebody's fault. Cancelled, suspended and the rest are control flow."""


def outcome_of_run(result: StopEvent | None, error: BaseException | None) -> Outcome:
    """Return how a run ended that gave `result` or raised `error`."""
    match error:
        case None:
            return "suspended" if result is None else "success"
        case WorkflowStalledError():
            return "stalled"
        case WorkflowTimeoutError():
            return "timeout"
        case WorkflowCancelledByUser() | asyncio.CancelledError():
            return "cancelled"
        case _:
            return "error"


def outcome_of_step(call: StepCall, result: StepResult, error: BaseException | None) -> Outcome:
    """Return how a step execution ended that gave `result` or raised `error`; for an attempt, give the call of its step."""
    match error:
        case None:
            if call.attempts == 0:
                return "skipped"
            return "collecting" if result is None and call.collecting else "success"
        case StepTimeoutError():
            return "timeout"
        case asyncio.CancelledError():
            return "suspended" if call.cancel_reason == "suspended" else "cancelled"
        case _:
            return "error"


def error_type(error: BaseException) -> str:
    """Return the qualified type name of an exception, without `builtins.`: for records, spans and metrics alike."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
