"""Blocking twins of the Context's async members, for steps that are plain functions and run in threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from .._engine._bridge import block_on, on_loop, submit
from ..errors import ContextStateError

if TYPE_CHECKING:
    from .._engine._scope import StepScope
    from ..events import Event

EventT = TypeVar("EventT", bound="Event")
ValueT = TypeVar("ValueT")

_MISSING: Any = object()


class SyncContext:
    """What `ctx.sync` gives in a step that is a plain function."""

    def __init__(self, scope: StepScope) -> None:
        if not scope.in_thread:
            raise ContextStateError("ctx.sync blocks, and this step runs on the event loop; await the async member instead")
        self._scope = scope

    @property
    def store(self) -> SyncStore:
        """The run's state, blocking."""
        return SyncStore(self._scope)

    def wait_for_event(
        self,
        event_type: type[EventT],
        waiter_event: Event | None = None,
        waiter_id: str | None = None,
        requirements: dict[str, Any] | None = None,
        timeout: float | None = 2000.0,
    ) -> EventT:
        """Block this thread until an event of this class arrives; see `Context.wait_for_event`."""
        scope = self._scope
        answer: EventT = block_on(scope, lambda: scope.wait(event_type, waiter_event, waiter_id, requirements or {}, timeout))
        return answer

    def once(self, key: str, fn: Callable[[], ValueT]) -> ValueT:
        """Call `fn` once in the life of this execution; see `Context.once`."""
        known, value = self._scope.recall(f"once:{key}")
        if known:
            found: ValueT = value
            return found
        result = fn()
        on_loop(self._scope, lambda: self._scope.remember(f"once:{key}", result))
        return result


class SyncStore:
    """The run's state, blocking."""

    def __init__(self, scope: StepScope) -> None:
        self._scope = scope
        self._store = scope.runner.context.store

    def get(self, path: str, default: Any = _MISSING) -> Any:
        """Return the value at a dotted path."""
        store = self._store
        return block_on(self._scope, lambda: store.get(path) if default is _MISSING else store.get(path, default))

    def set(self, path: str, value: Any) -> None:
        """Set the value at a dotted path."""
        block_on(self._scope, lambda: self._store.set(path, value))

    def get_state(self) -> Any:
        """Return a copy of the whole state."""
        return block_on(self._scope, self._store.get_state)

    def set_state(self, state: Any) -> None:
        """Replace the whole state."""
        block_on(self._scope, lambda: self._store.set_state(state))

    def clear(self) -> None:
        """Set the state back to its defaults."""
        block_on(self._scope, self._store.clear)

    @contextmanager
    def edit_state(self) -> Generator[Any]:
        """Edit the state exclusively; the changes are committed when the block ends without an error."""
        # One coroutine holds the lock for the whole block: the store knows its writer by its task.
        entered: concurrent.futures.Future[Any] = concurrent.futures.Future()
        left: concurrent.futures.Future[None] = concurrent.futures.Future()
        editing = submit(self._scope, lambda: self._edit(entered, left))
        editing.add_done_callback(lambda done: _pass_on(done, entered))
        state = entered.result()
        try:
            yield state
        except BaseException:
            left.set_exception(_Discarded())
            concurrent.futures.wait([editing])
            raise
        left.set_result(None)
        editing.result()

    async def _edit(self, entered: concurrent.futures.Future[Any], left: concurrent.futures.Future[None]) -> None:
        async with self._store.edit_state() as state:
            entered.set_result(state)
            await asyncio.wrap_future(left)


class _Discarded(Exception):  # noqa: N818 - a signal between the two sides of one block, seen by nobody
    """Tells the store that the thread's block raised."""


def _pass_on(done: concurrent.futures.Future[Any], entered: concurrent.futures.Future[Any]) -> None:
    if entered.done():
        return
    error = done.exception() if not done.cancelled() else concurrent.futures.CancelledError()
    entered.set_exception(error or RuntimeError("the edit ended before it began"))
