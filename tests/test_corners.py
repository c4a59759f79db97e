"""Corners that no other file comes by: each a promise that holds also where hardly anybody goes."""

from __future__ import annotations

import _thread
import asyncio
import concurrent.futures
import contextvars
import gc
import json
import threading
import time
import types
import weakref
from typing import Any

import pytest

from tracedflow import (
    Context,
    Event,
    HumanResponseEvent,
    Observer,
    StartEvent,
    StepCall,
    StopEvent,
    Workflow,
    WorkflowCheckpointer,
    WorkflowStalledError,
    catch_error,
    runs,
    step,
)
from tracedflow._engine import _watchdog
from tracedflow._engine._threads import ThreadPool
from tracedflow.clock import SystemClock, active
from tracedflow.context import BaseSerializer
from tracedflow.errors import ContextSerdeError
from tracedflow.events import StepFailedEvent
from tracedflow.middleware import StepNext, StepResult
from tracedflow.representation import get_workflow_representation
from tracedflow.retry_policy import retry_policy, stop_after_attempt, stop_after_delay, stop_all, stop_any, stop_never, wait_none


class A(Event):
    n: int = 0


class B(Event):
    pass


class C(Event):
    pass


class Answer(HumanResponseEvent):
    pass


class Waits(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.wait_for_event(Answer)
        return StopEvent(result="answered")


async def test_a_handler_can_be_waited_for_with_yield_from_as_old_coroutines_do() -> None:
    @types.coroutine
    def old(handler: Any) -> Any:
        return (yield from handler)

    handler = Waits().run()
    handler.ctx.send_event(Answer())
    assert await old(handler) == "answered"


@pytest.mark.parametrize(
    ("stop", "most"),
    [
        (stop_after_attempt(3), 3),
        (stop_any(stop_after_attempt(5), stop_after_attempt(2), stop_after_delay(9)), 2),
        (stop_all(stop_after_attempt(5), stop_after_attempt(2)), 5),
        (stop_all(stop_after_attempt(5), stop_after_delay(9)), None),
        (stop_never(), None),
    ],
)
async def test_layers_are_told_how_often_a_step_is_tried_at_most(stop: Any, most: int | None) -> None:
    seen: list[int | None] = []

    class Sees(Observer):
        async def step(self, call: StepCall, call_next: StepNext, /) -> StepResult:
            seen.append(call.max_attempts)
            return await call_next(call)

    class Flow(Workflow):
        @step(retry_policy=retry_policy(stop=stop, wait=wait_none()))
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    await Flow(middleware=[Sees()]).run()
    assert seen == [most]


def test_a_step_may_be_declared_with_nothing_below_it_on_the_stack() -> None:
    class Flow(Workflow):
        pass

    attach = step(workflow=Flow)
    _thread.start_new_thread(attach, (_bottom,))
    while not hasattr(_bottom, "_step_config"):
        time.sleep(0.001)
    assert _bottom._step_config.accepted_events == [A]


async def _bottom(ev: A) -> B: ...  # type: ignore[empty-body]


async def test_what_a_caller_held_back_is_not_sent_on_when_the_saved_run_is_over() -> None:
    class Flow(Workflow):
        @step
        async def start(self, ctx: Context, ev: StartEvent) -> A | B | None:
            ctx.send_event(A())
            ctx.send_event(B())
            return None

        @step
        async def held(self, ev: A) -> C:
            return C()

        @step
        async def ends(self, ev: B) -> StopEvent:
            for _ in range(10):
                await asyncio.sleep(0)
            return StopEvent(result="ended")

        @step
        async def never(self, ev: C) -> StopEvent:
            raise AssertionError

    keeper = WorkflowCheckpointer(workflow=Flow())
    handler = keeper.run(stepwise=True)
    while not handler.is_done():
        await handler.run_step()
    assert await handler == "ended"
    last = keeper.filter_checkpoints(run_id=handler.run_id, last_completed_step="ends")[0]
    assert await keeper.run_from(last) == "ended"


def test_a_handler_of_a_step_that_there_is_not_has_no_arrow() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

        @catch_error(for_steps=["nowhere", "only"])
        async def saves(self, ev: StepFailedEvent) -> StopEvent: ...  # type: ignore[empty-body]

    graph = get_workflow_representation(Flow(disable_validation=True))
    assert sum(edge.label == "fails" for edge in graph.edges) == 1


@pytest.mark.parametrize("knocked", [True, False], ids=["a knock unanswered", "no knock yet"])
def test_a_loop_that_is_closed_with_live_runs_is_watched_no_more(knocked: bool) -> None:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _, __: None)  # "Task was destroyed but it is pending"

    async def begin() -> None:
        handler = Waits().run()
        while not handler.why().waits:
            await asyncio.sleep(0)

    loop.run_until_complete(begin())
    while knocked and _watchdog._watched[id(loop)].knocked_at is None:
        time.sleep(0.01)
    assert runs()
    loop.close()
    while id(loop) in _watchdog._watched:
        time.sleep(0.01)
    assert not runs()


class Collects:
    """Stands for the guard's thread: asked whether it lives, it lets the collector come in."""

    @staticmethod
    def is_alive() -> bool:
        gc.collect()
        return True


def test_the_collector_may_end_a_run_of_a_closed_loop_while_another_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[weakref.ref[Any]] = []
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _, __: None)  # "Task was destroyed but it is pending"

    async def begin() -> None:
        handler = Waits().run()
        left.append(weakref.ref(handler))
        while not handler.why().waits:
            await asyncio.sleep(0)

    loop.run_until_complete(begin())
    loop.close()
    while id(loop) in _watchdog._watched:
        time.sleep(0.01)
    assert not runs()

    class Short(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result="ended")

    async def short() -> Any:
        return await Short().run()

    gc.disable()  # from here on it comes when it is called
    try:
        del loop, begin
        monkeypatch.setattr(_watchdog, "_thread", Collects)
        assert asyncio.run(short()) == "ended"
    finally:
        gc.enable()
    assert left[0]() is None


def test_what_a_thread_returns_after_nobody_waits_for_it_is_dropped() -> None:
    threads = ThreadPool()
    go = threading.Event()

    async def main() -> None:
        future = threads.run(asyncio.get_running_loop(), contextvars.copy_context(), lambda: go.wait(5))
        future.cancel()
        go.set()
        while threads.busy:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        assert future.cancelled()

    asyncio.run(main())


async def test_a_thread_that_waits_for_the_store_is_let_go_when_its_run_is_cancelled() -> None:
    refused: list[BaseException] = []
    waiting = threading.Event()

    class Flow(Workflow):
        @step
        def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            waiting.set()
            try:
                with ctx.sync.store.edit_state():
                    raise AssertionError
            except BaseException as error:
                refused.append(error)
                raise

    handler = Flow().run()
    async with handler.ctx.store.edit_state():
        while not waiting.is_set():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        handler.cancel()
        await asyncio.wait([handler])
    while not refused:
        await asyncio.sleep(0.001)
    assert isinstance(refused[0], concurrent.futures.CancelledError)


async def test_a_fault_of_the_engine_ends_the_run_and_says_whose_fault_it_is() -> None:
    class Broken(SystemClock):
        left: int | None = None  # calls that it still answers

        def now(self) -> float:
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    self.left = None
                    raise ZeroDivisionError("the clock is broken")
            return super().now()

    class Flow(Workflow):
        @step(retry_policy=retry_policy(stop=stop_after_attempt(2)))  # then it is the dispatcher that asks next, after the attempt
        async def only(self, ev: StartEvent) -> StopEvent:
            clock.left = 1
            return StopEvent()

    clock = Broken()
    token = active.set(clock)
    try:
        with pytest.raises(ZeroDivisionError) as caught:
            await Flow().run()
    finally:
        active.reset(token)
    assert any("a fault of tracedflow itself" in note for note in caught.value.__notes__)


async def test_any_serializer_will_do() -> None:
    class Own(BaseSerializer):
        def serialize(self, value: Any) -> str:
            return json.dumps(value)

        def deserialize(self, value: str) -> Any:
            return json.loads(value)

    flow = Waits(serializer=Own())
    ctx: Context[Any] = Context(flow)
    await ctx.store.set("k", [1])
    assert await Context.from_dict(flow, ctx.to_dict()).store.get("k") == [1]


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (("run", "snapshot", "state"), {"~": "list", "items": []}, "no state in it"),
        (("run", "snapshot", "format"), 10**6, "newer"),
        (("run", "snapshot", "format"), None, "format"),
    ],
)
async def test_a_saved_run_that_is_damaged_is_refused(path: tuple[str, ...], value: Any, text: str) -> None:
    flow = Waits()
    handler = flow.run()
    while not handler.why().waits:
        await asyncio.sleep(0)
    data = json.loads(json.dumps(handler.ctx.to_dict()))
    await handler.cancel_run()
    where = data
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = value
    with pytest.raises(ContextSerdeError, match=text):
        Context.from_dict(flow, data)


async def test_a_look_for_a_stall_that_a_run_outlives_does_no_harm() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> A | None:
            return None

        @step
        async def take(self, ev: A) -> StopEvent:
            return StopEvent(result="taken")

    handler = Flow().run()
    for turns in range(6):  # it stalls at one of them
        await asyncio.sleep(0)
        if turns == 2:
            handler.cancel()
    with pytest.raises((asyncio.CancelledError, WorkflowStalledError)):
        await handler
