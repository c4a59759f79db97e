"""How late an unrelated timer of 10 ms is while the loop is full of runs, with the collector's default settings.

These are times of the clock on the wall, since being late is what is asked: a busy machine spoils them, and the idle loop says how much.
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import Any, TypeAlias

from tracedflow import Event, StartEvent, StopEvent, Workflow, step

from ._report import Figure

RUNS = 1_000
PAUSE = 0.2  # seconds a step waits, on average
TICK = 0.01  # seconds
SETTLE, SECONDS, ROUNDS = 0.7, 3.0, 3  # until everything is under way, then of measurement; how often
WAITING_LIMIT, BUSY_LIMIT = 5.0, 15.0  # milliseconds
Condition: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]
RARE = (20_000, 20, 50)  # thresholds of the collector; its defaults are 700, 10, 10


class Begin(StartEvent):
    """Starts a run that does not end by itself."""


class Tick(Event):
    """Its next event."""


class Waiting(Workflow):
    """Each step awaits a timer of its own."""

    @step
    async def begin(self, ev: Begin) -> Tick:
        """Send the first event."""
        return Tick()

    @step
    async def turn(self, ev: Tick) -> Tick | StopEvent:
        """Wait, and go on."""
        await asyncio.sleep(random.uniform(0, 2 * PAUSE))  # all at the same moment would be another question
        return Tick()


class Busy(Workflow):
    """No step ever waits."""

    @step
    async def begin(self, ev: Begin) -> Tick:
        """Send the first event."""
        return Tick()

    @step
    async def turn(self, ev: Tick) -> Tick | StopEvent:
        """Go on."""
        return Tick()


async def _bare_waiting() -> None:
    while True:
        await asyncio.create_task(asyncio.sleep(random.uniform(0, 2 * PAUSE)))


async def _bare_busy() -> None:
    queue: asyncio.Queue[Tick] = asyncio.Queue()
    queue.put_nowait(Tick())
    while True:
        queue.put_nowait(await asyncio.create_task(_pass(await queue.get())))


async def _pass(_: Tick) -> Tick:
    return Tick()


@asynccontextmanager
async def live_runs(flow: Workflow[Any], count: int = RUNS) -> AsyncIterator[None]:
    """Keep as many endless runs alive."""
    handlers = [flow.run(start_event=Begin()) for _ in range(count)]
    try:
        yield
    finally:
        await asyncio.gather(*(handler.cancel_run() for handler in handlers))  # one by one each would wait for a turn of all others
        await asyncio.gather(*handlers, return_exceptions=True)


@asynccontextmanager
async def _live_tasks(work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(work()) for _ in range(RUNS)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def p99_delays(conditions: Mapping[str, Condition]) -> dict[str, float]:
    """Return, under each condition, by how many milliseconds one timer in a hundred is late at least: the median of a few rounds."""
    found: dict[str, list[float]] = {name: [] for name in conditions}
    for _ in range(ROUNDS):
        for name, condition in conditions.items():
            async with condition():
                found[name].append(await _p99_delay())
    return {name: statistics.median(delays) for name, delays in found.items()}


async def _p99_delay() -> float:
    loop = asyncio.get_running_loop()
    delays: list[float] = []
    await asyncio.sleep(SETTLE)
    until = loop.time() + SECONDS
    while (began := loop.time()) < until:
        await asyncio.sleep(TICK)
        delays.append(loop.time() - began - TICK)
    return statistics.quantiles(delays, n=100)[98] * 1e3


@asynccontextmanager
async def _rarely_collected(kind: type[Workflow]) -> AsyncIterator[None]:
    """Set what an application may set, and the library never does."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*RARE)
    try:
        async with _runs_of(kind)():
            yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _runs_of(kind: type[Workflow]) -> Condition:
    return lambda: live_runs(kind(timeout=None))


async def fairness_figures(*, with_settings: bool) -> list[Figure]:
    """Return how late the timer is beside nothing, beside runs that await timers, and beside runs that never wait."""
    random.seed(6)
    conditions: dict[str, Condition] = {
        "idle": nullcontext,
        "waiting": _runs_of(Waiting),
        "waiting tasks": lambda: _live_tasks(_bare_waiting),
        "busy": _runs_of(Busy),
        "busy tasks": lambda: _live_tasks(_bare_busy),
    }
    if with_settings:
        conditions |= {f"rarely {name}": partial(_rarely_collected, kind) for name, kind in (("waiting", Waiting), ("busy", Busy))}
    p99 = await p99_delays(conditions)
    figures = [
        _beside_runs("that await timers", p99["waiting"], p99["waiting tasks"], WAITING_LIMIT),
        _beside_runs("that never wait", p99["busy"], p99["busy tasks"], BUSY_LIMIT),
        Figure(name="idle loop", value=p99["idle"], unit="ms"),
    ]
    if with_settings:
        figures += [
            Figure(name="1,000 runs that await timers, gc frozen and rare", value=p99["rarely waiting"], unit="ms"),
            Figure(name="1,000 runs that never wait, gc frozen and rare", value=p99["rarely busy"], unit="ms"),
        ]
    return figures


def _beside_runs(what: str, ours: float, bare: float, limit: float) -> Figure:
    return Figure(name=f"1,000 runs {what}; other: as many tasks", value=ours, unit="ms", limit=limit, ours=ours, other=bare, each="ms")
