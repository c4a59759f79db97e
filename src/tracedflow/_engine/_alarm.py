"""A sleep that others can prolong without waking the sleeper.

A thread that wakes beside a busy event loop has to wait for the interpreter's lock. The loop gives that away for an instant in each of its
iterations, signals the thread, and has it back before the thread is awake: both lose time, a third of all in the worst case, for seconds.
So it must not wake as long as the loop shows by itself that it turns. Only a timer of the kernel can be prolonged like that; where there
is none with a file descriptor (not on Linux), it is a plain sleep.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

_MONOTONIC, _CLOEXEC = 1, 0o2000000
_BILLION = 1_000_000_000


class Alarm:
    """Wakes one sleeping thread. It rests until it is put off for the first time."""

    def __init__(self) -> None:
        self._libc, self._fd = _timer()
        self._seconds: float = 0.0
        self._is_set: threading.Event = threading.Event()

    def sleep(self) -> None:
        """Return when the time is over that it was put off for last; not before, and not while it rests."""
        if self._fd >= 0:
            os.read(self._fd, 8)
        else:
            self._is_set.wait()
            time.sleep(self._seconds)

    def put_off(self, seconds: float) -> None:
        """Let the sleeper sleep until so many seconds from now; without a timer, it sleeps that long when it sleeps next."""
        self._seconds = seconds
        self._set(seconds)
        self._is_set.set()

    def rest(self) -> None:
        """Let the sleeper sleep until it is put off again."""
        self._is_set.clear()
        self._set(0.0)

    def close(self) -> None:
        """Give the timer back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _set(self, seconds: float) -> None:
        if self._fd >= 0:
            import ctypes

            when = (ctypes.c_long * 4)(0, 0, *divmod(int(seconds * _BILLION), _BILLION))  # interval, value: seconds, nanoseconds of each
            self._libc.timerfd_settime(self._fd, 0, when, None)


def _timer() -> tuple[Any, int]:
    """Return the library of a new timer and its descriptor; -1: there is none."""
    import ctypes  # 5 ms, for programs that run something

    try:
        libc = ctypes.CDLL(None)
        return libc, int(libc.timerfd_create(_MONOTONIC, _CLOEXEC))
    except (AttributeError, OSError, TypeError):  # another system
        return None, -1
