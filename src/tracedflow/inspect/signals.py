"""On SIGUSR1 a process says on standard error why each of its live runs is where it is. Opt-in: `on_signal()`.

It is a call of its own, and no part of `telemetry.setup()`: what a signal means belongs to the application.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

from .._live import runs
from ..errors import WorkflowRuntimeError
from ..handler import WorkflowHandler

_TRIES = 5  # a report is read while the run goes on, and what it reads may change under it


def on_signal(number: int | None = None, *, stream: TextIO | None = None) -> Callable[[], None]:
    """Print `why()` of all live runs to `stream` (standard error) whenever the signal comes. Call it in the main thread.

    It works while a step blocks the event loop: a thread of its own answers. A handler that was there before is still
    called. Returns what undoes it.

    Args:
        number: the signal; `signal.SIGUSR1` if None.
        stream: where to; standard error, as it is at that moment, if None.

    Raises:
        WorkflowRuntimeError: this system has no SIGUSR1, or this is not the main thread.
    """
    chosen = number if number is not None else getattr(signal, "SIGUSR1", None)
    if chosen is None:
        raise WorkflowRuntimeError("this system has no SIGUSR1; call on_signal() with another signal, or print tracedflow.inspect.tell()")
    if threading.current_thread() is not threading.main_thread():
        raise WorkflowRuntimeError("on_signal() must be called in the main thread: Python takes signal handlers nowhere else")
    inbox: queue.SimpleQueue[bool] = queue.SimpleQueue()  # its `put` may interrupt itself; a lock or a new thread might hang
    previous: Any = signal.getsignal(chosen)

    def received(got: int, frame: Any) -> None:
        inbox.put(True)
        if callable(previous):
            previous(got, frame)

    threading.Thread(target=_answer, args=(inbox, stream), name="tracedflow-why", daemon=True).start()
    signal.signal(chosen, received)

    def undo() -> None:
        if signal.getsignal(chosen) is received:
            signal.signal(chosen, previous)
        inbox.put(False)

    return undo


def _answer(inbox: queue.SimpleQueue[bool], stream: TextIO | None) -> None:
    while inbox.get():
        out = stream or sys.stderr
        try:
            out.write(tell() + "\n")
            out.flush()
        except (OSError, ValueError):  # closed, or nobody reads it: the next answer may find another
            continue


def tell() -> str:
    """Return why each live run of this process is where it is."""
    live = runs()
    opening = f"tracedflow, process {os.getpid()}: {len(live) or 'no'} live run{'' if len(live) == 1 else 's'}"
    return "\n".join([opening, *(_why(handler) for handler in live)])


def _why(handler: WorkflowHandler[Any]) -> str:
    for _ in range(_TRIES):
        try:
            return str(handler.why())
        except RuntimeError:  # "changed size during iteration": the run is in another thread, and goes on
            continue
    return f"Run {handler.run_id} goes on too fast to be asked; ask again."
