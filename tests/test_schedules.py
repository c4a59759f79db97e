"""Holds what `tracedflow.testing.explore` and `Schedule` promise."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tracedflow import Context, Event, Middleware, StartEvent, StopEvent, Workflow, step
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_none
from tracedflow.testing import Recorder, Schedule, explore


class Left(Event):
    n: int


class Right(Event):
    n: int


class Ended(Event):
    n: int


class Race(Workflow):
    """Two steps, each with three events; what began is noted in order."""

    def __init__(self, *layers: Middleware) -> None:
        self.began: list[str] = []
        super().__init__(middleware=layers, telemetry=False)

    @step
    async def begin(self, ev: StartEvent) -> list[Left | Right]:
        return [kind(n=n) for n in range(3) for kind in (Left, Right)]

    @step
    async def left(self, ev: Left) -> Ended:
        self.began.append(f"left {ev.n}")
        return Ended(n=ev.n)

    @step
    async def right(self, ev: Right) -> Ended:
        self.began.append(f"right {ev.n}")
        return Ended(n=ev.n)

    @step
    async def end(self, evs: list[Ended]) -> StopEvent:
        return StopEvent(result=tuple(self.began))


async def race(schedule: Schedule) -> Any:
    return await Race(schedule).run()


def test_each_seed_is_another_order_and_the_same_seed_the_same_one() -> None:
    orders = explore(race, seeds=50)
    assert len(set(orders)) > 25
    assert explore(race, seeds=range(50)) == orders
    assert all(len(order) == 6 for order in orders)


async def began(schedule: Schedule) -> list[tuple[str, int]]:
    recorder = Recorder()
    await Race(recorder, schedule).run()
    return [(seen.call.step, seen.call.execution) for seen in recorder.steps]


def test_without_pauses_what_is_ready_at_once_starts_in_any_order_that_keeps_the_order_of_each_step() -> None:
    orders = explore(began, seeds=50, longest=0)
    assert len({tuple(name for name, _ in order) for order in orders}) > 5
    for order in orders:
        for name in ("left", "right"):
            numbers = [number for step, number in order if step == name]
            assert numbers == sorted(numbers)
            assert len(numbers) == 3


def test_a_failure_names_its_seed_and_the_seed_repeats_it() -> None:
    async def program(schedule: Schedule) -> None:
        order = await race(schedule)
        assert order[0] == "left 0", order

    with pytest.raises(AssertionError) as first:
        explore(program)
    (note,) = first.value.__notes__
    seed = int(note.split("seed ")[1].split(";")[0])
    with pytest.raises(AssertionError) as again:
        explore(program, seeds=[seed])
    assert again.value.args == first.value.args


def test_a_pause_is_at_most_as_long_as_said_and_a_failed_attempt_pauses_too() -> None:
    class Flaky(Workflow):
        @step(timeout=0.5, retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ctx.retry_info().retry_number == 0:
                raise ConnectionError
            return StopEvent()

    async def program(schedule: Schedule) -> float:
        began = asyncio.get_running_loop().time()
        recorder = Recorder()
        await Flaky(middleware=[schedule, recorder], telemetry=False).run()
        assert [seen.call.attempt for seen in recorder.attempts] == [1, 2]
        return asyncio.get_running_loop().time() - began

    times = explore(program, seeds=100, longest=8)
    assert min(times) == 0
    assert 8 < max(times) <= 4 * 8, "the step's own timeout does not count them"


def test_a_program_that_can_never_end_says_what_its_runs_are_doing() -> None:
    class Stuck(Workflow):
        @step
        async def wait_for_ever(self, ev: StartEvent) -> StopEvent:
            await asyncio.Event().wait()
            return StopEvent()

    async def program(schedule: Schedule) -> None:
        await Stuck(middleware=[schedule], telemetry=False, timeout=None).run()

    with pytest.raises(TimeoutError, match="nothing can happen any more") as found:
        explore(program, seeds=1)
    assert "wait_for_ever" in str(found.value)


def test_a_program_that_is_cancelled_raises_that() -> None:
    async def program(schedule: Schedule) -> None:
        await schedule.pause()
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        explore(program, seeds=1)
