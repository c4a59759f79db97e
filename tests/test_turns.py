"""The loop's turns: runs that never wait share them with everything else that the loop has to do, however many they are."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tracedflow import Event, StartEvent, StopEvent, Workflow, step
from tracedflow._engine._turn import MOST
from tracedflow.testing import run_virtual


class Begin(StartEvent):
    name: int


class Tick(Event):
    name: int


class Endless(Workflow):
    """Never waits, and never ends by itself."""

    steps: Counter[int]

    @step
    async def begin(self, ev: Begin) -> Tick:
        return Tick(name=ev.name)

    @step
    async def turn(self, ev: Tick) -> Tick | StopEvent:
        self.steps[ev.name] += 1
        return Tick(name=ev.name)


async def busy(count: int, turns: int) -> tuple[list[int], Counter[int]]:
    """Let endless runs run for some turns of the loop; return how many steps each turn had, and how many each run."""
    flow = Endless(timeout=None)
    flow.steps = Counter()
    handlers = [flow.run(start_event=Begin(name=name)) for name in range(count)]
    taken: list[int] = []
    for _ in range(turns):
        before = flow.steps.total()
        await asyncio.sleep(0)
        taken.append(flow.steps.total() - before)
    for handler in handlers:
        handler.cancel()
    await asyncio.wait(handlers)
    return taken, flow.steps


@pytest.mark.parametrize("count", [1, 2, 1_000])
def test_a_turn_of_the_loop_has_room_for_a_bounded_number_of_steps_however_many_runs_there_are(count: int) -> None:
    taken, _ = run_virtual(busy(count, 60))
    assert 0 < max(taken) <= 3 * MOST, "in virtual time, which stands still; else half a millisecond's worth"


def test_every_run_has_its_turn() -> None:
    _, steps = run_virtual(busy(500, 1_100))
    assert len(steps) == 500
    assert min(steps.values()) >= MOST, "each had a whole one"


def test_a_run_that_ends_while_it_waits_for_its_turn_lets_the_others_have_theirs() -> None:
    async def main() -> Counter[int]:
        flow = Endless(timeout=None)
        flow.steps = Counter()
        handlers = [flow.run(start_event=Begin(name=name)) for name in range(300)]
        for _ in range(5):
            await asyncio.sleep(0)
        for handler in handlers[:299]:
            handler.cancel()
        await asyncio.wait(handlers[:299])
        flow.steps.clear()
        while not flow.steps:
            await asyncio.sleep(0)
        handlers[299].cancel()
        await asyncio.wait(handlers)
        return flow.steps

    assert set(run_virtual(main())) == {299}


async def test_runs_whose_tasks_are_all_cancelled_while_they_wait_for_a_turn_are_over() -> None:
    flow = Endless(timeout=None)
    flow.steps = Counter()
    handlers = [flow.run(start_event=Begin(name=name)) for name in range(300)]
    for _ in range(5):
        await asyncio.sleep(0)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    done, _ = await asyncio.wait(handlers)
    assert all(handler.cancelled() for handler in done)
    await asyncio.sleep(0)
