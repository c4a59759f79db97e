from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tracedflow import (
    Context,
    Event,
    HumanResponseEvent,
    Limit,
    LimitError,
    Middleware,
    RunCall,
    RunOptions,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowHandler,
    WorkflowStalledError,
    WorkflowTimeoutError,
    runs,
    step,
)
from tracedflow.middleware import RunNext


class Item(Event):
    n: int = 0


class Note(Event):
    text: str = ""


class Answer(HumanResponseEvent):
    n: int = 0


class Calls(Middleware):
    """Keeps the calls of runs."""

    def __init__(self) -> None:
        self.calls: list[RunCall] = []

    async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
        self.calls.append(call)
        return await call_next(call)


class Inner(Workflow):
    """Ends when `go` is set; tells when it has begun and when it was cleaned up."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.cleaned = 0

    @step
    async def work(self, ev: StartEvent) -> StopEvent:
        self.begun.set()
        try:
            await self.go.wait()
        finally:
            self.cleaned += 1
        return StopEvent(result="inner")


class Outer(Workflow):
    """Starts `inner` in a step and awaits it, or not."""

    def __init__(self, inner: Workflow[Any], *, awaits: bool = True, options: RunOptions | None = None, **own: Any) -> None:
        super().__init__(**own)
        self.inner = inner
        self.awaits = awaits
        self.options = options
        self.handler: WorkflowHandler[Any]

    @step
    async def start(self, ev: StartEvent) -> StopEvent:
        self.handler = self.inner.run(options=self.options)
        if self.awaits:
            return StopEvent(result=await self.handler)
        await asyncio.sleep(0)
        return StopEvent(result="outer")


async def test_a_run_started_in_a_step_is_its_child_and_gives_its_result() -> None:
    calls = Calls()
    inner = Inner(middleware=[calls])
    inner.go.set()
    handler = Outer(inner).run(run_id="the-parent")
    assert await handler == "inner"
    assert calls.calls[0].parent_run_id == "the-parent"


async def test_a_run_started_outside_has_no_parent() -> None:
    calls = Calls()
    inner = Inner(middleware=[calls])
    inner.go.set()
    await inner.run()
    assert calls.calls[0].parent_run_id is None


async def test_a_child_has_its_own_state() -> None:
    class Child(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.store.set("a", "child")
            return StopEvent()

    class Parent(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.store.set("a", "parent")
            await Child().run()
            return StopEvent(result=await ctx.store.get("a"))

    assert await Parent().run() == "parent"


async def test_a_child_fails_the_step_that_awaits_it_with_the_same_error() -> None:
    error = ConnectionError("in the child")

    class Child(Workflow):
        @step
        async def inner_step(self, ev: StartEvent) -> StopEvent:
            raise error

    with pytest.raises(ConnectionError) as caught:
        await Outer(Child()).run()
    assert caught.value is error
    assert ["`inner_step`" in error.__notes__[0], "`start`" in error.__notes__[1]] == [True, True]


async def test_a_child_that_stalls_fails_its_parent() -> None:
    class Child(Workflow):
        @step
        async def silent(self, ev: StartEvent) -> StopEvent | None:
            return None

    with pytest.raises(WorkflowStalledError, match="`silent`"):
        await asyncio.wait_for(Outer(Child()).run(), 1)


@pytest.mark.parametrize("how", ["cancel_run", "cancel"])
async def test_a_child_is_cancelled_with_its_parent(how: str) -> None:
    inner = Inner()
    outer = Outer(inner)
    handler = outer.run()
    await inner.begun.wait()
    if how == "cancel_run":
        await handler.cancel_run()
        with pytest.raises(WorkflowCancelledByUser):
            await handler
    else:
        handler.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handler
    assert inner.cleaned == 1
    assert outer.handler.cancelled()
    assert runs() == []


async def test_a_child_and_its_child_are_cancelled_when_a_sibling_of_the_step_fails() -> None:
    inner = Inner()
    middle = Outer(inner)

    class Top(Workflow):
        @step
        async def fork(self, ev: StartEvent) -> list[Item]:
            return [Item(n=0), Item(n=1)]

        @step
        async def branch(self, ev: Item) -> StopEvent:
            if ev.n == 0:
                return StopEvent(result=await middle.run())
            await inner.begun.wait()
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await Top().run()
    assert inner.cleaned == 1
    assert runs() == []


async def test_a_child_is_ended_before_the_result_of_its_parent_is_set() -> None:
    inner = Inner()

    class Top(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Item:
            return Item()

        @step
        async def spread(self, ev: Item) -> StopEvent:
            inner.run().add_done_callback(lambda _: None)  # somebody waits for it
            await inner.begun.wait()
            return StopEvent(result="stopped")

    assert await Top().run() == "stopped"
    assert inner.cleaned == 1


async def test_the_earlier_deadline_counts_for_a_child() -> None:
    inner = Inner(timeout=60)
    handler = Outer(inner, timeout=0.03).run()
    with pytest.raises(WorkflowTimeoutError) as caught:
        await handler
    assert caught.value.report is not None
    assert caught.value.report.workflow in ("Outer", "Inner")
    assert inner.cleaned == 1
    assert runs() == []


async def test_a_child_keeps_its_own_deadline_when_that_is_earlier() -> None:
    class Top(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            with pytest.raises(WorkflowTimeoutError, match=r"Inner exceeded its timeout of 0\.02 s"):
                await Inner(timeout=0.02).run()
            return StopEvent(result="went on")

    assert await Top(timeout=30).run() == "went on"


async def test_a_live_child_is_a_sign_of_life_for_its_parent() -> None:
    inner = Inner()

    class Top(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> Item | None:
            handler = inner.run()
            handler.add_done_callback(lambda _: ctx.send_event(Item(n=3)))
            return None

        @step
        async def last(self, ev: Item) -> StopEvent:
            return StopEvent(result=ev.n)

    handler = Top().run()
    await inner.begun.wait()
    await asyncio.sleep(0.03)
    assert not handler.done()
    inner.go.set()
    assert await handler == 3


async def test_a_child_that_nobody_awaited_is_detached_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    inner = Inner()
    outer = Outer(inner, awaits=False)
    assert await outer.run() == "outer"
    assert not outer.handler.done()
    assert any("`start`" in text and "nobody awaited it" in text and "RunOptions(parent=None)" in text for text in caplog.messages)
    inner.go.set()
    assert await outer.handler == "inner"


async def test_a_run_with_no_parent_is_detached_silently_and_outlives_the_other(caplog: pytest.LogCaptureFixture) -> None:
    calls = Calls()
    inner = Inner(middleware=[calls])
    outer = Outer(inner, awaits=False, options=RunOptions(parent=None))
    assert await outer.run() == "outer"
    await inner.begun.wait()
    assert calls.calls[0].parent_run_id is None
    assert not outer.handler.done()
    assert caplog.messages == []
    inner.go.set()
    assert await outer.handler == "inner"


async def test_a_run_with_no_parent_is_not_cancelled_with_the_one_that_started_it() -> None:
    inner = Inner()

    class Top(Workflow):
        handler: WorkflowHandler[Any]

        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            Top.handler = inner.run(options=RunOptions(parent=None))
            await inner.begun.wait()
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await Top().run()
    assert not Top.handler.done()
    inner.go.set()
    assert await Top.handler == "inner"


async def test_a_run_started_after_its_step_has_ended_is_a_root() -> None:
    calls = Calls()
    inner = Inner(middleware=[calls])
    inner.go.set()
    gate = asyncio.Event()
    tasks: list[asyncio.Task[Any]] = []

    class Top(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            async def later() -> Any:
                await gate.wait()
                return await inner.run()

            tasks.append(asyncio.create_task(later()))
            return StopEvent()

    await Top().run()
    gate.set()
    assert await tasks[0] == "inner"
    assert calls.calls[0].parent_run_id is None


async def test_a_step_may_answer_what_its_child_asks() -> None:
    class Child(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.write_event_to_stream(Item(n=7))
            answer = await ctx.wait_for_event(Answer)
            return StopEvent(result=answer.n)

    class Parent(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            handler = Child().run()
            async for event in handler.stream_events():
                ctx.write_event_to_stream(event if isinstance(event, Item) else None)
                if isinstance(event, Item):
                    await handler.send_event(Answer(n=event.n + 1))
            return StopEvent(result=await handler)

    handler = Parent().run()
    assert [event.n async for event in handler.stream_events() if isinstance(event, Item)] == [7]
    assert await handler == 8


async def test_many_children_of_one_step_run_at_once() -> None:
    class Child(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(0)
            return StopEvent(result=ev.n)

    class Parent(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            child = Child()
            return StopEvent(result=await asyncio.gather(*[child.run(n=n) for n in range(50)]))

    assert await Parent().run() == list(range(50))
    assert runs() == []


async def test_the_context_of_a_step_is_not_one_for_a_child() -> None:
    class Parent(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await Inner().run(ctx=ctx)
            return StopEvent()

    with pytest.raises(Exception, match=r"run\(ctx=\) got the Context of a step"):
        await Parent().run()


# permits that an ancestor holds


async def test_a_child_that_would_wait_for_a_permit_of_its_parent_fails_at_once() -> None:
    limit = Limit("shared", concurrency=1)

    class Child(Workflow):
        @step(limit=limit)
        async def inner_step(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    class Parent(Workflow):
        @step(limit=limit)
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await Child().run())

    with pytest.raises(LimitError, match="'shared'"):
        await asyncio.wait_for(Parent().run(), 1)
    assert (limit.in_use, limit.waiting) == (0, 0)


async def test_a_grandchild_is_told_as_well() -> None:
    limit = Limit("shared", concurrency=1)

    class Child(Workflow):
        @step(limit=limit)
        async def inner_step(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    class Parent(Workflow):
        @step(limit=limit)
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await Outer(Child()).run())

    with pytest.raises(LimitError, match="'shared'"):
        await asyncio.wait_for(Parent().run(), 1)
    assert (limit.in_use, limit.waiting) == (0, 0)


async def test_a_workflow_that_runs_itself_behind_num_concurrent_runs_fails_at_once() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await self.run())

    with pytest.raises(LimitError, match="runs of"):
        await asyncio.wait_for(Flow(num_concurrent_runs=1).run(), 1)
    assert runs() == []


async def test_a_permit_that_is_free_is_no_problem() -> None:
    limit = Limit("shared", concurrency=2)

    class Child(Workflow):
        @step(limit=limit)
        async def inner_step(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=limit.in_use)

    class Parent(Workflow):
        @step(limit=limit)
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await Child().run())

    assert await Parent().run() == 2
    assert limit.in_use == 0


async def test_a_child_that_refuses_to_stop_is_abandoned_before_its_parent_ends_and_only_the_culprit_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    release = asyncio.Event()
    begun = asyncio.Event()

    class Child(Workflow):
        @step
        async def stubborn(self, ev: StartEvent) -> StopEvent:
            begun.set()
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            return StopEvent()

    outer = Outer(Child(cancel_grace=0.02), cancel_grace=0.02)
    handler = outer.run()
    await begun.wait()
    await handler.cancel_run()
    ended_before = outer.handler.done()
    release.set()
    with pytest.raises(WorkflowCancelledByUser) as caught:
        await handler
    assert ended_before
    assert not any("`start`" in note for note in getattr(caught.value, "__notes__", []))
    assert any("`stubborn`" in text for text in caplog.messages)
    assert not any("`start`" in text for text in caplog.messages)


@pytest.mark.parametrize("bubble", [False, True])
async def test_on_request_what_a_nested_run_streams_comes_to_the_run_that_started_it(bubble: bool) -> None:
    class Inner(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.write_event_to_stream(Note(text="from inside"))
            return StopEvent(result="inner")

    class Outer(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await Inner().run(options=RunOptions(bubble=bubble)))

    handler = Outer().run()
    seen = [type(event).__name__ async for event in handler.stream_events()]
    assert await handler == "inner"
    assert seen == (["Note", "StopEvent"] if bubble else ["StopEvent"])
