from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
from typing import Any

import pytest

from tracedflow import (
    Context,
    Event,
    Limit,
    Middleware,
    StartEvent,
    StepCall,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowDone,
    WorkflowHandler,
    WorkflowTimeoutError,
    runs,
    step,
)
from tracedflow._engine._threads import pool
from tracedflow.errors import ContextStateError
from tracedflow.events import WorkflowCancelledEvent, WorkflowFailedEvent
from tracedflow.middleware import StepNext, StepResult
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed, wait_none

who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


class Item(Event):
    n: int = 0


class Never(Event):
    pass


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


class Stuck(Workflow):
    """One step that never ends by itself and tells when it begins and when it cleans up."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.begun = asyncio.Event()
        self.cleaned: list[str] = []

    @step
    async def stuck(self, ev: StartEvent) -> StopEvent:
        self.begun.set()
        try:
            await forever()
        finally:
            await asyncio.sleep(0)
            self.cleaned.append("cleaned")
        return StopEvent()


class Reasons(Middleware):
    """Keeps how each step execution ended, and why it was cancelled."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[str, str | None]] = {}

    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        try:
            return await call_next(call)
        except BaseException as error:
            self.seen[call.step] = (type(error).__name__, call.cancel_reason)
            raise


# by whom


async def test_cancel_run_ends_the_run_and_its_cleanup_runs_first() -> None:
    reasons = Reasons()
    flow = Stuck(middleware=[reasons])
    handler = flow.run(run_id="run-c")
    await flow.begun.wait()
    await handler.cancel_run()
    assert handler.done()
    assert flow.cleaned == ["cleaned"]
    with pytest.raises(WorkflowCancelledByUser, match="run-c"):
        await handler
    assert not handler.cancelled()
    assert reasons.seen == {"stuck": ("CancelledError", "cancelled")}
    assert [record.outcome for record in handler.record] == ["cancelled"]


async def test_cancel_ends_the_run_as_a_task_is_cancelled() -> None:
    flow = Stuck()
    handler = flow.run()
    await flow.begun.wait()
    assert handler.cancel() is True
    with pytest.raises(asyncio.CancelledError):
        await handler
    assert handler.cancelled()
    assert flow.cleaned == ["cleaned"]
    assert handler.cancel() is False


async def test_a_wait_for_that_times_out_cancels_the_run() -> None:
    flow = Stuck()
    handler = flow.run()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(handler, 0.01)
    assert flow.cleaned == ["cleaned"]


async def test_a_task_that_awaits_the_handler_takes_the_run_with_it() -> None:
    flow = Stuck()
    handlers: list[WorkflowHandler[Any]] = []

    async def main() -> None:
        handlers.append(flow.run())
        await handlers[0]

    task = asyncio.create_task(main())
    await flow.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait(handlers)
    assert flow.cleaned == ["cleaned"]


@pytest.mark.parametrize("how", ["cancel", "cancel_run"])
async def test_a_run_may_be_cancelled_before_it_has_begun(how: str) -> None:
    flow = Stuck()
    handler = flow.run()
    if how == "cancel":
        handler.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(handler), 1)
    else:
        await handler.cancel_run(timeout=1)
        with pytest.raises(WorkflowCancelledByUser):
            await asyncio.wait_for(handler, 1)
    assert handler.done()
    assert not flow.begun.is_set()
    events = [event async for event in handler.stream_events()]
    assert [type(event) for event in events] == [WorkflowCancelledEvent]
    assert handler not in runs()


async def test_a_run_that_waits_behind_num_concurrent_runs_can_be_cancelled_and_leaves_its_place() -> None:
    flow = Stuck(num_concurrent_runs=1)
    first, second, third = flow.run(), flow.run(), flow.run()
    await flow.begun.wait()
    await second.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await second
    flow.begun.clear()
    await first.cancel_run()
    await asyncio.wait_for(flow.begun.wait(), 1)
    await third.cancel_run()
    assert flow.cleaned == ["cleaned"] * 2


async def test_cancelling_a_run_that_is_over_does_nothing() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=1)

    handler = Flow().run()
    await handler
    await handler.cancel_run()
    assert handler.cancel() is False
    assert await handler == 1


async def test_the_stream_of_a_cancelled_run_ends_with_an_event_that_says_so() -> None:
    flow = Stuck()
    handler = flow.run()
    await flow.begun.wait()

    async def read() -> list[Event]:
        return [event async for event in handler.stream_events()]

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    await handler.cancel_run()
    assert [type(event) for event in await asyncio.wait_for(reading, 1)] == [WorkflowCancelledEvent]


async def test_a_run_that_was_cancelled_takes_no_more_events() -> None:
    flow = Stuck()
    handler = flow.run()
    await flow.begun.wait()
    await handler.cancel_run()
    with pytest.raises(WorkflowDone):
        await handler.send_event(Item())


async def test_cancelling_the_task_of_a_step_from_outside_cancels_the_run() -> None:
    tasks: list[asyncio.Task[Any]] = []

    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            task = asyncio.current_task()
            assert task is not None
            tasks.append(task)
            await forever()
            return StopEvent()

    handler = Flow().run()
    while not tasks:
        await asyncio.sleep(0)
    tasks[0].cancel()
    with pytest.raises(WorkflowCancelledByUser, match="`only`"):
        await handler


async def test_a_step_may_cancel_its_own_run() -> None:
    class Flow(Workflow):
        handler: WorkflowHandler[Any]

        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            self.handler.cancel()
            await asyncio.sleep(0)
            return StopEvent()

    flow = Flow()
    flow.handler = flow.run()
    with pytest.raises(asyncio.CancelledError):
        await flow.handler


# siblings


class Siblings(Workflow):
    """Two branches: one ends the run in the way asked for, when the other has begun."""

    def __init__(self, how: str, **options: Any) -> None:
        super().__init__(**options)
        self.how = how
        self.other_has_begun = asyncio.Event()
        self.cleaned: list[str] = []

    @step
    async def fork(self, ctx: Context, ev: StartEvent) -> Item | None:
        ctx.send_event(Item(n=0))
        ctx.send_event(Item(n=1))
        return None

    @step
    async def branch(self, ctx: Context, ev: Item) -> StopEvent:
        if ev.n == 0:
            self.other_has_begun.set()
            try:
                if self.how == "parked":
                    await ctx.wait_for_event(Never)
                await forever()
            finally:
                self.cleaned.append("cleaned")
        await self.other_has_begun.wait()
        await asyncio.sleep(0)
        if self.how == "time out":
            await forever()
        if self.how == "stop":
            return StopEvent(result="stopped")
        raise ConnectionError("the other one")


@pytest.mark.parametrize("how", ["fail", "parked"])
async def test_a_failure_cancels_the_siblings_and_tells_them_why(how: str) -> None:
    reasons = Reasons()
    flow = Siblings(how, middleware=[reasons])
    handler = flow.run()
    with pytest.raises(ConnectionError):
        await handler
    assert flow.cleaned == ["cleaned"]
    assert reasons.seen == {"branch": ("CancelledError", "sibling_failed")}
    assert isinstance(handler.get_stop_event(), WorkflowFailedEvent)
    assert sorted(record.outcome for record in handler.record) == ["cancelled", "error", "success"]


async def test_a_stop_event_ends_the_siblings_too() -> None:
    reasons = Reasons()
    flow = Siblings("stop", middleware=[reasons])
    assert await flow.run() == "stopped"
    assert flow.cleaned == ["cleaned"]
    assert reasons.seen == {"branch": ("CancelledError", "cancelled")}


async def test_a_step_that_had_not_begun_when_the_run_ended_is_not_called() -> None:
    class Flow(Workflow):
        called = False

        @step
        async def first(self, ctx: Context, ev: StartEvent) -> Item | StopEvent:
            ctx.send_event(Item())
            return StopEvent(result="stopped")

        @step
        async def late(self, ev: Item) -> None:
            type(self).called = True

    assert await Flow().run() == "stopped"
    assert not Flow.called


async def test_a_run_timeout_is_the_reason_that_layers_see() -> None:
    reasons = Reasons()
    flow = Siblings("time out", timeout=0.02, middleware=[reasons])
    with pytest.raises(WorkflowTimeoutError):
        await flow.run()
    assert flow.cleaned == ["cleaned"]
    assert reasons.seen == {"branch": ("CancelledError", "run_timeout")}


async def test_the_error_of_a_siblings_cleanup_does_not_replace_the_first() -> None:
    class Flow(Workflow):
        @step
        async def fork(self, ev: StartEvent) -> list[Item]:
            return [Item(n=0), Item(n=1)]

        @step
        async def branch(self, ev: Item) -> StopEvent:
            if ev.n == 0:
                try:
                    await forever()
                finally:
                    raise ValueError("in the cleanup")
            await asyncio.sleep(0)
            raise ConnectionError("first")

    with pytest.raises(ConnectionError, match="first"):
        await Flow().run()


async def test_a_sibling_that_ends_well_while_it_is_cancelled_does_not_revive_the_run() -> None:
    class Flow(Workflow):
        @step
        async def fork(self, ev: StartEvent) -> list[Item]:
            return [Item(n=0), Item(n=1)]

        @step
        async def branch(self, ev: Item) -> StopEvent:
            if ev.n == 0:
                try:
                    await forever()
                except asyncio.CancelledError:
                    return StopEvent(result="revived")
            await asyncio.sleep(0)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await Flow().run()


# refusing to stop


async def test_a_step_that_refuses_to_stop_is_abandoned_and_named(caplog: pytest.LogCaptureFixture) -> None:
    release = asyncio.Event()
    late: list[Exception] = []
    begun = asyncio.Event()

    class Flow(Workflow):
        @step
        async def stubborn(self, ctx: Context, ev: StartEvent) -> StopEvent:
            begun.set()
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            for use in (lambda: ctx.send_event(Item()), lambda: ctx.write_event_to_stream(Item())):
                try:
                    use()
                except Exception as error:
                    late.append(error)
            return StopEvent()

    handler = Flow(cancel_grace=0.02).run()
    await begun.wait()
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser) as caught:
        await handler
    assert any("abandoned" in note and "`stubborn`" in note for note in caught.value.__notes__)
    assert any("`stubborn`" in message and "still runs" in message for message in caplog.messages)
    release.set()
    while len(late) < 2:
        await asyncio.sleep(0)
    assert [type(error) for error in late] == [ContextStateError] * 2
    assert "`stubborn`" in str(late[0])


async def test_a_thread_that_does_not_stop_is_abandoned_and_named(caplog: pytest.LogCaptureFixture) -> None:
    release, begun = threading.Event(), threading.Event()

    class Flow(Workflow):
        @step
        def stubborn(self, ev: StartEvent) -> StopEvent:
            begun.set()
            release.wait(10)
            return StopEvent()

    handler = Flow(cancel_grace=0.02).run()
    assert await asyncio.to_thread(begun.wait, 5)
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser) as caught:
        await handler
    release.set()
    assert any("abandoned" in note and "`stubborn`" in note for note in caught.value.__notes__)


async def test_a_thread_that_ends_within_the_grace_is_not_abandoned() -> None:
    release, begun = threading.Event(), threading.Event()

    class Flow(Workflow):
        @step
        def only(self, ev: StartEvent) -> StopEvent:
            begun.set()
            release.wait(10)
            return StopEvent()

    handler = Flow(cancel_grace=5).run()
    assert await asyncio.to_thread(begun.wait, 5)
    asyncio.get_running_loop().call_later(0.02, release.set)
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser) as caught:
        await handler
    assert not getattr(caught.value, "__notes__", [])


async def test_every_task_of_a_run_has_ended_before_its_result_is_set() -> None:
    class Flow(Workflow):
        @step
        async def fork(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(5)]

        @step(num_workers=5)
        async def branch(self, ev: Item) -> StopEvent:
            if ev.n == 4:
                return StopEvent()
            try:
                await forever()
            finally:
                for _ in range(ev.n):
                    await asyncio.sleep(0)
            return StopEvent()

    before = asyncio.all_tasks()
    handler = Flow().run()
    left: list[set[asyncio.Task[Any]]] = []
    handler.add_done_callback(lambda _: left.append(asyncio.all_tasks() - before))
    await handler
    assert all(task.get_coro().__name__ == "drive" for tasks in left for task in tasks)  # type: ignore[union-attr]
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_a_run_that_is_over_is_freed() -> None:
    flow = Stuck()
    handler = flow.run()
    await flow.begun.wait()
    await handler.cancel_run()
    assert handler.exception() is not None
    runner_type = type(handler._runner)
    del handler
    gc.collect()
    alive = [found for found in gc.get_objects() if type(found) is runner_type and found.workflow is flow]
    assert alive == []


async def test_a_layer_that_swallows_the_cancellation_does_not_keep_the_run_alive() -> None:
    class Swallows(Middleware):
        async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
            try:
                return await call_next(call)
            except asyncio.CancelledError:
                return StopEvent(result="revived")

    flow = Stuck(middleware=[Swallows()])
    handler = flow.run()
    await flow.begun.wait()
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    assert flow.cleaned == ["cleaned"]


async def test_a_run_may_be_cancelled_while_a_step_backs_off() -> None:
    reasons = Reasons()

    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(60)))
        async def flaky(self, ev: StartEvent) -> StopEvent:
            raise ConnectionError

    handler = Flow(middleware=[reasons]).run()
    while not handler.why().backing_off:
        await asyncio.sleep(0)
    await handler.cancel_run(timeout=1)
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    assert reasons.seen == {"flaky": ("CancelledError", "cancelled")}
    assert [(record.attempt, record.outcome) for record in handler.record] == [(1, "error")]


async def test_a_step_that_swallows_its_cancellation_is_not_tried_again() -> None:
    calls: list[int] = []

    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(5)))
        async def only(self, ev: StartEvent) -> StopEvent:
            calls.append(1)
            try:
                await forever()
            except asyncio.CancelledError:
                raise ConnectionError from None
            return StopEvent()

    handler = Flow().run()
    while not calls:
        await asyncio.sleep(0)
    await handler.cancel_run(timeout=1)
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    assert calls == [1]


def test_a_loop_that_closes_ends_the_runs_that_nobody_awaited() -> None:
    cleaned: list[str] = []

    async def main() -> WorkflowHandler[Any]:
        flow = Stuck()
        flow.cleaned = cleaned
        handler = flow.run()
        await flow.begun.wait()
        return handler

    handler = asyncio.run(main())
    assert cleaned == ["cleaned"]
    assert handler.done()
    assert runs() == []


def test_a_loop_that_closes_without_cancelling_closes_the_step_in_its_own_context() -> None:
    seen: list[str] = []

    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Item:
            return Item()

        @step
        async def second(self, ev: Item) -> StopEvent:
            who.set("second")
            try:
                await forever()
            finally:
                seen.append(who.get())
            return StopEvent()

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _, __: None)  # "Task was destroyed but it is pending"

    async def main() -> None:
        handler = Flow().run()
        while not any(running.step == "second" for running in handler.why().running):
            await asyncio.sleep(0)

    gc.collect()
    gc.disable()  # objects of one generation are finalised as they were created: the task's coroutine before what it awaits
    try:
        loop.run_until_complete(main())
        loop.close()
        del loop
        assert not runs()
        gc.collect()
    finally:
        gc.enable()
    assert seen == ["second"]


def test_a_loop_that_cancels_all_tasks_while_a_run_ends_does_not_hang() -> None:
    flow = Stuck()

    async def main() -> None:
        handler = flow.run()
        await flow.begun.wait()
        handler.cancel()
        for _ in range(2):
            await asyncio.sleep(0)

    asyncio.run(main())
    assert flow.cleaned == ["cleaned"]


async def test_a_thread_that_ends_as_its_step_is_cancelled_is_not_waited_for() -> None:
    loop = asyncio.get_running_loop()
    waiting = threading.Event()

    class Flow(Workflow):
        @step
        def only(self, ev: StartEvent) -> StopEvent:
            waiting.set()
            handed_over.wait(5)
            return StopEvent()

    handed_over = threading.Event()
    handler = Flow().run()

    def cancel_and_wait_for_the_thread() -> None:
        handler.cancel()
        handed_over.set()
        while pool.busy:  # what it returned is posted to the loop now, and not looked at yet
            time.sleep(0.001)

    while not waiting.is_set():
        await asyncio.sleep(0.001)
    loop.call_soon(cancel_and_wait_for_the_thread)
    with pytest.raises(asyncio.CancelledError):
        await handler


async def test_a_caller_that_settles_the_handler_himself_keeps_his_result() -> None:
    handler = Stuck().run()
    handler.set_result("mine")
    handler._runner.cancel("to end it")
    assert await handler == "mine"
    while runs():
        await asyncio.sleep(0)


async def test_a_permit_that_comes_as_its_run_is_cancelled_goes_to_the_next() -> None:
    gate = Limit("one", concurrency=1)
    begun, go = asyncio.Event(), asyncio.Event()
    others: list[WorkflowHandler[Any]] = []

    class Flow(Workflow):
        @step(limit=gate)
        async def only(self, ev: StartEvent) -> StopEvent:
            begun.set()
            await go.wait()
            if ev.get("cancels", False):
                others[0].cancel()
                await asyncio.sleep(0)  # its wait for the permit is cancelled now, and its task has not run since
            return StopEvent(result="had it")

    flow = Flow()
    first = flow.run(cancels=True)
    await begun.wait()
    others.append(flow.run())
    for _ in range(5):
        await asyncio.sleep(0)
    third = flow.run()
    go.set()
    assert await first == "had it"
    with pytest.raises(asyncio.CancelledError):
        await others[0]
    assert await third == "had it"
