"""Extract, transform, load: batches of rows in nested lists, bad rows put aside, a database that fails now and then."""

from __future__ import annotations

import asyncio
from typing import Annotated

from tests.programs.invariants import check, count
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, catch_error, step
from tracedflow.events import StepFailedEvent
from tracedflow.resource import Resource
from tracedflow.retry_policy import retry_if_exception_type, retry_policy, stop_after_attempt, wait_none
from tracedflow.testing import Schedule

FILES = {"mon": ["1", "2", "x", "4"], "tue": [], "wed": ["10", "20"], "thu": ["y", "z"], "fri": None}


class Batch(Event):
    day: str


class Row(Event):
    day: str
    number: int
    text: str


class Loaded(Event):
    value: int


class Rejected(Event):
    why: str


class BatchDone(Event):
    day: str
    total: int
    rows: int


class Unloadable(ValueError):
    """A row that no attempt will make better."""


class Table:
    """A table that refuses the first write of each even value, and keeps what was committed."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.refused: set[int] = set()
        self.commits = self.rollbacks = 0

    def write(self, value: int) -> None:
        if value % 2 == 0 and value not in self.refused:
            self.refused.add(value)
            raise ConnectionError("deadlock")
        self.rows.append(value)


def table() -> Table:
    """Make the table; replaced by each run of the program with its own."""
    return Table()


async def transaction(of: Annotated[Table, Resource(table)]):
    """Commit what an attempt did, or roll it back."""
    kept = len(of.rows)
    try:
        yield of
    except Exception:
        of.rollbacks += 1
        raise
    of.commits += 1
    assert len(of.rows) > kept


class Etl(Workflow):
    """days > rows > loaded rows > a sum for each day > the whole."""

    @step
    async def extract(self, ev: StartEvent) -> list[Batch]:
        return [Batch(day=day) for day in FILES]

    @step(num_workers=2)
    def read(self, ctx: Context, ev: Batch) -> list[Row]:
        rows = FILES[ev.day]
        if rows is None:
            raise FileNotFoundError(ev.day)
        ctx.sync.store.set(f"files.{ev.day}", len(rows))
        return [Row(day=ev.day, number=number, text=text) for number, text in enumerate(rows)]

    @step(retry_policy=retry_policy(retry=retry_if_exception_type(ConnectionError), wait=wait_none(), stop=stop_after_attempt(2)))
    async def load(self, ev: Row, into: Annotated[Table, Resource(transaction, cache=False)]) -> Loaded:
        if not ev.text.isdigit():
            raise Unloadable(f"{ev.day} {ev.number}")
        await asyncio.sleep(0.01)
        into.write(int(ev.text))
        return Loaded(value=int(ev.text))

    @catch_error(for_steps=["load"])
    async def reject(self, ev: StepFailedEvent) -> Rejected:
        return Rejected(why=str(ev.exception))

    @catch_error
    async def give_up_day(self, ctx: Context, ev: StepFailedEvent) -> BatchDone:
        await ctx.store.set("lost", ev.input_event.day)
        return BatchDone(day=ev.input_event.day, total=0, rows=0)

    @step
    async def close_day(self, rows: list[Loaded | Rejected]) -> BatchDone:
        loaded = [row.value for row in rows if isinstance(row, Loaded)]
        return BatchDone(day="", total=sum(loaded), rows=len(rows))

    @step
    async def close(self, ctx: Context, days: list[BatchDone]) -> StopEvent:
        return StopEvent(result=sorted((day.rows, day.total) for day in days))


async def main(schedule: Schedule) -> None:
    mine = Table()
    flow = Etl(middleware=[schedule], telemetry=False)
    with flow.resource_manager.override(table, mine):
        handler = flow.run()
        assert await handler == [(0, 0), (0, 0), (2, 0), (2, 30), (4, 7)]
    assert sorted(mine.rows) == [1, 2, 4, 10, 20], "each row once, whatever was refused"
    assert (mine.commits, mine.rollbacks) == (5, 4 + 3)
    assert await handler.ctx.store.get("files") == {"mon": 4, "tue": 0, "wed": 2, "thu": 2}
    assert await handler.ctx.store.get("lost") == "fri"
    check(handler, workers={"read": 2, "reject": 1, "give_up_day": 1})
    assert count(handler) == {"extract": 1, "read": 5, "load": 12, "reject": 3, "give_up_day": 1, "close_day": 4, "close": 1}
    assert handler.why().events["Loaded"].collected == 5
