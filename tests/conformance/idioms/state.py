"""The store: paths, defaults, edits, a typed state, and a Context that is kept from run to run and across processes."""

import asyncio
import json

from pydantic import BaseModel, Field

from tracedflow import Context, Workflow, step
from tracedflow.context import JsonSerializer
from tracedflow.events import Event, StartEvent, StopEvent


class Next(Event):
    pass


class Plain(Workflow):
    @step
    async def write(self, ctx: Context, ev: StartEvent) -> Next:
        await ctx.store.set("some_key.nested", 1)
        await ctx.store.set("list", [{"name": "first"}])
        async with ctx.store.edit_state() as state:
            state.count = state.get("count", 0) + 1
            state["other"] = "item access"
        return Next()

    @step
    async def read(self, ev: Next, ctx: Context) -> StopEvent:
        return StopEvent(
            result=[
                await ctx.store.get("some_key.nested"),
                await ctx.store.get("list.0.name"),
                await ctx.store.get("missing", default=None),
                await ctx.store.get("count"),
                (await ctx.store.get_state()).other,
            ]
        )


class Memory(BaseModel):
    model_config = {"arbitrary_types_allowed": True}

    messages: list[str] = Field(default_factory=list)
    turns: int = Field(default=0)


class Chat(Workflow):
    @step
    async def turn(self, ctx: Context[Memory], ev: StartEvent) -> StopEvent:
        async with ctx.store.edit_state() as state:
            state.turns += 1
            state.messages.append(ev.message)
        state = await ctx.store.get_state()
        return StopEvent(result=f"{state.turns}: {', '.join(state.messages)}")


async def main():
    plain = Plain()
    ctx = Context(plain)
    first = await plain.run(ctx=ctx)
    second = await plain.run(ctx=ctx)

    chat = Chat()
    ctx = Context(chat)
    await chat.run(ctx=ctx, message="hello")
    text = json.dumps(ctx.to_dict(serializer=JsonSerializer()))

    restored = Context.from_dict(Chat(), json.loads(text), serializer=JsonSerializer())
    handler = chat.run(ctx=restored, message="again")
    return first, second, await handler, (await handler.ctx.store.get_state()).turns


if __name__ == "__main__":
    print(asyncio.run(main()))
