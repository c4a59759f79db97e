"""One turn of an event loop, as a budget of time: steps that follow each other in one task must not keep others waiting."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

# Asyncio runs every ready handle before it looks at its timers, so the budget is the loop's, not a run's.
BUDGET = 0.0005  # seconds
MOST = 200  # steps: in virtual time, which stands still while steps run, the budget of time alone would never end


class Turn:
    """The current turn of one loop."""

    __slots__ = ("__weakref__", "_ends", "_left", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ends: float | None = None
        self._left = 0

    def allows(self, now: float) -> bool:
        """Whether this turn has time left for one more step."""
        if self._ends is None:
            self._ends = now + BUDGET
            self._left = MOST
            self._loop.call_soon(self._over)
            return True
        self._left -= 1
        return now < self._ends and self._left > 0

    def _over(self) -> None:
        self._ends = None


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, Turn] = WeakKeyDictionary()


def turn_of(loop: asyncio.AbstractEventLoop) -> Turn:
    """Return the one turn of a loop."""
    found = _turns.get(loop)
    if found is None:
        found = _turns[loop] = Turn(loop)
    return found
