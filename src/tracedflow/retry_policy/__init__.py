"""When a failed step is tried again, and after how long: conditions, waits and stops, and the policy made of them.

Pure arithmetic: it owns no loop and no clock. The engine asks through `ask` after each failure.
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Protocol, runtime_checkable

from ..errors import WorkflowRuntimeError
from ._conditions import (
    Condition,
    RetryCondition,
    retry_all,
    retry_always,
    retry_any,
    retry_if_exception,
    retry_if_exception_cause_type,
    retry_if_exception_message,
    retry_if_exception_type,
    retry_if_not_exception_message,
    retry_if_not_exception_type,
    retry_never,
    retry_unless_exception_type,
)
from ._parts import Duration, ExceptionTypes, Part, call, checked, is_seconds
from ._stops import (
    ForesightedStop,
    RetryStop,
    Stop,
    most_attempts,
    stop_after_attempt,
    stop_after_delay,
    stop_all,
    stop_any,
    stop_before_delay,
    stop_never,
)
from ._waits import (
    RetryWait,
    SeededWait,
    Wait,
    wait_chain,
    wait_combine,
    wait_exponential,
    wait_exponential_jitter,
    wait_fixed,
    wait_full_jitter,
    wait_incrementing,
    wait_none,
    wait_random,
    wait_random_exponential,
)

__all__ = [
    "Condition",
    "ConstantDelayRetryPolicy",
    "Duration",
    "ExceptionTypes",
    "ExponentialBackoffRetryPolicy",
    "ForesightedStop",
    "RetryCondition",
    "RetryInfo",
    "RetryPolicy",
    "RetryStop",
    "RetryWait",
    "SeededWait",
    "Stop",
    "Wait",
    "ask",
    "max_attempts",
    "retry_all",
    "retry_always",
    "retry_any",
    "retry_if_exception",
    "retry_if_exception_cause_type",
    "retry_if_exception_message",
    "retry_if_exception_type",
    "retry_if_not_exception_message",
    "retry_if_not_exception_type",
    "retry_never",
    "retry_policy",
    "retry_unless_exception_type",
    "seed_for",
    "stop_after_attempt",
    "stop_after_delay",
    "stop_all",
    "stop_any",
    "stop_before_delay",
    "stop_never",
    "wait_chain",
    "wait_combine",
    "wait_exponential",
    "wait_exponential_jitter",
    "wait_fixed",
    "wait_full_jitter",
    "wait_incrementing",
    "wait_none",
    "wait_random",
    "wait_random_exponential",
]


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


class _ComposedPolicy(Part):
    def __init__(self, retry: Condition, wait: Wait, stop: Stop) -> None:
        self.retry = checked("retry", retry)
        self.wait = checked("wait", wait)
        self.stop = checked("stop", stop)

    def next(self, elapsed_time: float, attempts: int, error: Exception, *, seed: int | None = None) -> float | None:
        """Ask the condition, then the wait, then the stop, which knows the coming delay."""
        if not self.retry(error):
            return None
        delay = call(self.wait, attempts - 1, seed=seed)
        return None if call(self.stop, attempts, elapsed_time, upcoming_sleep=delay) else delay


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
    delay = call(policy.next, elapsed, attempts, error, seed=seed)
    if delay is None:
        return None
    if is_seconds(delay):
        return float(delay)
    remedy = "seconds to wait, finite and not negative, or None to give up"
    if inspect.iscoroutine(delay):
        delay.close()  # else Python warns that nobody awaited it
        remedy += "; declare `next` with `def`, not `async def`"
    raise WorkflowRuntimeError(f"Retry policy {policy!r} returned {delay!r} after failure {attempts}; return {remedy}.")


def max_attempts(policy: object) -> int | None:
    """Return how many attempts a policy allows at most; None: it does not say."""
    return most_attempts(policy.stop) if isinstance(policy, _ComposedPolicy) else None


def seed_for(run_id: str, step: str, failures: int) -> int:
    """Return the seed of a decision: the first 8 bytes of sha256 of `run_id:step:failures`, big endian."""
    return int.from_bytes(sha256(f"{run_id}:{step}:{failures}".encode()).digest()[:8], "big")
