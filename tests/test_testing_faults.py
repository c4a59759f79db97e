"""Holds what `Faults` promises of the rules that name events, attempts and seeds, and of doubled and cancelled work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, WorkflowCancelledByUser, WorkflowStalledError, step
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from tracedflow.testing import Fault, Faults, InjectedError, assert_run, run_virtual, virtual_time


class Item(Event):
    n: int = 0


class Big(Item):
    pass


class Done(Event):
    n: int = 0


class Flow(Workflow):
    """Spreads five items, of which two are big, and counts what comes back until it has all."""

    def __init__(self, *layers: Any, **options: Any) -> None:
        super().__init__(telemetry=False, timeout=None, middleware=layers, **options)
        self.seen: list[int] = []

    @step
    async def spread(self, ctx: Context, ev: StartEvent) -> Item | Big | None:
        for n in range(5):
            ctx.send_event(Big(n=n) if n % 2 else Item(n=n))
        return None

    @step(num_workers=5, retry_policy=retry_policy(wait=wait_fixed(60), stop=stop_after_attempt(3)))
    async def work(self, ev: Item | Big) -> Done:
        await asyncio.sleep(1)
        return Done(n=ev.n)

    @step
    async def end(self, ctx: Context, ev: Done) -> StopEvent | None:
        self.seen.append(ev.n)
        done = ctx.collect_events(ev, [Done] * 5)
        return None if done is None else StopEvent(result=sorted(each.n for each in done))


async def run(faults: Faults) -> Any:
    return await Flow(faults).run()


def struck(faults: Faults) -> list[tuple[str, int, int]]:
    return [(fault.step, fault.execution, fault.attempt) for fault in faults.injected]


@virtual_time()
async def test_a_rule_for_an_event_class_strikes_its_subclasses_too() -> None:
    faults = Faults().delay("work", seconds=1, event=Big)
    await run(faults)
    assert len(faults.injected) == 2
    everything = Faults().delay(seconds=1, event=Item)
    await run(everything)
    assert {fault.step for fault in everything.injected} == {"work"}
    assert len(everything.injected) == 5


@virtual_time()
async def test_a_rule_may_look_at_the_event() -> None:
    faults = Faults().fail("work", event=lambda ev: ev.n == 4, times=2)
    handler = Flow(faults).run()
    assert await handler == [0, 1, 2, 3, 4]
    assert [fault.attempt for fault in faults.injected] == [1, 2]
    assert len({fault.execution for fault in faults.injected}) == 1


@virtual_time()
async def test_a_rule_for_attempts_strikes_these_only() -> None:
    second = Faults().fail("work", attempt=2)
    await run(second)
    assert second.injected == []  # no first attempt failed
    both = Faults().fail("work", attempt=(1, 2), event=Big)
    handler = Flow(both).run()
    await handler
    assert sorted(fault.attempt for fault in both.injected) == [1, 1, 2, 2]
    assert_run(handler).attempts("work", at_most=3).ran("work", 5)


@virtual_time()
async def test_a_duplicate_is_delivered_twice() -> None:
    faults = Faults().duplicate("work", event=lambda ev: ev.n == 0)
    flow = Flow(faults)
    result = await flow.run()
    assert (len(result), result[:2]) == (5, [0, 0])  # the set is full before the last of the others comes
    assert sorted(flow.seen)[:2] == [0, 0]
    (fault,) = faults.injected
    assert fault.kind == "duplicate"


@virtual_time()
async def test_members_of_a_list_are_doubled_in_it_and_a_stop_event_is_not() -> None:
    class Lists(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[Item]:
            return [Item(n=1), Item(n=2)]

        @step
        async def total(self, ev: list[Item]) -> StopEvent:
            return StopEvent(result=sorted(each.n for each in ev))

    assert await Lists(middleware=[Faults().duplicate()], telemetry=False).run() == [1, 1, 2, 2]


@virtual_time()
async def test_what_a_step_returns_as_none_is_doubled_to_nothing() -> None:
    flow = Flow(Faults().duplicate("spread"))
    assert await flow.run() == [0, 1, 2, 3, 4]


@virtual_time()
async def test_a_dropped_event_leaves_a_run_that_says_what_it_lacks() -> None:
    with pytest.raises(WorkflowStalledError, match="collect 1 more Done"):
        await run(Faults().drop("work", event=lambda ev: ev.n == 3))


@virtual_time()
async def test_a_cancelled_step_ends_the_run_and_its_siblings() -> None:
    handler = Flow(Faults().cancel("work", event=lambda ev: ev.n == 2)).run()
    with pytest.raises(WorkflowCancelledByUser, match="the task of step `work` was, from outside"):
        await handler
    assert_run(handler).ended("cancelled")
    assert {record.outcome for record in handler.record if record.step == "work"} == {"cancelled"}


@virtual_time()
async def test_a_cancellation_strikes_a_step_at_work_and_misses_one_that_has_ended() -> None:
    late = Faults().cancel("work", after=1.5, times=1)
    assert await run(late) == [0, 1, 2, 3, 4]
    handler = Flow(Faults().cancel("work", after=0.5, times=1)).run()
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    assert_run(handler).took("work", exactly=0.5)


@virtual_time()
async def test_what_fails_first_is_what_is_raised_and_later_rules_do_not_strike() -> None:
    faults = Faults().fail("spread", error=lambda: OSError("disk")).delay("spread", seconds=3)
    with pytest.raises(OSError, match="disk"):
        await run(faults)
    assert [fault.kind for fault in faults.injected] == ["raise"]


@pytest.mark.parametrize("kind", ["delay", "fail", "drop", "duplicate", "cancel"])
def test_the_same_seed_strikes_the_same_attempts(kind: str) -> None:
    async def faults_of(seed: int) -> list[Fault]:
        faults = Faults(seed)
        options: dict[str, Any] = {"seconds": (1, 2)} if kind == "delay" else {}
        getattr(faults, kind)("work", chance=0.4, **options)
        handler = Flow(faults).run()
        await asyncio.wait([handler])
        if not handler.cancelled():
            handler.exception()
        return faults.injected

    def hit(seed: int) -> list[tuple[int, int, float]]:
        return [(fault.execution, fault.attempt, fault.seconds) for fault in run_virtual(faults_of(seed))]

    found = {seed: hit(seed) for seed in range(6)}
    assert {seed: hit(seed) for seed in range(6)} == found
    assert len({str(each) for each in found.values()}) > 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Faults().cancel(after=-1), "not negative"),
        (lambda: Faults().duplicate(chance=2), "from 0 to 1"),
        (lambda: Faults().fail(attempt=0), "1 for the first"),
        (lambda: Faults().fail(attempt=()), "1 for the first"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(make: Callable[[], Faults], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@virtual_time()
async def test_an_injected_error_is_retried_as_the_steps_own() -> None:
    handler = Flow(Faults(3).fail("work", attempt=1)).run()
    assert await handler == [0, 1, 2, 3, 4]
    assert {record.error for record in handler.record if record.outcome == "error"} == {
        f"{InjectedError.__module__}.{InjectedError.__qualname__}"
    }
    assert_run(handler).attempts("work", 2).took(exactly=61)
