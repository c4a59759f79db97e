"""Typed start and stop events, a handler of errors, lists in and out, and a join of two classes."""

import asyncio
from typing import Annotated

from tracedflow import Context, Workflow, catch_error, step
from tracedflow.collect import Collect, Take
from tracedflow.events import Event, StartEvent, StepFailedEvent, StopEvent


class Order(StartEvent):
    names: list[str]
    fail: bool = False


class Receipt(StopEvent):
    lines: list[str]
    total: int


class Item(Event):
    name: str


class Priced(Event):
    name: str
    price: int


class Listed(Event):
    lines: list[str]


class Checked(Event):
    ok: bool


class Shop(Workflow):
    @step
    async def start(self, ctx: Context, ev: Order) -> list[Item] | Checked:
        ctx.send_event(Checked(ok=True))
        return [Item(name=name) for name in ev.names]

    @step
    async def price(self, ev: Item) -> Priced:
        if ev.name == "unknown":
            raise LookupError(ev.name)
        return Priced(name=ev.name, price=len(ev.name))

    @catch_error(for_steps=["price"])
    async def free(self, ev: StepFailedEvent) -> Priced:
        return Priced(name=f"{ev.input_event.name} ({type(ev.exception).__name__})", price=0)

    @step
    async def total(self, ev: list[Priced]) -> Listed:
        return Listed(lines=sorted(f"{each.name} {each.price}" for each in ev))

    @step
    async def close(self, listed: Listed, checked: Checked) -> Receipt:
        return Receipt(lines=listed.lines, total=sum(int(line.split()[-1]) for line in listed.lines) if checked.ok else -1)


class First(Workflow):
    @step
    async def start(self, ev: StartEvent) -> list[Item]:
        return [Item(name=name) for name in ("slow", "fast", "medium")]

    @step(num_workers=3)
    async def race(self, ev: Item) -> Priced:
        await asyncio.sleep({"fast": 0, "medium": 0.01, "slow": 0.5}[ev.name])
        return Priced(name=ev.name, price=1)

    @step
    async def winner(self, ev: Annotated[list[Priced], Collect(Take(1))]) -> StopEvent:
        return StopEvent(result=[each.name for each in ev])


async def main():
    w = Shop()
    receipt = await w.run(names=["pen", "unknown", "book"])
    same = await w.run(start_event=Order(names=["pen"]))
    return receipt.lines, receipt.total, type(same).__name__, same.total, await First().run()


if __name__ == "__main__":
    print(asyncio.run(main()))
