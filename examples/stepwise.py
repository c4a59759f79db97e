"""A run step by step: you see what each step returned, and decide what of it goes on.

`run(stepwise=True)` starts nothing by itself. Each `await handler.run_step()` runs what is ready and hands you the events
that came of it. What you send on takes effect; what you keep does not; and what you change is what the next step gets.

```mermaid
flowchart LR
  start([Order]) --> draft -->|Draft| review
  review -->|TooLong| shorten -->|Draft| review
  review -->|Fits| publish --> stop([StopEvent])
```

`python -m examples.stepwise [TEXT] [--room N]`; on a terminal it asks at each step.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable, Sequence

from examples._kit.cli import NotFoundError, Stage, run_example
from examples._kit.terminal import at_a_terminal, typed
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, WorkflowCancelledByUser, WorkflowHandler, step

QUESTION = "the evening boat leaves from the old pier"  # what is to be shortened


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


async def play(stage: Stage) -> str:
    """Show each step and ask what to do: go on, keep everything back, or go on with another text."""
    ask = typed if stage.arguments.ask else go_on

    async def decide(number: int, events: list[Event]) -> list[Event]:
        for event in events:
            print(f"  {number}. {event!r}", file=sys.stderr)
        answer = (await ask("Enter: go on, x: keep it back, a text: use that. ")).strip()
        if answer == "x":
            return []
        return [event.model_copy(update={"text": answer}) for event in events] if answer else events

    handler = Notice(timeout=None).run(stepwise=True, text=stage.question, room=stage.arguments.room)  # no timeout: a person may think
    stage.handlers.append(handler)  # so that it can be drawn
    await drive(handler, decide)
    try:
        return await handler
    except WorkflowCancelledByUser:
        raise NotFoundError("a result, as everything was kept back and the run was ended") from None


async def go_on(question: str) -> str:
    """Answer as Enter does, where nobody is there to type."""
    return ""


def flags(parser: ArgumentParser) -> None:
    parser.add_argument("--room", type=int, default=25, metavar="N", help="letters that fit on the board (default 25)")
    parser.add_argument("--ask", action="store_true", default=at_a_terminal(), help="ask at each step, also without a terminal")


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv, flags=flags, needs_model=False)


if __name__ == "__main__":
    sys.exit(main())
