"""Reflection: what a model extracts is validated, and what is wrong goes back to it, until it is right or enough was tried.

The prompt asks for JSON of a schema; the validation is pydantic's. Each next prompt holds the wrong answer and the reason why it is
wrong, so that the model can correct it. The run ends with what was found, or with a failure that says what the last problem was:
both have a type, so nobody takes the one for the other. A passage with nothing in it costs no call of a model.

```mermaid
flowchart LR
  start([StartEvent: passage]) --> extract -->|ExtractionDone| validate --> found([StopEvent: BoatCollection])
  validate -->|ValidationErrorEvent| extract
  extract -->|empty, or tried enough| failed([StopEvent: ExtractionFailed])
```

`python -m examples.reflection [PAGE] [--passage TEXT] [--tries N]`: a page of the harbour register, by its number. After
LlamaIndex's "Reflection Workflow for Structured Outputs".
"""

from __future__ import annotations

import json
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from examples._kit.cli import NotFoundError, Stage, run_example
from examples._kit.model import Model
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step

QUESTION = "12"  # the page of the register
TRIES = 3

EXTRACT = """\
Extract every boat from the passage. Answer with one JSON value that fits the schema, and with nothing else: no prose, no fence.

<schema>{schema}</schema>
<passage>
{passage}
</passage>"""

REFLECT = """

You have answered this before, and it cannot be used:
<answer>
{answer}
</answer>
<problem>
{problem}
</problem>
Give the whole answer again, without that mistake."""


class Boat(BaseModel):
    kind: str
    name: str
    length: float  # metres
    number: int


class BoatCollection(BaseModel):
    boats: list[Boat]

    def __str__(self) -> str:
        return "\n".join(f"{boat.number}: {boat.kind} {boat.name}, {boat.length} metres" for boat in self.boats)


class ExtractionFailed(BaseModel):
    """Nothing that can be used: after how many tries, and why."""

    tries: int
    problem: str
    answer: str = ""  # the last

    def __str__(self) -> str:
        return f"{self.problem} (tried {self.tries} times)"


class ExtractionDone(Event):
    output: str
    passage: str


class ValidationErrorEvent(Event):
    error: str
    wrong_output: str
    passage: str


class ReflectionWorkflow(Workflow):
    def __init__(self, model: Model, tries: int = TRIES, **options: Any) -> None:
        super().__init__(**options)
        self.model, self.tries = model, tries

    @step
    async def extract(self, ctx: Context, ev: StartEvent | ValidationErrorEvent) -> StopEvent | ExtractionDone:
        if not ev.passage.strip():
            return StopEvent(result=ExtractionFailed(tries=0, problem="the passage is empty"))
        tried = await ctx.store.get("retries", default=0) if isinstance(ev, ValidationErrorEvent) else 0
        prompt = EXTRACT.format(schema=json.dumps(BoatCollection.model_json_schema()), passage=ev.passage)
        if isinstance(ev, ValidationErrorEvent):
            if tried >= self.tries:
                return StopEvent(result=ExtractionFailed(tries=tried, problem=ev.error, answer=ev.wrong_output))
            prompt += REFLECT.format(answer=ev.wrong_output, problem=ev.error)
        await ctx.store.set("retries", tried + 1)
        return ExtractionDone(output=await self.model.complete(prompt, prompt_name="reflection.extract"), passage=ev.passage)

    @step
    async def validate(  # type: ignore[override] # in this class it is a step; `Workflow.validate` is not used
        self, ev: ExtractionDone
    ) -> StopEvent | ValidationErrorEvent:
        try:
            return StopEvent(result=BoatCollection.model_validate_json(ev.output))
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, each['loc'])) or 'the answer'}: {each['msg']}" for each in error.errors()]
            return ValidationErrorEvent(error="\n".join(problems), wrong_output=ev.output, passage=ev.passage)


async def play(stage: Stage) -> BoatCollection:
    passage = stage.arguments.passage
    if passage is None:
        passage = _page(stage)
    workflow = ReflectionWorkflow(stage.model, stage.arguments.tries, timeout=120)
    result: BoatCollection | ExtractionFailed = await stage.run(workflow, passage=passage)
    if isinstance(result, ExtractionFailed):
        raise NotFoundError(result)
    if not result.boats:
        raise NotFoundError("a boat in the passage")
    return result


def _page(stage: Stage) -> str:
    path = stage.data / "register.txt"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    parts = re.split(r"^Harbour register, page (\d+)\.", text, flags=re.MULTILINE)[1:]
    pages = dict(zip(parts[::2], parts[1::2], strict=True))
    number = re.sub(r"\D", "", stage.question)
    if number not in pages:
        raise NotFoundError(f"page {stage.question!r} of the register, which has {', '.join(pages) or 'none'}")
    return pages[number]


def flags(parser: ArgumentParser) -> None:
    parser.add_argument("--passage", metavar="TEXT", help="extract from this in place of a page")
    parser.add_argument("--tries", type=_count, default=TRIES, metavar="N", help=f"how often the model is asked at most (default {TRIES})")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"must be at least 1, not {text}")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv, flags=flags)


if __name__ == "__main__":
    sys.exit(main())
