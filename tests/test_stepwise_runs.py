"""Random programs by steps, saved on the way, and from each of their checkpoints: the result is that of a run at full speed."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import hypothesis.strategies as hyp
import pytest
from hypothesis import HealthCheck, given, settings

from tracedflow import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StepTimeoutError,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowCheckpointer,
    WorkflowHandler,
    WorkflowTimeoutError,
    step,
)
from tracedflow.checkpointer import Checkpoint, StoredCheckpoint
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_none
from tracedflow.testing import run_virtual, virtual_time


class Item(Event):
    n: int = 0


class Done(Event):
    n: int = 0


class Ask(InputRequiredEvent):
    pass


class Answer(HumanResponseEvent):
    n: int = 1


async def stepped(handler: WorkflowHandler[Any], *, least: int = 0) -> Any:
    """Step a run to its end with the loop of the page, answering what it asks; it must take at least so many steps."""
    steps = 0
    while (produced := await handler.run_step()) is not None:
        steps += 1
        for event in produced:
            handler.ctx.send_event(event)
        answer_all(handler)
    assert steps >= least
    return await handler


def answer_all(handler: WorkflowHandler[Any]) -> None:
    for _ in handler.why().waits if not handler.done() else ():
        handler.ctx.send_event(Answer())


# random programs: a chain of blocks, each of which takes one event and gives one

Block: TypeAlias = tuple[str, int, int]  # its kind, how many events it spreads, `num_workers`

KINDS = ("plain", "retried", "asks", "list", "nested", "collected", "branches", "slots")
blocks = hyp.lists(hyp.tuples(hyp.sampled_from(KINDS), hyp.integers(1, 4), hyp.integers(1, 3)), min_size=1, max_size=4)


def program(chain: list[Block]) -> Workflow:
    flow = Workflow(timeout=1000, workflow_name="Random")
    taken: type[Event] = StartEvent
    for number, block in enumerate(chain):
        given_on = _class(f"Out{number}")
        BUILDERS[block[0]](flow, number, block, taken, given_on)
        taken = given_on

    async def last(ev: Any) -> StopEvent:
        return StopEvent(result=ev.n)

    _add(flow, last, {"ev": taken}, StopEvent)
    return flow


def _class(name: str) -> type[Event]:
    return type(name, (Event,), {"__module__": __name__, "__qualname__": name, "__annotations__": {"n": int}, "n": 0})


def _add(flow: Workflow, function: Any, takes: dict[str, Any], gives: Any, name: str = "last", **options: Any) -> None:
    function.__name__ = function.__qualname__ = name
    function.__annotations__ = {**takes, "return": gives}
    step(workflow=flow, **options)(function)


def plain(flow: Workflow, number: int, block: Block, taken: type[Event], out: type[Event]) -> None:
    async def work(ev: Any) -> Any:
        await asyncio.sleep(ev.n % 3)
        return out(n=ev.n * 2 + 1)

    _add(flow, work, {"ev": taken}, out, f"plain{number}")


def retried(flow: Workflow, number: int, block: Block, taken: type[Event], out: type[Event]) -> None:
    async def work(ctx: Context, ev: Any) -> Any:
        if ctx.retry_info().retry_number < 2:
            raise ConnectionError
        return out(n=ev.n + 3)

    policy = retry_policy(wait=wait_none(), stop=stop_after_attempt(3))
    _add(flow, work, {"ctx": Context, "ev": taken}, out, f"retried{number}", retry_policy=policy)


def asks(flow: Workflow, number: int, block: Block, taken: type[Event], out: type[Event]) -> None:
    async def work(ctx: Context, ev: Any) -> Any:
        answer = await ctx.wait_for_event(Answer, waiter_event=Ask())
        return out(n=ev.n + answer.n)

    _add(flow, work, {"ctx": Context, "ev": taken}, out, f"asks{number}")


def a_list(flow: Workflow, number: int, block: Block, taken: type[Event], out: type[Event]) -> None:
    _, count, workers = block
    item, done = _class(f"Item{number}"), _class(f"Done{number}")

    async def spread(ev: Any) -> Any:
        return [item(n=ev.n + each) for each in range(count)]

    async def work(ctx: Context, ev: Any) -> Any:
        if ev.n % 3 == 0:
            await ctx.wait_for_event(Answer, waiter_event=Ask())
        await asyncio.sleep(ev.n % 2)
        return done(n=ev.n)

    async def join(evs: Any) -> Any:
        return out(n=sum(each.n for each in evs))

    _add(flow, spread, {"ev": taken}, list[item], f"spread{number}")  # type: ignore[valid-type]
    _add(flow, work, {"ctx": Context, "ev": item}, done, f"work{number}", num_workers=workers)
    _add(flow, join, {"evs": list[done]}, out, f"join{number}")  # type: ignore[valid-type]


def nested(flow: Workflow, number: int, block: Block, taken: type[Event], out: type[Event]) -> None:
    """A list in each member of a list."""
    _, count, workers = block
    middle, back = _class(f"Middle{number}"), _class(f"Back{number}")

    async def spread(ev: Any) -> Any:
        return [middle(n=ev.n + each) for each in range(count)]

    async def join(evs: Any) -> Any:
        return out(n=sum(each.n for each in evs))

    _add(flow, spread, {"ev": taken}, list[middle], f"outer{number}")  # type: ignore[valid-type]
    a_list(flow, number, ("list", 2, workers), middle, back)
    _add(flow, join, {"evs": list[back]}, out, f"whole{number}")  # type: ignore[valid-type]


def collected(flow: Workflow, number: int, block: Block, taken: type[Event], out: type[Event]) -> None:
    _, count, workers = block
    item, done = _class(f"Item{number}"), _class(f"Done{number}")

    async def spread(ctx: Context, ev: Any) -> Any:
        for each in range(count):
            ctx.send_event(item(n=ev.n + each))

    async def work(ev: Any) -> Any:
        await asyncio.sleep(ev.n % 2)
        return done(n=ev.n)

    async def join(ctx: Context, ev: Any) -> Any:
        found = ctx.collect_events(ev, [done] * count)
        return None if found is None else out(n=sum(each.n for each in found))

    _add(flow, spread, {"ctx": Context, "ev": taken}, item | None, f"spread{number}")
    _add(flow, work, {"ev": item}, done, f"work{number}", num_workers=workers)
    _add(flow, join, {"ctx": Context, "ev": done}, out | None, f"join{number}", num_workers=workers)


def branches(flow: Workflow, number: int, block: Block, taken: type[Event], out: type[Event]) -> None:
    left, right = _class(f"Left{number}"), _class(f"Right{number}")

    async def choose(ev: Any) -> Any:
        return left(n=ev.n) if ev.n % 2 else right(n=ev.n)

    async def go(ev: Any) -> Any:
        return out(n=ev.n + (10 if isinstance(ev, left) else 20))

    _add(flow, choose, {"ev": taken}, left | right, f"choose{number}")
    _add(flow, go, {"ev": left | right}, out, f"go{number}")


def slots(flow: Workflow, number: int, block: Block, taken: type[Event], out: type[Event]) -> None:
    left, right = _class(f"Left{number}"), _class(f"Right{number}")

    async def fork(ctx: Context, ev: Any) -> Any:
        ctx.send_event(left(n=ev.n))
        return right(n=ev.n + 1)

    async def both(one: Any, two: Any) -> Any:
        return out(n=one.n * 3 + two.n)

    _add(flow, fork, {"ctx": Context, "ev": taken}, left | right, f"fork{number}")
    _add(flow, both, {"one": left, "two": right}, out, f"both{number}")


BUILDERS: dict[str, Callable[[Workflow, int, Block, type[Event], type[Event]], None]] = {
    "plain": plain, "retried": retried, "asks": asks, "list": a_list, "nested": nested, "collected": collected,
    "branches": branches, "slots": slots,
}  # fmt: skip


async def at_full_speed(chain: list[Block]) -> Any:
    return await answered(program(chain).run(n=2))


async def answered(handler: WorkflowHandler[Any]) -> Any:
    while not handler.done():
        answer_all(handler)
        await asyncio.wait([handler], timeout=0.5)
    return await handler


relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@relaxed
@given(blocks)
def test_a_program_run_step_by_step_has_the_result_that_it_has_at_full_speed(chain: list[Block]) -> None:
    async def by_steps() -> Any:
        return await stepped(program(chain).run(stepwise=True, n=2), least=len(chain))

    assert run_virtual(by_steps()) == run_virtual(at_full_speed(chain))


@relaxed
@given(blocks, hyp.data())
def test_a_program_saved_between_two_steps_of_it_goes_on_to_the_same_result(chain: list[Block], data: hyp.DataObject) -> None:
    in_hand = data.draw(hyp.booleans())  # saved before the caller sent anything on
    stepwise_again = data.draw(hyp.booleans())
    stop_at = data.draw(hyp.integers(0, 12))

    async def interrupted() -> Any:
        flow = program(chain)
        handler = flow.run(stepwise=True, n=2)
        for number in range(stop_at + 1):
            produced = await handler.run_step() if number else []
            if produced is None:
                return await handler
            if number == stop_at and in_hand:
                break
            for event in produced:
                handler.ctx.send_event(event)
            answer_all(handler)
        saved = json.loads(json.dumps(handler.ctx.to_dict()))
        await handler.cancel_run()
        with pytest.raises(WorkflowCancelledByUser):
            await handler
        again = flow.run(ctx=Context.from_dict(flow, saved), stepwise=stepwise_again)
        return await (stepped(again) if stepwise_again else answered(again))

    assert run_virtual(interrupted()) == run_virtual(at_full_speed(chain))


class SlowStore:
    """Takes its time to keep a checkpoint, now long, now short; they are in the order in which saving began."""

    def __init__(self) -> None:
        self.kept: list[StoredCheckpoint] = []

    async def add(self, checkpoint: StoredCheckpoint, /) -> None:
        self.kept.append(checkpoint)
        await asyncio.sleep(len(self.kept) * 7 % 5)

    def after(self, workflow: str, number: int, /) -> Iterable[tuple[int, StoredCheckpoint]]:
        return list(enumerate(self.kept, 1))[number:]


def ends(checkpoints: list[Checkpoint]) -> Counter[tuple[Any, ...]]:
    """Return the executions that they were taken after: of which step, and with what."""
    return Counter((c.last_completed_step, values(c.input_event), values(c.output_event)) for c in checkpoints)


def values(found: Event | list[Event] | None) -> Any:
    return tuple(values(each) for each in found) if isinstance(found, list) else found and (type(found).__name__, found.get("n"))


@settings(relaxed, max_examples=15)
@given(blocks, hyp.booleans())
def test_from_each_checkpoint_of_a_program_exactly_what_was_left_is_run(chain: list[Block], slow: bool) -> None:
    async def from_each() -> None:
        keeper = WorkflowCheckpointer(program(chain), store=SlowStore() if slow else None)
        first = keeper.run(n=2)
        result = await answered(first)
        taken = list(keeper.checkpoints[first.run_id])
        for number, checkpoint in enumerate(taken, 1):
            again = keeper.run_from(checkpoint)
            assert await answered(again) == result
            assert ends(keeper.checkpoints.get(again.run_id, [])) == ends(taken) - ends(taken[:number])

    run_virtual(from_each())


# lists and joins


class Lists(Workflow):
    @step
    async def spread(self, ev: StartEvent) -> list[Item]:
        return [Item(n=n) for n in range(3)]

    @step
    async def work(self, ev: Item) -> Done:
        return Done(n=ev.n)

    @step
    async def join(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=sorted(each.n for each in evs))


async def test_a_list_is_joined_from_the_members_that_were_sent_on() -> None:
    handler = Lists().run(stepwise=True)
    first = await handler.run_step()
    assert first is not None
    for event in first[:2]:
        handler.ctx.send_event(event)
    assert await stepped(handler) == [0, 1]


async def test_the_loop_with_produced_as_its_condition_goes_on_while_a_join_fills() -> None:
    handler = Lists().run(stepwise=True)
    produced_at: list[int] = []
    while produced := await handler.run_step():
        produced_at.append(len(produced))
        for event in produced:
            handler.ctx.send_event(event)
    assert await handler == [0, 1, 2]
    assert produced_at == [3, 3]


# to one step


async def test_what_was_returned_may_be_sent_to_one_of_the_steps_that_take_it() -> None:
    called: list[str] = []

    class Two(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Item:
            return Item()

        @step
        async def left(self, ev: Item) -> StopEvent:
            called.append("left")
            return StopEvent(result="left")

        @step
        async def right(self, ev: Item) -> StopEvent:
            called.append("right")
            return StopEvent(result="right")

    handler = Two().run(stepwise=True)
    (event,) = await handler.run_step() or []
    handler.ctx.send_event(event, step="right")
    assert await stepped(handler) == "right"
    assert called == ["right"]


async def test_what_was_returned_may_be_sent_on_twice() -> None:
    class Twice(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Item:
            return Item()

        @step
        async def second(self, ctx: Context, ev: Item) -> StopEvent | None:
            return StopEvent(result="both") if ctx.collect_events(ev, [Item] * 2) else None

    handler = Twice().run(stepwise=True)
    (event,) = await handler.run_step() or []
    handler.ctx.send_event(event)
    handler.ctx.send_event(event)
    assert await stepped(handler) == "both"


# time


@virtual_time()
async def test_the_timeout_of_a_run_holds_while_its_caller_thinks() -> None:
    handler = Lists(timeout=5).run(stepwise=True)
    await handler.run_step()
    await asyncio.sleep(6)
    assert await handler.run_step() is None
    with pytest.raises(WorkflowTimeoutError):
        await handler


@virtual_time()
async def test_the_timeout_of_a_step_counts_from_when_the_caller_let_it_start() -> None:
    class Slow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Item:
            return Item()

        @step(timeout=5)
        async def second(self, ev: Item) -> StopEvent:
            await asyncio.sleep(4 + ev.n)
            return StopEvent(result=ev.n)

    for n, late in ((0, False), (2, True)):
        handler = Slow(timeout=None).run(stepwise=True)
        await handler.run_step()
        handler.ctx.send_event(Item(n=n))
        await asyncio.sleep(100)
        assert not await handler.run_step()
        if late:
            with pytest.raises(StepTimeoutError):
                await handler
        else:
            assert await handler == 0


@virtual_time()
async def test_a_wait_that_ends_in_vain_goes_on_at_the_next_step_of_the_run() -> None:
    went_on: list[str] = []

    class Waits(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                await ctx.wait_for_event(Answer, waiter_event=Ask(), timeout=5)
            except TimeoutError:
                went_on.append("in vain")
            return StopEvent(result="none")

    handler = Waits(timeout=None).run(stepwise=True)
    assert await handler.run_step() == []
    await asyncio.sleep(10)
    assert went_on == []  # nothing runs but in run_step
    await handler.run_step()
    assert went_on == ["in vain"]
    assert await handler == "none"


# the end in the middle


async def test_a_run_cancelled_while_a_step_runs_ends_run_step_with_none() -> None:
    running, ended = asyncio.Event(), asyncio.Event()

    class Long(Workflow):
        @step
        async def first(self, ev: StartEvent) -> StopEvent:
            running.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return StopEvent()

    handler = Long().run(stepwise=True)
    stepping = asyncio.create_task(handler.run_step())
    await running.wait()
    await handler.cancel_run()
    assert await stepping is None
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    assert ended.is_set()


async def test_a_run_step_that_is_cancelled_may_be_called_again() -> None:
    gate, running = asyncio.Event(), asyncio.Event()

    class Long(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Item:
            running.set()
            await gate.wait()
            return Item(n=3)

        @step
        async def last(self, ev: Item) -> StopEvent:
            return StopEvent(result=ev.n)

    handler = Long().run(stepwise=True)
    stepping = asyncio.create_task(handler.run_step())
    await running.wait()
    stepping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stepping
    gate.set()
    assert await stepped(handler) == 3


async def test_one_member_that_ends_the_run_ends_the_others_of_its_step() -> None:
    class Race(Workflow):
        @step
        async def spread(self, ctx: Context, ev: StartEvent) -> Item | None:
            for n in range(3):
                ctx.send_event(Item(n=n))
            return None

        @step
        async def race(self, ev: Item) -> StopEvent:
            if ev.n != 1:
                await asyncio.Event().wait()
            return StopEvent(result=ev.n)

    assert await asyncio.wait_for(stepped(Race().run(stepwise=True)), 1) == 1
