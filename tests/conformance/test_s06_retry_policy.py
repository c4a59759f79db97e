"""Section 6: retry policies."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from math import inf
from typing import Annotated, Any

import pytest

from tracedflow import Context, HumanResponseEvent, StartEvent, StopEvent, Workflow, WorkflowRuntimeError, WorkflowTimeoutError, step
from tracedflow.events import Event, WorkflowFailedEvent
from tracedflow.middleware import RetryScheduled
from tracedflow.resource import Resource
from tracedflow.retry_policy import (
    ConstantDelayRetryPolicy,
    ExponentialBackoffRetryPolicy,
    RetryPolicy,
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
    retry_policy,
    retry_unless_exception_type,
    stop_after_attempt,
    stop_after_delay,
    stop_all,
    stop_any,
    stop_before_delay,
    stop_never,
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
from tracedflow.testing import Recorder, virtual_time


def flaky(policy: Any, errors: list[BaseException], middleware: Any = ()) -> Workflow[Any]:
    """A workflow whose one step raises these errors, one an attempt, and then returns the times of its attempts."""

    class Flow(Workflow):
        times: list[float]

        @step(retry_policy=policy)
        async def work(self, ev: StartEvent) -> StopEvent:
            self.times.append(asyncio.get_running_loop().time())
            if len(self.times) <= len(errors):
                raise errors[len(self.times) - 1]
            return StopEvent(result=self.times)

    flow = Flow(timeout=None, middleware=middleware)
    flow.times = []
    return flow


class Answers:
    """A policy that answers from a list and keeps what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[float, int, Exception]] = []

    def next(self, elapsed_time: float, attempts: int, error: Exception, *, seed: int | None = None) -> float | None:
        self.asked.append((elapsed_time, attempts, error))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


# the protocol


@virtual_time()
async def test_next_is_asked_with_the_seconds_since_the_first_attempt_the_failures_from_1_and_the_error() -> None:
    policy, errors = Answers(3, 4.5), [ConnectionError("a"), ValueError("b")]
    assert await flaky(policy, [*errors]).run() == [0, 3, 7.5]
    assert policy.asked == [(0, 1, errors[0]), (3, 2, errors[1])]


async def test_none_gives_up_and_the_original_error_comes_out() -> None:
    error = ConnectionError("down")
    with pytest.raises(ConnectionError) as raised:
        await flaky(Answers(None), [error]).run()
    assert raised.value is error


def test_the_protocol_can_be_asked_for_at_run_time() -> None:
    assert isinstance(Answers(), RetryPolicy)
    assert isinstance(retry_policy(), RetryPolicy)
    assert not isinstance(object(), RetryPolicy)


async def test_a_policy_without_seed_is_accepted() -> None:
    class Fridays:
        def next(self, elapsed_time: float, attempts: int, error: Exception) -> float | None:
            return 0 if isinstance(error, ConnectionError) else None

    assert len(await flaky(Fridays(), [ConnectionError()]).run()) == 2
    with pytest.raises(ValueError, match="no"):
        await flaky(Fridays(), [ValueError("no")]).run()


# retry_policy()


@virtual_time()
async def test_the_default_policy_is_any_exception_three_attempts_five_seconds_apart() -> None:
    assert await flaky(retry_policy(), [KeyError(), ValueError()]).run() == [0, 5, 10]
    with pytest.raises(KeyError):
        await flaky(retry_policy(), [ValueError(), ValueError(), KeyError()]).run()


def test_the_condition_decides_before_the_delay_and_the_stop_sees_the_coming_sleep() -> None:
    order: list[object] = []

    def condition(error: Exception) -> bool:
        order.append("retry")
        return True

    def wait(attempts: int, *, seed: int | None = None) -> float:
        order.append(("wait", attempts))
        return 7

    def stop(attempts: int, elapsed: float, *, upcoming_sleep: float = 0) -> bool:
        order.append(("stop", attempts, elapsed, upcoming_sleep))
        return False

    assert retry_policy(condition, wait, stop).next(2.5, 3, ValueError()) == 7
    assert order == ["retry", ("wait", 2), ("stop", 3, 2.5, 7)]  # the wait counts from 0, the stop from 1


@virtual_time()
async def test_the_deprecated_factories_warn_and_n_attempts_are_n_tries_in_all() -> None:
    with pytest.warns(DeprecationWarning, match="ConstantDelayRetryPolicy"):
        constant = ConstantDelayRetryPolicy()
    assert await flaky(constant, [ValueError()] * 2).run() == [0, 5, 10]
    with pytest.raises(ValueError, match="third"):
        await flaky(constant, [ValueError(), ValueError(), ValueError("third")]).run()

    with pytest.warns(DeprecationWarning, match="ExponentialBackoffRetryPolicy"):
        exponential = ExponentialBackoffRetryPolicy(maximum_attempts=9, max_delay=60, jitter=False)
    assert [exponential.next(0, n, ValueError()) for n in range(1, 10)] == [1, 2, 4, 8, 16, 32, 60, 60, None]

    with pytest.warns(DeprecationWarning, match="ExponentialBackoffRetryPolicy"):
        jittered = ExponentialBackoffRetryPolicy()
    assert jittered.next(0, 5, ValueError()) is None
    delays = [jittered.next(0, 4, ValueError(), seed=seed) for seed in range(200)]
    assert min(delays) < 1 < 7 < max(delays) <= 8  # uniform between 0 and the bound


# the parts


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


TIMEOUT, CONNECTION, VALUE = TimeoutError("slow"), ConnectionError("reset by peer"), ValueError("bad")


@pytest.mark.parametrize(
    ("condition", "retried", "not_retried"),
    [
        (retry_if_exception(lambda error: "peer" in str(error)), CONNECTION, VALUE),
        (retry_if_exception_type(), VALUE, None),
        (retry_if_exception_type((TimeoutError, ConnectionError)), TIMEOUT, VALUE),
        (retry_if_not_exception_type(ValueError), TIMEOUT, VALUE),
        (retry_unless_exception_type(ValueError), TIMEOUT, VALUE),
        (retry_if_exception_message(message="bad"), VALUE, ValueError("bad!")),
        (retry_if_exception_message(match="reset .*peer"), CONNECTION, VALUE),
        (retry_if_exception_message(match=re.compile("RESET", re.IGNORECASE)), CONNECTION, VALUE),
        (retry_if_not_exception_message(message="bad"), CONNECTION, VALUE),
        (retry_if_not_exception_message(match="reset"), VALUE, CONNECTION),
        (retry_if_exception_cause_type(OSError), caused(ValueError(), caused(KeyError(), OSError())), VALUE),
        (retry_any(retry_never(), retry_if_exception_type(ValueError)), VALUE, TIMEOUT),
        (retry_all(retry_always(), retry_if_exception_type(ValueError)), VALUE, TIMEOUT),
        (retry_always(), VALUE, None),
        (retry_never(), None, VALUE),
        (retry_if_exception_type(ValueError) | retry_if_exception_type(TimeoutError), TIMEOUT, CONNECTION),
        (retry_if_exception_type(OSError) & retry_if_exception_message(match="reset"), CONNECTION, TIMEOUT),
        (retry_never() | (lambda error: error is VALUE), VALUE, TIMEOUT),
        ((lambda error: error is VALUE) | retry_never(), VALUE, TIMEOUT),
        ((lambda error: error is VALUE) & retry_always(), VALUE, TIMEOUT),
    ],
)
def test_conditions(condition: Callable[[Exception], bool], retried: Exception | None, not_retried: Exception | None) -> None:
    assert retried is None or condition(retried) is True
    assert not_retried is None or condition(not_retried) is False


@pytest.mark.parametrize("arguments", [{}, {"message": "a", "match": "a"}])
@pytest.mark.parametrize("make", [retry_if_exception_message, retry_if_not_exception_message])
def test_a_message_condition_takes_a_message_or_a_pattern_and_not_both(make: Any, arguments: dict[str, str]) -> None:
    with pytest.raises(TypeError, match="message or match"):
        make(**arguments)


@pytest.mark.parametrize(
    ("wait", "delays"),
    [
        (wait_fixed(2), [2, 2, 2]),
        (wait_none(), [0, 0, 0]),
        (wait_exponential(), [1, 2, 4]),
        (wait_exponential(multiplier=3, exp_base=10, max=100, min=5), [5, 30, 100]),
        (wait_incrementing(start=1, increment=2, max=4), [1, 3, 4]),
        (wait_incrementing(), [0, 100, 200]),
        (wait_exponential_jitter(jitter=0), [1, 2, 4]),
        (wait_chain(wait_fixed(1), wait_fixed(9)), [1, 9, 9]),
        (wait_combine(wait_fixed(1), wait_exponential()), [2, 3, 5]),
        (wait_fixed(1) + wait_exponential(), [2, 3, 5]),
        (sum([wait_fixed(1), wait_fixed(2), wait_fixed(3)]), [6, 6, 6]),
        (wait_fixed(1) + (lambda attempts: attempts), [1, 2, 3]),
        ((lambda attempts: attempts) + wait_fixed(1), [1, 2, 3]),
        (wait_fixed(timedelta(minutes=1)), [60, 60, 60]),
        (wait_exponential(max=timedelta(seconds=2)), [1, 2, 2]),
    ],
)
def test_waits_count_from_0(wait: Callable[..., float], delays: list[float]) -> None:
    assert [wait(attempts, seed=None) for attempts in range(3)] == delays


def test_a_chain_of_no_waits_is_refused() -> None:
    with pytest.raises(ValueError, match="wait_chain"):
        wait_chain()


@pytest.mark.parametrize(
    ("wait", "low", "high"),
    [
        (wait_random(min=2, max=3), 2, 3),
        (wait_random(max=timedelta(seconds=1)), 0, 1),
        (wait_exponential_jitter(initial=1, jitter=2), 4, 6),
        (wait_exponential_jitter(initial=1, jitter=2, max=5), 4, 5),
        (wait_random_exponential(multiplier=1, min=1), 1, 4),
        (wait_full_jitter(multiplier=1, max=3), 0, 3),
    ],
)
def test_random_waits_fill_their_range_and_a_seed_makes_them_repeatable(wait: Callable[..., float], low: float, high: float) -> None:
    delays = [wait(2, seed=seed) for seed in range(300)]
    assert delays == [wait(2, seed=seed) for seed in range(300)]
    spread = high - low
    assert low <= min(delays) < low + spread / 10
    assert high - spread / 10 < max(delays) <= high


@pytest.mark.parametrize(
    ("stop", "verdicts"),
    # after failure 1, 2, 3 at 0, 10 and 20 seconds, before a sleep of 10
    [
        (stop_after_attempt(2), [False, True, True]),
        (stop_after_delay(10), [False, True, True]),
        (stop_after_delay(timedelta(seconds=15)), [False, False, True]),
        (stop_before_delay(20), [False, True, True]),
        (stop_any(stop_never(), stop_after_attempt(3)), [False, False, True]),
        (stop_all(stop_after_attempt(1), stop_after_delay(10)), [False, True, True]),
        (stop_never(), [False, False, False]),
        (stop_after_attempt(3) | stop_after_delay(10), [False, True, True]),
        (stop_after_attempt(3) & stop_after_delay(10), [False, False, True]),
        (stop_never() | (lambda attempts, elapsed: attempts == 2), [False, True, False]),
        ((lambda attempts, elapsed: attempts == 2) | stop_never(), [False, True, False]),
        ((lambda attempts, elapsed, upcoming_sleep: upcoming_sleep == 10) & stop_after_attempt(2), [False, True, True]),
    ],
)
def test_stops_count_from_1(stop: Callable[..., bool], verdicts: list[bool]) -> None:
    assert [stop(attempts, elapsed, upcoming_sleep=10) for attempts, elapsed in ((1, 0), (2, 10), (3, 20))] == verdicts


@virtual_time()
async def test_parts_compose_into_a_policy_that_a_step_follows() -> None:
    policy = retry_policy(
        retry=retry_if_exception_type(ConnectionError) | retry_if_exception_message(match="busy"),
        wait=wait_exponential() + wait_fixed(1),
        stop=stop_before_delay(60) | stop_after_attempt(10),
    )
    errors = [ConnectionError(), RuntimeError("busy, try later"), ConnectionError(), ConnectionError()]
    assert await flaky(policy, [*errors]).run() == [0, 2, 5, 10, 19]
    with pytest.raises(RuntimeError, match="broken"):
        await flaky(policy, [ConnectionError(), RuntimeError("broken")]).run()
    with pytest.raises(ConnectionError):
        await flaky(policy, [ConnectionError()] * 9).run()


# the seed


@virtual_time()
async def test_jitter_is_the_same_for_the_same_run_id_and_follows_from_its_hash() -> None:
    def delays_of(times: list[float]) -> list[float]:
        return [after - before for before, after in itertools.pairwise(times)]

    policy = retry_policy(wait=wait_random(max=100))
    first = delays_of(await flaky(policy, [ValueError()] * 2).run(run_id="one"))
    assert delays_of(await flaky(policy, [ValueError()] * 2).run(run_id="one")) == pytest.approx(first)
    assert delays_of(await flaky(policy, [ValueError()] * 2).run(run_id="two")) != pytest.approx(first)
    seeds = [int.from_bytes(sha256(f"one:work:{failures}".encode()).digest()[:8], "big") for failures in (1, 2)]
    assert first == pytest.approx([random.Random(seed).uniform(0, 100) for seed in seeds])


# what is retried


@virtual_time()
async def test_a_wait_that_timed_out_uncaught_is_retried() -> None:
    class Flow(Workflow):
        calls = 0

        @step(retry_policy=retry_policy(wait=wait_fixed(1)))
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            self.calls += 1
            if self.calls == 1:
                await ctx.wait_for_event(HumanResponseEvent, timeout=10)
            return StopEvent(result=asyncio.get_running_loop().time())

    assert await Flow(timeout=None).run() == 11


async def test_a_resource_factory_that_raises_is_retried_and_called_again() -> None:
    calls: list[int] = []

    def connect() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError
        return "connected"

    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none()))
        async def use(self, ev: StartEvent, line: Annotated[str, Resource(connect)]) -> StopEvent:
            return StopEvent(result=line)

    assert await Flow().run() == "connected"
    assert len(calls) == 3


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
async def test_a_base_exception_is_never_retried(error: BaseException) -> None:
    flow: Any = flaky(retry_policy(wait=wait_none()), [error])
    with pytest.raises(type(error)):
        await flow.run()
    assert len(flow.times) == 1


async def test_a_wrong_return_type_is_never_retried() -> None:
    class Flow(Workflow):
        calls = 0

        @step(retry_policy=retry_policy(wait=wait_none()))
        async def work(self, ev: StartEvent) -> StopEvent:
            self.calls += 1
            return "not an event"  # type: ignore[return-value]

    flow = Flow()
    with pytest.raises(WorkflowRuntimeError, match="work"):
        await flow.run()
    assert flow.calls == 1


@virtual_time()
async def test_neither_a_cancellation_nor_the_runs_timeout_is_retried() -> None:
    class Flow(Workflow):
        calls = 0

        @step(retry_policy=retry_policy(wait=wait_none()))
        async def work(self, ev: StartEvent) -> StopEvent:
            self.calls += 1
            await asyncio.sleep(100)
            return StopEvent()

    flow = Flow(timeout=1)
    with pytest.raises(WorkflowTimeoutError):
        await flow.run()
    handler = flow.run()
    await asyncio.sleep(0.5)
    handler.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handler
    assert flow.calls == 2


# the delay


class Work(Event):
    n: int


@virtual_time()
async def test_during_the_delay_the_workers_slot_is_free() -> None:
    class Flow(Workflow):
        order: list[str]

        @step
        async def start(self, ctx: Context, ev: StartEvent) -> Work | None:
            for n in range(2):
                ctx.send_event(Work(n=n))
            return None

        @step(num_workers=1, retry_policy=retry_policy(wait=wait_fixed(10)))
        async def work(self, ctx: Context, ev: Work) -> StopEvent | None:
            self.order.append(f"{ev.n}.{ctx.retry_info().retry_number}")
            if ctx.retry_info().retry_number == 0 and ev.n == 0:
                raise ConnectionError
            return StopEvent() if ev.n == 0 else None

    flow = Flow(timeout=None)
    flow.order = []
    await flow.run()
    assert flow.order == ["0.0", "1.0", "0.1"]


async def test_a_delay_of_0_tries_again_at_once() -> None:
    assert len(await asyncio.wait_for(flaky(retry_policy(wait=wait_fixed(0)), [ValueError()] * 2).run(), 5)) == 3


@virtual_time()
async def test_each_retry_is_announced_before_its_delay() -> None:
    seen = Recorder()
    error = ConnectionError()
    await flaky(retry_policy(), [error], [seen]).run()
    assert [(notice.attempt, notice.delay, notice.error) for notice in seen.notices if isinstance(notice, RetryScheduled)] == [
        (1, 5, error)
    ]


async def test_every_attempt_gets_the_same_event_object() -> None:
    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none()))
        async def work(self, ev: StartEvent) -> StopEvent:
            ev.tries = ev.get("tries", 0) + 1
            if ev.tries < 3:
                raise ValueError
            return StopEvent(result=ev.tries)

    start = StartEvent()
    assert await Flow().run(start_event=start) == 3
    assert start.tries == 3


@virtual_time()
async def test_a_snapshot_in_the_delay_keeps_attempts_error_and_what_is_left_to_wait() -> None:
    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(100)))
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            info = ctx.retry_info()
            if info.retry_number == 0:
                raise ConnectionError("reset")
            assert info.last_failed_at is not None
            return StopEvent(result=(info.retry_number, repr(info.last_exception), info.last_failed_at.utcoffset()))

    flow = Flow(timeout=None)
    handler = flow.run()
    await asyncio.sleep(30)
    data = handler.ctx.to_dict()
    await handler.cancel_run()
    await asyncio.sleep(20)
    assert await flow.run(ctx=Context.from_dict(flow, data)) == (1, "ConnectionError('reset')", timedelta(0))
    assert asyncio.get_running_loop().time() == 100


# policies that misbehave


async def test_a_policy_that_raises_fails_the_run_with_its_error() -> None:
    with pytest.raises(ZeroDivisionError):
        await flaky(Answers(ZeroDivisionError()), [ValueError()]).run()


@pytest.mark.parametrize("answer", ["5", inf, -1, True, object()], ids=repr)
async def test_an_answer_that_is_no_delay_fails_the_run_at_once_and_the_stream_ends(answer: object) -> None:
    handler = flaky(Answers(answer), [ValueError()]).run()
    assert isinstance([event async for event in handler.stream_events()][-1], WorkflowFailedEvent)
    with pytest.raises(WorkflowRuntimeError, match="Retry policy"):
        await handler


async def test_a_policy_with_an_async_next_fails_the_run_at_once_and_says_why() -> None:
    class Async:
        async def next(self, elapsed_time: float, attempts: int, error: Exception) -> float:
            return 1

    with pytest.raises(WorkflowRuntimeError, match="async def"):
        await flaky(Async(), [ValueError()]).run()
