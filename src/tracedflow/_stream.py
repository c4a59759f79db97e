"""The stream of a run: a bounded log of events that any number of readers follow, each from an offset of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from .errors import StreamOffsetError
from .events import Event, InternalDispatchEvent

DEFAULT_KEPT = 10_000


@dataclass(slots=True, eq=False)
class _Cursor:
    """Where one reader is. The log holds cursors, not readers, so that a reader nobody holds can go away."""

    offset: int
    expose_internal: bool
    waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class EventLog:
    """The last events of a run's stream. `on_idle` is called when a reader has read all and asks for more, or leaves."""

    def __init__(self, kept: int | None, on_idle: Callable[[], None]) -> None:
        self.events: deque[Event] = deque(maxlen=kept)
        self.gone = 0  # events no longer kept
        self.closed = False
        self._cursors: set[_Cursor] = set()
        self._interrupted: int | None = None  # where the last reader that left early stopped
        self._on_idle = on_idle

    @property
    def end(self) -> int:
        """The offset of the next event."""
        return self.gone + len(self.events)

    @property
    def wants_internal(self) -> bool:
        """Whether a reader asked for the engine's own events."""
        return any(cursor.expose_internal for cursor in self._cursors)

    @property
    def is_drained(self) -> bool:
        """Whether every attached reader has taken all events and asked for more."""
        return all(cursor.waiter is not None and cursor.offset >= self.end for cursor in self._cursors)

    def append(self, event: Event) -> None:
        """Add an event and wake the readers; nothing is added after the end."""
        if self.closed:
            return
        if self.events.maxlen is not None and len(self.events) == self.events.maxlen:
            self.gone += 1
        self.events.append(event)
        self._wake()

    def close(self) -> None:
        """Let every reader end after the last event."""
        self.closed = True
        self._wake()

    def attach(self, offset: int | None, *, expose_internal: bool) -> _Cursor:
        """Add a reader. Without an offset it goes on where one that left early stopped, else from the first event."""
        if offset is None:
            offset, self._interrupted = self._interrupted or 0, None
        cursor = _Cursor(offset, expose_internal)
        self._cursors.add(cursor)
        return cursor

    def detach(self, cursor: _Cursor) -> None:
        """Forget a reader."""
        if cursor in self._cursors:
            self._cursors.discard(cursor)
            cursor.wake()
            has_rest = self.gone <= cursor.offset and not (self.closed and cursor.offset >= self.end)
            self._interrupted = cursor.offset if has_rest else None
            self._on_idle()

    def has(self, cursor: _Cursor) -> bool:
        """Whether the reader is attached."""
        return cursor in self._cursors

    async def more(self, cursor: _Cursor) -> None:
        """Wait until there is an event after the cursor, or the end."""
        cursor.waiter = asyncio.get_running_loop().create_future()
        self._on_idle()
        try:
            await cursor.waiter
        finally:
            cursor.waiter = None

    def _wake(self) -> None:
        for cursor in self._cursors:
            cursor.wake()


class EventStream(AsyncIterator[Event]):
    """One reader of a run's stream: iterate with `async for`. It ends when the run ends, whatever way.

    It is attached from its creation until its end, `aclose()`, or until nobody holds it. While it is attached and
    has not asked for the next event, its caller may still answer the run, so the run is not called stalled.

    Raises:
        StreamOffsetError: events from the offset on are no longer kept; the message says how many are gone.
    """

    def __init__(self, log: EventLog, offset: int | None, *, expose_internal: bool = False) -> None:
        if offset is not None and offset < 0:
            raise ValueError(f"offset={offset} must be 0 or more")
        self._log = log
        self._cursor = log.attach(offset, expose_internal=expose_internal)

    @property
    def offset(self) -> int:
        """The offset of the next event; give it to `stream_events(offset=)` to go on from here."""
        return self._cursor.offset

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        log, cursor = self._log, self._cursor
        while True:
            if not log.has(cursor):  # closed, or ended before
                raise StopAsyncIteration
            if cursor.offset < log.gone:
                log.detach(cursor)
                raise StreamOffsetError(
                    f"{log.gone - cursor.offset} events from offset {cursor.offset} on are no longer kept; "
                    "read sooner, or keep more with Workflow(keep_events=)"
                )
            if cursor.offset < log.end:
                event = log.events[cursor.offset - log.gone]
                cursor.offset += 1
                if cursor.expose_internal or not isinstance(event, InternalDispatchEvent):
                    return event
            elif log.closed:
                log.detach(cursor)
                raise StopAsyncIteration
            else:
                await log.more(cursor)

    async def aclose(self) -> None:
        """Detach from the run; iterating again ends at once."""
        self._log.detach(self._cursor)

    def __del__(self) -> None:
        # `break` in an `async for` drops the reader without closing it.
        if hasattr(self, "_cursor"):  # not one whose offset was refused
            self._log.detach(self._cursor)
