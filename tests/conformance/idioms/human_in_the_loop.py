"""People are asked in three ways: by what a step returns, by a wait, and by a snapshot that is answered later."""

import asyncio
import json

from tracedflow import Context, Workflow, step
from tracedflow.events import HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent


class Number(HumanResponseEvent):
    response: str


class Returns(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> InputRequiredEvent:
        return InputRequiredEvent(prefix="Enter a number: ")

    @step
    async def hear(self, ev: Number) -> StopEvent:
        return StopEvent(result=ev.response)


class Waits(Workflow):
    calls = 0

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        type(self).calls += 1
        response = await ctx.wait_for_event(
            HumanResponseEvent,
            waiter_id="waiter_step",
            waiter_event=InputRequiredEvent(prefix="Are you sure?", user_name="Laurie"),
            requirements={"user_name": "Laurie"},
            timeout=2000,
        )
        return StopEvent(result=f"You said {response.response}")


async def by_return():
    handler = Returns().run()
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            handler.ctx.send_event(Number(response=event.prefix + "5"))
    return await handler


async def by_wait():
    handler = Waits().run()
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            handler.ctx.send_event(HumanResponseEvent(response="no", user_name="Bob"))
            handler.ctx.send_event(HumanResponseEvent(response="yes", user_name=event.user_name))
    return str(await handler)


async def by_snapshot(workflow, answer):
    handler = workflow.run()
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            text = json.dumps(handler.ctx.to_dict())
            await handler.cancel_run()
            break

    # hours later, in another process
    ctx = Context.from_dict(workflow, json.loads(text))
    handler = workflow.run(ctx=ctx)
    handler.ctx.send_event(answer)
    return await handler


async def main():
    return [
        await by_return(),
        await by_wait(),
        await by_snapshot(Returns(), Number(response="6")),
        await by_snapshot(Waits(), HumanResponseEvent(response="later", user_name="Laurie")),
    ]


if __name__ == "__main__":
    print(asyncio.run(main()))
