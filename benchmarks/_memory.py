"""What runs keep: while they wait, after a million events of one run, and when they are over."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Sequence
from typing import Any

from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step

from ._report import Figure
from ._runs import RUNS, runs_of

PARKED = 10_000
PARKED_LIMIT = 20.0  # kB a run
# A run keeps its last 10,000 records and events: that it does not grow is to be seen after these.
EARLY, LATE, QUICK_LATE = 20_000, 1_000_000, 60_000
GROWTH_LIMIT = 100.0  # kB over all those events
LEFT_LIMIT = 100.0  # kB of 10,000 runs that are over
KB = 1_000


class Begin(StartEvent):
    """Starts a run of `length` events."""

    length: int = 0


class Tick(Event):
    """The event number `done` of the run."""

    done: int


class Answer(Event):
    """What a parked run waits for."""


class Long(Workflow):
    """One step in a loop that looks at the memory twice."""

    early = 0
    late = 0

    @step
    async def begin(self, ev: Begin) -> Tick:
        """Send the first event."""
        self.length = ev.length
        return Tick(done=0)

    @step
    async def turn(self, ev: Tick) -> Tick | StopEvent:
        """Return the next event; measure at the two marks."""
        if ev.done == EARLY:
            self.early = traced_bytes()
        if ev.done == self.length:
            self.late = traced_bytes()
            return StopEvent()
        return Tick(done=ev.done + 1)


class Waiting(Workflow):
    """Waits for an answer, and says that it does."""

    parked = 0

    @step
    async def wait(self, ctx: Context, ev: Begin) -> StopEvent:
        """Park until the answer is there."""
        self.parked += 1
        await ctx.wait_for_event(Answer)
        return StopEvent()


def traced_bytes() -> int:
    """Return what is allocated and cannot be collected."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def memory_figures(*, quick: bool) -> list[Figure]:
    """Return what a parked run takes, what a run keeps of finished events, and what runs leave behind."""
    tracemalloc.start()
    try:
        return [await _parked(), *await _left(), await _growth(QUICK_LATE if quick else LATE)]
    finally:
        tracemalloc.stop()


async def parked_figure() -> list[Figure]:
    """Return what a parked run takes."""
    tracemalloc.start()
    try:
        return [await _parked()]
    finally:
        tracemalloc.stop()


async def _parked() -> Figure:
    await _end(await _park(10))  # what is loaded on first use is not of the runs
    before = traced_bytes()
    handlers = await _park(PARKED)
    each = (traced_bytes() - before) / PARKED / KB
    await _end(handlers)
    return Figure(name=f"a run parked in wait_for_event, of {PARKED:,}", value=each, unit="kB", limit=PARKED_LIMIT)


async def _park(count: int) -> Sequence[Any]:
    flow = Waiting(timeout=None)
    handlers = [flow.run(start_event=Begin()) for _ in range(count)]
    while flow.parked < count:  # noqa: ASYNC110 - an event of each run would be part of what is measured
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)  # the last steps are in their waits now
    return handlers


async def _end(handlers: Sequence[Any]) -> None:
    for handler in handlers:
        handler.ctx.send_event(Answer())
    await asyncio.gather(*handlers)


async def _left() -> list[Figure]:
    await _live_and_end()  # sets and dicts have grown to their size before it counts
    before, objects = traced_bytes(), _counted_objects()
    await _live_and_end()
    left, more = (traced_bytes() - before) / KB, _counted_objects() - objects
    return [
        Figure(name=f"left of {PARKED:,} parked and 1,000 short runs", value=left, unit="kB", limit=LEFT_LIMIT),
        Figure(name="objects of tracedflow that are left of them", value=more, unit="objects", limit=0),
    ]


async def _live_and_end() -> None:
    await _end(await _park(PARKED))
    await runs_of(RUNS)()


def _counted_objects() -> int:
    gc.collect()
    return sum(type(each).__module__.startswith("tracedflow") for each in gc.get_objects())


async def _growth(length: int) -> Figure:
    flow = Long(timeout=None)
    await flow.run(start_event=Begin(length=length))
    grown = (flow.late - flow.early) / KB
    return Figure(name=f"growth from event {EARLY:,} to {length:,} of one run", value=grown, unit="kB", limit=GROWTH_LIMIT)
