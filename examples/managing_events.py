"""Events by hand: collect two kinds, send several, show progress, ask a person, and look at what the engine does.

Four small workflows, one idea each:

1. `Synthesis`: two steps take the same event, and a third waits for one result of each, in the order it asks for.
2. `Gather`: a step sends several events itself and returns yet another kind; the step that gathers takes both kinds.
3. `Progress`: a step writes to the stream while it works; whoever watches may also see the engine's own events.
4. `NumberPrompt`: a step asks, the caller leaves the stream, answers when there is an answer, and reads on.

```mermaid
flowchart LR
  subgraph Synthesis
    S0([Given]) --> count_words -->|Words| write
    S0 --> count_letters -->|Letters| write --> S9([StopEvent])
  end
  subgraph Gather
    G0([Given]) --> split -->|Half x2| measure -->|Measured| gather --> G9([StopEvent])
    split -->|Announced| gather
  end
  subgraph NumberPrompt
    N0([Given]) --> ask -->|NumberWanted| person{{a person}} -->|NumberGiven| check --> N9([StopEvent])
    check -->|NumberWanted: again| person
  end
```

`python -m examples.managing_events [TEXT] [--answers zero,2]`
"""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentParser
from collections.abc import Sequence

from pydantic import Field

from examples._kit.cli import Stage, run_example
from tracedflow import Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, WorkflowHandler, step

QUESTION = "boats for the island leave at seven"


class Given(StartEvent):
    text: str = Field(pattern=r"\S")  # one word at least


# 1. Collect two kinds.


class Words(Event):
    count: int


class Letters(Event):
    count: int


class Synthesis(Workflow):
    @step
    async def count_words(self, ev: Given) -> Words:
        return Words(count=len(ev.text.split()))

    @step
    async def count_letters(self, ev: Given) -> Letters:
        return Letters(count=sum(letter.isalpha() for letter in ev.text))

    @step
    async def write(self, ctx: Context, ev: Words | Letters) -> StopEvent | None:
        found = ctx.collect_events(ev, [Words, Letters])  # in this order, whichever comes first
        if found is None:
            return None
        words, letters = found
        return StopEvent(result=f"{words.count} words of {letters.count} letters")


# 2. Send several, and something else.


class Half(Event):
    text: str


class Measured(Event):
    length: int


class Announced(Event):
    halves: int


class Gather(Workflow):
    @step
    async def split(self, ctx: Context, ev: Given) -> Half | Announced:
        middle = len(ev.text) // 2
        ctx.send_event(Half(text=ev.text[:middle]))
        ctx.send_event(Half(text=ev.text[middle:]))
        return Announced(halves=2)

    @step
    async def measure(self, ev: Half) -> Measured:
        return Measured(length=len(ev.text))

    @step
    async def gather(self, ctx: Context, ev: Announced | Measured) -> StopEvent | None:
        # `Announced` is none of what is collected: it may come first, last or in between, and changes nothing.
        halves = ctx.collect_events(ev, [Measured] * 2)
        return None if halves is None else StopEvent(result=sum(half.length for half in halves))


# 3. Show progress.


class Reading(Event):
    word: str
    done: float


class Progress(Workflow):
    @step
    async def read(self, ctx: Context, ev: Given) -> StopEvent:
        words = ev.text.split()
        longest = ""
        for number, word in enumerate(words, start=1):
            longest = max(longest, word, key=len)
            ctx.write_event_to_stream(Reading(word=word, done=number / len(words)))
            await asyncio.sleep(0)  # so that who reads the stream may read it now
        return StopEvent(result=longest)


# 4. Ask a person.


class NumberWanted(InputRequiredEvent):
    prefix: str


class NumberGiven(HumanResponseEvent):
    response: str


class NumberPrompt(Workflow):
    """Ask for a number up to that of the words in a text, again if need be, and give the word."""

    @step
    async def ask(self, ctx: Context, ev: Given) -> NumberWanted:
        words = ev.text.split()
        await ctx.store.set("words", words)
        return NumberWanted(prefix=f"Which word, from 1 to {len(words)}?")

    @step
    async def check(self, ctx: Context, ev: NumberGiven) -> NumberWanted | StopEvent:
        words = await ctx.store.get("words")
        given = ev.response.strip()
        if not given.isdecimal() or not 1 <= int(given) <= len(words):
            return NumberWanted(prefix=f"{given!r} is no number from 1 to {len(words)}. Which word?")
        return StopEvent(result=words[int(given) - 1])


# All four, one after the other.


async def play(stage: Stage) -> str:
    """Run the four; answer the last one's questions with those that were given, in turn, and then with 1."""
    text = stage.question
    synthesis = await stage.run(Synthesis(), text=text)
    length = await stage.run(Gather(), text=text)
    progress = Progress().run(text=text)
    async for event in progress.stream_events(expose_internal=True):
        print(f"  {event!r}", file=sys.stderr)
    prompt = NumberPrompt().run(text=text)
    stage.handlers += [progress, prompt]  # so that the last can be drawn
    chosen = await answered(prompt, stage.arguments.answers.split(","))
    return f"synthesis: {synthesis}\nlength: {length}\nlongest: {await progress}\nchosen: {chosen}"


async def answered(handler: WorkflowHandler[str], answers: list[str]) -> str:
    """Answer what a run asks: leave its stream at each question, and come back to it with the answer."""
    for answer in (*answers, "1"):
        async for event in handler.stream_events():  # goes on where the last reader stopped
            if isinstance(event, NumberWanted):
                print(f"  {event.prefix} {answer}", file=sys.stderr)
                break
        else:
            break  # the stream has ended
        handler.ctx.send_event(NumberGiven(response=answer))
    return await handler


def flags(parser: ArgumentParser) -> None:
    parser.add_argument("--answers", default="zero,2", help="what the person answers, with commas between (default: zero,2)")


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv, flags=flags, needs_model=False)


if __name__ == "__main__":
    sys.exit(main())
