"""An order from the basket to the door, cut off and resumed on the way: nothing is charged, sent or asked twice."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import BaseModel, Field

from tests.programs.interrupted import Cut, lives
from tests.programs.invariants import check
from tracedflow import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Limit,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowDone,
    WorkflowHandler,
    catch_error,
    step,
)
from tracedflow.events import StepFailedEvent
from tracedflow.retry_policy import retry_if_exception_type, retry_policy, stop_after_attempt, wait_fixed
from tracedflow.testing import Schedule

again = retry_policy(retry=retry_if_exception_type(ConnectionError), wait=wait_fixed(5), stop=stop_after_attempt(10))


class Order(StartEvent):
    number: int
    things: list[str]


class Reserve(Event):
    item: str


class Reserved(Event):
    item: str
    missing: bool = False


class Packed(Event):
    things: list[str]


class Confirm(InputRequiredEvent):
    number: int


class Confirmed(HumanResponseEvent):
    number: int
    by: str


class Charge(Event):
    by: str
    amount: int


class Charged(Event):
    receipt: str


class Mail(Event):
    about: str


class Mailed(Event):
    about: str


class Shipped(Event):
    things: list[str]


class Ledger(BaseModel):
    reserved: dict[str, str] = Field(default_factory=dict)
    mails: dict[str, str] = Field(default_factory=dict)


class World:
    """What outlives every process: it knows each thing by its idempotency key."""

    def __init__(self) -> None:
        self.done: dict[str, str] = {}
        self.tries: dict[str, int] = {}
        self.drawn: list[int] = []

    async def do(self, key: str, what: str) -> str:
        tried = self.tries[key] = self.tries.get(key, 0) + 1
        await asyncio.sleep(0.5)
        if tried == 1:
            raise ConnectionError(what)
        self.done.setdefault(key, what)
        return self.done[key]

    def draw(self) -> int:
        self.drawn.append(len(self.drawn))
        return self.drawn[-1]


class Orders(Workflow):
    """reserve each > pack > confirm > charge > ship; two mails on the way; close when all of it is done."""

    desk = Limit("desk", concurrency=2)

    def __init__(self, world: World, schedule: Schedule, cut: Cut) -> None:
        super().__init__(timeout=None, middleware=[schedule, cut], telemetry=False)
        self.world = world

    @step
    async def receive(self, ev: Order) -> list[Reserve]:
        return [Reserve(item=item) for item in ev.things]

    @step(num_workers=2, limit=desk, retry_policy=again)
    async def reserve(self, ctx: Context[Ledger], ev: Reserve) -> Reserved:
        if ev.item == "unicorn":
            raise LookupError(ev.item)
        await self.world.do(ctx.idempotency_key, f"reserve {ev.item}")
        async with ctx.store.edit_state() as ledger:
            ledger.reserved[ctx.idempotency_key] = ev.item
        return Reserved(item=ev.item)

    @catch_error(for_steps=["reserve"])
    async def leave_out(self, ev: StepFailedEvent) -> Reserved:
        return Reserved(item=ev.input_event.item, missing=True)

    @step
    async def pack(self, reserved: list[Reserved]) -> Packed:
        return Packed(things=sorted(each.item for each in reserved if not each.missing))

    @step
    async def confirm(self, ctx: Context[Ledger], ev: Packed) -> Charge | Mail:
        ctx.send_event(Mail(about="received"))
        number = await ctx.once("number", self.world.draw)
        await asyncio.sleep(0.5)
        answer = await ctx.wait_for_event(
            Confirmed, waiter_event=Confirm(number=7), waiter_id="confirm", requirements={"number": 7}, timeout=100_000
        )
        ctx.send_event(Mail(about="confirmed"))
        await asyncio.sleep(0.5)
        assert number == await ctx.once("number", self.world.draw)
        return Charge(by=answer.by, amount=len(ev.things))

    @step(timeout=60, retry_policy=again)
    async def charge(self, ctx: Context, ev: Charge) -> Charged:
        return Charged(receipt=await self.world.do(ctx.idempotency_key, f"charge {ev.by} {ev.amount}"))

    @step(num_workers=1, retry_policy=again)
    async def mail(self, ctx: Context[Ledger], ev: Mail) -> Mailed:
        await self.world.do(ctx.idempotency_key, f"mail {ev.about}")
        async with ctx.store.edit_state() as ledger:
            ledger.mails[ctx.idempotency_key] = ev.about
        return Mailed(about=ev.about)

    @step
    async def ship(self, charged: Charged, packed: Packed) -> Shipped:
        return Shipped(things=[*packed.things, charged.receipt])

    @step
    async def close(self, ctx: Context[Ledger], ev: Mailed | Shipped) -> StopEvent | None:
        done = ctx.collect_events(ev, [Shipped, Mailed, Mailed])
        if done is None:
            return None
        shipped, *mailed = done
        return StopEvent(result=[*shipped.things, *sorted(each.about for each in mailed)])


async def main(schedule: Schedule) -> None:
    """Cut off twice, somewhere."""
    await cut_off(schedule, [schedule.random.randint(1, 80), schedule.random.randint(1, 40)])


async def cut_off(schedule: Schedule, cuts: list[int]) -> bool:
    """Run it with these cuts; return whether it lived long enough for the first."""
    world = World()

    async def customer(handler: WorkflowHandler[Any]) -> None:
        await asyncio.sleep(schedule.random.choice([0, 3, 30]))
        for number in (8, 7):
            try:
                await handler.send_event(Confirmed(number=number, by="card"))
            except WorkflowDone:
                return

    order = Order(number=7, things=["tea", "unicorn", "pot", "cup"])
    handlers, result = await lives(lambda cut: Orders(world, schedule, cut), order, cuts, customer)
    assert result == ["cup", "pot", "tea", "charge card 3", "confirmed", "received"]
    last = handlers[-1]
    assert sorted(world.done.values()) == [
        "charge card 3", "mail confirmed", "mail received", "reserve cup", "reserve pot", "reserve tea",
    ], "each execution kept its key in all its lives, and there was no other"  # fmt: skip
    assert all(key.startswith(f"{last.run_id}/") for key in world.done)
    ledger = await last.ctx.store.get_state()
    assert sorted(ledger.reserved.values()) == ["cup", "pot", "tea"]
    assert sorted(ledger.mails.values()) == ["confirmed", "received"]
    check(last, workers={"reserve": 2, "mail": 1, "leave_out": 1}, limits=[Orders.desk], resumed=len(handlers) > 1)
    return len(handlers) > 1
