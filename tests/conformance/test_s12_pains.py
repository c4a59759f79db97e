"""Section 12: what users of the reference suffered from, in its order. Each test shows that we do not have it.

Cost is counted in lines of Python that run, never in seconds.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel

from tracedflow import (
    Context,
    ContextSerdeError,
    HumanResponseEvent,
    InputRequiredEvent,
    Observer,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCancelledByUser,
    WorkflowCheckpointer,
    WorkflowStalledError,
    WorkflowTimeoutError,
    WorkflowValidationError,
    draw_all_possible_flows_mermaid,
    step,
)
from tracedflow.events import Event, WorkflowCancelledEvent, WorkflowFailedEvent, WorkflowTimedOutEvent
from tracedflow.retry_policy import retry_policy, wait_fixed, wait_none
from tracedflow.telemetry import Tracing
from tracedflow.testing import virtual_time


class Item(Event):
    n: int = 0


class Done(Event):
    n: int = 0


class Answer(HumanResponseEvent):
    pass


class Ask(InputRequiredEvent):
    pass


class Waits(Workflow):
    """Waits for an answer and gives it."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        answer = await ctx.wait_for_event(Answer, waiter_event=Ask())
        return StopEvent(result=answer.get("text"))


# 1. the stream hangs on failure, or at the second read


class Exits(Workflow):
    """Ends in the way that it is told."""

    @step
    async def go(self, ctx: Context, ev: StartEvent) -> StopEvent | Item:
        ctx.write_event_to_stream(Done(n=1))
        match ev.how:
            case BaseException() as error:
                raise error
            case "wait":
                await ctx.wait_for_event(Answer)
            case "stall":
                return Item()
        return StopEvent(result="well")

    @step
    async def nowhere(self, ev: Item) -> StopEvent | None:
        return None


EXITS: list[tuple[Any, type[Event], type[BaseException] | None]] = [
    ("well", StopEvent, None),
    (ValueError("bad"), WorkflowFailedEvent, ValueError),
    (SystemExit(3), WorkflowFailedEvent, SystemExit),
    (asyncio.CancelledError(), WorkflowFailedEvent, Exception),
    ("stall", WorkflowFailedEvent, WorkflowStalledError),
    ("time out", WorkflowTimedOutEvent, WorkflowTimeoutError),
    ("cancel_run", WorkflowCancelledEvent, WorkflowCancelledByUser),
    ("cancel", WorkflowCancelledEvent, asyncio.CancelledError),
]


@pytest.mark.parametrize(("how", "last", "error"), EXITS, ids=[str(how) or type(how).__name__ for how, _, _ in EXITS])
async def test_01_the_stream_ends_on_every_way_out_and_can_be_read_again(how: Any, last: Any, error: type[BaseException] | None) -> None:
    waits = how in ("time out", "cancel_run", "cancel")
    handler = Exits(timeout=0.05 if how == "time out" else None).run(how="wait" if waits else how)
    read: list[Event] = []
    async for event in handler.stream_events():
        read.append(event)
        if how == "cancel_run":
            await handler.cancel_run()
        elif how == "cancel":
            handler.cancel()
    assert [type(event) for event in read] == [Done, last]
    assert [event async for event in handler.stream_events(offset=0)] == read
    if error is None:
        assert await handler == "well"
    else:
        with pytest.raises(error):
            await handler


# 2. wait_for_event runs the step again from the top


async def test_02_three_waits_in_a_row_ask_three_times_and_get_three_answers_in_one_call_of_the_body() -> None:
    class Flow(Workflow):
        calls = 0

        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            self.calls += 1
            got = []
            for n in range(3):
                try:
                    got.append((await ctx.wait_for_event(Answer, waiter_event=Ask(n=n))).n)
                except Exception:
                    got.append(-1)
            return StopEvent(result=got)

    flow = Flow()
    handler = flow.run()
    asked: list[int] = []
    async for event in handler.stream_events():
        if isinstance(event, Ask):
            asked.append(event.n)
            handler.ctx.send_event(Answer(n=event.n * 10))
    assert await handler == [0, 10, 20]
    assert (asked, flow.calls) == ([0, 1, 2], 1)


async def test_02_an_answer_that_comes_early_is_kept_and_a_memo_spares_the_second_call_after_a_resume() -> None:
    class Flow(Workflow):
        calls = 0

        async def expensive(self) -> int:
            self.calls += 1
            return 42

        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            found = await ctx.once("found", self.expensive)
            answer = await ctx.wait_for_event(Answer)
            return StopEvent(result=(found, answer.n))

    flow = Flow()
    handler = flow.run()
    while not handler.why().waits:
        await asyncio.sleep(0)
    data = handler.ctx.to_dict()
    await handler.cancel_run()
    again = flow.run(ctx=Context.from_dict(flow, data))
    again.ctx.send_event(Answer(n=1))  # long before the wait is there again
    assert await again == (42, 1)
    assert flow.calls == 1


# 3. quadratic cost


def lines_run(main: Coroutine[Any, Any, Any]) -> int:
    """Return how many lines of Python ran in this thread."""
    count = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        asyncio.run(main)
    finally:
        sys.settrace(before)
    return count


class SentAndCollected(Workflow):
    """Sends n events through a step into `collect_events`."""

    expected: list[type[Done]] | None = None

    @step
    async def start(self, ctx: Context, ev: StartEvent) -> Item | None:
        self.n = ev.n
        for n in range(ev.n):
            ctx.send_event(Item(n=n))
        return None

    @step
    async def work(self, ev: Item) -> Done:
        return Done(n=ev.n)

    @step
    async def join(self, ctx: Context, ev: Done) -> StopEvent | None:
        done = ctx.collect_events(ev, [Done] * self.n)
        return StopEvent(result=len(done)) if done else None


class Listed(Workflow):
    """The same with lists."""

    @step
    async def start(self, ev: StartEvent) -> list[Item]:
        self.n = ev.n
        return [Item(n=n) for n in range(ev.n)]

    @step(num_workers=2, retry_policy=retry_policy(wait=wait_none()))
    async def work(self, ctx: Context, ev: Item) -> Done:
        if not ctx.retry_info().retry_number:
            raise ConnectionError
        return Done(n=ev.n)

    @step
    async def join(self, done: list[Done]) -> StopEvent:
        return StopEvent(result=len(done))


class Surplus(Workflow):
    """A join that gets three times what it expects of one class before the other comes."""

    @step
    async def start(self, ctx: Context, ev: StartEvent) -> Item | Done | None:
        self.expected = [*[Item] * ev.n, Done]
        for n in range(3 * ev.n):
            ctx.send_event(Item(n=n))
        ctx.send_event(Done())
        return None

    @step
    async def join(self, ctx: Context, ev: Item | Done) -> StopEvent | None:
        got = ctx.collect_events(ev, self.expected)
        return StopEvent(result=len(got)) if got else None


class Slots(Workflow):
    """n events of each of two classes, which one step joins in pairs."""

    @step
    async def start(self, ctx: Context, ev: StartEvent) -> Item | Done | None:
        self.left = ev.n
        for n in range(ev.n):
            ctx.send_event(Item(n=n))
        for n in range(ev.n):
            ctx.send_event(Done(n=n))
        return None

    @step
    async def join(self, item: Item, done: Done) -> StopEvent | None:
        self.left -= 1
        return None if self.left else StopEvent()


class Loops(Workflow):
    """One step n times, with a stream that nobody reads and a store that grows."""

    @step
    async def loop(self, ctx: Context, ev: StartEvent | Item) -> Item | StopEvent:
        if isinstance(ev, StartEvent):
            self.n = ev.n
            return Item(n=1)
        ctx.write_event_to_stream(Done(n=ev.n))
        await ctx.store.set(f"key{ev.n}", ev.n)
        return Item(n=ev.n + 1) if ev.n < self.n else StopEvent()


class Parked(Workflow):
    """n executions that wait, beside a loop of n; then all are answered."""

    @step
    async def start(self, ctx: Context, ev: StartEvent) -> Item | Done | None:
        self.n = self.left = ev.n
        for n in range(ev.n):
            ctx.send_event(Item(n=n))
        ctx.send_event(Done())
        return None

    @step
    async def wait(self, ctx: Context, ev: Item) -> StopEvent | None:
        await ctx.wait_for_event(Answer, timeout=None)
        self.left -= 1
        return None if self.left else StopEvent()

    @step
    async def loop(self, ctx: Context, ev: Done) -> Done | StopEvent | None:
        if ev.n < self.n:
            return Done(n=ev.n + 1)
        for n in range(self.n):
            ctx.send_event(Answer(n=n))
        return None


class Nests(Workflow):
    """Starts n runs, one after the other."""

    @step
    async def start(self, ev: StartEvent) -> StopEvent:
        for _ in range(ev.n):
            await Exits().run(how="well")
        return StopEvent()


@pytest.mark.parametrize("cls", [SentAndCollected, Listed, Surplus, Slots, Loops, Parked, Nests])
def test_03_ten_times_the_events_are_ten_times_the_work(cls: type[Workflow[Any]]) -> None:
    async def run(n: int) -> None:
        await cls(timeout=None).run(n=n)

    asyncio.run(run(5))  # what is done once in a process
    small, large = lines_run(run(30)), lines_run(run(300))
    assert large < 10.5 * small, f"{large / small:.1f} times the work"


async def test_03_neither_events_nor_state_are_copied_on_the_way() -> None:
    copied: list[str] = []

    class Heavy:
        def __copy__(self) -> Heavy:
            copied.append("copy")
            return self

        def __deepcopy__(self, memo: Any) -> Heavy:
            copied.append("deepcopy")
            return self

        def __reduce_ex__(self, protocol: Any) -> Any:
            copied.append("pickle")
            return super().__reduce_ex__(protocol)

    class Flow(Workflow):
        @step
        async def loop(self, ctx: Context, ev: StartEvent | Item) -> Item | StopEvent:
            if isinstance(ev, StartEvent):
                await ctx.store.set("heavy", Heavy())
                return Item(n=0, heavy=Heavy())
            await ctx.store.set("n", ev.n)
            assert isinstance(await ctx.store.get("heavy"), Heavy)
            ctx.write_event_to_stream(ev)
            return Item(n=ev.n + 1, heavy=ev.heavy) if ev.n < 20 else StopEvent(result=ev.heavy)

    assert isinstance(await Flow().run(), Heavy)
    assert copied == []


async def test_03_a_snapshot_costs_what_is_live_and_not_what_has_happened() -> None:
    class Flow(Workflow):
        @step
        async def loop(self, ctx: Context, ev: StartEvent | Item) -> Item | StopEvent:
            n = ev.n
            if n in (5, 500):
                before = sys.gettrace()
                count = 0

                def trace(frame: Any, event: str, _: Any) -> Any:
                    nonlocal count
                    count += event == "line"
                    return trace

                sys.settrace(trace)
                ctx.to_dict()
                sys.settrace(before)
                costs.append(count)
            return Item(n=n + 1) if n < 500 else StopEvent()

    costs: list[int] = []
    await Flow().run(n=0)
    assert costs[1] <= costs[0] * 1.05


# 4. silent hangs


class Sub(Item):
    pass


class Silent(Workflow):
    """Does what leads nowhere."""

    @step
    async def start(self, ctx: Context, ev: StartEvent) -> Item | None:
        if ev.sends is not None:
            ctx.send_event(ev.sends)
        return None

    @step
    async def take(self, ev: Item) -> StopEvent | None:
        return None


@pytest.mark.parametrize(
    ("sends", "says"),
    [
        (None, "`start`"),
        (Item(), "`take`"),
        (Done(), "Done"),
        (Sub(), "Sub.*accept_event_subclasses|accept_event_subclasses.*Sub"),
        (StopEvent(result=1), "StopEvent.*return"),
    ],
    ids=["None", "a branch that ends", "unhandled", "a subclass", "StopEvent"],
)
async def test_04_a_run_that_can_never_finish_fails_at_once_and_says_why(sends: Event | None, says: str) -> None:
    with pytest.raises(WorkflowStalledError, match=f"(?s){says}"):
        await Silent(timeout=None).run(sends=sends)


async def test_04_the_wrong_class_of_start_event_fails_at_once_too() -> None:
    class Typed(StartEvent):
        sends: Any = None

    with pytest.raises(WorkflowStalledError, match="Typed"):
        await Silent(timeout=None).run(start_event=Typed())


# 5. tracing


async def test_05_when_the_result_is_there_every_span_has_ended_and_has_its_place() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    class Child(Workflow):
        @step
        async def inner(self, ev: StartEvent) -> StopEvent:
            return StopEvent()

    class Parent(Workflow):
        calls = 0

        @step(retry_policy=retry_policy(wait=wait_none()))
        async def outer(self, ev: StartEvent) -> Item:
            self.calls += 1
            if self.calls == 1:
                raise ConnectionError
            await Child(middleware=[Tracing(provider)], telemetry=False).run()
            return Item()

        @step
        async def last(self, ev: Item) -> StopEvent:
            return StopEvent()

    await Parent(middleware=[Tracing(provider)], telemetry=False).run()
    spans = exporter.get_finished_spans()
    names = {span.context.span_id: span.name for span in spans if span.context}
    tree = {(span.name, names[span.parent.span_id] if span.parent else None) for span in spans}
    parent, child = (next(name for name in names.values() if name.endswith(f"{which}")) for which in ("Parent", "Child"))
    assert tree - {("start_workflow " + parent.split(" ")[1], None)} == {
        (parent, None),
        ("run_step outer", parent),
        ("run_step last", parent),
        ("attempt outer", "run_step outer"),
        (child, "attempt outer"),
        ("run_step inner", child),
    }
    assert [span.name for span in spans].count("attempt outer") == 2
    assert len({span.context.trace_id for span in spans if span.context}) == 1
    provider.shutdown()


# 6. memory


async def test_06_finished_events_are_freed_and_the_unread_stream_is_bounded() -> None:
    alive: weakref.WeakSet[Event] = weakref.WeakSet()
    most = 0

    class Counted(Event):
        n: int
        __hash__ = object.__hash__

    class Flow(Workflow):
        @step
        async def loop(self, ctx: Context, ev: StartEvent | Counted) -> Counted | StopEvent:
            nonlocal most
            n = ev.n
            shown = Counted(n=n)
            ctx.write_event_to_stream(shown)
            following = Counted(n=n + 1)
            alive.update([shown, following])
            if n % 100 == 99:
                gc.collect()
                most = max(most, len(alive))
            return following if n < 1000 else StopEvent()

    await Flow(keep_events=10).run(n=0)
    assert most < 20


async def test_06_nothing_holds_a_workflow_or_its_run_once_it_is_over() -> None:
    flow = Waits(timeout=3600)
    handler = flow.run()
    async for event in handler.stream_events():
        if isinstance(event, Ask):
            handler.ctx.send_event(Answer(text="yes"))
    await handler
    gone = [weakref.ref(flow), weakref.ref(handler), weakref.ref(handler.ctx)]
    del flow, handler, event
    await asyncio.sleep(0)
    gc.collect()
    assert [ref() for ref in gone] == [None, None, None]


# 7. timeouts


@virtual_time()
async def test_07_a_step_may_have_a_time_limit_that_stops_while_it_waits_for_people() -> None:
    class Flow(Workflow):
        @step(timeout=10)
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(6)
            await ctx.wait_for_event(Answer, waiter_event=Ask(), timeout=None)
            await asyncio.sleep(ev.more)
            return StopEvent(result="in time")

    async def run(more: int) -> Any:
        handler = Flow(timeout=None).run(more=more)
        async for event in handler.stream_events():
            if isinstance(event, Ask):
                await asyncio.sleep(3600)
                handler.ctx.send_event(Answer())
        return await handler

    assert await run(3) == "in time"
    with pytest.raises(TimeoutError, match=r"`ask`.*10"):
        await run(5)


@virtual_time()
async def test_07_each_run_of_a_context_has_the_whole_timeout_and_the_error_says_who_did_what_for_how_long() -> None:
    class Flow(Workflow):
        @step
        async def sleep(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(ev.seconds)
            return StopEvent()

    flow = Flow(timeout=10)
    ctx = Context(flow)
    for _ in range(3):
        await flow.run(ctx=ctx, seconds=9)
    with pytest.raises(WorkflowTimeoutError, match=r"(?s)10.*`?sleep`?.*10"):
        await flow.run(ctx=ctx, seconds=11)


@virtual_time()
async def test_07_a_nested_run_has_no_surprising_limit_of_its_own_and_ends_with_its_parent() -> None:
    class Inner(Workflow):
        @step
        async def sleep(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(1000)
            return StopEvent()

    class Outer(Workflow):
        @step
        async def outer(self, ev: StartEvent) -> StopEvent:
            self.child = Inner(timeout=None).run()
            await self.child
            return StopEvent()

    flow = Outer(timeout=50)
    with pytest.raises(WorkflowTimeoutError):
        await flow.run()
    assert flow.child.done()
    assert asyncio.get_running_loop().time() < 52


# 8. collect_events


async def test_08_surplus_is_kept_no_body_runs_again_and_buffers_end_with_their_run() -> None:
    class Flow(Workflow):
        bodies = 0

        @step
        async def start(self, ctx: Context, ev: StartEvent) -> Item | Done | None:
            self.sets: list[list[int]] = []
            for event in ev.events:
                ctx.send_event(event)
            return None

        @step(num_workers=4)
        async def join(self, ctx: Context, ev: Item | Done) -> StopEvent | None:
            self.bodies += 1
            await asyncio.sleep(0)
            got = ctx.collect_events(ev, [Item, Done])
            if got:
                self.sets.append([each.n for each in got])
            return StopEvent(result=self.sets) if len(self.sets) == 2 else None

    flow = Flow()
    ctx = Context(flow)
    events = [Item(n=1), Item(n=2), Done(n=3), Done(n=4), Item(n=5)]
    for _ in range(2):
        assert await flow.run(ctx=ctx, events=events) == [[1, 3], [2, 4]]
    assert flow.bodies <= 10


# 9. serialization


async def test_09_a_value_that_cannot_be_saved_is_named_by_path_and_type() -> None:
    flow = Waits()
    ctx = Context(flow)
    await ctx.store.set("a", {"b": [1, threading.Lock()]})
    with pytest.raises(ContextSerdeError, match=r"(?s)a.*b.*1.*lock"):
        ctx.to_dict()


async def test_09_a_snapshot_works_inside_a_step_and_typed_objects_come_back_typed() -> None:
    class Memory(BaseModel):
        said: list[str] = []

    class Flow(Workflow):
        @step
        async def save(self, ctx: Context[Memory], ev: StartEvent) -> StopEvent:
            async with ctx.store.edit_state() as state:
                state.said.append("hello")
            return StopEvent(result=json.dumps(ctx.to_dict()))

    flow = Flow()
    ctx = Context.from_dict(flow, json.loads(await flow.run()))
    state = await ctx.store.get_state()
    assert isinstance(state, Memory)
    assert state.said == ["hello"]


# 10. retries: section 6


# 11. swallowed tracebacks


async def test_11_an_error_is_the_original_with_its_traceback_and_notes_on_step_attempt_and_event() -> None:
    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_none()))
        async def fails(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result={}["missing"])

    with pytest.raises(KeyError) as raised:
        await Flow().run()
    assert raised.traceback[-1].name == "fails"
    notes = "\n".join(raised.value.__notes__)
    assert all(part in notes for part in ("`fails`", "attempt 3", "StartEvent"))


# 12. stepwise and checkpoints


async def test_12_every_checkpoint_of_a_parallel_run_with_a_wait_leads_to_the_same_result() -> None:
    class Flow(Workflow):
        @step
        async def start(self, ev: StartEvent) -> list[Item]:
            return [Item(n=n) for n in range(3)]

        @step
        async def work(self, ctx: Context, ev: Item) -> Done:
            return Done(n=(await ctx.wait_for_event(Answer)).n if ev.n == 1 else ev.n)

        @step
        async def join(self, done: list[Done]) -> StopEvent:
            return StopEvent(result=sorted(each.n for each in done))

    wc = WorkflowCheckpointer(Flow())
    handler = wc.run()
    handler.ctx.send_event(Answer(n=9))
    assert await handler == [0, 2, 9]
    checkpoints = list(wc.checkpoints[handler.run_id])
    assert [each.last_completed_step for each in checkpoints] == ["start", "work", "work", "work", "join"]
    for checkpoint in checkpoints:
        again = wc.run_from(checkpoint)
        if not again.done():
            again.ctx.send_event(Answer(n=9))
        assert await again == [0, 2, 9]


# 13. cancelling


async def test_13_cancelling_a_run_cancels_its_nested_runs_and_lets_them_clean_up() -> None:
    log: list[str] = []
    begun = asyncio.Event()

    class Inner(Workflow):
        @step
        async def inner(self, ev: StartEvent) -> StopEvent:
            try:
                begun.set()
                await asyncio.Event().wait()
            finally:
                log.append("inner cleaned up")
            return StopEvent()

    class Outer(Workflow):
        @step
        async def outer(self, ev: StartEvent) -> StopEvent:
            try:
                await Inner().run()
            finally:
                log.append("outer cleaned up")
            return StopEvent()

    handler = Outer().run()
    await begun.wait()
    await handler.cancel_run()
    assert sorted(log) == ["inner cleaned up", "outer cleaned up"]
    with pytest.raises(WorkflowCancelledByUser):
        await handler


async def test_13_a_shielded_wait_for_keeps_the_run_and_its_result() -> None:
    handler = Waits().run()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.shield(handler), 0.01)
    assert not handler.is_done()
    handler.ctx.send_event(Answer(text="kept"))
    assert await handler == "kept"


# 14. validation errors


def test_14_a_misspelt_event_names_step_file_line_and_what_was_meant() -> None:
    class Itme(Event):
        pass

    class Flow(Workflow):
        @step
        async def make(self, ev: StartEvent) -> Itme: ...

        @step
        async def take(self, ev: Item) -> StopEvent: ...

    with pytest.raises(WorkflowValidationError, match=r"(?s)`make` \(.*test_s12_pains\.py:\d+\).*Did you mean Item\?"):
        Flow()


# 15. subclasses


async def test_15_subclasses_are_routed_where_a_step_asks_for_them() -> None:
    class Flow(Silent):
        @step(accept_event_subclasses=True)
        async def take(self, ev: Item) -> StopEvent:
            return StopEvent(result=type(ev))

    assert await Flow().run(sends=Sub()) is Sub


async def test_15_an_unhandled_event_is_told_once_a_run_with_the_near_miss(caplog: pytest.LogCaptureFixture) -> None:
    class Flow(Silent):
        @step
        async def start(self, ctx: Context, ev: StartEvent) -> Item | StopEvent:
            for _ in range(200):
                ctx.send_event(Sub())
            return StopEvent()

    await Flow().run()
    (said,) = (record.getMessage() for record in caplog.records if record.name == "tracedflow")
    assert all(part in said for part in ("Sub", "`start`", "`take`", "Item"))


# 17. synchronous use, and event loops


def test_17_scripts_sync_steps_and_one_instance_on_several_loops() -> None:
    class Flow(Workflow):
        @step
        def start(self, ctx: Context, ev: StartEvent) -> Item | None:
            ctx.write_event_to_stream(Done())
            ctx.sync.store.set("threads", threading.current_thread() is not threading.main_thread())
            for n in range(3):
                ctx.send_event(Item(n=n))
            return None

        @step
        def join(self, ctx: Context, ev: Item) -> StopEvent | None:
            got = ctx.collect_events(ev, [Item] * 3)
            return StopEvent(result=(len(got), ctx.sync.store.get("threads"))) if got else None

    flow = Flow(num_concurrent_runs=1)
    assert flow.run_sync() == (3, True)
    assert flow.run_sync() == (3, True)

    async def twice() -> list[Any]:
        return [await asyncio.gather(flow.run(), flow.run()), flow.run_sync()]

    assert asyncio.run(twice()) == [[(3, True)] * 2, (3, True)]


# 18. one consumer


async def test_18_many_readers_see_every_event_each_from_where_it_wants() -> None:
    class Flow(Workflow):
        @step
        async def tell(self, ctx: Context, ev: StartEvent) -> StopEvent:
            for n in range(3):
                ctx.write_event_to_stream(Done(n=n))
                await asyncio.sleep(0)
            return StopEvent()

    handler = Flow().run()

    async def read(offset: int) -> list[int]:
        return [event.n async for event in handler.stream_events(offset=offset) if isinstance(event, Done)]

    assert await asyncio.gather(read(0), read(0), read(2)) == [[0, 1, 2], [0, 1, 2], [2]]


# 19. persistence without a server


async def test_19_checkpoints_in_a_file_outlive_who_made_them(tmp_path: Path) -> None:
    file = tmp_path / "checkpoints.db"
    handler = WorkflowCheckpointer(Listed(), store=file).run(n=3)
    assert await handler == 3
    later = WorkflowCheckpointer(Listed(), store=file)
    (first, *_) = later.checkpoints[handler.run_id]
    assert first.last_completed_step == "start"
    assert await later.run_from(first) == 3


# 20. serializer security


async def test_20_a_class_that_data_names_is_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')\nclass Evil: ...")
    monkeypatch.syspath_prepend(tmp_path)
    flow = Waits()
    ctx = Context(flow)
    await ctx.store.set("item", Item())
    text = json.dumps(ctx.to_dict())
    name = f"{Item.__module__}.{Item.__qualname__}"
    assert name in text
    with pytest.raises(ContextSerdeError):
        await Context.from_dict(flow, json.loads(text.replace(name, "evil_module.Evil"))).store.get("item")
    assert "evil_module" not in sys.modules


# 21. drawings: section 8


def test_21_postponed_annotations_of_local_classes_are_drawn() -> None:
    class Local(Event):
        pass

    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> Local: ...

        @step
        async def two(self, ev: Local) -> StopEvent: ...

    assert 'event_Local(["Local"])' in draw_all_possible_flows_mermaid(Flow, None)


# 22. hooks


async def test_22_a_program_can_watch_its_runs_from_inside() -> None:
    class Watch(Observer):
        seen: list[str] = []

        async def step(self, call: Any, call_next: Any) -> Any:
            result = await call_next(call)
            self.seen.append(f"{call.step} gave {type(result).__name__}")
            return result

        def on(self, notice: Any) -> None:
            self.seen.append(type(notice).__name__)

    watch = Watch()
    await Exits(middleware=[watch]).run(how="well")
    assert watch.seen == ["EventSent", "EventStreamed", "go gave StopEvent", "EventSent"]


# 23. concurrent runs share `self`, but nothing else


async def test_23_concurrent_runs_have_a_state_each() -> None:
    class Flow(Workflow):
        @step
        async def count(self, ctx: Context, ev: StartEvent | Item) -> Item | StopEvent:
            n = await ctx.store.get("n", default=0) + 1
            await ctx.store.set("n", n)
            await asyncio.sleep(0)
            return StopEvent(result=n) if n == 5 else Item()

    flow = Flow()
    assert await asyncio.gather(*(flow.run() for _ in range(10))) == [5] * 10


# 24. reuse of steps


KindT = TypeVar("KindT", bound=Event)


async def test_24_steps_come_from_mixins_generic_bases_and_free_functions_and_are_inherited() -> None:
    class Starts(Generic[KindT]):
        async def hook(self) -> int:
            return 1

        @step
        async def start(self, ev: StartEvent) -> Item:
            return Item(n=await self.hook())

    class One(Starts[Item], Workflow):
        pass

    class Two(Workflow):
        @step
        async def start(self, ev: StartEvent) -> Item:
            return Item(n=2)

    @step(workflow=One)
    async def end(ev: Item) -> StopEvent:
        return StopEvent(result=ev.n)

    Two.add_step(end)

    class Three(One):
        async def hook(self) -> int:
            return 3

    assert [await cls().run() for cls in (One, Two, Three)] == [1, 2, 3]


# 25. resources: section 7


# 26. a failed run that nobody awaited


async def test_26_a_failure_that_nobody_awaited_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def forget() -> None:
        handler = Exits(telemetry=False).run(how=LookupError("lost"))
        async for _ in handler.stream_events():
            pass

    with caplog.at_level(logging.ERROR):
        await forget()
        await asyncio.sleep(0)
        gc.collect()
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["lost"]


# 27. the handler as a future: section 11


@virtual_time()
async def test_27_handlers_go_where_futures_go() -> None:
    class Flow(Workflow):
        @step(retry_policy=retry_policy(wait=wait_fixed(1)))
        async def sleep(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(ev.n)
            return StopEvent(result=ev.n)

    flow = Flow()
    handlers = [flow.run(n=n) for n in (3, 1, 2)]
    done, pending = await asyncio.wait(handlers, return_when=asyncio.FIRST_COMPLETED)
    assert ([each.result() for each in done], len(pending)) == ([1], 2)
    assert [await each for each in asyncio.as_completed(handlers)][-1] == 3
    assert await asyncio.gather(*handlers) == [3, 1, 2]
    assert asyncio.ensure_future(handlers[0]) is handlers[0]
    called: list[Callable[..., Any]] = []
    handlers[0].add_done_callback(called.append)
    await asyncio.sleep(0)
    assert called == [handlers[0]]
