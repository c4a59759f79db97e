"""Answers from documents: one workflow that reads a folder, or finds, reranks and answers, with the answer as it comes.

Two steps take the start event, and each returns None where the event is not for it: with `dirname` the run gives an index,
with `query` and `index` an answer. The reranker asks the model which passages matter, some at a time; the answer goes piece by
piece to the stream of the run, and as a whole, with its sources, to the result.

```mermaid
flowchart LR
  start([StartEvent]) -->|dirname| ingest --> index([StopEvent: the index])
  start -->|query, index| retrieve -->|RetrieverEvent| rerank -->|RerankEvent| synthesize --> stop([StopEvent: an Answer])
  synthesize -.->|Delta| stream[/stream/]
```

`python -m examples.rag [QUESTION]`. After LlamaIndex's example "RAG Workflow with Reranking"; there the result is the stream.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from examples._kit.cli import NotFoundError, Stage, run_example
from examples._kit.model import Model
from examples._kit.retrieve import Chunk, HybridIndex, read_folder
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step

QUESTION = "How many steps does the lighthouse have?"
RETRIEVED, BATCH, KEPT = 8, 5, 3  # passages: found, in one prompt of the reranker, given to the answer

RERANK = """\
Below are numbered passages and a question. Say how well each passage helps to answer the question, from 0 (not at all) to 10.
Write one line for each passage that helps, as `Doc: 2, Relevance: 7`, the best first. Leave out those that do not.

{passages}
<question>{question}</question>"""

ANSWER = """\
Answer the question from the passages alone, in one sentence. If they do not hold the answer, write NOT FOUND.

{passages}
<question>{question}</question>"""


class RetrieverEvent(Event):
    nodes: list[Chunk]


class RerankEvent(Event):
    nodes: list[Chunk]


class Delta(Event):
    """A piece of the answer, for the stream."""

    delta: str


class Answer(BaseModel):
    text: str
    sources: list[str]  # files that the model was given; none if it found no answer in them

    def __str__(self) -> str:
        return f"{self.text}\nFrom: {', '.join(self.sources)}"


class RAGWorkflow(Workflow):
    def __init__(self, model: Model, **options: Any) -> None:
        super().__init__(**options)
        self.model = model

    @step
    async def ingest(self, ev: StartEvent) -> StopEvent | None:
        """Read a folder."""
        dirname = ev.get("dirname")
        return StopEvent(result=HybridIndex(read_folder(dirname))) if dirname else None

    @step
    async def retrieve(self, ctx: Context, ev: StartEvent) -> RetrieverEvent | None:
        query, index = ev.get("query"), ev.get("index")
        if not query:
            return None
        if index is None:
            raise ValueError("a query needs an index: run(query=..., index=await run(dirname=...))")
        await ctx.store.set("query", query)
        return RetrieverEvent(nodes=[hit.chunk for hit in index.search(query, RETRIEVED)])

    @step
    async def rerank(self, ctx: Context, ev: RetrieverEvent) -> RerankEvent:
        query, scores = await ctx.store.get("query"), dict.fromkeys(range(len(ev.nodes)), 0)
        for first in range(0, len(ev.nodes), BATCH):
            prompt = RERANK.format(passages=numbered(ev.nodes[first : first + BATCH]), question=query)
            for number, score in re.findall(
                r"Doc: *(\d+), *Relevance: *(\d+)", await self.model.complete(prompt, prompt_name="rag.rerank")
            ):
                if 0 <= (at := first + int(number) - 1) < len(ev.nodes):  # a model may name a passage that there is not
                    scores[at] = int(score)
        best = sorted((at for at, score in scores.items() if score > 0), key=lambda at: -scores[at])
        return RerankEvent(nodes=[ev.nodes[at] for at in best[:KEPT]])

    @step
    async def synthesize(self, ctx: Context, ev: RerankEvent) -> StopEvent:
        prompt = ANSWER.format(passages=numbered(ev.nodes), question=await ctx.store.get("query"))
        text = ""
        async for piece in self.model.stream(prompt, prompt_name="rag.answer"):
            ctx.write_event_to_stream(Delta(delta=piece))
            text += piece
        found = "NOT FOUND" not in text
        sources = list(dict.fromkeys(node.source for node in ev.nodes)) if found else []
        return StopEvent(result=Answer(text=text, sources=sources))


def numbered(nodes: Sequence[Chunk]) -> str:
    return "\n".join(f'<passage id="{number}" title="{node.title}">\n{node.text}\n</passage>' for number, node in enumerate(nodes, 1))


async def play(stage: Stage) -> Answer:
    workflow = RAGWorkflow(stage.model, timeout=60)
    index = await stage.run(workflow, dirname=str(stage.data / "handbook"))
    answer: Answer = await stage.run(workflow, query=stage.question, index=index)
    if not answer.sources:
        raise NotFoundError(stage.question)
    return answer


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv)


if __name__ == "__main__":
    sys.exit(main())
