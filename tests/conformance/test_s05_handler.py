"""Section 5: the handler."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import pytest

from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, WorkflowCancelledByUser, WorkflowHandler, WorkflowRuntimeError, step
from tracedflow.events import HumanResponseEvent, WorkflowCancelledEvent


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
