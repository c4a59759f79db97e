from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError

from tracedflow import Context, ContextStateError, Event, StartEvent, StopEvent, Workflow, step
from tracedflow.context.state_store import DictState


class Item(Event):
    n: int = 0


class Done(Event):
    n: int = 0


class Notes(BaseModel):
    count: int = 0
    tags: list[str] = Field(default_factory=list)


class LongNotes(Notes):
    title: str = "untitled"


def once(body: Callable[[Context], Any]) -> Workflow:
    """Return a workflow with one step, which does what the test says."""

    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(await body(ctx))

    return Flow()


async def in_step(body: Callable[[Context], Any]) -> Any:
    return await once(body).run()


# a store without a declared type


async def test_what_one_step_sets_the_next_one_gets() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> Item:
            await ctx.store.set("user.name", "ann")
            await ctx.store.set("user.tags", ["a", "b"])
            return Item()

        @step
        async def second(self, ev: Item, ctx: Context) -> StopEvent:
            return StopEvent([await ctx.store.get(path) for path in ("user.name", "user.tags.1", "user")])

    assert await Flow().run() == ["ann", "b", {"name": "ann", "tags": ["a", "b"]}]


async def test_a_path_that_leads_nowhere_gives_the_default_or_an_error() -> None:
    async def body(ctx: Context) -> Any:
        await ctx.store.set("count", 1)
        with pytest.raises(ValueError, match=r"nothing at 'cuont'.*did you mean 'count'"):
            await ctx.store.get("cuont")
        return [await ctx.store.get("missing", default=None), await ctx.store.get("a.b", 5)]

    assert await in_step(body) == [None, 5]


async def test_each_run_has_a_store_of_its_own() -> None:
    async def body(ctx: Context) -> Any:
        before = await ctx.store.get("seen", default=False)
        await ctx.store.set("seen", True)
        return before

    flow = once(body)
    assert await asyncio.gather(*(flow.run() for _ in range(5))) == [False] * 5


async def test_the_store_can_be_filled_before_the_run_and_read_after_it() -> None:
    async def body(ctx: Context) -> Any:
        await ctx.store.set("after", "run")
        return await ctx.store.get("before")

    flow = once(body)
    ctx = Context(flow)
    await ctx.store.set("before", "set")
    handler = flow.run(ctx=ctx)
    assert await handler == "set"
    assert await handler.ctx.store.get("after") == "run"
    assert await ctx.store.get("after") == "run"


async def test_the_caller_sees_what_a_live_run_has_set() -> None:
    gate = asyncio.Event()
    is_set = asyncio.Event()

    async def body(ctx: Context) -> Any:
        await ctx.store.set("half", "way")
        is_set.set()
        await gate.wait()

    handler = once(body).run()
    await is_set.wait()
    assert await handler.ctx.store.get("half") == "way"
    gate.set()
    await handler


async def test_the_whole_state_is_given_as_a_copy() -> None:
    async def body(ctx: Context) -> Any:
        await ctx.store.set("tags", ["a"])
        state = await ctx.store.get_state()
        assert isinstance(state, DictState)
        state["tags"].append("lost")
        state["more"] = 1
        return [await ctx.store.get("tags"), await ctx.store.get("more", default="nothing")]

    assert await in_step(body) == [["a"], "nothing"]


async def test_the_state_can_be_cleared() -> None:
    async def body(ctx: Context) -> Any:
        await ctx.store.set("a", 1)
        await ctx.store.clear()
        return await ctx.store.get("a", default="gone")

    assert await in_step(body) == "gone"


# typed state


async def test_a_declared_state_has_its_type_and_defaults() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context[Notes], ev: StartEvent) -> StopEvent:
            await ctx.store.set("count", 2)
            async with ctx.store.edit_state() as state:
                state.tags.append("x")
            return StopEvent(await ctx.store.get_state())

    assert await Flow().run() == Notes(count=2, tags=["x"])


async def test_a_declared_state_has_no_other_fields() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context[Notes], ev: StartEvent) -> StopEvent:
            await ctx.store.set("titel", "x")
            return StopEvent()

    with pytest.raises(ValueError, match=r"titel.*its fields are count, tags"):
        await Flow().run()


async def test_steps_may_ask_for_states_of_one_family_and_share_the_most_derived() -> None:
    class Flow(Workflow):
        @step
        async def first(self, ctx: Context[Notes], ev: StartEvent) -> Item:
            async with ctx.store.edit_state() as state:
                state.count += 1
            return Item()

        @step
        async def second(self, ctx: Context[LongNotes], ev: Item) -> Done:
            async with ctx.store.edit_state() as state:
                state.title += "!"
            return Done()

        @step
        async def third(self, ctx: Context, ev: Done) -> StopEvent:
            return StopEvent(await ctx.store.get_state())

    assert await Flow().run() == LongNotes(count=1, title="untitled!")


async def test_a_state_of_a_parent_class_is_merged() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context[LongNotes], ev: StartEvent) -> StopEvent:
            await ctx.store.set("title", "kept")
            await ctx.store.set_state(Notes(count=5))  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="DictState is neither"):
                await ctx.store.set_state(DictState())  # type: ignore[arg-type]
            return StopEvent(await ctx.store.get_state())

    assert await Flow().run() == LongNotes(count=5, title="kept")


async def test_a_state_that_needs_values_fails_the_step_that_asks() -> None:
    class Needy(BaseModel):
        name: str

    class Flow(Workflow):
        @step
        async def only(self, ctx: Context[Needy], ev: StartEvent) -> StopEvent:
            return StopEvent(await ctx.store.get("name"))

    with pytest.raises(ValidationError, match="name"):
        await Flow().run()


# edit_state


class Adding(Workflow):
    """Many steps at once change one number."""

    @step
    async def start(self, ctx: Context, ev: StartEvent) -> list[Item]:
        await ctx.store.set("total", 0)
        return [Item(n=n) for n in range(ev.count)]

    @step(num_workers=50)
    async def add(self, ctx: Context, ev: Item) -> Done:
        async with ctx.store.edit_state() as state:
            before = state.total
            await asyncio.sleep(0)
            state.total = before + 1
        return Done()

    @step
    async def end(self, ctx: Context, ev: Done) -> StopEvent | None:
        done = await ctx.store.get("ended", default=0) + 1
        await ctx.store.set("ended", done)
        if ctx.collect_events(ev, [Done] * 50) is None:
            return None
        return StopEvent(await ctx.store.get("total"))


async def test_edits_take_turns_and_nothing_is_lost() -> None:
    assert await Adding().run(count=50) == 50


async def test_an_edit_is_seen_when_it_is_committed_and_not_before() -> None:
    async def body(ctx: Context) -> Any:
        await ctx.store.set("n", 1)
        async with ctx.store.edit_state() as state:
            state.n = 2
            during = await ctx.store.get("n")
        return [during, await ctx.store.get("n")]

    assert await in_step(body) == [1, 2]


async def test_an_edit_that_raises_is_discarded() -> None:
    async def body(ctx: Context) -> Any:
        await ctx.store.set("items", ["a"])

        async def half() -> None:
            async with ctx.store.edit_state() as state:
                state.more = 1
                state["items"].append("b")
                raise LookupError

        with pytest.raises(LookupError):
            await half()
        return (await ctx.store.get_state()).to_dict()

    assert await in_step(body) == {"items": ["a"]}


async def test_writing_inside_an_edit_says_so_in_place_of_waiting_for_itself() -> None:
    async def body(ctx: Context) -> Any:
        async with ctx.store.edit_state():
            with pytest.raises(RuntimeError, match="inside edit_state"):
                await ctx.store.set("n", 1)
            with pytest.raises(RuntimeError, match="inside edit_state"):
                await ctx.store.set_state(DictState())
        return "out"

    assert await in_step(body) == "out"


async def test_an_edit_that_is_cancelled_with_its_run_frees_the_store() -> None:
    begun = asyncio.Event()

    async def body(ctx: Context) -> Any:
        if await ctx.store.get("second", default=False):
            return "edited"
        async with ctx.store.edit_state() as state:
            state.half = "done"
            begun.set()
            await asyncio.Event().wait()
        raise AssertionError

    flow = once(body)
    ctx = Context(flow)
    handler = flow.run(ctx=ctx)
    await begun.wait()
    await handler.cancel_run()
    await asyncio.wait_for(ctx.store.set("second", True), 5)
    assert await ctx.store.get("half", default=None) is None
    assert await flow.run(ctx=ctx) == "edited"


# kept from the seed's era


async def test_get_and_set_of_the_context_still_work_and_say_what_to_use() -> None:
    async def body(ctx: Context) -> Any:
        with pytest.warns(DeprecationWarning, match=r"use ctx\.store\.set") as first:
            await ctx.set("n", 1)
        with pytest.warns(DeprecationWarning, match=r"use ctx\.store\.get") as second:
            found = await ctx.get("n")
        assert first[0].filename == second[0].filename == __file__
        with pytest.warns(DeprecationWarning, match="ctx"):
            assert await ctx.get("missing", default=None) is None
        with pytest.warns(DeprecationWarning, match="ctx"), pytest.raises(ValueError, match="missing"):
            await ctx.get("missing")
        return found

    assert await in_step(body) == 1


# plain functions


async def test_a_plain_function_has_blocking_twins() -> None:
    class Flow(Workflow):
        @step
        def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            store = ctx.sync.store
            store.set("a.b", 1)
            with store.edit_state() as state:
                state["a"]["b"] += 1

            def half() -> None:
                with store.edit_state() as state:
                    state["a"]["b"] = 100
                    raise LookupError

            with pytest.raises(LookupError):
                half()
            seen = [store.get("a.b"), store.get("c", None), store.get_state().to_dict()]
            store.set_state(DictState(d=1))
            seen.append(store.get("d"))
            store.clear()
            seen.append(store.get("d", default="gone"))
            return StopEvent(seen)

    assert await Flow().run() == [2, None, {"a": {"b": 2}}, 1, "gone"]


async def test_an_async_member_in_a_plain_function_names_its_twin() -> None:
    class Flow(Workflow):
        @step
        def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with pytest.raises(ContextStateError, match=r"ctx\.store\.get must be awaited.*ctx\.sync\.store\.get"):
                ctx.store.get("a")
            with pytest.raises(ContextStateError, match=r"use ctx\.sync\.wait_for_event"):
                ctx.wait_for_event(Item)
            return StopEvent("told")

    assert await Flow().run() == "told"


async def test_the_blocking_twins_are_refused_where_they_would_block_the_loop() -> None:
    async def body(ctx: Context) -> Any:
        with pytest.raises(ContextStateError, match="await the async member instead"):
            _ = ctx.sync
        return "told"

    assert await in_step(body) == "told"


# the faces of a Context


async def test_before_a_run_only_the_store_is_there() -> None:
    ctx = Context(Adding())
    for use in (
        lambda: ctx.send_event(Item()),
        lambda: ctx.write_event_to_stream(Item()),
        lambda: ctx.stream_events(),
        lambda: ctx.run_id,
    ):
        with pytest.raises(ContextStateError, match=r"needs a run; start one with workflow\.run\(ctx=ctx\)"):
            use()
    with pytest.raises(ContextStateError, match="needs a run"):
        await ctx.running_steps()


async def test_outside_a_step_its_members_say_so() -> None:
    ctx = Context(Adding())
    for use in (
        lambda: ctx.collect_events(Item(), [Item]),
        lambda: ctx.wait_for_event(Item),
        lambda: ctx.retry_info(),
        lambda: ctx.measure("n", 1),
        lambda: ctx.annotate(n=1),
        lambda: ctx.idempotency_key,
        lambda: ctx.sync,
    ):
        with pytest.raises(ContextStateError, match="works in a step only"):
            use()
    with pytest.raises(ContextStateError, match="outside a step"):
        Context.get_step_context()


async def test_code_that_a_step_calls_can_ask_for_its_context() -> None:
    async def deep() -> Any:
        return await Context.get_step_context().store.get("n")

    async def body(ctx: Context) -> Any:
        await ctx.store.set("n", 3)
        return await deep()

    assert await in_step(body) == 3


async def test_the_context_of_a_step_that_has_ended_says_so() -> None:
    kept: list[Context] = []
    gate = asyncio.Event()

    class Flow(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> Item:
            kept.append(ctx)
            return Item()

        @step
        async def second(self, ctx: Context, ev: Item) -> StopEvent:
            with pytest.raises(ContextStateError, match="after step `first` had ended"):
                kept[0].collect_events(ev, [Item])
            gate.set()
            return StopEvent(await ctx.running_steps())

    assert await Flow().run() == ["second"]


async def test_a_context_is_a_run_id_and_a_state_of_being_live() -> None:
    async def body(ctx: Context) -> Any:
        return [ctx.run_id, ctx.is_running]

    assert await once(body).run(run_id="r1") == ["r1", True]
