"""A trip booked as a saga: each booking once, and if a later one fails for good the earlier ones are undone, last first."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel, Field

from tests.programs.invariants import check, count
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, WorkflowCancelledByUser, catch_error, step
from tracedflow.events import StepFailedEvent
from tracedflow.retry_policy import retry_if_exception_type, retry_policy, stop_after_attempt, wait_fixed
from tracedflow.testing import Schedule

PARTS = ("flight", "hotel", "car", "payment")
again = retry_policy(retry=retry_if_exception_type((ConnectionError, TimeoutError)), wait=wait_fixed(3), stop=stop_after_attempt(3))


class Book(Event):
    part: str


class Undo(Event):
    left: list[str]


class Trip(BaseModel):
    booked: list[str] = Field(default_factory=list)
    undone: list[str] = Field(default_factory=list)


class SoldOut(Exception):
    """No retry helps."""


class Desk:
    """The world outside: it answers by idempotency key, fails at the first try, and loses its answer at the second."""

    def __init__(self, sold_out: str | None) -> None:
        self.sold_out = sold_out
        self.tries: dict[str, int] = {}
        self.open: dict[str, str] = {}  # key: what it holds
        self.log: list[str] = []

    async def book(self, key: str, part: str) -> str:
        tried = self.tries[part] = self.tries.get(part, 0) + 1
        await asyncio.sleep(0.2)
        if tried == 1:
            raise ConnectionError("busy")
        if part == self.sold_out:
            raise SoldOut(part)
        if key not in self.open:
            self.open[key] = part
            self.log.append(f"+{part}")
        if tried == 2:
            await asyncio.sleep(1_000)  # booked, but nobody hears of it
        return key

    async def cancel(self, part: str) -> None:
        tried = self.tries[f"undo {part}"] = self.tries.get(f"undo {part}", 0) + 1
        if tried == 1:
            raise ConnectionError("busy")
        key = next(key for key, held in self.open.items() if held == part)
        del self.open[key]
        self.log.append(f"-{part}")


class Saga(Workflow):
    """One booking after the other; the handler of failures turns round."""

    def __init__(self, desk: Desk, schedule: Schedule) -> None:
        super().__init__(timeout=None, middleware=[schedule], telemetry=False)
        self.desk = desk

    @step
    async def begin(self, ev: StartEvent) -> Book:
        return Book(part=PARTS[0])

    @step(timeout=20, retry_policy=again)
    async def book(self, ctx: Context[Trip], ev: Book) -> Book | StopEvent:
        await self.desk.book(ctx.idempotency_key, ev.part)
        async with ctx.store.edit_state() as trip:
            trip.booked.append(ev.part)
        following = PARTS[len(trip.booked) :]
        return Book(part=following[0]) if following else StopEvent(result="booked")

    @catch_error
    async def turn_round(self, ctx: Context[Trip], ev: StepFailedEvent) -> Undo:
        assert isinstance(ev.exception, SoldOut)
        return Undo(left=(await ctx.store.get_state()).booked)

    @step(retry_policy=again)
    async def undo(self, ctx: Context[Trip], ev: Undo) -> Undo | StopEvent:
        if not ev.left:
            return StopEvent(result="undone")
        *left, part = ev.left
        await self.desk.cancel(part)
        async with ctx.store.edit_state() as trip:
            trip.undone.append(part)
        return Undo(left=left)


async def main(schedule: Schedule) -> None:
    sold_out = schedule.random.choice([None, *PARTS])
    desk = Desk(sold_out)
    handler = Saga(desk, schedule).run()
    booked = PARTS[: PARTS.index(sold_out)] if sold_out else PARTS
    assert await handler == ("undone" if sold_out else "booked")
    trip = await handler.ctx.store.get_state()
    assert trip.booked == list(booked), "each once, though the desk was asked up to three times"
    assert trip.undone == ([] if sold_out is None else list(reversed(booked)))
    assert desk.log == [f"+{part}" for part in trip.booked] + [f"-{part}" for part in trip.undone]
    assert list(desk.open.values()) == (list(booked) if sold_out is None else [])
    check(handler, workers={"turn_round": 1})
    tried = count(handler)
    assert tried["book"] == 3 * len(booked) + (2 if sold_out else 0)
    assert tried.get("undo", 0) == (2 * len(booked) + 1 if sold_out else 0)
    await _cancelled(schedule)


async def _cancelled(schedule: Schedule) -> None:
    """Cancel it at some moment: it ends at once, and what the desk holds is what the state or the retried step knows of."""
    desk = Desk(None)
    handler = Saga(desk, schedule).run()
    await asyncio.sleep(schedule.random.uniform(0, 60))
    await handler.cancel_run()
    assert handler.done()
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    asked = dict(desk.tries)
    await asyncio.sleep(1_000)
    assert desk.tries == asked, "nothing goes on after the end"
    trip = await handler.ctx.store.get_state()
    assert list(desk.open.values())[: len(trip.booked)] == trip.booked
    assert len(desk.open) - len(trip.booked) in (0, 1)
    assert all(record.outcome in ("success", "error", "timeout", "cancelled") for record in handler.record)
