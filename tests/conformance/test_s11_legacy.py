"""Section 11: the API of release 0.12, as far as API.md keeps it: what the pages of that time show."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest

from tracedflow import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowCheckpointer,
    WorkflowHandler,
    WorkflowRuntimeError,
    draw_all_possible_flows,
    draw_most_recent_execution,
    step,
)
from tracedflow.checkpointer import Checkpoint
from tracedflow.errors import WorkflowConfigurationError, WorkflowStepDoesNotExistError
from tracedflow.resource import Resource
from tracedflow.retry_policy import ConstantDelayRetryPolicy


class JokeEvent(Event):
    joke: str


class JokeFlow(Workflow):
    @step
    async def generate_joke(self, ev: StartEvent) -> JokeEvent:
        return JokeEvent(joke=f"a joke about {ev.topic}")

    @step
    async def critique_joke(self, ev: JokeEvent) -> StopEvent:
        return StopEvent(result=f"criticism of {ev.joke}")


# 11.1 differences


@pytest.mark.parametrize("make_owner", [lambda: Workflow(timeout=60, verbose=False), lambda: type("Mine", (Workflow,), {})])
async def test_free_functions_become_steps_of_a_class_or_of_an_instance(make_owner: Any) -> None:
    joke_flow = make_owner()

    @step(workflow=joke_flow)
    async def generate_joke(ev: StartEvent) -> JokeEvent:
        return JokeEvent(joke=ev.topic)

    @step(workflow=joke_flow)
    async def critique_joke(ev: JokeEvent) -> StopEvent:
        return StopEvent(result=str(ev.joke))

    flow = joke_flow() if isinstance(joke_flow, type) else joke_flow
    assert await flow.run(topic="pirates") == "pirates"
    if flow is joke_flow:  # and other instances do not have them
        with pytest.raises(WorkflowConfigurationError):
            await Workflow().run(topic="pirates")


async def test_pass_context_is_dropped_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="pass_context"):

        class Flow(Workflow):
            @step(pass_context=True)  # type: ignore[call-overload]
            async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
                return StopEvent(result=isinstance(ctx, Context))

    assert await Flow().run() is True


async def test_the_handler_is_a_future() -> None:
    handler = JokeFlow().run(topic="pirates")
    called: list[Any] = []
    assert isinstance(handler, WorkflowHandler)
    assert isinstance(handler, asyncio.Future)
    handler.add_done_callback(called.append)
    done, _ = await asyncio.wait([handler])
    assert done == {handler}
    assert (handler.done(), handler.is_done(), handler.cancelled(), handler.exception()) == (True, True, False, None)
    assert handler.result() == await handler == "criticism of a joke about pirates"
    assert called == [handler]
    assert isinstance(handler.run_id, str)
    assert isinstance(handler.ctx, Context)


# 11.2 the Context


async def test_get_and_set_are_the_store_with_a_warning() -> None:
    class Flow(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            with pytest.warns(DeprecationWarning, match=r"ctx\.store"):
                await ctx.set("count", 1)
            with pytest.warns(DeprecationWarning, match=r"ctx\.store"):
                count = await ctx.get("count")
            with pytest.warns(DeprecationWarning, match=r"ctx\.store"), pytest.raises(ValueError, match="missing"):
                await ctx.get("missing")
            with pytest.warns(DeprecationWarning, match=r"ctx\.store"):
                missing = await ctx.get("missing", default=None)
            return StopEvent(result=(count, missing, await ctx.store.get("count")))

    assert await Flow().run() == (1, None, 1)


# 11.3 customizing entry and exit points


class MyStart(StartEvent):
    topic: str


class MyStop(StopEvent):
    critique: str


class Custom(Workflow):
    @step
    async def only(self, ev: MyStart) -> MyStop:
        return MyStop(critique=f"no {ev.topic}")


async def test_custom_start_and_stop_events_are_found_by_themselves() -> None:
    w = Custom(timeout=10)
    for result in (await w.run(topic="Pirates"), await w.run(start_event=MyStart(topic="Pirates"))):
        assert isinstance(result, MyStop)
        assert result.critique == "no Pirates"
    with pytest.raises(WorkflowRuntimeError, match="topic"):
        w.run()


def test_two_classes_of_start_or_stop_events_are_an_error() -> None:
    class TwoStarts(Custom):
        @step
        async def other(self, ev: StartEvent) -> MyStop: ...  # type: ignore[empty-body]

    class TwoStops(Custom):
        @step
        async def other(self, ev: MyStart) -> StopEvent: ...  # type: ignore[empty-body]

    for cls, names in ((TwoStarts, "MyStart.*StartEvent|StartEvent.*MyStart"), (TwoStops, "MyStop.*StopEvent|StopEvent.*MyStop")):
        with pytest.raises(WorkflowConfigurationError, match=f"(?s){names}"):
            cls()


# 11.3 drawing


async def test_all_flows_and_the_most_recent_execution_of_a_workflow_are_drawn(tmp_path: Path) -> None:
    everything, recent = tmp_path / "all.html", tmp_path / "recent.html"
    draw_all_possible_flows(JokeFlow, filename=str(everything))
    w = JokeFlow()
    with pytest.raises(ValueError, match="has not run"):
        draw_most_recent_execution(w, filename=str(recent))
    await w.run(topic="Pirates")
    draw_most_recent_execution(w, filename=str(recent))
    for page in (everything, recent):
        assert all(name in page.read_text() for name in ("generate_joke", "JokeEvent", "critique_joke", "StopEvent"))


# 11.3 managing events


class ProgressEvent(Event):
    msg: str


class QueryEvent(Event):
    query: str


async def test_several_sets_are_collected_in_one_step_by_their_buffer_id() -> None:
    class A(Event):
        pass

    class B(Event):
        pass

    class Flow(Workflow):
        @step
        async def start(self, ctx: Context, ev: StartEvent) -> A | B | None:
            for event in (B(n=1), A(n=1), A(n=2), B(n=2)):
                ctx.send_event(event)
            return None

        @step
        async def join(self, ctx: Context, ev: A | B) -> StopEvent | None:
            both = ctx.collect_events(ev, [A, B], buffer_id="both")
            twice = ctx.collect_events(ev, [type(ev)] * 2, buffer_id=type(ev).__name__)
            sets = await ctx.store.get("sets", default=[])
            sets += [[(type(each).__name__, each.n) for each in found] for found in (both, twice) if found]
            await ctx.store.set("sets", sets)
            return StopEvent(result=sets) if len(sets) == 4 else None

    assert sorted(await Flow().run()) == [
        [("A", 1), ("A", 2)],
        [("A", 1), ("B", 1)],
        [("A", 2), ("B", 2)],
        [("B", 1), ("B", 2)],
    ]


async def test_a_question_with_a_prefix_is_answered_in_the_loop_over_the_stream() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ev: StartEvent) -> InputRequiredEvent:
            return InputRequiredEvent(prefix="Enter a number: ")

        @step
        async def hear(self, ev: HumanResponseEvent) -> StopEvent:
            return StopEvent(result=ev.response)

    handler = Flow().run()
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            assert event.prefix == "Enter a number: "
            handler.ctx.send_event(HumanResponseEvent(response="42"))
    assert await handler == "42"


async def test_a_wait_takes_the_answer_that_meets_its_requirements() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            answer = await ctx.wait_for_event(
                HumanResponseEvent,
                waiter_id="name",
                waiter_event=InputRequiredEvent(prefix="Who?"),
                requirements={"user_name": "Ann"},
            )
            return StopEvent(result=answer.response)

    handler = Flow().run()
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            handler.ctx.send_event(HumanResponseEvent(response="no", user_name="Bob"))
            handler.ctx.send_event(HumanResponseEvent(response="yes", user_name="Ann"))
    assert await handler == "yes"


# 11.3 managing state


async def test_a_context_is_kept_across_runs() -> None:
    class Counts(Workflow):
        @step
        async def only(self, ctx: Context, ev: StartEvent) -> StopEvent:
            async with ctx.store.edit_state() as state:
                state.count = state.get("count", 0) + 1
            return StopEvent(result=await ctx.store.get("count"))

    w = Counts()
    ctx = Context(w)
    assert await w.run(ctx=ctx) == 1
    handler = w.run(ctx=ctx)
    assert await handler == 2
    assert await w.run(ctx=handler.ctx) == 3


# 11.3 resources


async def test_a_resource_is_shared_by_steps_and_runs_and_fresh_without_cache() -> None:
    async def get_memory() -> list[str]:
        return []

    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent, memory: Annotated[list[str], Resource(get_memory)]) -> JokeEvent:
            memory.append("first")
            return JokeEvent(joke="")

        @step
        async def second(
            self,
            ev: JokeEvent,
            memory: Annotated[list[str], Resource(get_memory)],
            fresh: Annotated[list[str], Resource(get_memory, cache=False)],
        ) -> StopEvent:
            memory.append("second")
            return StopEvent(result=([*memory], fresh))

    w = Flow()
    assert await w.run() == (["first", "second"], [])
    assert await w.run() == (["first", "second"] * 2, [])


# 11.3 retry steps


async def test_a_constant_delay_and_a_class_of_ones_own_are_retry_policies() -> None:
    with pytest.warns(DeprecationWarning, match="ConstantDelayRetryPolicy"):
        constant = ConstantDelayRetryPolicy(delay=0, maximum_attempts=10)

    class OnlyOnFridays:
        def next(self, elapsed_time: float, attempts: int, error: Exception) -> float | None:
            return 0 if datetime(2026, 1, 2, tzinfo=UTC).strftime("%A") == "Friday" else None

    for policy in (constant, OnlyOnFridays()):

        class Flow(Workflow):
            calls = 0

            @step(retry_policy=policy)
            async def flaky(self, ev: StartEvent) -> StopEvent:
                self.calls += 1
                if self.calls < 10:
                    raise ConnectionError
                return StopEvent(result=self.calls)

        assert await Flow().run() == 10


# 11.3 stepwise, 11.4 checkpoints


async def test_a_run_is_stepped_through_as_the_page_shows() -> None:
    handler = JokeFlow().run(stepwise=True, topic="Pirates")
    seen: list[list[str]] = []
    while produced := await handler.run_step():
        seen.append([type(ev).__name__ for ev in produced])
        for ev in produced:
            handler.ctx.send_event(ev)
    assert await handler == "criticism of a joke about Pirates"
    assert seen == [["JokeEvent"]]  # a StopEvent ends the run when it is returned


async def test_run_step_of_another_run_is_a_value_error() -> None:
    handler = JokeFlow().run(topic="Pirates")
    with pytest.raises(ValueError, match="stepwise=True"):
        await handler.run_step()
    await handler


async def test_stepwise_runs_may_ask_people() -> None:
    class Flow(Workflow):
        @step
        async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=(await ctx.wait_for_event(HumanResponseEvent)).response)

    handler = Flow().run(stepwise=True)
    assert await handler.run_step() == []
    handler.ctx.send_event(HumanResponseEvent(response="yes"))
    assert await handler.run_step() is None
    assert await handler == "yes"


async def test_checkpoints_are_listed_by_run_filtered_and_run_from() -> None:
    w = JokeFlow()
    wc = WorkflowCheckpointer(workflow=w)
    handler = wc.run(topic="Pirates")
    await handler
    first, second = wc.checkpoints[handler.run_id]
    assert isinstance(first, Checkpoint)
    assert (first.last_completed_step, type(first.input_event), type(first.output_event)) == ("generate_joke", StartEvent, JokeEvent)
    assert second.last_completed_step == "critique_joke"  # and none of an internal last step
    assert first.id_ != second.id_

    again = wc.run_from(checkpoint=first)
    assert await again == "criticism of a joke about Pirates"
    assert again.run_id != handler.run_id
    assert [each.last_completed_step for each in wc.checkpoints[again.run_id]] == ["critique_joke"]
    assert await w.run_from(first) == "criticism of a joke about Pirates"

    assert wc.filter_checkpoints(run_id=handler.run_id) == [first, second]
    assert wc.filter_checkpoints(last_completed_step="generate_joke") == [first]
    assert wc.filter_checkpoints(input_event_type=StartEvent) == [first]
    assert wc.filter_checkpoints(run_id=handler.run_id, output_event_type=StopEvent) == [second]
    with pytest.raises(ValueError, match="filter_checkpoints"):
        wc.filter_checkpoints()


async def test_checkpoints_of_a_step_are_disabled_and_enabled() -> None:
    wc = WorkflowCheckpointer(JokeFlow(), disabled_steps=["critique_joke"])
    wc.disable_checkpoint("generate_joke")
    assert wc.enabled_checkpoints == set()
    await wc.run(topic="Pirates")
    assert wc.checkpoints == {}
    wc.enable_checkpoint("critique_joke")
    handler = wc.run(topic="Pirates")
    await handler
    assert [each.last_completed_step for each in wc.checkpoints[handler.run_id]] == ["critique_joke"]
    for change in (wc.enable_checkpoint, wc.disable_checkpoint):
        with pytest.raises(WorkflowStepDoesNotExistError, match="generate_jokes"):
            change("generate_jokes")


async def test_a_checkpoint_callback_of_ones_own_is_awaited_after_each_step() -> None:
    calls: list[Any] = []

    async def callback(run_id: str, last_completed_step: str | None, input_ev: Any, output_ev: Any, ctx: Context) -> None:
        calls.append((run_id, last_completed_step, type(input_ev).__name__, type(output_ev).__name__, ctx.to_dict()["run"] is not None))

    await JokeFlow().run(topic="Pirates", checkpoint_callback=callback, run_id="one")
    assert calls == [
        ("one", "generate_joke", "StartEvent", "JokeEvent", True),
        ("one", "critique_joke", "JokeEvent", "StopEvent", True),
    ]


# 11.3 index: parallel runs, nested workflows


async def test_one_instance_runs_many_times_at_once() -> None:
    w = JokeFlow()
    jokes = await asyncio.gather(*(w.run(topic=topic) for topic in "abc"))
    assert jokes == [f"criticism of a joke about {topic}" for topic in "abc"]


async def test_a_step_runs_another_workflow() -> None:
    class Outer(Workflow):
        def __init__(self, *args: Any, inner: Workflow[Any], **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.inner = inner

        @step
        async def only(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=f"[{await self.inner.run(topic=ev.topic)}]")

    assert await Outer(inner=JokeFlow()).run(topic="Pirates") == "[criticism of a joke about Pirates]"


async def test_verbose_names_steps_and_events(capsys: pytest.CaptureFixture[str]) -> None:
    await JokeFlow(verbose=True).run(topic="Pirates")
    said = capsys.readouterr()
    assert said.out == ""
    assert all(name in said.err for name in ("generate_joke", "JokeEvent", "critique_joke", "StopEvent"))
