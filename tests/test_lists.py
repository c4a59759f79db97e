"""Lists: a step that returns one opens a stream; steps that take one collect it; steps that join several parameters."""

from __future__ import annotations

import asyncio
from typing import Annotated

import pytest

from tracedflow import All, Collect, Context, Event, StartEvent, StopEvent, Take, Workflow, WorkflowStalledError, step
from tracedflow.errors import StepResultError, WorkflowValidationError


class Item(Event):
    i: int


class Part(Event):
    i: int
    j: int


class Result(Event):
    i: int


class Total(Event):
    n: int


class Left(Event):
    i: int


class Right(Event):
    i: int


class Squares(Workflow):
    @step
    async def start(self, ev: StartEvent) -> list[Item]:
        return [Item(i=i) for i in range(ev.n)]

    @step
    async def square(self, ev: Item) -> Result | None:
        return Result(i=ev.i * ev.i)

    @step
    async def gather(self, evs: list[Result]) -> StopEvent:
        return StopEvent(result=[ev.i for ev in evs])


async def test_a_list_is_collected_when_all_that_follows_from_it_has_ended() -> None:
    assert await Squares().run(n=5) == [0, 1, 4, 9, 16]


async def test_an_empty_list_starts_the_collecting_step_with_an_empty_list() -> None:
    assert await Squares().run(n=0) == []


async def test_members_come_in_the_order_they_were_completed() -> None:
    first_may_end = asyncio.Event()

    class Flow(Squares):
        @step
        async def square(self, ev: Item) -> Result:
            if ev.i == 0:
                await first_may_end.wait()
            else:
                first_may_end.set()
            return Result(i=ev.i)

    assert await Flow().run(n=2) == [1, 0]


async def test_a_member_that_ends_in_none_is_left_out() -> None:
    class Flow(Squares):
        @step
        async def square(self, ev: Item) -> Result | None:
            return Result(i=ev.i) if ev.i % 2 else None

    assert await Flow().run(n=4) == [1, 3]


async def test_take_goes_on_with_the_first_and_ignores_the_rest() -> None:
    calls: list[list[int]] = []

    class Flow(Squares):
        @step
        async def gather(self, evs: Annotated[list[Result], Collect(Take(2))]) -> StopEvent:
            calls.append([ev.i for ev in evs])
            await asyncio.sleep(0.01)
            return StopEvent(result=len(evs))

    assert await Flow().run(n=5) == 2
    assert calls == [[0, 1]]
    assert await Flow().run(n=1) == 1, "with fewer when no more can come"


async def test_all_is_the_default_cardinality() -> None:
    assert Collect() == Collect(All())


class Nested(Workflow):
    @step
    async def start(self, ev: StartEvent) -> list[Item]:
        return [Item(i=i) for i in range(3)]

    @step
    async def split(self, ev: Item) -> list[Part]:
        return [Part(i=ev.i, j=j) for j in range(ev.i)]

    @step
    async def count(self, evs: list[Part]) -> Total:
        return Total(n=len(evs))

    @step
    async def add(self, evs: list[Total]) -> StopEvent:
        return StopEvent(result=sorted(ev.n for ev in evs))


async def test_streams_nest() -> None:
    assert await Nested().run() == [0, 1, 2]


async def test_two_steps_collect_the_same_stream_each_its_own_class() -> None:
    got: dict[str, int] = {}

    class Flow(Workflow):
        @step
        async def start(self, ev: StartEvent) -> list[Item]:
            return [Item(i=i) for i in range(4)]

        @step
        async def sort(self, ev: Item) -> Left | Right:
            return Left(i=ev.i) if ev.i % 2 else Right(i=ev.i)

        @step
        async def lefts(self, evs: list[Left]) -> Total:
            got["left"] = len(evs)
            return Total(n=len(evs))

        @step
        async def rights(self, evs: list[Right]) -> Total:
            got["right"] = len(evs)
            return Total(n=len(evs))

        @step
        async def both(self, ctx: Context, ev: Total) -> StopEvent | None:
            return StopEvent() if ctx.collect_events(ev, [Total, Total]) else None

    await Flow().run()
    assert got == {"left": 2, "right": 2}


async def test_a_step_may_return_a_list_or_a_single_event() -> None:
    class Flow(Squares):
        @step
        async def start(self, ev: StartEvent) -> list[Item] | StopEvent:
            return StopEvent(result="none") if ev.n == 0 else [Item(i=1)]

    assert await Flow().run(n=0) == "none"
    assert await Flow().run(n=1) == [1]


async def test_a_list_where_none_is_declared_is_refused() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return [StopEvent()]  # type: ignore[return-value]

    with pytest.raises(StepResultError, match="annotate it"):
        await Flow().run()


async def test_a_sent_event_cannot_join_a_stream() -> None:
    class Flow(Squares):
        @step
        async def square(self, ctx: Context, ev: Item) -> Result | None:
            ctx.send_event(Result(i=99))
            return Result(i=ev.i)

    handler = Flow().run(n=1)
    assert await handler == [0]
    fate = next(fate for fate in handler.why().unclaimed if fate.event_type == "Result")
    assert "gather" in (fate.near_miss or "") or fate.reason == "run_ended"


def test_a_step_that_collects_what_no_list_leads_to_is_refused() -> None:
    class Flow(Workflow):
        @step
        async def start(self, ev: StartEvent) -> Result:
            return Result(i=1)

        @step
        async def gather(self, evs: list[Result]) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowValidationError, match="no step returns a list that leads there"):
        Flow()


async def test_every_event_of_a_stream_has_its_fate() -> None:
    handler = Squares().run(n=7)
    await handler
    for counts in handler.why().events.values():
        assert counts.sent == counts.consumed + counts.streamed + counts.dropped + counts.pending
        assert counts.collected <= counts.consumed + counts.dropped
    assert handler.why().events["Result"].collected == 7


class Both(Workflow):
    @step
    async def left(self, ev: StartEvent) -> Left | None:
        return Left(i=1) if ev.get("left", True) else None

    @step
    async def right(self, ev: StartEvent) -> Right:
        return Right(i=2)

    @step
    async def join(self, right: Right, ctx: Context, left: Left) -> StopEvent:
        return StopEvent(result=(left.i, right.i))


async def test_a_step_with_several_event_parameters_starts_with_one_of_each() -> None:
    assert await Both().run() == (1, 2)


async def test_a_join_of_parameters_that_lacks_one_stalls_and_says_which() -> None:
    with pytest.raises(WorkflowStalledError, match=r"`join`.*Left") as caught:
        await Both().run(left=False)
    assert caught.value.report is not None
    (join,) = caught.value.report.joins
    assert (join.has, join.lacks, join.producers) == ({"Right": 1}, {"Left": 1}, {"Left": ("left",)})


async def test_parameters_are_joined_within_one_member_of_a_stream() -> None:
    class Flow(Workflow):
        @step
        async def start(self, ev: StartEvent) -> list[Item]:
            return [Item(i=1), Item(i=2)]

        @step
        async def one(self, ev: Item) -> list[Left]:
            return [Left(i=ev.i)]

        @step
        async def gather(self, evs: list[Left]) -> StopEvent:
            return StopEvent(result=[ev.i for ev in evs])

    # the inner streams close into the outer level, where nothing collects Left again: each gather ends the run
    assert await Flow().run() in ([1], [2])


async def test_what_a_first_n_does_not_need_and_another_step_takes_is_not_dropped() -> None:
    class Flow(Squares):
        @step
        async def first(self, evs: Annotated[list[Result], Collect(Take(1))]) -> None:
            return None

    handler = Flow().run(n=3)
    assert await handler == [0, 1, 4]
    counts = handler.why().events["Result"]
    assert (counts.sent, counts.consumed, counts.collected, counts.dropped) == (3, 3, 3, 0)


async def test_one_event_where_a_list_of_them_is_declared_is_refused() -> None:
    class Flow(Squares):
        @step
        async def start(self, ev: StartEvent) -> list[Item]:
            return Item(i=1)  # type: ignore[return-value]

    with pytest.raises(StepResultError, match=r"`start` \(.*\) returned one Item, but declares a list of them; return \[Item\(\.\.\.\)\]"):
        await Flow().run()


async def test_a_member_that_the_step_did_not_declare_goes_on_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    class Flow(Workflow):
        @step
        async def start(self, ev: StartEvent) -> list[Left]:
            return [Left(i=1), Right(i=2), Right(i=3)]  # type: ignore[list-item]  # pyright: ignore[reportReturnType]

        @step
        async def take(self, ev: Left | Right) -> Result:
            return Result(i=ev.i)

        @step
        async def end(self, ev: list[Result]) -> StopEvent:
            return StopEvent(result=sorted(each.i for each in ev))

    assert await Flow(disable_validation=True).run() == [1, 2, 3]
    assert sum("returned Right, but declares Left" in message for message in caplog.messages) == 1
