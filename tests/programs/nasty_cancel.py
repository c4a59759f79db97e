"""A run ended at any moment, by its caller, its deadline or a sibling, while steps back off, wait, queue, nest and clean up."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import tracedflow
from tests.programs.invariants import check
from tracedflow import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Limit,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowDone,
    WorkflowHandler,
    WorkflowTimeoutError,
    step,
)
from tracedflow.events import WorkflowCancelledEvent, WorkflowFailedEvent, WorkflowTimedOutEvent
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from tracedflow.testing import Schedule

KINDS = ("backoff", "parked", "both", "nested", "nested", "limited", "limited", "cleanup", "shielded", "queued", "queued")


class Work(Event):
    number: int
    kind: str


class Done(Event):
    number: int


class Ask(InputRequiredEvent):
    number: int


class Answer(HumanResponseEvent):
    number: int


class Boom(Exception):
    """What the fatal step raises."""


class Inner(Workflow):
    """A nested run that backs off and waits, too."""

    @step(retry_policy=retry_policy(wait=wait_fixed(4), stop=stop_after_attempt(3)))
    async def inside(self, ctx: Context, ev: StartEvent) -> StopEvent:
        if ctx.retry_info().retry_number < 1:
            raise ConnectionError
        with contextlib.suppress(TimeoutError):
            await ctx.wait_for_event(Answer, timeout=6)
        return StopEvent(result="inside")


class Many(Workflow):
    """Three slots for eleven steps, each of them busy in its own way."""

    gate = Limit("gate", concurrency=1, per_second=1)

    def __init__(self, schedule: Schedule, **options: Any) -> None:
        super().__init__(middleware=[schedule], telemetry=False, **options)
        self.inner = Inner(middleware=[schedule], telemetry=False)
        self.fails_at: float | None = None
        self.open = 0
        self.cleaned = 0

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> list[Work]:
        return [Work(number=number, kind=kind) for number, kind in enumerate(KINDS)]

    @step
    async def bomb(self, ev: StartEvent) -> None:
        if self.fails_at is not None:
            await asyncio.sleep(self.fails_at)
            raise Boom

    @step(num_workers=3, limit=gate, timeout=100, retry_policy=retry_policy(wait=wait_fixed(3), stop=stop_after_attempt(3)))
    async def work(self, ctx: Context, ev: Work) -> Done:
        self.open += 1
        try:
            await self._work(ctx, ev)
        finally:
            self.open -= 1
        return Done(number=ev.number)

    async def _work(self, ctx: Context, ev: Work) -> None:
        mine = {"waiter_id": str(ev.number), "requirements": {"number": ev.number}}
        match ev.kind:
            case "backoff" if ctx.retry_info().retry_number < 2:
                raise ConnectionError
            case "parked":
                await ctx.wait_for_event(Answer, waiter_event=Ask(number=ev.number), **mine)
            case "both" if ctx.retry_info().retry_number < 1:
                left = asyncio.ensure_future(ctx.wait_for_event(Answer, **mine))
                await asyncio.sleep(1)
                raise ConnectionError(left)  # it backs off while a task of it is parked
            case "nested":
                assert await self.inner.run() == "inside"
            case "cleanup":
                try:
                    await asyncio.sleep(9)
                finally:
                    await asyncio.sleep(0.2)
                    self.cleaned += 1
            case "shielded":
                await asyncio.shield(asyncio.ensure_future(asyncio.sleep(0.1)))
            case _:
                await asyncio.sleep(1)

    @step
    async def close(self, done: list[Done]) -> StopEvent:
        return StopEvent(result=sorted(each.number for each in done))


async def read(handler: WorkflowHandler[Any]) -> list[Event]:
    """Answer what is asked, and return the stream."""
    events: list[Event] = []
    async for event in handler.stream_events():
        events.append(event)
        if isinstance(event, Ask):
            await asyncio.sleep(5)
            with contextlib.suppress(WorkflowDone):
                await handler.send_event(Answer(number=KINDS.index("both")))  # to a wait that its step left behind: nobody takes it
                await handler.send_event(Answer(number=event.number))
    return events


async def main(schedule: Schedule) -> None:
    moment = schedule.random.choice([schedule.random.uniform(0, 40), schedule.random.randrange(40)])
    how = schedule.random.choice(["whole", "cancel_run", "cancel", "deadline", "sibling", "reader gone", "twice"])
    flow = Many(schedule, timeout=moment if how == "deadline" else None)
    flow.fails_at = moment if how == "sibling" else None
    handler = flow.run()
    reading = asyncio.ensure_future(read(handler))
    if how in ("cancel_run", "cancel", "reader gone", "twice"):
        other = asyncio.ensure_future(read(handler)) if how == "reader gone" else None
        await asyncio.sleep(moment)
        await _end(handler, other, how)
    await asyncio.wait([handler])
    ended_at = asyncio.get_running_loop().time()
    last = await handler.stop_event_result()
    _ended_as_said(handler, last, how)
    events = await reading
    assert events[-1] is last
    assert [type(event) for event in events[:-1]] == [Ask] * (len(events) - 1)
    assert flow.open == 0, "every step is over when the run is"
    answers = handler.why().events.get("Answer")
    assert answers is None or answers.consumed <= 1
    check(handler, workers={"work": 3}, limits=[Many.gate])
    assert not tracedflow.runs(), "nested ones neither"
    for record in handler.record:
        assert record.ended_at <= handler.record[0].enqueued_at + ended_at, "nothing is recorded after the end"
    await asyncio.sleep(100)
    assert asyncio.all_tasks() == {asyncio.current_task()}, "no task is left"


async def _end(handler: WorkflowHandler[Any], other: asyncio.Future[Any] | None, how: str) -> None:
    match how:
        case "reader gone":
            assert other is not None
            other.cancel()
        case "cancel_run":
            await handler.cancel_run()
            assert handler.done()
        case "cancel":
            handler.cancel()
        case _:
            handler.cancel()
            await asyncio.sleep(0)
            await handler.cancel_run()


def _ended_as_said(handler: WorkflowHandler[Any], last: StopEvent | None, how: str) -> None:
    everything = list(range(len(KINDS)))
    match last:
        case WorkflowCancelledEvent():
            assert how in ("cancel_run", "cancel", "twice")
            assert handler.cancelled() or isinstance(handler.exception(), WorkflowCancelledByUser)
        case WorkflowTimedOutEvent():
            assert how == "deadline"
            assert isinstance(handler.exception(), WorkflowTimeoutError)
        case WorkflowFailedEvent():
            assert how == "sibling"
            assert isinstance(handler.exception(), Boom)
        case _:
            assert handler.result() == everything
