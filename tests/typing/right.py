"""A program as a reader would write it: both type checkers accept every line, and know the types that are asserted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_type

from pydantic import BaseModel

from tracedflow import (
    Context,
    Event,
    Limit,
    Middleware,
    Observer,
    RunCall,
    RunOptions,
    RunReport,
    StartEvent,
    StepCall,
    StopEvent,
    Workflow,
    WorkflowHandler,
    step,
)
from tracedflow.context.state_store import DictState
from tracedflow.middleware import StepNext, StepResult
from tracedflow.records import AttemptRecord
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed


class Topic(StartEvent):
    topic: str


class Draft(Event):
    text: str
    score: float = 0.0


class Report(StopEvent):
    pages: int


class Notes(BaseModel):
    drafts: int = 0


class Timed(Observer):
    async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
        return await call_next(call)


class Write(Workflow[Report]):
    def __init__(self, *args: Any, model: str = "m", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model = model

    @step
    async def plan(self, ctx: Context[Notes], ev: Topic) -> Draft | None:
        async with ctx.store.edit_state() as state:
            assert_type(state, Notes)
            state.drafts += 1
        ctx.send_event(Draft(text=ev.topic))
        ctx.write_event_to_stream(Draft(text="progress"))
        return None

    @step(num_workers=2, retry_policy=retry_policy(wait=wait_fixed(1), stop=stop_after_attempt(3)), timeout=5)
    async def write(self, ctx: Context, ev: Draft) -> list[Draft]:
        assert_type(await ctx.store.get_state(), DictState)
        async with ctx.store.edit_state() as free:
            free.written = free.get("written", 0) + 1
        answer = await ctx.wait_for_event(Draft, waiter_id="w", requirements={"text": "x"}, timeout=None)
        assert_type(answer, Draft)
        return [answer]

    @step(limit=Limit("api", concurrency=2))
    async def review(self, ctx: Context, ev: Draft) -> Report | None:
        drafts = ctx.collect_events(ev, [Draft] * 3)
        assert_type(drafts, "list[Draft] | None")
        assert_type(await ctx.once("key", lambda: 3), int)
        return None if drafts is None else Report(pages=len(drafts))


class Plain(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ev.get("n"))

    @step
    def threaded(self, ctx: Context, ev: Draft) -> StopEvent:
        return StopEvent(ctx.sync.store.get("n"))


async def typed() -> int:
    handler = Write(timeout=10, model="big").run(topic="ships")
    assert_type(handler, WorkflowHandler[Report])
    async for event in handler.stream_events():
        assert_type(event, Event)
    report = await handler
    assert_type(report, Report)
    assert_type(handler.result(), Report)
    assert_type(Write().run_sync(topic="x"), Report)
    assert_type(await Write().run(start_event=Topic(topic="x"), options=RunOptions(timeout=3)), Report)
    assert_type(handler.why(), RunReport)
    assert_type(handler.record, Sequence[AttemptRecord])
    assert_type(handler.get_stop_event(), StopEvent | None)
    return report.pages


async def untyped() -> str:
    handler: WorkflowHandler = Plain(middleware=[Timed(), Middleware()]).run(n=1)
    result = await handler
    assert_type(result, Any)
    assert_type(await Plain().run(), Any)
    await handler.send_event(Draft(text="x"), step="threaded")
    await handler.cancel_run()
    return result  # type: ignore[no-any-return]


flow = Workflow(timeout=60, verbose=True)


@step(workflow=flow)
async def first(ev: StartEvent) -> Draft:
    return Draft(text=ev.topic)


@step(workflow=Plain)
async def second(ctx: Context, ev: Draft) -> StopEvent:
    return StopEvent(await ctx.store.get("n"))


async def unbound() -> None:
    assert_type(await first(StartEvent(topic="x")), Draft)
    assert_type(await Plain().only(StartEvent()), StopEvent)
    assert_type(await flow.run(topic="x"), Any)
    ctx = Context(flow)
    await ctx.store.set("n", 1)
    again: Context[Any] = Context.from_dict(flow, ctx.to_dict())
    await flow.run(ctx=again)


def layer(call: RunCall) -> str:
    return call.run_id
