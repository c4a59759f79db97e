"""llama-index-workflows: the API is the one that tracedflow is compatible with, so the programs are the same."""

from __future__ import annotations

import asyncio

from llama_index.observability.otel import LlamaIndexOpenTelemetry
from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent

from .._spans import Nowhere
from ._job import Job

NAME = "llama-index-workflows"
PACKAGES = ("llama-index-workflows",)
LENGTH, TRACED_LENGTH, FAN_OUT, RUNS = 300, 300, 1_000, 1_000


class Begin(StartEvent):
    """Starts a chain of `length` events, or a fan-out as wide."""

    length: int


class Tick(Event):
    """An event of the chain."""

    left: int


class Item(Event):
    """One item to work on."""

    number: int


class Done(Event):
    """One item that is finished."""

    number: int


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


class FanOut(Workflow):
    """Spreads, works with the default number of workers, and joins."""

    expected: list[type[Done]]

    @step
    async def spread(self, ctx: Context, ev: Begin) -> Item | None:
        """Send every item."""
        for number in range(ev.length):
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


class Short(Workflow):
    """Two steps."""

    @step
    async def first(self, ev: Begin) -> Tick:
        """Pass the number on."""
        return Tick(left=ev.length)

    @step
    async def second(self, ev: Tick) -> StopEvent:
        """End the run with the number."""
        return StopEvent(result=ev.left)


async def _chain() -> None:
    await Chain(timeout=None).run(start_event=Begin(length=LENGTH))


async def _fan_out() -> None:
    flow = FanOut(timeout=None)
    flow.expected = [Done] * FAN_OUT
    joined = await flow.run(start_event=Begin(length=FAN_OUT))
    assert joined == FAN_OUT, f"{joined} of {FAN_OUT} items were joined"


async def _runs() -> None:
    flow = Short(timeout=None)
    await asyncio.gather(*(flow.run(start_event=Begin(length=number)) for number in range(RUNS)))


def jobs() -> dict[str, Job]:
    """Return what is measured without tracing."""
    return {
        "chain": Job(items=LENGTH, work=_chain),
        "fan-out": Job(items=FAN_OUT, work=_fan_out, is_long=True),
        "runs": Job(items=RUNS, work=_runs, is_long=True),
    }


def traced_jobs() -> dict[str, Job]:
    """Switch tracing on, for the rest of the process, and return what is measured with it."""
    LlamaIndexOpenTelemetry(span_exporter=Nowhere()).start_registering()
    return {"chain traced": Job(items=LENGTH, work=_chain)}
