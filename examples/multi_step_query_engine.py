"""Answers a question hop by hop: each next question is made from the answers so far, until nothing is left to ask.

"Where did the founder of the ferry company come from?" cannot be looked up: no page says it in one place. The first step asks
for the next question that can be, the second one looks it up, and its answer goes back to the first. The loop is one of events,
so each hop has its spans and can be followed. The model says in a field of its own whether it is done, and a bound ends the
loop if it never is; then the answer says so.

```mermaid
flowchart LR
  start([StartEvent: query]) --> decompose -->|SubQuestion| answer -->|SubAnswer| decompose
  decompose -->|QueryMultiStepEvent| synthesize --> stop([StopEvent: a MultiStepAnswer])
  decompose -.->|SubQuestion| stream[/stream/]
  answer -.->|SubAnswer| stream
```

`python -m examples.multi_step_query_engine [QUESTION] [--num-steps N]`. After LlamaIndex's example "MultiStep Query Engine";
there the loop is hidden in a step, and the word "none" in a question ends it.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from examples._kit.cli import NotFoundError, Stage, WrongInputError, run_example
from examples._kit.model import Model
from examples._kit.retrieve import Chunk, HybridIndex, Index, read_folder
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step

QUESTION = "On which street was the workshop of the teacher of the builder of the machinery of the lighthouse?"
SUMMARY = "the handbook of the town of Karrow: its houses and their history, people, prices, rules"
RETRIEVED, NUM_STEPS = 6, 4  # passages for one hop; hops

DECOMPOSE = """\
A question is answered in steps from {summary}. A step asks one question that can be looked up in one place. Say what to ask
next: put what earlier steps found in the place of the words that stand for it. You are done if the steps hold the answer, or if
the last one found nothing.

{steps}
<question>{question}</question>"""

ANSWER = """\
Answer with one sentence from the passages, with names in the place of he, she and it, and give the numbers of the passages that
say it. If none does, the answer is NOT FOUND.

{passages}
<question>{question}</question>"""

SYNTHESIZE = """\
Answer the question in one sentence from these steps alone. If they do not hold the answer, say what they do hold; if they hold
nothing, write NOT FOUND.

{steps}
<question>{question}</question>"""


class SubQuestion(Event):
    question: str


class SubAnswer(Event):
    question: str
    answer: str


class Hop(BaseModel):
    question: str
    answer: str
    sources: list[Chunk]  # passages that the answer is from


class QueryMultiStepEvent(Event):
    nodes: list[Hop]
    source_nodes: list[Chunk]  # of all hops
    done: bool  # False if the bound ended it


class Next(BaseModel):
    """What the model says is to be done."""

    done: bool
    question: str = ""


class Found(BaseModel):
    """What the model says it found, and where."""

    answer: str
    passages: list[int]


class MultiStepState(BaseModel):
    query: str = ""
    hops: list[Hop] = []


class MultiStepAnswer(BaseModel):
    text: str
    hops: list[Hop]
    sources: list[str]  # files, each once, in the order in which they were used
    done: bool

    def __str__(self) -> str:
        steps = [f"{number}. {hop.question} {hop.answer}" for number, hop in enumerate(self.hops, start=1)]
        early = [] if self.done else [f"Stopped after {len(self.hops)} of the steps that it takes."]
        return "\n".join([self.text, *early, *steps, f"From: {', '.join(self.sources)}"])


class MultiStepQueryEngine(Workflow):
    def __init__(self, model: Model, index: Index, summary: str = SUMMARY, *, num_steps: int = NUM_STEPS, **options: Any) -> None:
        super().__init__(**options)
        self.model, self.index, self.summary, self.num_steps = model, index, summary, num_steps

    @step
    async def decompose(self, ctx: Context[MultiStepState], ev: StartEvent | SubAnswer) -> SubQuestion | QueryMultiStepEvent:
        """Ask for the next question. It is asked for once more than there are steps, to learn whether they were enough."""
        if isinstance(ev, StartEvent):
            if not (query := ev.get("query")):
                raise ValueError("there is nothing to answer: run(query=...)")
            await ctx.store.set_state(MultiStepState(query=query))
        state = await ctx.store.get_state()
        prompt = DECOMPOSE.format(summary=self.summary, steps=as_steps(state.hops), question=state.query)
        following = await self.model.structured(Next, prompt, prompt_name="multi_step_query_engine.decompose")
        if not following.done and len(state.hops) < self.num_steps:
            sub_question = SubQuestion(question=following.question or state.query)
            ctx.write_event_to_stream(sub_question)
            return sub_question
        sources = list(dict.fromkeys(chunk for hop in state.hops for chunk in hop.sources))
        return QueryMultiStepEvent(nodes=state.hops, source_nodes=sources, done=following.done)

    @step
    async def answer(self, ctx: Context[MultiStepState], ev: SubQuestion) -> SubAnswer:
        passages = [hit.chunk for hit in self.index.search(ev.question, RETRIEVED)]
        prompt = ANSWER.format(passages=numbered(passages), question=ev.question)
        found = await self.model.structured(Found, prompt, prompt_name="multi_step_query_engine.answer")
        sources = [passages[number - 1] for number in found.passages if 1 <= number <= len(passages)]
        hop = Hop(question=ev.question, answer=found.answer, sources=sources)
        async with ctx.store.edit_state() as state:
            state.hops.append(hop)
        told = SubAnswer(question=ev.question, answer=found.answer)
        ctx.write_event_to_stream(told)
        return told

    @step
    async def synthesize(self, ctx: Context[MultiStepState], ev: QueryMultiStepEvent) -> StopEvent:
        query = (await ctx.store.get_state()).query
        prompt = SYNTHESIZE.format(steps=as_steps(ev.nodes), question=query)
        text = await self.model.complete(prompt, prompt_name="multi_step_query_engine.synthesize")
        sources = list(dict.fromkeys(chunk.source for chunk in ev.source_nodes))
        return StopEvent(result=MultiStepAnswer(text=text, hops=ev.nodes, sources=sources, done=ev.done))


def as_steps(hops: Sequence[Hop]) -> str:
    return "\n".join(f"<step>\n<asked>{hop.question}</asked>\n<found>{hop.answer}</found>\n</step>" for hop in hops)


def numbered(passages: Sequence[Chunk]) -> str:
    return "\n".join(f'<passage id="{n}" title="{p.title}">\n{p.text}\n</passage>' for n, p in enumerate(passages, start=1))


async def play(stage: Stage) -> MultiStepAnswer:
    if (num_steps := getattr(stage.arguments, "num_steps", NUM_STEPS)) < 1:
        raise WrongInputError("--num-steps has to be at least 1")
    index = HybridIndex(read_folder(stage.data / "handbook"))
    workflow = MultiStepQueryEngine(stage.model, index, num_steps=num_steps, timeout=120)
    answer: MultiStepAnswer = await stage.run(workflow, query=stage.question)
    if "NOT FOUND" in answer.text:
        raise NotFoundError(stage.question)
    return answer


def num_steps_flag(parser: ArgumentParser) -> None:
    parser.add_argument("--num-steps", type=int, default=NUM_STEPS, metavar="N", help=f"the most hops, default {NUM_STEPS}")


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv, flags=num_steps_flag)


if __name__ == "__main__":
    sys.exit(main())
