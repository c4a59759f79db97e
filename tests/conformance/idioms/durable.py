"""A long run is saved after each part that it shows, and a later process goes on from the last saved state."""

import asyncio
import json
import tempfile
from pathlib import Path

from tracedflow import Context, Workflow, step
from tracedflow.events import Event, StartEvent, StopEvent

WORKED: list[int] = []


class Chapter(Event):
    number: int


class ChapterDone(Event):
    number: int


class Book(Workflow):
    crash_at = 0

    @step
    async def write(self, ctx: Context, ev: StartEvent | Chapter) -> Chapter | StopEvent:
        number = 1 if isinstance(ev, StartEvent) else ev.number
        if number == self.crash_at:
            raise KeyboardInterrupt
        WORKED.append(number)
        async with ctx.store.edit_state() as state:
            state.chapters = [*state.get("chapters", []), f"chapter {number}"]
        ctx.write_event_to_stream(ChapterDone(number=number))
        await asyncio.sleep(0.01)
        if number == 3:
            return StopEvent(result=await ctx.store.get("chapters"))
        return Chapter(number=number + 1)


async def first_life(file):
    workflow = Book()
    workflow.crash_at = 3
    handler = workflow.run()
    async for _ in handler.stream_events():
        if not handler.is_done():
            file.write_text(json.dumps(handler.ctx.to_dict()))
    try:
        await handler
    except KeyboardInterrupt:
        return "crashed"


async def second_life(file):
    workflow = Book()
    ctx = Context.from_dict(workflow, json.loads(file.read_text()))
    assert ctx.is_running
    return await workflow.run(ctx=ctx)


async def main():
    WORKED.clear()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "book.json"
        return await first_life(file), (await second_life(file))[-1], WORKED[0], WORKED[-1]


if __name__ == "__main__":
    print(asyncio.run(main()))
