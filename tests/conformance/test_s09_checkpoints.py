"""Section 9.1, with 11.3, 11.4 and 4.6: the signatures of checkpoints and steps, and the substitute that 9.1 shows for them."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from typing import Any

import pytest

from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, WorkflowCheckpointer, step
from tracedflow.checkpointer import Checkpoint
from tracedflow.context.serializers import JsonSerializer, PickleSerializer
from tracedflow.errors import ContextSerdeError, WorkflowStepDoesNotExistError


class Joke(Event):
    joke: str


class Told(Event):
    joke: str


class Jokes(Workflow):
    @step
    async def generate(self, ctx: Context, ev: StartEvent) -> Joke:
        ctx.write_event_to_stream(Told(joke=ev.topic))
        await ctx.store.set("topic", ev.topic)
        return Joke(joke=f"about {ev.topic}")

    @step
    async def critique(self, ctx: Context, ev: Joke) -> StopEvent:
        return StopEvent(result=f"{ev.joke}, {await ctx.store.get('topic')}")


def parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


# signatures, by place and by name


@pytest.mark.parametrize(
    ("function", "first"),
    [
        (WorkflowCheckpointer, ["workflow", "checkpoint_serializer", "disabled_steps"]),
        (WorkflowCheckpointer.run, ["kwargs"]),
        (WorkflowCheckpointer.run_from, ["checkpoint", "kwargs"]),
        (WorkflowCheckpointer.new_checkpoint_callback_for_run, []),
        (WorkflowCheckpointer.filter_checkpoints, ["run_id", "last_completed_step", "input_event_type", "output_event_type"]),
        (WorkflowCheckpointer.enable_checkpoint, ["step"]),
        (WorkflowCheckpointer.disable_checkpoint, ["step"]),
        (Workflow.run_from, ["checkpoint", "ctx_serializer", "checkpoint_callback", "kwargs"]),
        (Checkpoint, ["id_", "last_completed_step", "input_event", "output_event", "ctx_state"]),
    ],
)
def test_signatures_are_those_of_the_page(function: Callable[..., Any], first: list[str]) -> None:
    assert parameters(function)[: len(first)] == first


async def test_a_checkpoint_has_the_fields_of_the_page() -> None:
    wc = WorkflowCheckpointer(workflow=Jokes())
    handler = wc.run(topic="Pirates")
    await handler
    first, last = wc.checkpoints[handler.run_id]
    assert first.id_ != last.id_
    assert (first.last_completed_step, first.input_event.topic, first.output_event) == ("generate", "Pirates", Joke(joke="about Pirates"))  # type: ignore[union-attr]
    assert isinstance(last.output_event, StopEvent)  # the last; there is none for an end of the run itself
    assert isinstance(first.ctx_state, dict)


async def test_run_from_of_the_workflow_takes_a_checkpoint_and_a_callback() -> None:
    flow = Jokes()
    wc = WorkflowCheckpointer(workflow=flow)
    handler = wc.run(topic="Pirates")
    await handler
    steps: list[str] = []

    async def callback(run_id: str, last_completed_step: str, input_ev: Any, output_ev: Any, ctx: Context[Any]) -> None:
        steps.append(last_completed_step)

    again = flow.run_from(wc.checkpoints[handler.run_id][0], checkpoint_callback=callback)
    assert await again == "about Pirates, Pirates"
    assert steps == ["critique"]
    assert again.run_id != handler.run_id


@pytest.mark.parametrize("serializer", [JsonSerializer(), PickleSerializer()])
async def test_a_serializer_of_ones_own_saves_and_loads_the_state(serializer: Any) -> None:
    wc = WorkflowCheckpointer(workflow=Jokes(), checkpoint_serializer=serializer)
    handler = wc.run(topic="Pirates")
    await handler
    assert await wc.run_from(checkpoint=wc.checkpoints[handler.run_id][0]) == "about Pirates, Pirates"


async def test_a_callback_for_a_run_may_be_given_to_the_workflow_itself() -> None:
    flow = Jokes()
    wc = WorkflowCheckpointer(workflow=flow)
    await flow.run(topic="Pirates", run_id="mine", checkpoint_callback=wc.new_checkpoint_callback_for_run())
    assert [c.last_completed_step for c in wc.filter_checkpoints(run_id="mine")] == ["generate", "critique"]


def test_no_filter_is_a_value_error_and_an_unknown_step_has_its_own() -> None:
    wc = WorkflowCheckpointer(workflow=Jokes())
    with pytest.raises(ValueError):  # noqa: PT011 - the texts are ours
        wc.filter_checkpoints()
    with pytest.raises(WorkflowStepDoesNotExistError):
        wc.enable_checkpoint("_done")


# stepwise


async def test_a_run_is_stepped_through_and_saved_between_two_steps() -> None:
    flow = Jokes()
    handler = flow.run(stepwise=True, topic="Pirates")
    produced = await handler.run_step()
    assert [type(event) for event in produced or []] == [Joke]
    saved = json.loads(json.dumps(handler.ctx.to_dict()))
    await handler.cancel_run()
    handler.exception()
    again = flow.run(ctx=Context.from_dict(flow, saved), stepwise=True)
    while events := await again.run_step():
        for event in events:
            again.ctx.send_event(event)
    assert await again == "about Pirates, Pirates"


# 9.1: what is recommended in their place, and 4.6


async def test_a_run_saved_at_an_event_of_its_stream_goes_on() -> None:
    class Gated(Jokes):
        gate = asyncio.Event()

        @step
        async def critique(self, ctx: Context, ev: Joke) -> StopEvent:
            await self.gate.wait()
            return StopEvent(result=f"{ev.joke}, {await ctx.store.get('topic')}")

    flow = Gated()
    handler = flow.run(topic="Pirates")
    assert isinstance(await anext(handler.stream_events()), Told)
    saved = handler.ctx.to_dict(serializer=JsonSerializer())
    flow.gate.set()
    assert await handler == "about Pirates, Pirates"
    context: Context[Any] = Context.from_dict(flow, saved, serializer=JsonSerializer())
    assert context.is_running
    assert await flow.run(ctx=context, run_id="again") == "about Pirates, Pirates"


async def test_a_context_is_used_by_runs_one_after_the_other() -> None:
    flow = Jokes()
    ctx = Context(flow)
    await flow.run(ctx=ctx, topic="Pirates")
    saved = ctx.to_dict()
    restored: Context[Any] = Context.from_dict(flow, saved)
    assert not restored.is_running
    assert await restored.store.get("topic") == "Pirates"
    assert await asyncio.wait_for(flow.run(ctx=restored, topic="Ships"), 5) == "about Ships, Ships"


def test_data_that_is_no_context_is_refused() -> None:
    with pytest.raises(ContextSerdeError):
        Context.from_dict(Jokes(), {"version": 10**6, "state": None, "run": None})
