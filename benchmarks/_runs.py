"""Many short runs at once: 1,000 two-step runs, against as many pairs of a queue hop and a task."""

from __future__ import annotations

import asyncio

from tracedflow import Event, StartEvent, StopEvent, Workflow, step

from ._measure import Contest

RUNS = 1_000


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


def runs_contest() -> Contest:
    """Return 1,000 runs that are live at once."""
    flow = Short(timeout=None)

    async def ours() -> None:
        numbers = await asyncio.gather(*(flow.run(start_event=Ask(number=number)) for number in range(RUNS)))
        assert numbers == list(range(RUNS)), "a run gave the result of another one"

    async def bare() -> None:
        await asyncio.gather(*(asyncio.create_task(_bare_run(number)) for number in range(RUNS)))

    return Contest(name="concurrent runs", items=RUNS, ours=ours, bare=bare)
