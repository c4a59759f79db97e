"""The time that one attempt is parked: however many of its branches wait at once, it counts once, and its timeout stands still."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..middleware import StepCall


class Parking:
    """From the first open wait of an attempt to the end of its last. Times are run clock seconds."""

    __slots__ = ("_call", "_left", "_since", "open")

    def __init__(self, call: StepCall, timeout: asyncio.Timeout | None, since: float) -> None:
        self.open: int = 0  # waits
        self._call = call
        self._since = since
        self._left: float | None = None
        when = timeout.when() if timeout is not None else None
        if timeout is not None and when is not None:
            self._left = when - asyncio.get_running_loop().time()
            timeout.reschedule(None)

    def end(self, now: float, ready: float | None, timeout: asyncio.Timeout | None) -> None:
        """Let the timeout go on; None: it is over. Until `ready` the attempt waited, from then it was queued; None: it only waited."""
        if timeout is not None and self._left is not None:
            timeout.reschedule(asyncio.get_running_loop().time() + self._left)
        call, since = self._call, self._since
        until = now if ready is None else max(ready, since)
        call.queued += now - until
        call.waiting += until - since
        call.interruptions += (("waiting", since, until),) if until == now else (("waiting", since, until), ("queued", until, now))
