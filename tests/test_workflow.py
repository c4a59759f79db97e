from __future__ import annotations

import asyncio
import contextlib
import gc
import heapq
import threading
import time
import warnings
from collections.abc import Coroutine
from typing import Any

import pytest
from pydantic import BaseModel

from tracedflow import (
    Context,
    ContextStateError,
    Event,
    Middleware,
    RunOptions,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowHandler,
    WorkflowRuntimeError,
    WorkflowStalledError,
    WorkflowTimeoutError,
    WorkflowValidationError,
    runs,
    step,
)


class Topic(StartEvent):
    topic: str
    pages: int = 1


class OtherStart(StartEvent):
    pass


class Report(StopEvent):
    pages: int


class Echo(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent(ev.to_dict())


class Write(Workflow[Report]):
    @step
    async def only(self, ev: Topic) -> Report:
        return Report(pages=ev.pages, topic=ev.topic)


class Gated(Workflow):
    """Each run says that it has begun, and ends when the test lets it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.begun: list[int] = []
        self.changed = asyncio.Event()
        self.gate = asyncio.Event()

    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        self.begun.append(ev.get("n", 0))
        self.changed.set()
        await self.gate.wait()
        return StopEvent(ev.get("n"))


async def begun(flow: Gated, count: int) -> None:
    while len(flow.begun) < count:
        flow.changed.clear()
        await flow.changed.wait()


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose time jumps to the next timer as soon as nothing is ready."""

    jumped = 0.0

    def time(self) -> float:
        return super().time() + self.jumped

    def _run_once(self) -> None:
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0].cancelled():
            heapq.heappop(timers)._scheduled = False  # type: ignore[attr-defined]
            self._timer_cancelled_count -= 1
        if not self._ready and timers:  # type: ignore[attr-defined]
            self.jumped += max(0.0, timers[0].when() - self.time())
        super()._run_once()  # type: ignore[misc]


def jump(main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main)


# the constructor


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"timeout": "10"}, "timeout='10'"),
        ({"timeout": True}, "timeout=True"),
        ({"num_concurrent_runs": 0}, "num_concurrent_runs=0"),
        ({"num_concurrent_runs": -1}, "num_concurrent_runs=-1"),
        ({"num_concurrent_runs": True}, "num_concurrent_runs=True"),
        ({"num_concurrent_runs": "2"}, "num_concurrent_runs='2'"),
        ({"max_queued": 0}, "max_queued=0"),
        ({"keep_events": 1.5}, "keep_events=1.5"),
        ({"keep_records": -3}, "keep_records=-3"),
        ({"on_stall": "ignore"}, "on_stall='ignore' must be one of 'fail', 'wait'"),
        ({"skip_graph_checks": ["reach"]}, "skip_graph_checks='reach'"),
    ],
)
def test_an_argument_with_a_wrong_value_is_named(options: dict[str, Any], match: str) -> None:
    with pytest.raises(WorkflowValidationError, match=match):
        Echo(**options)


def test_an_argument_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="time_out"):
        Echo(time_out=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(("layer", "match"), [(Middleware, r"write Middleware\(\)"), (3, "3 is not a middleware")])
def test_middleware_takes_instances_of_middleware(layer: Any, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        Echo(middleware=[layer])


async def test_the_first_three_arguments_may_be_positional() -> None:
    assert await Echo(10, False, False).run(a=1) == {"a": 1}


async def test_a_subclass_may_have_arguments_of_its_own() -> None:
    class Flow(Echo):
        def __init__(self, *args: Any, llm: str | None = None, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.llm = llm

    flow = Flow(10, llm="m")
    assert flow.llm == "m"
    assert await flow.run() == {}


async def test_forgetting_to_call_super_init_says_so() -> None:
    class Flow(Echo):
        def __init__(self) -> None:
            self.llm = "m"

    async def only(ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

    flow = Flow()
    for use in (flow.run, flow.validate, lambda: flow.events, lambda: flow.add_step(only), lambda: flow.start_event_class):
        with pytest.raises(WorkflowRuntimeError, match=r"Flow\.__init__ does not call super\(\).__init__\(\)"):
            use()


def test_the_name_is_the_class_or_what_was_given() -> None:
    assert Echo().workflow_name == "Echo"
    assert Echo(workflow_name="mail").workflow_name == "mail"
    with pytest.raises(WorkflowValidationError, match="Workflow mail "):
        type("Nothing", (Workflow,), {})(workflow_name="mail")


# run: what starts it


async def test_the_keywords_become_the_start_event() -> None:
    assert await Echo().run(topic="ships", n=2) == {"topic": "ships", "n": 2}
    assert (await Write().run(topic="ships", pages="3")).pages == 3


async def test_a_start_event_may_be_given() -> None:
    assert await Echo().run(start_event=StartEvent(n=1)) == {"n": 1}
    assert (await Write().run(None, Topic(topic="t", pages=2))).pages == 2


async def test_keywords_beside_a_start_event_are_ignored_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="also the fields n, which are ignored") as caught:
        handler = Echo().run(start_event=StartEvent(a=1), n=2)
    assert caught[0].filename == __file__
    assert await handler == {"a": 1}


@pytest.mark.parametrize(
    ("given", "ignored"),
    [({"start_event": Topic(topic="secret")}, "Topic"), ({"topic": "secret", "pages": 7}, "topic=, pages=")],
)
async def test_a_start_given_to_a_run_that_goes_on_is_ignored_with_a_warning_that_says_how_to_start_anew(
    given: dict[str, Any], ignored: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Slow(Workflow):
        @step
        async def only(self, ctx: Context, ev: Topic) -> StopEvent:
            await ctx.store.set("seen", [*await ctx.store.get("seen", default=[]), ev.topic])
            if len(await ctx.store.get("seen")) == 1:
                await ctx.wait_for_event(OtherStart)
            return StopEvent(result=[ev.pages, *await ctx.store.get("seen")])

    flow = Slow()
    handler = flow.run(topic="first", pages=3, run_id="r")
    while not await handler.ctx.store.get("seen", default=None):
        await asyncio.sleep(0)
    await handler.cancel_run()
    assert await flow.run(ctx=handler.ctx, **given) == [3, "first", "first"]
    (record,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert record.name == "tracedflow"
    assert f".Slow goes on with run r, so the new start is ignored: {ignored}. To start anew" in record.getMessage()
    assert "secret" not in record.getMessage()

    fresh: Context[Any] = Context(flow)  # as the warning says
    await fresh.store.set_state(await handler.ctx.store.get_state())
    assert await flow.run(ctx=fresh, topic="anew") == [1, "first", "first", "anew"]
    assert len([each for each in caplog.records if each.levelname == "WARNING"]) == 1


async def test_a_run_that_goes_on_without_a_new_start_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    flow = Echo()
    handler = flow.run(n=1)
    await handler.cancel_run()
    assert await flow.run(ctx=handler.ctx) == {"n": 1}
    assert not caplog.records


async def test_a_start_event_that_is_none_of_its_kind_is_refused() -> None:
    for wrong in (Event(), "ships", StopEvent()):
        with pytest.raises(ValueError, match="start_event must be a StartEvent"):
            Echo().run(start_event=wrong)  # type: ignore[arg-type]


async def test_the_wrong_start_event_stalls_at_once_and_says_which_is_right() -> None:
    handler = Write(timeout=None).run(start_event=OtherStart())
    with pytest.raises(WorkflowStalledError, match="this workflow starts with Topic"):
        await handler


async def test_keywords_that_make_no_start_event_name_the_field() -> None:
    with pytest.raises(WorkflowRuntimeError, match=r"(?s)Topic from pages:.*topic\n\s+Field required") as caught:
        Write().run(pages=2)
    assert caught.value.__cause__ is not None
    with pytest.raises(WorkflowRuntimeError, match=r"(?s)pages\n.*valid integer"):
        Write().run(topic="t", pages="many")
    assert runs() == []


async def test_a_keyword_may_have_any_name_that_is_not_reserved() -> None:
    assert await Echo().run(timeout=2, workflow=3, name="n") == {"timeout": 2, "workflow": 3, "name": "n"}


# run: ids and loops


async def test_a_run_has_an_id() -> None:
    one, two = Echo().run(), Echo().run(run_id="mine")
    assert len(one.run_id) == 10
    assert two.run_id == "mine"
    await asyncio.gather(one, two)


async def test_the_id_of_a_live_run_is_refused_until_it_is_over() -> None:
    flow = Gated()
    first = flow.run(run_id="same")
    with pytest.raises(RuntimeError, match="run_id 'same' is that of a live run of Gated"):
        Echo().run(run_id="same")
    flow.gate.set()
    await first
    assert await Echo().run(run_id="same") == {}


def test_a_run_without_a_loop_says_what_to_do() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(WorkflowRuntimeError, match=r"Echo.run\(\) needs a running event loop.*run_sync"):
            Echo().run()
        gc.collect()
    assert runs() == []


def test_run_sync_in_a_script() -> None:
    assert Echo().run_sync(topic="ships") == {"topic": "ships"}
    assert Write().run_sync(start_event=Topic(topic="t", pages=4)).pages == 4


def test_run_sync_raises_what_the_run_raises() -> None:
    class Broken(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        Broken().run_sync()


async def test_run_sync_inside_a_running_loop_has_a_thread_of_its_own() -> None:
    here = threading.get_ident()

    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(0)
            return StopEvent(threading.get_ident())

    assert Flow().run_sync() != here
    assert await Flow().run() == here


def test_run_sync_passes_its_options_on() -> None:
    class Forever(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            await asyncio.Event().wait()
            raise AssertionError

    with pytest.raises(WorkflowTimeoutError):
        Forever().run_sync(options=RunOptions(timeout=0.01))


# the result


async def test_a_plain_stop_event_gives_its_result() -> None:
    assert await Echo().run(a=1) == {"a": 1}


async def test_a_subclass_of_stop_event_gives_the_event_itself() -> None:
    report = await Write().run(topic="ships", pages=3)
    assert type(report) is Report
    assert (report.pages, report.topic) == (3, "ships")


async def test_a_stop_event_without_result_gives_none() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    assert await Flow().run() is None


# many runs of one instance


async def test_runs_of_one_instance_do_not_meet() -> None:
    class Count(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            seen = await ctx.store.get("seen", default=0)
            await asyncio.sleep(0)
            await ctx.store.set("seen", seen + 1)
            return StopEvent((ev.n, await ctx.store.get("seen")))

    flow = Count()
    assert await asyncio.gather(*(flow.run(n=n) for n in range(20))) == [(n, 1) for n in range(20)]


def test_an_instance_may_run_on_one_loop_after_another() -> None:
    flow = Echo(num_concurrent_runs=1)
    assert [asyncio.run(wait_for(flow, n)) for n in range(3)] == [{"n": 0}, {"n": 1}, {"n": 2}]


async def wait_for(flow: Workflow, n: int) -> Any:
    return await flow.run(n=n)


def test_an_instance_may_run_on_several_loops_at_once() -> None:
    both = threading.Barrier(2, timeout=10)

    class Meet(Workflow):
        @step
        def only(self, ev: StartEvent) -> StopEvent:
            both.wait()  # neither run can end alone
            return StopEvent(ev.n)

    flow = Meet()
    results: list[Any] = [None, None]

    def run(n: int) -> None:
        results[n] = asyncio.run(wait_for(flow, n))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == [0, 1]


async def test_num_concurrent_runs_lets_others_wait_in_order() -> None:
    flow = Gated(num_concurrent_runs=2)
    handlers = [flow.run(n=n) for n in range(4)]
    await begun(flow, 2)
    await turns()
    assert flow.begun == [0, 1]
    flow.gate.set()
    assert await asyncio.gather(*handlers) == [0, 1, 2, 3]
    assert flow.begun == [0, 1, 2, 3]


async def test_num_concurrent_runs_is_of_the_instance() -> None:
    one, two = Gated(num_concurrent_runs=1), Gated(num_concurrent_runs=1)
    handlers = [one.run(), two.run()]
    await begun(one, 1)
    await begun(two, 1)
    one.gate.set()
    two.gate.set()
    await asyncio.gather(*handlers)


async def test_a_run_that_waits_for_its_turn_can_be_cancelled() -> None:
    flow = Gated(num_concurrent_runs=1)
    first, second, third = (flow.run(n=n) for n in range(3))
    await begun(flow, 1)
    await second.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await second
    flow.gate.set()
    assert await asyncio.gather(first, third) == [0, 2]
    assert flow.begun == [0, 2]


def test_waiting_for_a_turn_does_not_count_for_the_timeout() -> None:
    class Slow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(2)
            return StopEvent(ev.n)

    async def main() -> list[Any]:
        flow = Slow(timeout=3, num_concurrent_runs=1)
        return list(await asyncio.gather(*(flow.run(n=n) for n in range(3))))

    assert jump(main()) == [0, 1, 2]


# timeouts


async def test_a_run_that_takes_too_long_names_its_active_steps() -> None:
    flow = Gated(timeout=0.01)
    with pytest.raises(WorkflowTimeoutError, match=r"(?s)exceeded its timeout of 0\.01 s.*`only`") as caught:
        await flow.run()
    assert type(caught.value) is WorkflowTimeoutError
    assert caught.value.report is not None
    assert [running.step for running in caught.value.report.running] == ["only"]


@pytest.mark.parametrize("timeout", [0, -1, 0.0])
async def test_no_time_at_all_is_an_immediate_timeout(timeout: float) -> None:
    flow = Gated(timeout=timeout)
    with pytest.raises(WorkflowTimeoutError):
        await flow.run()
    assert flow.begun == []


def test_the_default_is_45_seconds_and_none_is_no_limit() -> None:
    class Long(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(ev.seconds)
            return StopEvent("done")

    async def main() -> None:
        assert await Long().run(seconds=44) == "done"
        with pytest.raises(WorkflowTimeoutError, match="timeout of 45 s"):
            await Long().run(seconds=46)
        assert await Long(timeout=None).run(seconds=100_000) == "done"
        assert await Long().run(seconds=100_000, options=RunOptions(timeout=None)) == "done"
        with pytest.raises(WorkflowTimeoutError, match="timeout of 2 s"):
            await Long(timeout=None).run(seconds=3, options=RunOptions(timeout=2))

    jump(main())


async def test_a_wrong_timeout_in_the_options_is_refused() -> None:
    with pytest.raises(WorkflowValidationError, match="timeout='2'"):
        Echo().run(options=RunOptions(timeout="2"))  # type: ignore[arg-type]
    assert runs() == []


# one Context for several runs


class Visits(Workflow):
    @step
    async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
        visits = await ctx.store.get("visits", default=0) + 1
        await ctx.store.set("visits", visits)
        await asyncio.sleep(ev.get("seconds", 0))
        return StopEvent(visits)


async def test_a_context_carries_its_store_from_run_to_run() -> None:
    flow = Visits()
    ctx = Context(flow)
    await ctx.store.set("visits", 10)
    assert [await flow.run(ctx=ctx), await flow.run(ctx)] == [11, 12]
    handler = flow.run(ctx=ctx)
    assert handler.ctx is ctx
    assert await handler == 13
    assert await flow.run(ctx=handler.ctx) == 14


async def test_a_run_without_context_has_a_new_one() -> None:
    flow = Visits()
    assert [await flow.run(), await flow.run()] == [1, 1]


def test_each_run_of_a_context_has_the_whole_timeout() -> None:
    async def main() -> list[int]:
        flow = Visits(timeout=3)
        ctx = Context(flow)
        return [await flow.run(ctx=ctx, seconds=2) for _ in range(3)]

    assert jump(main()) == [1, 2, 3]


async def test_the_context_of_a_live_run_is_refused() -> None:
    flow = Gated()
    handler = flow.run()
    with pytest.raises(ContextStateError, match="Context of a live run"):
        flow.run(ctx=handler.ctx)
    flow.gate.set()
    await handler
    assert await flow.run(ctx=handler.ctx, n=2) == 2


async def test_the_context_of_a_step_is_refused() -> None:
    class Outer(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with pytest.raises(ContextStateError, match="Context of a step"):
                Echo().run(ctx=ctx)
            return StopEvent("refused")

    assert await Outer().run() == "refused"


async def test_a_context_knows_whether_its_run_is_live() -> None:
    flow = Gated()
    ctx = Context(flow)
    assert not ctx.is_running
    handler = flow.run(ctx=ctx)
    assert ctx.is_running
    flow.gate.set()
    await handler
    assert not ctx.is_running


async def test_a_saved_run_that_could_not_be_started_can_still_be_started() -> None:
    flow = Gated()
    first = flow.run(n=7, run_id="first")
    await begun(flow, 1)
    ctx = Context.from_dict(flow, first.ctx.to_dict())
    with pytest.raises(RuntimeError, match="'first' is that of a live run"):
        flow.run(ctx=ctx)
    assert ctx.is_running
    flow.gate.set()
    assert await first == 7
    assert await flow.run(ctx=ctx) == 7


# typed state


class State(BaseModel):
    count: int = 0


class NeedsName(BaseModel):
    name: str


async def test_a_state_without_defaults_fails_where_it_is_asked_for() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context[NeedsName], ev: StartEvent) -> StopEvent:
            return StopEvent(await ctx.store.get("name"))

    with pytest.raises(ValueError, match="name"):
        await Flow().run()


# live runs


async def test_the_live_runs_of_the_process_are_listed_oldest_first() -> None:
    flow = Gated()
    handlers = [flow.run(n=n) for n in range(3)]
    assert runs() == handlers
    flow.gate.set()
    await asyncio.gather(*handlers)
    assert runs() == []


async def test_an_instance_that_nobody_holds_still_runs() -> None:
    handler = Echo().run(a=1)
    gc.collect()
    assert await handler == {"a": 1}


@pytest.mark.parametrize("running", [0, 1])
def test_a_loop_that_closes_with_a_live_run_leaves_none_behind(running: int) -> None:
    async def main() -> WorkflowHandler[Any]:
        flow = Gated()
        handler = flow.run()
        await begun(flow, running)
        return handler

    handler = asyncio.run(main())
    assert runs() == []
    assert handler.done()


async def test_a_step_blocks_no_other_run() -> None:
    def wait(event: threading.Event) -> bool:
        return event.wait(10)

    opened = threading.Event()

    class Blocking(Workflow):
        @step
        def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(wait(opened))

    handler = Blocking().run()
    assert await Echo().run() == {}
    opened.set()
    assert await handler is True


def test_the_jumping_loop_jumps() -> None:
    before = time.monotonic()
    with contextlib.suppress(TimeoutError):
        jump(asyncio.sleep(3600))
    assert time.monotonic() - before < 60


# what a step may return and send


class Item(Event):
    n: int = 0


class SpecialItem(Item):
    pass


async def forgotten() -> StopEvent:
    return StopEvent()


@pytest.mark.parametrize(
    ("result", "match"),
    [
        (lambda: "text", "returned an instance of str; it must return an event or None"),
        (lambda: {"result": 1}, "an instance of dict"),
        (lambda: StopEvent, "an instance of"),
        (forgotten, r"a coroutine \(did you forget `await`\?\)"),
        (lambda: [Item()], r"a list; annotate it `-> list\[...\]`"),
        (lambda: (Item(),), "an instance of tuple"),
    ],
    ids=["str", "dict", "class", "coroutine", "list", "tuple"],
)
async def test_what_is_no_event_fails_the_run_and_names_the_step(result: Any, match: str) -> None:
    class Flow(Workflow):
        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return result()  # type: ignore[no-any-return]

    with pytest.raises(WorkflowRuntimeError, match=match) as caught:
        await Flow().run()
    assert "`only`" in str(caught.value)
    assert __file__ in str(caught.value)
    gc.collect()  # a forgotten coroutine is closed: no warning


async def test_a_list_may_hold_events_only() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> list[Item]:
            return [Item(), "text"]  # type: ignore[list-item]

        @step
        async def second(self, ev: Item) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowRuntimeError, match=r"`first`.*returned a list with an instance of str in it"):
        await Flow().run()


async def test_an_empty_list_is_nothing() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> list[Item]:
            return []

        @step
        async def second(self, ev: Item) -> StopEvent:
            return StopEvent()

    with pytest.raises(WorkflowStalledError, match="`first`"):
        await Flow().run()


async def test_an_event_that_was_not_declared_is_delivered_with_one_warning_a_run(caplog: pytest.LogCaptureFixture) -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> StopEvent | None:
            return Item(n=0)  # type: ignore[return-value]

        @step(skip_graph_checks=["reachability"])
        async def second(self, ev: Item) -> StopEvent | None:
            return Item(n=ev.n + 1) if ev.n < 3 else StopEvent(ev.n)  # type: ignore[return-value]

    assert await Flow(disable_validation=True).run() == 3
    told = [record.getMessage() for record in caplog.records if "returned Item, but declares StopEvent" in record.getMessage()]
    assert len(told) == 2
    assert "`first`" in told[0]
    assert "`second`" in told[1]


async def test_a_subclass_is_not_delivered_to_a_step_that_takes_the_base_and_the_run_says_so() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Item:
            return SpecialItem()

        @step
        async def second(self, ev: Item) -> StopEvent:
            return StopEvent(type(ev).__name__)

    meant = r"step `second` takes Item but not its subclasses; see @step\(accept_event_subclasses=True\)"
    with pytest.raises(WorkflowStalledError, match=meant):
        await Flow().run()


async def test_a_step_may_opt_into_subclasses() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Item:
            return SpecialItem()

        @step(accept_event_subclasses=True)
        async def second(self, ev: Item) -> StopEvent:
            return StopEvent(type(ev).__name__)

    assert await Flow().run() == "SpecialItem"


async def test_the_same_object_goes_to_every_step_that_takes_it() -> None:
    seen: list[Event] = []

    class Flow(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> Item | None:
            item = Item(n=1)
            seen.append(item)
            ctx.send_event(item)
            return None

        @step
        async def second(self, ev: Item) -> None:
            seen.append(ev)

        @step
        async def third(self, ev: Item) -> StopEvent:
            seen.append(ev)
            return StopEvent()

    await Flow().run()
    assert len(seen) == 3
    assert all(each is seen[0] for each in seen)


async def test_a_stop_event_that_is_sent_ends_nothing_and_the_run_says_why() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> StopEvent | None:
            ctx.send_event(StopEvent("sent"))
            return None

    with pytest.raises(WorkflowStalledError, match="a StopEvent ends the run only when a step returns it"):
        await Flow().run()


async def test_an_event_sent_right_after_run_arrives_after_the_start_event() -> None:
    order: list[str] = []

    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> Item | None:
            order.append("start")
            return None

        @step
        async def second(self, ev: Item) -> StopEvent:
            order.append("item")
            return StopEvent(ev.n)

    handler = Flow().run()
    handler.ctx.send_event(Item(n=4))
    assert await handler == 4
    assert order == ["start", "item"]
