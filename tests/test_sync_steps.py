from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
import time
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
    WorkflowHandler,
    WorkflowStalledError,
    runs,
    step,
)
from tracedflow._engine import _threads
from tracedflow._engine._threads import ThreadPool
from tracedflow.errors import ContextSerdeError, ContextStateError, WorkflowRuntimeError
from tracedflow.retry_policy import retry_policy, stop_after_attempt, wait_none


class Item(Event):
    n: int = 0


class Result(Event):
    n: int = 0


class Ask(InputRequiredEvent):
    pass


class Answer(HumanResponseEvent):
    n: int = 0


async def parked(handler: WorkflowHandler[Any], count: int = 1) -> None:
    while len(handler.why().waits) < count:
        await asyncio.sleep(0.001)


# threads


async def test_a_plain_function_runs_in_a_thread_and_the_loop_goes_on() -> None:
    loop_turned = threading.Event()
    in_thread = threading.Event()

    class Flow(Workflow):
        @step
        def only(self, ev: StartEvent) -> StopEvent:
            in_thread.set()
            assert loop_turned.wait(5)
            return StopEvent(result=threading.current_thread())

    handler = Flow().run()
    while not in_thread.is_set():
        await asyncio.sleep(0)
    loop_turned.set()
    thread = await handler
    assert thread is not threading.current_thread()
    assert thread.daemon


async def test_plain_functions_run_at_the_same_time_as_many_as_workers() -> None:
    together = threading.Barrier(4)

    class Flow(Workflow):
        @step
        def spread(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(8)]

        @step(num_workers=4)
        def work(self, ev: Item) -> Result:
            together.wait(5)
            return Result(n=ev.n)

        @step
        def join(self, ctx: Context, ev: Result) -> StopEvent | None:
            got = ctx.collect_events(ev, [Result] * 8)
            return None if got is None else StopEvent(result=sorted(each.n for each in got))

    assert await Flow(timeout=10).run() == list(range(8))


async def test_a_plain_function_sees_the_callers_context_variables_and_leaks_none() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    class Flow(Workflow):
        @step
        def first(self, ev: StartEvent) -> Item:
            seen = variable.get()
            variable.set("first")
            return Item(seen=seen)

        @step
        def second(self, ev: Item) -> StopEvent:
            return StopEvent(result=(ev.seen, variable.get()))

    variable.set("caller")
    assert await Flow().run() == ("caller", "caller")


async def test_an_error_in_a_thread_is_the_users_own_and_says_where() -> None:
    error = ConnectionError("in the thread")

    class Flow(Workflow):
        @step
        def only(self, ev: StartEvent) -> StopEvent:
            raise error

    with pytest.raises(ConnectionError) as caught:
        await Flow().run()
    assert caught.value is error
    assert "`only`" in error.__notes__[0]
    assert str(caught.traceback[-1].path) == __file__


async def test_a_stop_iteration_in_a_thread_ends_the_run() -> None:
    class Flow(Workflow):
        @step
        def only(self, ev: StartEvent) -> StopEvent:
            next(iter(()))
            return StopEvent()

    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(Flow().run(), 5)


async def test_a_plain_function_is_retried() -> None:
    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(3)))
        def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ctx.retry_info().retry_number < 2:
                raise ConnectionError
            return StopEvent(result=ctx.retry_info().retry_number)

    assert await Flow().run() == 2


def test_more_threads_than_the_limit_say_so() -> None:
    pool = ThreadPool(limit=1)
    release = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        first = pool.run(loop, contextvars.copy_context(), lambda: release.wait(5))
        with pytest.raises(WorkflowRuntimeError, match="All 1 threads for sync steps are busy"):
            pool.run(loop, contextvars.copy_context(), lambda: None)
        release.set()
        await first

    asyncio.run(main())


# the Context in a thread


async def test_sends_stream_writes_and_collect_work_from_the_thread() -> None:
    class Flow(Workflow):
        @step
        def spread(self, ctx: Context, ev: StartEvent) -> Item | None:
            for n in range(50):
                ctx.write_event_to_stream(Result(n=n))
                ctx.send_event(Item(n=n))  # the last one may end the run
            return None

        @step(num_workers=8)
        def join(self, ctx: Context, ev: Item) -> StopEvent | None:
            got = ctx.collect_events(ev, [Item] * 50)
            return None if got is None else StopEvent(result=sorted(each.n for each in got))

    handler = Flow().run()
    streamed = [event.n async for event in handler.stream_events() if isinstance(event, Result)]
    assert streamed == list(range(50))
    assert await handler == list(range(50))


async def test_a_send_that_is_refused_raises_in_the_thread() -> None:
    class Flow(Workflow):
        @step
        def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with pytest.raises(WorkflowRuntimeError, match="'text'"):
                ctx.send_event("text")  # type: ignore[arg-type]
            with pytest.raises(WorkflowRuntimeError, match="str"):
                ctx.write_event_to_stream("text")  # type: ignore[arg-type]
            return StopEvent(result="refused")

    assert await Flow().run() == "refused"


async def test_anybody_may_send_to_a_run_from_any_thread() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            answer = await ctx.wait_for_event(Answer)
            return StopEvent(result=answer.n)

    handler = Flow().run()
    await parked(handler)
    threading.Thread(target=lambda: handler.ctx.send_event(Answer(n=12))).start()
    assert await handler == 12


async def test_ctx_sync_has_the_blocking_twins_of_the_store() -> None:
    class Flow(Workflow):
        @step
        def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            store = ctx.sync.store
            store.set("a", 1)
            with store.edit_state() as state:
                state["b"] = state["a"] + 1
            with pytest.raises(ValueError, match="discard"), store.edit_state() as state:
                state["b"] = 100
                raise ValueError("discard")
            found = (store.get("a"), store.get("b"), store.get("c", "none"), dict(store.get_state().items()))
            store.clear()
            return StopEvent(result=(*found, store.get("a", "gone")))

    assert await Flow().run() == (1, 2, "none", {"a": 1, "b": 2}, "gone")


async def test_edits_from_threads_exclude_each_other() -> None:
    class Flow(Workflow):
        expected = [Result] * 20

        @step
        def spread(self, ctx: Context, ev: StartEvent) -> list[Item]:
            ctx.sync.store.set("n", 0)
            return [Item() for _ in range(20)]

        @step(num_workers=10)
        def work(self, ctx: Context, ev: Item) -> Result:
            with ctx.sync.store.edit_state() as state:
                state["n"] = state["n"] + 1
            return Result()

        @step
        def join(self, ctx: Context, ev: Result) -> StopEvent | None:
            got = ctx.collect_events(ev, self.expected)
            return None if got is None else StopEvent(result=ctx.sync.store.get("n"))

    assert await Flow(timeout=10).run() == 20


async def test_ctx_sync_waits_in_the_thread_for_an_answer() -> None:
    class Flow(Workflow):
        @step
        def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            answer = ctx.sync.wait_for_event(Answer, waiter_event=Ask(), requirements={"n": 4})
            with pytest.raises(TimeoutError):
                ctx.sync.wait_for_event(Answer, requirements={"n": 5}, timeout=0.001)
            return StopEvent(result=answer.n)

    handler = Flow(timeout=10).run()
    async for event in handler.stream_events():
        if isinstance(event, Ask):
            await handler.send_event(Answer(n=3))
            await handler.send_event(Answer(n=4))
    assert await handler == 4


async def test_ctx_sync_once_calls_its_function_once_over_all_attempts() -> None:
    calls: list[int] = []

    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
        def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            value = ctx.sync.once("key", lambda: calls.append(1) or "value")
            if ctx.retry_info().retry_number == 0:
                raise ConnectionError
            return StopEvent(result=value)

    assert await Flow().run() == "value"
    assert calls == [1]


async def test_more_executions_park_in_threads_than_there_are_workers() -> None:
    class Flow(Workflow):
        expected = [Result] * 12

        @step
        def spread(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(12)]

        @step(num_workers=2)
        def work(self, ctx: Context, ev: Item) -> Result:
            return Result(n=ctx.sync.wait_for_event(Answer, requirements={"n": ev.n}).n)

        @step
        def join(self, ctx: Context, ev: Result) -> StopEvent | None:
            got = ctx.collect_events(ev, self.expected)
            return None if got is None else StopEvent(result=sorted(each.n for each in got))

    handler = Flow(timeout=10).run()
    await parked(handler, 12)
    for n in range(12):
        await handler.send_event(Answer(n=n))
    assert await handler == list(range(12))


@pytest.mark.parametrize(
    ("member", "use"),
    [
        ("wait_for_event", lambda ctx: ctx.wait_for_event(Answer)),
        ("store.get", lambda ctx: ctx.store.get("a")),
        ("store.set", lambda ctx: ctx.store.set("a", 1)),
        ("store.edit_state", lambda ctx: ctx.store.edit_state()),
    ],
)
async def test_an_async_member_in_a_thread_names_its_twin(member: str, use: Any) -> None:
    class Flow(Workflow):
        @step
        def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            use(ctx)
            return StopEvent()

    with pytest.raises(ContextStateError) as caught:
        await Flow().run()
    assert f"ctx.{member} must be awaited" in str(caught.value)
    assert f"use ctx.sync.{member}" in str(caught.value)


async def test_once_without_await_in_a_thread_names_its_twin() -> None:
    class Flow(Workflow):
        @step
        def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.once("key", lambda: 1)
            return StopEvent()

    with pytest.raises(ContextStateError, match=r"ctx\.sync\.once"):
        await Flow().run()


@pytest.mark.parametrize("use", [lambda ctx: ctx.get("a"), lambda ctx: ctx.set("a", 1)], ids=["get", "set"])
async def test_the_aliases_of_the_store_name_its_twin_too(use: Any) -> None:
    class Flow(Workflow):
        @step
        def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            use(ctx)
            return StopEvent()

    with pytest.warns(DeprecationWarning, match="ctx.store"), pytest.raises(ContextStateError, match=r"ctx\.sync\.store\."):
        await Flow().run()


async def test_ctx_sync_in_an_async_step_is_refused() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            _ = ctx.sync
            return StopEvent()

    with pytest.raises(ContextStateError, match="ctx.sync blocks"):
        await Flow().run()


# ends


async def test_a_thread_that_is_parked_ends_when_its_run_is_cancelled() -> None:
    ended = threading.Event()

    class Flow(Workflow):
        @step
        def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                ctx.sync.wait_for_event(Answer)
            finally:
                ended.set()
            return StopEvent()

    handler = Flow(cancel_grace=5).run()
    await parked(handler)
    await handler.cancel_run()
    assert ended.is_set()
    with pytest.raises(WorkflowCancelledByUser) as caught:
        await handler
    assert not getattr(caught.value, "__notes__", [])


async def test_a_thread_that_is_parked_ends_when_a_sibling_fails() -> None:
    ended = threading.Event()

    class Flow(Workflow):
        @step
        def fork(self, ev: StartEvent) -> list[Item]:
            return [Item(n=0), Item(n=1)]

        @step
        def branch(self, ctx: Context, ev: Item) -> StopEvent:
            if ev.n == 1:
                raise ConnectionError
            try:
                ctx.sync.wait_for_event(Answer)
            finally:
                ended.set()
            return StopEvent()

    with pytest.raises(ConnectionError):
        await Flow(cancel_grace=5).run()
    assert ended.is_set()


def test_a_run_of_plain_functions_needs_no_event_loop_of_ones_own() -> None:
    class Flow(Workflow):
        @step
        def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ev.n + 1)

    assert Flow().run_sync(n=1) == 2


async def test_run_sync_inside_a_running_loop_has_a_thread_of_its_own() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=threading.current_thread())

    assert Flow().run_sync() is not threading.current_thread()


async def test_a_thread_may_run_another_workflow_to_its_end() -> None:
    class Inner(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=ev.n * 2)

    class Outer(Workflow):
        @step
        def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=Inner().run_sync(n=4))

    assert await Outer().run() == 8


async def test_what_cannot_be_saved_raises_in_the_thread_that_saves() -> None:
    class Flow(Workflow):
        @step
        def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.sync.store.set("bad", object())
            with pytest.raises(ContextSerdeError, match="bad"):
                ctx.to_dict()
            return StopEvent(result="refused")

    assert await Flow().run() == "refused"


async def test_a_thread_that_lives_on_a_moment_after_its_run_is_refused_by_the_store() -> None:
    begun, ended = threading.Event(), threading.Event()
    refused: list[BaseException] = []

    class Flow(Workflow):
        @step
        def slow(self, ctx: Context, ev: StartEvent) -> StopEvent:
            begun.set()
            ended.wait(5)
            try:
                ctx.sync.store.get("x", default=None)
            except BaseException as error:
                refused.append(error)
                raise
            return StopEvent()

    handler = Flow().run()
    while not begun.is_set():
        await asyncio.sleep(0.001)
    handler.cancel()
    await asyncio.sleep(0.01)  # the run waits for its thread
    ended.set()
    await asyncio.wait([handler])
    while not refused:
        await asyncio.sleep(0.001)
    assert isinstance(refused[0], (concurrent.futures.CancelledError, ContextStateError))


async def test_a_stop_iteration_of_a_plain_function_is_an_error_like_others() -> None:
    class Flow(Workflow):
        @step
        def only(self, ev: StartEvent) -> StopEvent:
            raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        await Flow().run()


def test_a_thread_outlives_its_loop_quietly() -> None:
    go = threading.Event()
    over = threading.Event()

    class Flow(Workflow):
        @step
        def only(self, ev: StartEvent) -> StopEvent:
            go.wait(5)
            over.set()
            return StopEvent()

    async def main() -> None:
        handler = Flow(cancel_grace=0).run()
        while not handler.why().running:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)

    asyncio.run(main())
    go.set()
    assert over.wait(5)


def test_idle_threads_end_after_a_while_and_new_ones_take_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_threads, "_IDLE_SECONDS", 0.01)
    threads = ThreadPool()

    async def call() -> threading.Thread:
        found: threading.Thread = await threads.run(asyncio.get_running_loop(), contextvars.copy_context(), threading.current_thread)
        return found

    first = asyncio.run(call())
    first.join(5)
    assert not first.is_alive()
    assert asyncio.run(call()) is not first


def test_a_child_process_starts_with_no_threads() -> None:
    threads = ThreadPool(limit=1)
    stop = threading.Event()

    async def main() -> None:
        def run(call: Any) -> asyncio.Future[Any]:
            return threads.run(asyncio.get_running_loop(), contextvars.copy_context(), call)

        busy = run(lambda: stop.wait(5))
        with pytest.raises(WorkflowRuntimeError, match="busy"):
            run(lambda: 1)
        threads.forget()  # what `os.fork` calls in the child
        assert await run(lambda: 1) == 1
        stop.set()
        await busy

    asyncio.run(main())


async def test_what_a_step_left_in_threads_of_its_own_ends_with_it() -> None:
    refused = threading.Event()

    class Flow(Workflow):
        @step
        def only(self, ctx: Context, ev: StartEvent) -> Item:
            def ask() -> None:
                try:
                    ctx.sync.wait_for_event(Answer)
                except concurrent.futures.CancelledError:
                    refused.set()

            threading.Thread(target=ask).start()
            while not runs()[0].why().waits:
                time.sleep(0.001)
            return Item()

        @step
        def last(self, ev: Item) -> StopEvent:
            return StopEvent(result=refused.wait(5))

    assert await Flow().run() is True


async def test_a_plain_function_may_say_that_somebody_else_will_send() -> None:
    class Flow(Workflow):
        @step
        def only(self, ctx: Context, ev: StartEvent) -> Item | None:
            def later() -> None:
                with ctx.expect_external("a machine"):
                    expecting.set()
                    go.wait(5)

            threading.Thread(target=later).start()
            expecting.wait(5)

        @step
        async def last(self, ev: Item) -> StopEvent:
            return StopEvent()

    expecting, go = threading.Event(), threading.Event()
    handler = Flow().run()
    while handler.why().running or not expecting.is_set():
        await asyncio.sleep(0.001)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not handler.done()
    assert "a machine" in str(handler.why())
    go.set()
    with pytest.raises(WorkflowStalledError):
        await handler


def test_a_job_that_comes_when_its_thread_is_about_to_end_is_done_by_that_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    class Door:
        """A lock at which the thread stops on its way out, until a job has been given to it."""

        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.times = 0

        def __enter__(self) -> None:
            if threading.current_thread().name == "tracedflow-step":
                self.times += 1
                if self.times == 2:  # the first time it said that it is idle
                    leaving.set()
                    given.wait(5)
            self.lock.acquire()

        def __exit__(self, *exc: object) -> None:
            self.lock.release()

    monkeypatch.setattr(_threads, "_IDLE_SECONDS", 0.01)
    leaving, given = threading.Event(), threading.Event()
    threads = ThreadPool()
    monkeypatch.setattr(threads, "_lock", Door())

    async def main() -> None:
        def run() -> asyncio.Future[Any]:
            return threads.run(asyncio.get_running_loop(), contextvars.copy_context(), threading.current_thread)

        first = await run()
        await asyncio.to_thread(leaving.wait, 5)
        second = run()
        given.set()
        assert await second is first

    asyncio.run(main())
