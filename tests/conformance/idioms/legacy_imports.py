"""Everything from the one module of the seed's era; free functions on an instance; `asyncio.run` in a script."""

from __future__ import annotations

import asyncio

from tracedflow import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    JsonPickleSerializer,
    JsonSerializer,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCheckpointer,
    WorkflowRuntimeError,
    WorkflowTimeoutError,
    WorkflowValidationError,
    draw_all_possible_flows,
    draw_most_recent_execution,
    step,
)

joke_flow = Workflow(timeout=60, verbose=False)


class SetupEvent(Event):
    topic: str


@step(workflow=joke_flow)
async def setup(ctx: Context, ev: StartEvent) -> SetupEvent:
    await ctx.store.set("topic", ev.topic)
    return SetupEvent(topic=ev.topic)


@step(workflow=joke_flow, num_workers=2)
async def ask(ev: SetupEvent) -> InputRequiredEvent:
    return InputRequiredEvent(prefix=f"Do you like {ev.topic}? ")


@step(workflow=joke_flow)
async def hear(ev: HumanResponseEvent, ctx: Context) -> StopEvent:
    return StopEvent(result=f"{await ctx.store.get('topic')}: {ev.response}")


async def main():
    handler = joke_flow.run(topic="pirates")
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            saved = [handler.ctx.to_dict(serializer=kind()) for kind in (JsonSerializer, JsonPickleSerializer)]
            handler.ctx.send_event(HumanResponseEvent(response="yes"))
    result = await handler

    resumed = []
    for data, kind in zip(saved, (JsonSerializer, JsonPickleSerializer), strict=True):
        again = joke_flow.run(ctx=Context.from_dict(joke_flow, data, serializer=kind()), run_id=f"again-{kind.__name__}")
        again.ctx.send_event(HumanResponseEvent(response="no"))
        resumed.append(await again)

    errors = [kind.__name__ for kind in (WorkflowRuntimeError, WorkflowTimeoutError, WorkflowValidationError)]
    tools = [tool.__name__ for tool in (WorkflowCheckpointer, draw_all_possible_flows, draw_most_recent_execution)]
    return result, resumed, errors, tools


if __name__ == "__main__":
    print(asyncio.run(main()))
