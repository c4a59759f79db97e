"""What conditions, waits and stops are made of: the checks of their arguments, their repr and their operators."""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import timedelta
from math import inf
from numbers import Real
from typing import Generic, TypeAlias, TypeVar, cast

Duration: TypeAlias = float | timedelta
"""Seconds, or a `timedelta`."""

ExceptionTypes: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]
"""What `isinstance` takes: an exception class or a tuple of them."""

PartT = TypeVar("PartT", bound=Callable[..., object])
WholeT = TypeVar("WholeT")
ValueT = TypeVar("ValueT")


# Checks of arguments. Each names the argument and the value.


def is_seconds(value: object) -> bool:
    """Tell whether a value is a finite number that is not negative; bool is none."""
    # Compared, not converted: NaN fails every comparison, and an int too large for a float would raise.
    return not isinstance(value, bool) and isinstance(value, Real) and 0 <= cast("float", value) <= sys.float_info.max


def seconds(name: str, value: Duration, *, unbounded: bool = False, signed: bool = False) -> float:
    """Return a duration in seconds, or raise an error that names the argument."""
    plain = value.total_seconds() if isinstance(value, timedelta) else value
    if unbounded and plain == inf:
        return inf
    if isinstance(plain, bool) or not isinstance(plain, Real):
        raise TypeError(f"{name} must be a number of seconds or a timedelta, not {value!r}")
    if not is_seconds(abs(plain) if signed else plain):
        raise ValueError(f"{name} must be finite{'' if signed else ' and not negative'}, not {value!r}")
    return float(plain)


def bounds(least: Duration, most: Duration) -> tuple[float, float]:
    """Return `min` and `max` in seconds."""
    low, high = seconds("min", least), seconds("max", most, unbounded=True)
    if low > high:
        raise ValueError(f"min must not exceed max, but min is {least!r} and max is {most!r}")
    return low, high


def count(name: str, value: int) -> int:
    """Return a whole number that is not negative."""
    if not isinstance(value, int) or isinstance(value, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < 0:
        raise ValueError(f"{name} must not be negative, not {value!r}")
    return value


def checked(name: str, value: PartT) -> PartT:
    """Return what is callable and not a usual mistake."""
    _check_callable(name, value)
    return value


def _check_callable(name: str, value: object) -> None:
    if _is_exception_type(value):
        raise TypeError(f"{name} must be a callable, not an exception class: use retry_if_exception_type() for {value!r}")
    if inspect.iscoroutinefunction(value):
        raise TypeError(f"{name} must be a plain function, not the async function {value!r}")
    if not callable(value):
        raise TypeError(f"{name} must be a callable, not {value!r}")


def all_checked(name: str, values: tuple[PartT, ...]) -> tuple[PartT, ...]:
    """Return callables given as `*name`."""
    return tuple(checked(f"{name}[{index}]", value) for index, value in enumerate(values))


def exception_types(types: ExceptionTypes) -> tuple[type[BaseException], ...]:
    """Return exception classes as a tuple."""
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


def call(function: Callable[..., ValueT], *arguments: object, **offered: object) -> ValueT:
    """Call with those of the offered keywords that the function takes."""
    return function(*arguments, **{name: value for name, value in offered.items() if _takes(function, name)})


class Part:
    """Shows itself as it was made."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__.lstrip('_')}({shown})"


class Logic(Part, ABC, Generic[PartT, WholeT]):
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
