from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import tracedflow
from tracedflow import (
    Context,
    DrainingError,
    HumanResponseEvent,
    Notice,
    Observer,
    RunCall,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    runs,
    step,
)
from tracedflow._engine import _live
from tracedflow.middleware import RunNext, RunSuspended


class Answer(HumanResponseEvent):
    n: int = 0


class Slow(Workflow):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.cleaned: list[str] = []

    @step
    async def slow(self, ev: StartEvent) -> StopEvent:
        self.begun.set()
        try:
            await self.go.wait()
        finally:
            self.cleaned.append("cleaned")
        return StopEvent(result="ended")


class Waiting(Workflow):
    @step
    async def wait(self, ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.store.set("before", "kept")
        answer = await ctx.wait_for_event(Answer)
        return StopEvent(result=(await ctx.store.get("before"), answer.n))


async def test_runs_lists_the_live_runs_oldest_first() -> None:
    assert runs() == []
    flow = Slow()
    handlers = [flow.run(run_id=f"run-{n}") for n in range(3)]
    assert runs() == handlers
    assert [handler.run_id for handler in runs()] == ["run-0", "run-1", "run-2"]
    flow.go.set()
    await asyncio.gather(*handlers)
    assert runs() == []


async def test_two_live_runs_cannot_have_one_id() -> None:
    flow = Slow()
    first = flow.run(run_id="taken")
    with pytest.raises(RuntimeError, match="'taken'"):
        flow.run(run_id="taken")
    flow.go.set()
    await first
    assert await flow.run(run_id="taken") == "ended"


async def test_a_drain_lets_live_runs_end_and_refuses_new_ones() -> None:
    flow = Slow()
    handler = flow.run()
    await flow.begun.wait()
    draining = asyncio.create_task(tracedflow.drain(timeout=10))
    await asyncio.sleep(0)
    with pytest.raises(DrainingError, match="draining"):
        flow.run()
    assert not draining.done()
    flow.go.set()
    assert await draining == {}
    assert await handler == "ended"
    with pytest.raises(DrainingError):
        flow.run()


async def test_after_accept_again_runs_start_as_before() -> None:
    await tracedflow.drain(timeout=0)
    tracedflow.accept_again()
    flow = Slow()
    flow.go.set()
    assert await flow.run() == "ended"


async def test_a_drain_cancels_what_has_not_ended_in_time_and_says_which() -> None:
    flow = Slow()
    handler = flow.run(run_id="late")
    await flow.begun.wait()
    assert await tracedflow.drain(timeout=0.01) == {"late": None}
    with pytest.raises(WorkflowCancelledByUser, match="draining"):
        await handler
    assert flow.cleaned == ["cleaned"]
    assert runs() == []


async def test_a_drain_with_nothing_live_returns_at_once() -> None:
    assert await asyncio.wait_for(tracedflow.drain(timeout=60), 1) == {}


async def test_a_drain_may_save_what_has_not_ended_to_go_on_later() -> None:
    flow = Waiting()
    handler = flow.run(run_id="saved")
    while not handler.why().waits:
        await asyncio.sleep(0)
    ended = await tracedflow.drain(timeout=0.01, then="snapshot")
    with pytest.raises(WorkflowCancelledByUser, match="suspended"):
        await handler
    tracedflow.accept_again()
    saved = ended["saved"]
    assert saved is not None
    again = flow.run(ctx=Context.from_dict(flow, saved))
    assert again.run_id == "saved"
    while not again.why().waits:
        await asyncio.sleep(0)
    await again.send_event(Answer(n=4))
    assert await again == ("kept", 4)


async def test_a_run_that_starts_others_ends_with_them_in_a_drain() -> None:
    inner = Slow()

    class Outer(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await inner.run(run_id="inner"))

    handler = Outer().run(run_id="outer")
    await inner.begun.wait()
    ended = await tracedflow.drain(timeout=0.01)
    assert set(ended) == {"outer", "inner"}
    with pytest.raises((WorkflowCancelledByUser, asyncio.CancelledError)):
        await handler
    assert runs() == []


async def test_a_run_that_cannot_be_saved_is_cancelled_and_the_others_are_saved(caplog: pytest.LogCaptureFixture) -> None:
    class Asks(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.store.set("kept", ev.get("kept"))
            return StopEvent(result=(await ctx.wait_for_event(Answer)).n)

    flow = Asks()
    good, bad = flow.run(kept=1, run_id="good"), flow.run(kept=object(), run_id="bad")
    while not (good.why().waits and bad.why().waits):
        await asyncio.sleep(0)
    ended = await tracedflow.drain(timeout=0, then="snapshot")
    assert ended["good"] is not None
    assert ended["bad"] is None
    assert "run bad of " in caplog.text
    with pytest.raises(WorkflowCancelledByUser, match="draining"):
        await bad


async def test_to_the_layers_a_drained_run_that_was_saved_is_suspended_and_no_failure() -> None:
    seen: list[object] = []

    class Watch(Observer):
        hears = (RunSuspended,)

        async def run(self, call: RunCall, call_next: RunNext, /) -> StopEvent | None:
            ended = await call_next(call)
            seen.append(ended)
            return ended

        def on(self, notice: Notice, /) -> None:
            seen.append(type(notice))

    handler = Waiting(middleware=[Watch()]).run()
    while not handler.why().waits:
        await asyncio.sleep(0)
    await tracedflow.drain(timeout=0, then="snapshot")
    with pytest.raises(WorkflowCancelledByUser, match="suspended"):
        await handler
    assert seen == [RunSuspended, None]


async def test_a_run_that_is_ending_already_is_not_saved() -> None:
    begun, slow_end = asyncio.Event(), asyncio.Event()

    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                await slow_end.wait()
            return StopEvent()

    handler = Flow().run(run_id="ending")
    await begun.wait()
    handler.cancel()
    asyncio.get_running_loop().call_later(0.02, slow_end.set)
    assert await tracedflow.drain(timeout=0, then="snapshot") == {"ending": None}


async def test_a_drain_flushes_what_is_to_be_sent_after_the_runs_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = Slow()
    flow.run()
    await flow.begun.wait()
    live: list[int] = []
    threads: list[int] = []

    def flush() -> None:
        live.append(len(runs()))
        threads.append(threading.get_ident())

    monkeypatch.setattr(_live, "flush", flush)  # what `telemetry.setup()` sets
    await tracedflow.drain(timeout=0.01)
    assert live == [0]
    assert threads != [threading.get_ident()]  # a slow endpoint must not block the loop
