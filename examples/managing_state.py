"""State of a run: free keys and typed models, edits that nobody interrupts, a second run that goes on, saving as JSON.

`ctx.store` belongs to the run. Steps that run at the same time read and write the same store, so whoever reads a
value, computes and writes it back does that in `edit_state()`: inside the block nobody else writes. A Context that is
given to a second run carries the state on, and `to_dict()` makes it data, for a file or another machine.

```mermaid
flowchart LR
  subgraph Till["Till: free keys"]
    T0([Coins]) -->|Coin x n| add -->|Added| close --> T9([StopEvent])
  end
  subgraph Accounts["Accounts: a typed model"]
    A0([Booking]) --> book --> A9([StopEvent])
  end
```

`python -m examples.managing_state [COIN...]`
"""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentParser
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from examples._kit.cli import Stage, run_example
from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step

# Free keys, and many steps at once that change one of them.


class Coins(StartEvent):
    coins: list[int]


class Coin(Event):
    value: int


class Added(Event):
    pass


class Till(Workflow):
    """Add coins to the sum in the store, eight at a time."""

    @step
    async def open(self, ctx: Context, ev: Coins) -> list[Coin]:
        if await ctx.store.get("total", None) is None:  # a till that went on from an earlier run has one
            await ctx.store.set("total", 0)
        return [Coin(value=value) for value in ev.coins]

    @step(num_workers=8)
    async def add(self, ctx: Context, ev: Coin) -> Added:
        async with ctx.store.edit_state() as state:
            seen = state.total
            await asyncio.sleep(0)  # here the other seven would come in between, if the block let them
            state.total = seen + ev.value
        return Added()

    @step
    async def close(self, ctx: Context, evs: list[Added]) -> StopEvent:
        return StopEvent(result=await ctx.store.get("total"))


class CarelessTill(Till):
    """The same without `edit_state`: coins get lost. Do not copy this one."""

    @step(num_workers=8)
    async def add(self, ctx: Context, ev: Coin) -> Added:
        seen = await ctx.store.get("total")
        await asyncio.sleep(0)
        await ctx.store.set("total", seen + ev.value)
        return Added()


# A typed model: every write is validated, and an editor knows the fields.


class Ledger(BaseModel):
    model_config = ConfigDict(validate_assignment=True)

    balance: int = 0  # cents
    entries: list[str] = Field(default_factory=list)


class Booking(StartEvent):
    text: str
    cents: int


class Accounts(Workflow):
    @step
    async def book(self, ctx: Context[Ledger], ev: Booking) -> StopEvent:
        async with ctx.store.edit_state() as ledger:
            ledger.balance += ev.cents
            ledger.entries.append(f"{ev.text}: {ev.cents}")
        return StopEvent(result=await ctx.store.get("balance"))


async def keep_books(bookings: list[Booking]) -> tuple[Ledger, Ledger]:
    """Book each in a run of its own, on one Context; return the ledger, and what a copy loaded from JSON holds."""
    accounts = Accounts()
    ctx: Context[Ledger] = Context(accounts)
    for booking in bookings:
        await accounts.run(ctx=ctx, start_event=booking)
    copy = Context.from_dict(accounts, ctx.to_dict())
    return await ctx.store.get_state(), await copy.store.get_state()


async def play(stage: Stage) -> str:
    """Put coins into a till, into one without a lock, and, in two runs on one Context, into one that goes on."""
    coins = list(stage.arguments.coins)
    total = await stage.run(Till(), coins=coins)
    careless = await CarelessTill().run(coins=coins)
    till = Till()
    ctx = Context(till)
    await till.run(ctx=ctx, coins=coins)
    twice = await till.run(ctx=ctx, coins=coins)
    kept, copy = await keep_books([Booking(text=f"coin {number}", cents=cents) for number, cents in enumerate(coins, start=1)])
    told = {
        "total": total,
        "without a lock": careless,
        "after a second run": twice,
        "ledger": f"{len(kept.entries)} entries, {kept.balance} cents",
        "the same after JSON": kept == copy,
    }
    return "\n".join(f"{name}: {value}" for name, value in told.items())


def flags(parser: ArgumentParser) -> None:
    parser.add_argument("coins", nargs="*", type=int, metavar="COIN", default=range(1, 51), help="their values; by default 1 to 50")


def main(argv: Sequence[str] | None = None) -> int:
    return run_example(play, __doc__, None, argv, flags=flags, needs_model=False)


if __name__ == "__main__":
    sys.exit(main())
