"""`Middleware` and `Observer`, the classes to subclass."""

from __future__ import annotations

from typing import ClassVar, Literal

from ..events import StopEvent
from ._calls import AttemptCall, AttemptNext, RunCall, RunNext, StepNext, StepResult
from ._notices import Notice
from ._step_call import StepCall


class Middleware:
    """Wraps runs, step executions and attempts, and hears notices. Override what you need.

    The first listed is outermost. A middleware may control: replace events, answer without `call_next`, or raise,
    which fails the attempt as the step would. Layers that a class does not override cost nothing.
    """

    hears: ClassVar[tuple[type[Notice], ...] | None] = None
    """The notices that `on` is called with; None: all. What nobody hears is not even made."""

    attempts_of: ClassVar[Literal["all", "retried"]] = "all"
    """The steps whose attempts `attempt` wraps: all, or those with a retry policy."""

    async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
        """Wrap a run. None means that this segment ended suspended."""
        return await call_next(call)

    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        """Wrap a step execution, over all its attempts."""
        return await call_next(call)

    async def attempt(self, call: AttemptCall, call_next: AttemptNext, /) -> StepResult:
        """Wrap one try of a step execution."""
        return await call_next(call)

    def on(self, notice: Notice, /) -> None:
        """Hear an instant, always on the run's event loop. Errors are logged and go no further."""


class Observer(Middleware):
    """A middleware that only watches: neither its bugs nor its result reach the run.

    It may await nothing but `call_next`; slow I/O belongs in a queue of its own.
    """
