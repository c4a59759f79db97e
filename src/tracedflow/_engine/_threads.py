"""Daemon threads for sync steps: as many as running and parked ones need, up to a limit. Knows nothing of runs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import os
import queue
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

from ..errors import WorkflowRuntimeError

MAX_THREADS = 256
_IDLE_SECONDS = 5.0

ResultT = TypeVar("ResultT")
_Job: TypeAlias = Callable[[], None]


class ThreadPool:
    """Runs functions in threads. A thread that waits does not block another function: each gets its own.

    The threads are daemons, so that a sync step which never returns cannot keep the process from ending.
    """

    def __init__(self, limit: int = MAX_THREADS) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._idle: list[queue.SimpleQueue[_Job]] = []
        self._count = 0
        self._knows_forks = False

    def forget(self) -> None:
        """Start anew: a child process has none of its parent's threads."""
        self._lock = threading.Lock()
        self._idle.clear()
        self._count = 0

    @property
    def busy(self) -> int:
        """How many threads run a function."""
        with self._lock:
            return self._count - len(self._idle)

    def run(self, loop: asyncio.AbstractEventLoop, context: contextvars.Context, call: Callable[[], Any]) -> asyncio.Future[Any]:
        """Call a function in a thread, in a context; return a future of the loop. Cancelling it abandons the thread.

        Raises:
            WorkflowRuntimeError: all threads are busy.
        """
        future: asyncio.Future[Any] = loop.create_future()

        def job() -> None:
            try:
                result, error = context.run(call), None
            except BaseException as caught:  # noqa: BLE001 - handed to the loop, which raises it
                result, error = None, caught
            _post(loop, future, result, error)

        self._submit(job)
        return future

    def _submit(self, job: _Job) -> None:
        with self._lock:
            if self._idle:
                self._idle.pop().put(job)
                return
            if self._count >= self._limit:
                raise WorkflowRuntimeError(
                    f"All {self._limit} threads for sync steps are busy; make the steps async, or lower their num_workers"
                )
            if not self._count and not self._knows_forks:
                self._knows_forks = True
                os.register_at_fork(after_in_child=self.forget)
            self._count += 1
        inbox: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        inbox.put(job)
        threading.Thread(target=self._work, args=(inbox,), name="tracedflow-step", daemon=True).start()

    def _work(self, inbox: queue.SimpleQueue[_Job]) -> None:
        while True:
            try:
                job = inbox.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                if self._retire(inbox):
                    return
                continue
            job()
            del job  # a finished step's objects must not live as long as the thread
            with self._lock:
                self._idle.append(inbox)

    def _retire(self, inbox: queue.SimpleQueue[_Job]) -> bool:
        with self._lock:
            if inbox not in self._idle:
                return False  # a job was put at this very moment
            self._idle.remove(inbox)
            self._count -= 1
            return True


def run_in_own_loop(main: Callable[[], Coroutine[Any, Any, ResultT]]) -> ResultT:
    """Run a coroutine to its end in this thread, or, if an event loop runs here already, in a thread of its own."""
    if not _has_loop():
        return asyncio.run(main())
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="tracedflow-run") as executor:
        return executor.submit(lambda: asyncio.run(main())).result()


def _has_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _post(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    def settle() -> None:
        if future.cancelled():
            return
        if isinstance(error, StopIteration):  # a future refuses it
            future.set_exception(RuntimeError("step raised StopIteration"))
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:
        return  # the loop is closed: nobody waits any more


pool = ThreadPool()
"""The threads of this process."""
