"""A run step by step: you see what each step returned, and decide what of it goes on.

`run(stepwise=True)` starts nothing by itself. Each `await handler.run_step()` runs what is ready and hands you the events
that came of it. What you send on takes effect; what you keep does not; and what you change is what the next step gets.

```mermaid
flowchart LR
  start([Order]) --> draft -->|Draft| review
  review -->|TooLong| shorten -->|Draft| review
  review -->|Fits| publish --> stop([StopEvent])
```
"""

from __future__ import annotations

import asyncio
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable, Sequence

from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, WorkflowCancelledByUser, WorkflowHandler, step


class Order(StartEvent):
    text: str
    room: int  # letters that fit on the board


class Draft(Event):
    text: str


class TooLong(Event):
    text: str
    excess: int


class Fits(Event):
    text: str


class Notice(Workflow[str]):
    """Shorten a text, word by word from its end, until it fits on the board."""

    @step
    async def draft(self, ctx: Context, ev: Order) -> Draft:
        await ctx.store.set("room", ev.room)
        return Draft(text=ev.text)

    @step
    async def review(self, ctx: Context, ev: Draft) -> TooLong | Fits:
        excess = len(ev.text) - await ctx.store.get("room")
        return TooLong(text=ev.text, excess=excess) if excess > 0 and " " in ev.text else Fits(text=ev.text)

    @step
    async def shorten(self, ev: TooLong) -> Draft:
        return Draft(text=ev.text.rsplit(maxsplit=1)[0])

    @step
    async def publish(self, ev: Fits) -> StopEvent:
        return StopEvent(result=ev.text)


Decision = Callable[[int, list[Event]], Awaitable[list[Event]]]
"""Is shown the number of the step and what came of it; returns what shall go on."""


async def drive(handler: WorkflowHandler[str], decide: Decision) -> int:
    """Run a stepwise run to its end; return how often there was something to decide. A run of which nothing goes on is ended."""
    steps = 0
    while (events := await handler.run_step()) is not None:
        steps += 1
        chosen = await decide(steps, events)
        for event in chosen:
            handler.ctx.send_event(event)
        if not chosen:
            await handler.cancel_run()
    return steps  # the step that ends the run gives None: there is nothing left to decide


async def show(text: str, room: int, ask: Callable[[str], Awaitable[str]]) -> str:
    """Show each step and ask what to do: go on, keep everything back, or go on with another text."""

    async def decide(number: int, events: list[Event]) -> list[Event]:
        for event in events:
            print(f"  {number}. {event!r}", file=sys.stderr)
        answer = (await ask("Enter: go on, x: keep it back, a text: use that. ")).strip()
        if answer == "x":
            return []
        return [event.model_copy(update={"text": answer}) for event in events] if answer else events

    handler = Notice(timeout=None).run(stepwise=True, text=text, room=room)  # no timeout: a person may think
    await drive(handler, decide)
    return await handler


async def typed(question: str) -> str:
    """Return what is typed. The thread is a daemon, so that Ctrl-C need not wait for a line that never comes."""
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()
    print(question, end="", file=sys.stderr, flush=True)
    threading.Thread(target=lambda: loop.call_soon_threadsafe(line.set_result, sys.stdin.readline()), daemon=True).start()
    return await line


async def go_on(question: str) -> str:
    """Answer as Enter does, where nobody is there to type."""
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m examples.stepwise", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("text", nargs="?", default="the evening boat leaves from the old pier", help="what is to be shortened")
    parser.add_argument("--room", type=int, default=25, help="letters that fit on the board")
    parser.add_argument("--ask", action="store_true", default=sys.stdin.isatty(), help="ask at each step, also without a terminal")
    arguments = parser.parse_args(argv)
    try:
        print(asyncio.run(show(arguments.text, arguments.room, typed if arguments.ask else go_on)))
    except WorkflowCancelledByUser:
        print("Everything was kept back, so the run was ended.", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
