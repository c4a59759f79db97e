"""Splits a question, gives each part to an agent that is a workflow of its own, and combines what the agents found.

How many parts there are is known only at run time: the first step sends as many events, the last one collects as many
answers. Answers arrive in any order, so each carries the number of its question. An agent is a nested workflow, that of the
example `react_agent`: its spans hang under the step that started it, and it ends with its parent. A part without an answer stays
without one: for a year that has no budget book nothing is taken from the book of another. A question that is not split goes to
one agent as it is.

```mermaid
flowchart LR
  start([StartEvent: query]) --> query ==>|QueryEvent, one a part| sub_question
  sub_question ==>|AnswerEvent| combine_answers --> stop([StopEvent: Combined])
  sub_question -.->|runs| agent
  subgraph agent [ReActAgent]
    direction LR
    begin([StartEvent: input]) --> think["thinks, searches a book, thinks"] --> found([StopEvent: an AgentAnswer])
  end
```

`python -m examples.sub_question_query_engine [QUESTION]`; `--keep-going` counts an agent that fails as one that found nothing.
After LlamaIndex's example "Sub Question Query Engine as a workflow".
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field

from examples._kit.cli import NotFoundError, Stage, run_example
from examples._kit.model import Model
from examples._kit.tools import budget_tools
from examples.react_agent import AgentAnswer, ReActAgent
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step

QUESTION = "How did the total spending of Karrow change from 2016 to 2023?"
MOST_PARTS = 12  # of a question

SPLIT = """\
There are budget books of a town, one for each year. Split the question into questions that one book alone can answer: one for
each year that it is about, also where you do not know whether there is a book. Give none if it is about no year in particular.

<question>{question}</question>"""

ASK = "{question}? Take the book of the year that is asked, and no other: if there is none, or it does not say, it is NOT FOUND."

COMBINE = """\
Answer the question from the answers to its parts, in one or two sentences. Compare the first with the last, and say for
which parts there is NOT FOUND.

{parts}
<question>{question}</question>"""


class SubQuestions(BaseModel):
    questions: list[str] = Field(max_length=MOST_PARTS)


class QueryEvent(Event):
    number: int
    question: str


class AnswerEvent(Event):
    number: int
    question: str
    answer: str | None
    books: list[str]
    problem: str = ""


class Combined(BaseModel):
    text: str
    parts: list[AnswerEvent]  # in the order of the questions

    def __str__(self) -> str:
        return "\n".join([self.text, *(f"- {part.question} {part.answer or part.problem or 'unknown'}" for part in self.parts)])


class NoAnswerError(Exception):
    """An agent used up its turns."""


class SubQuestionQueryEngine(Workflow):
    def __init__(self, model: Model, agent: Workflow, *, keep_going: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.model, self.agent, self.keep_going = model, agent, keep_going

    @step
    async def query(self, ctx: Context, ev: StartEvent) -> QueryEvent | None:
        split = await self.model.structured(SubQuestions, SPLIT.format(question=ev.query), prompt_name="sub_question_query_engine.split")
        questions = split.questions or [ev.query]  # with nothing to collect, a run would never end
        await ctx.store.set("query", ev.query)
        await ctx.store.set("parts", len(questions))
        for number, question in enumerate(questions):
            ctx.send_event(QueryEvent(number=number, question=question))
        return None

    @step
    async def sub_question(self, ev: QueryEvent) -> AnswerEvent:
        told: dict[str, Any] = {"number": ev.number, "question": ev.question}
        try:
            found = await self.ask_agent(ev.question)
        except Exception as error:
            if not self.keep_going:
                raise
            return AnswerEvent(**told, answer=None, books=[], problem=f"failed: {error}")
        books = list(dict.fromkeys(source.tool for source in found.sources))
        return AnswerEvent(**told, answer=None if "NOT FOUND" in found.response else found.response, books=books)

    async def ask_agent(self, question: str) -> AgentAnswer:
        found: AgentAnswer = await self.agent.run(input=ASK.format(question=question.rstrip(" ?")))
        if not found.finished:
            raise NoAnswerError(f"{question} {found.response}")
        return found

    @step
    async def combine_answers(self, ctx: Context, ev: AnswerEvent) -> StopEvent | None:
        arrived = ctx.collect_events(ev, [AnswerEvent] * await ctx.store.get("parts"))
        if arrived is None:
            return None
        parts = sorted(arrived, key=lambda part: part.number)
        if len(parts) == 1:
            return StopEvent(result=Combined(text=parts[0].answer or "NOT FOUND", parts=parts))
        told = "\n".join(f'<part id="{p.number + 1}">\n{p.question}\n{p.answer or "NOT FOUND"}\n</part>' for p in parts)
        prompt = COMBINE.format(parts=told, question=await ctx.store.get("query"))
        text = await self.model.complete(prompt, prompt_name="sub_question_query_engine.combine")
        return StopEvent(result=Combined(text=text, parts=parts))


async def play(stage: Stage) -> Combined:
    agent = ReActAgent(stage.model, budget_tools(stage.data), timeout=30)
    engine = SubQuestionQueryEngine(stage.model, agent, keep_going=getattr(stage.arguments, "keep_going", False), timeout=60)
    combined: Combined = await stage.run(engine, query=stage.question)
    if not any(part.answer for part in combined.parts):
        problems = {part.problem for part in combined.parts if part.problem}
        raise NotFoundError("; ".join([stage.question, *sorted(problems)]))
    return combined


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep-going", action="store_true", help="an agent that fails counts as one that found nothing")


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv, flags=flags)


if __name__ == "__main__":
    sys.exit(main())
