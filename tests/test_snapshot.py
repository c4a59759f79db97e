"""Saving a run anywhere and going on with it: in this process, in another, once or twice, from damaged data."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as hyp
from pydantic import BaseModel

import tracedflow
from tracedflow import (
    Context,
    ContextSerdeError,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowHandler,
    WorkflowStalledError,
    catch_error,
    step,
)
from tracedflow.context import JsonSerializer, PickleSerializer
from tracedflow.events import StepFailedEvent
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from tracedflow.testing import run_virtual, virtual_time


class Item(Event):
    n: int = 0


class Result(Event):
    n: int = 0


class Note(Event):
    text: str = ""


class Ask(InputRequiredEvent):
    about: str = ""


class Answer(HumanResponseEvent):
    n: int = 0


class Plain:
    """Nothing can save it, but pickle."""

    def __init__(self, n: int = 0) -> None:
        self.n = n

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plain) and other.n == self.n

    __hash__ = None  # type: ignore[assignment]


def through_json(data: dict[str, Any]) -> Any:
    """Return what arrives on the other side; strictly JSON."""
    return json.loads(json.dumps(data, allow_nan=False))


def resumed(flow: Workflow, data: dict[str, Any], serializer: Any = None, **options: Any) -> WorkflowHandler[Any]:
    return flow.run(ctx=Context.from_dict(flow, through_json(data), serializer), **options)


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0)


async def waits(handler: WorkflowHandler[Any], count: int = 1) -> None:
    """Until so many waits are open; a resumed run shows those that were saved before it has begun."""
    await until(lambda: handler._runner.has_begun and len(handler.why().waits) == count)


async def saved_and_stopped(handler: WorkflowHandler[Any], **options: Any) -> dict[str, Any]:
    data = handler.ctx.to_dict(**options)
    await handler.cancel_run()
    return data


async def published(handler: WorkflowHandler[Any]) -> AsyncIterator[Event]:
    async for event in handler.stream_events():
        yield event


class Asking(Workflow):
    """Waits twice, with something done once before each."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.drawn: list[int] = []
        self.called = 0

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        self.called += 1
        ctx.write_event_to_stream(Note(text="asked"))
        await ctx.store.set("seen", "yes")
        drawn = await ctx.once("drawn", self._draw)
        first = await ctx.wait_for_event(Answer, waiter_event=Ask(about="first"))
        second = await ctx.wait_for_event(Answer, waiter_event=Ask(about="second"))
        return StopEvent(result=[drawn, first.n, second.n, await ctx.store.get("seen")])

    def _draw(self) -> int:
        self.drawn.append(len(self.drawn))
        return self.drawn[-1]


# where it may be saved


async def test_a_context_is_saved_before_its_run() -> None:
    flow = Asking()
    ctx: Context[Any] = Context(flow)
    await ctx.store.set("before", 1)
    data = through_json(ctx.to_dict())
    assert data["run"] is None
    again: Context[Any] = Context.from_dict(flow, data)
    assert await again.store.get("before") == 1
    assert not again.is_running


async def test_a_run_saved_before_its_first_turn_starts_with_what_was_sent_to_it() -> None:
    class Flow(Workflow):
        @step
        async def start(self, ctx: Context, ev: StartEvent) -> StopEvent:
            answer = await ctx.wait_for_event(Answer)
            return StopEvent(result=(ev.x, answer.n))

    flow = Flow()
    handler = flow.run(x=4, run_id="r")
    handler.ctx.send_event(Answer(n=7))
    data = await saved_and_stopped(handler)
    again = resumed(flow, data)
    twice = again.ctx.to_dict()  # and again before it has begun
    assert await again == (4, 7)
    assert again.run_id == "r"
    assert await resumed(flow, twice) == (4, 7)


async def test_a_run_is_saved_from_outside_while_it_waits_and_goes_on() -> None:
    flow = Asking()
    handler = flow.run()
    await waits(handler)
    data = await saved_and_stopped(handler)
    assert Context.from_dict(flow, data).is_running
    again = resumed(flow, data)
    again.ctx.send_event(Answer(n=1))
    await waits(again)
    again.ctx.send_event(Answer(n=2))
    assert await again == [0, 1, 2, "yes"]
    assert flow.called == 2


async def test_a_run_is_saved_inside_an_async_step_and_inside_a_plain_function() -> None:
    class Flow(Workflow):
        saved: dict[str, Any]
        calls: list[str]

        @step
        async def first(self, ctx: Context, ev: StartEvent) -> Item:
            self.calls.append("first")
            self.saved.setdefault("async", ctx.to_dict())
            return Item(n=1)

        @step
        def second(self, ctx: Context, ev: Item) -> StopEvent:
            self.calls.append("second")
            self.saved.setdefault("sync", ctx.to_dict())
            return StopEvent(result=ev.n)

    flow = Flow()
    flow.saved, flow.calls = {}, []
    assert await flow.run() == 1
    flow.calls.clear()
    assert await resumed(flow, flow.saved["async"]) == 1
    assert flow.calls == ["first", "second"]
    flow.calls.clear()
    assert await resumed(flow, flow.saved["sync"]) == 1
    assert flow.calls == ["second"]


async def test_a_run_is_saved_from_a_thread_outside_it_on_its_own_loop() -> None:
    flow = Asking()
    handler = flow.run()
    await waits(handler)
    on: list[int] = []
    found: list[dict[str, Any]] = []

    class Told(JsonSerializer):
        def serialize_at(self, value: Any, path: str) -> str:
            on.append(threading.get_ident())
            return super().serialize_at(value, path)

    await asyncio.to_thread(lambda: found.append(handler.ctx.to_dict(Told())))
    assert set(on) == {threading.get_ident()}
    await handler.cancel_run()
    assert found[0]["run"]["run_id"] == handler.run_id


async def test_after_the_run_only_the_store_is_saved_and_the_next_run_finds_it() -> None:
    class Flow(Workflow):
        @step
        async def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
            async with ctx.store.edit_state() as state:
                state["runs"] = state.get("runs", 0) + 1
            return StopEvent(result=await ctx.store.get("runs"))

    flow = Flow()
    handler = flow.run()
    assert await handler == 1
    data = through_json(handler.ctx.to_dict())
    assert data["run"] is None
    ctx: Context[Any] = Context.from_dict(flow, data)
    assert await flow.run(ctx=ctx) == 2
    assert await flow.run(ctx=ctx) == 3
    assert await flow.run(ctx=Context.from_dict(flow, data)) == 2


async def test_a_failed_run_leaves_its_store_and_nothing_live() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.store.set("got", "here")
            raise ConnectionError

    flow = Flow()
    handler = flow.run()
    with pytest.raises(ConnectionError):
        await handler
    data = handler.ctx.to_dict()
    assert data["run"] is None
    assert await Context.from_dict(flow, data).store.get("got") == "here"


async def test_without_its_state_a_run_goes_on_with_an_empty_store() -> None:
    flow = Asking()
    handler = flow.run()
    await waits(handler)
    data = await saved_and_stopped(handler, include_state=False)
    assert data["state"] is None
    ctx: Context[Any] = Context.from_dict(flow, data)
    assert await ctx.store.get("seen", default=None) is None


# who goes on


async def test_a_resumed_run_has_its_id_and_is_the_next_segment() -> None:
    segments: list[tuple[str, int, bool]] = []

    class Watch(tracedflow.Observer):
        async def run(self, call: Any, call_next: Any) -> Any:
            segments.append((call.run_id, call.segment, call.resumed))
            return await call_next(call)

    flow = Asking(middleware=[Watch()])
    data: dict[str, Any] | None = None
    for _ in range(3):
        handler = flow.run(run_id="r") if data is None else resumed(flow, data)
        await waits(handler)
        data = await saved_and_stopped(handler)
    assert segments == [("r", 1, False), ("r", 2, True), ("r", 3, True)]


async def test_one_snapshot_may_be_resumed_twice_at_once_under_another_id() -> None:
    flow = Asking()
    handler = flow.run()
    await waits(handler)
    data = await saved_and_stopped(handler)
    first, second = resumed(flow, data), resumed(flow, data, run_id="other")
    with pytest.raises(RuntimeError, match="is that of a live run"):
        resumed(flow, data)
    for n, run in ((1, first), (2, second)):
        for _ in range(2):
            run.ctx.send_event(Answer(n=n))
            await asyncio.sleep(0.001)
    assert await first == [0, 1, 1, "yes"]
    assert await second == [0, 2, 2, "yes"]


async def test_a_loaded_context_that_has_not_run_saves_the_same_again() -> None:
    flow = Asking()
    handler = flow.run()
    await waits(handler)
    data = through_json(await saved_and_stopped(handler))
    ctx: Context[Any] = Context.from_dict(flow, data)
    again = through_json(ctx.to_dict())
    for each in (data, again):
        each["run"]["snapshot"]["state"].pop("lanes")  # what is live is queued anew
    assert again == data


OTHER_PROCESS = """
import asyncio, json, sys
from tests.test_snapshot import Answer, Asking, Context
async def main():
    flow = Asking()
    handler = flow.run(ctx=Context.from_dict(flow, json.load(sys.stdin)))
    await handler.send_event(Answer(n=2))
    print(json.dumps([handler.run_id, await handler, flow.drawn]))
asyncio.run(main())
"""


async def test_a_run_goes_on_in_another_process() -> None:
    flow = Asking()
    handler = flow.run(run_id="far")
    await waits(handler)
    handler.ctx.send_event(Answer(n=1))
    await until(lambda: handler.why().waits and handler._runner.state.executions[2].memo.get("wait:1"))
    data = await saved_and_stopped(handler)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", OTHER_PROCESS, env={**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await child.communicate(json.dumps(data).encode())
    assert child.returncode == 0, err.decode()
    assert json.loads(out) == ["far", [0, 1, 2, "yes"], []]


# what was live


async def test_what_a_step_did_before_it_was_saved_is_not_done_again() -> None:
    class Flow(Workflow):
        taken: list[int]

        @step
        async def work(self, ctx: Context, ev: StartEvent) -> Item | StopEvent:
            ctx.send_event(Item(n=1))
            ctx.write_event_to_stream(Note(text="first"))
            await ctx.wait_for_event(Answer, waiter_event=Ask(about="one"))
            ctx.send_event(Item(n=2))
            ctx.write_event_to_stream(Note(text="second"))
            await ctx.wait_for_event(Answer, waiter_event=Ask(about="two"))
            ctx.send_event(Item(n=3))
            await ctx.wait_for_event(Answer, waiter_event=Ask(about="three"))
            return StopEvent(result=self.taken)

        @step
        async def take(self, ev: Item) -> None:
            self.taken.append(ev.n)

    flow = Flow()
    flow.taken = []
    shown: list[str] = []
    handler = flow.run()
    for life in range(3):  # each answers one question
        await waits(handler)
        handler.ctx.send_event(Answer())
        if life == 2:
            break
        await until(lambda live=handler: not live.why().waits)
        await waits(handler)
        shown += [each.about if isinstance(each, Ask) else each.text for each in handler._runner.log.events]  # type: ignore[attr-defined]
        handler = resumed(flow, await saved_and_stopped(handler))
    assert await handler == [1, 2, 3]
    assert shown == ["first", "one", "second", "two", "three"]


async def test_a_life_that_ends_before_it_caught_up_forgets_nothing() -> None:
    class Flow(Workflow):
        taken: list[int]

        @step
        async def work(self, ctx: Context, ev: StartEvent) -> Item | StopEvent:
            for n in range(3):
                ctx.send_event(Item(n=n))
            await ctx.wait_for_event(Answer)
            await until(lambda: len(self.taken) >= 3)
            return StopEvent(result=sorted(self.taken))

        @step
        async def take(self, ev: Item) -> None:
            self.taken.append(ev.n)

    flow = Flow()
    flow.taken = []
    handler = flow.run()
    await waits(handler)
    data = await saved_and_stopped(handler)
    second = resumed(flow, data)
    third = resumed(flow, await saved_and_stopped(second))  # saved before its step was called again
    third.ctx.send_event(Answer())
    assert await third == [0, 1, 2]


@virtual_time()
async def test_after_a_retry_what_the_failed_attempt_sent_does_not_stand_for_what_the_next_one_sends() -> None:
    class Flow(Workflow):
        taken: list[str]

        @step(retry_policy=retry_policy(wait=wait_fixed(1), stop=stop_after_attempt(2)))
        async def work(self, ctx: Context, ev: StartEvent) -> Note | StopEvent:
            attempt = ctx.retry_info().retry_number
            for n in range(3):
                ctx.send_event(Note(text=f"{attempt}.{n}"))
                if (attempt, n) == (1, 0):
                    await ctx.wait_for_event(Answer)
            if not attempt:
                raise ConnectionError
            await asyncio.sleep(0.1)
            return StopEvent(result=self.taken)

        @step
        async def take(self, ev: Note) -> None:
            self.taken.append(ev.text)

    flow = Flow()
    flow.taken = []
    handler = flow.run()
    while not handler.why().waits:
        await asyncio.sleep(0.1)
    again = resumed(flow, await saved_and_stopped(handler))
    again.ctx.send_event(Answer())
    assert await again == ["0.0", "0.1", "0.2", "1.0", "1.1", "1.2"]


@virtual_time()
async def test_a_step_that_waited_for_its_next_attempt_waits_only_for_what_is_left() -> None:
    loop = asyncio.get_running_loop()

    class Flow(Workflow):
        attempts: list[tuple[float, int]]

        @step(retry_policy=retry_policy(wait=wait_fixed(100), stop=stop_after_attempt(3)))
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            self.attempts.append((loop.time(), ctx.retry_info().retry_number))
            if len(self.attempts) < 3:
                raise ConnectionError
            return StopEvent(result=ctx.retry_info().elapsed_seconds)

    flow = Flow(timeout=None)
    flow.attempts = []
    handler = flow.run()
    await asyncio.sleep(30)
    data = await saved_and_stopped(handler)
    await asyncio.sleep(20)
    again = resumed(flow, data)
    assert await again == 200
    assert flow.attempts == [(0, 0), (100, 1), (200, 2)]
    flow.attempts = [(0, 0)] * 2  # a snapshot that is older than its backoff: at once
    began = loop.time()
    await resumed(flow, data)
    assert loop.time() == began


async def test_a_join_that_was_half_full_is_completed() -> None:
    class Flow(Workflow):
        @step
        async def start(self, ev: StartEvent) -> Item | None:
            return None

        @step
        async def join(self, ctx: Context, ev: Item) -> StopEvent | None:
            got = ctx.collect_events(ev, [Item] * 4)
            return None if got is None else StopEvent(result=[each.n for each in got])

    flow = Flow(on_stall="wait")
    handler = flow.run()
    for n in range(3):
        handler.ctx.send_event(Item(n=n))
    await until(lambda: handler.why().joins and handler.why().joins[0].has == {"Item": 3})
    again = resumed(flow, await saved_and_stopped(handler))
    again.ctx.send_event(Item(n=3))
    assert await again == [0, 1, 2, 3]


async def test_a_step_that_waits_after_its_join_was_complete_has_its_set_again() -> None:
    class Flow(Workflow):
        @step
        async def start(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(3)]

        @step
        async def join(self, ctx: Context, ev: Item) -> StopEvent | None:
            got = ctx.collect_events(ev, [Item] * 3)
            if got is None:
                return None
            answer = await ctx.wait_for_event(Answer, waiter_event=Ask())
            return StopEvent(result=([each.n for each in got], answer.n))

    flow = Flow()
    handler = flow.run()
    await waits(handler)
    again = resumed(flow, await saved_and_stopped(handler))
    again.ctx.send_event(Answer(n=9))
    assert await again == ([0, 1, 2], 9)


async def test_queued_running_and_parked_executions_all_go_on() -> None:
    class Flow(Workflow):
        gate: asyncio.Event

        @step
        async def start(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(9)]

        @step(num_workers=2)
        async def work(self, ctx: Context, ev: Item) -> Result:
            if ev.n < 3:
                await ctx.wait_for_event(Answer, waiter_id=str(ev.n), requirements={"n": ev.n})
            else:
                await self.gate.wait()
            return Result(n=ev.n)

        @step
        async def end(self, evs: list[Result]) -> StopEvent:
            return StopEvent(result=sorted(each.n for each in evs))

    flow = Flow()
    flow.gate = asyncio.Event()
    handler = flow.run()
    await waits(handler, 3)
    report = handler.why()
    assert (len(report.running), report.queued) == (2, {"work": 4})
    data = await saved_and_stopped(handler)
    flow.gate.set()
    again = resumed(flow, data)
    await waits(again, 3)
    for n in range(3):
        again.ctx.send_event(Answer(n=n))
    assert await again == list(range(9))


async def test_an_error_handler_is_saved_with_the_failure_it_handles() -> None:
    class Flow(Workflow):
        @step
        async def start(self, ev: StartEvent) -> StopEvent:
            raise ConnectionError("refused")

        @catch_error()
        async def handle(self, ctx: Context, ev: StepFailedEvent) -> StopEvent:
            answer = await ctx.wait_for_event(Answer)
            return StopEvent(result=(ev.step_name, str(ev.exception), answer.n))

    flow = Flow()
    handler = flow.run()
    await waits(handler)
    again = resumed(flow, await saved_and_stopped(handler))
    again.ctx.send_event(Answer(n=1))
    assert await again == ("start", "refused", 1)


async def test_a_question_asked_by_returning_it_may_be_answered_in_the_next_life() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ev: StartEvent) -> Ask:
            return Ask(about="it")

        @step
        async def answered(self, ev: Answer) -> StopEvent:
            return StopEvent(result=ev.n)

    flow = Flow()
    handler = flow.run()
    await until(lambda: handler._runner.state.questions)
    again = resumed(flow, await saved_and_stopped(handler))
    await asyncio.sleep(0.01)
    assert not again.done()
    again.ctx.send_event(Answer(n=3))
    assert await again == 3


async def test_events_nobody_took_yet_are_there_for_a_later_wait() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.wait_for_event(Note)
            return StopEvent(result=(await ctx.wait_for_event(Answer)).n)

    flow = Flow()
    handler = flow.run()
    await waits(handler)
    handler.ctx.send_event(Answer(n=5))
    again = resumed(flow, await saved_and_stopped(handler))
    again.ctx.send_event(Note())
    assert await again == 5


async def test_a_question_that_was_asked_never_takes_an_answer_from_before_it() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.wait_for_event(Note)
            return StopEvent(result=(await ctx.wait_for_event(Answer, waiter_event=Ask())).n)

    flow = Flow()
    handler = flow.run()
    await waits(handler)
    handler.ctx.send_event(Answer(n=1))  # nobody has asked yet
    handler.ctx.send_event(Note())
    await until(lambda: handler._runner.state.questions)
    again = resumed(flow, await saved_and_stopped(handler))
    await waits(again)
    again.ctx.send_event(Answer(n=2))
    assert await again == 2


@virtual_time()
async def test_a_wait_that_ended_in_vain_does_so_again_at_once() -> None:
    loop = asyncio.get_running_loop()

    class Flow(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            began = loop.time()
            with pytest.raises(TimeoutError, match="Note"):
                await ctx.wait_for_event(Note, timeout=10)
            took = loop.time() - began
            answer = await ctx.wait_for_event(Answer)
            return StopEvent(result=(took, answer.n))

    flow = Flow()
    handler = flow.run()
    await asyncio.sleep(20)
    again = resumed(flow, await saved_and_stopped(handler))
    again.ctx.send_event(Note())  # too late: the step went another way already
    await asyncio.sleep(0.1)
    again.ctx.send_event(Answer(n=1))
    assert await again == (0, 1)


@virtual_time()
async def test_a_wait_that_has_an_id_may_be_asked_again_after_it_ended_in_vain() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            for reminder in range(5):
                try:
                    answer = await ctx.wait_for_event(Answer, waiter_id="w", waiter_event=Ask(), timeout=10)
                except TimeoutError:
                    continue
                return StopEvent(result=(reminder, answer.n))
            return StopEvent(result=None)

    handler = Flow().run()
    await asyncio.sleep(25)
    handler.ctx.send_event(Answer(n=1))
    assert await handler == (2, 1)


@virtual_time()
async def test_an_attempt_after_a_wait_that_ended_in_vain_waits_anew() -> None:
    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(1), stop=stop_after_attempt(3)))
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=(await ctx.wait_for_event(Answer, timeout=10)).n)

    flow = Flow()
    handler = flow.run()
    await asyncio.sleep(15)
    again = resumed(flow, await saved_and_stopped(handler))
    await asyncio.sleep(1)
    again.ctx.send_event(Answer(n=4))
    assert await again == 4


async def test_a_resumed_run_that_can_never_finish_says_so() -> None:
    class Flow(Workflow):
        @step
        async def start(self, ev: StartEvent) -> Item | None:
            return None

        @step
        async def join(self, ctx: Context, ev: Item) -> StopEvent | None:
            got = ctx.collect_events(ev, [Item] * 2)
            return None if got is None else StopEvent()

    flow = Flow(on_stall="wait")
    handler = flow.run()
    handler.ctx.send_event(Item(n=1))
    await until(lambda: handler.why().joins)
    data = await saved_and_stopped(handler)
    with pytest.raises(WorkflowStalledError, match="Item"):
        await resumed(Flow(workflow_name=flow.workflow_name), data)


# draining


async def test_a_drained_run_goes_on_from_its_snapshot() -> None:
    flow = Asking()
    handler = flow.run(run_id="drained")
    await waits(handler)
    handler.ctx.send_event(Answer(n=1))
    data = await tracedflow.drain(timeout=0.01, then="snapshot")
    with pytest.raises(WorkflowCancelledByUser, match="suspended"):
        await handler
    tracedflow.accept_again()
    assert data["drained"] is not None
    again = resumed(flow, data["drained"])
    again.ctx.send_event(Answer(n=2))
    assert await again == [0, 1, 2, "yes"]


async def test_a_run_that_cannot_be_saved_does_not_keep_the_others_from_it(caplog: pytest.LogCaptureFixture) -> None:
    class Unsavable(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.store.set("plain", Plain())
            await ctx.wait_for_event(Answer)
            return StopEvent()

    bad, good = Unsavable().run(run_id="bad"), Asking().run(run_id="good")
    await waits(bad)
    await waits(good)
    found = await tracedflow.drain(timeout=0.01, then="snapshot")
    assert (found["bad"], found["good"] is not None) == (None, True)
    assert "state.plain" in caplog.text
    for handler in (bad, good):
        with pytest.raises(WorkflowCancelledByUser):
            await handler


async def test_a_run_that_waits_for_its_turn_is_drained_with_its_start_event() -> None:
    class Flow(Workflow):
        go: asyncio.Event

        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            await self.go.wait()
            return StopEvent(result=ev.n)

    flow = Flow(num_concurrent_runs=1)
    flow.go = asyncio.Event()
    handlers = [flow.run(n=n, run_id=f"r{n}") for n in range(2)]
    await asyncio.sleep(0.01)
    found = await tracedflow.drain(timeout=0.01, then="snapshot")
    await asyncio.wait(handlers)
    for handler in handlers:
        assert handler.cancelled() or isinstance(handler.exception(), WorkflowCancelledByUser)
    tracedflow.accept_again()
    flow.go.set()
    again = [resumed(flow, found[f"r{n}"] or {}) for n in range(2)]
    assert await asyncio.gather(*again) == [0, 1]


# values


async def test_an_event_class_that_no_annotation_names_is_loaded_if_it_is_imported() -> None:
    class Detail(BaseModel):
        text: str

    class Detailed(HumanResponseEvent):
        detail: Detail

    class Flow(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            first = await ctx.wait_for_event(Detailed)
            await ctx.wait_for_event(Note)
            return StopEvent(result=first.detail.text)

    flow = Flow()
    handler = flow.run()
    await waits(handler)
    handler.ctx.send_event(Detailed(detail=Detail(text="fine")))
    await until(lambda: handler.why().waits and handler.why().waits[0].event_type == "Note")
    again = resumed(flow, await saved_and_stopped(handler))
    again.ctx.send_event(Note())
    assert await again == "fine"


async def test_a_serializer_given_by_the_caller_knows_the_classes_of_the_workflow() -> None:
    flow = Asking()
    handler = flow.run()
    await waits(handler)
    data = await saved_and_stopped(handler, serializer=JsonSerializer())
    again = resumed(flow, data, JsonSerializer())
    for n in range(2):
        again.ctx.send_event(Answer(n=n))
        await asyncio.sleep(0.001)
    assert await again == [0, 0, 1, "yes"]


@pytest.mark.parametrize("value", [1.5, float("inf"), (1, (2, 3)), {1, 2}, {"a": [Item(n=1)]}, {(1, 2): b"x"}, None, True, int, "~"])
async def test_a_once_value_comes_back_as_it_was(value: Any) -> None:
    class Flow(Workflow):
        calls = 0

        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            got = await ctx.once("value", self._make)
            await ctx.wait_for_event(Answer)
            return StopEvent(result=got)

        def _make(self) -> Any:
            Flow.calls += 1
            return value

    serializer = PickleSerializer() if value is int else None
    flow = Flow(serializer=serializer)
    handler = flow.run()
    await waits(handler)
    again = resumed(flow, await saved_and_stopped(handler))
    again.ctx.send_event(Answer())
    assert await again == value
    assert Flow.calls == 1


@pytest.mark.parametrize(
    ("value", "path"),
    [(Plain(), r"run\.executions\.2\.memo\.once:bad"), ([1, {"deep": Plain()}], r"memo\.once:bad\[1\]\.deep"), (int, r"memo\.once:bad")],
)
async def test_a_value_that_cannot_be_saved_is_named_by_its_path(value: Any, path: str) -> None:
    class Flow(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.once("bad", lambda: value)
            await ctx.wait_for_event(Answer)
            return StopEvent()

    handler = Flow().run()
    await waits(handler)
    with pytest.raises(ContextSerdeError, match=path):
        handler.ctx.to_dict()
    await handler.cancel_run()


async def test_other_places_of_what_cannot_be_saved() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.store.set("user", {"socket": Plain()})
            await ctx.wait_for_event(Answer)
            return StopEvent()

    flow = Flow()
    handler = flow.run(given=Plain())
    await waits(handler)
    with pytest.raises(ContextSerdeError, match=r"state\.user\.socket"):
        handler.ctx.to_dict()
    with pytest.raises(ContextSerdeError, match=r"start_event\.given"):
        handler.ctx.to_dict(include_state=False)
    await handler.cancel_run()


async def test_what_contains_itself_is_refused_and_not_followed_for_ever() -> None:
    endless: list[Any] = []
    endless.append(endless)

    class Flow(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.once("endless", lambda: endless)
            await ctx.wait_for_event(Answer)
            return StopEvent()

    handler = Flow().run()
    await waits(handler)
    with pytest.raises(ContextSerdeError, match="contains itself"):
        handler.ctx.to_dict()
    await handler.cancel_run()


async def test_pickle_saves_what_json_cannot_when_it_is_asked_for() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.store.set("plain", Plain(1))
            once = await ctx.once("plain", lambda: Plain(2))
            await ctx.wait_for_event(Answer)
            return StopEvent(result=[await ctx.store.get("plain"), once, ev.plain])

    flow = Flow()
    handler = flow.run(plain=Plain(3))
    await waits(handler)
    again = resumed(flow, await saved_and_stopped(handler, serializer=PickleSerializer()), PickleSerializer())
    again.ctx.send_event(Answer())
    assert await again == [Plain(1), Plain(2), Plain(3)]


class Notes(BaseModel):
    tags: list[str] = []
    count: int = 0


async def test_a_typed_state_comes_back_as_its_class() -> None:
    class Flow(Workflow):
        @step
        async def work(self, ctx: Context[Notes], ev: StartEvent) -> StopEvent:
            async with ctx.store.edit_state() as state:
                state.tags = [*state.tags, "x"]
                state.count += 1
            await ctx.wait_for_event(Answer)
            return StopEvent(result=await ctx.store.get_state())

    flow = Flow()
    handler = flow.run()
    await waits(handler)
    again = resumed(flow, await saved_and_stopped(handler))
    again.ctx.send_event(Answer())
    assert await again == Notes(tags=["x", "x"], count=2)


# data that does not fit


async def saved_asking() -> dict[str, Any]:
    handler = Asking().run(run_id="r")
    await waits(handler)
    return through_json(await saved_and_stopped(handler))  # type: ignore[no-any-return]


async def test_a_snapshot_of_a_newer_release_is_refused() -> None:
    data = await saved_asking()
    for path in ((), ("run", "snapshot")):
        newer = copy.deepcopy(data)
        part = newer
        for key in path:
            part = part[key]
        part["version" if not path else "format"] = 99
        with pytest.raises(ContextSerdeError, match="newer"):
            Context.from_dict(Asking(), newer)


async def test_a_step_that_no_longer_exists_is_named() -> None:
    class Renamed(Workflow):
        @step
        async def asking(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent()

    with pytest.raises(ContextSerdeError, match=r"has not: ask; it has asking"):
        Context.from_dict(Renamed(), await saved_asking())


async def test_a_step_that_no_longer_takes_what_is_queued_for_it_is_named() -> None:
    class Changed(Workflow):
        @step
        async def start(self, ev: StartEvent) -> Item:
            return Item()

        @step
        async def ask(self, ev: Item) -> StopEvent:
            return StopEvent()

    with pytest.raises(ContextSerdeError, match=r"`ask` \(.*\) does not take StartEvent"):
        Context.from_dict(Changed(), await saved_asking())


async def test_a_class_named_in_data_is_never_imported() -> None:
    data = json.dumps(await saved_asking())
    for name in ("this.that", "antigravity.Item", "tests.test_snapshot.Plain"):
        for known in ("tracedflow.events.StartEvent", "tests.test_snapshot.Answer"):
            damaged = json.loads(data.replace(known, name))
            with pytest.raises(ContextSerdeError, match=name.rpartition(".")[2]):
                Context.from_dict(Asking(), damaged)
    assert "antigravity" not in sys.modules
    assert "this" not in sys.modules


@pytest.mark.parametrize("data", [None, [], {}, "text", {"version": "1"}, {"version": True}, {"version": 0}, {"version": -1}])
def test_what_is_no_saved_context_is_refused(data: Any) -> None:
    with pytest.raises(ContextSerdeError, match="no saved Context"):
        Context.from_dict(Asking(), data)


@pytest.mark.parametrize("part", [1, [], "text", {"run_id": "r"}, {"snapshot": []}, {"snapshot": {"format": 1}}])
def test_a_malformed_run_or_state_is_refused(part: Any) -> None:
    with pytest.raises(ContextSerdeError):
        Context.from_dict(Asking(), {"version": 1, "run": part})
    if not isinstance(part, dict):
        with pytest.raises(ContextSerdeError):
            Context.from_dict(Asking(), {"version": 1, "state": part})


class Rich(Workflow):
    """Has some of everything live, and ends by itself after a while."""

    @step
    async def start(self, ctx: Context, ev: StartEvent) -> list[Item]:
        await ctx.store.set("n", 1)
        ctx.send_event(Note(text="held"))
        return [Item(n=n) for n in range(6)]

    @step(num_workers=3, retry_policy=retry_policy(wait=wait_fixed(50), stop=stop_after_attempt(2)))
    async def work(self, ctx: Context, ev: Item) -> Result:
        if ev.n == 0 and not ctx.retry_info().retry_number:
            raise ConnectionError
        await ctx.once("o", lambda: [ev.n, (1, 2)])
        if ev.n in (1, 2):
            try:
                await ctx.wait_for_event(Answer, waiter_event=Ask(), waiter_id=f"w{ev.n}", requirements={"n": ev.n}, timeout=60)
            except TimeoutError:
                return Result(n=-1)
        elif ev.n > 2:
            await asyncio.sleep(10)
        return Result(n=ev.n)

    @step
    async def collect(self, ctx: Context, ev: Result) -> None:
        ctx.collect_events(ev, [Result] * 3 + [Note])

    @step
    async def end(self, evs: list[Result]) -> StopEvent:
        return StopEvent(result=len(evs))


async def _rich(at: float) -> Any:
    handler = Rich(timeout=200).run(run_id="r")
    await asyncio.sleep(at)
    return through_json(await saved_and_stopped(handler))


RICH = [run_virtual(_rich(at)) for at in (5, 15, 55)]


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of everything in the data."""
    found = [path]
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, child in children:
        found += places(child, (*path, key))
    return found


JUNK = hyp.one_of(
    hyp.none(), hyp.booleans(), hyp.integers(-3, 40), hyp.floats(allow_nan=False), hyp.sampled_from(["", "x", "running", "1", "[]", "{}"]),
    hyp.just([]), hyp.just({}), hyp.just([1, [2]]), hyp.just({"~": "list", "items": []}), hyp.just({"~": "envelope", "id": 3}),
    hyp.just({"~": "tuple", "items": []}), hyp.just({"~": "value", "text": "7"}), hyp.just(10**400),
)  # fmt: skip


def damage(data: Any, draw: Callable[[Any], Any]) -> Any:
    """Replace, drop or double parts of the data, or put one in the place of another."""
    for _ in range(draw(hyp.integers(1, 3))):
        path = draw(hyp.sampled_from([each for each in places(data) if each]))
        parent = data
        for key in path[:-1]:
            parent = parent[key]
        match draw(hyp.sampled_from(["junk", "junk", "drop", "copy", "double"])):
            case "junk":
                parent[path[-1]] = copy.deepcopy(draw(JUNK))  # `just` gives the same list each time, and damage may go into it
            case "drop":
                del parent[path[-1]]
            case "copy":
                found: Any = data
                for key in draw(hyp.sampled_from(places(data))):
                    found = found[key]
                parent[path[-1]] = copy.deepcopy(found)
            case _:
                if isinstance(parent, list):
                    parent.append(copy.deepcopy(parent[path[-1]]))
    return data


async def goes_on(data: Any) -> None:
    """Resume, and let it run to whatever end; only the engine must not fail."""
    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: faults.append(what))
    flow = Rich(timeout=200, cancel_grace=0.01)
    try:
        ctx: Context[Any] = Context.from_dict(flow, data)
    except ContextSerdeError:
        return
    try:
        handler = flow.run(ctx=ctx)
    except RuntimeError:
        raise AssertionError("it cannot be started") from None
    through_json(handler.ctx.to_dict())
    handler.ctx.send_event(Answer(n=1))
    await asyncio.sleep(1)
    if not handler.done():
        through_json(handler.ctx.to_dict())
        str(handler.why())
    async for _ in handler.stream_events():
        pass
    await asyncio.wait([handler])
    error = None if handler.cancelled() else handler.exception()
    assert not any("a fault of tracedflow itself" in note for note in getattr(error, "__notes__", ())), error
    assert faults == []


@pytest.mark.parametrize("data", RICH)
@virtual_time()
async def test_the_snapshot_that_is_damaged_below_is_good_as_it_is(data: Any) -> None:
    flow = Rich(timeout=200)
    assert await resumed(flow, copy.deepcopy(data)) == 6


@settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)
@given(hyp.sampled_from(RICH), hyp.data())
def test_damaged_data_is_refused_or_gives_a_context_that_works(data: Any, draws: hyp.DataObject) -> None:
    run_virtual(goes_on(damage(copy.deepcopy(data), draws.draw)))


# what it costs


async def test_a_snapshot_grows_with_what_is_live_and_not_with_what_has_happened() -> None:
    class Flow(Workflow):
        @step
        async def loop(self, ctx: Context, ev: StartEvent | Item) -> Item | StopEvent:
            n = ev.n if isinstance(ev, Item) else 0
            if n in (10, 10_000):
                await ctx.wait_for_event(Answer)
            return Item(n=n + 1) if n < 10_000 else StopEvent(result=n)

    handler = Flow().run()
    sizes: list[int] = []
    for _ in range(2):
        await until(lambda: handler.why().waits)
        sizes.append(len(json.dumps(handler.ctx.to_dict())))
        handler.ctx.send_event(Answer())
        await until(lambda: not handler.why().waits)
    assert await handler == 10_000
    assert sizes[1] < sizes[0] + 300  # numbers have more digits


async def test_what_one_event_is_queued_for_and_a_long_join_expects_is_saved_once() -> None:
    class Flow(Workflow):
        @step
        async def start(self, ev: StartEvent) -> Note:
            return Note(text="long" * 1000)

        @step
        async def one(self, ctx: Context, ev: Note) -> StopEvent:
            await ctx.wait_for_event(Answer)
            return StopEvent()

        @step
        async def two(self, ctx: Context, ev: Note) -> StopEvent | None:
            ctx.collect_events(ev, [Note] * 10_000)
            return None

    handler = Flow().run()
    await waits(handler)
    await until(lambda: handler.why().joins)
    text = json.dumps(handler.ctx.to_dict())
    assert text.count("long" * 1000) == 1
    assert len(text) < 4000 + 5000
    await handler.cancel_run()


@virtual_time()
async def test_attempts_before_a_resume_are_counted_by_records_and_by_the_handler_of_the_failure() -> None:
    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(10), stop=stop_after_attempt(3)))
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            raise ConnectionError

        @catch_error
        async def rescue(self, ev: StepFailedEvent) -> StopEvent:
            return StopEvent(result=(ev.attempts, ev.elapsed_seconds))

    flow = Flow(timeout=None)
    handler = flow.run()
    await asyncio.sleep(15)  # in the second backoff
    saved = json.loads(json.dumps(handler.ctx.to_dict()))
    await handler.cancel_run()
    resumed = flow.run(ctx=Context.from_dict(flow, saved))
    assert await resumed == (3, 20.0)
    assert [(record.step, record.attempt) for record in (*handler.record, *resumed.record)] == [
        ("work", 1), ("work", 2), ("work", 3), ("rescue", 1),
    ]  # fmt: skip
