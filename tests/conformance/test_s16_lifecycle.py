"""Section 16: what a run tells of itself on the stream with `expose_internal=True`, and section 1.5, its events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tracedflow import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    StreamOffsetError,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowHandler,
    WorkflowStalledError,
    WorkflowTimeoutError,
    catch_error,
    step,
)
from tracedflow.events import (
    InternalDispatchEvent,
    StepFailedEvent,
    StepState,
    StepStateChanged,
    UnhandledEvent,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    WorkflowIdleEvent,
    WorkflowTimedOutEvent,
)
from tracedflow.middleware import EventStreamed, Notice, Observer
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from tracedflow.testing import virtual_time


class Mid(Event):
    pass


class Item(Event):
    n: int = 0


class Done(Event):
    pass


class Ask(InputRequiredEvent):
    pass


class Answer(HumanResponseEvent):
    pass


class Stray(Event):
    pass


IDLE = WorkflowIdleEvent
STOP = StopEvent


def told(event: Event) -> Any:
    """Return a step's change of state as `name`, state, worker id, names of input and output; of others the class."""
    if not isinstance(event, StepStateChanged):
        return type(event)
    names = (event.input_event_name, event.output_event_name)
    return (event.name, event.step_state.value, event.worker_id, *names)


def running(name: str, taken: str = "StartEvent", worker: str = "0") -> tuple[Any, ...]:
    return (name, "running", worker, taken, None)


def ended(name: str, output: str | None, taken: str = "StartEvent", worker: str = "0") -> tuple[Any, ...]:
    return (name, "not_running", worker, taken, output)


def preparing(name: str, taken: str) -> tuple[Any, ...]:
    return (name, "preparing", "<enqueued>", taken, None)


async def trace(handler: WorkflowHandler[Any]) -> list[Any]:
    return [told(event) async for event in handler.stream_events(expose_internal=True)]


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Rests(Workflow):
    """Ends only when it is answered."""

    @step
    async def rest(self, ev: StartEvent) -> None: ...

    @step
    async def answered(self, ev: Answer) -> StopEvent:
        return StopEvent("answered")


class Sleeps(Workflow):
    @step
    async def s(self, ev: StartEvent) -> StopEvent:
        await asyncio.Event().wait()
        return StopEvent()


# ------------------------------------------------------------------------------------------ the twelve reference traces


async def test_1_success() -> None:
    class Flow(Workflow):
        @step
        async def s(self, ev: StartEvent) -> StopEvent:
            return StopEvent("done")

    handler = Flow().run()
    assert await trace(handler) == [running("s"), ended("s", "StopEvent"), STOP]
    assert await handler == "done"


async def test_2_two_steps() -> None:
    class Flow(Workflow):
        @step
        async def a(self, ev: StartEvent) -> Mid:
            return Mid()

        @step
        async def b(self, ev: Mid) -> StopEvent:
            return StopEvent()

    assert await trace(Flow().run()) == [
        running("a"), ended("a", "Mid"), running("b", "Mid"), ended("b", "StopEvent", "Mid"), STOP,
    ]  # fmt: skip


class Flaky(Workflow):
    def __init__(self, failures: int, **options: Any) -> None:
        super().__init__(**options)
        self.failures = failures

    @step(retry_policy=retry_policy(wait=wait_fixed(1), stop=stop_after_attempt(3)))
    async def s(self, ev: StartEvent) -> StopEvent:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("lost")
        return StopEvent()


@virtual_time()
async def test_3_a_retry_that_succeeds() -> None:
    tries = [running("s"), ended("s", None)] * 2
    assert await trace(Flaky(2).run()) == [*tries, running("s"), ended("s", "StopEvent"), STOP]


@virtual_time()
async def test_4_a_failure_for_good() -> None:
    handler = Flaky(3).run()
    events = [event async for event in handler.stream_events(expose_internal=True)]
    assert [told(event) for event in events] == [*[running("s"), ended("s", None)] * 3, WorkflowFailedEvent]
    last = events[-1]
    assert isinstance(last, WorkflowFailedEvent)
    assert (last.step_name, type(last.exception), last.attempts, last.elapsed_seconds) == ("s", ConnectionError, 3, pytest.approx(2))
    with pytest.raises(ConnectionError):
        await handler


async def test_5_a_recovery() -> None:
    class Flow(Workflow):
        @step
        async def s(self, ev: StartEvent) -> StopEvent:
            raise ConnectionError

        @catch_error
        async def c(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent("rescued")

    assert await trace(Flow().run()) == [
        running("s"), ended("s", None), running("c", "StepFailedEvent"), ended("c", "StopEvent", "StepFailedEvent"), STOP,
    ]  # fmt: skip


@virtual_time()
async def test_6_a_timeout_closes_every_step() -> None:
    handler = Sleeps(timeout=5).run()
    events = [event async for event in handler.stream_events(expose_internal=True)]
    assert [told(event) for event in events] == [running("s"), ended("s", None), WorkflowTimedOutEvent]
    assert isinstance(events[-1], WorkflowTimedOutEvent)
    assert (events[-1].timeout, events[-1].active_steps) == (5, ["s"])
    with pytest.raises(WorkflowTimeoutError):
        await handler


async def test_7_a_cancelled_run_closes_every_step() -> None:
    handler = Sleeps().run()
    reading = asyncio.create_task(trace(handler))
    await turns()
    await handler.cancel_run()
    assert await reading == [running("s"), ended("s", None), WorkflowCancelledEvent]
    with pytest.raises(WorkflowCancelledByUser):
        await handler


class Asks(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        answer = await ctx.wait_for_event(Answer, waiter_event=Ask())
        return StopEvent(answer.get("text"))


async def test_8_a_wait_goes_on_in_place_and_is_no_second_start() -> None:
    handler = Asks().run()
    seen: list[Any] = []
    async for event in handler.stream_events(expose_internal=True):
        seen.append(told(event))
        if isinstance(event, WorkflowIdleEvent):
            handler.ctx.send_event(Answer(text="yes"))
    assert seen == [running("ask"), ended("ask", None), Ask, IDLE, ended("ask", "StopEvent"), STOP]
    assert await handler == "yes"


async def test_9_an_event_from_outside_that_nobody_takes() -> None:
    handler = Asks().run()
    stream = handler.stream_events(expose_internal=True)
    first = [told(await anext(stream)) for _ in range(4)]
    assert first[-1] is IDLE
    handler.ctx.send_event(Stray())
    unhandled = await anext(stream)
    assert isinstance(unhandled, UnhandledEvent)
    assert unhandled.model_dump() == {
        "event_type": "Stray",
        "qualified_name": f"{__name__}.Stray",
        "step_name": None,
        "idle": True,
    }
    assert told(await anext(stream)) is IDLE
    await handler.cancel_run()


async def test_10_a_run_that_came_to_rest_fails() -> None:
    handler = Rests().run()
    assert await trace(handler) == [running("rest"), ended("rest", "NoneType"), IDLE, WorkflowFailedEvent]
    with pytest.raises(WorkflowStalledError):
        await handler


@virtual_time()
async def test_10_a_run_that_came_to_rest_and_shall_wait_times_out() -> None:
    handler = Rests(on_stall="wait", timeout=5).run()
    events = [event async for event in handler.stream_events(expose_internal=True)]
    assert [told(event) for event in events] == [running("rest"), ended("rest", "NoneType"), IDLE, WorkflowTimedOutEvent]
    assert isinstance(events[-1], WorkflowTimedOutEvent)
    assert events[-1].active_steps == []
    with pytest.raises(WorkflowTimeoutError):
        await handler


async def test_11_an_event_that_finds_no_free_slot() -> None:
    class Flow(Workflow):
        @step
        async def split(self, ctx: Context, ev: StartEvent) -> Item | None:
            for n in range(2):
                ctx.send_event(Item(n=n))
            return None

        @step(num_workers=1)
        async def m(self, ev: Item) -> StopEvent | None:
            return StopEvent() if ev.n else None

    seen = await trace(Flow().run())
    assert [each for each in seen if each is STOP or each[0] == "m"] == [
        running("m", "Item"),
        preparing("m", "Item"),
        ended("m", "NoneType", "Item"),
        running("m", "Item"),
        ended("m", "StopEvent", "Item"),
        STOP,
    ]


async def test_12_a_stop_event_that_is_only_written_ends_the_reader() -> None:
    class Flow(Workflow):
        @step
        async def s(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.write_event_to_stream(StopEvent("early"))
            return StopEvent("late")

    handler = Flow().run()
    events = [event async for event in handler.stream_events(expose_internal=True)]
    assert [told(event) for event in events] == [running("s"), STOP]
    assert events[-1].result == "early"
    assert await handler == "late"


# ------------------------------------------------------------------------------------------ workers


class Crowd(Workflow):
    """Five items for two workers, let go one by one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.gates = [asyncio.Event() for _ in range(5)]

    @step
    async def split(self, ev: StartEvent) -> list[Item]:
        return [Item(n=n) for n in range(5)]

    @step(num_workers=2)
    async def work(self, ev: Item) -> Done:
        await self.gates[ev.n].wait()
        return Done()

    @step
    async def join(self, evs: list[Done]) -> StopEvent:
        return StopEvent(len(evs))


async def test_workers_have_the_ids_of_the_slots_that_they_hold() -> None:
    flow = Crowd()
    handler = flow.run()
    reading = asyncio.create_task(trace(handler))
    for n in (1, 0, 3, 2, 4):
        await turns()
        flow.gates[n].set()
    one, two = ("Item", "0"), ("Item", "1")
    assert await reading == [
        running("split"), ended("split", "list"),
        running("work", *one), running("work", *two), *[preparing("work", "Item")] * 3,
        ended("work", "Done", *two), running("work", *two),
        ended("work", "Done", *one), running("work", *one),
        ended("work", "Done", *one), running("work", *one),
        ended("work", "Done", *two), ended("work", "Done", *one),
        running("join", "Done"), ended("join", "StopEvent", "Done"), STOP,
    ]  # fmt: skip


async def test_when_one_of_many_fails_every_other_is_closed() -> None:
    class Flow(Crowd):
        @step(num_workers=3)
        async def work(self, ev: Item) -> Done:
            if ev.n == 1:
                await turns()
                raise ConnectionError
            await asyncio.Event().wait()
            return Done()

    handler = Flow().run()
    seen = [each for each in await trace(handler) if each is WorkflowFailedEvent or each[0] == "work"]
    workers = [("Item", str(n)) for n in range(3)]
    assert seen == [
        *(running("work", *worker) for worker in workers),
        *[preparing("work", "Item")] * 2,
        *(ended("work", None, *worker) for worker in workers),
        WorkflowFailedEvent,
    ]
    with pytest.raises(ConnectionError):
        await handler


async def test_a_parked_step_gives_its_worker_away() -> None:
    class Flow(Workflow):
        @step
        async def split(self, ev: StartEvent) -> list[Item]:
            return [Item(n=0), Item(n=1)]

        @step(num_workers=1)
        async def ask(self, ctx: Context, ev: Item) -> Done:
            await ctx.wait_for_event(Answer, requirements={"n": ev.n})
            return Done()

        @step
        async def join(self, evs: list[Done]) -> StopEvent:
            return StopEvent()

    handler = Flow().run()
    seen: list[Any] = []
    left = [1, 0]
    async for event in handler.stream_events(expose_internal=True):
        if isinstance(event, WorkflowIdleEvent):
            handler.ctx.send_event(Answer(n=left.pop()))
        if told(event) is IDLE or (isinstance(event, StepStateChanged) and event.name == "ask"):
            seen.append(told(event))
    assert seen == [
        running("ask", "Item"), preparing("ask", "Item"), ended("ask", None, "Item"),
        running("ask", "Item"), ended("ask", None, "Item"), IDLE,
        ended("ask", "Done", "Item"), IDLE, ended("ask", "Done", "Item"),
    ]  # fmt: skip


async def test_a_retry_without_delay_is_a_new_start_too() -> None:
    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(2)))
        async def s(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if not ctx.retry_info().retry_number:
                raise ConnectionError
            return StopEvent()

    assert await trace(Flow().run()) == [running("s"), ended("s", None), running("s"), ended("s", "StopEvent"), STOP]


@virtual_time()
async def test_a_run_is_not_idle_while_a_retry_is_to_come_and_is_while_a_wait_has_a_time_limit() -> None:
    class Flow(Flaky):
        @step
        async def s(self, ctx: Context, ev: StartEvent) -> StopEvent:  # type: ignore[override]
            with pytest.raises(TimeoutError):
                await ctx.wait_for_event(Answer, timeout=10)
            return StopEvent()

    assert IDLE not in await trace(Flaky(1).run())
    assert await trace(Flow(0).run()) == [running("s"), ended("s", None), IDLE, ended("s", "StopEvent"), STOP]


async def test_a_step_that_gave_up_its_wait_goes_on_and_is_not_idle() -> None:
    class Flow(Workflow):
        def __init__(self) -> None:
            super().__init__()
            self.gate = asyncio.Event()

        @step
        async def s(self, ctx: Context, ev: StartEvent) -> StopEvent:
            waiting = asyncio.ensure_future(ctx.wait_for_event(Answer))
            await turns()
            waiting.cancel()
            await turns()
            ctx.write_event_to_stream(Stray())
            await self.gate.wait()
            return StopEvent()

    flow = Flow()
    handler = flow.run()
    reading = asyncio.create_task(trace(handler))
    await turns(50)
    flow.gate.set()
    assert await reading == [running("s"), ended("s", None), IDLE, Stray, ended("s", "StopEvent"), STOP]


async def test_an_event_that_no_open_wait_wants_is_unhandled() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            answer = await ctx.wait_for_event(Answer, requirements={"n": 1})
            return StopEvent(answer.n)

    handler = Flow().run()
    seen: list[Any] = []
    sent = 0
    async for event in handler.stream_events(expose_internal=True):
        seen.append(told(event))
        if isinstance(event, WorkflowIdleEvent):
            handler.ctx.send_event(Answer(n=sent))
            sent += 1
    assert seen == [running("ask"), ended("ask", None), IDLE, UnhandledEvent, IDLE, ended("ask", "StopEvent"), STOP]


async def test_an_unhandled_event_of_a_step_says_that_the_run_is_not_idle() -> None:
    class Flow(Workflow):
        @step
        async def s(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.send_event(Stray())
            return StopEvent()

    events = [event async for event in Flow().run().stream_events(expose_internal=True)]
    assert [told(event) for event in events] == [running("s"), UnhandledEvent, ended("s", "StopEvent"), STOP]
    assert isinstance(events[1], UnhandledEvent)
    assert not events[1].idle


async def test_a_question_that_is_returned_stands_between_its_step_and_the_idle_run() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Ask:
            return Ask()

        @step
        async def second(self, ev: Answer) -> StopEvent:
            return StopEvent()

    handler = Flow().run()
    seen: list[Any] = []
    async for event in handler.stream_events(expose_internal=True):
        seen.append(told(event))
        if isinstance(event, WorkflowIdleEvent):
            handler.ctx.send_event(Answer())
    assert seen == [
        running("first"),
        ended("first", "Ask"),
        Ask,
        IDLE,
        running("second", "Answer"),
        ended("second", "StopEvent", "Answer"),
        STOP,
    ]


async def test_a_nested_run_tells_its_own_readers_only() -> None:
    class Outer(Workflow):
        @step
        async def outer(self, ev: StartEvent) -> StopEvent:
            return StopEvent(await Rests.run(Inner()))

    class Inner(Workflow):
        @step
        async def inner(self, ev: StartEvent) -> StopEvent:
            return StopEvent(1)

    assert await trace(Outer().run()) == [running("outer"), ended("outer", "StopEvent"), STOP]


async def test_a_resumed_run_starts_again_what_was_live() -> None:
    flow = Asks()
    handler = flow.run()
    async for event in handler.stream_events():
        if isinstance(event, Ask):
            break
    saved = handler.ctx.to_dict()
    await handler.cancel_run()
    resumed = flow.run(ctx=Context.from_dict(flow, saved))
    seen: list[Any] = []
    async for event in resumed.stream_events(expose_internal=True):
        seen.append(told(event))
        if isinstance(event, WorkflowIdleEvent):
            resumed.ctx.send_event(Answer(text="late"))
    assert seen == [running("ask"), ended("ask", None), IDLE, ended("ask", "StopEvent"), STOP]
    assert await resumed == "late"


async def test_in_a_stepwise_run_a_step_runs_when_the_caller_says_so() -> None:
    class Flow(Workflow):
        @step
        async def a(self, ev: StartEvent) -> Mid:
            return Mid()

        @step
        async def b(self, ev: Mid) -> StopEvent:
            return StopEvent()

    handler = Flow().run(stepwise=True)
    seen: list[Any] = []

    async def read() -> None:
        async for event in handler.stream_events(expose_internal=True):
            seen.append(told(event))  # noqa: PERF401 - looked at while it grows

    reading = asyncio.create_task(read())
    await turns()
    assert seen == []
    produced = await handler.run_step()
    await turns()
    assert seen == [running("a"), ended("a", "Mid")]
    assert produced
    handler.ctx.send_event(produced[0])
    await turns()
    assert len(seen) == 2
    while await handler.run_step() is not None:
        pass
    await reading
    assert seen[2:] == [running("b", "Mid"), ended("b", "StopEvent", "Mid"), STOP]


# ------------------------------------------------------------------------------------------ readers


async def offsets(stream: AsyncIterator[Event]) -> list[tuple[Any, int]]:
    return [(told(event), stream.offset) async for event in stream]  # type: ignore[attr-defined]


class Writes(Workflow):
    @step
    async def first(self, ctx: Context, ev: StartEvent) -> Mid:
        for n in range(3):
            ctx.write_event_to_stream(Item(n=n))
        return Mid()

    @step
    async def second(self, ctx: Context, ev: Mid) -> StopEvent:
        ctx.write_event_to_stream(Done())
        return StopEvent()


async def test_a_reader_who_did_not_ask_sees_no_internal_event_and_no_offset_changes() -> None:
    alone = await offsets(Writes().run().stream_events())
    handler = Writes().run()
    inside = asyncio.create_task(offsets(handler.stream_events(expose_internal=True)))
    beside = asyncio.create_task(offsets(handler.stream_events()))
    assert await beside == alone == [(Item, 1), (Item, 2), (Item, 3), (Done, 4), (STOP, 5)]
    assert await offsets(handler.stream_events(offset=3)) == alone[3:]
    seen = await inside
    assert [each for each in seen if isinstance(each[0], type)] == alone
    assert [offset for each, offset in seen if not isinstance(each, type)] == [0, 3, 3, 4]


async def test_internal_events_push_no_event_out_of_what_is_kept() -> None:
    handler = Writes(keep_events=5).run()
    reading = asyncio.create_task(trace(handler))
    assert [told(event) async for event in handler.stream_events(offset=0)] == [Item, Item, Item, Done, STOP]
    await reading


async def test_a_reader_that_comes_later_is_told_first_what_runs_and_gets_no_internal_event_of_before() -> None:
    flow = Crowd()
    handler = flow.run()
    early = asyncio.create_task(trace(handler))
    await turns()
    flow.gates[1].set()
    await turns()
    stream = handler.stream_events(expose_internal=True)
    late = asyncio.create_task(offsets(stream))
    for gate in flow.gates:
        await turns()
        gate.set()
    seen = [each for each, _ in await late]
    assert seen[:2] == [running("work", "Item", "0"), running("work", "Item", "1")]
    whole = await early
    assert seen[2:] == whole[-len(seen[2:]) :]
    assert len(seen) < len(whole)


@pytest.mark.parametrize("first", [False, True], ids=["the first", "a further"])
async def test_a_reader_that_comes_while_the_run_rests_is_told_so(first: bool) -> None:
    handler = Asks().run()
    if first:
        handler.stream_events(expose_internal=True)
    await turns()
    stream = handler.stream_events(expose_internal=True)
    assert [told(await anext(stream)) for _ in range(2)] == [Ask, IDLE]
    handler.ctx.send_event(Answer())
    assert [told(event) async for event in stream] == [ended("ask", "StopEvent"), STOP]


async def test_after_the_end_there_is_nothing_internal_to_read() -> None:
    handler = Writes().run()
    await handler
    assert await trace(handler) == [Item, Item, Item, Done, STOP]


async def test_a_reader_that_lets_too_many_internal_events_pile_up_is_told_how_many_are_gone() -> None:
    handler = Crowd(keep_events=4).run()
    stream = handler.stream_events(expose_internal=True)
    await turns(30)
    with pytest.raises(StreamOffsetError, match="3 internal events before offset 0 are no longer kept"):
        await anext(stream)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    await handler.cancel_run()


async def test_a_run_is_not_stalled_while_a_reader_has_not_taken_that_it_is_idle() -> None:
    handler = Rests().run()
    async for event in handler.stream_events(expose_internal=True):
        if isinstance(event, WorkflowIdleEvent):
            await turns(50)
            assert not handler.done()
            handler.ctx.send_event(Answer())
    assert await handler == "answered"


async def test_an_internal_event_of_the_users_own_goes_the_same_way() -> None:
    class Flow(Workflow):
        @step
        async def s(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.write_event_to_stream(StepStateChanged(name="x", step_state=StepState.RUNNING, worker_id="9", input_event_name="X"))
            return StopEvent()

    handler = Flow().run()
    beside = asyncio.create_task(offsets(handler.stream_events()))
    assert await trace(handler) == [running("s"), running("x", "X", "9"), ended("s", "StopEvent"), STOP]
    assert await beside == [(STOP, 1)]


async def test_internal_events_are_no_notices() -> None:
    heard: list[str] = []

    class Listens(Observer):
        def on(self, notice: Notice, /) -> None:
            if isinstance(notice, EventStreamed):
                heard.append(notice.event_type)

    await trace(Writes(middleware=[Listens()]).run())
    assert heard == ["Item", "Item", "Item", "Done"]


def test_the_events_have_one_base() -> None:
    assert all(issubclass(kind, InternalDispatchEvent) for kind in (StepStateChanged, UnhandledEvent, WorkflowIdleEvent))
