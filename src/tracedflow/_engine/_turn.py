"""The turns of an event loop, as budgets of time: steps that follow each other, in however many runs, must not keep others waiting."""

from __future__ import annotations

import asyncio
from collections import deque
from weakref import WeakKeyDictionary, ref

from ._watchdog import sign_of_life

# Asyncio runs every ready handle before it looks at its timers, so the budget is the loop's, not a run's.
BUDGET = 0.001  # seconds
MOST = 200  # steps: in virtual time, which stands still while steps run, the budget of time alone would never end


class Turn:
    """The current turn of one loop, and who waits for one."""

    __slots__ = ("__weakref__", "_at_once", "_ends", "_is_ending", "_is_full", "_left", "_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)
        self._ends = 0.0  # of this turn; before its first step, 0
        self._left = 0
        self._is_ending = False  # the loop will call `_over`
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._at_once = 1  # how many of those get the next turn: more and more, until it is too short for them
        self._is_full = False  # somebody was refused more of this turn

    def allows(self, now: float) -> bool:
        """Whether this turn has time left for one more step."""
        if now < self._ends and self._left > 0:
            self._left -= 1
            return True
        if self._ends:
            self._is_full = True
            return False
        self._ends = now + BUDGET
        self._left = MOST
        self._end_soon()
        sign_of_life()
        return True

    def next(self) -> asyncio.Future[None]:
        """Return what is done when the caller may take a step again, first come, first served."""
        loop = self._loop()
        assert loop is not None
        future = loop.create_future()
        self._waiting.append(future)
        self._end_soon()
        return future

    def _end_soon(self) -> None:
        loop = self._loop()
        if loop is not None and not self._is_ending:
            self._is_ending = True
            loop.call_soon(self._over)

    def _over(self) -> None:
        self._ends = 0.0
        self._is_ending = False
        waiting = self._waiting
        self._at_once = max(1, self._at_once // 2) if self._is_full else min(MOST, self._at_once * 2)
        self._is_full = False
        for _ in range(min(len(waiting), self._at_once)):
            future = waiting.popleft()
            if not future.done():
                future.set_result(None)
        if waiting:
            self._end_soon()


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, Turn] = WeakKeyDictionary()


def turn_of(loop: asyncio.AbstractEventLoop) -> Turn:
    """Return the one turn of a loop."""
    found = _turns.get(loop)
    if found is None:
        found = _turns[loop] = Turn(loop)
    return found
