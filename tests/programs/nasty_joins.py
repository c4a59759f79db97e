"""Joins by hand inside retried steps inside nested lists, with handlers that replace what failed; cut off anywhere."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel, Field

from tests.programs.interrupted import Cut, Handler, lives
from tests.programs.invariants import check
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, catch_error, step
from tracedflow.events import StepFailedEvent
from tracedflow.retry_policy import retry_if_exception_type, retry_policy, stop_after_attempt, wait_fixed
from tracedflow.testing import Schedule

again = retry_policy(retry=retry_if_exception_type((ConnectionError, TimeoutError)), wait=wait_fixed(1), stop=stop_after_attempt(4))


class Group(Event):
    number: int


class Item(Event):
    group: int
    number: int


class Pair(Event):
    numbers: list[int]


class Checked(Event):
    numbers: list[int]


class PairDone(Event):
    numbers: list[int]


class Summed(Event):
    numbers: list[int]


class Tick(Event):
    number: int
    attempt: int


class Notes(BaseModel):
    ticks: dict[str, tuple[int, int]] = Field(default_factory=dict)


class Nasty(Workflow):
    """groups > items > pairs joined by hand > checked > sums of a group > sums of all; ticks go their own way."""

    def __init__(self, schedule: Schedule, cut: Cut) -> None:
        super().__init__(timeout=None, middleware=[schedule, cut], telemetry=False)

    @step
    async def begin(self, ev: StartEvent) -> list[Group]:
        return [Group(number=number) for number in range(5) if number != 1]

    @step(num_workers=2, retry_policy=again)
    async def open(self, ctx: Context[Notes], ev: Group) -> list[Item]:
        if ev.number == 4:
            raise LookupError("no such group")
        if ctx.retry_info().retry_number == 0:
            raise ConnectionError("first try")
        return [Item(group=ev.number, number=10 * ev.number + at) for at in range(ev.number)]

    @step(num_workers=3, timeout=30, retry_policy=again)
    async def pair(self, ctx: Context[Notes], ev: Item) -> list[Pair] | Tick | None:
        tried = ctx.retry_info().retry_number
        ctx.send_event(Tick(number=ev.number, attempt=tried))
        if ev.number == 31:
            raise ValueError("bad item")
        both = ctx.collect_events(ev, [Item, Item], buffer_id="pairs")
        if tried == 0:
            raise ConnectionError("after the join")
        if tried == 1:
            await asyncio.sleep(1_000)  # its timeout strikes after the join, too
        if both is None:
            return None
        return [Pair(numbers=[item.number]) for item in both]

    @step
    async def check_pair(self, ev: Pair) -> Checked:
        if ev.numbers == [20]:
            raise ValueError("bad pair")
        return Checked(numbers=ev.numbers)

    @catch_error(for_steps=["check_pair"])
    async def replace(self, ev: StepFailedEvent) -> Checked:
        return Checked(numbers=ev.input_event.numbers)

    @catch_error(for_steps=["pair"])
    async def single(self, ev: StepFailedEvent) -> PairDone:
        return PairDone(numbers=[ev.input_event.number])

    @catch_error
    async def no_group(self, ev: StepFailedEvent) -> Summed:
        return Summed(numbers=[])

    @step
    async def per_pair(self, found: list[Checked]) -> PairDone:
        return PairDone(numbers=[number for each in found for number in each.numbers])

    @step
    async def per_group(self, done: list[PairDone]) -> Summed:
        return Summed(numbers=[number for each in done for number in each.numbers])

    @step
    async def finish(self, sums: list[Summed]) -> StopEvent:
        return StopEvent(result=sorted(number for each in sums for number in each.numbers))

    @step
    async def tick(self, ctx: Context[Notes], ev: Tick) -> None:
        await asyncio.sleep(0.1)
        async with ctx.store.edit_state() as notes:
            notes.ticks[ctx.idempotency_key] = (ev.number, ev.attempt)


async def main(schedule: Schedule) -> None:
    """Whole, or cut off once or twice, somewhere."""
    await cut_off(schedule, [schedule.random.randint(1, 100) for _ in range(schedule.random.randint(0, 2))])


async def _nobody(handler: Handler) -> None:
    """The world outside takes no part."""


async def cut_off(schedule: Schedule, cuts: list[int]) -> bool:
    """Run it with these cuts; return whether it lived long enough for the first."""
    handlers, result = await lives(lambda cut: Nasty(schedule, cut), StartEvent(), cuts, _nobody)
    assert result == [20, 21, 30, 31, 32], "each item once, whatever failed, and whichever were joined"
    notes = await handlers[-1].ctx.store.get_state()
    ticks = sorted(notes.ticks.values())
    assert len(ticks) == len(set(ticks)), "what an attempt sent is sent once, in all its lives"
    assert [tick for tick in ticks if tick[1] < 2] == sorted([(31, 0), *((n, attempt) for n in (20, 21, 30, 32) for attempt in range(2))])
    check(handlers[-1], workers={"open": 2, "pair": 3, "single": 1, "replace": 1, "no_group": 1}, resumed=len(handlers) > 1)
    return len(handlers) > 1
