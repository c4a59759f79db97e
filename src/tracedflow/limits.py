"""Limits that all runs of a process share: how many at once, and how many a second. A ledger, not a scheduler.

Knows neither loops nor tasks: who may start is told by a callback, when is told as a time. Thread-safe.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from math import inf
from numbers import Real
from typing import Protocol

from . import clock

_log = logging.getLogger("tracedflow.limits")


class Permit(Protocol):
    """The leave to start one attempt, granted or asked for."""

    @property
    def granted(self) -> bool:
        """Whether it holds a slot now: False while queued, and after `release` or `cancel`."""
        ...

    @property
    def not_before(self) -> float:
        """The monotonic time in seconds at which the attempt may start, once granted."""
        ...

    def release(self, now: float | None = None) -> None:
        """Give the slot back after use; `now` is monotonic seconds. Once is enough, more does no harm."""
        ...

    def cancel(self, now: float | None = None) -> None:
        """Withdraw before use: leave the queue, or give back the slot and the start time."""
        ...


class Limiter(Protocol):
    """Whatever hands out permits. `Limit` is one."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def in_use(self) -> int:
        """How many permits hold a slot."""
        ...

    @property
    def waiting(self) -> int:
        """How many requests are queued."""
        ...

    def request(self, wake: Callable[[], None], now: float) -> Permit:
        """Ask for a permit without blocking; see `Limit.request`."""
        ...


class Limit:
    """At most `concurrency` permits in use at once, and starts spaced to `per_second`, first come first served.

    Starts are spaced evenly (GCRA); `burst` says how many may come together after a quiet time. One Limit may be shared by
    runs of several event loops and threads.

    Raises:
        TypeError: an argument has a wrong type; True and False are not numbers here.
        ValueError: a number is not positive, neither limit is given, or `burst` is given without `per_second`.
    """

    def __init__(self, name: str, *, concurrency: int | None = None, per_second: float | None = None, burst: int = 1) -> None:
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - users need not type-check
            raise TypeError(f"name must be a str, not {name!r}")
        if concurrency is None and per_second is None:
            raise ValueError(f"Limit {name!r} limits nothing: give concurrency, per_second or both")
        if per_second is None and burst != 1:
            raise ValueError(f"burst={burst!r} of Limit {name!r} needs per_second")
        self.name = name
        self.concurrency: int | None = None if concurrency is None else _whole("concurrency", concurrency)
        self.per_second: float | None = None if per_second is None else _positive("per_second", per_second)
        self.burst: int = _whole("burst", burst)
        self._guard = threading.RLock()
        self._in_use = 0
        self._queue: OrderedDict[_Permit, None] = OrderedDict()  # a deque would make `cancel` slow
        self._clock: clock.Clock | None = None  # whose times the starts are
        self._starts: _Starts | None = None

    def __repr__(self) -> str:
        return f"Limit({self.name!r}, concurrency={self.concurrency}, per_second={self.per_second}, burst={self.burst})"

    @property
    def in_use(self) -> int:
        """How many permits hold a slot, those that wait for their start time included."""
        return self._in_use

    @property
    def waiting(self) -> int:
        """How many requests are queued for a slot."""
        return len(self._queue)

    def request(self, wake: Callable[[], None], now: float) -> Permit:
        """Ask for a permit; never blocks.

        If it is not granted on return, it is queued, and `wake` is called exactly once when it is granted, from any
        thread, with no lock held; it must only pass the word on to its own event loop. `now` is monotonic seconds.
        """
        permit = _Permit(self._give_back, wake, now)
        with self._guard:
            if self.concurrency is None or self._in_use < self.concurrency:
                self._grant(permit, now)
            else:
                self._queue[permit] = None
        return permit

    def _grant(self, permit: _Permit, now: float) -> None:
        self._in_use += 1
        permit.granted = True
        permit.not_before = now if self.per_second is None else self._starts_on_this_clock(self.per_second).book(now)

    def _starts_on_this_clock(self, per_second: float) -> _Starts:
        used = clock.active.get()
        if self._starts is None or used is not self._clock:  # times of another clock mean nothing: a test in virtual time begins at 0
            self._clock, self._starts = used, _Starts(1 / per_second, self.burst)
        return self._starts

    def _give_back(self, permit: _Permit, now: float | None, unused: bool) -> None:
        # A caller that gives no time still gets the right one: a stale time would let starts come too close.
        at = clock.active.get().monotonic() if now is None else now
        with self._guard:
            granted = self._end(permit, unused=unused)
            following = self._grant_next(at) if granted else None
        while following is not None:
            try:
                following.wake()
                return
            except Exception:  # noqa: BLE001 - its loop is closed, most likely: whoever waits behind it must not suffer
                _log.warning("limit %s could not wake a waiter and passed its permit on", self.name, exc_info=True)
                with self._guard:
                    following = self._grant_next(at) if self._end(following, unused=True) else None

    def _end(self, permit: _Permit, *, unused: bool) -> bool:
        """Take the permit out of the queue or out of use; True if that frees a slot."""
        self._queue.pop(permit, None)
        if not permit.granted:
            return False
        permit.granted = False
        self._in_use -= 1
        if unused and self._starts is not None:
            self._starts.give_back(permit.not_before)
        return True

    def _grant_next(self, now: float) -> _Permit | None:
        if not self._queue:
            return None
        permit, _ = self._queue.popitem(last=False)
        self._grant(permit, max(now, permit.asked_at))
        return permit


class _Permit:
    __slots__ = ("_give_back", "asked_at", "granted", "not_before", "wake")

    def __init__(self, give_back: Callable[[_Permit, float | None, bool], None], wake: Callable[[], None], now: float) -> None:
        self._give_back = give_back
        self.wake = wake
        self.asked_at = now
        self.not_before = now
        self.granted = False

    def release(self, now: float | None = None) -> None:
        self._give_back(self, now, False)

    def cancel(self, now: float | None = None) -> None:
        self._give_back(self, now, True)


class _Starts:
    """Start times by the generic cell rate algorithm (ITU-T I.371), and those that were given back unused."""

    __slots__ = ("_earliest_regular", "_free", "_interval", "_tolerance")

    def __init__(self, interval: float, burst: int) -> None:
        self._interval = interval
        self._tolerance = (burst - 1) * interval
        self._earliest_regular = -inf  # the "theoretical arrival time"
        self._free: list[float] = []  # a heap: without it, a cancelled run of 1,000 requests would delay all others for long

    def book(self, now: float) -> float:
        while self._free:
            start = heapq.heappop(self._free)
            if start >= now:  # one that has passed is covered by the regular rule
                return start
        start = max(now, self._earliest_regular - self._tolerance)
        self._earliest_regular = max(self._earliest_regular, now) + self._interval
        return start

    def give_back(self, start: float) -> None:
        heapq.heappush(self._free, start)


def _whole(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value!r}")
    return value


def _positive(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not 0 < value < inf:
        raise ValueError(f"{name} must be positive and finite, not {value!r}")
    return float(value)
