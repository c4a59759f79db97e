from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    StepCancelledError,
    StopEvent,
    Workflow,
    WorkflowHandler,
    WorkflowStalledError,
    WorkflowTimeoutError,
    step,
)
from tracedflow.events import WorkflowFailedEvent
from tracedflow.middleware import RunStalled

AT_ONCE = 1.0  # seconds: far above what it takes, far below every timeout here
A_WHILE = 0.05  # seconds: many turns of the loop


class Item(Event):
    n: int = 0


class Result(Event):
    n: int = 0


class Lost(Event):
    pass


class Ask(InputRequiredEvent):
    pass


class Answer(HumanResponseEvent):
    n: int = 0


async def outcome(handler: WorkflowHandler[Any], *, reading: bool = False) -> BaseException:
    """Return what the run fails with, and see that it does so at once and that its stream ends."""
    began = time.monotonic()
    events: list[Event] = []
    async with asyncio.timeout(AT_ONCE):
        if reading:
            events = [event async for event in handler.stream_events()]
        await asyncio.wait([handler])
    assert time.monotonic() - began < AT_ONCE
    error = handler.exception()
    assert error is not None
    assert isinstance(handler.get_stop_event(), WorkflowFailedEvent)
    if reading:
        assert events[-1] is handler.get_stop_event()
    return error


async def stall(handler: WorkflowHandler[Any], *, reading: bool = False) -> WorkflowStalledError:
    error = await outcome(handler, reading=reading)
    assert isinstance(error, WorkflowStalledError)
    assert isinstance(error, WorkflowTimeoutError)
    assert error.report is not None
    assert error.report.state == "stalled"
    return error


reading_or_not = pytest.mark.parametrize("reading", [False, True], ids=["unread", "read"])


# what can never finish


@reading_or_not
async def test_a_join_that_lacks_one_input_says_who_has_what_and_who_could_bring_the_rest(reading: bool) -> None:
    class Flow(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(3)]

        @step
        async def work(self, ev: Item) -> Result | None:
            return Result() if ev.n else None

        @step
        async def join(self, ctx: Context, ev: Result) -> StopEvent | None:
            return None if ctx.collect_events(ev, [Result] * 3) is None else StopEvent()

    error = await stall(Flow().run(), reading=reading)
    assert error.report is not None
    (join,) = error.report.joins
    assert (join.step, join.has, join.lacks, join.producers) == ("join", {"Result": 2}, {"Result": 1}, {"Result": ("work",)})
    text = str(error)
    assert "step `join` waits to collect 1 more Result (it has 2 Result)" in text
    assert "Result could come from step `work`, which returned None once" in text
    assert len(text) < 1000


@reading_or_not
async def test_a_step_that_returns_none_on_every_branch_is_named(reading: bool) -> None:
    class Flow(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[Item]:
            return [Item(), Item()]

        @step
        async def end(self, ev: Item) -> StopEvent | None:
            return None

    error = await stall(Flow().run(), reading=reading)
    assert "he run could be ended by step `end`, which returned None 2 times" in str(error)
    assert error.report is not None
    assert error.report.silent == {"end": 2}


@reading_or_not
async def test_an_event_that_nobody_accepts_is_named_with_its_source(reading: bool) -> None:
    class Flow(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> StopEvent | None:
            ctx.send_event(Lost())
            return None

    error = await stall(Flow().run(), reading=reading)
    assert "obody took 1 Lost from step `first`" in str(error)


@reading_or_not
async def test_a_stop_event_that_was_sent_instead_of_returned_is_explained(reading: bool) -> None:
    class Flow(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> StopEvent | None:
            ctx.send_event(StopEvent(result=1))
            return None

    error = await stall(Flow().run(), reading=reading)
    assert "1 StopEvent from step `first`" in str(error)
    assert "only when a step returns it" in str(error)


@reading_or_not
async def test_the_wrong_class_of_start_event_is_told_which_is_right(reading: bool) -> None:
    class MyStart(StartEvent):
        pass

    class YourStart(StartEvent):
        pass

    class Flow(Workflow):
        @step
        async def first(self, ev: MyStart) -> StopEvent:
            return StopEvent()

    error = await stall(Flow().run(start_event=YourStart()), reading=reading)
    assert "YourStart from outside" in str(error)
    assert "this workflow starts with MyStart" in str(error)


@reading_or_not
async def test_a_subclass_of_what_a_step_takes_is_a_near_miss(reading: bool) -> None:
    class SubItem(Item):
        pass

    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Item:
            return SubItem()

        @step
        async def second(self, ev: Item) -> StopEvent:
            return StopEvent()

    error = await stall(Flow().run(), reading=reading)
    assert "`second` takes Item but not its subclasses" in str(error)


@reading_or_not
async def test_a_cancelled_error_that_a_step_raised_itself_fails_the_run(reading: bool) -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> StopEvent:
            raise asyncio.CancelledError("mine")

    error = await outcome(Flow().run(), reading=reading)
    assert isinstance(error, StepCancelledError)
    assert "`first`" in str(error)
    assert isinstance(error.__cause__, asyncio.CancelledError)


@reading_or_not
async def test_awaiting_a_task_that_was_cancelled_fails_the_run(reading: bool) -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> StopEvent:
            task = asyncio.create_task(asyncio.sleep(60))
            task.cancel()
            await task
            return StopEvent()

    assert isinstance(await outcome(Flow().run(), reading=reading), StepCancelledError)


class Fatal(BaseException):
    pass


@reading_or_not
@pytest.mark.parametrize("error", [Fatal("gone"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=lambda e: type(e).__name__)
async def test_a_base_exception_ends_the_run_and_its_stream(error: BaseException, reading: bool) -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> StopEvent:
            raise error

    assert await outcome(Flow().run(), reading=reading) is error


@reading_or_not
async def test_a_base_exception_in_a_thread_ends_the_run_and_its_stream(reading: bool) -> None:
    class Flow(Workflow):
        @step
        def first(self, ev: StartEvent) -> StopEvent:
            raise Fatal

    assert isinstance(await outcome(Flow().run(), reading=reading), Fatal)


@reading_or_not
async def test_a_loop_that_runs_dry_stalls(reading: bool) -> None:
    class Flow(Workflow):
        @step
        async def loop(self, ev: StartEvent | Item) -> Item | StopEvent | None:
            n = ev.n if isinstance(ev, Item) else 0
            return Item(n=n + 1) if n < 100 else None

    assert "`loop`, which returned None once" in str(await stall(Flow().run(), reading=reading))


async def test_a_stall_is_noticed_with_its_report() -> None:
    class Listener(Middleware):
        hears = (RunStalled,)
        heard: list[Notice] = []

        def on(self, notice: Notice, /) -> None:
            self.heard.append(notice)

    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> StopEvent | None:
            return None

    handler = Flow(middleware=[Listener()]).run()
    error = await stall(handler)
    (notice,) = Listener.heard
    assert isinstance(notice, RunStalled)
    assert notice.report is error.report is handler.why()


async def test_a_stall_does_not_wait_for_the_timeout_nor_need_one() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> StopEvent | None:
            return None

    await stall(Flow(timeout=None).run())


async def test_a_stall_is_seen_with_many_readers() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> StopEvent | None:
            ctx.write_event_to_stream(Item())
            return None

    handler = Flow().run()

    async def read() -> int:
        return len([event async for event in handler.stream_events()])

    counts = await asyncio.wait_for(asyncio.gather(read(), read(), read()), AT_ONCE)
    assert counts == [2, 2, 2]
    await stall(handler)


# signs of life


class Idle(Workflow):
    """Comes to rest after its first step; an Item from outside would end it."""

    @step
    async def first(self, ctx: Context, ev: StartEvent) -> Item | None:
        ctx.write_event_to_stream(Result(n=1))
        return None

    @step
    async def last(self, ev: Item) -> StopEvent | None:
        return StopEvent(result=ev.n) if ev.n else None


async def at_rest(handler: WorkflowHandler[Any]) -> None:
    """Give a wrong stall time to come, and see that it does not."""
    await asyncio.sleep(A_WHILE)
    assert not handler.done()


async def test_without_any_sign_of_life_it_stalls() -> None:
    await stall(Idle().run())


@contextmanager
def sign(handler: WorkflowHandler[Any], text: str) -> Iterator[None]:
    """See that the report names the sign of life."""
    assert any(text in each for each in handler.why().signs_of_life), handler.why().signs_of_life
    assert text in str(handler.why())
    yield


async def test_a_reader_that_answers_an_event_after_a_while_keeps_the_run_alive() -> None:
    handler = Idle().run()
    async for event in handler.stream_events():
        if isinstance(event, Result):
            await at_rest(handler)
            with sign(handler, "reader"):
                await handler.send_event(Item(n=6))
    assert await handler == 6


async def test_a_reader_that_asks_for_more_without_having_answered_lets_it_stall() -> None:
    handler = Idle().run()
    async with asyncio.timeout(AT_ONCE):
        async for event in handler.stream_events():
            if isinstance(event, Result):
                await at_rest(handler)
    await stall(handler)


@pytest.mark.parametrize("how", ["break", "aclose"])
async def test_a_reader_that_leaves_lets_it_stall(how: str) -> None:
    handler = Idle().run()
    if how == "break":
        async for _ in handler.stream_events():
            await at_rest(handler)
            break
    else:
        stream = handler.stream_events()
        await anext(stream)
        await at_rest(handler)
        await stream.aclose()
    await stall(handler)


class Background(Workflow):
    """Its first step leaves a task behind, which sends an Item when `go` is set, or ends without."""

    def __init__(self, sends: bool, **options: Any) -> None:
        super().__init__(**options)
        self.sends = sends
        self.go = asyncio.Event()

    @step
    async def first(self, ctx: Context, ev: StartEvent) -> Item | None:
        async def later() -> None:
            await self.go.wait()
            if self.sends:
                ctx.send_event(Item(n=9))

        self.task = asyncio.create_task(later())
        return None

    @step
    async def last(self, ev: Item) -> StopEvent:
        return StopEvent(result=ev.n)


async def test_a_task_that_a_step_started_and_that_will_send_later_keeps_the_run_alive() -> None:
    flow = Background(sends=True)
    handler = flow.run()
    await at_rest(handler)
    flow.go.set()
    assert await handler == 9


async def test_when_the_last_such_task_has_ended_without_sending_it_stalls() -> None:
    flow = Background(sends=False)
    handler = flow.run()
    await at_rest(handler)
    flow.go.set()
    await stall(handler)


async def test_a_task_of_the_callers_own_is_no_sign_of_life() -> None:
    mine = asyncio.create_task(asyncio.sleep(60))
    await stall(Idle().run())
    mine.cancel()


async def test_a_task_of_another_run_is_no_sign_of_life() -> None:
    other = Background(sends=True)
    living = other.run()
    await at_rest(living)
    await stall(Idle().run())
    other.go.set()
    await living


async def test_expecting_something_external_keeps_the_run_alive_until_the_block_ends() -> None:
    handler = Idle().run()
    async with handler.ctx.expect_external("a webhook"):
        await at_rest(handler)
        with sign(handler, "a caller expects a webhook"):
            await handler.send_event(Item(n=3))
    assert await handler == 3


async def test_when_nothing_external_is_expected_any_more_it_stalls() -> None:
    handler = Idle().run()
    async with handler.ctx.expect_external("one"):
        async with handler.ctx.expect_external("one"):
            await at_rest(handler)
        await at_rest(handler)
    await stall(handler)


async def test_a_step_may_expect_something_external_too() -> None:
    leave = asyncio.Event()

    class Flow(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> Item | None:
            expected = ctx.expect_external("the poller")

            async def poll() -> None:
                async with expected:
                    await leave.wait()

            self.task = asyncio.get_running_loop().create_task(poll())
            return None

        @step
        async def last(self, ev: Item) -> StopEvent:
            return StopEvent(result=ev.n)

    handler = Flow().run()
    await at_rest(handler)
    await handler.send_event(Item(n=2))
    assert await handler == 2
    leave.set()


class Human(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> Ask:
        return Ask()

    @step
    async def hear(self, ev: Answer) -> StopEvent | None:
        return StopEvent(result=ev.n) if ev.n else None


async def test_an_unanswered_question_to_a_human_keeps_the_run_alive() -> None:
    handler = Human().run()
    await at_rest(handler)
    with sign(handler, "question to a human is unanswered"):
        await handler.send_event(Answer(n=5))
    assert await handler == 5


async def test_when_the_question_is_answered_and_nothing_follows_it_stalls() -> None:
    handler = Human().run()
    await at_rest(handler)
    await handler.send_event(Answer(n=0))
    error = await stall(handler)
    assert "`hear`, which returned None once" in str(error)


async def test_a_question_that_was_written_to_the_stream_counts_as_well() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> Ask | None:
            ctx.write_event_to_stream(Ask())
            return None

        @step
        async def hear(self, ev: Answer) -> StopEvent:
            return StopEvent(result=ev.n)

    handler = Flow().run()
    await at_rest(handler)
    await handler.send_event(Answer(n=5))
    assert await handler == 5


async def test_a_question_that_no_step_takes_an_answer_to_is_no_sign_of_life() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ev: StartEvent) -> Ask | StopEvent:
            return Ask()

    await stall(Flow().run())


async def test_a_parked_wait_keeps_the_run_alive() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> StopEvent | None:
            answer = await ctx.wait_for_event(Item)
            return StopEvent(result=answer.n) if answer.n else None

    handler = Flow().run()
    await at_rest(handler)
    await handler.send_event(Item(n=1))
    assert await handler == 1
    again = Flow().run()
    await at_rest(again)
    await again.send_event(Item(n=0))
    await stall(again)


async def test_a_step_that_just_takes_its_time_is_not_stalled() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(A_WHILE)
            return StopEvent(result="done")

    assert await Flow().run() == "done"


async def test_a_stepwise_run_is_not_stalled() -> None:
    handler = Idle().run(stepwise=True)
    await handler.run_step()
    await at_rest(handler)
    with sign(handler, "stepwise"):
        await handler.cancel_run()


async def test_on_stall_wait_waits_for_events_from_outside() -> None:
    handler = Idle(on_stall="wait").run()
    await at_rest(handler)
    await handler.send_event(Item(n=0))
    await at_rest(handler)
    await handler.send_event(Item(n=8))
    assert await handler == 8


async def test_on_stall_wait_still_ends_at_the_timeout_and_says_why() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> StopEvent | None:
            return None

    with pytest.raises(WorkflowTimeoutError, match="nothing is running, queued or awaited") as caught:
        await Flow(on_stall="wait", timeout=0.02).run()
    assert not isinstance(caught.value, WorkflowStalledError)


async def test_an_event_sent_in_the_same_turn_comes_in_time() -> None:
    """A caller that sends right after it saw what it waited for must not lose against the stall."""
    written = asyncio.Event()

    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Item | None:
            written.set()
            return None

        @step
        async def last(self, ev: Item) -> StopEvent:
            return StopEvent(result=ev.n)

    handler = Flow().run()
    await written.wait()
    await handler.send_event(Item(n=1))
    assert await handler == 1


async def test_a_wait_that_a_step_left_open_in_a_task_of_its_own_is_no_sign_of_life() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> StopEvent | None:
            self.task = asyncio.ensure_future(ctx.wait_for_event(Item))
            await asyncio.sleep(0)
            return None

    await stall(Flow().run())


async def test_an_event_that_is_named_almost_as_one_that_a_step_takes_is_a_near_miss() -> None:
    class Itme(Event):
        pass

    def another() -> type[Event]:
        class Item(Event):
            pass

        return Item

    class Flow(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> Item | None:
            ctx.send_event(ev.kind())
            return None

        @step
        async def take(self, ev: Item) -> StopEvent:
            return StopEvent()

    assert "`take` takes Item" in str(await stall(Flow().run(kind=Itme)))
    assert "another class of the same name" in str(await stall(Flow().run(kind=another())))


async def test_a_step_may_raise_a_stall_of_its_own() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            raise WorkflowStalledError("nothing comes any more")

    handler = Flow().run()
    events = [event async for event in handler.stream_events()]
    assert isinstance(events[-1], WorkflowFailedEvent)
    with pytest.raises(WorkflowStalledError, match="nothing comes"):
        await handler


async def test_a_run_that_ends_while_it_is_looked_at_is_not_looked_at_again() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> Item | None:
            return None

        @step
        async def take(self, ev: Item) -> StopEvent:
            return StopEvent()

    handler = Flow().run()
    await asyncio.sleep(0)
    while handler.why().running:
        await asyncio.sleep(0)
    handler.cancel()  # between the first and the second look
    with pytest.raises(asyncio.CancelledError):
        await handler


def test_a_thread_that_no_longer_expects_anything_when_its_loop_is_closed_says_so_to_nobody() -> None:
    go, left = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    class Flow(Workflow):
        @step
        def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                with ctx.expect_external("a machine"):
                    go.wait(5)
            except BaseException as error:
                errors.append(error)
            left.set()
            return StopEvent()

    async def main() -> None:
        handler = Flow(cancel_grace=0).run()
        while "a machine" not in str(handler.why()):
            await asyncio.sleep(0.001)
        await handler.cancel_run()

    asyncio.run(main())
    go.set()
    assert left.wait(5)
    assert errors == []
