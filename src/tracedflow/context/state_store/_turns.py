"""Turns: a lock over event loops. Knows nothing of what it guards."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections import deque
from typing import Any


@dataclasses.dataclass(slots=True, eq=False)
class Turn:
    """One writer's place in the queue."""

    loop: asyncio.AbstractEventLoop
    task: asyncio.Task[Any] | None
    came: asyncio.Event


class Turns:
    """Lets one writer at a time in, first come first served, whatever event loop it runs on.

    An `asyncio.Lock` serves one loop only, and a `threading.Lock` would stop a whole loop while another one's block awaits.
    """

    def __init__(self) -> None:
        self._guard = threading.RLock()  # held for a few instructions
        self._holder: Turn | None = None
        self._waiting: deque[Turn] = deque()

    def mine(self) -> bool:
        """Tell whether the calling task has the turn."""
        holder = self._holder
        return holder is not None and holder.task is asyncio.current_task()

    async def take(self) -> Turn:
        """Wait for the turn, and return what passes it on."""
        turn = Turn(asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event())
        with self._guard:
            # A loop that was closed in the middle of a block can never pass its turn on.
            if self._holder is None or self._holder.loop.is_closed():
                self._holder = turn
                return turn
            self._waiting.append(turn)
        try:
            await turn.came.wait()
        except BaseException:
            with self._guard:
                if turn in self._waiting:
                    self._waiting.remove(turn)
            self.pass_on(turn)  # it may have come together with the cancellation
            raise
        return turn

    def pass_on(self, turn: Turn) -> None:
        """Give the turn to who has waited longest; nothing happens if it was taken away."""
        with self._guard:
            if self._holder is not turn:  # its loop was closed in the middle of its block, and the block ends only now
                return
            while self._waiting:
                self._holder = self._waiting.popleft()
                try:
                    self._holder.loop.call_soon_threadsafe(self._holder.came.set)
                except RuntimeError:  # that loop is closed
                    continue
                return
            self._holder = None
