"""Section 3.8: `WorkflowTestRunner`, and where it is imported from."""

from __future__ import annotations

import importlib
import inspect

import pytest

from tracedflow import Context, Event, StartEvent, StopEvent, Workflow, step
from tracedflow.errors import WorkflowRuntimeError
from tracedflow.events import InternalDispatchEvent, UnhandledEvent
from tracedflow.testing import WorkflowTestResult, WorkflowTestRunner


class Progress(Event):
    n: int


class FineProgress(Progress):
    pass


class Work(Event):
    pass


class Begin(StartEvent):
    count: int


class Flow(Workflow):
    @step
    async def first(self, ctx: Context, ev: StartEvent) -> Work:
        await ctx.store.set("runs", await ctx.store.get("runs", 0) + 1)
        for n in range(3):
            ctx.write_event_to_stream(Progress(n=n))
        ctx.write_event_to_stream(FineProgress(n=3))
        ctx.write_event_to_stream(UnhandledEvent(event_type="Other", qualified_name="there.Other", idle=False))
        return Work()

    @step
    async def second(self, ev: Work) -> StopEvent:
        return StopEvent(result="done")


class Counts(Workflow):
    @step
    async def only(self, ev: Begin) -> StopEvent:
        return StopEvent(result=ev.count)


class Fails(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        raise ValueError("no")


def test_the_names_resolve_where_programs_import_them_from() -> None:
    for name in ("tracedflow.testing", "tracedflow.testing.runner"):
        module = importlib.import_module(name)
        assert module.WorkflowTestRunner is WorkflowTestRunner
        assert module.WorkflowTestResult is WorkflowTestResult


def test_the_arguments_have_the_names_the_order_and_the_defaults_of_the_signature_sheet() -> None:
    parameters = inspect.signature(WorkflowTestRunner.run).parameters
    assert list(parameters) == ["self", "start_event", "ctx", "expose_internal", "exclude_events"]
    assert [each.default for each in parameters.values()][1:] == [None, None, True, None]
    assert list(inspect.signature(WorkflowTestRunner).parameters) == ["workflow"]


async def test_a_result_has_the_stream_the_counts_the_result_and_the_context() -> None:
    found = await WorkflowTestRunner(Flow()).run()
    assert found.result == "done"
    assert [event.n for event in found.collected if isinstance(event, Progress)] == [0, 1, 2, 3]
    assert (found.event_types[Progress], found.event_types[FineProgress], found.event_types[StopEvent]) == (3, 1, 1)
    assert sum(found.event_types.values()) == len(found.collected)
    assert isinstance(found.collected[-1], StopEvent)
    assert await found.ctx.store.get("runs") == 1


async def test_internal_events_are_collected_unless_they_are_not_wanted() -> None:
    everything = await WorkflowTestRunner(Flow()).run()
    assert everything.event_types[UnhandledEvent] == 1
    public = await WorkflowTestRunner(Flow()).run(expose_internal=False)
    assert not [event for event in public.collected if isinstance(event, InternalDispatchEvent)]
    assert public.event_types == {Progress: 3, FineProgress: 1, StopEvent: 1}


async def test_excluded_classes_are_neither_collected_nor_counted() -> None:
    found = await WorkflowTestRunner(Flow()).run(expose_internal=False, exclude_events=[Progress])
    assert found.event_types == {FineProgress: 1, StopEvent: 1}
    assert [type(event) for event in found.collected] == [FineProgress, StopEvent]


async def test_a_start_event_is_given_to_the_run() -> None:
    found = await WorkflowTestRunner(Counts()).run(Begin(count=7))
    assert found.result == 7


async def test_without_a_start_event_the_workflows_own_is_made_and_lacking_fields_are_an_error() -> None:
    with pytest.raises(WorkflowRuntimeError, match="Begin"):
        await WorkflowTestRunner(Counts()).run()


async def test_a_context_goes_on() -> None:
    runner = WorkflowTestRunner(Flow())
    first = await runner.run()
    second = await runner.run(ctx=first.ctx)
    assert await second.ctx.store.get("runs") == 2


async def test_it_raises_what_the_run_raises() -> None:
    with pytest.raises(ValueError, match="no"):
        await WorkflowTestRunner(Fails()).run()
