"""The telemetry that this process started, and how it ends: within a time, as a dead endpoint must not hold an exit.

Knows nothing of the SDK, so that it is there when that cannot be imported.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

_log = logging.getLogger("tracedflow.telemetry")

SHUTDOWN = 5.0  # seconds that an exit may take


class Closer:
    """A thread that is there from the start: while an interpreter shuts down, none can be started any more."""

    def __init__(self) -> None:
        self._is_over = False
        self._start()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._start)  # threads do not survive a fork

    def _start(self) -> None:
        if self._is_over:
            return
        self._jobs: SimpleQueue[tuple[Callable[[], object], threading.Event]] = SimpleQueue()
        threading.Thread(target=self._work, args=(self._jobs,), name="tracedflow-telemetry", daemon=True).start()

    def _work(self, jobs: SimpleQueue[tuple[Callable[[], object], threading.Event]]) -> None:
        while True:
            job, done = jobs.get()
            job()
            done.set()
            if self._is_over:
                return

    def end(self) -> None:
        """Let the thread go when it has done its job, however long that takes."""
        self._is_over = True
        self._jobs.put((lambda: None, threading.Event()))

    def run(self, job: Callable[[], object], timeout: float) -> bool:
        """Do a job, which may not raise, in the thread; return whether it was done within `timeout` seconds."""
        done = threading.Event()
        self._jobs.put((job, done))
        return done.wait(timeout)


@dataclass(slots=True, kw_only=True)
class Telemetry:
    """What `setup()` started. `shutdown()` runs by itself when the process exits."""

    provider: Any = None  # the tracer provider that spans go to; None: there is none
    pipelines: list[tuple[Any, Any]] = field(default_factory=list[tuple[Any, Any]])  # (DropCollecting, Counted) of each exporter
    file: Any = None  # the trace file's processor, if there is one
    closer: Closer | None = None
    flushes: list[Callable[[], object]] = field(default_factory=list[Callable[[], object]])
    shutdowns: list[Callable[[], object]] = field(default_factory=list[Callable[[], object]])
    is_shut_down: bool = False

    @property
    def active(self) -> bool:
        """Whether spans are recorded."""
        return self.provider is not None and not self.is_shut_down

    def flush(self, timeout: float = SHUTDOWN) -> bool:
        """Send what is buffered; return whether that was done within `timeout` seconds. Blocks: use a thread in a loop."""
        return True if self.is_shut_down else self._all(self.flushes, timeout)

    def shutdown(self, timeout: float = SHUTDOWN) -> bool:
        """Send what is buffered and end the exporters; return whether that was done within `timeout` seconds."""
        if self.is_shut_down:
            return True
        self.is_shut_down = True
        done = self._all(self.shutdowns, timeout)
        if self.file is not None:
            self.file.shutdown()
        if self.closer is not None:
            self.closer.end()
        return done

    def _all(self, jobs: list[Callable[[], object]], timeout: float) -> bool:
        if self.closer is None or not jobs:
            return True
        return self.closer.run(lambda: _each(jobs), timeout)


def _each(jobs: list[Callable[[], object]]) -> None:
    for job in jobs:
        try:
            job()
        except Exception:  # noqa: BLE001 - of an exporter; the others still have their turn
            _log.debug("telemetry could not be flushed or ended", exc_info=True)


current: Telemetry | None = None
"""What `setup()` started in this process, if it was called."""
