"""What a run keeps of events that are over: memory after 100,000 finished events less that after 1,000, in one run."""

from __future__ import annotations

import gc
import tracemalloc

from tracedflow import Event, StartEvent, StopEvent, Workflow, step

EARLY, LATE = 1_000, 100_000
MB = 1_000_000


class Begin(StartEvent):
    """Starts the long run."""


class Tick(Event):
    """The event number `done` of the run."""

    done: int


class Long(Workflow):
    """One step in a loop that looks at the memory twice."""

    early = 0
    late = 0

    @step
    async def begin(self, ev: Begin) -> Tick:
        """Send the first event."""
        return Tick(done=0)

    @step
    async def turn(self, ev: Tick) -> Tick | StopEvent:
        """Return the next event; measure at the two marks."""
        if ev.done == EARLY:
            self.early = _traced_bytes()
        if ev.done == LATE:
            self.late = _traced_bytes()
            return StopEvent()
        return Tick(done=ev.done + 1)


def _traced_bytes() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def memory_growth() -> float:
    """Return the growth between the two marks in MB."""
    flow = Long(timeout=None)
    tracemalloc.start()
    try:
        await flow.run(start_event=Begin())
    finally:
        tracemalloc.stop()
    return (flow.late - flow.early) / MB
