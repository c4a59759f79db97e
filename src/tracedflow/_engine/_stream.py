"""The stream of a run: a bounded log of events that any number of readers follow, each from an offset of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Protocol, cast

from ..errors import StreamOffsetError
from ..events import Event, InternalDispatchEvent, StopEvent

DEFAULT_KEPT = 10_000
_NOBODY: frozenset[_Cursor] = frozenset()


@dataclass(slots=True, eq=False)
class _Cursor:
    """Where one reader is. The log holds cursors, not readers, so that a reader nobody holds can go away."""

    offset: int
    expose_internal: bool
    waiter: asyncio.Future[None] | None = None
    # The engine's own events, each with the offset that it stands before. They are this reader's alone: kept in the log,
    # they would shift the offsets of all readers.
    internal: deque[tuple[int, InternalDispatchEvent]] = field(default_factory=deque[tuple[int, InternalDispatchEvent]])
    lost: int = 0  # internal events that it left unread too long

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class Idle(Protocol):
    """Who wants to know when nothing is left to read."""

    def look(self) -> None:
        """Hear that a reader has read all and asks for more, or left."""
        ...


class EventLog:
    """The last events of a run's stream."""

    def __init__(self, kept: int | None, watch: Idle) -> None:
        self.events: deque[Event] | tuple[()] = ()
        self._kept = kept
        self.gone: int = 0  # events no longer kept
        self.closed: bool = False
        self._cursors: set[_Cursor] | frozenset[_Cursor] = _NOBODY
        self._interrupted: int | None = None  # where the last reader that left early stopped
        self._watch = watch

    @property
    def end(self) -> int:
        """The offset of the next event."""
        return self.gone + len(self.events)

    @property
    def is_drained(self) -> bool:
        """Whether every attached reader has taken all events and asked for more."""
        return all(cursor.waiter is not None and cursor.offset >= self.end and not cursor.internal for cursor in self._cursors)

    def append(self, event: Event) -> None:
        """Add an event and wake the readers. Nobody adds one after the end."""
        if isinstance(self.events, tuple):
            self.events = deque(maxlen=self._kept)
        if len(self.events) == self._kept:
            self.gone += 1
        self.events.append(event)
        self._wake()

    def tell(self, event: InternalDispatchEvent) -> None:
        """Give an event of the engine's own to the attached readers that ask for those; it has no offset and is not kept."""
        for cursor in tuple(self._cursors):
            if cursor.expose_internal:
                if len(cursor.internal) == self._kept:
                    cursor.internal.popleft()
                    cursor.lost += 1
                cursor.internal.append((self.end, event))
                cursor.wake()

    def close(self) -> None:
        """Let every reader end after the last event."""
        self.closed = True
        self._wake()

    def attach(self, offset: int | None, *, expose_internal: bool, first: Iterable[InternalDispatchEvent] = ()) -> _Cursor:
        """Add a reader. Without an offset it goes on where one that left early stopped, else from the first event.

        `first` are internal events that only this one gets, where the stream is now.
        """
        if offset is None:
            offset, self._interrupted = self._interrupted or 0, None
        cursor = _Cursor(offset, expose_internal)
        cursor.internal.extend((self.end, event) for event in first)
        if isinstance(self._cursors, frozenset):  # most runs have no reader, and so no set
            self._cursors = set()
        self._cursors.add(cursor)
        return cursor

    def detach(self, cursor: _Cursor) -> None:
        """Forget a reader."""
        if cursor in self._cursors and not isinstance(self._cursors, frozenset):
            self._cursors.discard(cursor)
            cursor.wake()
            has_rest = self.gone <= cursor.offset and not (self.closed and cursor.offset >= self.end)
            self._interrupted = cursor.offset if has_rest else None
            self._watch.look()

    def has(self, cursor: _Cursor) -> bool:
        """Whether the reader is attached."""
        return cursor in self._cursors

    async def more(self, cursor: _Cursor) -> None:
        """Wait until there is an event after the cursor, or the end."""
        cursor.waiter = asyncio.get_running_loop().create_future()
        self._watch.look()
        try:
            await cursor.waiter
        finally:
            cursor.waiter = None

    def _wake(self) -> None:
        for cursor in tuple(self._cursors):  # a reader that nobody holds may go meanwhile
            cursor.wake()


class EventStream(AsyncIterator[Event]):
    """One reader of a run's stream: iterate with `async for`. It ends with the first StopEvent, or when the run ends, whatever way.

    It is attached from its creation until its end, `aclose()`, or until nobody holds it. While it is attached and
    has not asked for the next event, its caller may still answer the run, so the run is not called stalled.

    A StopEvent that a step only wrote to the stream ends the reader, not the run: `offset` tells another where to go on.

    Raises:
        StreamOffsetError: events from the offset on are no longer kept; the message says how many are gone.
    """

    def __init__(
        self, log: EventLog, offset: int | None, *, expose_internal: bool = False, first: Iterable[InternalDispatchEvent] = ()
    ) -> None:
        if offset is not None and (isinstance(offset, bool) or not isinstance(cast("object", offset), int) or offset < 0):
            raise ValueError(f"offset={offset!r} must be an integer, 0 or more")
        self._log = log
        self._cursor = log.attach(offset, expose_internal=expose_internal, first=first)

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
                raise self._gone(f"{log.gone - cursor.offset} events from offset {cursor.offset} on")
            if cursor.lost:
                raise self._gone(f"{cursor.lost} internal events before offset {cursor.internal[0][0]}")
            if cursor.internal and cursor.internal[0][0] <= cursor.offset:
                return cursor.internal.popleft()[1]
            if cursor.offset < log.end:
                event = log.events[cursor.offset - log.gone]
                cursor.offset += 1
                if isinstance(event, StopEvent):
                    log.detach(cursor)
                return event
            if log.closed:
                log.detach(cursor)
                raise StopAsyncIteration
            await log.more(cursor)

    def _gone(self, what: str) -> StreamOffsetError:
        self._log.detach(self._cursor)
        return StreamOffsetError(f"{what} are no longer kept; read sooner, or keep more with Workflow(keep_events=)")

    async def aclose(self) -> None:
        """Detach from the run; iterating again ends at once."""
        self._log.detach(self._cursor)

    def __del__(self) -> None:
        # `break` in an `async for` drops the reader without closing it.
        if hasattr(self, "_cursor"):  # not one whose offset was refused
            self._log.detach(self._cursor)
