"""What it takes to save a run and to go on with it: against the events that are over, and against those that are live."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, WorkflowHandler, step

from ._measure import median_ratio
from ._report import Figure

HISTORIES, QUICK_HISTORIES = (100, 1_000, 10_000, 100_000), (100, 1_000, 10_000)
LIVE = (10, 100, 1_000, 10_000)
FLAT_LIMIT = 1.3  # after the longest history against the shortest
CALLS = 5  # of a save, in a turn
ROUNDS = 5
LIVE_WITH_HISTORY = 100  # so many waits are open in a run of any history: what a save takes can be told


class Begin(StartEvent):
    """Starts a run that handles `history` events and then waits in `live` places."""

    history: int
    live: int


class Tick(Event):
    """An event of the history."""

    left: int
    live: int


class Open(Event):
    """One place to wait in."""

    number: int


class Answer(Event):
    """What nobody sends."""


class Saved(Workflow):
    """A chain, and then waits that are never answered."""

    parked = 0

    @step
    async def begin(self, ev: Begin) -> Tick:
        """Start the history."""
        return Tick(left=ev.history, live=ev.live)

    @step
    async def turn(self, ctx: Context, ev: Tick) -> Tick | Open | None:
        """Go on, or open the waits."""
        if ev.left:
            return Tick(left=ev.left - 1, live=ev.live)
        for number in range(ev.live):
            ctx.send_event(Open(number=number))
        return None

    @step
    async def wait(self, ctx: Context, ev: Open) -> StopEvent:
        """Wait."""
        self.parked += 1
        await ctx.wait_for_event(Answer, requirements={"number": ev.number}, timeout=None)
        return StopEvent()

    async def until_parked(self, count: int) -> None:
        """Return when as many waits are open."""
        while self.parked < count:  # noqa: ASYNC110 - turns of the loop are what it waits for
            await asyncio.sleep(0)
        await asyncio.sleep(0)


@dataclass(slots=True)
class Costs:
    """Seconds of processor time, a value a round."""

    save: list[float]
    resume: list[float]


async def snapshot_figures(rounds: int, *, quick: bool) -> list[Figure]:
    """Return whether saving and resuming cost more after a long history, and what they cost for each live event."""
    histories = QUICK_HISTORIES if quick else HISTORIES
    by_history = {history: await _costs(history, LIVE_WITH_HISTORY, rounds) for history in histories}
    by_live = {live: await _costs(0, live, rounds) for live in LIVE}
    return [*_flat(by_history), *_grown(by_live)]


async def _costs(history: int, live: int, rounds: int) -> Costs:
    flow = Saved(timeout=None)
    handler = flow.run(start_event=Begin(history=history, live=live))
    await flow.until_parked(live)
    calls = max(1, CALLS * LIVE_WITH_HISTORY // live)
    saved: dict[str, Any] = {}

    def save() -> None:
        for _ in range(calls):
            saved.update(handler.ctx.to_dict())

    saving = [_seconds(save) / calls for _ in range(min(rounds, ROUNDS) + 1)]
    await _cancel(handler)
    resuming = [await _resume(saved, live) for _ in range(min(rounds, ROUNDS) + 1)]
    return Costs(saving[1:], resuming[1:])  # the first one loads what is loaded on first use


def _seconds(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


async def _resume(saved: dict[str, Any], live: int) -> float:
    flow = Saved(timeout=None)
    began = time.process_time()
    handler = flow.run(ctx=Context.from_dict(flow, saved))
    await flow.until_parked(live)
    took = time.process_time() - began
    await _cancel(handler)
    return took


async def _cancel(handler: WorkflowHandler[Any]) -> None:
    await handler.cancel_run()
    await asyncio.gather(handler, return_exceptions=True)


def _flat(costs: dict[int, Costs]) -> list[Figure]:
    few, many = min(costs), max(costs)
    return [
        Figure(
            name=f"{what} after {history:,} events, {LIVE_WITH_HISTORY} live",
            value=median_ratio(_of(costs[history], what), _of(costs[few], what)),
            unit=f"x after {few}",
            limit=FLAT_LIMIT if history == many else None,
            ours=statistics.median(_of(costs[history], what)) * 1e6,
            other=statistics.median(_of(costs[few], what)) * 1e6,
        )
        for what in ("save", "resume")
        for history in costs
        if history != few
    ]


def _grown(costs: dict[int, Costs]) -> list[Figure]:
    return [
        Figure(name=f"{what}, {live:,} live, each", value=statistics.median(_of(costs[live], what)) / live * 1e6, unit="µs")
        for what in ("save", "resume")
        for live in costs
    ]


def _of(costs: Costs, what: str) -> list[float]:
    return costs.save if what == "save" else costs.resume
