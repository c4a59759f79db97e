"""Stops: when to give up."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol, TypeAlias

from ._parts import Duration, Logic, all_checked, call, count, seconds


class ForesightedStop(Protocol):
    """A stop that takes the coming delay too."""

    def __call__(self, attempts: int, elapsed: float, /, *, upcoming_sleep: float) -> bool:
        """Tell whether to give up; `attempts` is failures so far, from 1; the others are seconds."""
        ...


Stop: TypeAlias = ForesightedStop | Callable[[int, float], bool]
"""Anything that tells whether to give up after so many failures (from 1) and elapsed seconds."""


class RetryStop(Logic[Stop, "RetryStop"]):
    """Base of stops: is it time to give up? Combine with `|` and `&`."""

    @abstractmethod
    def __call__(self, attempts: int, elapsed: float, /, *, upcoming_sleep: float = 0.0) -> bool:
        """Tell whether to give up after `attempts` failures (from 1) and `elapsed` seconds."""

    def _any(self, *parts: Stop) -> RetryStop:
        return stop_any(*parts)

    def _all(self, *parts: Stop) -> RetryStop:
        return stop_all(*parts)


class stop_after_attempt(RetryStop):  # noqa: N801
    """Give up after so many attempts in all."""

    def __init__(self, max_attempt_number: int) -> None:
        self.max_attempt_number: int = count("max_attempt_number", max_attempt_number)

    def __call__(self, attempts: int, elapsed: float, /, *, upcoming_sleep: float = 0.0) -> bool:
        """Tell whether that many attempts were made."""
        return attempts >= self.max_attempt_number


class stop_after_delay(RetryStop):  # noqa: N801
    """Give up once this time has passed since the first attempt started."""

    def __init__(self, max_delay: Duration) -> None:
        self.max_delay: float = seconds("max_delay", max_delay, unbounded=True)

    def __call__(self, attempts: int, elapsed: float, /, *, upcoming_sleep: float = 0.0) -> bool:
        """Tell whether the time has passed."""
        return elapsed >= self.max_delay


class stop_before_delay(stop_after_delay):  # noqa: N801
    """Give up if the next attempt would start at or after this time since the first one started."""

    def __call__(self, attempts: int, elapsed: float, /, *, upcoming_sleep: float = 0.0) -> bool:
        """Tell whether the time will have passed after the coming delay."""
        return super().__call__(attempts, elapsed + upcoming_sleep)


class stop_any(RetryStop):  # noqa: N801
    """Give up if any of the stops says so; without stops, never."""

    def __init__(self, *stops: Stop) -> None:
        self.stops: tuple[Stop, ...] = all_checked("stops", stops)

    def __call__(self, attempts: int, elapsed: float, /, *, upcoming_sleep: float = 0.0) -> bool:
        """Ask the stops until one agrees."""
        return any(call(stop, attempts, elapsed, upcoming_sleep=upcoming_sleep) for stop in self.stops)


class stop_all(RetryStop):  # noqa: N801
    """Give up if all of the stops say so; without stops, at once."""

    def __init__(self, *stops: Stop) -> None:
        self.stops: tuple[Stop, ...] = all_checked("stops", stops)

    def __call__(self, attempts: int, elapsed: float, /, *, upcoming_sleep: float = 0.0) -> bool:
        """Ask the stops until one refuses."""
        return all(call(stop, attempts, elapsed, upcoming_sleep=upcoming_sleep) for stop in self.stops)


def most_attempts(stop: object) -> int | None:
    """Return after how many attempts a stop gives up at the latest; None: it does not say."""
    match stop:
        case stop_after_attempt():
            return stop.max_attempt_number
        case stop_any():
            return min([most for part in stop.stops if (most := most_attempts(part)) is not None], default=None)
        case stop_all():
            bounds = [most_attempts(part) for part in stop.stops]
            known = [bound for bound in bounds if bound is not None]
            return max(known, default=None) if len(known) == len(bounds) else None
        case _:
            return None


class stop_never(RetryStop):  # noqa: N801
    """Never give up."""

    def __call__(self, attempts: int, elapsed: float, /, *, upcoming_sleep: float = 0.0) -> bool:
        """Go on."""
        return False
