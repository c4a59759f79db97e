from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from tracedflow import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    RunOptions,
    StartEvent,
    StopEvent,
    StreamOffsetError,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowHandler,
    WorkflowRuntimeError,
    WorkflowStalledError,
    WorkflowTimeoutError,
    step,
)
from tracedflow.errors import StepCancelledError
from tracedflow.events import UnreconstructedException, WorkflowCancelledEvent, WorkflowFailedEvent, WorkflowTimedOutEvent


class Progress(Event):
    n: int = 0


class Other(Event):
    pass


class Report(StopEvent):
    pages: int


class Answer(HumanResponseEvent):
    pass


class Counting(Workflow):
    """Streams `count` events, then does what it is told."""

    def __init__(self, then: Callable[[], Any] = lambda: StopEvent("end"), *, count: int = 3, **options: Any) -> None:
        super().__init__(**options)
        self.then = then
        self.count = count

    @step
    async def only(self, ctx: Context, ev: StartEvent) -> StopEvent | None:
        for n in range(self.count):
            ctx.write_event_to_stream(Progress(n=n))
        done = self.then()
        return await done if asyncio.iscoroutine(done) else done  # type: ignore[no-any-return]


class Gated(Workflow):
    """Streams one event at a time, when it is let."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.tickets: asyncio.Queue[int] = asyncio.Queue()

    @step
    async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
        n = 0
        while await self.tickets.get():
            ctx.write_event_to_stream(Progress(n=n))
            n += 1
        return StopEvent("end")


def shown(events: list[Event]) -> list[Any]:
    return [event.n if isinstance(event, Progress) else type(event) for event in events]


async def read(handler: WorkflowHandler[Any], **how: Any) -> list[Any]:
    return shown([event async for event in handler.stream_events(**how)])


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# the end, on every way out


class Fatal(BaseException):
    pass


def raiser(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


async def forever() -> Any:
    await asyncio.Event().wait()


async def cancel_run(handler: WorkflowHandler[Any]) -> None:
    await handler.cancel_run()


async def cancel(handler: WorkflowHandler[Any]) -> None:
    handler.cancel()


WAYS_OUT = {
    "success": (lambda: StopEvent("end"), None, StopEvent, None),
    "subclass": (lambda: Report(pages=1), None, Report, None),
    "exception": (raiser(LookupError("gone")), None, WorkflowFailedEvent, LookupError),
    "base exception": (raiser(Fatal("fatal")), None, WorkflowFailedEvent, Fatal),
    "system exit": (raiser(SystemExit(3)), None, WorkflowFailedEvent, SystemExit),
    "keyboard interrupt": (raiser(KeyboardInterrupt()), None, WorkflowFailedEvent, KeyboardInterrupt),
    "generator exit": (raiser(GeneratorExit()), None, WorkflowFailedEvent, GeneratorExit),
    "its own cancelled error": (raiser(asyncio.CancelledError()), None, WorkflowFailedEvent, StepCancelledError),
    "stall": (lambda: None, None, WorkflowFailedEvent, WorkflowStalledError),
    "timeout": (forever, None, WorkflowTimedOutEvent, WorkflowTimeoutError),
    "cancel_run": (forever, cancel_run, WorkflowCancelledEvent, WorkflowCancelledByUser),
    "cancel": (forever, cancel, WorkflowCancelledEvent, asyncio.CancelledError),
}


@pytest.mark.parametrize("own_task", [False, True], ids=["first", "later"])
@pytest.mark.parametrize(("then", "act", "last", "error"), WAYS_OUT.values(), ids=WAYS_OUT)
async def test_the_stream_ends_with_what_happened(
    then: Callable[[], Any], act: Callable[[WorkflowHandler[Any]], Any] | None, last: type, error: type | None, own_task: bool
) -> None:
    class Two(Counting):
        """The same, where the step follows another one in the same task."""

        @step
        async def first(self, ev: StartEvent) -> Other:
            return Other()

        @step
        async def only(self, ctx: Context, ev: Other) -> StopEvent | Report | None:  # type: ignore[override]
            return await Counting.only(self, ctx, ev)  # type: ignore[arg-type]

    flow = (Two if own_task else Counting)(then, disable_validation=True)
    handler = flow.run(options=RunOptions(timeout=0.02 if last is WorkflowTimedOutEvent else 10))
    early = asyncio.create_task(read(handler))
    await turns()
    if act is not None:
        await act(handler)
    assert await asyncio.wait_for(early, 5) == [0, 1, 2, last]
    if error is None:
        await handler
    else:
        with pytest.raises(error):
            await handler
    assert await read(handler) == [0, 1, 2, last]
    assert type(handler.get_stop_event()) is last


async def test_the_stream_of_a_run_that_never_began_ends() -> None:
    handler = Counting().run()
    handler.cancel()
    assert await asyncio.wait_for(read(handler), 5) == [WorkflowCancelledEvent]


async def test_the_stream_of_a_run_that_waits_for_its_turn_ends() -> None:
    flow = Counting(forever, num_concurrent_runs=1)
    first, second = flow.run(), flow.run()
    early = asyncio.create_task(read(second))
    await turns()
    await second.cancel_run()
    assert await asyncio.wait_for(early, 5) == [WorkflowCancelledEvent]
    await first.cancel_run()


async def test_the_stream_of_a_run_whose_sync_step_raises_what_is_no_exception_ends() -> None:
    class Flow(Workflow):
        @step
        def only(self, ev: StartEvent) -> StopEvent:
            raise SystemExit(3)

    handler = Flow().run()
    assert await asyncio.wait_for(read(handler), 5) == [WorkflowFailedEvent]
    with pytest.raises(SystemExit):
        await handler


async def test_what_is_no_exception_is_told_by_its_type_and_message() -> None:
    handler = Counting(raiser(Fatal("fatal")), count=0).run()
    (last,) = [event async for event in handler.stream_events()]
    assert isinstance(last, WorkflowFailedEvent)
    assert isinstance(last.exception, UnreconstructedException)
    assert (str(last.exception), last.exception.original_type) == ("fatal", f"{__name__}.Fatal")
    with pytest.raises(Fatal):
        await handler


async def test_the_stop_event_on_the_stream_is_the_one_returned() -> None:
    stop = Report(pages=3)
    handler = Counting(lambda: stop, disable_validation=True).run()
    assert [event async for event in handler.stream_events()][-1] is stop


async def test_a_failure_does_not_raise_in_the_reader() -> None:
    error = LookupError("gone")
    handler = Counting(raiser(error)).run()
    *_, last = [event async for event in handler.stream_events()]
    assert isinstance(last, WorkflowFailedEvent)
    assert last.exception is error
    with pytest.raises(LookupError):
        await handler


# what goes on it


async def test_events_come_as_they_are_written_and_by_identity() -> None:
    flow = Gated()
    handler = flow.run()
    stream = handler.stream_events()
    for n in range(3):
        flow.tickets.put_nowait(1)
        event = await anext(stream)
        assert isinstance(event, Progress)
        assert event.n == n
    flow.tickets.put_nowait(0)
    assert type(await anext(stream)) is StopEvent
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_returned_events_are_not_streamed_but_questions_are() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Other:
            return Other()

        @step
        async def second(self, ev: Other) -> InputRequiredEvent:
            return InputRequiredEvent(prefix="?")

        @step
        async def third(self, ev: Answer) -> StopEvent:
            return StopEvent(ev.text)

    handler = Flow().run()
    seen: list[type] = []
    async for event in handler.stream_events():
        seen.append(type(event))
        if isinstance(event, InputRequiredEvent):
            handler.ctx.send_event(Answer(text="yes"))
    assert seen == [InputRequiredEvent, StopEvent]
    assert await handler == "yes"


async def test_writing_nothing_writes_nothing() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.write_event_to_stream(None)
            return StopEvent()

    assert await read(Flow().run()) == [StopEvent]


@pytest.mark.parametrize("wrong", ["text", 3, StopEvent])
async def test_what_is_no_event_is_refused_where_it_is_written(wrong: Any) -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with pytest.raises(WorkflowRuntimeError, match=r"write_event_to_stream.. takes an event, not"):
                ctx.write_event_to_stream(wrong)
            return StopEvent()

    assert await read(Flow().run()) == [StopEvent]


async def test_a_stop_event_that_is_only_written_ends_the_reader_and_not_the_run() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> Other:
            ctx.write_event_to_stream(StopEvent("shown"))
            return Other()

        @step
        async def second(self, ctx: Context, ev: Other) -> StopEvent:
            ctx.write_event_to_stream(Progress(n=1))
            return StopEvent("real")

    handler = Flow().run()
    stream = handler.stream_events()
    assert shown([event async for event in stream]) == [StopEvent]
    assert await handler == "real"
    assert await read(handler, offset=stream.offset) == [1, StopEvent]


async def test_the_streams_of_two_runs_do_not_meet() -> None:
    flow = Counting()
    one, two = flow.run(), flow.run()
    assert await asyncio.gather(read(one), read(two)) == [[0, 1, 2, StopEvent]] * 2


async def test_a_plain_function_may_write_too() -> None:
    class Flow(Workflow):
        @step
        def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            for n in range(3):
                ctx.write_event_to_stream(Progress(n=n))
            with pytest.raises(WorkflowRuntimeError, match="takes an event"):
                ctx.write_event_to_stream("text")  # type: ignore[arg-type]
            return StopEvent()

    assert await read(Flow().run()) == [0, 1, 2, StopEvent]


async def test_the_caller_may_write_through_the_context_of_the_run() -> None:
    flow = Gated()
    handler = flow.run()
    await turns()
    handler.ctx.write_event_to_stream(Progress(n=7))
    flow.tickets.put_nowait(0)
    assert await read(handler) == [7, StopEvent]


async def test_after_the_end_nothing_is_added() -> None:
    contexts: list[Context] = []

    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            contexts.append(ctx)
            return StopEvent()

    handler = Flow().run()
    await handler
    contexts[0].write_event_to_stream(Progress())  # no error: the clean-up of a cancelled step must not break
    assert await read(handler) == [StopEvent]


# readers


async def test_every_reader_gets_every_event() -> None:
    flow = Gated()
    handler = flow.run()
    readers = [asyncio.create_task(read(handler)) for _ in range(3)]
    await turns()
    for ticket in (1, 1, 0):
        flow.tickets.put_nowait(ticket)
        await turns()
    assert await asyncio.gather(*readers) == [[0, 1, StopEvent]] * 3


async def test_a_late_reader_gets_every_event() -> None:
    handler = Counting().run()
    await handler
    for _ in range(2):
        assert await read(handler) == [0, 1, 2, StopEvent]


async def test_a_reader_may_start_anywhere() -> None:
    handler = Counting().run()
    await handler
    assert await read(handler, offset=2) == [2, StopEvent]
    assert await read(handler, offset=0) == [0, 1, 2, StopEvent]
    assert await read(handler, offset=4) == []
    assert await read(handler, offset=99) == []
    with pytest.raises(ValueError, match="offset=-1"):
        handler.stream_events(offset=-1)


async def test_a_reader_knows_its_offset_and_another_goes_on_from_there() -> None:
    handler = Counting().run()
    stream = handler.stream_events()
    assert stream.offset == 0
    await anext(stream)
    await anext(stream)
    assert stream.offset == 2
    assert await read(handler, offset=stream.offset) == [2, StopEvent]


async def test_after_a_break_the_next_reader_goes_on() -> None:
    handler = Counting().run()
    async for event in handler.stream_events():
        if isinstance(event, Progress) and event.n == 1:
            break
    assert await read(handler) == [2, StopEvent]
    assert await read(handler) == [0, 1, 2, StopEvent]


async def test_the_context_of_the_run_has_the_stream_too() -> None:
    handler = Counting().run()
    assert shown([event async for event in handler.ctx.stream_events()]) == [0, 1, 2, StopEvent]


async def test_a_closed_reader_ends_at_once() -> None:
    handler = Counting(forever).run()
    stream = handler.stream_events()
    await anext(stream)
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    await handler.cancel_run()


async def test_closing_a_reader_ends_who_waits_in_it() -> None:
    handler = Counting(forever, count=0).run()
    stream = handler.stream_events()
    waiting = asyncio.ensure_future(anext(stream, None))
    await turns()
    await stream.aclose()
    assert await asyncio.wait_for(waiting, 5) is None
    await handler.cancel_run()


async def test_a_reader_that_is_cancelled_leaves_the_run_alone() -> None:
    flow = Gated()
    handler = flow.run()
    reader = asyncio.create_task(read(handler))
    await turns()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    flow.tickets.put_nowait(0)
    assert await handler == "end"


# the bound


async def test_only_the_last_events_are_kept_and_an_older_offset_says_how_many_are_gone() -> None:
    handler = Counting(count=10, keep_events=4).run()
    await handler
    assert await read(handler, offset=7) == [7, 8, 9, StopEvent]
    with pytest.raises(StreamOffsetError, match=r"5 events from offset 2 on are no longer kept.*keep_events"):
        await read(handler, offset=2)
    with pytest.raises(StreamOffsetError, match="7 events from offset 0"):
        await read(handler)


async def test_a_reader_that_keeps_up_never_notices_the_bound() -> None:
    flow = Gated(keep_events=1)
    handler = flow.run()
    stream = handler.stream_events()
    for _ in range(5):
        flow.tickets.put_nowait(1)
        await anext(stream)
    flow.tickets.put_nowait(0)
    assert type(await anext(stream)) is StopEvent


async def test_none_keeps_all() -> None:
    handler = Counting(count=10_001, keep_events=None).run()
    await handler
    assert len(await read(handler)) == 10_002


async def test_the_default_keeps_ten_thousand() -> None:
    handler = Counting(count=10_001).run()
    await handler
    with pytest.raises(StreamOffsetError, match="2 events from offset 0"):
        await read(handler)


# readers and the stall check


class Silent(Workflow):
    """Streams, then can never finish unless somebody answers."""

    @step
    async def first(self, ctx: Context, ev: StartEvent) -> None:
        ctx.write_event_to_stream(Progress(n=1))

    @step
    async def second(self, ev: Answer) -> StopEvent:
        return StopEvent("answered")


async def test_a_run_is_not_stalled_while_a_reader_may_still_answer() -> None:
    handler = Silent().run()
    async for event in handler.stream_events():
        if isinstance(event, Progress):
            await turns(50)
            assert not handler.done()
            handler.ctx.send_event(Answer())
    assert await handler == "answered"


async def test_a_reader_that_asks_for_more_has_nothing_left_to_say() -> None:
    handler = Silent().run()
    assert await asyncio.wait_for(read(handler), 5) == [1, WorkflowFailedEvent]
    with pytest.raises(WorkflowStalledError):
        await handler


@pytest.mark.parametrize("leave", ["break", "close", "drop", "cancel"])
async def test_a_reader_that_has_gone_does_not_keep_the_run_alive(leave: str) -> None:
    handler = Silent(timeout=10).run()
    if leave == "break":
        async for _ in handler.stream_events():
            break
    elif leave == "close":
        stream = handler.stream_events()
        await anext(stream)
        await stream.aclose()
    elif leave == "drop":
        dropped = handler.stream_events()
        await anext(dropped)
        del dropped
        gc.collect()
    else:

        async def read_slowly() -> None:
            async for _ in handler.stream_events():
                await asyncio.Event().wait()

        reader = asyncio.create_task(read_slowly())
        await turns()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        del reader
        gc.collect()
    with pytest.raises(WorkflowStalledError):
        await asyncio.wait_for(handler, 5)


async def test_one_reader_that_may_answer_is_enough() -> None:
    handler = Silent().run()
    fast = asyncio.create_task(read(handler))
    slow = handler.stream_events()
    await anext(slow)
    await turns(50)
    assert not handler.done()
    await slow.aclose()
    assert await asyncio.wait_for(fast, 5) == [1, WorkflowFailedEvent]
    with pytest.raises(WorkflowStalledError):
        await handler
