"""Section 4: the Context: faces, store, sends, collecting, waiting, snapshots."""

from __future__ import annotations

import asyncio
import json
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
from tracedflow.errors import ContextSerdeError, ContextStateError
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


def in_step(body: Any) -> Workflow:
    class Flow(Workflow):
        @step
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


# 4.3


async def test_a_targeted_send_is_checked_and_what_is_no_event_is_refused() -> None:
    async def body(ctx: Context, ev: StartEvent) -> Any:
        for event, name, text in ((A(), "nowhere", "nowhere"), (A(), "only", "only"), ("text", None, "text")):
            with pytest.raises((WorkflowRuntimeError, TypeError, ValueError), match=text):
                ctx.send_event(event, step=name)  # type: ignore[arg-type]
        return "refused"

    assert await in_step(body).run() == "refused"


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
