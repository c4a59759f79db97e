"""Step executions share tasks, and a run that is over goes by itself: nobody may see a difference to a task for each.

`@step(own_task=True)` gives each execution a task; what comes out must be the same.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import pytest

from tracedflow import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowHandler,
    WorkflowRuntimeError,
    WorkflowTimeoutError,
    runs,
    step,
)
from tracedflow._engine._runner import Runner
from tracedflow._engine._turn import MOST
from tracedflow.errors import ContextStateError
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_none
from tracedflow.testing import run_virtual


class Next(Event):
    n: int = 0


class Done(Event):
    n: int = 0


class Pause:
    """Something awaitable that gives the loop `turns` turns by itself, as a foreign library may."""

    def __init__(self, turns: int) -> None:
        self.turns = turns

    def __await__(self) -> Generator[None, None, int]:
        for _ in range(self.turns):
            yield
        return self.turns


# --- what steps raise ---


class Custom(BaseException):
    """Not an Exception."""


RAISED: list[Callable[[], BaseException]] = [
    lambda: ValueError("x"),
    lambda: StopAsyncIteration("x"),
    lambda: BaseExceptionGroup("x", [Custom()]),
    lambda: ExceptionGroup("x", [ValueError()]),
    lambda: TimeoutError("x"),
    Custom,
]


@pytest.mark.parametrize("own_task", [False, True], ids=["shared", "own task"])
@pytest.mark.parametrize("suspends", [False, True], ids=["at once", "after a turn"])
@pytest.mark.parametrize("make", RAISED, ids=lambda make: type(make()).__name__)
async def test_what_a_step_raises_reaches_the_caller(make: Callable[[], BaseException], suspends: bool, own_task: bool) -> None:
    error = make()

    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Next:
            return Next()

        @step(own_task=own_task)
        async def fails(self, ev: Next) -> StopEvent:
            if suspends:
                await asyncio.sleep(0)
            raise error

    with pytest.raises(type(error)) as caught:
        await Flow().run()
    assert caught.value is error
    assert not runs()


@pytest.mark.parametrize("suspends", [False, True], ids=["at once", "after a turn"])
async def test_a_stop_iteration_is_a_runtime_error_as_in_any_coroutine(suspends: bool) -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            if suspends:
                await asyncio.sleep(0)
            raise StopIteration("x")

    with pytest.raises(RuntimeError, match="coroutine raised StopIteration"):
        await Flow().run()


async def test_a_generator_exit_that_a_step_raises_ends_the_run() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            raise GeneratorExit

    with pytest.raises(GeneratorExit):
        await asyncio.wait_for(Flow().run(), 5)
    assert not runs()


async def test_a_step_may_await_what_yields_to_the_loop_by_itself() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=[await Pause(turns) for turns in (0, 1, 50)])

    assert await Flow().run() == [0, 1, 50]


async def test_a_step_that_awaits_its_own_run_does_not_wait_for_ever() -> None:
    handlers: list[WorkflowHandler[Any]] = []

    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(0)
            await handlers[0]
            return StopEvent()

    handlers.append(Flow(timeout=0.05).run())
    with pytest.raises(Exception, match=r"own run|timed out|timeout"):
        await handlers[0]
    assert not runs()


# --- tasks that somebody keeps ---


async def test_a_shared_task_that_somebody_cancels_later_ends_the_run_as_cancelled_and_loses_nothing_silently() -> None:
    kept: list[asyncio.Task[Any]] = []
    later = asyncio.Event()

    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Next:
            task = asyncio.current_task()
            assert task is not None
            kept.append(task)
            return Next()

        @step
        async def second(self, ev: Next) -> StopEvent:
            later.set()
            await asyncio.get_running_loop().create_future()
            return StopEvent()

    handler = Flow().run()
    await later.wait()
    kept[0].cancel()
    await asyncio.wait([handler])
    assert [record.outcome for record in handler.record] == ["success", "cancelled"]
    assert not runs()


async def test_a_shared_task_that_is_over_may_be_cancelled_without_harm() -> None:
    kept: list[asyncio.Task[Any]] = []

    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> StopEvent:
            task = asyncio.current_task()
            assert task is not None
            kept.append(task)
            return StopEvent(result=1)

    flow = Flow()
    assert await flow.run() == 1
    await asyncio.sleep(0)
    kept[0].cancel()
    assert await flow.run() == 1


@pytest.mark.parametrize("own_task", [False, True], ids=["shared", "own task"])
async def test_timeouts_and_task_groups_in_successive_steps_know_only_their_own_cancellations(own_task: bool) -> None:
    seen: list[str] = []

    class Flow(Workflow):
        @step(own_task=own_task)
        async def bounded(self, ev: StartEvent) -> Next:
            with suppress(TimeoutError):
                async with asyncio.timeout(0):
                    await asyncio.sleep(1)
            seen.append("bounded")
            return Next()

        @step(own_task=own_task)
        async def grouped(self, ev: Next) -> Done:
            async def fails() -> None:
                raise ValueError("in the group")

            with suppress(ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    group.create_task(fails())
                    await asyncio.sleep(1)
            seen.append("grouped")
            return Done()

        @step(own_task=own_task)
        async def plain(self, ev: Done) -> StopEvent:
            await asyncio.sleep(0)
            async with asyncio.timeout(5):
                await asyncio.sleep(0)
            return StopEvent(result=seen)

    assert await Flow().run() == ["bounded", "grouped"]


# --- who keeps whom alive ---


@contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Many(Workflow):
    """Ends in many ways, as its start event says."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Next | StopEvent | None:
        if ev.kind == "fan-out":
            for n in range(5):
                ctx.send_event(Next(n=n))
            return None
        if ev.kind == "waiting":
            answer = await ctx.wait_for_event(HumanResponseEvent, waiter_event=InputRequiredEvent(prefix="?"))
            return StopEvent(result=answer.response)
        if ev.kind == "nested":
            return StopEvent(result=await Many().run(kind="chain"))
        return Next(n=0 if ev.kind == "chain" else -1)

    @step(retry_policy=retry_policy(stop=stop_after_attempt(2), wait=wait_none()))
    async def work(self, ev: Next) -> Done:
        if ev.n < 0:
            await asyncio.sleep(30)
        return Done(n=ev.n)

    @step
    async def join(self, ctx: Context, ev: Done, start: None = None) -> StopEvent | None:
        started = await ctx.store.get("kind", "chain")
        if started != "fan-out":
            return StopEvent(result=1)
        found = ctx.collect_events(ev, [Done] * 5)
        return None if found is None else StopEvent(result=len(found))


async def chain(flow: Workflow[Any]) -> None:
    await flow.run(kind="chain")


async def fan_out(flow: Workflow[Any]) -> None:
    ctx = Context(flow)
    await ctx.store.set("kind", "fan-out")
    assert await flow.run(ctx=ctx, kind="fan-out") == 5


async def cancelled(flow: Workflow[Any]) -> None:
    handler = flow.run(kind="stuck")
    while not handler.why().running:
        await asyncio.sleep(0)
    await handler.cancel_run()
    await asyncio.wait([handler])


async def answered(flow: Workflow[Any]) -> None:
    handler = flow.run(kind="waiting")
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            await handler.send_event(HumanResponseEvent(response="yes"))
    assert await handler == "yes"


async def nested(flow: Workflow[Any]) -> None:
    await flow.run(kind="nested")


async def stepwise(flow: Workflow[Any]) -> None:
    handler = flow.run(kind="chain", stepwise=True)
    while produced := await handler.run_step():
        for event in produced:
            await handler.send_event(event)
    await handler


async def not_awaited(flow: Workflow[Any]) -> None:
    flow.run(kind="chain")
    while runs():
        await asyncio.sleep(0)


class Fails(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        if ev.waits:
            await asyncio.get_running_loop().create_future()
        raise ValueError("x")


async def failing(flow: Workflow[Any]) -> None:
    handler = Fails().run(waits=False)
    await asyncio.wait([handler])
    assert type(handler.exception()) is ValueError


async def timed_out(flow: Workflow[Any]) -> None:
    handler = Fails(timeout=0.001).run(waits=True)
    await asyncio.wait([handler])
    assert isinstance(handler.exception(), WorkflowTimeoutError)


async def cancelled_as_a_task(flow: Workflow[Any]) -> None:
    handler = Fails().run(waits=True)
    for _ in range(3):
        await asyncio.sleep(0)
    handler.cancel()
    await asyncio.wait([handler])
    assert handler.cancelled()


LATER = "there the frame of a step that failed keeps the frames that called it"
failing_once = pytest.param(failing, marks=pytest.mark.skipif(sys.version_info >= (3, 12), reason=LATER))
ENDS = [chain, fan_out, cancelled, answered, nested, stepwise, not_awaited, failing_once, timed_out, cancelled_as_a_task]


@pytest.mark.parametrize("kind", ENDS, ids=lambda kind: kind.__name__)
async def test_nothing_is_left_of_runs_that_are_over_and_no_collector_is_needed(kind: Callable[..., Coroutine[Any, Any, None]]) -> None:
    flow = Many(timeout=10)
    await kind(flow)  # what is made once
    alive: weakref.WeakSet[Runner] = weakref.WeakSet()
    init = Runner.__init__

    def watched(self: Runner, *given: Any, **named: Any) -> None:
        alive.add(self)
        init(self, *given, **named)

    with no_collector(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "__init__", watched)
        tasks = len(asyncio.all_tasks())
        for _ in range(3):
            await kind(flow)
        for _ in range(3):
            await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == tasks
        assert not list(alive)


async def test_a_context_alone_still_knows_how_its_run_ended() -> None:
    flow = Many(timeout=10)
    ctx = Context(flow)
    await ctx.store.set("kind", "fan-out")
    await flow.run(ctx=ctx, kind="fan-out")
    assert await ctx.store.get("kind") == "fan-out"
    assert ctx.to_dict()["run"] is not None or not ctx.is_running
    with pytest.warns(DeprecationWarning, match="get_result"):
        assert ctx.get_result() == 5


async def test_a_context_alone_raises_what_its_run_failed_with() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            raise ValueError("lost")

    flow = Flow()
    ctx = Context(flow)
    with pytest.raises(ValueError, match="lost"):
        await flow.run(ctx=ctx)
    with pytest.warns(DeprecationWarning, match="get_result"), pytest.raises(ValueError, match="lost"):
        ctx.get_result()


async def test_a_reader_alone_reads_the_stream_of_a_run_to_its_end() -> None:
    stream = Many(timeout=10).run(kind="chain").stream_events()
    while runs():
        await asyncio.sleep(0)
    assert [type(event).__name__ async for event in stream] == ["StopEvent"]


async def test_a_reader_alone_may_leave_before_the_end() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            for n in range(3):
                ctx.write_event_to_stream(Next(n=n))
            return StopEvent()

    stream = Flow().run().stream_events()
    while runs():
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (await anext(stream)) == Next(n=0)
    await stream.aclose()


async def test_the_context_of_a_step_that_outlives_the_run_and_its_handler_says_so() -> None:
    kept: list[Context[Any]] = []

    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            kept.append(ctx)
            return StopEvent()

    handler = Flow().run()
    await handler
    assert await kept[0].store.get("missing", 1) == 1
    del handler
    await asyncio.sleep(0)  # what woke this task up holds it until then
    with pytest.raises(ContextStateError, match="nobody holds it"):
        _ = kept[0].store


async def test_a_run_that_nobody_holds_goes_on_to_its_end() -> None:
    ended: list[int] = []

    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(0)
            gc.collect()
            ended.append(1)
            return StopEvent()

    Flow().run()
    gc.collect()
    for _ in range(10):
        await asyncio.sleep(0)
    assert ended == [1]


# --- the same as with a task for each ---


def program(own_task: bool) -> type[Workflow[Any]]:
    class Flow(Workflow):
        @step(own_task=own_task)
        async def begin(self, ctx: Context, ev: StartEvent) -> Next | None:
            for n in range(6):
                ctx.send_event(Next(n=n))
            return None

        @step(own_task=own_task, num_workers=2)
        async def work(self, ctx: Context, ev: Next) -> Next | Done:
            if ev.n % 3:
                await asyncio.sleep(ev.n * 0.25)
            ctx.write_event_to_stream(Event(n=ev.n))
            return Next(n=ev.n + 4) if ev.n < 4 else Done(n=ev.n)

        @step(own_task=own_task, num_workers=1)
        async def join(self, ctx: Context, ev: Done) -> StopEvent | None:
            found = ctx.collect_events(ev, [Done] * 6)
            return None if found is None else StopEvent(result=[each.n for each in found])

    return Flow


async def told(own_task: bool) -> tuple[Any, list[Any], list[tuple[Any, ...]]]:
    handler = program(own_task)(timeout=None).run()
    streamed = [getattr(event, "n", None) async for event in handler.stream_events()]
    records = [(each.step, each.attempt, each.started_at, each.ended_at, each.outcome, each.queued) for each in handler.record]
    return await handler, streamed, records


def test_a_program_does_the_same_with_shared_tasks_as_with_a_task_for_each() -> None:
    shared, own = run_virtual(told(own_task=False)), run_virtual(told(own_task=True))
    assert shared[0] == own[0]
    assert shared[1] == own[1]
    assert sorted(shared[2]) == sorted(own[2])


async def test_a_wrong_event_from_a_step_names_the_step_in_a_shared_task_too() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.send_event("no event")  # type: ignore[arg-type]
            return StopEvent()

    with pytest.raises(WorkflowRuntimeError, match="takes an event") as caught:
        await Flow().run()
    assert any("step `only`" in note for note in caught.value.__notes__)


# --- requests to cancel that a step makes or leaves behind ---


async def cancels_itself_at_its_end() -> None:
    cancel_current()


async def cancels_itself_and_swallows() -> None:
    cancel_current()
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)


async def cancels_itself_swallows_and_waits() -> None:
    await cancels_itself_and_swallows()
    await asyncio.sleep(0)


async def cancels_itself_and_takes_it_back() -> None:
    await cancels_itself_and_swallows()
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()


async def is_cancelled_after_its_end() -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_soon(task.cancel)


async def waits_for_a_moment_and_cancels_itself() -> None:
    await asyncio.sleep(0)
    cancel_current()


async def cancels_itself_and_waits() -> None:
    cancel_current()
    await asyncio.sleep(0)


def cancel_current() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


def three_behind_each_other(first: Callable[[], Coroutine[Any, Any, None]], own_task: bool) -> Workflow[Any]:
    class Flow(Workflow):
        @step(own_task=own_task)
        async def begin(self, ctx: Context, ev: StartEvent) -> Next | None:
            for n in range(3):
                ctx.send_event(Next(n=n))
            return None

        @step(own_task=own_task, num_workers=1)
        async def work(self, ev: Next) -> Done:
            if ev.n == 0:
                await first()
            return Done(n=ev.n)

        @step(own_task=own_task)
        async def join(self, ctx: Context, ev: Done) -> StopEvent | None:
            found = ctx.collect_events(ev, [Done] * 3)
            return None if found is None else StopEvent(result=[each.n for each in found])

    return Flow(timeout=5)


LEFT = [
    cancels_itself_at_its_end,
    cancels_itself_and_swallows,
    cancels_itself_swallows_and_waits,
    cancels_itself_and_takes_it_back,
    is_cancelled_after_its_end,
    waits_for_a_moment_and_cancels_itself,
]


@pytest.mark.parametrize("own_task", [False, True], ids=["shared", "own task"])
@pytest.mark.parametrize("first", LEFT, ids=lambda first: first.__name__)
async def test_a_request_to_cancel_that_a_step_leaves_behind_reaches_no_other_step(
    first: Callable[[], Coroutine[Any, Any, None]], own_task: bool
) -> None:
    handler = three_behind_each_other(first, own_task).run()
    assert sorted(await handler) == [0, 1, 2]
    assert {record.outcome for record in handler.record} == {"success", "collecting"}
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("own_task", [False, True], ids=["shared", "own task"])
async def test_a_step_that_cancels_itself_ends_the_run_as_cancelled(own_task: bool) -> None:
    handler = three_behind_each_other(cancels_itself_and_waits, own_task).run()
    with pytest.raises(WorkflowCancelledByUser, match="step `work`"):
        await handler
    assert [record.outcome for record in handler.record] == ["success", "cancelled"]
    assert not runs()


def test_a_shared_task_that_is_cancelled_while_it_waits_for_a_turn_leaves_the_run_to_another() -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Next:
            await is_cancelled_after_its_end()
            return Next()

        @step
        async def again(self, ev: Next) -> Next | StopEvent:
            return Next(n=ev.n + 1) if ev.n < 2 * MOST else StopEvent(result=ev.n)

    async def main() -> Any:
        return await Flow(timeout=5).run()

    assert run_virtual(main()) == 2 * MOST


# --- contexts ---

mark: ContextVar[str] = ContextVar("mark", default="nobody's")


@pytest.mark.parametrize("own_task", [False, True], ids=["shared", "own task"])
async def test_a_variable_that_a_step_sets_is_its_own_and_those_of_the_caller_are_seen(own_task: bool) -> None:
    seen: list[str] = []

    class Flow(Workflow):
        @step(own_task=own_task)
        async def begin(self, ctx: Context, ev: StartEvent) -> Next | None:
            seen.append(mark.get())
            mark.set("begin's")
            for n in range(2):
                ctx.send_event(Next(n=n))
            return None

        @step(own_task=own_task)
        async def work(self, ctx: Context, ev: Next) -> StopEvent | None:
            seen.append(mark.get())
            mark.set(f"work {ev.n}'s")
            await asyncio.sleep(0)
            assert mark.get() == f"work {ev.n}'s"
            found = ctx.collect_events(ev, [Next] * 2)
            return None if found is None else StopEvent(result=mark.get())

    mark.set("the caller's")
    assert await Flow().run() in {"work 0's", "work 1's"}
    assert seen == ["the caller's"] * 3
    assert mark.get() == "the caller's"


async def test_a_task_made_in_a_step_outlives_it_with_the_variables_of_that_step() -> None:
    made: list[asyncio.Task[str]] = []
    go = asyncio.Event()

    async def later() -> str:
        await go.wait()
        return mark.get()

    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Next:
            mark.set("first's")
            made.append(asyncio.create_task(later()))
            return Next()

        @step
        async def second(self, ev: Next) -> StopEvent:
            mark.set("second's")
            await asyncio.sleep(0)
            return StopEvent()

    await Flow().run()
    go.set()
    assert await made[0] == "first's"


# --- loops ---


class Stays(Workflow):
    """Waits for ever, if asked to."""

    @step
    async def begin(self, ev: StartEvent) -> Next:
        return Next(n=1 if ev.stays else 0)

    @step
    async def end(self, ev: Next) -> StopEvent:
        if ev.n:
            await asyncio.get_running_loop().create_future()
        return StopEvent(result="done")


@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
@pytest.mark.parametrize("turns", [0, 1, 5])
def test_a_loop_that_ends_with_live_runs_leaves_nothing_to_the_next(turns: int, debug: bool) -> None:
    flow = Stays(timeout=None)

    async def leaves() -> None:
        for _ in range(3):
            flow.run(stays=True)
        for _ in range(turns):
            await asyncio.sleep(0)

    async def ends() -> Any:
        return await flow.run(stays=False)

    asyncio.run(leaves(), debug=debug)
    assert not runs()
    assert asyncio.run(ends(), debug=debug) == "done"


@pytest.mark.parametrize("own_task", [False, True], ids=["shared", "own task"])
@pytest.mark.parametrize("suspends", [False, True], ids=["at once", "after a turn"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_step_ends_the_program_and_the_run(error: type[BaseException], suspends: bool, own_task: bool) -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Next:
            return Next()

        @step(own_task=own_task)
        async def interrupted(self, ev: Next) -> StopEvent:
            if suspends:
                await asyncio.sleep(0)
            raise error

    async def main() -> None:
        await Flow(timeout=5).run()

    with pytest.raises(error):
        asyncio.run(main())
    assert not runs()
