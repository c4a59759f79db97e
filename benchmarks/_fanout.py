"""Fan-out with a join: one event becomes n, each is worked on and suspends once, and all n come together again."""

from __future__ import annotations

import asyncio

from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step

from ._measure import Contest

SIZES = (100, 1_000, 10_000)
MANY_WORKERS = 100_000  # more than any fan-out here has items: no item waits for a slot


class Spread(StartEvent):
    """Starts a fan-out of `count` items."""

    count: int


class Item(Event):
    """One item to work on."""

    number: int


class Done(Event):
    """One item that is finished."""

    number: int


class FanOut(Workflow):
    """Spreads, works with the engine's default number of workers, and joins."""

    expected: list[type[Done]]  # built once: the list is the user's cost, not the engine's

    @step
    async def spread(self, ctx: Context, ev: Spread) -> Item | None:
        """Send every item."""
        for number in range(ev.count):
            ctx.send_event(Item(number=number))
        return None

    @step
    async def work(self, ev: Item) -> Done:
        """Suspend once, as a step that calls something does."""
        await asyncio.sleep(0)
        return Done(number=ev.number)

    @step
    async def join(self, ctx: Context, ev: Done) -> StopEvent | None:
        """End the run when every item is there."""
        found = ctx.collect_events(ev, self.expected)
        return None if found is None else StopEvent(result=len(found))


class WideFanOut(FanOut):
    """The same with a worker for every item."""

    @step(num_workers=MANY_WORKERS)
    async def work(self, ev: Item) -> Done:
        """Suspend once, as a step that calls something does."""
        await asyncio.sleep(0)
        return Done(number=ev.number)


async def bare_fan_out(count: int) -> int:
    """Pass the same events through two queues, with a task for each item and a gather over all."""
    items: asyncio.Queue[Item] = asyncio.Queue()
    done: asyncio.Queue[Done] = asyncio.Queue()

    async def work() -> None:
        item = await items.get()
        await asyncio.sleep(0)
        done.put_nowait(Done(number=item.number))

    for number in range(count):
        items.put_nowait(Item(number=number))
    await asyncio.gather(*(asyncio.create_task(work()) for _ in range(count)))
    return len([done.get_nowait() for _ in range(count)])


def contest_name(kind: str, size: int) -> str:
    """Return the name under which the fan-out of a kind and size is measured."""
    return f"fan-out, {kind}, {size:,}"


KINDS: dict[str, type[FanOut]] = {"default workers": FanOut, "a worker each": WideFanOut}


def fan_out_contests() -> list[Contest]:
    """Return every kind in every size; the small ones are repeated, so that each turn handles about as many items."""
    return [_contest(kind, size) for kind in KINDS for size in SIZES]


def _contest(kind: str, size: int) -> Contest:
    flow = KINDS[kind](timeout=None)
    flow.expected = [Done] * size

    async def ours() -> None:
        joined = await flow.run(start_event=Spread(count=size))
        assert joined == size, f"{joined} of {size} items were joined"

    async def bare() -> None:
        await bare_fan_out(size)

    return Contest(name=contest_name(kind, size), items=size, ours=ours, bare=bare, repeats=max(SIZES) // size // 2 or 1)
