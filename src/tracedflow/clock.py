"""The one source of time and chance. The engine asks it and nothing else; tests put a virtual one in its place."""

from __future__ import annotations

import secrets
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

_ALPHABET = b"abcdefghijkmnopqrstuvwxyz0123456789"
_LETTERS = bytes(_ALPHABET[byte % len(_ALPHABET)] for byte in range(256))  # of each random byte


class Clock(Protocol):
    """Time and chance, as the engine needs them."""

    def monotonic(self) -> float:
        """Return seconds that never go back; only differences mean something."""
        ...

    def now(self) -> float:
        """Return the run clock: seconds since the Unix epoch that advance with the monotonic clock."""
        ...

    def new_id(self) -> str:
        """Return a new run id: ten characters, lower case letters and digits."""
        ...


class SystemClock:
    """The clock of the machine."""

    if TYPE_CHECKING:

        @staticmethod
        def monotonic() -> float:
            """Return seconds that never go back."""
            ...

    else:
        monotonic = staticmethod(time.monotonic)  # not a method of ours: it is asked at each turn of a step

    def __init__(self) -> None:
        self._epoch = time.time() - time.monotonic()

    def now(self) -> float:
        """Return Unix seconds; steps of the machine's wall clock after the start of the process do not show."""
        return self._epoch + time.monotonic()

    def new_id(self) -> str:
        """Return ten characters from the operating system's source of randomness."""
        return secrets.token_bytes(10).translate(_LETTERS).decode()


SYSTEM = SystemClock()

active: ContextVar[Clock] = ContextVar("tracedflow_clock", default=SYSTEM)
"""The clock that runs started in this context use."""
