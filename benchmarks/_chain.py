"""A chain: one step that returns the event it takes again, against one queue and a task for each event."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tracedflow import Event, StartEvent, StopEvent, Workflow, step

from ._measure import Contest

LENGTH = 10_000
LIMIT = 0.8  # x bare


class Begin(StartEvent):
    """Starts a chain of `length` events."""

    length: int


class Tick(Event):
    """An event of the chain; `left` are still to come."""

    left: int


class Chain(Workflow):
    """One step in a loop."""

    @step
    async def begin(self, ev: Begin) -> Tick:
        """Send the first event."""
        return Tick(left=ev.length)

    @step
    async def turn(self, ev: Tick) -> Tick | StopEvent:
        """Return the next event, or end the run."""
        return Tick(left=ev.left - 1) if ev.left else StopEvent(result="done")


async def _turn(event: Tick) -> Tick | None:
    return Tick(left=event.left - 1) if event.left else None


async def bare_chain(length: int) -> None:
    """Pass the same events through one queue, each handled in a task of its own."""
    queue: asyncio.Queue[Tick] = asyncio.Queue()
    following: Tick | None = Tick(left=length)
    while following is not None:
        queue.put_nowait(following)
        following = await asyncio.create_task(_turn(await queue.get()))


def chain_contest() -> Contest:
    """Return the chain of 10,000 events."""

    async def bare() -> None:
        await bare_chain(LENGTH)

    return Contest(name="chain", items=LENGTH, ours=chain_of(LENGTH), other=bare)


def chain_of(length: int, **options: Any) -> Callable[[], Awaitable[None]]:
    """Return what runs a chain of `length` events; the options are those of the workflow."""
    flow = Chain(timeout=None, **options)

    async def chain() -> None:
        await flow.run(start_event=Begin(length=length))

    return chain
