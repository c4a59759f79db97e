"""An observer runs in the task of what it watches, and is kept from cancelling it: as current task it finds a stand-in.

`asyncio.timeout`, a task group and `current_task().cancel()` all ask for the current task. Detecting the request afterwards
comes too late: a timer makes it while the step runs, and before Python 3.13 `uncancel()` does not take it back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any


class StandIn:
    """The task that it stands for, but for `cancel()`, which is only reported."""

    def __init__(self, task: asyncio.Task[Any], report: Callable[[], None]) -> None:
        self._task = task
        self._report = report

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def cancel(self, msg: Any | None = None) -> bool:
        """Refuse."""
        self._report()
        return False

    def cancelling(self) -> int:
        """Return that nobody asked: a request from outside is not the observer's."""
        return 0

    def uncancel(self) -> int:
        """Take nothing back."""
        return 0


class Apart(Coroutine[Any, Any, Any]):
    """Drives a coroutine, the same stand-in being its current task whenever it runs."""

    def __init__(self, inner: Coroutine[Any, Any, Any], report: Callable[[], None]) -> None:
        self._inner = inner
        self._report = report
        self._stand_in: StandIn | None = None

    def send(self, value: Any, /) -> Any:
        """Let it go on with a value."""
        return self._drive(self._inner.send, value)

    def throw(self, *error: Any) -> Any:
        """Let it go on with an exception."""
        return self._drive(self._inner.throw, *error)

    def close(self) -> None:
        """End it."""
        self._drive(self._inner.close)

    def __await__(self) -> Generator[Any, Any, Any]:
        raise TypeError("it is driven by hand")  # the protocol wants the method

    def _drive(self, go: Callable[..., Any], *given: Any) -> Any:
        if self._stand_in is None:
            task = _current_task()
            if task is None:
                return go(*given)
            self._stand_in = StandIn(task, self._report)
        return _behind(self._stand_in, go, *given)


def call_apart(report: Callable[[], None], go: Callable[..., Any], *given: Any) -> Any:
    """Call a function that finds a stand-in as its current task, if there is one."""
    task = _current_task()
    return go(*given) if task is None else _behind(StandIn(task, report), go, *given)


def _behind(stand_in: StandIn, go: Callable[..., Any], *given: Any) -> Any:
    # Documented for those who extend asyncio: https://docs.python.org/3/library/asyncio-extending.html
    task, loop = stand_in._task, stand_in._task.get_loop()
    if _current_task() is not task:  # its loop has ended, and it is closed by the garbage collector
        return go(*given)
    asyncio._leave_task(loop, task)
    asyncio._enter_task(loop, stand_in)  # type: ignore[arg-type]
    try:
        return go(*given)
    finally:
        asyncio._leave_task(loop, stand_in)  # type: ignore[arg-type]
        asyncio._enter_task(loop, task)


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs
        return None
