from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from tracedflow import Context, ContextStateError, Event, Middleware, Notice, StartEvent, StopEvent, Workflow, WorkflowRuntimeError, step
from tracedflow.middleware import JoinWaiting
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_none


class A(Event):
    n: int = 0


class B(Event):
    n: int = 0


class C(Event):
    n: int = 0


class SubA(A):
    pass


class Join(Workflow):
    """Sends `events` to one join, which stops after `sets` full sets of `expected`."""

    def __init__(self, expected: Sequence[type[Event]], sets: int = 1, **options: Any) -> None:
        super().__init__(**options)
        self.expected = expected
        self.sets = sets
        self.got: list[list[str]] = []
        self.bodies = 0

    @step
    async def spread(self, ctx: Context, ev: StartEvent) -> A | B | C | None:
        for event in ev.events:
            ctx.send_event(event)
        return None

    @step
    async def join(self, ctx: Context, ev: A | B | C) -> StopEvent | None:
        self.bodies += 1
        got = ctx.collect_events(ev, self.expected)
        if got is None:
            return None
        self.got.append([f"{type(each).__name__}{each.n}" for each in got])
        return StopEvent(result=self.got) if len(self.got) == self.sets else None


async def test_a_full_set_comes_in_the_order_of_expected() -> None:
    assert await Join([A, B, C]).run(events=[C(n=1), A(n=2), B(n=3)]) == [["A2", "B3", "C1"]]


async def test_a_class_that_is_expected_twice_is_needed_twice_and_comes_in_order_of_arrival() -> None:
    assert await Join([A, B, A]).run(events=[A(n=1), A(n=2), B(n=3)]) == [["A1", "B3", "A2"]]


async def test_surplus_is_kept_for_the_next_set() -> None:
    events = [A(n=1), A(n=2), B(n=3), B(n=4)]
    assert await Join([A, B], sets=2).run(events=events) == [["A1", "B3"], ["A2", "B4"]]


async def test_an_event_that_no_set_expects_does_no_harm() -> None:
    assert await Join([A, B]).run(events=[C(n=1), A(n=2), B(n=3)]) == [["A2", "B3"]]


async def test_the_body_runs_once_for_each_event() -> None:
    flow = Join([A] * 50)
    await flow.run(events=[A(n=n) for n in range(50)])
    assert flow.bodies == 50


async def test_an_empty_expected_is_complete_at_once() -> None:
    assert await Join([]).run(events=[A()]) == [[]]


async def test_a_join_of_thousands_of_events_is_linear() -> None:
    flow = Join([A] * 3000)
    (got,) = await flow.run(events=[A(n=n) for n in range(3000)])
    assert got == [f"A{n}" for n in range(3000)]


async def test_workers_that_overlap_in_the_body_lose_nothing() -> None:
    all_in = asyncio.Barrier(4)

    class Flow(Workflow):
        bodies = 0

        @step
        async def spread(self, ev: StartEvent) -> list[A]:
            return [A(n=n) for n in range(4)]

        @step(num_workers=4)
        async def join(self, ctx: Context, ev: A) -> StopEvent | None:
            Flow.bodies += 1
            await all_in.wait()
            got = ctx.collect_events(ev, [A] * 4)
            await asyncio.sleep(0)
            return None if got is None else StopEvent(result=sorted(each.n for each in got))

    assert await Flow(timeout=5).run() == [0, 1, 2, 3]
    assert Flow.bodies == 4


async def test_buffers_of_one_step_are_told_apart_by_their_id() -> None:
    class Flow(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[A]:
            return [A(n=n) for n in range(4)]

        @step
        async def join(self, ctx: Context, ev: A) -> B | None:
            parity = "even" if ev.n % 2 == 0 else "odd"
            got = ctx.collect_events(ev, [A, A], buffer_id=parity)
            return None if got is None else B(which=parity, ns=[each.n for each in got])

        @step
        async def end(self, ctx: Context, ev: B) -> StopEvent | None:
            got = ctx.collect_events(ev, [B, B])
            return None if got is None else StopEvent(result={each.which: each.ns for each in got})

    assert await Flow().run() == {"even": [0, 2], "odd": [1, 3]}


async def test_two_steps_that_collect_the_same_event_have_a_buffer_each() -> None:
    class Flow(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[A]:
            return [A(n=1), A(n=2)]

        @step
        async def one(self, ctx: Context, ev: A) -> B | None:
            got = ctx.collect_events(ev, [A, A])
            return None if got is None else B(n=sum(each.n for each in got))

        @step
        async def two(self, ctx: Context, ev: A) -> B | None:
            got = ctx.collect_events(ev, [A, A])
            return None if got is None else B(n=sum(each.n for each in got) * 10)

        @step
        async def end(self, ctx: Context, ev: B) -> StopEvent | None:
            got = ctx.collect_events(ev, [B, B])
            return None if got is None else StopEvent(result=sorted(each.n for each in got))

    assert await Flow().run() == [3, 30]


async def test_a_subclass_does_not_fill_the_place_of_its_base() -> None:
    class Flow(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[A | SubA]:
            return [SubA(n=1), A(n=2), A(n=3)]

        @step(accept_event_subclasses=True)
        async def join(self, ctx: Context, ev: A) -> StopEvent | None:
            got = ctx.collect_events(ev, [A, A])
            return None if got is None else StopEvent(result=[each.n for each in got])

    assert await Flow().run() == [2, 3]


async def test_a_loop_collects_a_set_in_each_of_its_rounds() -> None:
    class Flow(Workflow):
        rounds = 0

        @step
        async def spread(self, ctx: Context, ev: StartEvent | C) -> A | B | None:
            ctx.send_event(A(n=self.rounds))
            return B(n=self.rounds)

        @step
        async def join(self, ctx: Context, ev: A | B) -> C | StopEvent | None:
            got = ctx.collect_events(ev, [A, B])
            if got is None:
                return None
            assert [each.n for each in got] == [self.rounds, self.rounds]
            self.rounds += 1
            return C() if self.rounds < 5 else StopEvent(result=self.rounds)

    assert await Flow().run() == 5


async def test_buffers_end_with_their_run() -> None:
    class Flow(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[A]:
            return [A(n=ev.n), A(n=ev.n), A(n=ev.n)]

        @step
        async def join(self, ctx: Context, ev: A) -> StopEvent | None:
            got = ctx.collect_events(ev, [A, A])
            return None if got is None else StopEvent(result=[each.n for each in got])

    flow = Flow()
    ctx: Context[Any] = Context(flow)
    assert [await flow.run(ctx=ctx, n=n) for n in (1, 2)] == [[1, 1], [2, 2]]


async def test_a_join_that_fails_after_it_was_complete_gets_the_same_set_when_it_is_retried() -> None:
    class Flow(Workflow):
        seen: list[list[int]] = []

        @step
        async def spread(self, ev: StartEvent) -> list[A]:
            return [A(n=n) for n in range(6)]

        @step(num_workers=1, retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(3)))
        async def join(self, ctx: Context, ev: A) -> B | None:
            got = ctx.collect_events(ev, [A] * 3)
            if got is None:
                return None
            self.seen.append([each.n for each in got])
            if ctx.retry_info().retry_number < 2:
                raise ConnectionError
            return B()

        @step
        async def end(self, ctx: Context, ev: B) -> StopEvent | None:
            return None if ctx.collect_events(ev, [B, B]) is None else StopEvent()

    await Flow().run()
    assert Flow.seen == [[0, 1, 2]] * 3 + [[3, 4, 5]] * 3


async def test_an_attempt_that_fails_after_an_incomplete_join_contributes_once() -> None:
    class Flow(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[A]:
            return [A(n=n) for n in range(3)]

        @step(num_workers=1, retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(3)))
        async def join(self, ctx: Context, ev: A) -> StopEvent | None:
            got = ctx.collect_events(ev, [A] * 3)
            if ctx.retry_info().retry_number == 0:
                raise ConnectionError
            return None if got is None else StopEvent(result=[each.n for each in got])

    assert await Flow().run() == [0, 1, 2]


async def test_calls_are_told_apart_by_their_order_within_an_execution() -> None:
    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            first = ctx.collect_events(A(n=1), [A, B])
            second = ctx.collect_events(B(n=2), [A, B])
            if ctx.retry_info().retry_number == 0:
                raise ConnectionError
            assert first is None
            assert second is not None
            return StopEvent(result=[each.n for each in second])

    assert await Flow().run() == [1, 2]


async def test_a_join_may_gather_events_that_it_made_itself() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> list[A]:
            return [A(n=1), A(n=2)]

        @step
        async def join(self, ctx: Context, ev: A) -> StopEvent | None:
            got = ctx.collect_events(B(n=ev.n * 10), [B, B])
            return None if got is None else StopEvent(result=[each.n for each in got])

    assert await Flow().run() == [10, 20]


async def test_collecting_what_is_no_event_is_refused() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.collect_events("text", [A])  # type: ignore[arg-type]
            return StopEvent()

    with pytest.raises(WorkflowRuntimeError, match="collect_events.*`only`.*str"):
        await Flow().run()


async def test_a_join_tells_how_far_it_is() -> None:
    class Listener(Middleware):
        hears = (JoinWaiting,)

        def __init__(self) -> None:
            self.heard: list[tuple[str, int, int]] = []

        def on(self, notice: Notice, /) -> None:
            assert isinstance(notice, JoinWaiting)
            self.heard.append((notice.event_type, notice.have, notice.need))

    listener = Listener()
    await Join([A, B, C], middleware=[listener]).run(events=[C(), A(), B()])
    assert listener.heard == [("C", 1, 3), ("A", 2, 3)]


async def test_events_of_a_complete_join_count_as_collected() -> None:
    handler = Join([A, B]).run(events=[A(), A(), B()])
    await handler
    counts = handler.why().events
    assert (counts["A"].sent, counts["A"].consumed, counts["A"].collected) == (2, 2, 1)
    assert (counts["B"].sent, counts["B"].consumed, counts["B"].collected) == (1, 1, 1)


async def test_a_thread_that_collects_while_its_step_ends_is_told_so() -> None:
    posted, refused = threading.Event(), list[BaseException]()
    loop = asyncio.get_running_loop()
    post = loop.call_soon_threadsafe

    def watched(*given: Any, **options: Any) -> asyncio.Handle:
        handle = post(*given, **options)
        if threading.current_thread().name == "left behind":  # not the loop guard's
            posted.set()
        return handle

    class Leaves(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> A:
            def collect() -> None:
                try:
                    ctx.collect_events(ev, [StartEvent] * 2)
                except ContextStateError as error:
                    refused.append(error)

            loop.call_soon_threadsafe = watched  # type: ignore[method-assign]
            self.thread = threading.Thread(target=collect, name="left behind")
            self.thread.start()
            posted.wait()  # the loop stands still: the step has ended when it takes the call
            loop.call_soon_threadsafe = post  # type: ignore[method-assign]
            return A()

        @step
        async def end(self, ev: A) -> StopEvent:
            await asyncio.to_thread(self.thread.join)
            return StopEvent()

    await Leaves().run()
    assert "was called after step `work` had ended" in str(refused[0])
