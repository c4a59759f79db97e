from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from tracedflow import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Middleware,
    Notice,
    RunOptions,
    StartEvent,
    StepTimeoutError,
    StopEvent,
    Workflow,
    WorkflowHandler,
    WorkflowStalledError,
    WorkflowTimeoutError,
    step,
)
from tracedflow.errors import ContextStateError
from tracedflow.events import WorkflowTimedOutEvent
from tracedflow.middleware import StepCall, StepNext, StepResult, StepTimedOut
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_none
from tracedflow.testing import virtual_time


class Item(Event):
    n: int = 0


class Ask(InputRequiredEvent):
    pass


class Answer(HumanResponseEvent):
    n: int = 0


async def parked(handler: WorkflowHandler[Any]) -> None:
    while not handler.why().waits:
        await asyncio.sleep(0)


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


# a step's timeout


async def test_an_attempt_that_takes_too_long_fails_with_a_timeout_error_that_names_the_step() -> None:
    class Flow(Workflow):
        @step(timeout=0.01)
        async def slow(self, ev: StartEvent) -> StopEvent:
            await forever()
            return StopEvent()

    with pytest.raises(StepTimeoutError, match=r"`slow`.*0\.01 s") as caught:
        await Flow(timeout=5).run()
    assert isinstance(caught.value, TimeoutError)
    assert any("`slow`" in note for note in caught.value.__notes__)


async def test_an_attempt_within_its_time_is_left_alone() -> None:
    class Flow(Workflow):
        @step(timeout=30)
        async def quick(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(0)
            return StopEvent(result=1)

    assert await Flow().run() == 1


async def test_a_step_timeout_is_retried_and_each_attempt_has_its_own_time() -> None:
    class Flow(Workflow):
        @step(timeout=0.01, retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(3)))
        async def slow(self, ctx: Context, ev: StartEvent) -> StopEvent:
            info = ctx.retry_info()
            if info.retry_number < 2:
                await forever()
            assert isinstance(info.last_exception, StepTimeoutError)
            return StopEvent(result=info.retry_number)

    handler = Flow(timeout=5).run()
    assert await handler == 2
    assert [record.outcome for record in handler.record] == ["timeout", "timeout", "success"]


async def test_the_steps_cleanup_runs_when_its_time_is_up() -> None:
    cleaned: list[str] = []

    class Flow(Workflow):
        @step(timeout=0.01)
        async def slow(self, ev: StartEvent) -> StopEvent:
            try:
                await forever()
            finally:
                cleaned.append("cleaned")
            return StopEvent()

    with pytest.raises(StepTimeoutError):
        await Flow(timeout=5).run()
    assert cleaned == ["cleaned"]


async def test_the_clock_of_a_step_stops_while_it_is_parked() -> None:
    class Flow(Workflow):
        @step(timeout=0.03)
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            answers = [await ctx.wait_for_event(Answer), await ctx.wait_for_event(Answer)]
            return StopEvent(result=[answer.n for answer in answers])

    handler = Flow(timeout=5).run()
    for n in range(2):
        await parked(handler)
        await asyncio.sleep(0.05)
        await handler.send_event(Answer(n=n))
    assert await handler == [0, 1]


async def test_the_clock_of_a_step_goes_on_after_the_answer() -> None:
    class Flow(Workflow):
        @step(timeout=0.03)
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.wait_for_event(Answer)
            await forever()
            return StopEvent()

    handler = Flow(timeout=5).run()
    await parked(handler)
    await handler.send_event(Answer())
    with pytest.raises(StepTimeoutError):
        await handler


async def test_a_timeout_error_of_the_steps_own_is_left_as_it_is() -> None:
    class Flow(Workflow):
        @step(timeout=30)
        async def only(self, ev: StartEvent) -> StopEvent:
            async with asyncio.timeout(0):
                await forever()
            return StopEvent()

    with pytest.raises(TimeoutError) as caught:
        await Flow().run()
    assert type(caught.value) is TimeoutError


async def test_every_layer_sees_the_step_timeout_error_and_never_a_bare_cancellation() -> None:
    seen: list[str] = []

    class Layer(Middleware):
        async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
            try:
                return await call_next(call)
            except BaseException as error:
                seen.append(type(error).__name__)
                raise

        hears = (StepTimedOut,)

        def on(self, notice: Notice, /) -> None:
            assert isinstance(notice, StepTimedOut)
            seen.append(f"{notice.timeout} {notice.attempt}")

    class Flow(Workflow):
        @step(timeout=0.01)
        async def slow(self, ev: StartEvent) -> StopEvent:
            await forever()
            return StopEvent()

    with pytest.raises(StepTimeoutError):
        await Flow(timeout=5, middleware=[Layer()]).run()
    assert seen == ["0.01 1", "StepTimeoutError"]


async def test_a_sync_step_that_takes_too_long_is_abandoned_and_its_context_raises(caplog: pytest.LogCaptureFixture) -> None:
    release, ended = threading.Event(), threading.Event()
    errors: list[Exception] = []

    class Flow(Workflow):
        @step(timeout=0.01)
        def slow(self, ctx: Context, ev: StartEvent) -> StopEvent:
            release.wait(10)
            send, write = lambda: ctx.send_event(Item()), lambda: ctx.write_event_to_stream(Item())
            for use in (send, write, lambda: ctx.sync, ctx.retry_info):
                try:
                    use()
                except Exception as error:
                    errors.append(error)
            ended.set()
            return StopEvent()

    handler = Flow(timeout=5, cancel_grace=0.02).run()
    with pytest.raises(StepTimeoutError) as caught:
        await handler
    assert any("abandoned" in note and "`slow`" in note for note in caught.value.__notes__)
    assert any("`slow`" in message and "still runs" in message for message in caplog.messages)
    release.set()
    assert await asyncio.to_thread(ended.wait, 5)
    assert [type(error) for error in errors] == [ContextStateError] * 4
    assert "`slow`" in str(errors[0])


async def test_a_sync_step_that_is_retried_after_its_timeout_gets_a_context_of_its_own() -> None:
    release = threading.Event()

    class Flow(Workflow):
        calls = 0

        @step(timeout=0.02, retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        def slow(self, ctx: Context, ev: StartEvent) -> StopEvent:
            Flow.calls += 1
            if Flow.calls == 1:
                release.wait(10)
            return StopEvent(result=ctx.retry_info().retry_number)

    try:
        assert await Flow(timeout=5, cancel_grace=0.01).run() == 1
    finally:
        release.set()


# a run's timeout


class Stuck(Workflow):
    @step
    async def stuck(self, ev: StartEvent) -> StopEvent:
        await forever()
        return StopEvent()


async def test_a_run_that_takes_too_long_says_what_it_was_doing() -> None:
    handler = Stuck(timeout=0.02).run(run_id="run-z")
    with pytest.raises(WorkflowTimeoutError, match=r"run-z.*0\.02 s") as caught:
        await handler
    assert not isinstance(caught.value, WorkflowStalledError)
    assert "`stuck` is running" in str(caught.value)
    report = caught.value.report
    assert report is not None
    assert report.state == "timed out"
    assert [live.step for live in report.running] == ["stuck"]
    assert handler.why() is report


async def test_the_stream_of_a_run_that_timed_out_ends_with_an_event_that_says_so() -> None:
    handler = Stuck(timeout=0.02).run()
    events = [event async for event in handler.stream_events()]
    assert isinstance(events[-1], WorkflowTimedOutEvent)
    assert (events[-1].timeout, events[-1].active_steps) == (0.02, ["stuck"])
    with pytest.raises(WorkflowTimeoutError):
        await handler


@pytest.mark.parametrize("timeout", [0, -5])
async def test_a_timeout_of_nothing_is_over_before_a_step_runs(timeout: float) -> None:
    class Flow(Workflow):
        calls = 0

        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            Flow.calls += 1
            return StopEvent()

    with pytest.raises(WorkflowTimeoutError):
        await asyncio.wait_for(Flow(timeout=timeout).run(), 1)
    assert Flow.calls == 0


async def test_a_run_may_have_a_timeout_of_its_own() -> None:
    with pytest.raises(WorkflowTimeoutError, match=r"0\.02 s"):
        await Stuck(timeout=60).run(options=RunOptions(timeout=0.02))


async def test_a_run_may_be_without_limit_although_its_workflow_has_one() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(0.03)
            return StopEvent(result="done")

    assert await Flow(timeout=0.01).run(options=RunOptions(timeout=None)) == "done"


async def test_a_run_timeout_counts_while_a_step_is_parked() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.wait_for_event(Answer, waiter_id="x")
            return StopEvent()

    with pytest.raises(WorkflowTimeoutError, match="`only` waits for Answer") as caught:
        await Flow(timeout=0.02).run()
    assert caught.value.report is not None
    assert [(wait.step, wait.waiter_id) for wait in caught.value.report.waits] == [("only", "x")]


async def test_the_time_behind_num_concurrent_runs_does_not_count() -> None:
    release = asyncio.Event()

    class Flow(Workflow):
        running: list[int] = []

        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            self.running.append(ev.n)
            if ev.n == 0:
                await release.wait()
            return StopEvent(result=ev.n)

    flow = Flow(num_concurrent_runs=1)
    first = flow.run(n=0)
    second = flow.run(n=1, options=RunOptions(timeout=0.1))
    await asyncio.sleep(0.15)
    assert (flow.running, second.done()) == ([0], False)
    release.set()
    assert await asyncio.gather(first, second) == [0, 1]


async def test_each_run_of_one_context_has_its_whole_time() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(0.07)
            return StopEvent(result="done")

    flow = Flow(timeout=0.25)
    ctx: Context[Any] = Context(flow)
    assert [await flow.run(ctx=ctx) for _ in range(4)] == ["done"] * 4


async def test_a_timer_that_fires_late_says_that_the_loop_was_blocked_and_by_whom() -> None:
    class Flow(Workflow):
        @step
        async def hog(self, ev: StartEvent) -> StopEvent:
            time.sleep(0.45)  # noqa: ASYNC251
            await forever()
            return StopEvent()

    with pytest.raises(WorkflowTimeoutError, match=r"could not fire for 0\.\d s") as caught:
        await Flow(timeout=0.05).run()
    assert "step `hog` blocked the event loop" in str(caught.value)


async def test_a_run_that_ends_in_time_leaves_no_timer_behind() -> None:
    class Flow(Workflow):
        @step(timeout=60)
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    await Flow(timeout=60).run()
    loop: Any = asyncio.get_running_loop()
    assert [handle for handle in loop._scheduled if not handle.cancelled()] == []


# a clock that stands still


class Approves(Workflow):
    @step
    async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(1)
        await ctx.wait_for_event(Answer)
        await asyncio.sleep(ev.get("after", 1))
        return StopEvent(result="approved")


@virtual_time()
async def test_on_request_the_clock_of_a_run_stands_still_while_it_waits_for_somebody() -> None:
    handler = Approves(timeout=3).run(options=RunOptions(pause_timeout=True))
    await asyncio.sleep(1000)
    assert handler.why().waits
    handler.ctx.send_event(Answer())
    assert await handler == "approved"


@virtual_time()
async def test_what_is_left_of_its_time_runs_on_when_somebody_has_answered() -> None:
    loop = asyncio.get_running_loop()
    handler = Approves(timeout=3).run(after=50, options=RunOptions(pause_timeout=True))
    await asyncio.sleep(1000)
    handler.ctx.send_event(Answer())
    answered = loop.time()
    with pytest.raises(WorkflowTimeoutError, match="timeout of 3 s"):
        await handler
    assert loop.time() - answered == pytest.approx(2, abs=0.1)


@virtual_time()
async def test_without_that_the_wait_counts() -> None:
    with pytest.raises(WorkflowTimeoutError):
        await Approves(timeout=3).run()


@virtual_time()
async def test_the_clock_runs_while_another_step_works() -> None:
    class Busy(Approves):
        @step
        async def busy(self, ev: StartEvent) -> None:
            await asyncio.sleep(100)

    with pytest.raises(WorkflowTimeoutError):
        await Busy(timeout=3).run(options=RunOptions(pause_timeout=True))


@virtual_time()
async def test_the_clock_stands_still_while_a_question_is_open_and_no_step_is_live() -> None:
    class Asks(Workflow):
        @step
        async def ask(self, ev: StartEvent) -> Ask:
            return Ask()

        @step
        async def done(self, ev: Answer) -> StopEvent:
            return StopEvent(result="answered")

    handler = Asks(timeout=3).run(options=RunOptions(pause_timeout=True))
    await asyncio.sleep(1000)
    handler.ctx.send_event(Answer())
    assert await handler == "answered"
