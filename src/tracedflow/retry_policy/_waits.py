"""Waits: how long until the next attempt, in seconds."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from math import inf
from typing import Protocol, TypeAlias, cast

from ._parts import Duration, Part, all_checked, bounds, call, seconds


class SeededWait(Protocol):
    """A wait that takes the seed too."""

    def __call__(self, attempts: int, /, *, seed: int | None) -> float:
        """Return seconds; `attempts` is failures so far less one, from 0."""
        ...


Wait: TypeAlias = SeededWait | Callable[[int], float]
"""Anything that gives the seconds to wait after so many failures less one (from 0)."""


class RetryWait(Part, ABC):
    """Base of waits: how long until the next attempt? Combine with `+` and `sum()`."""

    @abstractmethod
    def __call__(self, attempts: int, /, *, seed: int | None = None) -> float:
        """Return seconds; `attempts` is failures so far less one, from 0."""

    def __add__(self, other: Wait) -> RetryWait:
        return wait_combine(self, other)

    def __radd__(self, other: Wait | int) -> RetryWait:
        if isinstance(other, int) and other == 0:  # `sum()` starts with 0
            return self
        return wait_combine(cast("Wait", other), self)


class wait_fixed(RetryWait):  # noqa: N801
    """Wait the same time before each attempt."""

    def __init__(self, wait: Duration) -> None:
        self.wait: float = seconds("wait", wait)

    def __call__(self, attempts: int, /, *, seed: int | None = None) -> float:
        """Return the time in seconds."""
        return self.wait


class wait_none(wait_fixed):  # noqa: N801
    """Try again at once."""

    def __init__(self) -> None:
        super().__init__(0)


class wait_incrementing(RetryWait):  # noqa: N801
    """Wait `start`, then `increment` longer each time (or shorter, if it is negative), between 0 and `max`."""

    def __init__(self, start: Duration = 0, increment: Duration = 100, max: Duration = inf) -> None:  # noqa: A002
        self.start: float = seconds("start", start)
        self.increment: float = seconds("increment", increment, signed=True)
        self.max: float = seconds("max", max, unbounded=True)

    def __call__(self, attempts: int, /, *, seed: int | None = None) -> float:
        """Return the time in seconds."""
        return min(max(self.start + self.increment * attempts, 0.0), self.max)


class wait_exponential(RetryWait):  # noqa: N801
    """Wait `multiplier * exp_base ** n`, between `min` and `max`: 1, 2, 4, ... seconds by default."""

    def __init__(self, multiplier: Duration = 1, exp_base: float = 2, max: Duration = 60, min: Duration = 0) -> None:  # noqa: A002
        self.multiplier: float = seconds("multiplier", multiplier)
        self.exp_base: float = seconds("exp_base", exp_base)
        self.min: float
        self.max: float
        self.min, self.max = bounds(min, max)

    def __call__(self, attempts: int, /, *, seed: int | None = None) -> float:
        """Return the time in seconds."""
        return max(self.min, _exponential(self.multiplier, self.exp_base, attempts, self.max))


def _exponential(first: float, base: float, attempts: int, most: float) -> float:
    try:
        return min(first * base**attempts, most)
    except OverflowError:
        return most if first else 0.0


class wait_random(RetryWait):  # noqa: N801
    """Wait a random time, uniform between `min` and `max`."""

    def __init__(self, min: Duration = 0, max: Duration = 1) -> None:  # noqa: A002
        self.min: float
        self.max: float
        self.min, self.max = bounds(min, seconds("max", max))

    def __call__(self, attempts: int, /, *, seed: int | None = None) -> float:
        """Return the time in seconds; the same for the same seed."""
        return _uniform(self.min, self.max, seed)


def _uniform(low: float, high: float, seed: int | None) -> float:
    return random.Random(seed).uniform(low, high)


class wait_exponential_jitter(RetryWait):  # noqa: N801
    """Wait `initial * exp_base ** n` plus a random time up to `jitter`, at most `max` in all."""

    def __init__(self, initial: Duration = 1, exp_base: float = 2, max: Duration = 60, jitter: Duration = 1) -> None:  # noqa: A002
        self.initial: float = seconds("initial", initial)
        self.exp_base: float = seconds("exp_base", exp_base)
        self.max: float = seconds("max", max, unbounded=True)
        self.jitter: float = seconds("jitter", jitter)

    def __call__(self, attempts: int, /, *, seed: int | None = None) -> float:
        """Return the time in seconds; the same for the same seed."""
        return min(_exponential(self.initial, self.exp_base, attempts, self.max) + _uniform(0, self.jitter, seed), self.max)


class wait_random_exponential(wait_exponential):  # noqa: N801
    """Wait a random time, uniform between `min` and what `wait_exponential` of the same arguments gives ("full jitter")."""

    def __call__(self, attempts: int, /, *, seed: int | None = None) -> float:
        """Return the time in seconds; the same for the same seed."""
        return _uniform(self.min, super().__call__(attempts), seed)


def wait_full_jitter(
    multiplier: Duration = 1,
    exp_base: float = 2,
    max: Duration = 60,  # noqa: A002
    min: Duration = 0,  # noqa: A002
) -> RetryWait:
    """Return `wait_random_exponential` of the same arguments."""
    return wait_random_exponential(multiplier, exp_base, max, min)


class wait_chain(RetryWait):  # noqa: N801
    """Use the first wait after the first failure, the second after the second, and the last for all others.

    Raises:
        ValueError: no wait was given.
    """

    def __init__(self, *waits: Wait) -> None:
        if not waits:
            raise ValueError("wait_chain() needs at least one wait, but none was given")
        self.waits: tuple[Wait, ...] = all_checked("waits", waits)

    def __call__(self, attempts: int, /, *, seed: int | None = None) -> float:
        """Return the time in seconds."""
        return call(self.waits[min(attempts, len(self.waits) - 1)], attempts, seed=seed)


class wait_combine(RetryWait):  # noqa: N801
    """Wait the sum of these waits."""

    def __init__(self, *waits: Wait) -> None:
        self.waits: tuple[Wait, ...] = all_checked("waits", waits)

    def __call__(self, attempts: int, /, *, seed: int | None = None) -> float:
        """Return the time in seconds."""
        # Each gets a seed of its own: with the same one, two random parts would always fall alike.
        seeds = [None if seed is None else seed + index for index in range(len(self.waits))]
        return sum((call(wait, attempts, seed=own) for wait, own in zip(self.waits, seeds, strict=True)), 0.0)
