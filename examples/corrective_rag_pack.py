"""Retrieval that checks itself: each passage found is graded, and if some do not help, the web is searched as well.

The grades are asked for side by side, one event for each passage, four at a time; a step that takes a list waits for them all.
What does not help is left out, and only then is the question rewritten and searched for on the web. A search that fails is
tried again without asking the model again, as it is a step of its own.

```mermaid
flowchart LR
  start([StartEvent]) -->|documents| ingest --> index([StopEvent: the index])
  start -->|query_str, index| prepare -->|PrepEvent| retrieve -->|RetrieveEvent x n| eval_relevance
  eval_relevance -->|RelevanceEvalEvent x n| extract -->|TextExtractEvent| transform_query
  retrieve -->|"TextExtractEvent: nothing found"| transform_query
  transform_query -->|"QueryEvent: all helped"| query_result --> stop([StopEvent: an Answer])
  transform_query -->|SearchEvent| search -->|QueryEvent| query_result
  search -. "again, after a pause" .-> search
```

`python -m examples.corrective_rag_pack [QUESTION] [--no-search]`. The web is a folder of pages, or the SearXNG server that
`TRACEDFLOW_SEARCH_URL` names. After LlamaIndex's example of the same name.
"""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field

from examples._kit.cli import NotFoundError, Stage, run_example
from examples._kit.model import Model
from examples._kit.retrieve import Chunk, HybridIndex, read_folder
from examples._kit.search import Page, Search, choose_search
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step
from tracedflow.retry_policy import retry_if_exception_type, retry_policy, stop_after_attempt, wait_exponential

QUESTION = "What was the name of the whale in the inner basin?"
RETRIEVED, SEARCHED = 4, 5  # passages of the index, pages of the web

GRADE = """\
Does this passage help to answer the question, wholly or in part? Answer with one word: yes or no.

<passage title="{title}">
{text}
</passage>
<question>{question}</question>"""

REWRITE = """\
Write a query for a web search that would find what the passages lack to answer the question. Name the people and places that
the passages know of. Give the query alone.

{passages}
<question>{question}</question>"""

ANSWER = """\
Answer the question from the passages alone, in one sentence. If they do not hold the answer, write NOT FOUND.

{passages}
<question>{question}</question>"""


class PrepEvent(Event):
    query_str: str
    index: Any  # an `Index`; not in the store, which is for what can be saved


class RetrieveEvent(Event):
    """One passage that was found."""

    rank: int
    node: Chunk


class RelevanceEvalEvent(Event):
    rank: int
    node: Chunk
    helps: bool


class TextExtractEvent(Event):
    relevant: list[Chunk]
    is_enough: bool  # everything that was found helps


class SearchEvent(Event):
    relevant: list[Chunk]
    query: str


class QueryEvent(Event):
    """What the answer is made from."""

    relevant: list[Chunk]
    pages: list[Page] = Field(default_factory=list)


class Answer(BaseModel):
    text: str
    sources: list[str]  # files and addresses that the model was given; none if it found no answer in them

    def __str__(self) -> str:
        return f"{self.text}\nFrom: {', '.join(self.sources)}"


class CorrectiveRAG(Workflow):
    def __init__(self, model: Model, search: Search | None, **options: Any) -> None:
        """`search` may be None: then there is no web, and what the index does not hold is not found."""
        super().__init__(**options)
        self.model = model
        self.web = search

    @step
    async def ingest(self, ev: StartEvent) -> StopEvent | None:
        """Read a folder."""
        documents = ev.get("documents")
        return StopEvent(result=HybridIndex(read_folder(documents))) if documents else None

    @step
    async def prepare(self, ctx: Context, ev: StartEvent) -> PrepEvent | None:
        query_str, index = ev.get("query_str"), ev.get("index")
        if not query_str:
            return None
        if index is None:
            raise ValueError("a question needs an index: run(query_str=..., index=await run(documents=...))")
        await ctx.store.set("query_str", query_str)
        return PrepEvent(query_str=query_str, index=index)

    @step
    async def retrieve(self, ev: PrepEvent) -> list[RetrieveEvent] | TextExtractEvent:
        hits = ev.index.search(ev.query_str, RETRIEVED)
        return [RetrieveEvent(rank=rank, node=hit.chunk) for rank, hit in enumerate(hits)] or TextExtractEvent(relevant=[], is_enough=False)

    @step(num_workers=4)
    async def eval_relevance(self, ctx: Context, ev: RetrieveEvent) -> RelevanceEvalEvent:
        prompt = GRADE.format(title=ev.node.title, text=ev.node.text, question=await ctx.store.get("query_str"))
        verdict = await self.model.complete(prompt, prompt_name="corrective_rag_pack.grade")
        return RelevanceEvalEvent(rank=ev.rank, node=ev.node, helps=says_yes(verdict))

    @step
    async def extract(self, evs: list[RelevanceEvalEvent]) -> TextExtractEvent:
        graded = sorted(evs, key=lambda ev: ev.rank)  # grades come as they are ready
        relevant = [ev.node for ev in graded if ev.helps]
        return TextExtractEvent(relevant=relevant, is_enough=len(relevant) == len(evs))

    @step
    async def transform_query(self, ctx: Context, ev: TextExtractEvent) -> QueryEvent | SearchEvent:
        if ev.is_enough or self.web is None:
            return QueryEvent(relevant=ev.relevant)
        prompt = REWRITE.format(passages=tagged(ev.relevant), question=await ctx.store.get("query_str"))
        query = await self.model.complete(prompt, prompt_name="corrective_rag_pack.rewrite")
        return SearchEvent(relevant=ev.relevant, query=query.strip())

    @step(retry_policy=retry_policy(retry_if_exception_type(OSError), wait_exponential(multiplier=0.1), stop_after_attempt(4)))
    async def search(self, ev: SearchEvent) -> QueryEvent:
        assert self.web is not None
        return QueryEvent(relevant=ev.relevant, pages=await self.web.search(ev.query, SEARCHED))

    @step
    async def query_result(self, ctx: Context, ev: QueryEvent) -> StopEvent:
        passages = f"{tagged(ev.relevant)}\n{tagged(ev.pages)}"
        prompt = ANSWER.format(passages=passages, question=await ctx.store.get("query_str"))
        text = await self.model.complete(prompt, prompt_name="corrective_rag_pack.answer")
        given = dict.fromkeys([node.source for node in ev.relevant] + [page.url for page in ev.pages])
        return StopEvent(result=Answer(text=text, sources=[] if "NOT FOUND" in text else list(given)))


def says_yes(verdict: str) -> bool:
    """Return whether a verdict is a yes. Models put dots, quotes and words around it; what is neither yes nor no is none."""
    words = re.findall(r"[a-z]+", verdict.lower())
    return "yes" in words and "no" not in words


def tagged(passages: Sequence[Chunk | Page]) -> str:
    return "\n".join(f'<passage title="{passage.title}">\n{passage.text}\n</passage>' for passage in passages)


async def play(stage: Stage) -> Answer:
    web = None if stage.arguments.no_search else choose_search(stage.data / "web")
    workflow = CorrectiveRAG(stage.model, web, timeout=60)
    index = await stage.run(workflow, documents=str(stage.data / "handbook"))
    answer: Answer = await stage.run(workflow, query_str=stage.question, index=index)
    if not answer.sources:
        raise NotFoundError(stage.question)
    return answer


def flags(parser: ArgumentParser) -> None:
    parser.add_argument("--no-search", action="store_true", help="do not search the web")


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv, flags=flags)


if __name__ == "__main__":
    sys.exit(main())
