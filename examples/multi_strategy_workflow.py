"""Judges a question, improves it if it is vague, searches in three ways at the same time, and picks the best of the answers.

No way of searching is best for every question: a few passages for one exact fact, many for facts that are scattered, many and then
sorted by the model where other texts talk of the same. So all are tried, side by side. An answer carries the name of its strategy,
and the pick goes by that name: which one arrives first means nothing. A question is improved at most twice.

```mermaid
flowchart LR
  start([StartEvent: query]) --> judge_query -->|BadQueryEvent| improve_query -->|JudgeEvent| judge_query
  judge_query -->|NaiveRAGEvent| naive_rag -->|ResponseEvent| judge --> stop([StopEvent: Picked])
  judge_query -->|HighTopKEvent| high_top_k -->|ResponseEvent| judge
  judge_query -->|RerankEvent| rerank -->|ResponseEvent| judge
```

Before that `IndexWorkflow` cuts the texts into passages and saves the index; it loads it if it was saved after the last change.
`python -m examples.multi_strategy_workflow [QUESTION]`; `--index FILE` keeps the index. After LlamaIndex's example of the same name.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from examples._kit.cli import NotFoundError, Stage, run_example
from examples._kit.model import Model
from examples._kit.retrieve import Chunk, HybridIndex, read_folder
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step

QUESTION = "How is the harbour doing?"
FOLDERS = ("budgets", "letters")
STRATEGIES = ("naive_rag", "high_top_k", "rerank")  # the cheaper one first
FEW, MANY = 5, 20  # passages
MOST_IMPROVEMENTS = 2

JUDGE = """\
A question is good if it says enough to be looked up in the texts below: of what, and of when. Else it is bad.

<summary>
{summary}
</summary>
<question>{question}</question>"""

IMPROVE = """\
This question is too vague ({reason}). Rewrite it so that the texts below can answer it: name a part and years that they have. Write
the question and nothing else.

<summary>
{summary}
</summary>
<question>{question}</question>"""

ANSWER = """\
Answer the question from the passages alone, with the sentences that say it. If they do not hold the answer, write NOT FOUND.

{passages}
<question>{question}</question>"""

RERANK = """\
Which of these passages help to answer the question? Write their numbers, the best first, at most {few}, as in: 7, 2, 11

{passages}
<question>{question}</question>"""

PICK = """\
Which response answers the question best: all that is asked, with the figures? Write its number and nothing else, 0 if none does.

{responses}
<question>{question}</question>"""


class ChunkEvent(Event):
    folder: Path
    file: Path


class IndexWorkflow(Workflow):
    @step
    def load(self, ev: StartEvent) -> ChunkEvent | StopEvent:
        sources = [path for name in FOLDERS for path in (ev.folder / name, *(ev.folder / name).glob("*.md")) if path.exists()]
        if ev.file.exists() and all(path.stat().st_mtime_ns < ev.file.stat().st_mtime_ns for path in sources):
            return StopEvent(result=HybridIndex.load(ev.file))
        return ChunkEvent(folder=ev.folder, file=ev.file)

    @step
    def chunk(self, ev: ChunkEvent) -> StopEvent:
        index = HybridIndex(chunk for name in FOLDERS for chunk in read_folder(ev.folder / name))
        index.save(ev.file)
        return StopEvent(result=index)


class Verdict(BaseModel):
    verdict: Literal["good", "bad"]
    reason: str


class JudgeEvent(Event):
    query: str
    improvements: int


class BadQueryEvent(JudgeEvent):
    reason: str


class NaiveRAGEvent(Event):
    query: str


class HighTopKEvent(Event):
    query: str


class RerankEvent(Event):
    query: str


class ResponseEvent(Event):
    query: str
    response: str
    source: str


class Picked(BaseModel):
    text: str
    source: str | None  # the strategy; None if none found an answer
    query: str  # as it was searched for
    responses: dict[str, str]

    def __str__(self) -> str:
        return f"{self.text}\nBy {self.source}, asked: {self.query}"


class MultiStrategyWorkflow(Workflow):
    def __init__(self, model: Model, index: HybridIndex, **options: Any) -> None:
        super().__init__(**options)
        self.model, self.index, self.summary = model, index, summary_of(index.chunks)

    async def ask(self, name: str, prompt: str) -> str:
        return await self.model.complete(prompt, prompt_name=f"multi_strategy_workflow.{name}")

    @step
    async def judge_query(
        self, ctx: Context, ev: StartEvent | JudgeEvent
    ) -> BadQueryEvent | NaiveRAGEvent | HighTopKEvent | RerankEvent | None:
        improvements = ev.improvements if isinstance(ev, JudgeEvent) else 0
        if improvements < MOST_IMPROVEMENTS:
            prompt = JUDGE.format(summary=self.summary, question=ev.query)
            judged = await self.model.structured(Verdict, prompt, prompt_name="multi_strategy_workflow.judge")
            if judged.verdict == "bad":
                return BadQueryEvent(query=ev.query, improvements=improvements, reason=judged.reason)
        for kind in (NaiveRAGEvent, HighTopKEvent, RerankEvent):
            ctx.send_event(kind(query=ev.query))
        return None

    @step
    async def improve_query(self, ev: BadQueryEvent) -> JudgeEvent:
        improved = await self.ask("improve", IMPROVE.format(summary=self.summary, question=ev.query, reason=ev.reason))
        return JudgeEvent(query=improved.strip(), improvements=ev.improvements + 1)

    @step
    async def naive_rag(self, ev: NaiveRAGEvent) -> ResponseEvent:
        return await self.answer(ev.query, self.find(ev.query, FEW), "naive_rag")

    @step
    async def high_top_k(self, ev: HighTopKEvent) -> ResponseEvent:
        return await self.answer(ev.query, self.find(ev.query, MANY), "high_top_k")

    @step
    async def rerank(self, ev: RerankEvent) -> ResponseEvent:
        found = self.find(ev.query, MANY)
        order = await self.ask("rerank", RERANK.format(few=FEW, passages=numbered(found), question=ev.query))
        best = [int(number) - 1 for number in dict.fromkeys(re.findall(r"\d+", order)) if 1 <= int(number) <= len(found)]
        return await self.answer(ev.query, [found[at] for at in best[:FEW]] or found[:FEW], "rerank")

    def find(self, query: str, top: int) -> list[Chunk]:
        return [hit.chunk for hit in self.index.search(query, top)]

    async def answer(self, query: str, passages: Sequence[Chunk], source: str) -> ResponseEvent:
        response = await self.ask("answer", ANSWER.format(passages=numbered(passages), question=query))
        return ResponseEvent(query=query, response=response, source=source)

    @step
    async def judge(self, ctx: Context, ev: ResponseEvent) -> StopEvent | None:
        arrived = ctx.collect_events(ev, [ResponseEvent] * len(STRATEGIES))
        if arrived is None:
            return None
        by_source = {response.source: response.response for response in arrived}
        responses = {source: by_source[source] for source in STRATEGIES}
        told = "\n".join(f'<response id="{number}">\n{text}\n</response>' for number, text in enumerate(responses.values(), start=1))
        source = named(await self.ask("pick", PICK.format(responses=told, question=ev.query)), responses)
        return StopEvent(
            result=Picked(text=responses[source] if source else "NOT FOUND", source=source, query=ev.query, responses=responses)
        )


def named(pick: str, responses: dict[str, str]) -> str | None:
    """Return the strategy whose number is in the model's pick, None for 0; if it found nothing, or is none, the first that helps."""
    number = int(found[0]) if (found := re.search(r"\d+", pick)) else -1
    helps = [source for source in STRATEGIES if "NOT FOUND" not in responses[source]]
    if number == 0 or not helps:
        return None
    return STRATEGIES[number - 1] if 0 < number <= len(STRATEGIES) and STRATEGIES[number - 1] in helps else helps[0]


def numbered(passages: Sequence[Chunk]) -> str:
    return "\n".join(f'<passage id="{n}" title="{chunk.title}">\n{chunk.text}\n</passage>' for n, chunk in enumerate(passages, start=1))


def summary_of(chunks: Sequence[Chunk]) -> str:
    """Return which texts there are, and what their parts are called."""
    texts, _, parts = zip(*[chunk.title.partition(": ") for chunk in chunks], strict=True) if chunks else ((), (), ())
    return f"Texts: {'; '.join(dict.fromkeys(texts))}\nParts: {'; '.join(filter(None, dict.fromkeys(parts)))}"


async def play(stage: Stage) -> Picked:
    with tempfile.TemporaryDirectory() as folder:
        file = getattr(stage.arguments, "index", None) or Path(folder, "index.db")
        index = await stage.run(IndexWorkflow(timeout=60), folder=stage.data, file=file)
    picked: Picked = await stage.run(MultiStrategyWorkflow(stage.model, index, timeout=60), query=stage.question)
    if picked.source is None:
        raise NotFoundError(stage.question)
    return picked


def index_file(name: str) -> Path:
    """Return the path, unless something else is there, which an index would overwrite."""
    file = Path(name)
    if file.exists() and not (file.is_file() and file.read_bytes().startswith(b"SQLite format 3")):
        raise argparse.ArgumentTypeError(f"{file} is there and is no index: give a new file, or one that this has written")
    return file


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--index", type=index_file, metavar="FILE", help="keep the index here and use it again; else it is made each time")


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv, flags=flags)


if __name__ == "__main__":
    sys.exit(main())
