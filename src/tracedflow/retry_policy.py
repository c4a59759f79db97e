"""When a failed step is tried again, and after how long: conditions, waits and stops, and the policy made of them.

Pure arithmetic: it owns no loop and no clock. The engine asks through `ask` after each failure.
"""

from __future__ import annotations

import inspect
import random
import re
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from math import inf
from numbers import Real
from typing import Generic, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

from .errors import WorkflowRuntimeError

Duration: TypeAlias = float | timedelta
"""Seconds, or a `timedelta`."""

ExceptionTypes: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]
"""What `isinstance` takes: an exception class or a tuple of them."""

PartT = TypeVar("PartT", bound=Callable[..., object])
WholeT = TypeVar("WholeT")
ValueT = TypeVar("ValueT")


@runtime_checkable
class RetryPolicy(Protocol):
    """Decides what follows a failed attempt. Any object with such a `next` is one, with or without `seed`."""

    def next(self, elapsed_time: float, attempts: int, error: Exception, *, seed: int | None = None) -> float | None:
        """Return the seconds to wait before the next attempt, or None to give up.

        Args:
            elapsed_time: seconds since the first attempt started.
            attempts: failures so far, from 1.
            error: what the last attempt raised.
            seed: the same for the same run, step and failure; makes jitter repeatable.
        """
        ...


@dataclass(frozen=True, slots=True)
class RetryInfo:
    """What a step can know about its earlier attempts. `retry_number` is 0 in the first, `elapsed_seconds` counts from its start."""

    retry_number: int
    elapsed_seconds: float
    last_exception: Exception | None = None
    last_failed_at: datetime | None = None


class SeededWait(Protocol):
    """A wait that takes the seed too."""

    def __call__(self, attempts: int, /, *, seed: int | None) -> float:
        """Return seconds; `attempts` is failures so far less one, from 0."""
        ...


class ForesightedStop(Protocol):
    """A stop that takes the coming delay too."""

    def __call__(self, attempts: int, elapsed: float, /, *, upcoming_sleep: float) -> bool:
        """Tell whether to give up; `attempts` is failures so far, from 1; the others are seconds."""
        ...


Condition: TypeAlias = Callable[[Exception], bool]
"""Anything that tells whether an error is worth another attempt."""

Wait: TypeAlias = SeededWait | Callable[[int], float]
"""Anything that gives the seconds to wait after so many failures less one (from 0)."""

Stop: TypeAlias = ForesightedStop | Callable[[int, float], bool]
"""Anything that tells whether to give up after so many failures (from 1) and elapsed seconds."""


# Checks of arguments. Each names the argument and the value.


def _is_seconds(value: object) -> bool:
    # Compared, not converted: NaN fails every comparison, and an int too large for a float would raise.
    return not isinstance(value, bool) and isinstance(value, Real) and 0 <= cast("float", value) <= sys.float_info.max


def _seconds(name: str, value: Duration, *, unbounded: bool = False, signed: bool = False) -> float:
    plain = value.total_seconds() if isinstance(value, timedelta) else value
    if unbounded and plain == inf:
        return inf
    if isinstance(plain, bool) or not isinstance(plain, Real):
        raise TypeError(f"{name} must be a number of seconds or a timedelta, not {value!r}")
    if not _is_seconds(abs(plain) if signed else plain):
        raise ValueError(f"{name} must be finite{'' if signed else ' and not negative'}, not {value!r}")
    return float(plain)


def _range(least: Duration, most: Duration) -> tuple[float, float]:
    low, high = _seconds("min", least), _seconds("max", most, unbounded=True)
    if low > high:
        raise ValueError(f"min must not exceed max, but min is {least!r} and max is {most!r}")
    return low, high


def _count(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < 0:
        raise ValueError(f"{name} must not be negative, not {value!r}")
    return value


def _callable(name: str, value: PartT) -> PartT:
    _check_callable(name, value)
    return value


def _check_callable(name: str, value: object) -> None:
    if _is_exception_type(value):
        raise TypeError(f"{name} must be a callable, not an exception class: use retry_if_exception_type() for {value!r}")
    if inspect.iscoroutinefunction(value):
        raise TypeError(f"{name} must be a plain function, not the async function {value!r}")
    if not callable(value):
        raise TypeError(f"{name} must be a callable, not {value!r}")


def _callables(name: str, values: tuple[PartT, ...]) -> tuple[PartT, ...]:
    return tuple(_callable(f"{name}[{index}]", value) for index, value in enumerate(values))


def _exception_types(types: ExceptionTypes) -> tuple[type[BaseException], ...]:
    found = types if isinstance(types, tuple) else (types,)
    if not all(_is_exception_type(kind) for kind in found):
        raise TypeError(f"types must be an exception class or a tuple of them, not {types!r}")
    return found


def _is_exception_type(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _takes(function: Callable[..., object], keyword: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return False
    return any(p.kind is p.VAR_KEYWORD or (p.name == keyword and p.kind is not p.POSITIONAL_ONLY) for p in parameters)


def _call(function: Callable[..., ValueT], *arguments: object, **offered: object) -> ValueT:
    """Call with those of the offered keywords that the function takes."""
    return function(*arguments, **{name: value for name, value in offered.items() if _takes(function, name)})


# The three algebras.


class _Part:
    def __repr__(self) -> str:
        shown = ", ".join(f"{name.lstrip('_')}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({shown})"


class _Logic(_Part, ABC, Generic[PartT, WholeT]):
    """The operators `|` and `&`, with plain callables on either side."""

    @abstractmethod
    def _any(self, *parts: PartT) -> WholeT: ...

    @abstractmethod
    def _all(self, *parts: PartT) -> WholeT: ...

    def __or__(self, other: PartT) -> WholeT:
        return self._any(cast("PartT", self), other)

    def __ror__(self, other: PartT) -> WholeT:
        return self._any(other, cast("PartT", self))

    def __and__(self, other: PartT) -> WholeT:
        return self._all(cast("PartT", self), other)

    def __rand__(self, other: PartT) -> WholeT:
        return self._all(other, cast("PartT", self))


class RetryCondition(_Logic[Condition, "RetryCondition"]):
    """Base of conditions: is this error worth another attempt? Combine with `|` and `&`."""

    @abstractmethod
    def __call__(self, error: Exception, /) -> bool:
        """Tell whether `error` is worth another attempt."""

    def _any(self, *parts: Condition) -> RetryCondition:
        return retry_any(*parts)

    def _all(self, *parts: Condition) -> RetryCondition:
        return retry_all(*parts)


class RetryStop(_Logic[Stop, "RetryStop"]):
    """Base of stops: is it time to give up? Combine with `|` and `&`."""

    @abstractmethod
    def __call__(self, attempts: int, elapsed: float, /, *, upcoming_sleep: float = 0.0) -> bool:
        """Tell whether to give up after `attempts` failures (from 1) and `elapsed` seconds."""

    def _any(self, *parts: Stop) -> RetryStop:
        return stop_any(*parts)

    def _all(self, *parts: Stop) -> RetryStop:
        return stop_all(*parts)


class RetryWait(_Part, ABC):
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


# Conditions.


class retry_if_exception(RetryCondition):  # noqa: N801 - these names are the public API, used like functions
    """Retry if `predicate(error)` is true."""

    def __init__(self, predicate: Condition) -> None:
        self.predicate = _callable("predicate", predicate)

    def __call__(self, error: Exception, /) -> bool:
        """Ask the predicate."""
        return bool(self.predicate(error))


class retry_if_exception_type(RetryCondition):  # noqa: N801
    """Retry errors of these types."""

    def __init__(self, types: ExceptionTypes = Exception) -> None:
        self.types = _exception_types(types)

    def __call__(self, error: Exception, /) -> bool:
        """Tell whether the error is an instance of one of the types."""
        return isinstance(error, self.types)


class retry_if_not_exception_type(RetryCondition):  # noqa: N801
    """Retry errors of all but these types."""

    def __init__(self, types: ExceptionTypes) -> None:
        self.types = _exception_types(types)

    def __call__(self, error: Exception, /) -> bool:
        """Tell whether the error is an instance of none of the types."""
        return not isinstance(error, self.types)


retry_unless_exception_type = retry_if_not_exception_type


class retry_if_exception_message(RetryCondition):  # noqa: N801
    """Retry errors whose text is exactly `message`, or begins with the regular expression `match`.

    Raises:
        TypeError: both or none of the two were given.
        re.error: `match` is not a regular expression.
    """

    def __init__(self, message: str | None = None, match: str | re.Pattern[str] | None = None) -> None:
        if (message is None) == (match is None):
            raise TypeError(f"give message or match, and not both: message is {message!r} and match is {match!r}")
        self.message = message
        self.match = None if match is None else re.compile(match)

    def __call__(self, error: Exception, /) -> bool:
        """Tell whether the text of the error fits."""
        return str(error) == self.message if self.match is None else self.match.match(str(error)) is not None


class retry_if_not_exception_message(retry_if_exception_message):  # noqa: N801
    """Retry errors whose text neither is `message` nor begins with `match`; arguments as `retry_if_exception_message`."""

    def __call__(self, error: Exception, /) -> bool:
        """Tell whether the text of the error does not fit."""
        return not super().__call__(error)


class retry_if_exception_cause_type(RetryCondition):  # noqa: N801
    """Retry errors that were raised `from` one of these types, at any depth."""

    def __init__(self, types: ExceptionTypes) -> None:
        self.types = _exception_types(types)

    def __call__(self, error: Exception, /) -> bool:
        """Tell whether a cause of the error is an instance of one of the types."""
        seen: set[int] = set()
        cause = error.__cause__
        while cause is not None and id(cause) not in seen:  # a chain of causes may be a ring
            if isinstance(cause, self.types):
                return True
            seen.add(id(cause))
            cause = cause.__cause__
        return False


class retry_any(RetryCondition):  # noqa: N801
    """Retry if any of the conditions says so; without conditions, never."""

    def __init__(self, *conditions: Condition) -> None:
        self.conditions = _callables("conditions", conditions)

    def __call__(self, error: Exception, /) -> bool:
        """Ask the conditions until one agrees."""
        return any(condition(error) for condition in self.conditions)


class retry_all(RetryCondition):  # noqa: N801
    """Retry if all of the conditions say so; without conditions, always."""

    def __init__(self, *conditions: Condition) -> None:
        self.conditions = _callables("conditions", conditions)

    def __call__(self, error: Exception, /) -> bool:
        """Ask the conditions until one refuses."""
        return all(condition(error) for condition in self.conditions)


class retry_always(RetryCondition):  # noqa: N801
    """Retry whatever the error."""

    def __call__(self, error: Exception, /) -> bool:
        """Agree."""
        return True


class retry_never(RetryCondition):  # noqa: N801
    """Never retry."""

    def __call__(self, error: Exception, /) -> bool:
        """Refuse."""
        return False


# Waits.


class wait_fixed(RetryWait):  # noqa: N801
    """Wait the same time before each attempt."""

    def __init__(self, wait: Duration) -> None:
        self.wait = _seconds("wait", wait)

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
        self.start = _seconds("start", start)
        self.increment = _seconds("increment", increment, signed=True)
        self.max = _seconds("max", max, unbounded=True)

    def __call__(self, attempts: int, /, *, seed: int | None = None) -> float:
        """Return the time in seconds."""
        return min(max(self.start + self.increment * attempts, 0.0), self.max)


class wait_exponential(RetryWait):  # noqa: N801
    """Wait `multiplier * exp_base ** n`, between `min` and `max`: 1, 2, 4, ... seconds by default."""

    def __init__(self, multiplier: Duration = 1, exp_base: float = 2, max: Duration = 60, min: Duration = 0) -> None:  # noqa: A002
        self.multiplier = _seconds("multiplier", multiplier)
        self.exp_base = _seconds("exp_base", exp_base)
        self.min, self.max = _range(min, max)

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
        self.min, self.max = _range(min, _seconds("max", max))

    def __call__(self, attempts: int, /, *, seed: int | None = None) -> float:
        """Return the time in seconds; the same for the same seed."""
        return _uniform(self.min, self.max, seed)


def _uniform(low: float, high: float, seed: int | None) -> float:
    return random.Random(seed).uniform(low, high)


class wait_exponential_jitter(RetryWait):  # noqa: N801
    """Wait `initial * exp_base ** n` plus a random time up to `jitter`, at most `max` in all."""

    def __init__(self, initial: Duration = 1, exp_base: float = 2, max: Duration = 60, jitter: Duration = 1) -> None:  # noqa: A002
        self.initial = _seconds("initial", initial)
        self.exp_base = _seconds("exp_base", exp_base)
        self.max = _seconds("max", max, unbounded=True)
        self.jitter = _seconds("jitter", jitter)

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
        self.waits = _callables("waits", waits)

    def __call__(self, attempts: int, /, *, seed: int | None = None) -> float:
        """Return the time in seconds."""
        return _call(self.waits[min(attempts, len(self.waits) - 1)], attempts, seed=seed)


class wait_combine(RetryWait):  # noqa: N801
    """Wait the sum of these waits."""

    def __init__(self, *waits: Wait) -> None:
        self.waits = _callables("waits", waits)

    def __call__(self, attempts: int, /, *, seed: int | None = None) -> float:
        """Return the time in seconds."""
        # Each gets a seed of its own: with the same one, two random parts would always fall alike.
        seeds = [None if seed is None else seed + index for index in range(len(self.waits))]
        return sum((_call(wait, attempts, seed=own) for wait, own in zip(self.waits, seeds, strict=True)), 0.0)


# Stops.


class stop_after_attempt(RetryStop):  # noqa: N801
    """Give up after so many attempts in all."""

    def __init__(self, max_attempt_number: int) -> None:
        self.max_attempt_number = _count("max_attempt_number", max_attempt_number)

    def __call__(self, attempts: int, elapsed: float, /, *, upcoming_sleep: float = 0.0) -> bool:
        """Tell whether that many attempts were made."""
        return attempts >= self.max_attempt_number


class stop_after_delay(RetryStop):  # noqa: N801
    """Give up once this time has passed since the first attempt started."""

    def __init__(self, max_delay: Duration) -> None:
        self.max_delay = _seconds("max_delay", max_delay, unbounded=True)

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
        self.stops = _callables("stops", stops)

    def __call__(self, attempts: int, elapsed: float, /, *, upcoming_sleep: float = 0.0) -> bool:
        """Ask the stops until one agrees."""
        return any(_call(stop, attempts, elapsed, upcoming_sleep=upcoming_sleep) for stop in self.stops)


class stop_all(RetryStop):  # noqa: N801
    """Give up if all of the stops say so; without stops, at once."""

    def __init__(self, *stops: Stop) -> None:
        self.stops = _callables("stops", stops)

    def __call__(self, attempts: int, elapsed: float, /, *, upcoming_sleep: float = 0.0) -> bool:
        """Ask the stops until one refuses."""
        return all(_call(stop, attempts, elapsed, upcoming_sleep=upcoming_sleep) for stop in self.stops)


class stop_never(RetryStop):  # noqa: N801
    """Never give up."""

    def __call__(self, attempts: int, elapsed: float, /, *, upcoming_sleep: float = 0.0) -> bool:
        """Go on."""
        return False


# Policies.


class _ComposedPolicy(_Part):
    def __init__(self, retry: Condition, wait: Wait, stop: Stop) -> None:
        self.retry = _callable("retry", retry)
        self.wait = _callable("wait", wait)
        self.stop = _callable("stop", stop)

    def next(self, elapsed_time: float, attempts: int, error: Exception, *, seed: int | None = None) -> float | None:
        """Ask the condition, then the wait, then the stop, which knows the coming delay."""
        if not self.retry(error):
            return None
        delay = _call(self.wait, attempts - 1, seed=seed)
        return None if _call(self.stop, attempts, elapsed_time, upcoming_sleep=delay) else delay


_WAIT = wait_fixed(5)
_STOP = stop_after_attempt(3)


def retry_policy(retry: Condition | None = None, wait: Wait = _WAIT, stop: Stop = _STOP) -> RetryPolicy:
    """Return a policy: which errors to retry (None: any `Exception`), how long to wait, and when to give up.

    The defaults wait 5 seconds and give up after 3 attempts in all.

    Raises:
        TypeError: a part is not callable, or is an exception class or an async function.
    """
    return _ComposedPolicy(retry_if_exception_type() if retry is None else retry, wait, stop)


def ConstantDelayRetryPolicy(maximum_attempts: int = 3, delay: Duration = 5) -> RetryPolicy:  # noqa: N802
    """Return a policy of `maximum_attempts` attempts in all, `delay` seconds apart. Deprecated: use `retry_policy`."""
    _deprecated("ConstantDelayRetryPolicy", "retry_policy(wait=wait_fixed(delay), stop=stop_after_attempt(maximum_attempts))")
    return retry_policy(wait=wait_fixed(delay), stop=stop_after_attempt(maximum_attempts))


def ExponentialBackoffRetryPolicy(  # noqa: N802
    maximum_attempts: int = 5,
    initial_delay: Duration = 1.0,
    multiplier: float = 2.0,
    max_delay: Duration = 60.0,
    jitter: bool = True,
) -> RetryPolicy:
    """Return a policy of `maximum_attempts` attempts in all, with growing delays in seconds. Deprecated: use `retry_policy`."""
    kind = wait_random_exponential if jitter else wait_exponential
    _deprecated("ExponentialBackoffRetryPolicy", f"retry_policy(wait={kind.__name__}(...), stop=stop_after_attempt(maximum_attempts))")
    return retry_policy(wait=kind(initial_delay, multiplier, max_delay), stop=stop_after_attempt(maximum_attempts))


def _deprecated(name: str, remedy: str) -> None:
    warnings.warn(f"{name} is deprecated; use {remedy}", DeprecationWarning, stacklevel=3)


# What the engine uses.


def ask(policy: RetryPolicy, *, elapsed: float, attempts: int, error: Exception, seed: int) -> float | None:
    """Return what the policy answers: seconds to wait before the next attempt, or None to give up.

    Args:
        policy: any object with a `next`, with or without a `seed` parameter.
        elapsed: seconds since the first attempt started.
        attempts: failures so far, from 1.
        error: what the last attempt raised.
        seed: see `seed_for`.

    Raises:
        WorkflowRuntimeError: it answered something else than None or a finite number that is not negative.
        Exception: whatever the policy itself raises.
    """
    delay = _call(policy.next, elapsed, attempts, error, seed=seed)
    if delay is None:
        return None
    if _is_seconds(delay):
        return float(delay)
    remedy = "seconds to wait, finite and not negative, or None to give up"
    if inspect.iscoroutine(delay):
        delay.close()  # else Python warns that nobody awaited it
        remedy += "; declare `next` with `def`, not `async def`"
    raise WorkflowRuntimeError(f"Retry policy {policy!r} returned {delay!r} after failure {attempts}; return {remedy}.")


def seed_for(run_id: str, step: str, failures: int) -> int:
    """Return the seed of a decision: the first 8 bytes of sha256 of `run_id:step:failures`, big endian."""
    return int.from_bytes(sha256(f"{run_id}:{step}:{failures}".encode()).digest()[:8], "big")
