"""Stepwise runs: what is ready starts when the caller says so, and what it returns goes to the caller."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .events import Event, StopEvent

if TYPE_CHECKING:
    from ._runner import Runner


class Stepper:
    """Holds back what the steps of one run return, and starts them when it is told to."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._produced: list[Event] = []  # also between two steps, by those that were parked
        self._ended: asyncio.Future[None] | None = None

    async def run_step(self) -> list[Event] | None:
        """Run what is ready; return what it returned, undelivered, or None when the run is over."""
        runner = self._runner
        if not runner.settings.stepwise:
            raise ValueError("run_step() needs a stepwise run: workflow.run(stepwise=True, ...)")
        await asyncio.sleep(0)  # the run starts with the loop's next turn
        if runner.is_over:
            return None
        self._ended = runner.loop.create_future()
        runner.start_ready()
        self.look()
        await self._ended
        produced, self._produced = self._produced, []
        return None if runner.is_over and not produced else produced

    def hold_back(self, events: Sequence[Event]) -> Sequence[Event]:
        """Keep what a step returned for the caller; a StopEvent goes on to end the run."""
        if any(isinstance(event, StopEvent) for event in events):
            return events
        self._produced.extend(events)
        return ()

    def look(self) -> None:
        """See whether what was started has ended, or parked."""
        runner = self._runner
        running = any(scope.execution.phase != "parked" for scope in runner.scopes.values())
        if self._ended is not None and not self._ended.done() and (runner.is_over or not running):
            self._ended.set_result(None)
