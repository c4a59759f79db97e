"""Fan-out with a join: one event becomes n, each is worked on and suspends once, and all n come together again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step

from ._measure import Contest, Rounds, median_ratio
from ._report import Figure, against_bare

SIZES = (100, 1_000, 10_000)
LARGE = 100_000  # in a process of its own: what it leaves behind in memory makes the others slower, the larger ones most
LIMIT = 2.0  # x bare
GROWTH_LIMIT = 1.3  # an item of 10,000 against an item of 100
MANY_WORKERS = 100_000  # as many as the widest fan-out here has items: no item waits for a slot


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


class ListFanOut(Workflow):
    """The same by a list that is returned and a list that is taken."""

    @step
    async def spread(self, ev: Spread) -> list[Item]:
        """Return every item."""
        return [Item(number=number) for number in range(ev.count)]

    @step
    async def work(self, ev: Item) -> Done:
        """Suspend once, as a step that calls something does."""
        await asyncio.sleep(0)
        return Done(number=ev.number)

    @step
    async def join(self, found: list[Done]) -> StopEvent:
        """End the run when every item is there."""
        return StopEvent(result=len(found))


class WideFanOut(FanOut):
    """Joins by `collect_events`, with a worker for every item."""

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


WIDE = "a worker each"  # shown beside the two ways of joining that are held; no program needs 100,000 workers at once
KINDS: dict[str, type[Workflow]] = {"collect_events": FanOut, "list[E]": ListFanOut, WIDE: WideFanOut}


def fan_out_contests(sizes: Sequence[int]) -> list[Contest]:
    """Return every kind in every size; the small ones are repeated, so that each turn handles about as many items."""
    return [fan_out_contest(kind, size) for kind in KINDS for size in sizes if kind != WIDE or size < LARGE]


def fan_out_contest(kind: str, size: int) -> Contest:
    """Return one kind in one size."""

    async def bare() -> None:
        await bare_fan_out(size)

    repeats = max(SIZES) // size // 2 or 1
    ours = fan_out_of(kind, size)
    return Contest(name=contest_name(kind, size), items=size, ours=ours, other=bare, repeats=repeats, is_long=size == LARGE)


def fan_out_of(kind: str, size: int, **options: Any) -> Callable[[], Awaitable[None]]:
    """Return what fans out once; the options are those of the workflow."""
    flow = KINDS[kind](timeout=None, **options)
    if isinstance(flow, FanOut):
        flow.expected = [Done] * size

    async def fan_out() -> None:
        joined = await flow.run(start_event=Spread(count=size))
        assert joined == size, f"{joined} of {size} items were joined"

    return fan_out


def fan_out_figures(measured: dict[str, Rounds]) -> list[Figure]:
    """Return every ratio, and for each kind whether an item of many costs more than one of few."""
    figures: list[Figure] = []
    growth: list[Figure] = []
    for kind in KINDS:
        sizes = {size: measured[contest_name(kind, size)] for size in (*SIZES, LARGE) if contest_name(kind, size) in measured}
        limit = None if kind == WIDE else LIMIT
        figures += [against_bare(contest_name(kind, size), found, limit) for size, found in sizes.items()]
        if sizes.keys() >= set(SIZES):
            growth.append(_growth(kind, sizes))
    return figures + growth


def _growth(kind: str, measured: dict[int, Rounds]) -> Figure:
    few, many = ([turn.cpu for turn in measured[size].ours] for size in (min(SIZES), max(SIZES)))
    return Figure(
        name=f"fan-out, {kind}, an item of {max(SIZES):,}",
        value=median_ratio(many, few),
        unit=f"x one of {min(SIZES)}",
        limit=GROWTH_LIMIT,
        ours=min(many) * 1e6,
        other=min(few) * 1e6,
    )
