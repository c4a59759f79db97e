"""Conditions: which errors are worth another attempt."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable
from typing import TypeAlias

from ._parts import ExceptionTypes, Logic, all_checked, checked, exception_types

Condition: TypeAlias = Callable[[Exception], bool]
"""Anything that tells whether an error is worth another attempt."""


class RetryCondition(Logic[Condition, "RetryCondition"]):
    """Base of conditions: is this error worth another attempt? Combine with `|` and `&`."""

    @abstractmethod
    def __call__(self, error: Exception, /) -> bool:
        """Tell whether `error` is worth another attempt."""

    def _any(self, *parts: Condition) -> RetryCondition:
        return retry_any(*parts)

    def _all(self, *parts: Condition) -> RetryCondition:
        return retry_all(*parts)


class retry_if_exception(RetryCondition):  # noqa: N801 - these names are the public API, used like functions
    """Retry if `predicate(error)` is true."""

    def __init__(self, predicate: Condition) -> None:
        self.predicate: Condition = checked("predicate", predicate)

    def __call__(self, error: Exception, /) -> bool:
        """Ask the predicate."""
        return bool(self.predicate(error))


class retry_if_exception_type(RetryCondition):  # noqa: N801
    """Retry errors of these types."""

    def __init__(self, types: ExceptionTypes = Exception) -> None:
        self.types: tuple[type[BaseException], ...] = exception_types(types)

    def __call__(self, error: Exception, /) -> bool:
        """Tell whether the error is an instance of one of the types."""
        return isinstance(error, self.types)


class retry_if_not_exception_type(RetryCondition):  # noqa: N801
    """Retry errors of all but these types."""

    def __init__(self, types: ExceptionTypes) -> None:
        self.types: tuple[type[BaseException], ...] = exception_types(types)

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
        self.match: re.Pattern[str] | None = None if match is None else re.compile(match)

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
        self.types: tuple[type[BaseException], ...] = exception_types(types)

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
        self.conditions: tuple[Condition, ...] = all_checked("conditions", conditions)

    def __call__(self, error: Exception, /) -> bool:
        """Ask the conditions until one agrees."""
        return any(condition(error) for condition in self.conditions)


class retry_all(RetryCondition):  # noqa: N801
    """Retry if all of the conditions say so; without conditions, always."""

    def __init__(self, *conditions: Condition) -> None:
        self.conditions: tuple[Condition, ...] = all_checked("conditions", conditions)

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
