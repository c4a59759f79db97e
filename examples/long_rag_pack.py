"""Found by a small passage, answered from the long text around it: linked articles are grouped, and a whole group is read.

A small passage is easy to find, but says little; a long text answers more, but resembles no question. So the search goes
over small passages, each knows its group, and the model is given the groups. The index is one SQLite file: what a run gives
is its path, which can be kept, saved and asked from another process.

```mermaid
flowchart LR
  start([StartEvent]) -->|data_dir, index_file| ingest -->|LoadNodeEvent| make_query_engine --> index([StopEvent: the path])
  start -->|query_str, index_file| retrieve -->|LongTextsEvent| query --> stop([StopEvent: an Answer])
```

`python -m examples.long_rag_pack [QUESTION] [--top N] [--no-grouping] [--index FILE]`. After LlamaIndex's example of the same name.
"""

from __future__ import annotations

import re
import sqlite3
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from examples._kit.cli import NotFoundError, Stage, WrongInputError, output_file, run_example
from examples._kit.model import Model
from examples._kit.retrieve import Chunk, HybridIndex, read_folder
from tracedflow import Event, StartEvent, StopEvent, Workflow, step

QUESTION = "Who built the machinery of the lighthouse, and how many kilograms does the town clock weigh?"
SMALL, GROUPED, TOP = 40, 400, 2  # words of a small passage; words of a group at most; groups that are read

ANSWER = """\
Answer each part of the question from the texts alone, a sentence for each part. For a part that they do not hold, write NOT FOUND.

{texts}
<question>{question}</question>"""


@dataclass(frozen=True)
class Article:
    name: str  # of its file
    text: str
    links: tuple[str, ...] = ()  # names of the articles that it says to see also

    @property
    def words(self) -> int:
        return len(self.text.split())


class LoadNodeEvent(Event):
    small_nodes: list[Chunk]
    grouped_nodes: list[list[Article]]
    index_file: Path


class LongTextsEvent(Event):
    query_str: str
    texts: list[tuple[str, str]]  # name of an article, and what the model is given of it


class Answer(BaseModel):
    text: str
    sources: list[str]  # the articles that the model was given; none if they held no part of the answer

    def __str__(self) -> str:
        return f"{self.text}\nFrom: {', '.join(self.sources)}"


class LongRAG(Workflow):
    def __init__(self, model: Model, **options: Any) -> None:
        super().__init__(**options)
        self.model = model

    # Three plain functions: they read and write files, so they run in threads, and other runs go on meanwhile.

    @step
    def ingest(self, ev: StartEvent) -> LoadNodeEvent | None:
        data_dir, index_file = ev.get("data_dir"), ev.get("index_file")
        if not data_dir:
            return None
        if not index_file:
            raise ValueError("an index needs a place: run(data_dir=..., index_file=...)")
        articles = read_articles(Path(data_dir))
        groups = group(articles, limit=ev.get("group_words", GROUPED))
        return LoadNodeEvent(small_nodes=read_folder(data_dir, size=SMALL), grouped_nodes=groups, index_file=Path(index_file))

    @step
    def make_query_engine(self, ev: LoadNodeEvent) -> StopEvent:
        path = HybridIndex(ev.small_nodes).save(ev.index_file)
        rows = [(article.name, number, article.text) for number, articles in enumerate(ev.grouped_nodes) for article in articles]
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("CREATE TABLE grouped (name TEXT PRIMARY KEY, number INTEGER, text TEXT)")
            db.executemany("INSERT INTO grouped VALUES (?, ?, ?)", rows)
        return StopEvent(result=str(path))

    @step
    def retrieve(self, ev: StartEvent) -> LongTextsEvent | None:
        query_str, index_file = ev.get("query_str"), ev.get("index_file")
        if not query_str:
            return None
        if not index_file:
            raise ValueError("a question needs an index: run(query_str=..., index_file=await run(data_dir=..., index_file=...))")
        texts = long_texts(index_file, query_str, ev.get("top", TOP), grouping=ev.get("grouping", True))
        return LongTextsEvent(query_str=query_str, texts=texts)

    @step
    async def query(self, ev: LongTextsEvent) -> StopEvent:
        prompt = ANSWER.format(texts=tagged(ev.texts), question=ev.query_str)
        text = await self.model.complete(prompt, prompt_name="long_rag_pack.answer")
        is_found = bool(text.replace("NOT FOUND", "").strip(" ."))
        return StopEvent(result=Answer(text=text, sources=list(dict.fromkeys(name for name, _ in ev.texts)) if is_found else []))


def read_articles(folder: Path) -> list[Article]:
    found = [(path.name, path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.md"))]
    return [Article(name, text, tuple(re.findall(r"See also: (\S+\.md)", text))) for name, text in found]


def group(articles: Iterable[Article], limit: int) -> list[list[Article]]:
    """Put linked articles together as long as a group has at most `limit` words; those with the fewest links choose first.

    Each article is in one group. The order in which they come changes nothing.
    """
    known = {article.name: article for article in articles}
    groups = {name: [name] for name in known}  # one list for all its members

    def words(name: str) -> int:
        return sum(known[member].words for member in groups[name])

    links = linked(known)
    for name in sorted(known, key=lambda name: (len(links[name]), name)):
        for other in sorted(links[name], key=lambda other: (words(other), other)):
            if groups[other] is not groups[name] and words(name) + words(other) <= limit:
                together = sorted(groups[name] + groups[other])
                groups.update(dict.fromkeys(together, together))
    return [[known[member] for member in members] for name, members in sorted(groups.items()) if name == members[0]]


def linked(articles: Mapping[str, Article]) -> dict[str, set[str]]:
    """Return the articles next to each, whichever of the two names the other."""
    links: dict[str, set[str]] = {name: set() for name in articles}
    for name, article in articles.items():
        for other in set(article.links) & set(articles) - {name}:
            links[name].add(other)
            links[other].add(name)
    return links


def long_texts(index_file: str | Path, query: str, top: int, *, grouping: bool) -> list[tuple[str, str]]:
    """Return the names and texts of the articles of the `top` groups found first; without grouping, the small passages found."""
    hits = [hit.chunk for hit in HybridIndex.load(index_file).search(query, 8 * top)]
    if not grouping:
        return [(chunk.source, chunk.text) for chunk in hits[:top]]
    with closing(sqlite3.connect(f"{Path(index_file).resolve().as_uri()}?mode=ro", uri=True)) as db:
        number_of = dict(db.execute("SELECT name, number FROM grouped"))
        numbers = list(dict.fromkeys(number_of[chunk.source] for chunk in hits))[:top]  # many passages, one group: it counts once
        rows = [db.execute("SELECT name, text FROM grouped WHERE number = ? ORDER BY name", [number]).fetchall() for number in numbers]
    return [row for each in rows for row in each]


def tagged(texts: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f'<text source="{name}">\n{text}\n</text>' for name, text in texts)


async def play(stage: Stage) -> Answer:
    arguments = stage.arguments
    workflow = LongRAG(stage.model, timeout=60)
    with tempfile.TemporaryDirectory() as folder:
        index_file = arguments.index or Path(folder) / "index.db"
        if not index_file.exists():
            await stage.run(workflow, data_dir=str(stage.data / "handbook"), index_file=index_file)
        start = {"query_str": stage.question, "index_file": index_file, "top": arguments.top}
        try:
            answer: Answer = await stage.run(workflow, **start, grouping=not arguments.no_grouping)
        except sqlite3.DatabaseError as error:
            raise WrongInputError(f"{index_file} is no index of this example: {error}") from None
    if not answer.sources:
        raise NotFoundError(stage.question)
    return answer


def flags(parser: ArgumentParser) -> None:
    parser.add_argument("--top", type=int, default=TOP, metavar="N", help=f"groups that are read (default {TOP})")
    parser.add_argument("--no-grouping", action="store_true", help="answer from the small passages themselves")
    parser.add_argument("--index", type=output_file, metavar="FILE", help="is made there; one that is there is asked as it is")


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, QUESTION, argv, flags=flags)


if __name__ == "__main__":
    sys.exit(main())
