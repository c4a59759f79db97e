"""The time limit of a run: its own, or what is left of that of the run which started it. May stand still while it waits for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import WorkflowTimeoutError
from ._part import Part

if TYPE_CHECKING:
    import asyncio

    from ..records import RunReport
    from ._runner import Runner

_LATE = 0.1  # seconds after which a timer that fires late is worth a word


class Deadline(Part):
    """When a run times out. `at` is on the run clock; None: never, or not while its clock stands still."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self._timer: asyncio.TimerHandle | None = None
        self._left: float | None = None  # seconds, while the clock stands still
        self.at: float | None = None
        self.seconds: float | None = runner.settings.timeout
        self.pauses: bool = runner.settings.pause_timeout

    def start(self) -> None:
        """Start the clock."""
        runner, timeout = self._runner, self.seconds
        started = runner.now()
        self.at = None if timeout is None else started + timeout
        outer = runner.parent.runner.deadline.at if runner.parent is not None else None
        if outer is not None and (self.at is None or outer < self.at):
            self.at = outer
            self.seconds = max(0.0, outer - started)
        self._run_until(self.at)

    def look(self) -> None:
        """Let the clock stand still while every live step is parked for an event, or none is live and a question is open."""
        state = self._runner.state
        still = all(each.phase == "parked" for each in state.executions.values()) and bool(state.executions or state.questions)
        if still and self.at is not None:
            self._left = self.at - self._runner.now()
            self.at = None
            self.stop()
        elif not still and self._left is not None:
            self.at, self._left = self._runner.now() + self._left, None
            self._run_until(self.at)

    def stop(self) -> None:
        """The run is over, or its clock stands still."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run_until(self, at: float | None) -> None:
        if at is None:
            return
        runner = self._runner
        left = at - runner.now()
        if left <= 0:
            runner.time_out()
        else:
            self._timer = runner.loop.call_later(left, runner.time_out, context=runner.step_context)

    def error(self, report: RunReport) -> WorkflowTimeoutError:
        """Return the error of a run whose time is over; it says so if the timer could not fire in time."""
        runner = self._runner
        late = runner.now() - (self.at or runner.now())
        text = f"Run {runner.run_id} of {runner.call.workflow} exceeded its timeout of {self.seconds:g} s."
        if late > _LATE:
            text += f" It could not fire for {late:.1f} s: {report.blocked or 'the event loop was blocked'}."
        return WorkflowTimeoutError(f"{text}\n{report}", report)
