"""Many short runs at once: 1,000 two-step runs, against as many pairs of a queue hop and a task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tracedflow import Event, StartEvent, StopEvent, Workflow, step

from ._measure import Contest, Rounds
from ._report import Figure, against_bare

RUNS = 1_000
MANY_RUNS = 20_000
LIMIT = 4.0  # x bare


class Ask(StartEvent):
    """Starts a short run."""

    number: int


class Half(Event):
    """What the first step gives to the second."""

    number: int


class Short(Workflow):
    """Two steps."""

    @step
    async def first(self, ev: Ask) -> Half:
        """Pass the number on."""
        return Half(number=ev.number)

    @step
    async def second(self, ev: Half) -> StopEvent:
        """End the run with the number."""
        return StopEvent(result=ev.number)


async def _first(event: Ask) -> Half:
    return Half(number=event.number)


async def _second(event: Half) -> StopEvent:
    return StopEvent(result=event.number)


async def _bare_run(number: int) -> int:
    queue: asyncio.Queue[Ask | Half] = asyncio.Queue()
    queue.put_nowait(Ask(number=number))
    ask = await queue.get()
    assert isinstance(ask, Ask)
    queue.put_nowait(await asyncio.create_task(_first(ask)))
    half = await queue.get()
    assert isinstance(half, Half)
    stop = await asyncio.create_task(_second(half))
    return int(stop.result)


def runs_contests(counts: Sequence[int]) -> list[Contest]:
    """Return as many runs that are live at once."""
    return [runs_contest(count) for count in counts]


def runs_contest(count: int) -> Contest:
    """Return `count` runs that are live at once. Each must give its own result."""

    async def bare() -> None:
        await asyncio.gather(*(asyncio.create_task(_bare_run(number)) for number in range(count)))

    return Contest(name=contest_name(count), items=count, ours=runs_of(count), other=bare, is_long=count > RUNS)


def runs_of(count: int, **options: Any) -> Callable[[], Awaitable[None]]:
    """Return what starts `count` runs at once and awaits them; the options are those of the workflow."""
    flow = Short(timeout=None, **options)

    async def runs() -> None:
        numbers = await asyncio.gather(*(flow.run(start_event=Ask(number=number)) for number in range(count)))
        assert numbers == list(range(count)), "a run gave the result of another one"

    return runs


def contest_name(count: int) -> str:
    """Return the name under which `count` runs at once are measured."""
    return f"two-step runs, {count:,} at once"


async def completed(count: int) -> Figure:
    """Return how many of as many runs at once give the right result."""
    flow = Short(timeout=None)
    results = await asyncio.gather(*(flow.run(start_event=Ask(number=number)) for number in range(count)), return_exceptions=True)
    right = sum(result == number for number, result in enumerate(results))
    return Figure(name=f"two-step runs, {count:,} at once, complete", value=right, unit="runs", limit=count, at_least=True)


def runs_figures(measured: dict[str, Rounds]) -> list[Figure]:
    """Return the ratios; that of 20,000 is shown, since there the bare loop too pays for what the collector has to look at."""
    found = [(count, measured.get(contest_name(count))) for count in (RUNS, MANY_RUNS)]
    return [against_bare(contest_name(count), each, LIMIT if count == RUNS else None) for count, each in found if each]
