from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from hashlib import sha256
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracedflow import retry_policy as rp
from tracedflow.errors import WorkflowRuntimeError

ERROR = ValueError("boom 42")


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


# conditions


@pytest.mark.parametrize(
    ("condition", "error", "expected"),
    [
        (rp.retry_if_exception(lambda error: "42" in str(error)), ERROR, True),
        (rp.retry_if_exception(lambda error: "43" in str(error)), ERROR, False),
        (rp.retry_if_exception_type(), ERROR, True),
        (rp.retry_if_exception_type((KeyError, ValueError)), ERROR, True),
        (rp.retry_if_exception_type(KeyError), ERROR, False),
        (rp.retry_if_not_exception_type(KeyError), ERROR, True),
        (rp.retry_unless_exception_type((ValueError,)), ERROR, False),
        (rp.retry_if_exception_message("boom 42"), ERROR, True),
        (rp.retry_if_exception_message(message="boom"), ERROR, False),
        (rp.retry_if_exception_message(match=r"boom \d+"), ERROR, True),
        (rp.retry_if_exception_message(match=re.compile(r"\d+")), ERROR, False),
        (rp.retry_if_not_exception_message("boom 42"), ERROR, False),
        (rp.retry_if_not_exception_message(match="x"), ERROR, True),
        (rp.retry_if_exception_cause_type(OSError), caused(ValueError(), caused(KeyError(), TimeoutError())), True),
        (rp.retry_if_exception_cause_type(OSError), ERROR, False),
        (rp.retry_any(rp.retry_never(), rp.retry_always()), ERROR, True),
        (rp.retry_any(), ERROR, False),
        (rp.retry_all(rp.retry_never(), rp.retry_always()), ERROR, False),
        (rp.retry_all(), ERROR, True),
        (rp.retry_if_exception_type(KeyError) | rp.retry_always(), ERROR, True),
        (rp.retry_if_exception_type(KeyError) & rp.retry_always(), ERROR, False),
        (rp.retry_never() | (lambda error: True), ERROR, True),
        ((lambda error: True) | rp.retry_never(), ERROR, True),
        (rp.retry_always() & (lambda error: False), ERROR, False),
        ((lambda error: False) & rp.retry_always(), ERROR, False),
    ],
)
def test_a_condition_decides_by_the_error(condition: Callable[[Exception], bool], error: Exception, expected: bool) -> None:
    assert condition(error) is expected


def test_a_ring_of_causes_ends() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert not rp.retry_if_exception_cause_type(OSError)(first)


# waits


def delays(wait: Callable[..., float], count: int = 5) -> list[float]:
    return [wait(attempts, seed=7) for attempts in range(count)]


@pytest.mark.parametrize(
    ("wait", "expected"),
    [
        (rp.wait_fixed(3), [3, 3, 3]),
        (rp.wait_fixed(timedelta(minutes=1)), [60, 60, 60]),
        (rp.wait_none(), [0, 0, 0]),
        (rp.wait_exponential(), [1, 2, 4]),
        (rp.wait_exponential(max=3, min=2), [2, 2, 3]),
        (rp.wait_exponential(multiplier=timedelta(seconds=10), exp_base=3, max=timedelta(seconds=50)), [10, 30, 50]),
        (rp.wait_incrementing(), [0, 100, 200]),
        (rp.wait_incrementing(start=5, increment=10, max=12), [5, 12, 12]),
        (rp.wait_incrementing(start=5, increment=-3), [5, 2, 0]),
        (rp.wait_incrementing(start=9, increment=timedelta(seconds=-4)), [9, 5, 1]),
        (rp.wait_chain(rp.wait_fixed(1), lambda attempts: 10 * attempts), [1, 10, 20]),
        (rp.wait_combine(), [0, 0, 0]),
        (rp.wait_fixed(1) + rp.wait_exponential(), [2, 3, 5]),
        (rp.wait_fixed(1) + (lambda attempts: attempts), [1, 2, 3]),
        ((lambda attempts: attempts) + rp.wait_fixed(1), [1, 2, 3]),
        (sum([rp.wait_fixed(1), rp.wait_fixed(2), rp.wait_exponential()]), [4, 5, 7]),
    ],
)
def test_a_wait_gives_these_seconds(wait: Callable[..., float], expected: list[float]) -> None:
    assert delays(wait, 3) == expected


@pytest.mark.parametrize("jitter", [rp.wait_exponential(), rp.wait_exponential_jitter(), rp.wait_random_exponential()])
def test_an_exponential_wait_never_overflows(jitter: Callable[..., float]) -> None:
    assert 0 <= jitter(100_000, seed=1) <= 60


def test_an_exponential_wait_that_starts_with_zero_stays_there() -> None:
    assert rp.wait_exponential(0)(100_000) == 0


RANDOM_WAITS = [
    (rp.wait_random(1, timedelta(seconds=2)), lambda n: (1, 2)),
    (rp.wait_exponential_jitter(jitter=0.5), lambda n: (2**n, 2**n + 0.5)),
    (rp.wait_random_exponential(min=0.5), lambda n: (0.5, 2**n)),
    (rp.wait_full_jitter(multiplier=3), lambda n: (0, 3 * 2**n)),
    (rp.wait_random() + rp.wait_fixed(1), lambda n: (1, 2)),
    (rp.wait_chain(rp.wait_random()), lambda n: (0, 1)),
]


@given(which=st.sampled_from(RANDOM_WAITS), attempts=st.integers(0, 4), seed=st.none() | st.integers(0, 2**64 - 1))
def test_jitter_stays_in_its_range_and_follows_the_seed(which: Any, attempts: int, seed: int | None) -> None:
    wait, bounds = which
    low, high = bounds(attempts)
    first = wait(attempts, seed=seed)
    assert low <= first <= high
    assert seed is None or wait(attempts, seed=seed) == first


def test_two_random_waits_in_a_sum_fall_differently() -> None:
    one = rp.wait_random()
    assert (one + one)(0, seed=7) != 2 * one(0, seed=7)


# stops


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (rp.stop_after_attempt(3), True),
        (rp.stop_after_attempt(4), False),
        (rp.stop_after_delay(10), True),
        (rp.stop_after_delay(timedelta(seconds=11)), False),
        (rp.stop_after_delay(inf), False),
        (rp.stop_before_delay(12), True),
        (rp.stop_before_delay(13), False),
        (rp.stop_never(), False),
        (rp.stop_any(), False),
        (rp.stop_all(), True),
        (rp.stop_never() | rp.stop_before_delay(12), True),
        (rp.stop_never() & rp.stop_before_delay(12), False),
        (rp.stop_never() | (lambda attempts, elapsed: elapsed == 10), True),
        ((lambda attempts, elapsed, *, upcoming_sleep: upcoming_sleep == 2) | rp.stop_never(), True),
        ((lambda attempts, elapsed, **more: more == {"upcoming_sleep": 2}) & rp.stop_after_attempt(1), True),
    ],
)
def test_a_stop_decides_after_3_failures_in_10_seconds_before_a_sleep_of_2(stop: Callable[..., bool], expected: bool) -> None:
    assert stop(3, 10, upcoming_sleep=2) is expected


# policies


def test_the_default_policy_makes_three_attempts_five_seconds_apart() -> None:
    policy = rp.retry_policy()
    assert [policy.next(0, failures, ERROR) for failures in (1, 2, 3)] == [5, 5, None]
    assert isinstance(policy, rp.RetryPolicy)


def test_only_exceptions_are_retried_by_default() -> None:
    assert rp.retry_policy().next(0, 1, KeyboardInterrupt()) is None  # type: ignore[arg-type]


def test_a_policy_asks_the_condition_then_the_wait_then_the_stop() -> None:
    asked: list[object] = []

    def retry(error: Exception) -> bool:
        asked.append("retry")
        return True

    def wait(attempts: int, *, seed: int | None) -> float:
        asked.append(("wait", attempts, seed))
        return 1.5

    def stop(attempts: int, elapsed: float, *, upcoming_sleep: float) -> bool:
        asked.append(("stop", attempts, elapsed, upcoming_sleep))
        return False

    assert rp.retry_policy(retry, wait, stop).next(2.0, 4, ERROR, seed=9) == 1.5
    assert asked == ["retry", ("wait", 3, 9), ("stop", 4, 2.0, 1.5)]


def test_a_refusal_of_the_condition_asks_nobody_else() -> None:
    policy = rp.retry_policy(rp.retry_never(), wait=lambda attempts: pytest.fail("asked"))
    assert policy.next(0, 1, ERROR) is None


def test_a_policy_shows_what_it_is_made_of() -> None:
    policy = rp.retry_policy(rp.retry_if_exception_type(OSError), rp.wait_fixed(1), rp.stop_after_attempt(2) | rp.stop_never())
    assert repr(policy).startswith("ComposedPolicy(retry=retry_if_exception_type(types=(<class 'OSError'>,)), wait=wait_fixed(wait=1.0)")


def test_the_old_constant_policy_warns_and_counts_attempts_in_all() -> None:
    with pytest.warns(DeprecationWarning, match="retry_policy") as caught:
        policy = rp.ConstantDelayRetryPolicy(maximum_attempts=2, delay=7)
    assert caught[0].filename == __file__
    assert [policy.next(0, failures, ERROR) for failures in (1, 2)] == [7, None]


def test_the_old_exponential_policy_warns_and_jitters_unless_told_not_to() -> None:
    with pytest.warns(DeprecationWarning, match="wait_exponential"):
        steady = rp.ExponentialBackoffRetryPolicy(jitter=False, initial_delay=2, max_delay=7)
    assert [steady.next(0, failures, ERROR) for failures in range(1, 6)] == [2, 4, 7, 7, None]
    with pytest.warns(DeprecationWarning, match="wait_random_exponential"):
        jittered = rp.ExponentialBackoffRetryPolicy()
    assert jittered.next(0, 3, ERROR, seed=1) == jittered.next(0, 3, ERROR, seed=1)
    assert 0 <= (jittered.next(0, 3, ERROR, seed=1) or 0) <= 4


# arguments


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: rp.wait_fixed(-1), ValueError, "wait must be finite and not negative, not -1"),
        (lambda: rp.wait_fixed(nan), ValueError, "wait must be finite"),
        (lambda: rp.wait_fixed(inf), ValueError, "wait must be finite"),
        (lambda: rp.wait_fixed(10**400), ValueError, "wait must be finite"),
        (lambda: rp.wait_fixed(timedelta(seconds=-1)), ValueError, "wait must be"),
        (lambda: rp.wait_fixed(True), TypeError, "wait must be a number of seconds or a timedelta, not True"),
        (lambda: rp.wait_fixed("1"), TypeError, "not '1'"),
        (lambda: rp.wait_incrementing(increment=nan), ValueError, "increment must be finite, not nan"),
        (lambda: rp.wait_exponential(min=2, max=1), ValueError, "min must not exceed max, but min is 2 and max is 1"),
        (lambda: rp.wait_random(max=inf), ValueError, "max must be finite"),
        (lambda: rp.wait_chain(), ValueError, "at least one wait"),
        (lambda: rp.wait_chain(rp.wait_none(), 5), TypeError, r"waits\[1\] must be a callable, not 5"),
        (lambda: rp.wait_none() + 5, TypeError, r"waits\[1\] must be a callable, not 5"),
        (lambda: 1 + rp.wait_none(), TypeError, r"waits\[0\] must be a callable, not 1"),
        (lambda: rp.stop_after_attempt(True), TypeError, "max_attempt_number must be an int, not True"),
        (lambda: rp.stop_after_attempt(1.5), TypeError, "not 1.5"),
        (lambda: rp.stop_after_attempt(-1), ValueError, "max_attempt_number must not be negative, not -1"),
        (lambda: rp.retry_if_exception_type("x"), TypeError, "types must be an exception class or a tuple of them, not 'x'"),
        (lambda: rp.retry_if_exception_type((ValueError, int)), TypeError, "types must be"),
        (lambda: rp.retry_if_exception_message(), TypeError, "give message or match"),
        (lambda: rp.retry_if_exception_message("a", "b"), TypeError, "message is 'a' and match is 'b'"),
        (lambda: rp.retry_policy(ValueError), TypeError, "retry must be a callable, not an exception class.*retry_if_exception_type"),
        (lambda: rp.retry_always() | ValueError, TypeError, r"conditions\[1\] must be"),
        (lambda: rp.retry_if_exception(_async_condition), TypeError, "predicate must be a plain function, not the async"),
    ],
)
def test_a_wrong_argument_is_named_with_its_value(make: Callable[[], object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make()


async def _async_condition(error: Exception) -> bool:
    return True


# what the engine uses


class Answers:
    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.seed: object = "not given"

    def next(self, elapsed_time: float, attempts: int, error: Exception, *, seed: int | None = None) -> Any:
        self.seed = seed
        return self.answer

    def __repr__(self) -> str:
        return "Answers()"


class OfTheOldKind:
    def next(self, elapsed: float, attempts: int, error: Exception) -> float:
        return elapsed + attempts


class WithoutSignature:
    next = max


def ask(policy: Any) -> float | None:
    return rp.ask(policy, elapsed=2.0, attempts=1, error=ERROR, seed=9)


@pytest.mark.parametrize(("answer", "expected"), [(None, None), (0, 0.0), (3, 3.0), (0.25, 0.25)])
def test_asking_gives_seconds_or_none_and_hands_the_seed_in(answer: object, expected: float | None) -> None:
    policy = Answers(answer)
    assert ask(policy) == expected
    assert policy.seed == 9


def test_a_policy_without_a_seed_is_asked_without_it() -> None:
    assert ask(OfTheOldKind()) == 3.0


def test_a_policy_whose_signature_is_unknown_is_asked_without_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreadable:
        __signature__ = "nonsense"

        def __call__(self, *arguments: object, **more: object) -> float:
            return float(len(more))

    policy = OfTheOldKind()
    monkeypatch.setattr(policy, "next", Unreadable(), raising=False)
    assert ask(policy) == 0.0


@pytest.mark.parametrize("answer", [True, -1, nan, inf, -inf, "5", 10**400, timedelta(seconds=1), Decimal(1), 1j])
def test_an_answer_that_is_no_delay_is_refused_with_the_remedy(answer: object) -> None:
    with pytest.raises(WorkflowRuntimeError, match=r"Retry policy Answers\(\) returned .* return seconds to wait, .* or None") as caught:
        ask(Answers(answer))
    assert repr(answer) in str(caught.value)


def test_an_async_policy_is_refused_and_its_coroutine_closed() -> None:
    class Async:
        async def next(self, *_: object) -> float:
            return 1.0

    policy = Async()
    with pytest.raises(WorkflowRuntimeError, match="`def`, not `async def`"):
        ask(policy)
    coroutine = policy.next()
    with pytest.raises(WorkflowRuntimeError):
        ask(Answers(coroutine))
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


def test_what_a_policy_raises_comes_through() -> None:
    with pytest.raises(TypeError, match="not supported"):
        ask(WithoutSignature())


def test_a_seed_is_the_first_8_bytes_of_a_hash() -> None:
    assert rp.seed_for("run1", "fetch", 2) == int(sha256(b"run1:fetch:2").hexdigest()[:16], 16)


def test_retry_info_of_a_first_attempt_has_no_past() -> None:
    assert rp.RetryInfo(0, 0.0) == rp.RetryInfo(retry_number=0, elapsed_seconds=0.0, last_exception=None, last_failed_at=None)
