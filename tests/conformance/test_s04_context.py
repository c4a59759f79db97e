"""Section 4: the Context: faces, store, sends, collecting, waiting, snapshots."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from tracedflow import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowHandler,
    WorkflowRuntimeError,
    step,
)
from tracedflow.context import JsonSerializer, PickleSerializer
from tracedflow.context.state_store import DictState, InMemoryStateStore, UnserializableKeyWarning
from tracedflow.errors import ContextSerdeError, ContextStateError, WorkflowDone, WorkflowStepDoesNotExistError
from tracedflow.retry_policy import RetryInfo, retry_policy, stop_after_attempt, wait_fixed
from tracedflow.testing import virtual_time


class A(Event):
    n: int = 0


class B(Event):
    n: int = 0


class Ask(InputRequiredEvent):
    what: str = ""


class Answer(HumanResponseEvent):
    n: int = 0


class Waits(Workflow):
    """Asks twice, without ids."""

    called = 0

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        type(self).called += 1
        one = await ctx.wait_for_event(Answer, waiter_event=Ask(what="one"))
        two = await ctx.wait_for_event(Answer, waiter_event=Ask(what="two"))
        return StopEvent(result=[one.n, two.n])


async def parked(handler: WorkflowHandler[Any]) -> None:
    while not handler.why().waits:
        await asyncio.sleep(0)


def in_step(body: Any, **options: Any) -> Workflow:
    class Flow(Workflow):
        @step(**options)
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await body(ctx, ev))

    return Flow()


# 4.1


async def test_members_of_another_face_are_refused_with_the_place_they_belong_to() -> None:
    flow = Waits()
    ctx: Context[Any] = Context(flow)
    for call in (lambda: ctx.send_event(A()), lambda: ctx.collect_events(A(), [A]), ctx.retry_info, lambda: ctx.write_event_to_stream(A())):
        with pytest.raises(ContextStateError):
            call()
    assert not ctx.is_running
    handler = flow.run(ctx=ctx)
    await parked(handler)
    assert ctx.is_running
    assert await ctx.running_steps() == ["ask"]
    with pytest.raises(ContextStateError):
        flow.run(ctx=ctx)
    await handler.cancel_run()


async def test_the_first_try_has_no_retries_behind_it_and_the_current_context_can_be_asked_for() -> None:
    async def body(ctx: Context, ev: StartEvent) -> Any:
        info = ctx.retry_info()
        return [info.retry_number, info.last_exception, info.last_failed_at, Context.get_step_context() is not None]

    assert await in_step(body).run() == [0, None, None, True]


async def test_a_saved_context_goes_on_from_inside_a_step_too() -> None:
    async def body(ctx: Context, ev: StartEvent) -> Any:
        return json.loads(json.dumps(ctx.to_dict()))["run"] is not None

    assert await in_step(body).run() is True


async def test_a_context_may_be_made_of_what_another_saved() -> None:
    flow = Waits()
    ctx: Context[Any] = Context(flow)
    await ctx.store.set("k", 1)
    assert await Context(flow, ctx.to_dict()).store.get("k") == 1
    for wrong in ({}, {"version": 10**6}, {"version": "1"}):
        with pytest.raises(ContextSerdeError):
            Context.from_dict(flow, wrong)


async def test_reusing_a_context_keeps_its_store() -> None:
    async def body(ctx: Context, ev: StartEvent) -> Any:
        async with ctx.store.edit_state() as state:
            state["n"] = state.get("n", 0) + 1
        return await ctx.store.get("n")

    flow = in_step(body)
    ctx: Context[Any] = Context(flow)
    assert [await flow.run(ctx=ctx) for _ in range(3)] == [1, 2, 3]


async def test_before_its_run_a_context_has_its_store_and_nothing_of_a_run() -> None:
    ctx: Context[Any] = Context(Waits())
    await ctx.store.set("k", 1)
    assert ctx.to_dict()["run"] is None
    calls: dict[str, Callable[[], object]] = {
        "send_event": lambda: ctx.send_event(A()),
        "stream_events": ctx.stream_events,
        "collect_events": lambda: ctx.collect_events(A(), [A]),
        "wait_for_event": lambda: ctx.wait_for_event(Answer),
        "write_event_to_stream": lambda: ctx.write_event_to_stream(A()),
        "retry_info": ctx.retry_info,
        "once": lambda: ctx.once("k", lambda: 1),
        "measure": lambda: ctx.measure("k", 1),
        "annotate": lambda: ctx.annotate(k=1),
        "expect_external": lambda: ctx.expect_external("webhook"),
        "sync": lambda: ctx.sync,
        "idempotency_key": lambda: ctx.idempotency_key,
        "run_id": lambda: ctx.run_id,
    }
    for member, call in calls.items():
        with pytest.raises(ContextStateError, match=rf"ctx\.{member} "):
            call()
    with pytest.raises(ContextStateError, match=r"ctx\.running_steps "):
        await ctx.running_steps()


async def test_the_callers_context_is_the_one_given_and_has_no_members_of_a_step() -> None:
    flow = Waits()
    ctx: Context[Any] = Context(flow)
    handler = flow.run(ctx=ctx)
    assert handler.ctx is ctx
    await parked(handler)
    calls: dict[str, Callable[[], object]] = {
        "collect_events": lambda: ctx.collect_events(A(), [A]),
        "wait_for_event": lambda: ctx.wait_for_event(Answer),
        "retry_info": ctx.retry_info,
    }
    for member, call in calls.items():
        with pytest.raises(ContextStateError, match=rf"ctx\.{member} works in a step only"):
            call()
    ctx.send_event(Answer(n=1))
    await parked(handler)
    ctx.send_event(Answer(n=2))
    assert [type(event) async for event in ctx.stream_events() if not isinstance(event, Ask)] == [StopEvent]
    assert not ctx.is_running
    with pytest.raises(WorkflowDone, match="over"):
        ctx.send_event(Answer())


async def test_a_step_knows_its_context_and_may_not_start_another_run_with_it() -> None:
    async def body(ctx: Context, ev: StartEvent) -> Any:
        with pytest.raises(ContextStateError, match="Context of a step"):
            Waits().run(ctx=ctx)
        return [Context.get_step_context() is ctx, ctx.is_running]

    assert await in_step(body).run() == [True, True]
    with pytest.raises(ContextStateError, match="outside a step"):
        Context.get_step_context()


@pytest.mark.parametrize("wrong", [None, "flow", object(), Waits])
def test_a_context_is_made_of_an_instance_of_a_workflow(wrong: Any) -> None:
    with pytest.raises(ContextStateError, match="takes an instance of a workflow"):
        Context(wrong)


@pytest.mark.parametrize("wrong", ["pickle", object(), JsonSerializer])
def test_a_serializer_must_be_one(wrong: Any) -> None:
    flow = Waits()
    data = Context(flow).to_dict()
    for call in (lambda: Context(flow).to_dict(wrong), lambda: Context.from_dict(flow, data, wrong), lambda: Context(flow, None, wrong)):
        with pytest.raises(ContextSerdeError, match=r"serializer=.*must be an instance"):
            call()


@pytest.mark.parametrize(
    "data",
    [None, [], "text", {}, {"a": 1}, {"version": True}, {"version": 1, "state": 3, "run": None}, {"version": 1, "state": None, "run": {}}],
)
def test_what_is_no_saved_context_is_refused(data: Any) -> None:
    with pytest.raises(ContextSerdeError):
        Context.from_dict(Waits(), data)


@virtual_time()
async def test_a_retry_knows_what_came_before() -> None:
    seen: list[RetryInfo] = []

    async def body(ctx: Context, ev: StartEvent) -> Any:
        seen.append(ctx.retry_info())
        if len(seen) < 3:
            raise ValueError(len(seen))

    await in_step(body, retry_policy=retry_policy(wait=wait_fixed(2), stop=stop_after_attempt(3))).run()
    assert [info.retry_number for info in seen] == [0, 1, 2]
    assert [round(info.elapsed_seconds) for info in seen] == [0, 2, 4]
    assert [str(info.last_exception) for info in seen] == ["None", "1", "2"]
    assert [info.last_failed_at is None for info in seen] == [True, False, False]


async def test_deprecated_members_still_work_and_say_so() -> None:
    async def body(ctx: Context, ev: StartEvent) -> Any:
        ctx.write_event_to_stream(None)
        ctx.write_event_to_stream(A(n=1))
        with pytest.warns(DeprecationWarning, match=r"ctx\.store\.set"):
            await ctx.set("k", 1, make_private=True)
        with pytest.warns(DeprecationWarning, match=r"ctx\.store\.get"):
            return [await ctx.get("k"), await ctx.get("z", default=3)]

    handler = in_step(body).run()
    ctx = handler.ctx
    with pytest.warns(DeprecationWarning, match=r"stream_events"):
        queue = ctx.streaming_queue
    assert await queue.get() == A(n=1)
    assert isinstance(await queue.get(), StopEvent)
    assert await handler == [1, 3]
    with pytest.warns(DeprecationWarning, match="await the handler"):
        assert ctx.get_result() == [1, 3]


async def test_the_result_is_not_there_before_the_run_is_over() -> None:
    handler = Waits().run()
    with pytest.warns(DeprecationWarning, match="await the handler"), pytest.raises(ContextStateError, match="before the run was over"):
        handler.ctx.get_result()
    await handler.cancel_run()


# 4.2


async def test_paths_lead_through_dicts_attributes_and_lists() -> None:
    store = Context(Waits()).store
    await store.set("a.b.c", [10, {"d": 5}])
    assert await store.get("a.b.c.1.d") == 5
    assert await store.get("a.b.c.0") == 10
    assert await store.get("no.where", default=7) == 7
    with pytest.raises(ValueError, match=r"no\.where"):
        await store.get("no.where")
    with pytest.raises(ValueError, match="path"):
        await store.set("", 1)


class Typed(BaseModel):
    n: int = 0
    words: list[str] = []


class TypedFlow(Workflow):
    @step
    async def only(self, ctx: Context[Typed], ev: StartEvent) -> StopEvent:
        async with ctx.store.edit_state() as state:
            state.n += 1
            state.words.append("w")
        return StopEvent(result=(await ctx.store.get_state()).model_dump())


async def test_a_typed_state_is_made_of_its_defaults_and_refuses_unknown_fields() -> None:
    flow = TypedFlow()
    ctx: Context[Typed] = Context(flow)
    assert await flow.run(ctx=ctx) == {"n": 1, "words": ["w"]}
    with pytest.raises(ValueError, match="nope"):
        await ctx.store.set("nope", 1)


async def test_an_edit_is_isolated_committed_at_its_end_and_discarded_if_it_raises() -> None:
    store = Context(Waits()).store
    await store.set("list", [1])
    async with store.edit_state() as state:
        state["list"].append(2)
        assert await store.get("list") == [1]
    assert await store.get("list") == [1, 2]
    with pytest.raises(KeyError):
        async with store.edit_state() as state:
            state["list"].append(3)
            raise KeyError
    assert await store.get("list") == [1, 2]
    with pytest.raises(RuntimeError, match="edit_state"):
        async with store.edit_state():
            await store.set("list", [])


async def test_concurrent_edits_lose_nothing() -> None:
    store = Context(Waits()).store

    async def add() -> None:
        async with store.edit_state() as state:
            n = state.get("n", 0)
            await asyncio.sleep(0)
            state["n"] = n + 1

    await asyncio.gather(*[add() for _ in range(50)])
    assert await store.get("n") == 50


async def test_a_copy_of_the_state_is_a_copy_all_the_way_down() -> None:
    store = Context(Waits()).store
    await store.set("a.b", [1, {"c": 2}])
    copy = await store.get_state()
    copy["a"]["b"].append(3)
    assert await store.get("a.b") == [1, {"c": 2}]  # a live reference in the reference
    assert (await store.get(""))["a"] == {"b": [1, {"c": 2}]}


async def test_a_path_has_a_thousand_segments_at_most_and_is_text() -> None:
    store = Context(Waits()).store
    await store.set(".".join("x" * 1000), 1)
    for call in (store.get, lambda path: store.set(path, 1)):
        with pytest.raises(ValueError, match="1000"):
            await call(".".join("x" * 1001))
        for wrong in (3, ["a"]):
            with pytest.raises(TypeError, match="path must be a str"):
                await call(wrong)  # type: ignore[arg-type]


async def test_the_state_is_replaced_and_cleared_as_a_whole() -> None:
    store = Context(Waits()).store
    await store.set("old", 1)
    await store.set_state(state=DictState(new=2))
    assert (await store.get_state()).to_dict() == {"new": 2}
    await store.clear()
    assert (await store.get_state()).to_dict() == {}
    with pytest.raises(ValueError, match="DictState"):
        await store.set_state({"new": 2})  # type: ignore[arg-type]


async def test_every_writer_inside_an_edit_is_refused_and_the_edit_counts_all_the_same() -> None:
    store = Context(Waits()).store
    async with store.edit_state() as state:
        state["k"] = 1
        for write in (lambda: store.set("k", 2), lambda: store.set_state(DictState()), store.clear):
            with pytest.raises(RuntimeError, match="edit_state"):
                await write()
        with pytest.raises(RuntimeError, match="edit_state"):
            async with store.edit_state():
                pass
    assert await store.get("k") == 1


class More(Typed):
    more: int = 1


async def test_an_instance_of_a_parent_is_merged_into_a_typed_state_and_values_are_not_validated() -> None:
    class Other(BaseModel):
        pass

    class Flow(Workflow):
        @step
        async def only(self, ctx: Context[More], ev: StartEvent) -> StopEvent: ...  # type: ignore[empty-body]

    store = Context(Flow()).store
    await store.set("more", "zz")
    assert await store.get("more") == "zz"
    await store.set("more", 5)
    await store.set_state(Typed(n=4))
    assert await store.get_state() == More(n=4, more=5)
    with pytest.raises(ValueError, match="More"):
        await store.set_state(Other())
    again = InMemoryStateStore.from_dict(store.to_dict(JsonSerializer()), JsonSerializer(), More)
    assert await again.get_state() == More(n=4, more=5)


# 4.3


async def test_a_targeted_send_is_checked_and_what_is_no_event_is_refused() -> None:
    async def body(ctx: Context, ev: StartEvent) -> Any:
        for event, name, text in ((A(), "nowhere", "nowhere"), (A(), "only", "only"), ("text", None, "text")):
            with pytest.raises((WorkflowRuntimeError, TypeError, ValueError), match=text):
                ctx.send_event(event, step=name)  # type: ignore[arg-type]
        return "refused"

    assert await in_step(body).run() == "refused"


@pytest.mark.parametrize("name", [3, ["only"], in_step])
async def test_the_step_of_a_send_is_a_name(name: Any) -> None:
    async def body(ctx: Context, ev: StartEvent) -> Any:
        with pytest.raises(WorkflowRuntimeError, match="takes the name of a step"):
            ctx.send_event(StartEvent(), step=name)
        with pytest.raises(WorkflowStepDoesNotExistError, match="`onyl`; it has only"):
            ctx.send_event(StartEvent(), step="onyl")
        with pytest.raises(WorkflowRuntimeError, match="takes an event"):
            ctx.send_event(A)  # type: ignore[arg-type]

    await in_step(body).run()


async def test_a_send_appears_nowhere_on_the_stream() -> None:
    class Flow(Workflow):
        @step
        async def one(self, ctx: Context, ev: StartEvent) -> A | None:
            ctx.send_event(A(n=1))
            return None

        @step
        async def two(self, ev: A) -> StopEvent:
            return StopEvent(result=ev.n)

    handler = Flow().run()
    assert [type(event) async for event in handler.stream_events()] == [StopEvent]
    assert await handler == 1


@virtual_time()
async def test_a_retried_step_sends_again() -> None:
    class Flow(Workflow):
        tries = got = 0

        @step(retry_policy=retry_policy(wait=wait_fixed(1)))
        async def one(self, ctx: Context, ev: StartEvent) -> A | None:
            ctx.send_event(A())  # takes effect although the step fails
            self.tries += 1
            if self.tries == 1:
                raise ValueError
            return None

        @step
        async def two(self, ev: A) -> StopEvent | None:
            self.got += 1
            return StopEvent(result=self.tries) if self.got == 2 else None

    assert await Flow().run() == 2


# 4.4


class Collects(Workflow):
    bodies = 0

    @step
    async def spread(self, ctx: Context, ev: StartEvent) -> A | B | None:
        for kind, n in ev.events:
            ctx.send_event((A if kind == "a" else B)(n=n))
        return None

    @step(num_workers=4)
    async def join(self, ctx: Context, ev: A | B) -> StopEvent | None:
        type(self).bodies += 1
        await asyncio.sleep(0)
        sets = ctx.collect_events(ev, [A, B])
        if sets is None:
            return None
        async with ctx.store.edit_state() as state:
            state["sets"] = [*state.get("sets", []), [f"{type(each).__name__}{each.n}" for each in sets]]
        found = await ctx.store.get("sets")
        return StopEvent(result=found) if len(found) == 2 else None


async def test_sets_are_in_the_order_asked_for_surplus_is_kept_and_no_body_runs_twice() -> None:
    Collects.bodies = 0
    assert await Collects().run(events=[["a", 1], ["a", 2], ["b", 3], ["b", 4]]) == [["A1", "B3"], ["A2", "B4"]]
    assert Collects.bodies == 4


async def test_nothing_expected_is_there_at_once() -> None:
    async def body(ctx: Context, ev: StartEvent) -> Any:
        return ctx.collect_events(ev, [])

    assert await in_step(body).run() == []


@pytest.mark.parametrize("expected", [A, "A", ["A"], [3], [A()], [int], None, 3])
async def test_what_is_expected_must_be_event_classes(expected: Any) -> None:
    async def body(ctx: Context, ev: StartEvent) -> Any:
        with pytest.raises(WorkflowRuntimeError, match=r"collect_events\(\) in step `only` takes .* expected"):
            ctx.collect_events(A(), expected)

    await in_step(body).run()


async def test_what_is_collected_must_be_an_event_and_a_buffer_has_a_name() -> None:
    async def body(ctx: Context, ev: StartEvent) -> Any:
        with pytest.raises(WorkflowRuntimeError, match=r"collect_events\(\) in step `only` takes an event"):
            ctx.collect_events("text", [A])  # type: ignore[arg-type]
        with pytest.raises(WorkflowRuntimeError, match=r"takes a string as buffer_id, not \[1\]"):
            ctx.collect_events(A(), [A], [1])  # type: ignore[arg-type]

    await in_step(body).run()


async def test_classes_are_exact_equals_come_in_order_of_arrival_and_others_are_kept_for_later() -> None:
    class Sub(A):
        pass

    async def body(ctx: Context, ev: StartEvent) -> Any:
        assert ctx.collect_events(Sub(), [A]) is None
        assert ctx.collect_events(B(n=3), [A, A, B]) is None
        assert ctx.collect_events(A(n=1), [A, A, B]) is None
        found = ctx.collect_events(A(n=2), [A, A, B])
        return found and [(type(each).__name__, each.n) for each in found]

    assert await in_step(body).run() == [("A", 1), ("A", 2), ("B", 3)]


async def test_buffers_are_apart_by_step_and_by_name() -> None:
    class Flow(Workflow):
        @step
        async def one(self, ctx: Context, ev: StartEvent) -> A:
            assert ctx.collect_events(A(n=1), [A, A]) is None
            assert ctx.collect_events(A(n=2), [A, A], buffer_id="other") is None
            found = ctx.collect_events(A(n=3), [A, A])
            assert found is not None
            assert ctx.collect_events(A(n=4), [A, A]) is None
            return A(seen=[each.n for each in found])

        @step
        async def two(self, ctx: Context, ev: A) -> StopEvent:
            return StopEvent(result=[ev.seen, ctx.collect_events(ev, [A, A])])

    assert await Flow().run() == [[1, 3], None]


async def test_a_step_that_joins_a_list_may_collect_too() -> None:
    class Flow(Workflow):
        @step
        async def one(self, ev: StartEvent) -> list[A]:
            return [A(n=1), A(n=2)]

        @step
        async def two(self, ctx: Context, ev: list[A]) -> StopEvent:  # the reference refuses it
            found = ctx.collect_events(ev[1], [A])
            return StopEvent(result=found == [A(n=2)])

    assert await Flow().run() is True


# 4.5


async def test_each_answer_is_for_one_wait_in_order_and_nothing_before_a_wait_runs_again() -> None:
    Waits.called = 0
    handler = Waits().run()
    asked: list[str] = []
    async for event in handler.stream_events():
        if isinstance(event, Ask):
            asked.append(event.what)
            handler.ctx.send_event(Answer(n=len(asked)))
    assert await handler == [1, 2]
    assert (asked, Waits.called) == (["one", "two"], 1)


async def test_requirements_choose_among_answers() -> None:
    async def body(ctx: Context, ev: StartEvent) -> Any:
        return (await ctx.wait_for_event(Answer, requirements={"n": 2})).note

    handler = in_step(body).run()
    await parked(handler)
    handler.ctx.send_event(Answer(n=1, note="wrong"))
    handler.ctx.send_event(Answer(n=2, note="right"))
    assert await handler == "right"


@virtual_time()
async def test_a_wait_in_vain_raises_a_timeout_error_that_can_be_caught() -> None:
    async def body(ctx: Context, ev: StartEvent) -> Any:
        try:
            await ctx.wait_for_event(Answer, timeout=5)
        except asyncio.TimeoutError:  # noqa: UP041 - as programs write it
            return "in vain"

    assert await in_step(body).run() == "in vain"


async def test_a_broad_except_around_a_wait_is_harmless() -> None:
    async def body(ctx: Context, ev: StartEvent) -> Any:
        try:
            return (await ctx.wait_for_event(Answer)).n
        except Exception:
            return "swallowed"

    handler = in_step(body).run()
    await parked(handler)
    handler.ctx.send_event(Answer(n=5))
    assert await handler == 5


async def test_an_answer_may_come_before_the_wait() -> None:
    async def body(ctx: Context, ev: StartEvent) -> Any:
        await asyncio.sleep(0.01)
        return (await ctx.wait_for_event(Answer)).n

    handler = in_step(body).run()
    handler.ctx.send_event(Answer(n=6))
    assert await handler == 6


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"event_type": "Answer"}, "takes an event class"),
        ({"event_type": Answer()}, "takes an event class"),
        ({"event_type": int}, "takes an event class"),
        ({"waiter_event": "text"}, "waiter_event"),
        ({"waiter_event": Ask}, "waiter_event"),
        ({"waiter_id": 3}, "waiter_id"),
        ({"waiter_id": ["x"]}, "waiter_id"),
        ({"requirements": ["n"]}, "requirements"),
        ({"requirements": {3: 4}}, "requirements"),
        ({"timeout": "5"}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
    ],
)
async def test_what_cannot_be_waited_for_is_refused_at_the_call(arguments: dict[str, Any], says: str) -> None:
    async def body(ctx: Context, ev: StartEvent) -> Any:
        with pytest.raises(WorkflowRuntimeError, match=rf"wait_for_event\(\) .*{says}"):
            await ctx.wait_for_event(**{"event_type": Answer, **arguments})

    await in_step(body).run()


async def test_waits_at_once_are_told_apart_by_their_ids_and_each_asks_its_question() -> None:
    async def body(ctx: Context, ev: StartEvent) -> Any:
        waits = [ctx.wait_for_event(Answer, waiter_event=Ask(what=f"{n}"), waiter_id=f"{n}") for n in range(3)]
        return [answer.n for answer in await asyncio.gather(*waits)]

    handler = in_step(body).run()
    asked: list[str] = []
    async for event in handler.stream_events():
        if isinstance(event, Ask):
            asked.append(event.what)
            handler.ctx.send_event(Answer(n=len(asked)))
    assert (asked, await handler) == (["0", "1", "2"], [1, 2, 3])  # [3, 3, 3] in the reference


@pytest.mark.parametrize("subclasses", [False, True])
async def test_an_answer_is_of_the_exact_class_unless_the_step_takes_subclasses(subclasses: bool) -> None:
    class Sub(Answer):
        pass

    async def body(ctx: Context, ev: StartEvent) -> Any:
        return type(await ctx.wait_for_event(Answer)).__name__

    handler = in_step(body, accept_event_subclasses=subclasses).run()
    await parked(handler)
    handler.ctx.send_event(Sub())
    handler.ctx.send_event(Answer())
    assert await handler == ("Sub" if subclasses else "Answer")


@virtual_time()
@pytest.mark.parametrize(("options", "seconds"), [({}, 2000), ({"timeout": 0}, 0), ({"timeout": 7}, 7)])
async def test_a_wait_gives_up_after_its_timeout(options: dict[str, Any], seconds: float) -> None:
    async def body(ctx: Context, ev: StartEvent) -> Any:
        await ctx.wait_for_event(Answer, **options)

    flow = type(in_step(body))(timeout=None)
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(TimeoutError, match="Answer"):
        await flow.run()
    assert loop.time() - began == pytest.approx(seconds)


@virtual_time()
async def test_none_waits_without_limit() -> None:
    async def body(ctx: Context, ev: StartEvent) -> Any:
        return (await ctx.wait_for_event(Answer, timeout=None)).n

    handler = type(in_step(body))(timeout=None).run()
    await asyncio.sleep(1e6)
    handler.ctx.send_event(Answer(n=3))
    assert await handler == 3


@virtual_time()
async def test_a_wait_in_vain_is_a_failure_that_is_retried() -> None:
    tries: list[int] = []

    async def body(ctx: Context, ev: StartEvent) -> Any:
        tries.append(1)
        await ctx.wait_for_event(Answer, timeout=1)

    with pytest.raises(TimeoutError):
        await in_step(body, retry_policy=retry_policy(wait=wait_fixed(1), stop=stop_after_attempt(3))).run()
    assert len(tries) == 3


@virtual_time()
async def test_a_retry_after_an_answer_keeps_it_and_asks_no_second_time() -> None:
    tries: list[int] = []

    async def body(ctx: Context, ev: StartEvent) -> Any:
        tries.append(1)
        answer = await ctx.wait_for_event(Answer, waiter_event=Ask())
        if len(tries) == 1:
            raise ValueError
        return answer.n

    handler = in_step(body, retry_policy=retry_policy(wait=wait_fixed(1))).run()
    asked = 0
    async for event in handler.stream_events():
        if isinstance(event, Ask):
            asked += 1
            handler.ctx.send_event(Answer(n=8))
    assert (await handler, asked, len(tries)) == (8, 1, 2)


async def test_a_waiting_step_holds_no_slot() -> None:
    class Flow(Workflow):
        @step
        async def spread(self, ev: StartEvent) -> list[A]:
            return [A(n=n) for n in range(5)]

        @step(num_workers=1)
        async def asks(self, ctx: Context, ev: A) -> B:
            return B(n=(await ctx.wait_for_event(Answer, requirements={"n": ev.n})).n)

        @step
        async def join(self, ev: list[B]) -> StopEvent:
            return StopEvent(result=[each.n for each in ev])

    handler = Flow().run()
    while len(handler.why().waits) < 5:
        await asyncio.sleep(0)
    for n in (3, 1, 4, 0, 2):
        handler.ctx.send_event(Answer(n=n))
    assert await handler == [3, 1, 4, 0, 2]


# 4.6


@pytest.mark.parametrize("serializer", [JsonSerializer, PickleSerializer])
async def test_a_waiting_run_is_saved_as_json_and_goes_on(serializer: Any) -> None:
    flow = Waits()
    handler = flow.run()
    await parked(handler)
    data = json.loads(json.dumps(handler.ctx.to_dict(serializer())))
    await handler.cancel_run()
    again = flow.run(ctx=Context.from_dict(flow, data, serializer()))
    answers = iter([3, 4])
    while not again.is_done():
        if again.why().waits and again.ctx.is_running and await again.ctx.running_steps():
            again.ctx.send_event(Answer(n=next(answers)))
        await asyncio.sleep(0)
    assert await again == [3, 4]


async def test_only_types_that_the_workflow_knows_are_loaded() -> None:
    flow = Waits()
    ctx: Context[Any] = Context(flow)
    await ctx.store.set("x", 1)
    text = json.dumps(ctx.to_dict()).replace(
        '"1"', json.dumps(json.dumps({"__is_pydantic": True, "qualified_name": "os.system", "value": {}}))
    )
    if "os.system" in text:
        with pytest.raises(ContextSerdeError):
            Context.from_dict(flow, json.loads(text))


async def test_a_value_that_cannot_be_saved_is_named_by_its_path() -> None:
    ctx: Context[Any] = Context(Waits())
    await ctx.store.set("deep.handle", object())
    with pytest.raises(ContextSerdeError, match="handle"):
        ctx.to_dict()


@pytest.mark.parametrize("value", [1, "x", None, [1], {"a": 1}, (1, 2), {1, 2}, A(n=3)], ids=lambda each: type(each).__name__)
def test_values_come_back_as_what_they_were(value: Any) -> None:
    for serializer in (JsonSerializer([A]), PickleSerializer()):
        again = serializer.deserialize(serializer.serialize(value))
        assert again == value
        assert type(again) is type(value)  # a tuple is a list in the reference, and a set is refused


def test_what_cannot_be_saved_is_a_value_error_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"cannot be saved.*PickleSerializer") as caught:
        JsonSerializer().serialize(object())
    assert isinstance(caught.value, ContextSerdeError)


def test_a_class_is_loaded_only_if_it_is_allowed() -> None:
    text = JsonSerializer([A]).serialize(A(n=3))
    assert JsonSerializer().with_types(A).deserialize(text) == A(n=3)
    with pytest.raises(ContextSerdeError, match=r"A\b"):
        JsonSerializer().deserialize(text)  # the reference imports whatever the data names


def test_pickle_is_used_only_where_json_does_not_do() -> None:
    serializer = PickleSerializer()
    assert json.loads(serializer.serialize({"a": 1})) == {"a": 1}
    assert serializer.deserialize(serializer.serialize(range(3))) == range(3)


async def test_memory_may_be_left_out_with_a_warning_and_no_other_key() -> None:
    ctx: Context[Any] = Context(Waits())
    await ctx.store.set("memory", object())
    with pytest.warns(UnserializableKeyWarning, match="memory"):
        json.dumps(ctx.to_dict())
    await ctx.store.set("other", object())
    with pytest.raises(ContextSerdeError, match=r"state\.other"), pytest.warns(UnserializableKeyWarning):
        ctx.to_dict()


async def test_the_state_may_be_left_out() -> None:
    ctx: Context[Any] = Context(Waits())
    await ctx.store.set("k", 1)
    again: Context[Any] = Context.from_dict(Waits(), ctx.to_dict(include_state=False))
    assert await again.store.get("k", default=None) is None


async def test_the_serializer_of_a_context_is_its_default() -> None:
    flow = Waits()
    ctx: Context[Any] = Context(flow, serializer=PickleSerializer())
    await ctx.store.set("k", range(3))
    again: Context[Any] = Context(flow, ctx.to_dict(), PickleSerializer())
    assert await again.store.get("k") == range(3)


async def test_what_a_join_has_is_saved_with_the_run() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> A:
            return A(n=1)

        @step
        async def asks(self, ctx: Context, ev: A) -> B | A | None:
            if ctx.collect_events(ev, [A, A]) is None:
                return A(n=(await ctx.wait_for_event(Answer)).n)
            return B(n=5)

        @step
        async def last(self, ev: B) -> StopEvent:
            return StopEvent(result=ev.n)

    handler = Flow().run()
    await parked(handler)
    data = json.loads(json.dumps(handler.ctx.to_dict()))
    await handler.cancel_run()
    again = Flow().run(ctx=Context.from_dict(Flow(), data))
    await parked(again)
    again.ctx.send_event(Answer(n=2))
    assert await again == 5
