"""A process that says why each of its live runs is where it is: on standard error on SIGUSR1, and to `tracedflow why --pid`.

Opt-in by `on_signal()`. It is a call of its own, and no part of `telemetry.setup()`: what a signal means belongs to the
application.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TextIO

from .._engine._live import runs
from ..errors import WorkflowRuntimeError
from ..handler import WorkflowHandler
from .sockets import Listener, listen

_TRIES = 5  # a report is read while the run goes on, and what it reads may change under it
_OVER = b"."
_PRINT = b"!"


def on_signal(number: int | None = None, *, stream: TextIO | None = None) -> Callable[[], None]:
    """Print `why()` of all live runs to `stream` (standard error) whenever the signal comes. Call it in the main thread.

    From then on `tracedflow why --pid` gets an answer too, through a socket in a folder that only this user can enter.
    It works while a step blocks the event loop: a thread of its own answers. A handler that was there before is still
    called. A process that is forked from this one answers for itself. Returns what undoes it.

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
    previous: Any = signal.getsignal(chosen)
    answering = _Answering(stream)

    def received(got: int, frame: Any) -> None:
        answering.print()
        if callable(previous):
            previous(got, frame)

    signal.signal(chosen, received)
    atexit.register(answering.end)

    def undo() -> None:
        if signal.getsignal(chosen) is received:
            signal.signal(chosen, previous)
        atexit.unregister(answering.end)
        answering.end()

    return undo


class _Answering:
    """A thread that answers: to the stream when it is woken, and to whoever comes to the socket."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._is_over = False
        _all.add(self)
        self._start()

    def print(self) -> None:
        """Print an answer. May be called in a signal handler, also in one that interrupts itself."""
        if not self._is_over:
            self._wake(_PRINT)

    def end(self) -> None:
        """Answer no more. The socket is gone when this returns."""
        if not self._is_over:
            self._is_over = True
            if self._listener is not None:
                self._listener.hide()
            self._wake(_OVER)  # the thread closes what it waits at

    def forked(self) -> None:
        """Begin anew in a child: threads do not survive a fork, and the socket is the parent's."""
        if self._is_over:
            return
        if self._listener is not None:
            self._listener.close()
        os.close(self._woken)
        os.close(self._waking)
        self._start()

    def _start(self) -> None:
        self._woken, self._waking = os.pipe()
        os.set_blocking(self._waking, False)
        self._listener = listen()
        threading.Thread(target=self._work, args=(self._woken, self._waking, self._listener), name="tracedflow-why", daemon=True).start()

    def _wake(self, why: bytes) -> None:
        with contextlib.suppress(OSError):  # full: it is woken already
            os.write(self._waking, why)

    def _work(self, woken: int, waking: int, listener: Listener | None) -> None:
        with selectors.DefaultSelector() as doors:
            doors.register(woken, selectors.EVENT_READ)
            if listener is not None:
                doors.register(listener.socket, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in doors.select()}
                if woken not in ready and listener is not None:
                    listener.answer(json.dumps(told()).encode())
                elif woken in ready and _OVER in os.read(woken, 4096):
                    break
                elif woken in ready:
                    _print(self._stream)
        if listener is not None:
            listener.close()
        os.close(woken)
        os.close(waking)


_all: weakref.WeakSet[_Answering] = weakref.WeakSet()


def _after_fork() -> None:
    for each in tuple(_all):
        each.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _print(stream: TextIO | None) -> None:
    out = stream or sys.stderr
    with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads it: the next answer may find another
        out.write(tell() + "\n")
        out.flush()


def tell() -> str:
    """Return why each live run of this process is where it is."""
    return as_text(told())


def told() -> dict[str, Any]:
    """Return the same as data: `pid`, and `runs`, of each the fields of its `RunReport`, and `why`, their explanation."""
    return {"pid": os.getpid(), "runs": [_told(handler) for handler in runs()]}


def as_text(answer: dict[str, Any]) -> str:
    """Return an answer as people read it."""
    live = answer["runs"]
    opening = f"tracedflow, process {answer['pid']}: {len(live) or 'no'} live run{'' if len(live) == 1 else 's'}"
    return "\n".join([opening, *(run["why"] for run in live)])


def _told(handler: WorkflowHandler[Any]) -> dict[str, Any]:
    for _ in range(_TRIES):
        try:
            report = handler.why()
            return {**asdict(report), "why": str(report)}
        except Exception:  # noqa: BLE001 - "changed size during iteration" and the like: the run is in another thread, and goes on
            continue
    return {"run_id": handler.run_id, "state": "running", "why": f"Run {handler.run_id} goes on too fast to be asked; ask again."}
