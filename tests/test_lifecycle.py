"""What the engine tells of its steps to a reader of internal events: each start and each end once, whoever comes when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, WorkflowCancelledByUser, WorkflowHandler, step
from tracedflow.events import StepStateChanged
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from tracedflow.testing import virtual_time


class Item(Event):
    n: int = 0


class Left(Event):
    pass


class Right(Event):
    pass


async def until(true: Any) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0)


def internal(handler: WorkflowHandler[Any]) -> AsyncIterator[Event]:
    return handler.stream_events(expose_internal=True)


async def told(stream: AsyncIterator[Event], step: str) -> list[tuple[str, str]]:
    """Return what is told of one step, to the end of the run: the state and the worker."""
    changes = [event async for event in stream if isinstance(event, StepStateChanged)]
    return [(each.step_state.value, each.worker_id) for each in changes if each.name == step]


RUNS, ENDS = ("running", "0"), ("not_running", "0")


async def test_a_reader_that_comes_while_an_execution_is_queued_hears_of_its_start_when_it_starts() -> None:
    gate = asyncio.Event()

    class Flow(Workflow):
        @step
        async def start(self, ctx: Context, ev: StartEvent) -> Item:
            ctx.send_event(Item(n=1))
            return Item(n=2)

        @step(num_workers=1)
        async def work(self, ev: Item) -> StopEvent | None:
            await gate.wait()
            return StopEvent() if ev.n == 2 else None

    handler = Flow().run()
    await until(lambda: handler._runner.state.queued == 1)
    stream = internal(handler)
    gate.set()
    assert await told(stream, "work") == [RUNS, ENDS, RUNS, ENDS]


@virtual_time()
async def test_a_reader_that_comes_while_a_step_waits_for_its_next_attempt_hears_of_that_attempt() -> None:
    class Flow(Workflow):
        tries = 0

        @step(retry_policy=retry_policy(wait=wait_fixed(60), stop=stop_after_attempt(2)))
        async def work(self, ev: StartEvent) -> StopEvent:
            self.tries += 1
            if self.tries == 1:
                raise ConnectionError
            return StopEvent()

    handler = Flow(timeout=None).run()
    await asyncio.sleep(30)
    assert await told(internal(handler), "work") == [RUNS, ENDS]


async def test_a_wait_that_is_answered_at_once_is_no_end() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.send_event(Item())
            await ctx.wait_for_event(Item)
            return StopEvent()

    assert await told(internal(Flow().run()), "ask") == [RUNS, ENDS]


async def test_a_step_whose_branches_go_on_one_after_the_other_has_one_worker() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> Item:
            async def wait(kind: type[Event]) -> None:
                await ctx.wait_for_event(kind)
                await gate.wait()

            await asyncio.gather(wait(Left), wait(Right))
            return Item()

        @step
        async def end(self, ev: Item) -> StopEvent:
            return StopEvent()

    gate = asyncio.Event()
    handler = Flow().run()
    stream = internal(handler)
    await until(lambda: len(handler._runner.state.waits) == 2)
    handler.ctx.send_event(Left())
    handler.ctx.send_event(Right())
    gate.set()
    assert await told(stream, "ask") == [RUNS, ENDS, ENDS]  # after a wait it goes on where it was: that is no second start


async def test_the_end_of_a_step_that_was_abandoned_is_told_once() -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    class Flow(Workflow):
        @step
        async def stubborn(self, ev: StartEvent) -> StopEvent:
            begun.set()
            while not gate.is_set():
                try:
                    await gate.wait()
                except asyncio.CancelledError:
                    continue
            return StopEvent()

    handler = Flow(cancel_grace=0.01).run()
    stream = internal(handler)
    await begun.wait()
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    (scope,) = handler._runner.scopes.values()
    gate.set()
    await scope.task
    assert not handler._runner.scopes  # its end was taken note of
    assert await told(stream, "stubborn") == [RUNS, ENDS]


@virtual_time()
async def test_a_step_of_a_stepwise_run_that_was_saved_before_its_next_attempt_starts_once() -> None:
    class Flow(Workflow):
        tries = 0

        @step(retry_policy=retry_policy(wait=wait_fixed(60), stop=stop_after_attempt(3)))
        async def work(self, ev: StartEvent) -> StopEvent:
            self.tries += 1
            if self.tries == 1:
                raise ConnectionError
            return StopEvent(result=self.tries)

    flow = Flow(timeout=None)
    first = flow.run()
    await asyncio.sleep(30)
    data = first.ctx.to_dict()
    await first.cancel_run()
    again = flow.run(ctx=Context.from_dict(flow, data), stepwise=True)
    stream = internal(again)
    while await again.run_step() is not None:
        await asyncio.sleep(0)
    assert await again == 2
    assert await told(stream, "work") == [RUNS, ENDS]
