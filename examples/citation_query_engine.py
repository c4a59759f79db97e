"""Answers with a number after each claim: found passages are cut small and numbered, and the answer says which it is from.

A step of its own turns what was found into sources, so that a number leads to a few sentences and not to a page. A number
that no source has is taken out of the answer, whoever wrote it.

```mermaid
flowchart LR
  start([StartEvent: query, index]) --> retrieve -->|RetrieverEvent| create_citation_nodes
  create_citation_nodes -->|CreateCitationsEvent| synthesize --> stop([StopEvent: a CitedAnswer])
```

`python -m examples.citation_query_engine [QUESTION]`. After LlamaIndex's example of the same name.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from examples._kit.cli import NotFoundError, Stage, run_example
from examples._kit.model import Model
from examples._kit.retrieve import Chunk, HybridIndex, read_folder, split_text
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step

QUESTION = "When was the lighthouse built, and who founded the library?"
RETRIEVED = 4  # passages
CITATION_SIZE, CITATION_OVERLAP = 30, 8  # words of a source; words that it repeats of the one before

CITE = """\
Answer the question from the numbered sources alone. After each claim, put the number of the source it is from in brackets,
as in: The mill burned down [2]. Cite a source only for what it says. If no source helps, write: NO SOURCE HELPS.

{sources}
<question>{question}</question>"""


class RetrieverEvent(Event):
    nodes: list[Chunk]


class CreateCitationsEvent(Event):
    nodes: list[Chunk]


class CitedAnswer(BaseModel):
    text: str
    sources: dict[int, Chunk]  # those that the text cites, by their numbers

    def __str__(self) -> str:
        lines = [f"[{number}] {chunk.source}, {chunk.title}: {chunk.text}" for number, chunk in self.sources.items()]
        return "\n".join([self.text, *lines])


class CitationQueryEngine(Workflow):
    def __init__(self, model: Model, **options: Any) -> None:
        super().__init__(**options)
        self.model = model

    @step
    async def retrieve(self, ctx: Context, ev: StartEvent) -> RetrieverEvent:
        query, index = ev.get("query"), ev.get("index")
        if not query or index is None:
            raise ValueError("a run needs a question and where to look: run(query=..., index=...)")
        await ctx.store.set("query", query)
        return RetrieverEvent(nodes=[hit.chunk for hit in index.search(query, RETRIEVED)])

    @step
    async def create_citation_nodes(self, ev: RetrieverEvent) -> CreateCitationsEvent:
        """Cut what was found into sources. Their numbers are their places in the list, from 1."""
        return CreateCitationsEvent(
            nodes=[
                Chunk(f"{node.id}.{part}", node.source, node.title, text)
                for node in ev.nodes
                for part, text in enumerate(split_text(node.text, size=CITATION_SIZE, overlap=CITATION_OVERLAP), start=1)
            ]
        )

    @step
    async def synthesize(self, ctx: Context, ev: CreateCitationsEvent) -> StopEvent:
        prompt = CITE.format(sources=numbered(ev.nodes), question=await ctx.store.get("query"))
        answer = await self.model.complete(prompt, prompt_name="citation_query_engine.cite")
        return StopEvent(result=with_sources(answer, ev.nodes))


def numbered(nodes: Sequence[Chunk]) -> str:
    return "\n".join(f'<source id="{n}" title="{node.title}">\n{node.text}\n</source>' for n, node in enumerate(nodes, start=1))


def with_sources(answer: str, nodes: Sequence[Chunk]) -> CitedAnswer:
    """Return an answer with the sources it cites; numbers that no source has are taken out."""
    cited: dict[int, Chunk] = {}

    def known(found: re.Match[str]) -> str:
        numbers = [number for number in map(int, re.findall(r"\d+", found[0])) if 1 <= number <= len(nodes)]
        cited.update((number, nodes[number - 1]) for number in numbers)
        return "".join(f" [{number}]" for number in numbers)

    text = re.sub(r"\s*\[\d+(?:, *\d+)*\]", known, answer)
    return CitedAnswer(text=text, sources=dict(sorted(cited.items())))


async def play(stage: Stage) -> CitedAnswer:
    index = HybridIndex(read_folder(stage.data / "handbook"))
    workflow = CitationQueryEngine(stage.model, timeout=60)
    answer: CitedAnswer = await stage.run(workflow, query=stage.question, index=index)
    if not answer.sources:
        raise NotFoundError(stage.question)
    return answer


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv)


if __name__ == "__main__":
    sys.exit(main())
