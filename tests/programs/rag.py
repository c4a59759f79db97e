"""Retrieval: a question fans out into queries and retrievers, a rerank joins them, and the answer joins that with a profile."""

from __future__ import annotations

import asyncio
from typing import Annotated

from tests.programs.invariants import check, count
from tracedflow import Collect, Context, Event, Limit, StartEvent, StepTimeoutError, StopEvent, Take, Workflow, catch_error, step
from tracedflow.events import StepFailedEvent
from tracedflow.resource import Resource
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_exponential_jitter
from tracedflow.testing import Schedule

CORPUS = {
    "tea": {"d1": 3, "d2": 1},
    "pot": {"d2": 4, "d3": 2},
    "cup": {"d1": 1, "d4": 5},
    "jar": {},
}


class Question(StartEvent):
    text: str
    user: str


class Query(Event):
    word: str


class Hits(Event):
    word: str
    source: str
    scores: dict[str, int]


class Ranked(Event):
    docs: list[str]


class Profile(Event):
    language: str


class Token(Event):
    at: int
    text: str


class Answer(StopEvent):
    text: str
    docs: list[str]


class Index:
    """A vector store that is open for the time of one run."""

    def __init__(self) -> None:
        self.is_open = True
        self.asked: list[tuple[str, str]] = []


opened: list[Index] = []


async def index():
    """Open it, and close it when the run is over."""
    made = Index()
    opened.append(made)
    yield made
    made.is_open = False


class Rag(Workflow[Answer]):
    """Two retrievers take each query; the first hits are streamed while the others come."""

    embedding = Limit("embedding", concurrency=2, per_second=10, burst=2)

    @step
    async def rewrite(self, ev: Question) -> list[Query]:
        return [Query(word=word) for word in ev.text.split()]

    @step
    async def look_up(self, ctx: Context, ev: Question) -> Profile:
        await ctx.store.set("user.name", ev.user)
        return Profile(language={"ada": "en"}.get(ev.user, "fr"))

    @step(num_workers=2)
    async def sparse(self, ev: Query, store: Annotated[Index, Resource(index, scope="run")]) -> Hits | None:
        assert store.is_open
        store.asked.append(("sparse", ev.word))
        found = {doc: score for doc, score in CORPUS[ev.word].items() if score > 2}
        return Hits(word=ev.word, source="sparse", scores=found) if found else None

    @step(limit=embedding, timeout=20, retry_policy=retry_policy(wait=wait_exponential_jitter(initial=1), stop=stop_after_attempt(2)))
    async def dense(self, ctx: Context, ev: Query, store: Annotated[Index, Resource(index, scope="run")]) -> Hits:
        assert store.is_open
        if isinstance(ctx.retry_info().last_exception, StepTimeoutError):
            return Hits(word=ev.word, source="dense (fallback)", scores=CORPUS[ev.word])
        store.asked.append(("dense", ev.word))
        if ev.word == "jar":
            raise LookupError(ev.word)
        await asyncio.sleep(1_000 if ev.word == "pot" else 0.5)
        return Hits(word=ev.word, source="dense", scores=CORPUS[ev.word])

    @catch_error(for_steps=["dense"])
    async def no_hits(self, ev: StepFailedEvent) -> Hits:
        return Hits(word=ev.input_event.word, source="none", scores={})

    @step
    async def preview(self, ctx: Context, first: Annotated[list[Hits], Collect(Take(2))]) -> None:
        await ctx.store.set("previewed", [hits.word for hits in first])

    @step
    def rerank(self, ctx: Context, hits: list[Hits]) -> Ranked:
        total: dict[str, int] = {}
        for each in hits:
            for doc, score in each.scores.items():
                total[doc] = total.get(doc, 0) + score
        ctx.sync.store.set("sources", sorted(each.source for each in hits))
        return Ranked(docs=sorted(total, key=lambda doc: (-total[doc], doc)))

    @step
    async def answer(self, ctx: Context, ranked: Ranked, profile: Profile) -> Answer:
        words = [await ctx.store.get("user.name"), profile.language, *ranked.docs]
        for at, word in enumerate(words):
            ctx.write_event_to_stream(Token(at=at, text=word))
            await asyncio.sleep(0)
        return Answer(text=" ".join(words), docs=ranked.docs)


async def main(schedule: Schedule) -> None:
    opened.clear()
    handler = Rag(middleware=[schedule], telemetry=False).run(text="tea pot cup jar", user="ada")
    streamed = [event.text async for event in handler.stream_events() if isinstance(event, Token)]
    result = await handler
    assert result.text == "ada en d4 d2 d1 d3" == " ".join(streamed)
    assert await handler.ctx.store.get("sources") == ["dense", "dense", "dense (fallback)", "none", "sparse", "sparse", "sparse"]
    assert len(await handler.ctx.store.get("previewed")) == 2
    check(handler, workers={"sparse": 2, "no_hits": 1}, limits=[Rag.embedding])
    tried = count(handler)
    assert tried == {
        "rewrite": 1, "look_up": 1, "sparse": 4, "dense": 6, "no_hits": 1, "preview": 1, "rerank": 1, "answer": 1,
    }  # fmt: skip
    (store,) = opened
    assert not store.is_open
    assert len(store.asked) == 4 + 5, "each query once a retriever, but for one retry that asked again"
