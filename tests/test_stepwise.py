from __future__ import annotations

import asyncio

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
    step,
)
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed


class Item(Event):
    n: int = 0


class Result(Event):
    n: int = 0


class Ask(InputRequiredEvent):
    pass


class Answer(HumanResponseEvent):
    n: int = 0


class Line(Workflow):
    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    @step
    async def first(self, ev: StartEvent) -> Item:
        self.called.append("first")
        return Item(n=1)

    @step
    async def second(self, ev: Item) -> Result:
        self.called.append("second")
        return Result(n=ev.n + 1)

    @step
    async def third(self, ev: Result) -> StopEvent:
        self.called.append("third")
        return StopEvent(result=ev.n)


async def send_on(handler: WorkflowHandler[object], events: list[Event] | None) -> None:
    for event in events or []:
        await handler.send_event(event)


async def test_one_step_runs_at_a_time_and_what_it_returned_is_handed_to_the_caller() -> None:
    flow = Line()
    handler = flow.run(stepwise=True)
    first = await handler.run_step()
    assert first is not None
    assert [type(event) for event in first] == [Item]
    assert flow.called == ["first"]
    await send_on(handler, first)
    second = await handler.run_step()
    assert flow.called == ["first", "second"]
    await send_on(handler, second)
    await handler.run_step()
    assert await handler == 2
    assert await handler.run_step() is None


async def test_a_loop_over_run_step_brings_a_run_to_its_end() -> None:
    handler = Line().run(stepwise=True)
    seen: list[str] = []
    while (events := await handler.run_step()) is not None:
        seen += [type(event).__name__ for event in events]
        await send_on(handler, [event for event in events if not isinstance(event, StopEvent)])
    assert await handler == 2
    assert seen[:2] == ["Item", "Result"]


async def test_the_caller_may_change_what_is_sent_on() -> None:
    handler = Line().run(stepwise=True)
    await handler.run_step()
    await handler.send_event(Item(n=100))
    events = await handler.run_step()
    assert [event.n for event in events or [] if isinstance(event, Result)] == [101]
    await send_on(handler, events)
    await handler.run_step()
    assert await handler == 101


async def test_what_is_not_sent_on_has_no_effect_and_the_run_stays_alive() -> None:
    flow = Line()
    handler = flow.run(stepwise=True)
    await handler.run_step()
    assert await handler.run_step() == []
    assert flow.called == ["first"]
    assert not handler.done()
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    assert await handler.run_step() is None


async def test_parallel_branches_run_together_in_one_step_of_the_run() -> None:
    class Fork(Workflow):
        @step
        async def fork(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(3)]

        @step
        async def work(self, ev: Item) -> Result:
            for _ in range(ev.n):
                await asyncio.sleep(0)
            return Result(n=ev.n)

        @step
        async def join(self, ctx: Context, ev: Result) -> StopEvent | None:
            got = ctx.collect_events(ev, [Result] * 3)
            return None if got is None else StopEvent(result=sorted(each.n for each in got))

    handler = Fork().run(stepwise=True)
    forked = await handler.run_step()
    assert [event.n for event in forked or [] if isinstance(event, Item)] == [0, 1, 2]
    await send_on(handler, forked)
    worked = await handler.run_step()
    assert sorted(event.n for event in worked or [] if isinstance(event, Result)) == [0, 1, 2]
    await send_on(handler, worked)
    while await handler.run_step() is not None:
        pass
    assert await handler == [0, 1, 2]


async def test_what_a_step_sends_itself_is_delivered_at_the_next_step_of_the_run() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> Item | None:
            ctx.send_event(Item(n=3))
            return None

        @step
        async def second(self, ev: Item) -> StopEvent:
            return StopEvent(result=ev.n)

    handler = Flow().run(stepwise=True)
    assert await handler.run_step() == []
    assert not handler.done()
    await handler.run_step()
    assert await handler == 3


async def test_a_step_that_waits_for_an_event_gives_the_caller_its_turn() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> Result:
            answer = await ctx.wait_for_event(Answer, waiter_event=Ask())
            return Result(n=answer.n)

        @step
        async def last(self, ev: Result) -> StopEvent:
            return StopEvent(result=ev.n)

    handler = Flow().run(stepwise=True)
    assert await asyncio.wait_for(handler.run_step(), 1) == []
    assert [wait.step for wait in handler.why().waits] == ["ask"]
    await handler.send_event(Answer(n=7))
    events: list[Event] = []
    async with asyncio.timeout(1):
        while not events:
            events = await handler.run_step() or []
    assert [event.n for event in events if isinstance(event, Result)] == [7]
    await send_on(handler, events)
    await handler.run_step()
    assert await handler == 7


async def test_a_step_that_is_tried_again_is_one_step_of_the_run() -> None:
    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(0.005), stop=stop_after_attempt(3)))
        async def flaky(self, ctx: Context, ev: StartEvent) -> Result:
            if ctx.retry_info().retry_number < 2:
                raise ConnectionError
            return Result(n=ctx.retry_info().retry_number)

        @step
        async def last(self, ev: Result) -> StopEvent:
            return StopEvent(result=ev.n)

    handler = Flow().run(stepwise=True)
    events = await handler.run_step()
    assert [event.n for event in events or [] if isinstance(event, Result)] == [2]
    await handler.cancel_run()


async def test_steps_that_handed_their_events_to_the_caller_do_not_count_as_silent() -> None:
    handler = Line().run(stepwise=True)
    await handler.run_step()
    assert handler.why().silent == {}
    await handler.cancel_run()


async def test_a_step_that_fails_ends_the_run() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> StopEvent:
            raise ConnectionError

    handler = Flow().run(stepwise=True)
    assert not await asyncio.wait_for(handler.run_step(), 1)
    with pytest.raises(ConnectionError):
        await handler
    assert await handler.run_step() is None


async def test_nothing_runs_before_the_first_run_step() -> None:
    flow = Line()
    handler = flow.run(stepwise=True)
    await asyncio.sleep(0.01)
    assert flow.called == []
    assert not handler.done()
    handler.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handler


async def test_run_step_of_a_run_that_is_not_stepwise_says_how_to_make_it_so() -> None:
    handler = Line().run()
    with pytest.raises(ValueError, match="stepwise=True"):
        await handler.run_step()
    assert await handler == 2


async def test_two_calls_of_run_step_at_once_are_refused() -> None:
    gate = asyncio.Event()

    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> StopEvent:
            await gate.wait()
            return StopEvent(result="done")

    handler = Flow().run(stepwise=True)
    stepping = asyncio.create_task(handler.run_step())
    await asyncio.sleep(0)
    with pytest.raises(WorkflowRuntimeError, match="await that first"):
        await handler.run_step()
    gate.set()
    await stepping
    assert await handler == "done"


async def test_one_event_that_was_returned_twice_may_be_sent_on_twice() -> None:
    class Flow(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[Item]:
            item = Item()
            return [item, item]

        @step
        async def work(self, ev: Item) -> Result:
            return Result()

        @step
        async def end(self, ctx: Context, ev: Result) -> StopEvent | None:
            return StopEvent(result="both") if ctx.collect_events(ev, [Result, Result]) else None

    handler = Flow().run(stepwise=True)
    while (produced := await handler.run_step()) is not None:
        for event in produced:
            handler.ctx.send_event(event)
    assert await handler == "both"
    causes = [record.causes for record in handler.record if record.step == "work"]
    (spread,) = [record.execution for record in handler.record if record.step == "spread"]
    assert causes == [(spread,), (spread,)]
