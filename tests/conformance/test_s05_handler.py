"""Section 5: the handler."""

from __future__ import annotations

import asyncio
import json
import warnings
from typing import Any

import pytest

from tracedflow import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowDone,
    WorkflowHandler,
    WorkflowRuntimeError,
    WorkflowValidationError,
    step,
)
from tracedflow.events import WorkflowCancelledEvent, WorkflowFailedEvent
from tracedflow.testing import virtual_time


class Note(Event):
    n: int = 0


class Answer(HumanResponseEvent):
    n: int = 0


class Mine(StopEvent):
    n: int = 0


class Flow(Workflow):
    """Writes three notes, then waits."""

    @step
    async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
        for n in range(3):
            ctx.write_event_to_stream(Note(n=n))
        return StopEvent(result=(await ctx.wait_for_event(Answer)).n)


class Asks(Workflow):
    """Asks twice, in two steps; the second answer comes with what was kept of the first."""

    @step
    async def first(self, ctx: Context, ev: StartEvent) -> Note:
        return Note(n=(await ctx.wait_for_event(Answer)).n, begun=ev.n)

    @step
    async def second(self, ctx: Context, ev: Note) -> StopEvent:
        return StopEvent(result=[ev.begun, ev.n, (await ctx.wait_for_event(Answer)).n])


async def waiting(handler: WorkflowHandler[Any]) -> None:
    while not handler.why().waits:
        await asyncio.sleep(0)


async def answered() -> WorkflowHandler[Any]:
    handler = Flow().run()
    while not handler.why().waits:
        await asyncio.sleep(0)
    await handler.send_event(Answer(n=7))
    return handler


async def test_awaiting_gives_the_result_again_and_again() -> None:
    handler = await answered()
    assert [await handler, await handler] == [7, 7]
    assert handler.is_done()


async def test_the_members_of_both_eras_work_without_a_warning() -> None:
    handler = await answered()
    called: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        handler.add_done_callback(called.append)
        assert not handler.done()
        await asyncio.wait([handler])
        assert (handler.done(), handler.result(), handler.exception(), handler.cancelled()) == (True, 7, None, False)
    assert isinstance(handler, asyncio.Future)
    assert called == [handler]
    assert len(handler.run_id) == 10


async def test_what_takes_awaitables_takes_a_handler() -> None:
    one, two = await answered(), await answered()
    assert await asyncio.gather(one, two) == [7, 7]
    assert await asyncio.wait_for(asyncio.shield(await answered()), 5) == 7
    assert await asyncio.ensure_future(await answered()) == 7


async def test_the_stop_event_is_there_at_the_end_and_only_then() -> None:
    handler = Flow().run()
    assert handler.get_stop_event() is None
    while not handler.why().waits:
        await asyncio.sleep(0)
    await handler.send_event(Answer(n=1))
    event = await handler.stop_event_result()
    assert event is handler.get_stop_event()
    assert event is not None
    assert event.result == 1


async def test_the_stream_has_what_was_written_then_the_stop_event_also_for_who_comes_late() -> None:
    handler = await answered()
    await handler
    for _ in range(2):  # the reference lets nobody read twice
        seen = [event async for event in handler.stream_events(offset=0)]
        assert [type(event).__name__ for event in seen] == ["Note", "Note", "Note", "StopEvent"]


async def test_a_reader_that_breaks_off_goes_on_where_it_stopped() -> None:
    handler = await answered()
    async for event in handler.stream_events():
        assert event.n == 0
        break
    assert [event.n async for event in handler.stream_events() if isinstance(event, Note)] == [1, 2]


async def test_two_readers_at_once_both_get_everything() -> None:
    handler = await answered()

    async def read() -> int:
        return len([event async for event in handler.stream_events(offset=0)])

    assert await asyncio.gather(read(), read()) == [4, 4]


async def test_cancel_run_ends_the_stream_and_raises_an_error_of_its_own() -> None:
    handler = Flow().run()
    while not handler.why().waits:
        await asyncio.sleep(0)
    await handler.cancel_run()
    assert isinstance([event async for event in handler.stream_events()][-1], WorkflowCancelledEvent)
    with pytest.raises(WorkflowCancelledByUser):
        await handler


async def test_cancel_and_a_wait_for_that_times_out_end_the_run_as_they_end_a_task() -> None:
    handler = Flow().run()
    assert handler.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handler
    timed = Flow().run()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(timed, 0.01)
    assert timed.is_done()  # in the reference it goes on, and its result is lost


async def test_an_event_for_a_step_that_does_not_take_it_is_refused() -> None:
    handler = Flow().run()
    with pytest.raises(WorkflowRuntimeError, match="only"):
        await handler.send_event(Note(), step="only")
    with pytest.raises(WorkflowRuntimeError, match="nowhere"):
        await handler.send_event(Note(), step="nowhere")
    await handler.cancel_run()


async def test_a_subclass_of_the_stop_event_is_the_last_of_the_stream_and_the_result() -> None:
    class Typed(Workflow[Mine]):
        @step
        async def only(self, ev: StartEvent) -> Mine:
            return Mine(n=3)

    handler = Typed().run()
    events = [event async for event in handler.stream_events()]
    assert events == [await handler]
    assert (await handler).n == 3


async def test_stepping_is_for_runs_that_asked_for_it() -> None:
    handler = Flow().run()
    with pytest.raises(ValueError, match="stepwise"):
        await handler.run_step()
    await handler.cancel_run()


async def test_its_text_names_the_workflow_and_the_run() -> None:
    handler = Flow().run(run_id="shown")
    assert "Flow" in str(handler)
    assert "shown" in str(handler)
    await handler.cancel_run()


async def test_its_text_shows_the_result_and_what_asyncio_logs_of_it_does_not() -> None:
    handler = await answered()
    assert "result" not in str(handler)
    await handler
    assert "result 7" in str(handler)
    assert "result" not in repr(handler)


async def test_a_failure_is_raised_each_time_and_told_without_raising() -> None:
    class Fails(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            raise error

    error = ValueError("boom")
    handler = Fails().run()
    for _ in range(2):
        with pytest.raises(ValueError, match="boom") as caught:
            await handler
        assert caught.value is error
    assert handler.exception() is error
    last = await handler.stop_event_result()
    assert isinstance(last, WorkflowFailedEvent)
    assert last is handler.get_stop_event()


async def test_before_the_end_result_and_exception_are_refused_as_by_a_task() -> None:
    handler = Flow().run()
    for member in (handler.result, handler.exception):
        with pytest.raises(asyncio.InvalidStateError):
            member()
    await handler.cancel_run()


async def test_a_cancelled_run_is_over_without_being_a_cancelled_task() -> None:
    handler = Flow().run()
    await waiting(handler)
    await handler.cancel_run()
    await handler.cancel_run()  # again: nothing happens
    assert (handler.is_done(), handler.cancelled()) == (True, False)
    assert isinstance(handler.get_stop_event(), WorkflowCancelledEvent)
    for _ in range(2):
        with pytest.raises(WorkflowCancelledByUser):
            await handler


async def test_the_context_of_a_cancelled_run_goes_on_where_it_was() -> None:
    handler = Asks().run(n=1)
    await waiting(handler)
    handler.ctx.send_event(Answer(n=2))
    await waiting(handler)
    await handler.cancel_run()
    assert handler.ctx.is_running
    again = Asks().run(ctx=handler.ctx)
    await waiting(again)
    again.ctx.send_event(Answer(n=3))
    assert await again == [1, 2, 3]
    assert not again.ctx.is_running


async def test_the_context_of_a_cancelled_run_can_still_be_saved() -> None:
    handler = Asks().run(n=1)
    await waiting(handler)
    handler.ctx.send_event(Answer(n=2))
    await waiting(handler)
    await handler.cancel_run()
    data = json.loads(json.dumps(handler.ctx.to_dict()))
    again = Asks().run(ctx=Context.from_dict(Asks(), data))
    await waiting(again)
    again.ctx.send_event(Answer(n=3))
    assert await again == [1, 2, 3]


async def test_a_run_that_is_cancelled_before_it_began_may_begin_later() -> None:
    handler = Asks().run(n=1)
    await handler.cancel_run()
    assert handler.ctx.is_running
    again = Asks().run(ctx=handler.ctx)
    for n in (2, 3):
        await waiting(again)
        again.ctx.send_event(Answer(n=n))
    assert await again == [1, 2, 3]


async def test_a_value_that_contains_itself_keeps_no_run_from_being_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    class Keeps(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            itself: list[Any] = []
            itself.append(itself)
            await ctx.once("itself", lambda: itself)
            await ctx.wait_for_event(Answer)
            return StopEvent()

    handler = Keeps().run()
    await waiting(handler)
    await handler.cancel_run()
    assert "cannot go on after it is cancelled" in caplog.text
    assert not handler.ctx.is_running


async def test_cancelling_as_a_task_leaves_nothing_to_go_on_with() -> None:
    handler = Flow().run()
    await waiting(handler)
    handler.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handler
    assert handler.cancelled()
    assert not handler.ctx.is_running


async def test_intermediate_events_are_not_streamed_and_questions_are() -> None:
    class Ask(InputRequiredEvent):
        pass

    class Chain(Workflow):
        @step
        async def one(self, ev: StartEvent) -> Note:
            return Note()

        @step
        async def two(self, ev: Note) -> Ask:
            return Ask()

        @step
        async def three(self, ev: Answer) -> StopEvent:
            return StopEvent()

    handler = Chain().run()
    seen: list[type[Event]] = []
    async for event in handler.stream_events():
        seen.append(type(event))
        if isinstance(event, Ask):
            await handler.send_event(Answer())
    assert seen == [Ask, StopEvent]


async def test_internal_events_may_be_asked_for_by_position() -> None:
    handler = await answered()
    shown = [type(event).__name__ async for event in handler.stream_events(True)]
    assert "StepStateChanged" in shown
    assert shown[-1] == "StopEvent"
    assert [type(event) async for event in handler.ctx.stream_events(True)][-1] is StopEvent


async def test_a_second_reader_after_the_end_gets_everything_again() -> None:
    handler = await answered()
    for _ in range(2):  # the reference raises on the second
        assert [type(event).__name__ async for event in handler.stream_events()] == ["Note", "Note", "Note", "StopEvent"]


@pytest.mark.parametrize("wrong", ["5", True, float("nan")])
async def test_the_patience_of_cancel_run_is_seconds(wrong: Any) -> None:
    handler = Flow().run()
    with pytest.raises(WorkflowValidationError, match=r"timeout=.* must be seconds"):
        await handler.cancel_run(timeout=wrong)
    assert not handler.is_done()
    await handler.cancel_run()


@pytest.mark.parametrize("wrong", [-1, 1.5, "0", True])
async def test_an_offset_is_a_whole_number_from_zero_on(wrong: Any) -> None:
    handler = await answered()
    with pytest.raises(ValueError, match="must be an integer, 0 or more"):
        handler.stream_events(offset=wrong)
    await handler


async def test_what_is_no_event_is_refused_and_so_is_any_after_the_end() -> None:
    handler = Flow().run()
    with pytest.raises(WorkflowRuntimeError, match="takes an event, not 'text'"):
        await handler.send_event("text")  # type: ignore[arg-type]
    with pytest.raises(WorkflowRuntimeError, match="takes the name of a step"):
        await handler.send_event(Answer(), step=3)  # type: ignore[arg-type]
    await handler.cancel_run()
    with pytest.raises(WorkflowDone, match="over"):
        await handler.send_event(Answer())


@virtual_time()
async def test_shield_keeps_the_run_from_a_wait_for_that_times_out() -> None:
    handler = Flow(timeout=None).run()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.shield(handler), 5)
    await handler.send_event(Answer(n=6))
    assert await handler == 6
