from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tracedflow import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Middleware,
    Notice,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowHandler,
    WorkflowRuntimeError,
    step,
)
from tracedflow.errors import StepTimeoutError
from tracedflow.middleware import EventDropped, WaitEnded, WaitStarted
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_none
from tracedflow.testing import virtual_time


class Ask(InputRequiredEvent):
    about: str = ""


class Answer(HumanResponseEvent):
    n: int = 0


class SubAnswer(Answer):
    pass


class Item(Event):
    n: int = 0


class Early(Event):
    n: int = 0


async def turns(count: int = 10) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def parked(handler: WorkflowHandler[Any], count: int = 1) -> None:
    """Wait until so many waits are open."""
    while len(handler.why().waits) < count:
        await asyncio.sleep(0)


class Listener(Middleware):
    """Keeps the notices of some classes."""

    hears = (WaitStarted, WaitEnded, EventDropped)

    def __init__(self) -> None:
        self.heard: list[Notice] = []

    def on(self, notice: Notice, /) -> None:
        self.heard.append(notice)


# in place


async def test_a_wait_parks_in_place_and_nothing_before_it_runs_twice() -> None:
    class Flow(Workflow):
        before = 0

        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            Flow.before += 1
            ctx.write_event_to_stream(Item(n=Flow.before))
            kept = object()
            local = {"kept": kept}
            answer = await ctx.wait_for_event(Answer)
            assert local["kept"] is kept
            return StopEvent(result=answer.n)

    handler = Flow().run()
    await parked(handler)
    await handler.send_event(Answer(n=5))
    streamed = [event async for event in handler.stream_events()]
    assert await handler == 5
    assert Flow.before == 1
    assert sum(isinstance(event, Item) for event in streamed) == 1
    assert [record.attempt for record in handler.record] == [1]


async def test_finally_around_a_wait_runs_after_it_and_not_before() -> None:
    order: list[str] = []

    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                await ctx.wait_for_event(Answer)
                order.append("answered")
            finally:
                order.append("finally")
            return StopEvent()

    handler = Flow().run()
    await parked(handler)
    assert order == []
    await handler.send_event(Answer())
    await handler
    assert order == ["answered", "finally"]


async def test_a_broad_except_around_a_wait_does_no_harm() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                answer = await ctx.wait_for_event(Answer)
            except Exception:
                return StopEvent(result="swallowed")
            return StopEvent(result=answer.n)

    handler = Flow().run()
    await parked(handler)
    await handler.send_event(Answer(n=3))
    assert await handler == 3


async def test_the_question_is_published_once() -> None:
    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(3)))
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            answer = await ctx.wait_for_event(Answer, waiter_event=Ask(about="it"))
            if ctx.retry_info().retry_number < 2:
                raise ConnectionError
            return StopEvent(result=answer.n)

    handler = Flow().run()
    asked = 0
    async for event in handler.stream_events():
        if isinstance(event, Ask):
            asked += 1
            await handler.send_event(Answer(n=8))
    assert await handler == 8
    assert asked == 1


async def test_a_retry_before_the_answer_does_not_ask_again_and_takes_the_answer() -> None:
    failed = asyncio.Event()

    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ctx.retry_info().retry_number == 0:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0):
                        await ctx.wait_for_event(Answer, waiter_event=Ask())
                failed.set()
                raise ConnectionError
            answer = await ctx.wait_for_event(Answer, waiter_event=Ask())
            return StopEvent(result=answer.n)

    handler = Flow().run()
    await failed.wait()
    await parked(handler)
    await handler.send_event(Answer(n=9))
    assert await handler == 9
    asked = [event async for event in handler.stream_events() if isinstance(event, Ask)]
    assert len(asked) == 1


# which answer


async def test_one_answer_satisfies_one_wait_and_the_oldest_first() -> None:
    class Flow(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(3)]

        @step(num_workers=3)
        async def ask(self, ctx: Context, ev: Item) -> Early:
            answer = await ctx.wait_for_event(Answer)
            return Early(n=answer.n, asked_by=ev.n)

        @step
        async def join(self, ctx: Context, ev: Early) -> StopEvent | None:
            got = ctx.collect_events(ev, [Early] * 3)
            return None if got is None else StopEvent(result=[(each.asked_by, each.n) for each in got])

    handler = Flow().run()
    await parked(handler, 3)
    await handler.send_event(Answer(n=10))
    await turns()
    assert len(handler.why().waits) == 2
    await handler.send_event(Answer(n=11))
    await handler.send_event(Answer(n=12))
    assert await handler == [(0, 10), (1, 11), (2, 12)]


async def test_an_answer_must_meet_the_requirements() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            answer = await ctx.wait_for_event(Answer, requirements={"user": "ada", "n": 2})
            return StopEvent(result=answer.text)

    handler = Flow().run()
    await parked(handler)
    await handler.send_event(Answer(n=1, user="ada", text="wrong n"))
    await handler.send_event(Answer(n=2, user="bob", text="wrong user"))
    await handler.send_event(Answer(n=2, text="no user"))
    await turns()
    assert not handler.done()
    await handler.send_event(Answer(n=2, user="ada", text="right"))
    assert await handler == "right"


async def test_an_answer_goes_to_the_wait_whose_requirements_it_meets_not_to_the_oldest() -> None:
    class Flow(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(2)]

        @step
        async def ask(self, ctx: Context, ev: Item) -> Early:
            answer = await ctx.wait_for_event(Answer, requirements={"n": ev.n})
            return Early(text=f"{ev.n}:{answer.text}")

        @step
        async def join(self, ctx: Context, ev: Early) -> StopEvent | None:
            got = ctx.collect_events(ev, [Early] * 2)
            return None if got is None else StopEvent(result=[each.text for each in got])

    handler = Flow().run()
    await parked(handler, 2)
    await handler.send_event(Answer(n=1, text="one"))
    await handler.send_event(Answer(n=0, text="zero"))
    assert await handler == ["1:one", "0:zero"]


async def test_a_subclass_of_the_answer_is_no_answer_unless_the_step_takes_subclasses() -> None:
    def flow(subclasses: bool) -> Workflow[Any]:
        class Flow(Workflow):
            @step(accept_event_subclasses=subclasses)
            async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
                answer = await ctx.wait_for_event(Answer)
                return StopEvent(result=type(answer).__name__)

        return Flow()

    for subclasses, expected in ((False, "Answer"), (True, "SubAnswer")):
        handler = flow(subclasses).run()
        await parked(handler)
        await handler.send_event(SubAnswer())
        await handler.send_event(Answer())
        assert await handler == expected


async def test_an_answer_goes_to_steps_that_take_it_and_to_a_wait() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> Item:
            answer = await ctx.wait_for_event(Answer)
            return Item(n=answer.n)

        @step
        async def also(self, ev: Answer) -> Item:
            return Item(n=ev.n * 10)

        @step
        async def join(self, ctx: Context, ev: Item) -> StopEvent | None:
            got = ctx.collect_events(ev, [Item, Item])
            return None if got is None else StopEvent(result=sorted(each.n for each in got))

    handler = Flow().run()
    await parked(handler)
    await handler.send_event(Answer(n=4))
    assert await handler == [4, 40]
    assert handler.why().events["Answer"].consumed == 1


async def test_any_event_may_be_an_answer_and_may_come_from_another_step() -> None:
    class Flow(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> Item:
            ctx.send_event(Item(n=1))
            return Item(n=2)

        @step(num_workers=1)
        async def work(self, ctx: Context, ev: Item) -> StopEvent | None:
            if ev.n == 2:
                ctx.send_event(Early(n=7))
                return None
            answer = await ctx.wait_for_event(Early)
            return StopEvent(result=answer.n)

    assert await Flow().run() == 7


# several waits in one step


class Several(Workflow):
    def __init__(self, how: str, **options: Any) -> None:
        super().__init__(**options)
        self.how = how

    @step
    async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
        if self.how == "one after the other":
            answers = [await ctx.wait_for_event(Answer, waiter_event=Ask(about=str(n))) for n in range(3)]
        else:
            answers = await asyncio.gather(*[ctx.wait_for_event(Answer, waiter_event=Ask(about=str(n))) for n in range(3)])
        return StopEvent(result=[answer.n for answer in answers])


@pytest.mark.parametrize("how", ["one after the other", "at once"])
async def test_waits_for_one_class_in_one_step_get_an_answer_each(how: str) -> None:
    handler = Several(how).run()
    asked: list[str] = []
    async for event in handler.stream_events():
        if isinstance(event, Ask):
            asked.append(event.about)
            await handler.send_event(Answer(n=len(asked)))
    assert await handler == [1, 2, 3]
    assert asked == ["0", "1", "2"]


async def test_waits_at_once_are_answered_in_any_order_by_requirements() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            answers = await asyncio.gather(*[ctx.wait_for_event(Answer, requirements={"n": n}) for n in range(3)])
            return StopEvent(result=[answer.n for answer in answers])

    handler = Flow().run()
    await parked(handler, 3)
    for n in (2, 0, 1):
        await handler.send_event(Answer(n=n))
    assert await handler == [0, 1, 2]


async def test_a_waiter_id_tells_waits_apart_over_retries() -> None:
    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            names = ["a", "b"] if ctx.retry_info().retry_number == 0 else ["b", "a"]
            got = {name: (await ctx.wait_for_event(Answer, waiter_id=name)).n for name in names}
            if ctx.retry_info().retry_number == 0:
                raise ConnectionError
            return StopEvent(result=got)

    handler = Flow().run()
    await parked(handler)
    await handler.send_event(Answer(n=1))
    await parked(handler)
    await handler.send_event(Answer(n=2))
    assert await handler == {"a": 1, "b": 2}


# timeouts and cancellation


async def test_a_wait_that_nobody_answers_in_time_raises_timeout_error_in_the_step() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with pytest.raises(TimeoutError, match="Answer"):
                await ctx.wait_for_event(Answer, timeout=0.01)
            return StopEvent(result="went on")

    assert await Flow(timeout=5).run() == "went on"


@pytest.mark.parametrize("timeout", [0, -1])
async def test_a_timeout_of_nothing_is_over_at_once(timeout: float) -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.wait_for_event(Answer, timeout=timeout)
            return StopEvent()

    with pytest.raises(TimeoutError) as caught:
        await Flow(timeout=5).run()
    assert any("`only`" in note for note in caught.value.__notes__)


async def test_a_wait_that_timed_out_is_an_error_that_retry_policies_see() -> None:
    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if isinstance(ctx.retry_info().last_exception, TimeoutError):
                return StopEvent(result="second attempt")
            await ctx.wait_for_event(Answer, timeout=0.001)
            return StopEvent()

    assert await Flow(timeout=5).run() == "second attempt"


async def test_an_answer_after_the_timeout_of_a_wait_is_not_taken_by_it() -> None:
    timed_out = asyncio.Event()

    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with pytest.raises(TimeoutError):
                await ctx.wait_for_event(Answer, timeout=0.001)
            timed_out.set()
            answer = await ctx.wait_for_event(Answer, waiter_event=Ask())
            return StopEvent(result=answer.n)

    handler = Flow(timeout=5).run()
    await timed_out.wait()
    await parked(handler)
    await handler.send_event(Answer(n=6))
    assert await handler == 6


async def test_the_steps_own_asyncio_timeout_cancels_a_wait_and_the_step_goes_on() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await ctx.wait_for_event(Answer)
            await asyncio.sleep(0)
            answer = await ctx.wait_for_event(Answer)
            return StopEvent(result=answer.n)

    listener = Listener()
    handler = Flow(timeout=5, middleware=[listener]).run()
    while len([notice for notice in listener.heard if isinstance(notice, WaitStarted)]) < 2:
        await asyncio.sleep(0)
    assert len(handler.why().waits) == 1
    await handler.send_event(Answer(n=2))
    assert await handler == 2


async def test_a_wait_given_up_inside_gather_leaves_no_trace_when_the_step_returns() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            waiting = asyncio.ensure_future(ctx.wait_for_event(Answer))
            answered = await ctx.wait_for_event(Item)
            waiting.cancel()
            return StopEvent(result=answered.n)

    handler = Flow(timeout=5).run()
    await parked(handler, 2)
    await handler.send_event(Item(n=1))
    assert await handler == 1
    assert handler.why().waits == []


async def test_a_step_that_ends_while_a_wait_of_its_is_open_ends_the_wait() -> None:
    ended: list[str] = []

    class Flow(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> Item:
            async def background() -> None:
                try:
                    await ctx.wait_for_event(Answer)
                finally:
                    ended.append("background")

            self.task = asyncio.ensure_future(background())
            await asyncio.sleep(0)
            return Item()

        @step
        async def second(self, ctx: Context, ev: Item) -> StopEvent:
            await turns()
            return StopEvent(result=list(ended))

    flow = Flow(timeout=5)
    assert await flow.run() == ["background"]
    assert flow.task.cancelled()


# early answers


async def test_an_early_answer_is_kept_for_a_wait_that_asks_nothing() -> None:
    gate = asyncio.Event()

    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await gate.wait()
            answers = [await ctx.wait_for_event(Answer), await ctx.wait_for_event(Answer)]
            return StopEvent(result=[answer.n for answer in answers])

    handler = Flow().run()
    await handler.send_event(Answer(n=1))
    await handler.send_event(Answer(n=2))
    gate.set()
    assert await handler == [1, 2]


async def test_an_early_answer_is_never_taken_by_a_wait_that_publishes_its_question() -> None:
    gate = asyncio.Event()

    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await gate.wait()
            answer = await ctx.wait_for_event(Answer, waiter_event=Ask(about="delete everything?"))
            return StopEvent(result=answer.text)

    handler = Flow().run()
    await turns()
    await handler.send_event(Answer(text="stale approval"))
    gate.set()
    await parked(handler)
    assert not handler.done()
    await handler.send_event(Answer(text="fresh"))
    assert await handler == "fresh"
    assert handler.why().events["Answer"].dropped == 1


@pytest.mark.parametrize("names", [{"requirements": {"ticket": 7}}, {"waiter_id": "seven"}])
async def test_an_early_answer_that_names_its_question_is_taken(names: dict[str, Any]) -> None:
    gate = asyncio.Event()

    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await gate.wait()
            answer = await ctx.wait_for_event(Answer, waiter_event=Ask(), **names)
            return StopEvent(result=answer.n)

    handler = Flow().run()
    await turns()
    await handler.send_event(Answer(n=1, ticket=8, waiter_id="eight"))
    await handler.send_event(Answer(n=2, ticket=7, waiter_id="seven"))
    gate.set()
    assert await handler == 2


async def test_a_retry_after_the_question_was_asked_takes_no_stale_answer() -> None:
    """The approval came for nobody, between a wait that was given up and its retry."""
    gave_up, go_on = asyncio.Event(), asyncio.Event()

    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ctx.retry_info().retry_number == 0:
                gave_up.set()
                await go_on.wait()
                raise ConnectionError
            answer = await ctx.wait_for_event(Answer, waiter_event=Ask())
            return StopEvent(result=answer.text)

    handler = Flow().run()
    await gave_up.wait()
    await handler.send_event(Answer(text="stale"))
    go_on.set()
    await parked(handler)
    await handler.send_event(Answer(text="fresh"))
    assert await handler == "fresh"


async def test_at_most_100_events_of_a_type_are_held_and_the_oldest_go_first() -> None:
    gate = asyncio.Event()

    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await gate.wait()
            answers = [await ctx.wait_for_event(Answer) for _ in range(100)]
            return StopEvent(result=[answer.n for answer in answers])

    listener = Listener()
    handler = Flow(middleware=[listener]).run()
    await turns()
    for n in range(103):
        await handler.send_event(Answer(n=n))
    await handler.send_event(Early())
    gate.set()
    assert await handler == list(range(3, 103))
    reasons = [(n.event_type, n.reason) for n in listener.heard if isinstance(n, EventDropped) and n.final]
    assert reasons == [("Answer", "overflow")] * 3 + [("Early", "run_ended")]


async def test_an_event_that_nobody_takes_is_noticed_at_once_and_dropped_at_the_end() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.send_event(Early())
            return StopEvent()

    listener = Listener()
    handler = Flow(middleware=[listener]).run()
    await handler
    assert [(n.reason, n.final) for n in listener.heard if isinstance(n, EventDropped)] == [("unclaimed", False), ("run_ended", True)]
    assert handler.why().events["Early"].dropped == 1


# retries


async def test_a_retry_after_an_answer_keeps_the_answer() -> None:
    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(3)))
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            first = await ctx.wait_for_event(Answer)
            if ctx.retry_info().retry_number < 1:
                raise ConnectionError
            second = await ctx.wait_for_event(Answer)
            if ctx.retry_info().retry_number < 2:
                raise ConnectionError
            return StopEvent(result=[first.n, second.n])

    handler = Flow().run()
    await parked(handler)
    await handler.send_event(Answer(n=1))
    await parked(handler)
    await handler.send_event(Answer(n=2))
    assert await handler == [1, 2]


async def test_a_failed_attempt_ends_the_waits_that_it_left_behind() -> None:
    left: list[asyncio.Future[Answer]] = []

    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ctx.retry_info().retry_number == 0:
                left.append(asyncio.ensure_future(ctx.wait_for_event(Answer, waiter_id="left behind")))
                await asyncio.sleep(0)
                raise ConnectionError
            answer = await ctx.wait_for_event(Answer, waiter_id="of the retry")
            return StopEvent(result=(answer.n, left[0].cancelled()))

    handler = Flow(timeout=5).run()
    while not left or len(handler.why().waits) != 1 or handler.why().waits[0].waiter_id != "of the retry":
        await asyncio.sleep(0)
    await handler.send_event(Answer(n=2))
    assert await handler == (2, True)


# slots


async def test_a_parked_execution_holds_no_slot_and_waits_for_one_when_it_is_answered() -> None:
    order: list[str] = []
    release = asyncio.Event()

    class Flow(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[Item]:
            return [Item(n=0), Item(n=1)]

        @step(num_workers=1)
        async def work(self, ctx: Context, ev: Item) -> StopEvent | None:
            if ev.n == 0:
                answer = await ctx.wait_for_event(Answer)
                order.append("parked one goes on")
                return StopEvent(result=answer.n)
            order.append("second runs while the first is parked")
            await release.wait()
            order.append("second ends")
            return None

    handler = Flow().run()
    await parked(handler)
    await turns()
    assert order == ["second runs while the first is parked"]
    await handler.send_event(Answer(n=4))
    await turns()
    assert order == ["second runs while the first is parked"]
    release.set()
    assert await handler == 4
    assert order[1:] == ["second ends", "parked one goes on"]


async def test_an_answered_execution_comes_before_queued_ones() -> None:
    order: list[int] = []
    gates = {n: asyncio.Event() for n in range(4)}

    class Flow(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(4)]

        @step(num_workers=1)
        async def work(self, ctx: Context, ev: Item) -> StopEvent | None:
            if ev.n == 0:
                await ctx.wait_for_event(Answer)
            else:
                await gates[ev.n].wait()
            order.append(ev.n)
            return StopEvent() if len(order) == 4 else None

    handler = Flow().run()
    await parked(handler)
    await turns()
    await handler.send_event(Answer())
    for gate in gates.values():
        gate.set()
    await handler
    assert order == [1, 0, 2, 3]


async def test_hundreds_of_executions_park_with_one_worker() -> None:
    class Flow(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(300)]

        @step(num_workers=1)
        async def ask(self, ctx: Context, ev: Item) -> Early:
            answer = await ctx.wait_for_event(Answer, requirements={"n": ev.n})
            return Early(n=answer.n)

        @step
        async def join(self, ctx: Context, ev: Early) -> StopEvent | None:
            got = ctx.collect_events(ev, self.expected)
            return None if got is None else StopEvent(result=[each.n for each in got])

        expected = [Early] * 300

    handler = Flow().run()
    await parked(handler, 300)
    for n in reversed(range(300)):
        await handler.send_event(Answer(n=n))
    assert await handler == list(reversed(range(300)))


async def test_waiting_for_a_slot_after_the_answer_counts_as_queued_and_the_rest_as_waiting() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.wait_for_event(Answer)
            return StopEvent()

    handler = Flow().run()
    await parked(handler)
    await asyncio.sleep(0.02)
    await handler.send_event(Answer())
    await handler
    (record,) = handler.record
    assert record.waiting >= 0.015
    assert record.running < record.waiting


# notices and mistakes


async def test_a_wait_is_noticed_when_it_starts_and_when_it_ends() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.wait_for_event(Answer, waiter_id="first")
            with pytest.raises(TimeoutError):
                await ctx.wait_for_event(Item, timeout=0.001)
            await ctx.wait_for_event(Early)
            return StopEvent()

    listener = Listener()
    handler = Flow(middleware=[listener]).run()
    await parked(handler)
    await handler.send_event(Answer())
    while len(listener.heard) < 5:
        await asyncio.sleep(0)
    await handler.cancel_run()
    started = [n for n in listener.heard if isinstance(n, WaitStarted)]
    ended = [n for n in listener.heard if isinstance(n, WaitEnded)]
    assert [(n.event_type, n.waiter_id) for n in started] == [("Answer", "first"), ("Item", None), ("Early", None)]
    assert [(n.event_type, n.outcome) for n in ended] == [("Answer", "success"), ("Item", "timeout"), ("Early", "cancelled")]
    assert [n.wait_id for n in started] == [n.wait_id for n in ended]
    assert ended[0].cause is not None
    assert ended[0].cause.event_type == "Answer"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"event_type": "Answer"}, "event class"),
        ({"event_type": Answer()}, "event class"),
        ({"event_type": Answer, "waiter_event": "text"}, "waiter_event"),
        ({"event_type": Answer, "timeout": "10"}, "seconds"),
        ({"event_type": Answer, "timeout": True}, "seconds"),
    ],
)
async def test_a_wait_for_something_impossible_is_refused(arguments: dict[str, Any], said: str) -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.wait_for_event(**arguments)
            return StopEvent()

    with pytest.raises(WorkflowRuntimeError, match=said):
        await Flow(timeout=5).run()


# waits that are cut short at an awkward moment


async def test_a_wait_given_up_after_its_answer_came_but_before_a_slot_was_free_leaves_the_slots_right() -> None:
    """The step's own timeout fires while another execution has the one slot; afterwards there is still one slot."""
    release, gave_up = asyncio.Event(), asyncio.Event()
    running = 0
    peak = 0

    class Flow(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(2)]

        @step(num_workers=1)
        async def work(self, ctx: Context, ev: Item) -> Early:
            nonlocal running, peak
            if ev.n == 0:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await ctx.wait_for_event(Answer)
                gave_up.set()
                await ctx.wait_for_event(Answer, waiter_id="again", requirements={"n": 2})
            elif ev.n == 1:
                await release.wait()
            running += 1
            peak = max(peak, running)
            await asyncio.sleep(0)
            running -= 1
            return Early(n=ev.n)

        @step
        async def more(self, ctx: Context, ev: Early) -> Item | StopEvent | None:
            got = ctx.collect_events(ev, [Early] * 6)
            if got is not None:
                return StopEvent(result=sorted(each.n for each in got))
            return Item(n=ev.n + 2) if ev.n < 4 else None

    handler = Flow(timeout=5).run()
    await parked(handler)
    await turns()
    await handler.send_event(Answer(n=1))  # answered; but the other execution has the slot
    await gave_up.wait()
    release.set()
    await parked(handler)
    await handler.send_event(Answer(n=2))
    assert await handler == [0, 1, 2, 3, 4, 5]
    assert peak == 1


async def test_an_execution_parked_again_after_it_gave_up_an_answered_wait_holds_no_slot() -> None:
    release = asyncio.Event()
    order: list[str] = []

    class Flow(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(3)]

        @step(num_workers=1)
        async def work(self, ctx: Context, ev: Item) -> StopEvent | None:
            if ev.n == 0:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await ctx.wait_for_event(Answer)
                order.append("gave up")
                answer = await ctx.wait_for_event(Early)
                return StopEvent(result=answer.n)
            if ev.n == 1:
                await release.wait()
                return None
            ctx.send_event(Early(n=3))
            return None

    handler = Flow(timeout=5).run()
    await parked(handler)
    await turns()
    await handler.send_event(Answer())
    while not order:
        await asyncio.sleep(0)
    await parked(handler)
    release.set()
    assert await handler == 3


class Branches(Workflow):
    """One slot: `ask` waits for two answers at once, `busy` items take the slot meanwhile."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.may_end = asyncio.Event()

    @step
    async def start(self, ctx: Context, ev: StartEvent) -> Item | None:
        ctx.send_event(Item(n=0))
        ctx.send_event(Item(n=1))
        return None

    @step(num_workers=1, timeout=2)
    async def ask(self, ctx: Context, ev: Item) -> StopEvent | None:
        if ev.n == 1:
            await self.may_end.wait()
            return None
        first, second = await asyncio.gather(*(ctx.wait_for_event(Answer, waiter_id=str(n), requirements={"n": n}) for n in range(2)))
        return StopEvent(result=(first.n, second.n))


async def test_branches_of_a_step_that_were_answered_while_its_slot_was_taken_go_on_with_one_slot() -> None:
    flow = Branches(timeout=5)
    handler = flow.run()
    await parked(handler, 2)
    await turns()  # the other item has the slot
    for n in range(2):
        handler.ctx.send_event(Answer(n=n))
    flow.may_end.set()
    assert await handler == (0, 1)


@virtual_time()
async def test_a_branch_that_is_answered_goes_on_when_another_one_of_its_step_gives_up_waiting() -> None:
    class Flow(Branches):
        @step(num_workers=1)
        async def ask(self, ctx: Context, ev: Item) -> StopEvent | None:
            if ev.n == 1:
                await self.may_end.wait()
                return None
            answered = asyncio.ensure_future(ctx.wait_for_event(Answer, waiter_id="0", requirements={"n": 0}))
            try:
                await asyncio.wait_for(ctx.wait_for_event(Answer, waiter_id="1", requirements={"n": 1}), 1)
            except TimeoutError:
                return StopEvent(result=(await answered).n)
            return None

    handler = Flow(timeout=5).run()
    await parked(handler, 2)
    handler.ctx.send_event(Answer(n=0))
    assert await handler == 0, "the slot that it regained is that of its answered branch too"


@virtual_time()
async def test_a_step_that_waits_twice_at_once_waits_once_and_its_timeout_stands_still_until_the_last_answer() -> None:
    flow = Branches()
    flow.may_end.set()
    handler = flow.run()
    for seconds, n in ((5, 0), (7, 1)):
        await asyncio.sleep(seconds)
        handler.ctx.send_event(Answer(n=n))
    assert await handler == (0, 1)
    asked = handler.record[-1]
    assert (asked.waiting, asked.queued, asked.running) == (12.0, 0.0, 0.0)


@virtual_time()
async def test_a_wait_left_behind_by_a_failed_attempt_counts_for_that_attempt_and_leaves_the_next_its_timeout() -> None:
    class Flow(Branches):
        @step(timeout=2, retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        async def ask(self, ctx: Context, ev: Item) -> StopEvent | None:
            if ctx.retry_info().retry_number:
                await asyncio.sleep(10)
            left = asyncio.ensure_future(ctx.wait_for_event(Answer))
            await asyncio.sleep(1)
            raise ConnectionError(left)

    handler = Flow().run()
    with pytest.raises(StepTimeoutError):
        await handler
    failed = next(record.execution for record in handler.record if record.outcome == "timeout")
    first, second = (record for record in handler.record if record.execution == failed)
    assert (first.waiting, first.running) == (1.0, 0.0)
    assert (second.outcome, second.waiting, second.running) == ("timeout", 0.0, 2.0)


async def test_an_answer_that_comes_in_the_turn_in_which_a_wait_is_given_up_goes_to_nobody_and_harms_nobody() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            async def wait() -> Event:
                return await ctx.wait_for_event(Answer)

            waiting = asyncio.create_task(wait())
            for _ in range(3):
                await asyncio.sleep(0)
            waiting.cancel()
            ctx.send_event(Answer(n=1))
            with pytest.raises(asyncio.CancelledError):
                await waiting
            ctx.send_event(Answer(n=2))
            return StopEvent(result=(await ctx.wait_for_event(Answer)).n)

    assert await Flow().run() == 2
