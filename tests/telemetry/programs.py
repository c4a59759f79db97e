"""The program that traces are judged by: all that a run can do, once, with a trace that is known beforehand."""

from __future__ import annotations

import asyncio
import time

from tracedflow import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowHandler,
    catch_error,
    step,
)
from tracedflow.events import StepFailedEvent
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed

WORKERS = 30
UNLUCKY = 7  # the task that fails twice
BLOCKED = 0.15  # seconds in which a step keeps the loop


class Task(Event):
    number: int


class Done(Event):
    number: int


class Joined(Event):
    pass


class GaveUp(Event):
    pass


class Approved(Event):
    pass


class Nested(Event):
    pass


class Inner(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ev.get("question"))


class Everything(Workflow):
    """Fans out to 30, one of which fails twice; joins; times out and recovers; asks a human; nests; blocks; leaves a branch behind."""

    @step
    async def plan(self, ctx: Context, ev: StartEvent) -> Task | None:
        for number in range(WORKERS):
            ctx.send_event(Task(number=number))
        return None

    @step(num_workers=WORKERS, retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(3)))
    async def work(self, ctx: Context, ev: Task) -> Done:
        if ev.number == UNLUCKY and ctx.retry_info().retry_number < 2:
            raise ConnectionError("refused by payload-of-the-run")
        return Done(number=ev.number)

    @step
    async def gather(self, ctx: Context, ev: Done) -> Joined | None:
        return None if ctx.collect_events(ev, [Done] * WORKERS) is None else Joined()

    @step(timeout=0.01)
    async def slow(self, ev: Joined) -> GaveUp:
        await asyncio.sleep(60)
        return GaveUp()

    @catch_error(for_steps=["slow"])
    async def recover(self, ev: StepFailedEvent) -> GaveUp:
        return GaveUp()

    @step
    async def forever(self, ev: Joined) -> StopEvent:
        await asyncio.Event().wait()
        return StopEvent()

    @step
    async def ask(self, ctx: Context, ev: GaveUp) -> Approved:
        await ctx.wait_for_event(HumanResponseEvent, waiter_event=InputRequiredEvent())
        return Approved()

    @step
    async def nest(self, ev: Approved) -> Nested:
        await Inner(timeout=5, telemetry=False, middleware=self._middleware).run(run_id="inner", question="payload-of-the-nested-run")
        return Nested()

    @step
    async def block(self, ev: Nested) -> StopEvent:
        time.sleep(BLOCKED)  # noqa: ASYNC251 - the mistake that is to be seen
        return StopEvent(result="done")


async def answered(handler: WorkflowHandler) -> object:
    """Answer the question of a run, and await it."""
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            await handler.send_event(HumanResponseEvent(response="payload-of-the-answer"))
    return await handler


class Approval(Workflow):
    """Prepares, asks, and goes on with the answer."""

    @step
    async def prepare(self, ev: StartEvent) -> Joined:
        return Joined()

    @step
    async def ask(self, ctx: Context, ev: Joined) -> Approved:
        await ctx.wait_for_event(HumanResponseEvent, waiter_event=InputRequiredEvent())
        return Approved()

    @step
    async def finish(self, ev: Approved) -> StopEvent:
        return StopEvent(result="done")
