"""A crawler over a small site that is slow, flaky and full of circles: few workers, a visited set, each page once."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel, Field

from tests.programs.invariants import check, count
from tracedflow import Context, Event, Limit, StartEvent, StopEvent, Workflow, catch_error, step
from tracedflow.errors import StepTimeoutError
from tracedflow.events import StepFailedEvent
from tracedflow.retry_policy import retry_if_exception_type, retry_policy, stop_after_attempt, wait_incrementing
from tracedflow.testing import Schedule

SITE = {
    "/": ["/a", "/b", "/c", "/"],
    "/a": ["/b", "/d", "/lost"],
    "/b": ["/a", "/c", "/e", "/f"],
    "/c": ["/", "/slow"],
    "/d": ["/g", "/g"],
    "/e": [],
    "/f": ["/e", "/h"],
    "/g": ["/a"],
    "/h": ["/stuck"],
    "/slow": ["/d"],
    "/stuck": ["/never"],
}
FLAKY = {"/b": 1, "/g": 2}  # page: how often it fails first


class Fetch(Event):
    url: str


class Page(Event):
    url: str
    links: list[str]


class Seen(Event):
    url: str
    links: int


class Frontier(BaseModel):
    visited: set[str] = Field(default_factory=set)
    pending: int = 0
    failed: dict[str, str] = Field(default_factory=dict)


class Server:
    """Counts what is asked of it, and how much of it at once."""

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}
        self.open = 0
        self.most = 0

    async def get(self, url: str) -> list[str]:
        tried = self.asked[url] = self.asked.get(url, 0) + 1
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await asyncio.sleep({"/slow": 4.0, "/stuck": 1_000.0}.get(url, 0.5))
        finally:
            self.open -= 1
        if tried <= FLAKY.get(url, 0):
            raise ConnectionResetError(url)
        if url not in SITE:
            raise LookupError(f"404 {url}")
        return SITE[url]


class Crawler(Workflow):
    """Fetches what the frontier sends, until nothing is pending."""

    polite = Limit("site", concurrency=2)

    def __init__(self, server: Server, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.server = server

    @step
    async def begin(self, ctx: Context[Frontier], ev: StartEvent) -> Fetch:
        async with ctx.store.edit_state() as frontier:
            frontier.visited.add("/")
            frontier.pending = 1
        return Fetch(url="/")

    @step(
        num_workers=3,
        limit=polite,
        timeout=10,
        retry_policy=retry_policy(retry=retry_if_exception_type(ConnectionError), wait=wait_incrementing(1, 1), stop=stop_after_attempt(4)),
    )
    async def fetch(self, ctx: Context, ev: Fetch) -> Page:
        links = await self.server.get(ev.url)
        ctx.measure("links", len(links))
        return Page(url=ev.url, links=links)

    @catch_error(for_steps=["fetch"])
    async def skip(self, ctx: Context[Frontier], ev: StepFailedEvent) -> Page:
        async with ctx.store.edit_state() as frontier:
            frontier.failed[ev.input_event.url] = type(ev.exception).__name__
        return Page(url=ev.input_event.url, links=[])

    @step
    async def extend(self, ctx: Context[Frontier], ev: Page) -> Fetch | StopEvent | None:
        async with ctx.store.edit_state() as frontier:
            new = [url for url in dict.fromkeys(ev.links) if url not in frontier.visited]
            frontier.visited.update(new)
            await asyncio.sleep(0.1)  # others want to write meanwhile
            frontier.pending += len(new) - 1
            is_done = frontier.pending == 0
        for url in new:
            ctx.send_event(Fetch(url=url), step="fetch")
        ctx.write_event_to_stream(Seen(url=ev.url, links=len(new)))
        return StopEvent(result=await ctx.store.get_state()) if is_done else None


async def main(schedule: Schedule) -> None:
    server = Server()
    handler = Crawler(server, middleware=[schedule], telemetry=False, timeout=None).run()
    seen = [event async for event in handler.stream_events() if isinstance(event, Seen)]
    frontier = await handler
    everything = {*SITE, "/lost"}
    assert frontier.visited == everything
    assert frontier.pending == 0
    assert frontier.failed == {"/lost": "LookupError", "/stuck": StepTimeoutError.__name__}
    assert sorted(event.url for event in seen) == sorted(everything), "each page once"
    assert sum(event.links for event in seen) == len(everything) - 1
    assert server.asked == {url: 1 + FLAKY.get(url, 0) for url in everything}
    assert server.most <= 2
    assert server.open == 0
    check(handler, workers={"fetch": 3, "skip": 1}, limits=[Crawler.polite])
    assert count(handler) == {"begin": 1, "fetch": 15, "skip": 2, "extend": 12}
    assert sum(value for record in handler.record for _, value, _ in record.measurements) == sum(
        len(SITE[url]) for url in SITE if url != "/stuck"
    )
