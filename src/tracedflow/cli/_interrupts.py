"""Ctrl-C and SIGTERM while a run is live: the first cancels the run, the second ends the process."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType
from typing import Any

from ..handler import WorkflowHandler

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Interrupts:
    """While it is entered, the first of the signals cancels a run, in the way of a task: its steps can clean up, its trace ends.

    Not `loop.add_signal_handler`: that waits for the event loop, which a step may hold up, and then nothing would be
    said, and no second Ctrl-C could help.
    """

    def __init__(self, handler: WorkflowHandler[Any]) -> None:
        self._handler = handler
        self._loop = handler.get_loop()
        self._before: dict[signal.Signals, Any] = {}
        self.received: signal.Signals | None = None

    def __enter__(self) -> Interrupts:
        heard = [each for each in _SIGNALS if signal.getsignal(each) != signal.SIG_IGN]  # a shell has jobs in the background ignore Ctrl-C
        self._before = {each: signal.signal(each, self._cancel) for each in heard}
        return self

    def __exit__(self, *_: object) -> None:
        if self.received is None:  # else what is left to do, to write the trace, can be cut short too
            for number, before in self._before.items():
                signal.signal(number, before)

    @property
    def cause(self) -> str:
        """What cancelled the run, in words; empty: nothing did."""
        return "" if self.received is None else _NAMES[self.received]

    @property
    def exit_code(self) -> int:
        """As shells report a program that this signal ended."""
        return 0 if self.received is None else 128 + self.received

    def _cancel(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
        again = "; Ctrl-C again ends it at once" if self.received == signal.SIGINT else ""
        with contextlib.suppress(OSError):  # closed
            os.write(2, f"\ntracedflow run: cancelling the run{again}\n".encode())  # what it interrupts may be writing to `sys.stderr`
        self._loop.call_soon_threadsafe(self._handler.cancel, self.cause)
