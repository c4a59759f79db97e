"""Word count by map and reduce: nested lists, a sample of the first results, progress in pairs, partitions, a final join."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Annotated

from tests.programs.invariants import check, count
from tracedflow import Collect, Context, Event, StartEvent, StopEvent, Take, Workflow, step
from tracedflow.testing import Schedule

TEXTS = ["to be or not", "to be", "that is", "", "the question or not", "is it"]
PARTITIONS = 3


class Shard(Event):
    number: int
    text: str


class Chunk(Event):
    """Something with words in it."""


class Word(Chunk):
    shard: int
    word: str


class Blank(Chunk):
    shard: int


class Pair(Event):
    word: str
    times: int


class Mapped(Event):
    pairs: dict[str, int]


class Progress(Event):
    shards: int


class Partition(Event):
    number: int
    words: dict[str, int]


class Reduced(Event):
    words: dict[str, int]


class Sampled(Event):
    size: int


class WordCount(Workflow):
    """split > read > pair > combine > shuffle > sum > finish; `sample` and `progress` look on."""

    @step
    async def split(self, ev: StartEvent) -> list[Shard]:
        return [Shard(number=number, text=text) for number, text in enumerate(TEXTS)]

    @step(num_workers=2)
    async def read(self, ev: Shard) -> list[Word | Blank]:
        await asyncio.sleep(0.1)
        words = [Word(shard=ev.number, word=word) for word in ev.text.split()]
        return words or [Blank(shard=ev.number)]

    @step(num_workers=8, accept_event_subclasses=True)
    async def pair(self, ev: Chunk) -> Pair | None:
        return Pair(word=ev.word, times=1) if isinstance(ev, Word) else None

    @step
    async def combine(self, pairs: list[Pair]) -> Mapped:
        total = Counter[str]()
        for each in pairs:
            total[each.word] += each.times
        return Mapped(pairs=dict(total))

    @step
    async def sample(self, ctx: Context, first: Annotated[list[Mapped], Collect(Take(3))]) -> Sampled:
        return Sampled(size=len(first))

    @step
    async def progress(self, ctx: Context, ev: Mapped) -> None:
        done = ctx.collect_events(ev, [Mapped, Mapped], buffer_id="pairs")
        if done is not None:
            ctx.write_event_to_stream(Progress(shards=len(done)))

    @step
    async def shuffle(self, mapped: list[Mapped]) -> list[Partition]:
        parts: list[Counter[str]] = [Counter() for _ in range(PARTITIONS)]
        for each in mapped:
            for word, times in each.pairs.items():
                parts[len(word) % PARTITIONS][word] += times
        return [Partition(number=number, words=dict(part)) for number, part in enumerate(parts)]

    @step
    async def sum_up(self, ev: Partition) -> Reduced:
        await asyncio.sleep(ev.number / 10)
        return Reduced(words=ev.words)

    @step
    async def gather(self, parts: list[Reduced]) -> Reduced:
        return Reduced(words={word: times for part in parts for word, times in part.words.items()})

    @step
    async def finish(self, ctx: Context, counted: Reduced, sampled: Sampled) -> StopEvent:
        return StopEvent(result=(counted.words, sampled.size))


async def main(schedule: Schedule) -> None:
    handler = WordCount(middleware=[schedule], telemetry=False).run()
    shown = [event.shards async for event in handler.stream_events() if isinstance(event, Progress)]
    words, sampled = await handler
    assert words == Counter(word for text in TEXTS for word in text.split())
    assert sampled == 3
    assert shown in ([2] * 2, [2] * 3), "the run may end while the last pair is on its way"
    check(handler, workers={"read": 2, "pair": 8})
    tried = count(handler)
    assert tried.pop("progress", 0) <= 6
    words_in_all = sum(len(text.split()) for text in TEXTS)
    assert tried == {
        "split": 1, "read": 6, "pair": words_in_all + 1, "combine": 6, "sample": 1, "shuffle": 1, "sum_up": 3, "gather": 1, "finish": 1,
    }  # fmt: skip
    events = handler.why().events
    assert events["Pair"].collected == events["Pair"].sent == words_in_all
    assert events["Mapped"].dropped == 0, "what the sample did not need, the shuffle took"
