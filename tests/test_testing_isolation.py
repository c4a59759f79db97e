"""Holds what `run_step` promises: one step alone, through the dispatcher and every layer."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from tracedflow import (
    Context,
    ContextStateError,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    Limit,
    Middleware,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowStepDoesNotExistError,
    WorkflowTimeoutError,
    catch_error,
    runs,
    step,
)
from tracedflow.errors import StepTimeoutError
from tracedflow.events import StepFailedEvent
from tracedflow.middleware import EventDropped, EventSent, RunResumed, StepCall, StepNext, StepResult, WaitStarted
from tracedflow.resource import Resource
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from tracedflow.testing import Faults, InjectedError, Recorder, UnansweredWaitError, assert_run, run_step, virtual_time

DAY = 86_400.0


class Order(StartEvent):
    count: int = 1


class Bill(Event):
    total: int


class Note(Event):
    text: str = ""


class Letter(Event):
    pages: int


class Question(InputRequiredEvent):
    text: str = ""


class Yes(HumanResponseEvent):
    of: str = ""


class Paid(StopEvent):
    total: int = 0


def price_list() -> dict[str, int]:
    raise AssertionError("the real one was asked")


def about_start(ev: Order) -> int:
    return ev.count


class Shop(Workflow[Paid]):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.calls: list[str] = []

    @step
    async def price(self, ctx: Context, ev: Order) -> Bill | Note | None:
        self.calls.append("price")
        rate = await ctx.store.get("rate", 3)
        if not ev.count:
            return None
        await ctx.store.set("priced", ev.count)
        ctx.send_event(Note(text="log"))
        ctx.write_event_to_stream(Note(text="seen"))
        return Bill(total=rate * ev.count)

    @step
    async def log(self, ev: Note) -> None:
        self.calls.append("log")

    @step
    async def ask(self, ctx: Context, ev: Bill) -> Paid:
        self.calls.append("ask")
        answer = await ctx.wait_for_event(Yes, waiter_event=Question(text="pay?"))
        return Paid(total=ev.total if answer.of == "all" else 0)


def flow(**options: Any) -> Shop:
    return Shop(telemetry=False, **options)


async def test_it_tells_what_a_step_returned_sent_and_streamed_and_starts_nothing_else() -> None:
    shop = flow()
    found = await run_step(shop, shop.price, Order(count=2))
    assert found.returned == Bill(total=6)
    assert found.returns == [Bill(total=6)]
    assert found.sent == [Note(text="log")]
    assert found.streamed == [Note(text="seen")]
    assert (found.collected, found.error) == ([], None)
    assert await found.ctx.store.get("priced") == 2
    assert [(each.step, each.attempt, each.outcome) for each in found.record] == [("price", 1, "success")]
    assert [kind for _, kind in found.record[0].events_out] == ["Note", "Bill"]
    assert shop.calls == ["price"]
    assert runs() == []


@pytest.mark.parametrize("named", ["price", Shop.price])
async def test_a_step_is_named_or_given_as_a_function(named: Any) -> None:
    assert (await run_step(flow(), named, Order(count=1))).returned == Bill(total=3)


async def test_it_says_which_steps_there_are() -> None:
    with pytest.raises(WorkflowStepDoesNotExistError, match="Shop has no step `prise`; it has ask, log, price"):
        await run_step(flow(), "prise", Order())
    with pytest.raises(TypeError, match="is no step: give the name of a step of Shop"):
        await run_step(flow(), flow, Order())  # type: ignore[type-var]


async def test_it_refuses_events_that_the_step_does_not_take() -> None:
    with pytest.raises(TypeError, match=r"step `price` \(.*:\d+\) takes Order, not Note"):
        await run_step(flow(), "price", Note())
    with pytest.raises(TypeError, match="takes an event: give one"):
        await run_step(flow(), "price")


async def test_the_store_holds_what_it_is_given() -> None:
    found = await run_step(flow(), "price", Order(count=2), store={"rate": 10})
    assert found.returned == Bill(total=20)


async def test_a_typed_store_takes_its_model() -> None:
    class Rates(BaseModel):
        rate: int = 1

    class Typed(Workflow):
        @step
        async def only(self, ctx: Context[Rates], ev: StartEvent) -> StopEvent:
            return StopEvent(result=(await ctx.store.get_state()).rate)

    assert (await run_step(Typed(), "only", StartEvent(), store=Rates(rate=4))).returned.result == 4


async def test_a_context_goes_on_from_one_step_to_the_next() -> None:
    shop = flow()
    first = await run_step(shop, "price", Order(count=2), store={"rate": 5})
    again = await run_step(shop, "price", Order(count=3), ctx=first.ctx)
    assert again.returned == Bill(total=15)


async def test_the_context_of_a_saved_run_is_refused() -> None:
    shop = flow()
    handler = shop.run(count=2)
    saved = handler.ctx.to_dict()
    with pytest.raises(ContextStateError, match="live or saved"):
        await run_step(shop, "price", Order(), ctx=handler.ctx)
    await handler.cancel_run()
    with pytest.raises(ContextStateError, match="live or saved"):
        await run_step(shop, "price", Order(), ctx=Context.from_dict(shop, saved))


# --- waits


async def test_waits_are_answered_in_order_and_the_questions_are_on_the_stream() -> None:
    found = await run_step(flow(), Shop.ask, Bill(total=6), answers=[Yes(of="all")])
    assert found.returned == Paid(total=6)
    assert found.streamed == [Question(text="pay?")]
    assert found.record[0].outcome == "success"


async def test_an_answer_may_follow_from_the_question() -> None:
    found = await run_step(flow(), "ask", Bill(total=6), answers=[lambda question: Yes(of="all" if question else "")])
    assert found.returned == Paid(total=6)


async def test_an_unanswered_wait_fails_at_once() -> None:
    with pytest.raises(UnansweredWaitError, match=r"step `ask` .* waits for Yes, and of the answers none is left; give run_step\(answers="):
        await run_step(flow(), "ask", Bill(total=6))
    with pytest.raises(UnansweredWaitError, match="waits for Yes, and of the answers none of .*Note.* fits"):
        await run_step(flow(), "ask", Bill(total=6), answers=[Note()])


class Waits(Workflow):
    @step
    async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
        one, two = await asyncio.gather(
            ctx.wait_for_event(Yes, waiter_id="one", requirements={"of": "one"}),
            ctx.wait_for_event(Yes, waiter_id="two", requirements={"of": "two"}),
        )
        try:
            await ctx.wait_for_event(Note, timeout=None)
        except TimeoutError:
            return StopEvent(result=[one.of, two.of, "timed out"])
        return StopEvent()

    @step
    def in_a_thread(self, ctx: Context, ev: Bill) -> StopEvent:
        ctx.send_event(Note(text="from a thread"))
        return StopEvent(result=ctx.sync.wait_for_event(Yes).of)


async def test_an_answer_goes_to_the_wait_that_it_fits_and_a_wait_may_time_out_at_once() -> None:
    found = await run_step(Waits(disable_validation=True), "only", StartEvent(), answers=[Yes(of="two"), Yes(of="one"), TimeoutError])
    assert found.returned.result == ["one", "two", "timed out"]


async def test_a_wait_that_would_last_long_times_out_at_once() -> None:
    found = await run_step(flow(), "ask", Bill(total=1), answers=[TimeoutError], catch=TimeoutError)
    assert isinstance(found.error, TimeoutError)


@virtual_time()
async def test_a_wait_that_stays_open_lasts_as_long_as_it_would() -> None:
    began = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        await run_step(flow(timeout=None), "ask", Bill(total=1), answers=[None])
    assert asyncio.get_running_loop().time() - began == 2000


async def test_a_named_wait_that_lacks_its_answer_says_which() -> None:
    text = "waits for Yes with {'of': 'one'}, waiter_id='one'"
    with pytest.raises(UnansweredWaitError, match=text):
        await run_step(Waits(disable_validation=True), "only", StartEvent())


async def test_an_answer_that_the_step_sent_itself_comes_first() -> None:
    class Answers(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.send_event(Yes(of="itself"))
            first = await ctx.wait_for_event(Yes)
            second = await ctx.wait_for_event(Yes)
            return StopEvent(result=[first.of, second.of])

    found = await run_step(Answers(), "only", StartEvent(), answers=[Yes(of="us")])
    assert found.returned.result == ["itself", "us"]
    assert found.sent == [Yes(of="itself")]


async def test_a_plain_function_runs_in_a_thread_and_waits_there() -> None:
    found = await run_step(Waits(disable_validation=True), "in_a_thread", Bill(total=1), answers=[Yes(of="us")])
    assert found.returned.result == "us"
    assert found.sent == [Note(text="from a thread")]


# --- joins


class Joins(Workflow):
    @step
    async def spread(self, ev: Order) -> list[Bill]:
        return [Bill(total=n) for n in range(ev.count)]

    @step
    async def notes(self, ev: Order) -> Note:
        return Note()

    @step
    async def join(self, ctx: Context, ev: Bill) -> Paid | None:
        bills = ctx.collect_events(ev, [Bill] * 3)
        return None if bills is None else Paid(total=sum(bill.total for bill in bills))

    @step
    async def letter(self, ev: Order) -> Letter:
        return Letter(pages=ev.count)

    @step
    async def both(self, letter: Letter, note: Note) -> Paid:
        return Paid(total=letter.pages)


class Gathers(Workflow):
    @step
    async def spread(self, ev: Order) -> list[Bill]:
        return [Bill(total=n) for n in range(ev.count)]

    @step
    async def total(self, ev: list[Bill]) -> StopEvent:
        return StopEvent(result=sum(bill.total for bill in ev))


async def test_each_event_starts_an_execution_and_a_join_collects_them() -> None:
    found = await run_step(Joins(), Joins.join, Bill(total=1), Bill(total=2), Bill(total=3))
    assert found.returns == [None, None, Paid(total=6)]
    assert found.returned == Paid(total=6)
    assert found.collected == [[Bill(total=1), Bill(total=2), Bill(total=3)]]
    assert [each.outcome for each in found.record] == ["collecting", "collecting", "success"]


async def test_a_join_that_lacks_something_says_what() -> None:
    found = await run_step(Joins(), "join", Bill(total=1), Bill(total=2))
    assert found.returns == [None, None]
    assert found.collected == []
    (join,) = found.why().joins
    assert (join.has, join.lacks) == ({"Bill": 2}, {"Bill": 1})


async def test_a_step_of_several_parameters_gets_one_event_for_each_in_any_order() -> None:
    found = await run_step(Joins(), Joins.both, Note(), Letter(pages=4))
    assert found.returned == Paid(total=4)
    with pytest.raises(TypeError, match="also takes Note as `note`; give one of each"):
        await run_step(Joins(), "both", Letter(pages=4))
    with pytest.raises(TypeError, match="1 too many were given"):
        await run_step(Joins(), "both", Letter(pages=4), Note(), Note())


async def test_a_step_that_takes_a_list_gets_all_of_them() -> None:
    found = await run_step(Gathers(), Gathers.total, Bill(total=4), Bill(total=5))
    assert found.returned.result == 9
    assert (await run_step(Gathers(), "total")).returned.result == 0


async def test_a_step_may_return_a_list() -> None:
    found = await run_step(Gathers(), Gathers.spread, Order(count=2))
    assert found.returned == [Bill(total=0), Bill(total=1)]


async def test_a_step_that_sends_itself_its_own_event_runs_once() -> None:
    class Loops(Workflow):
        calls = 0

        @step
        async def again(self, ctx: Context, ev: StartEvent | Note) -> Note | StopEvent:
            self.calls += 1
            ctx.send_event(Note(text="sent"))
            return Note(text="returned")

    loops = Loops()
    found = await run_step(loops, Loops.again, Note())
    assert (found.returned, found.sent, loops.calls) == (Note(text="returned"), [Note(text="sent")], 1)


async def test_no_more_executions_run_at_once_than_workers_allow() -> None:
    class Narrow(Workflow):
        live = most = 0

        @step(num_workers=2)
        async def work(self, ev: StartEvent) -> StopEvent | None:
            self.live += 1
            self.most = max(self.most, self.live)
            await asyncio.sleep(0)
            self.live -= 1
            return None

    narrow = Narrow()
    found = await run_step(narrow, "work", *[StartEvent() for _ in range(5)])
    assert (narrow.most, len(found.record), found.returns) == (2, 5, [None] * 5)
    assert_run(found).parallel("work", at_most=2)


# --- resources, retries, errors


class Buys(Workflow):
    @step
    async def buy(self, ev: Bill, prices: Annotated[dict[str, int], Resource(price_list)]) -> StopEvent:
        return StopEvent(result=prices["tea"])

    @step
    async def count(self, ev: Order, count: Annotated[int, Resource(about_start, cache=False)]) -> Bill | StopEvent:
        return Bill(total=count)


@pytest.mark.parametrize("target", [price_list, "price_list"])
async def test_resources_are_replaced_for_this_run_only(target: Any) -> None:
    buys = Buys()
    found = await run_step(buys, Buys.buy, Bill(total=1), resources={target: {"tea": 5}})
    assert found.returned.result == 5
    with pytest.raises(AssertionError, match="the real one"):
        await run_step(buys, "buy", Bill(total=1))


async def test_a_factory_sees_the_start_event_that_is_given() -> None:
    assert (await run_step(Buys(), "count", Order(count=4))).returned == Bill(total=4)
    assert (await run_step(Buys(), "count", Order(count=4), start_event=Order(count=9))).returned == Bill(total=9)


class Flaky(Workflow):
    @step(retry_policy=retry_policy(wait=wait_fixed(DAY), stop=stop_after_attempt(3)), timeout=60)
    async def fetch(self, ctx: Context, ev: Order) -> StopEvent:
        if ev.count:
            await asyncio.sleep(61 if ctx.retry_info().retry_number < ev.count else 0)
        return StopEvent(result=ctx.retry_info().retry_number)


@virtual_time()
async def test_retries_and_timeouts_are_those_of_any_run() -> None:
    found = await run_step(Flaky(timeout=None), "fetch", Order(count=2))
    assert found.returned.result == 2
    assert [each.outcome for each in found.record] == ["timeout", "timeout", "success"]
    assert_run(found).attempts("fetch", 3).took(exactly=2 * DAY + 120)
    with pytest.raises(StepTimeoutError):
        await run_step(Flaky(timeout=None), "fetch", Order(count=3))


@virtual_time()
async def test_further_layers_go_inside_those_of_the_workflow() -> None:
    recorder = Recorder()
    faults = Faults().fail("fetch", attempt=1)
    found = await run_step(Flaky(timeout=None, middleware=[recorder]), "fetch", Order(count=0), middleware=[faults])
    assert found.returned.result == 1
    assert [type(seen.error) for seen in recorder.tries("fetch")] == [InjectedError, type(None)]


async def test_the_layers_of_the_workflow_wrap_the_step_and_may_change_what_comes_out() -> None:
    class Doubles(Middleware):
        async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
            result = await call_next(call)
            return Bill(total=2 * result.total) if isinstance(result, Bill) else result

    recorder = Recorder()
    shop = flow(middleware=[Doubles(), recorder])
    found = await run_step(shop, "price", Order(count=1))
    assert found.returned == Bill(total=6)
    assert recorder.steps[0].result == Bill(total=3)
    assert recorder.timeline[0] == "run Shop began"
    assert not recorder.heard(RunResumed)
    assert not recorder.heard(EventDropped)
    assert [notice.to for notice in recorder.heard(EventSent)] == [("log",), ("ask",)]


async def test_the_instance_is_as_before_afterwards() -> None:
    recorder = Recorder()
    shop = flow(middleware=[recorder])
    await run_step(shop, "price", Order(count=1))
    handler = shop.run(count=2)
    async for event in handler.stream_events():
        if isinstance(event, Question):
            handler.ctx.send_event(Yes(of="all"))
    assert await handler == Paid(total=6)
    assert shop.calls == ["price", "price", "log", "ask"] or sorted(shop.calls) == ["ask", "log", "price", "price"]


class Breaks(Workflow):
    @step
    async def first(self, ctx: Context, ev: StartEvent) -> Note | Bill:
        ctx.send_event(Bill(total=1))
        raise ConnectionError("lost")

    @step
    async def second(self, ev: Note | Bill) -> StopEvent:
        return StopEvent()


class Mends(Breaks):
    @catch_error
    async def mend(self, ev: StepFailedEvent) -> StopEvent:
        return StopEvent(result=ev.step_name)


@pytest.mark.parametrize("kind", [Breaks, Mends])
async def test_what_a_step_raises_is_raised_unless_it_is_to_be_caught(kind: type[Workflow]) -> None:
    with pytest.raises(ConnectionError, match="lost"):
        await run_step(kind(), "first", StartEvent())
    found = await run_step(kind(), "first", StartEvent(), catch=ConnectionError)
    assert isinstance(found.error, ConnectionError)
    assert (found.returned, found.sent) == (None, [Bill(total=1)])
    assert [each.outcome for each in found.record] == ["error"]
    with pytest.raises(ConnectionError):
        await run_step(kind(), "first", StartEvent(), catch=(ValueError, KeyError))


async def test_the_handler_of_errors_can_run_alone() -> None:
    failed = (await run_step(Mends(), "first", StartEvent(), catch=ConnectionError)).error
    assert isinstance(failed, ConnectionError)
    from datetime import UTC, datetime

    event = StepFailedEvent(
        step_name="first", input_event=StartEvent(), exception=failed, attempts=1, elapsed_seconds=0, failed_at=datetime.now(UTC)
    )
    assert (await run_step(Mends(), "mend", event)).returned.result == "first"


async def test_a_run_that_takes_too_long_times_out() -> None:
    class Slow(Workflow):
        @step
        async def slow(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(60)
            return StopEvent()

    with pytest.raises(WorkflowTimeoutError):
        await run_step(Slow(timeout=0.01), "slow", StartEvent())
    with pytest.raises(WorkflowCancelledByUser):
        await run_step(Slow(), "slow", StartEvent(), middleware=[Faults().cancel("slow", after=0.01)])


async def test_a_cancelled_caller_cancels_the_step() -> None:
    ended = asyncio.Event()
    began = asyncio.Event()

    class Slow(Workflow):
        @step
        async def slow(self, ev: StartEvent) -> StopEvent:
            began.set()
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()
            return StopEvent()

    task = asyncio.create_task(run_step(Slow(), "slow", StartEvent()))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    assert runs() == []


async def test_limits_hold() -> None:
    api = Limit("api of a lone step", concurrency=1)

    class Limited(Workflow):
        @step(limit=api)
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=api.in_use)

    assert (await run_step(Limited(), "only", StartEvent())).returned.result == 1
    assert api.in_use == 0


async def test_it_says_nothing_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        await run_step(flow(), "price", Order(count=2))
    assert caplog.records == []


async def test_default_layers_see_it(capsys: pytest.CaptureFixture[str]) -> None:
    await run_step(Shop(verbose=True), "price", Order(count=2))
    assert "price" in capsys.readouterr().err


async def test_waits_are_noticed() -> None:
    recorder = Recorder()
    await run_step(flow(middleware=[recorder]), "ask", Bill(total=6), answers=[Yes()])
    assert [notice.event_type for notice in recorder.heard(WaitStarted)] == ["Yes"]
