"""Mistakes, one a line: both type checkers must find an error on each line that says `# error`, and on no other."""

from __future__ import annotations

from typing import Any

from tracedflow import Context, Event, Limit, Middleware, RunOptions, StartEvent, StopEvent, Workflow, WorkflowHandler, step
from tracedflow import Wrokflow as Misspelt  # error


class Draft(Event):
    text: str


class Report(StopEvent):
    pages: int


class Other(StopEvent):
    pass


print(Misspelt)


class Write(Workflow[Report]):
    @step
    async def only(self, ev: StartEvent) -> Report:
        return Report(pages=1)


@step(workers=3)  # error
async def wrong_option(ev: StartEvent) -> StopEvent:
    return StopEvent()


@step(num_workers="3")  # error
async def wrong_value(ev: StartEvent) -> StopEvent:
    return StopEvent()


@step(workflow=Draft)  # error
async def wrong_workflow(ev: StartEvent) -> StopEvent:
    return StopEvent()


async def results() -> None:
    text: str = await Write().run()  # error
    other: Other = await Write().run()  # error
    pages: str = (await Write().run()).pages  # error
    handler: WorkflowHandler[Other] = Write().run()  # error
    synchronous: int = Write().run_sync()  # error
    del text, other, pages, handler, synchronous


async def arguments() -> None:
    Write(timeout="3")  # error
    Write(on_stall="ignore")  # error
    Write(middleware=[Middleware])  # error
    Write(num_concurrent_run=3)  # error
    Write().run(start_event=Draft(text="x"))  # error
    Write().run(run_id=3)  # error
    Write().run(options={"timeout": 3})  # error
    RunOptions(tags=[1])  # error
    Limit("api", concurrency="many")  # error
    Draft(text=3)  # error


async def handlers() -> None:
    handler = Write().run()
    handler.send_event("text")  # error
    await handler.send_event("text")  # error
    handler.stream_events(offset="0")  # error
    handler.no_such_member()  # error
    await handler.cancel_run(5)  # error


async def contexts(ctx: Context, ev: Draft) -> None:
    ctx.send_event("text")  # error
    ctx.send_event(ev, step=3)  # error
    ctx.write_event_to_stream(3)  # error
    ctx.collect_events(ev, [int])  # error
    await ctx.wait_for_event(str)  # error
    await ctx.wait_for_event(Draft, timeout="3")  # error
    number: int = await ctx.wait_for_event(Draft)  # error
    drafts: list[Draft] = ctx.collect_events(ev, [Draft])  # error
    ctx.measure("n", "3")  # error
    del number, drafts


def states(two: Context[Draft, Any]) -> None:  # error
    del two


def numbers(one: Context[int]) -> None:  # error
    del one
