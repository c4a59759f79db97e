"""Typed entry and exit: a StartEvent of one's own checks what a run is given, a StopEvent of one's own is what it gives.

`run(topic=..., out=...)` and `run(start_event=JokeStart(...))` are the same: the fields are validated before any step
runs. When the last event is a subclass of `StopEvent`, awaiting the run gives that event, with typed fields, and
`Workflow[JokeReport]` tells type checkers so.

```mermaid
flowchart LR
  start([JokeStart]) --> tell -->|Joke| judge -->|Judged| file --> stop([JokeReport])
```
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from examples._kit.model import Model, choose_model, introduce
from tracedflow import Event, StartEvent, StopEvent, Workflow, WorkflowRuntimeError, step
from tracedflow.resource import Resource

TELL = "Write your best joke about {topic}."
JUDGE = "Judge the following joke, and end with your verdict as 'Verdict: N of 10'. This is the following joke: {joke}"


class JokeStart(StartEvent):
    topic: str = Field(min_length=1)
    out: Path | None = None  # a JSON file for the report


class Joke(Event):
    joke: str
    out: Path | None


class Judged(Event):
    joke: str
    critique: str
    out: Path | None


class JokeReport(StopEvent):
    joke: str
    critique: str
    score: int | None = Field(ge=0, le=10)  # None: the critique gave none


class JokeFlow(Workflow[JokeReport]):
    @step
    async def tell(self, ev: JokeStart, model: Annotated[Model, Resource(choose_model)]) -> Joke:
        return Joke(joke=await model.complete(TELL.format(topic=ev.topic)), out=ev.out)

    @step
    async def judge(self, ev: Joke, model: Annotated[Model, Resource(choose_model)]) -> Judged:
        return Judged(joke=ev.joke, critique=await model.complete(JUDGE.format(joke=ev.joke)), out=ev.out)

    @step
    def file(self, ev: Judged) -> JokeReport:  # a plain function: it runs in a thread, and may block
        found = re.search(r"[Vv]erdict: *(10|\d) of 10", ev.critique)
        report = JokeReport(joke=ev.joke, critique=ev.critique, score=int(found[1]) if found else None)
        if ev.out is not None:
            ev.out.write_text(json.dumps(report.model_dump(), indent=2) + "\n", encoding="utf-8")
        return report


async def show(topic: str, out: Path | None) -> JokeReport:
    return await JokeFlow().run(topic=topic, out=out)


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m examples.customizing_entry_exit_points", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("topic", nargs="?", default="gulls")
    parser.add_argument("--out", type=Path, help="a JSON file for the report")
    arguments = parser.parse_args(argv)
    introduce(choose_model())
    try:
        report = asyncio.run(show(arguments.topic, arguments.out))
    except (WorkflowRuntimeError, OSError) as error:  # what was given is no start, or no place for a file
        parser.error(str(error))
    print(report.joke, report.critique, f"Score: {report.score}", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
