"""A router: the model chooses which query engines fit a question, each chosen one answers, and the answers become one.

The selector sees the engines as numbered descriptions and gives, for each that it chooses, the number and a reason; a number that
there is not is refused. Each choice is an event of its own, so the engines work side by side, each with a span. With one answer there is
nothing to put together, and the summariser is not asked.

```mermaid
flowchart LR
  start([Question]) --> selector -->|QueryEngineSelectionEvent x n| generate_responses
  generate_responses -->|SynthesizeEvent x n| synthesize_responses --> stop([StopEvent: RoutedAnswer])
```

`python -m examples.router_query_engine [QUESTION] [--single]`. After LlamaIndex's "Router Query Engine", where all the engines answer
within one step, and one choice and several have different types.
"""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from examples._kit.cli import NotFoundError, Stage, run_example
from examples._kit.model import Model
from examples._kit.reading import content_words
from examples._kit.retrieve import Chunk, VectorIndex, WordIndex, read_folder
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step

QUESTION = "How many steps does the lighthouse have, and where is Jorun Vask mentioned?"
TOP = 6  # passages that an engine gives to the model
BATCH = 4  # passages in one prompt of the summary

SELECT = """\
Choose {choose} of these tools for the question: those whose description fits it. Give the number of each and, in a few words, the reason.

{tools}
<choose>{choose}</choose>
<question>{question}</question>"""

LEADS = "Sum up these passages, in one sentence for each.\n\n{passages}"
FACT = """\
Answer the question from the passages alone. What they do not hold, leave out; if that is all, write NOT FOUND.

{passages}
{question}"""
MENTIONS = "Quote every sentence of the passages that has this in it. If none has, write NOT FOUND.\n\n{passages}\n{question}"
MERGE = "These are answers to one question from several sources. Make one of them that says nothing twice.\n\n{answers}\n{question}"


class Selection(BaseModel):
    index: int
    reason: str


class Selections(BaseModel):
    selections: list[Selection]


class SelectionError(Exception):
    """The model chose a tool that there is not, or none."""


@dataclass(frozen=True)
class QueryEngineTool:
    name: str
    description: str
    query: Callable[[str], Awaitable[str]]


class Response(BaseModel):
    engine: str
    index: int
    reason: str
    text: str = ""


class RoutedAnswer(BaseModel):
    text: str
    responses: list[Response]  # of each engine that was chosen, in the order of the choice

    def __str__(self) -> str:
        return "\n".join([self.text, *(f"  {each.engine}: {each.reason}" for each in self.responses)])


class Question(StartEvent):
    query: str
    select_multi: bool = True


class QueryEngineSelectionEvent(Event):
    selected: Response  # without its text


class SynthesizeEvent(Event):
    response: Response


class RouterQueryEngine(Workflow):
    def __init__(self, model: Model, tools: Sequence[QueryEngineTool], **options: Any) -> None:
        super().__init__(**options)
        self.model, self.tools = model, tools

    @step
    async def selector(self, ctx: Context, ev: Question) -> list[QueryEngineSelectionEvent]:
        described = "\n".join(f'<tool id="{number}">{tool.description}</tool>' for number, tool in enumerate(self.tools))
        prompt = SELECT.format(choose="all" if ev.select_multi else "one", tools=described, question=ev.query)
        answer = await self.model.structured(Selections, prompt, prompt_name="router_query_engine.select")
        chosen = {each.index: each for each in reversed(answer.selections)}  # the first of those that are the same
        if wrong := [str(index) for index in chosen if not 0 <= index < len(self.tools)]:
            raise SelectionError(f"the model chose tool {', '.join(wrong)}, but there are 0 to {len(self.tools) - 1}")
        if not chosen:
            raise SelectionError("the model chose none of the tools")
        places = list(dict.fromkeys(each.index for each in answer.selections))[: None if ev.select_multi else 1]
        await ctx.store.set("query", ev.query)
        await ctx.store.set("places", places)
        selected = [Response(engine=self.tools[index].name, index=index, reason=chosen[index].reason) for index in places]
        return [QueryEngineSelectionEvent(selected=each) for each in selected]

    @step
    async def generate_responses(self, ctx: Context, ev: QueryEngineSelectionEvent) -> SynthesizeEvent:
        text = await self.tools[ev.selected.index].query(await ctx.store.get("query"))
        return SynthesizeEvent(response=ev.selected.model_copy(update={"text": text}))

    @step
    async def synthesize_responses(self, ctx: Context, ev: SynthesizeEvent) -> StopEvent | None:
        places = await ctx.store.get("places")
        events = ctx.collect_events(ev, [SynthesizeEvent] * len(places))
        if events is None:
            return None
        responses = sorted((event.response for event in events), key=lambda each: places.index(each.index))
        found = [each for each in responses if "NOT FOUND" not in each.text]
        if len(found) <= 1:
            return StopEvent(result=RoutedAnswer(text=found[0].text if found else "NOT FOUND", responses=responses))
        answers = "\n".join(f'<answer engine="{each.engine}">{each.text}</answer>' for each in found)
        prompt = MERGE.format(answers=answers, question=_tagged(await ctx.store.get("query")))
        text = await self.model.complete(prompt, prompt_name="router_query_engine.merge")
        return StopEvent(result=RoutedAnswer(text=text, responses=responses))


# --- three engines over the handbook ---


def engines(model: Model, folder: Path) -> list[QueryEngineTool]:
    chunks = read_folder(folder)
    vectors, words = VectorIndex(chunks), WordIndex(chunks)

    async def ask(prompt: str, name: str, passages: Sequence[Chunk], question: str = "") -> str:
        asked = prompt.format(passages=_numbered(passages), question=_tagged(question))
        return await model.complete(asked, prompt_name=f"router_query_engine.{name}") if passages else "NOT FOUND"

    async def summary(query: str) -> str:
        """Sum up the document that the question names, some passages at a time."""
        asked = set(content_words(query))
        passages = [each for each in chunks if set(content_words(each.title.partition(":")[0])) & asked]
        batches = [passages[first : first + BATCH] for first in range(0, len(passages), BATCH)]
        return " ".join([await ask(LEADS, "leads", batch) for batch in batches]) or "NOT FOUND"

    async def fact(query: str) -> str:
        return await ask(FACT, "fact", [hit.chunk for hit in vectors.search(query, TOP)], query)

    async def mentions(query: str) -> str:
        names = " ".join(re.findall(r"(?<=\s)[A-Z]\w+", query)) or query
        return await ask(MENTIONS, "mentions", [hit.chunk for hit in words.search(names, TOP)], names)

    return [
        QueryEngineTool("summary", "Gives a summary or an overview of one whole document.", summary),
        QueryEngineTool(
            "vector", "Answers a pointed question about a fact: when, who, how many, how much, how high. The one in doubt.", fact
        ),
        QueryEngineTool("keyword", "Lists where a name or a word is mentioned.", mentions),
    ]


def _numbered(passages: Sequence[Chunk]) -> str:
    return "\n".join(f'<passage id="{number}" title="{each.title}">\n{each.text}\n</passage>' for number, each in enumerate(passages, 1))


def _tagged(question: str) -> str:
    return f"<question>{question}</question>"


async def play(stage: Stage) -> RoutedAnswer:
    workflow = RouterQueryEngine(stage.model, engines(stage.model, stage.data / "handbook"), timeout=120)
    try:
        answer: RoutedAnswer = await stage.run(workflow, query=stage.question, select_multi=not stage.arguments.single)
    except SelectionError as error:
        raise NotFoundError(f"an engine for {stage.question!r}: {error}") from None
    if "NOT FOUND" in answer.text:
        raise NotFoundError(stage.question)
    return answer


def flags(parser: ArgumentParser) -> None:
    parser.add_argument("--single", action="store_true", help="choose one engine, though several may fit")


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv, flags=flags)


if __name__ == "__main__":
    sys.exit(main())
