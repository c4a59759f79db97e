from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tracedflow import (
    Context,
    Event,
    Middleware,
    Notice,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowRuntimeError,
    step,
)
from tracedflow.errors import StepCancelledError, StepResultError
from tracedflow.middleware import RetryScheduled
from tracedflow.retry_policy import (
    RetryInfo,
    RetryPolicy,
    retry_if_exception_type,
    retry_policy,
    seed_for,
    stop_after_attempt,
    wait_fixed,
    wait_none,
)


class Item(Event):
    n: int = 0


class Done(Event):
    n: int = 0


class Asked:
    """A policy that keeps what it was asked, and answers from a list."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[float, int, Exception, int | None]] = []

    def next(self, elapsed_time: float, attempts: int, error: Exception, *, seed: int | None = None) -> float | None:
        self.asked.append((elapsed_time, attempts, error, seed))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def failing(policy: Any, failures: int, error: BaseException | None = None, **options: Any) -> Workflow[Any]:
    """A workflow whose one step fails so many times and then returns the number of its calls."""

    class Flow(Workflow):
        calls = 0
        errors: list[BaseException] = []

        @step(retry_policy=policy, **options)
        async def flaky(self, ctx: Context, ev: StartEvent) -> StopEvent:
            self.calls += 1
            if self.calls <= failures:
                self.errors.append(error or ConnectionError(f"failure {self.calls}"))
                raise self.errors[-1]
            return StopEvent(result=self.calls)

    Flow.errors = []
    return Flow(timeout=10)


async def turns(count: int = 10) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


# what the policy is asked


async def test_the_policy_is_asked_after_each_failure_with_the_count_from_1_and_the_error_itself() -> None:
    policy = Asked(0, 0, 0)
    flow = failing(policy, 3)
    assert await flow.run(run_id="run-x") == 4
    assert [attempts for _, attempts, _, _ in policy.asked] == [1, 2, 3]
    assert all(asked is raised for (_, _, asked, _), raised in zip(policy.asked, flow.errors, strict=True))


async def test_elapsed_counts_from_the_start_of_the_first_attempt() -> None:
    policy = Asked(0.02, 0.02, None)
    with pytest.raises(ConnectionError):
        await failing(policy, 3).run()
    elapsed = [asked[0] for asked in policy.asked]
    assert 0 <= elapsed[0] < elapsed[1] < elapsed[2] < 5
    assert elapsed[1] >= 0.015
    assert elapsed[2] >= 0.035


async def test_the_seed_is_the_same_for_the_same_run_step_and_failure() -> None:
    seeds: list[list[int | None]] = []
    for _ in range(2):
        policy = Asked(0, 0)
        await failing(policy, 2).run(run_id="same-id")
        seeds.append([asked[3] for asked in policy.asked])
    assert seeds[0] == seeds[1] == [seed_for("same-id", "flaky", n) for n in (1, 2)]
    assert seeds[0][0] != seeds[0][1]


async def test_a_policy_without_a_seed_parameter_is_one_too() -> None:
    class Plain:
        def next(self, elapsed_time: float, attempts: int, error: Exception) -> float | None:
            return 0 if attempts < 2 else None

    assert await failing(Plain(), 1).run() == 2


async def test_a_delay_of_0_tries_again_at_once_and_keeps_the_slot() -> None:
    order: list[tuple[int, int]] = []

    class Flow(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[Item]:
            return [Item(n=0), Item(n=1)]

        @step(num_workers=1, retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        async def work(self, ctx: Context, ev: Item) -> Done:
            number = ctx.retry_info().retry_number
            order.append((ev.n, number))
            if number == 0:
                raise ConnectionError
            return Done()

        @step
        async def join(self, ctx: Context, ev: Done) -> StopEvent | None:
            return None if ctx.collect_events(ev, [Done, Done]) is None else StopEvent()

    await Flow().run()
    assert order == [(0, 0), (0, 1), (1, 0), (1, 1)]


async def test_an_execution_that_waits_to_be_tried_again_holds_no_slot() -> None:
    second_ran = asyncio.Event()

    class Flow(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[Item]:
            return [Item(n=0), Item(n=1)]

        @step(num_workers=1, retry_policy=retry_policy(wait=wait_fixed(0.01), stop=stop_after_attempt(2)))
        async def work(self, ctx: Context, ev: Item) -> StopEvent | None:
            if ev.n == 1:
                second_ran.set()
                return None
            if ctx.retry_info().retry_number == 0:
                raise ConnectionError
            return StopEvent(result=second_ran.is_set())

    handler = Flow(timeout=5).run()
    assert await handler is True
    first = [record for record in handler.record if record.step == "work" and record.outcome != "success"]
    assert [record.attempt for record in first] == [1]
    assert [record.backoff >= 0.009 for record in handler.record if record.attempt == 2] == [True]


async def test_what_waits_to_be_tried_again_is_in_the_report() -> None:
    handler = failing(retry_policy(wait=wait_fixed(60)), 1).run()
    while not handler.why().backing_off:
        await asyncio.sleep(0)
    (waiting,) = handler.why().backing_off
    assert (waiting.step, waiting.attempt) == ("flaky", 1)
    await handler.cancel_run()


# what a step knows, what the listener hears


async def test_a_step_knows_its_earlier_failures() -> None:
    seen: list[RetryInfo] = []

    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(0.01), stop=stop_after_attempt(3)))
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            seen.append(ctx.retry_info())
            if len(seen) < 3:
                raise ConnectionError(str(len(seen)))
            return StopEvent()

    await Flow(timeout=5).run()
    assert [info.retry_number for info in seen] == [0, 1, 2]
    assert [str(info.last_exception) for info in seen] == ["None", "1", "2"]
    assert seen[0].last_failed_at is None
    assert seen[1].last_failed_at is not None
    assert seen[2].last_failed_at is not None
    assert seen[1].last_failed_at < seen[2].last_failed_at
    assert seen[0].elapsed_seconds < 0.01 <= seen[1].elapsed_seconds + 0.001 < seen[2].elapsed_seconds


async def test_a_retry_is_noticed_before_its_wait() -> None:
    class Listener(Middleware):
        hears = (RetryScheduled,)

        def __init__(self) -> None:
            self.heard: list[tuple[int, float, str, float]] = []

        def on(self, notice: Notice, /) -> None:
            assert isinstance(notice, RetryScheduled)
            assert notice.call is not None
            assert 0 <= notice.at - notice.call.started_at < 30
            self.heard.append((notice.attempt, notice.delay, str(notice.error), notice.call.backoff))

    class Flow(Workflow):
        @step(retry_policy=Asked(0, 60))
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            raise ConnectionError(f"number {ctx.retry_info().retry_number}")

    listener = Listener()
    handler = Flow(middleware=[listener]).run()
    while len(listener.heard) < 2:
        await asyncio.sleep(0)
    assert listener.heard == [(1, 0.0, "number 0", 0.0), (2, 60.0, "number 1", 0.0)]
    await handler.cancel_run()


async def test_each_attempt_has_a_record() -> None:
    handler = failing(retry_policy(wait=wait_none(), stop=stop_after_attempt(3)), 2).run()
    await handler
    assert [(r.attempt, r.outcome, r.error) for r in handler.record] == [
        (1, "error", "ConnectionError"),
        (2, "error", "ConnectionError"),
        (3, "success", None),
    ]
    assert len({r.execution for r in handler.record}) == 1


async def test_each_attempt_gets_the_same_event_object() -> None:
    seen: list[StartEvent] = []

    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        async def only(self, ev: StartEvent) -> StopEvent:
            seen.append(ev)
            if len(seen) == 1:
                ev.mark = "kept"
                raise ConnectionError
            return StopEvent(result=ev.mark)

    assert await Flow().run() == "kept"
    assert seen[0] is seen[1]


async def test_what_a_failed_attempt_sent_is_sent_again() -> None:
    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        async def first(self, ctx: Context, ev: StartEvent) -> Item | None:
            ctx.send_event(Item(n=ctx.retry_info().retry_number))
            if ctx.retry_info().retry_number == 0:
                raise ConnectionError
            return None

        @step
        async def second(self, ctx: Context, ev: Item) -> StopEvent | None:
            got = ctx.collect_events(ev, [Item, Item])
            return None if got is None else StopEvent(result=[each.n for each in got])

    assert await Flow().run() == [0, 1]


# giving up


async def test_the_last_error_is_raised_itself_with_notes_that_say_where() -> None:
    flow = failing(retry_policy(wait=wait_none(), stop=stop_after_attempt(3)), 9)
    handler = flow.run(run_id="run-y")
    with pytest.raises(ConnectionError) as caught:
        await handler
    assert caught.value is flow.errors[-1]
    assert flow.calls == 3
    (note,) = caught.value.__notes__
    assert all(part in note for part in ("`flaky`", "attempt 3", "run-y", f"{__file__}:"))


async def test_the_traceback_holds_the_users_frames_and_none_of_the_engines() -> None:
    with pytest.raises(ConnectionError) as caught:
        await failing(None, 1).run()
    files = [entry.path for entry in caught.traceback[1:]]
    assert str(files[-1]) == __file__
    assert not any("_dispatch" in str(path) or "middleware" in str(path) for path in files)


async def test_an_error_that_the_condition_does_not_name_is_not_retried() -> None:
    flow = failing(retry_policy(retry_if_exception_type(ValueError), wait=wait_none()), 1)
    with pytest.raises(ConnectionError):
        await flow.run()
    assert flow.calls == 1


async def test_without_a_policy_nothing_is_retried() -> None:
    flow = failing(None, 1)
    with pytest.raises(ConnectionError):
        await flow.run()
    assert flow.calls == 1


# misbehaving policies


@pytest.mark.parametrize("answer", ["soon", -1, float("nan"), float("inf"), True, object()])
async def test_a_policy_that_answers_no_seconds_fails_the_run_at_once(answer: object) -> None:
    flow = failing(Asked(answer), 1)
    with pytest.raises(WorkflowRuntimeError, match=r"Retry policy .* after failure 1") as caught:
        await flow.run()
    assert isinstance(caught.value.__context__, ConnectionError)
    assert flow.calls == 1


async def test_a_policy_that_is_a_coroutine_function_is_named() -> None:
    class Awaited:
        async def next(self, elapsed_time: float, attempts: int, error: Exception) -> float | None:
            return 0

    policy: Any = Awaited()
    with pytest.raises(WorkflowRuntimeError, match="async def"):
        await failing(policy, 1).run()


async def test_a_policy_that_raises_fails_the_run_with_its_own_error() -> None:
    error = LookupError("policy is broken")
    with pytest.raises(LookupError) as caught:
        await failing(Asked(error), 1).run()
    assert caught.value is error
    assert isinstance(caught.value.__context__, ConnectionError)
    assert any("`flaky`" in note for note in caught.value.__notes__)


def test_what_is_no_policy_is_refused_when_the_step_is_declared() -> None:
    with pytest.raises(Exception, match="retry_policy=3"):
        failing(3, 0)


async def test_any_object_with_next_is_a_policy() -> None:
    assert isinstance(Asked(), RetryPolicy)


# never retried


class Fatal(BaseException):
    pass


@pytest.mark.parametrize("error", [Fatal("fatal"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
async def test_a_base_exception_is_never_retried(error: BaseException) -> None:
    flow = failing(retry_policy(wait=wait_none()), 9, error)
    with pytest.raises(type(error)) as caught:
        await flow.run()
    assert caught.value is error
    assert flow.calls == 1


async def test_a_cancelled_error_of_the_steps_own_is_never_retried() -> None:
    flow = failing(retry_policy(wait=wait_none()), 9, asyncio.CancelledError())
    with pytest.raises(StepCancelledError):
        await flow.run()
    assert flow.calls == 1


async def test_a_wrong_return_value_is_never_retried() -> None:
    class Flow(Workflow):
        calls = 0

        @step(retry_policy=retry_policy(wait=wait_none()))
        async def only(self, ev: StartEvent) -> StopEvent:
            self.calls += 1
            return ["a", "list"]  # type: ignore[return-value]

    flow = Flow()
    with pytest.raises(StepResultError, match="`only`"):
        await flow.run()
    assert flow.calls == 1


# backoff and the end of the run


async def test_a_run_that_ends_does_not_wait_for_a_backoff() -> None:
    class Flow(Workflow):
        @step
        async def fork(self, ctx: Context, ev: StartEvent) -> Item | Done | None:
            ctx.send_event(Item())
            ctx.send_event(Done())
            return None

        @step(retry_policy=retry_policy(wait=wait_fixed(60)))
        async def flaky(self, ev: Item) -> None:
            raise ConnectionError

        @step
        async def end(self, ctx: Context, ev: Done) -> StopEvent:
            await turns()
            return StopEvent(result="ended")

    assert await asyncio.wait_for(Flow().run(), 5) == "ended"


async def test_a_run_in_which_all_is_backing_off_is_not_stalled() -> None:
    assert await failing(retry_policy(wait=wait_fixed(0.03), stop=stop_after_attempt(2)), 1).run() == 2


async def test_hundreds_of_executions_back_off_at_once_with_one_worker() -> None:
    class Flow(Workflow):
        expected = [Done] * 200

        @step
        async def spread(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(200)]

        @step(num_workers=1, retry_policy=retry_policy(wait=wait_fixed(0.01), stop=stop_after_attempt(2)))
        async def work(self, ctx: Context, ev: Item) -> Done:
            if ctx.retry_info().retry_number == 0:
                raise ConnectionError
            return Done(n=ev.n)

        @step
        async def join(self, ctx: Context, ev: Done) -> StopEvent | None:
            got = ctx.collect_events(ev, self.expected)
            return None if got is None else StopEvent(result=sorted(each.n for each in got))

    assert await Flow(timeout=10).run() == list(range(200))
