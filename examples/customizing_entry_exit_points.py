"""Typed entry and exit: a StartEvent of one's own checks what a run is given, a StopEvent of one's own is what it gives.

`run(topic=..., out=...)` and `run(start_event=JokeStart(...))` are the same: the fields are validated before any step
runs. When the last event is a subclass of `StopEvent`, awaiting the run gives that event, with typed fields, and
`Workflow[JokeReport]` tells type checkers so.

```mermaid
flowchart LR
  start([JokeStart]) --> tell -->|Joke| judge -->|Judged| file --> stop([JokeReport])
```

`python -m examples.customizing_entry_exit_points [TOPIC] [--out FILE]`
"""

from __future__ import annotations

import json
import re
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from examples._kit.cli import Stage, WrongInputError, output_file, run_example
from examples._kit.model import Model, choose_model
from tracedflow import Event, StartEvent, StopEvent, Workflow, WorkflowRuntimeError, step
from tracedflow.resource import Resource

QUESTION = "gulls"  # what the joke is about

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

    def __str__(self) -> str:
        return f"{self.joke}\n{self.critique}\nScore: {self.score}"


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


async def play(stage: Stage) -> JokeReport:
    flow = JokeFlow()
    with flow.resource_manager.override(choose_model, stage.model):  # the model of the command line
        try:
            handler = flow.run(topic=stage.question, out=stage.arguments.out)
        except WorkflowRuntimeError as error:  # what was given is no `JokeStart`: nothing has run
            raise WrongInputError(str(error)) from None
        report: JokeReport = await stage.follow(handler)
    return report


def flags(parser: ArgumentParser) -> None:
    parser.add_argument("--out", type=output_file, metavar="FILE", help="a JSON file for the report")


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv, flags=flags)


if __name__ == "__main__":
    sys.exit(main())
