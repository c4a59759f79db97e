from __future__ import annotations

import asyncio
import gc
import logging
import threading
from typing import Any

import pytest

from tracedflow import (
    Event,
    HumanResponseEvent,
    Middleware,
    RunCall,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowDone,
    WorkflowHandler,
    WorkflowRuntimeError,
    WorkflowStalledError,
    WorkflowStepDoesNotExistError,
    WorkflowTimeoutError,
    runs,
    step,
)
from tracedflow.events import WorkflowCancelledEvent, WorkflowFailedEvent, WorkflowTimedOutEvent
from tracedflow.middleware import RunNext


class Answer(HumanResponseEvent):
    text: str = ""


class Other(Event):
    pass


class Report(StopEvent):
    pages: int


class Quick(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent(ev.get("n", 1))


class Reporting(Workflow):
    @step
    async def only(self, ev: StartEvent) -> Report:
        return Report(pages=3)


class Broken(Workflow):
    def __init__(self, error: BaseException, **options: Any) -> None:
        super().__init__(**options)
        self.error = error

    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        raise self.error


class Gated(Workflow):
    """Says when it has begun and how it ended; goes on when it is let."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self.ends: list[str] = []

    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        self.begun.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # what a step still does when it is cancelled is done before the result is there
            self.ends.append("cancelled")
            raise
        self.ends.append("ended")
        return StopEvent("through")


class Asking(Workflow):
    @step
    async def start(self, ev: StartEvent) -> None:
        return None

    @step
    async def use(self, ev: Answer) -> StopEvent:
        return StopEvent(ev.text)


async def started(**options: Any) -> tuple[Gated, WorkflowHandler[Any]]:
    flow = Gated(**options)
    handler = flow.run()
    await flow.begun.wait()
    return flow, handler


# awaiting


async def test_a_handler_can_be_awaited_as_often_as_wanted() -> None:
    handler = Quick().run(n=5)
    assert [await handler, await handler, handler.result()] == [5, 5, 5]


async def test_a_failed_handler_raises_the_very_exception_each_time() -> None:
    error = LookupError("gone")
    handler = Broken(error).run()
    for _ in range(2):
        with pytest.raises(LookupError) as caught:
            await handler
        assert caught.value is error
    assert handler.exception() is error
    with pytest.raises(LookupError):
        handler.result()
    assert not handler.cancelled()


async def test_a_failure_carries_where_it_happened_and_only_the_users_frames() -> None:
    error = LookupError("gone")
    with pytest.raises(LookupError) as caught:
        await Broken(error, workflow_name="broken").run(run_id="r1")
    assert any("in step `only` of broken" in note and f"{__file__}:" in note and "run r1" in note for note in error.__notes__)
    names = [entry.name for entry in caught.traceback]
    assert names[0] == "test_a_failure_carries_where_it_happened_and_only_the_users_frames"
    assert names[-1] == "only"


async def test_before_the_end_there_is_no_result() -> None:
    flow, handler = await started()
    assert not handler.done()
    assert not handler.is_done()
    for ask in (handler.result, handler.exception):
        with pytest.raises(asyncio.InvalidStateError):
            ask()
    flow.gate.set()
    await handler
    assert handler.done()
    assert handler.is_done()
    assert handler.exception() is None


async def test_done_callbacks_are_called_with_the_handler() -> None:
    called: list[Any] = []
    handler = Quick().run()
    handler.add_done_callback(called.append)
    removed: list[Any] = []
    handler.add_done_callback(removed.append)
    handler.remove_done_callback(removed.append)
    await handler
    await asyncio.sleep(0)
    assert called == [handler]
    assert removed == []


async def test_it_works_with_what_takes_futures() -> None:
    flow = Quick()
    assert await asyncio.gather(flow.run(n=1), flow.run(n=2)) == [1, 2]
    assert await asyncio.wait_for(flow.run(n=3), 5) == 3
    assert await asyncio.shield(flow.run(n=4)) == 4
    one, two = flow.run(n=5), flow.run(n=6)
    done, pending = await asyncio.wait([one, two])
    assert done == {one, two}
    assert not pending
    assert [await each for each in asyncio.as_completed([flow.run(n=7)])] == [7]
    assert asyncio.isfuture(one)
    assert asyncio.ensure_future(one) is one


async def test_gather_can_return_exceptions() -> None:
    error = LookupError("gone")
    assert await asyncio.gather(Broken(error).run(), Quick().run(), return_exceptions=True) == [error, 1]


async def test_it_may_be_awaited_in_a_task_group() -> None:
    async def result(handler: WorkflowHandler[Any]) -> Any:
        return await handler

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(result(Quick().run(n=n))) for n in range(3)]
    assert [task.result() for task in tasks] == [0, 1, 2]


# cancelling


async def test_cancel_ends_the_run_as_a_task_is_ended() -> None:
    flow, handler = await started()
    assert handler.cancel() is True
    assert not handler.done()  # its steps still end
    with pytest.raises(asyncio.CancelledError):
        await handler
    assert flow.ends == ["cancelled"]
    assert handler.cancelled()
    assert handler.done()
    assert handler.cancel() is False
    assert isinstance(handler.get_stop_event(), WorkflowCancelledEvent)
    with pytest.raises(asyncio.CancelledError):
        handler.result()


async def test_cancel_before_the_run_has_begun() -> None:
    flow = Gated()
    handler = flow.run()
    assert handler.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handler
    assert not flow.begun.is_set()
    assert runs() == []


async def test_a_wait_for_that_times_out_cancels_the_run() -> None:
    flow, handler = await started()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(handler, 0.01)
    assert flow.ends == ["cancelled"]
    assert handler.cancelled()
    assert runs() == []


async def test_asyncio_timeout_around_an_await_cancels_the_run() -> None:
    flow, handler = await started()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await handler
    assert flow.ends == ["cancelled"]
    assert handler.cancelled()


async def test_a_cancelled_await_cancels_the_run() -> None:
    flow, handler = await started()

    async def wait() -> None:
        await handler

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert flow.ends == ["cancelled"]
    assert handler.cancelled()


async def test_shield_keeps_the_run_from_a_cancelled_await() -> None:
    flow, handler = await started()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(handler), 0.01)
    assert not handler.done()
    flow.gate.set()
    assert await handler == "through"
    assert flow.ends == ["ended"]


async def test_asyncio_wait_leaves_the_run_alone() -> None:
    flow, handler = await started()
    done, pending = await asyncio.wait([handler], timeout=0.01)
    assert (done, pending) == (set(), {handler})
    flow.gate.set()
    assert await handler == "through"


async def test_cancel_run_ends_the_run_with_an_error_of_its_own() -> None:
    flow, handler = await started()
    await handler.cancel_run()
    assert handler.done()
    assert flow.ends == ["cancelled"]
    with pytest.raises(WorkflowCancelledByUser, match=r"cancel_run\(\) was called"):
        await handler
    assert not handler.cancelled()
    assert isinstance(handler.exception(), WorkflowCancelledByUser)
    await handler.cancel_run()


async def test_cancel_run_of_a_finished_run_changes_nothing() -> None:
    handler = Quick().run()
    await handler
    await handler.cancel_run()
    assert await handler == 1


async def test_cancel_run_returns_after_its_timeout_even_if_a_step_goes_on() -> None:
    class Stubborn(Gated):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            self.begun.set()
            while not self.gate.is_set():
                try:
                    await self.gate.wait()
                except asyncio.CancelledError:
                    self.ends.append("swallowed")
            return StopEvent()

    flow = Stubborn(cancel_grace=0.03)
    handler = flow.run()
    await flow.begun.wait()
    await handler.cancel_run(timeout=0)
    assert not handler.done()
    with pytest.raises(WorkflowCancelledByUser) as caught:
        await handler
    assert any("abandoned after cancellation: `only`" in note for note in caught.value.__notes__)
    flow.gate.set()
    await asyncio.sleep(0)


async def test_a_cancelled_run_that_nobody_awaits_is_not_reported_as_a_lost_error(caplog: pytest.LogCaptureFixture) -> None:
    _, handler = await started()
    await handler.cancel_run()
    del handler, _
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]


# the last event


async def test_the_stop_event_is_there_when_the_run_is_over() -> None:
    flow, handler = await started()
    assert handler.get_stop_event() is None
    flow.gate.set()
    await handler
    last = handler.get_stop_event()
    assert type(last) is StopEvent
    assert last.result == "through"


async def test_stop_event_result_waits_for_the_event_itself() -> None:
    event = await Quick().run(n=3).stop_event_result()
    assert isinstance(event, StopEvent)
    assert event.result == 3
    report = Reporting().run()
    assert await report.stop_event_result() is await report


async def test_stop_event_result_does_not_raise() -> None:
    failed = await Broken(LookupError("gone")).run().stop_event_result()
    assert isinstance(failed, WorkflowFailedEvent)
    assert (failed.step_name, str(failed.exception), failed.attempts) == ("only", "gone", 1)
    assert failed.elapsed_seconds is not None
    timed_out = await Gated(timeout=0.01).run().stop_event_result()
    assert isinstance(timed_out, WorkflowTimedOutEvent)
    assert (timed_out.timeout, timed_out.active_steps) == (0.01, ["only"])
    _, handler = await started()
    handler.cancel()
    assert isinstance(await handler.stop_event_result(), WorkflowCancelledEvent)


# sending


async def test_an_event_can_be_sent_through_the_handler() -> None:
    handler = Asking(on_stall="wait").run()
    await handler.send_event(Answer(text="yes"))
    assert await handler == "yes"


async def test_an_event_can_be_sent_to_one_step() -> None:
    handler = Asking(on_stall="wait").run()
    with pytest.raises(WorkflowStepDoesNotExistError, match="no step `nobody`; it has start, use"):
        await handler.send_event(Answer(), step="nobody")
    with pytest.raises(WorkflowRuntimeError, match=r"`start` .* takes StartEvent, not Answer"):
        await handler.send_event(Answer(), step="start")
    await handler.send_event(Answer(text="named"), step="use")
    assert await handler == "named"


async def test_what_is_no_event_cannot_be_sent() -> None:
    handler = Asking(on_stall="wait").run()
    with pytest.raises(WorkflowRuntimeError, match="takes an event, not 'yes'"):
        await handler.send_event("yes")  # type: ignore[arg-type]
    handler.ctx.send_event(Answer(text="ctx"))
    assert await handler == "ctx"


async def test_a_finished_run_takes_no_events() -> None:
    handler = Quick(workflow_name="quick").run(run_id="r1")
    await handler
    with pytest.raises(WorkflowDone, match="Run r1 of quick is over; Answer cannot be sent"):
        await handler.send_event(Answer())
    with pytest.raises(WorkflowDone):
        handler.ctx.send_event(Answer())


@pytest.mark.parametrize("by", ["handler", "ctx"])
async def test_an_event_can_be_sent_from_another_thread(by: str) -> None:
    handler = Asking(on_stall="wait").run()
    await asyncio.sleep(0)

    def send() -> None:
        if by == "handler":
            asyncio.run(handler.send_event(Answer(text="thread")))
        else:
            handler.ctx.send_event(Answer(text="thread"))

    thread = threading.Thread(target=send)
    thread.start()
    assert await handler == "thread"
    thread.join()


async def test_what_cannot_be_sent_is_refused_in_the_thread_that_sends() -> None:
    handler = Asking(on_stall="wait").run()
    await asyncio.sleep(0)
    with pytest.raises(WorkflowStepDoesNotExistError):
        await asyncio.to_thread(handler.ctx.send_event, Answer(), "nobody")
    await handler.cancel_run()


# what it tells


async def test_the_record_has_a_line_for_each_attempt() -> None:
    handler = Quick().run()
    await handler
    (attempt,) = handler.record
    assert (attempt.step, attempt.attempt, attempt.outcome, attempt.run_id) == ("only", 1, "success", handler.run_id)


async def test_keep_records_bounds_the_record() -> None:
    class Loop(Workflow):
        @step
        async def only(self, ev: StartEvent | Other) -> Other | StopEvent:
            n = ev.get("n", 0)
            return StopEvent(n) if n == 9 else Other(n=n + 1)

    handler = Loop(keep_records=3).run()
    await handler
    assert len(handler.record) == 3


async def test_why_explains_a_live_run_and_a_finished_one() -> None:
    flow, handler = await started()
    report = handler.why()
    assert report.state == "running"
    assert [running.step for running in report.running] == ["only"]
    assert "step `only` is running" in str(report)
    flow.gate.set()
    await handler
    assert "completed in" in str(handler.why())


async def test_why_explains_a_run_that_stalled() -> None:
    handler = Asking().run()
    with pytest.raises(WorkflowTimeoutError) as caught:
        await handler
    assert isinstance(caught.value, WorkflowStalledError)
    assert caught.value.report is handler.why()
    assert "step `use`" in str(handler.why())


async def test_its_text_names_workflow_run_and_state() -> None:
    flow, handler = await started()
    assert repr(handler) == f"<WorkflowHandler of Gated, run {handler.run_id}, running>"
    flow.gate.set()
    await handler
    assert str(handler) == f"<WorkflowHandler of Gated, run {handler.run_id}, completed, result 'through'>"
    failed = Broken(LookupError("gone")).run(run_id="r1")
    await failed.stop_event_result()
    assert repr(failed) == "<WorkflowHandler of Broken, run r1, failed>"


async def test_run_step_is_for_stepwise_runs() -> None:
    handler = Quick().run()
    with pytest.raises(ValueError, match="needs a stepwise run"):
        await handler.run_step()
    await handler


# errors that nobody asked for


async def test_a_failure_that_nobody_awaited_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        handler = Broken(LookupError("lost")).run()
        async for _ in handler.stream_events():
            pass

    with caplog.at_level(logging.ERROR, "asyncio"):
        await fail()
        await asyncio.sleep(0)
        gc.collect()
    (record,) = [record for record in caplog.records if record.name == "asyncio"]
    assert "WorkflowHandler exception was never retrieved" in record.getMessage()
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "lost"


async def test_a_failure_that_somebody_saw_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        with pytest.raises(LookupError):
            await Broken(LookupError("seen")).run()

    await fail()
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]


async def test_siblings_have_ended_when_a_failure_is_known() -> None:
    class Siblings(Gated):
        @step
        async def fork(self, ev: StartEvent) -> list[Other | Answer]:
            return [Other(), Answer()]

        @step
        async def only(self, ev: Other) -> StopEvent:  # type: ignore[override]
            return await Gated.only(self, ev)  # type: ignore[arg-type]

        @step
        async def fail(self, ev: Answer) -> None:
            await self.begun.wait()
            raise LookupError("gone")

    flow = Siblings()
    with pytest.raises(LookupError):
        await flow.run()
    assert flow.ends == ["cancelled"]


class Fatal(BaseException):
    pass


@pytest.mark.parametrize("error", [Fatal("fatal"), SystemExit(3), KeyboardInterrupt()], ids=["own", "exit", "interrupt"])
async def test_what_is_no_exception_reaches_who_awaits_and_nobody_else(error: BaseException) -> None:
    handler = Broken(error).run()
    other = Quick().run()
    assert await other == 1
    with pytest.raises(type(error)) as caught:
        await handler
    assert caught.value is error


async def test_who_awaits_a_run_is_cancelled_also_when_the_run_has_just_ended() -> None:
    release = asyncio.Event()

    class Lingers(Middleware):
        async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
            stop = await call_next(call)
            await release.wait()
            return stop

    handler = Quick(middleware=[Lingers()]).run()

    async def caller() -> Any:
        return await handler

    task = asyncio.create_task(caller())
    while not handler._runner.is_over:
        await asyncio.sleep(0)
    task.cancel()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await handler == 1
