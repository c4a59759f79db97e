"""Sees that a run can never finish. The condition, and the signs of life that speak against it, are those of the design."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from ._part import Part
from ._report import background_tasks

if TYPE_CHECKING:
    from ._runner import Runner


class StallWatch(Part):
    """Watches one run. Told whenever it might have come to rest; looks again when the loop has turned."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self._check: asyncio.Handle | None = None
        self._expected: dict[str, int] = {}

    def expect(self, reason: str) -> None:
        """Hear that something outside will send an event."""
        self._expected[reason] = self._expected.get(reason, 0) + 1

    def no_longer_expect(self, reason: str) -> None:
        """Hear that it will not any more."""
        self._expected[reason] -= 1
        if not self._expected[reason]:
            del self._expected[reason]
        self.look()

    def look(self, _: object = None) -> None:
        """Look, when the loop has turned, whether the run can still go on. From any thread."""
        runner = self._whole()
        if runner is None:  # nobody but a reader of the stream holds on to the run any more
            return
        if threading.get_ident() != runner.thread_id:
            if not runner.loop.is_closed():
                runner.loop.call_soon_threadsafe(self.look)
        elif self._check is None and self._is_quiet():
            self._check = runner.loop.call_soon(self._look_again, 1)

    def signs_of_life(self) -> list[str]:
        """Return why a run in which nothing happens may still go on."""
        runner = self._runner
        signs = [f"a caller expects {reason}" for reason in self._expected]
        if runner.settings.stepwise:
            signs.append("the run is stepwise")
        if runner.state.questions and runner.graph.takes_human_input:
            signs.append("a question to a human is unanswered")
        if not runner.log.is_drained:
            signs.append("a reader of the stream has not asked for more")
        if any(not child.is_over for child in runner.children):
            signs.append("a nested run is live")
        return signs

    def _is_quiet(self) -> bool:
        runner = self._runner
        waits = runner.settings.on_stall == "wait"
        return runner.state.status == "running" and not runner.state.executions and not runner.is_over and not waits

    def _look_again(self, turns: int) -> None:
        self._check = None
        if not self._is_quiet() or self.signs_of_life():
            return
        if turns:
            self._check = self._runner.loop.call_soon(self._look_again, turns - 1)
            return
        alive = background_tasks(self._runner)
        for task in alive:
            task.add_done_callback(self.look)
        if not alive:
            self._runner.stall()
